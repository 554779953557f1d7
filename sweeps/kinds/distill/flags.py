"""The flags of the distillation sweep: text in, checked options or every fault at once out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from typing_extensions import Doc

from sdd_core import recipes
from sdd_core.curve import default_tolerance
from sdd_core.data import splits
from sdd_core.fields import Flag, NotNegative
from sdd_core.flags import Parser, Teacher, add_spec, read_teacher
from sdd_core.spec import TeacherRef, TrialSpec
from sweeps.flags import Common, Seeds, add_common_flags, read_common, read_seeds, trial_faults
from sweeps.kinds.distill.plan import DistillSettings

DESCRIPTION = """\
Distil a student from dense and pruned teachers, and compare it with the vanilla student (Eq. 1).

Runs the student's whole trajectory under every α, every τ and every level of the teacher, beside the
vanilla student (α = 0), with Ray Tune. The teacher is trained first, once, and only as far as somebody
learns from it. Every finished level goes into the store at once: run the same command again to resume,
and nothing finished is trained twice.
"""
EXAMPLES = """\
examples:
  python sweeps/distill.py                                  the embedded default, some minutes on 2 cores
  python sweeps/distill.py --teacher dense --alpha 0.5 0.8 --temperature 4 10 --seeds 1
  python sweeps/distill.py --teacher-model-options hidden1=1000 hidden2=300 --teacher-with weight_decay=0.0178
  python sweeps/distill.py --json answer.json               the answer for machines
  python sweeps/distill.py --cluster cluster/gpu.yaml       the same on a Ray cluster

exit status: 0 an answer, 1 trials failed, 2 bad input, 130 interrupted
"""


SWEPT: Final[dict[str, Any]] = {
    "alpha": (0.8, 0.95),
    "temperature": (10.0,),
    "teacher": ("dense", "pruned"),
}
"""What the sweep is over, with the values by default."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How often each student runs, and how its dips are read."""

    seeds: Annotated[Seeds, Doc("the students': how many, or two and more by number")] = None
    tolerance: Annotated[
        NotNegative | None, Flag(default="max(0.02, 0.6/√n)"), Doc("largest dip that counts as none, a fraction")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's checked input."""

    common: Common
    settings: DistillSettings
    tolerance: float
    """The largest dip that counts as none; it changes what is said, not what is trained."""


def make_parser() -> Parser:
    """The command's flags and help."""
    parser = Parser(prog="distill.py", description=DESCRIPTION, epilog=EXAMPLES)
    about = "The sweep is over every α with every τ and level; α 0 is the vanilla student, which is always run."
    parser.add(TrialSpec, "approach", about, only=("alpha", "temperature"), several=SWEPT, defaults=SWEPT)
    parser.add(Teacher, "approach", several=SWEPT, defaults=SWEPT)
    add_spec(parser, leave_out=("seed", "alpha", "temperature", "teacher"))
    parser.add(Sweep, "seeds and dips")
    add_common_flags(parser)
    return parser


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags; refuses bad input with every fault in one message and exit status 2."""
    reader = make_parser().read(arguments)
    fields, sweep = reader.given(TrialSpec), reader.read(Sweep)
    swept = {name: fields.pop(name, SWEPT[name]) for name in ("alpha", "temperature")}
    levels = reader.text("teacher") or SWEPT["teacher"]
    teacher_fields = read_teacher(reader, levels)
    student: TrialSpec | None = reader.collect(recipes.make, fields)
    made = [reader.collect(recipes.make, fields, level, teacher_fields) for level in levels if student]
    references: list[TeacherRef] = [trial.teacher for trial in made if trial is not None]
    for name, values in swept.items():
        reader.refuse_repeated(name, values, "values")
    reader.refuse_repeated("teacher", [0 if r.level == "dense" else r.level for r in references], "levels")
    known = student or TrialSpec()
    settings = DistillSettings(
        student=known,
        teacher=references[0].trial if references else known,
        levels=tuple(reference.level for reference in references),
        alphas=swept["alpha"],
        temperatures=swept["temperature"],
        seeds=read_seeds(reader, sweep.seeds),
    )
    common = read_common(reader, f"distill-{_same_sweep(settings.student, settings.teacher)}")
    if student is not None:
        trials = [settings.trials(approach)[0] for approach in settings.approaches]
        reader.faults += [fault for trial in trials for fault in trial_faults(trial, common)]
    reader.refuse()
    tolerance = sweep.tolerance
    if tolerance is None:
        tolerance = default_tolerance(splits.deciding_size(known))
    return Options(common=common, settings=settings, tolerance=tolerance)


def _same_sweep(student: TrialSpec, teacher: TrialSpec) -> str:
    """What two sweeps of one default name share: student and teacher, whatever the seeds and the approaches."""
    reference = TeacherRef(trial=teacher.replace(data_seed=0), level="pruned")
    return student.replace(seed=0, data_seed=0, alpha=1.0, temperature=1.0, teacher=reference).trial_id
