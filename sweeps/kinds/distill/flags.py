"""The flags of the distillation sweep: text in, checked options or every fault at once out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sdd_core.curve import default_tolerance
from sdd_core.data import splits
from sdd_core.flags import (
    Parser,
    add_spec_flags,
    add_teacher_flags,
    describe_range,
    parse_value,
    read_spec,
    read_teacher,
    value_fault,
)
from sdd_core.spec import TeacherRef, TrialSpec
from sweeps.flags import Common, Reader, add_common_flags, read_common, trial_faults
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
    group = parser.add_argument_group("approach", "The sweep is over every α with every τ and level.")
    group.add_argument(
        "--alpha",
        dest="alphas",
        metavar="X",
        nargs="+",
        default=["0.8", "0.95"],
        help=f"weights of the distillation term, {describe_range('alpha')}; 0 is the vanilla student, which is always"
        " run [0.8 0.95]",
    )
    group.add_argument(
        "--temperature",
        dest="temperatures",
        metavar="X",
        nargs="+",
        default=["10"],
        help=f"temperatures τ, {describe_range('temperature')} [10]",
    )
    group.add_argument(
        "--teacher",
        dest="levels",
        metavar="LEVEL",
        nargs="+",
        default=["dense", "pruned"],
        help="whom to distil from: dense, pruned (its best level), numbers of levels [dense pruned]",
    )
    add_teacher_flags(group)
    add_spec_flags(parser, leave_out=("seed", "data_seed", "alpha", "temperature", "teacher"))
    add = parser.add_argument_group("seeds").add_argument
    add("--seeds", metavar="N", nargs="+", default=["3"], help="the students': how many, or two and more by number [3]")
    add(
        "--data-seed",
        metavar="N",
        help="draws validation split and label noise of all students and their teacher, which therefore share it [0]",
    )
    add_common_flags(parser, "distill- and a hash of student and teacher")
    reading = parser.add_argument_group("dips").add_argument
    reading("--tolerance", metavar="X", help="largest dip that counts as none, a fraction [max(0.02, 0.6/√n)]")
    return parser


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags; refuses bad input with every fault in one message and exit status 2."""
    parser = make_parser()
    namespace, faults = parser.parse_collecting(arguments)
    reader = Reader(namespace)
    student, student_faults = read_spec(namespace)
    references = _teachers(reader, student)
    teacher = references[0].trial if references else student
    settings = DistillSettings(
        student=student,
        teacher=teacher,
        levels=tuple(reference.level for reference in references),
        alphas=_numbers(reader, "alphas", "alpha"),
        temperatures=_numbers(reader, "temperatures", "temperature"),
        seeds=_seeds(reader),
    )
    common = read_common(reader, f"distill-{_same_sweep(student, teacher)}")
    tolerance = reader.number("tolerance", "float", 0, "a number from 0")
    faults += student_faults + reader.faults
    if not student_faults:
        trials = [settings.trials(approach)[0] for approach in settings.approaches]
        faults += dict.fromkeys(fault for trial in trials for fault in trial_faults(trial, common))
    if faults:
        parser.refuse(faults)
    if tolerance is None:
        tolerance = default_tolerance(splits.deciding_size(student))
    return Options(common=common, settings=settings, tolerance=tolerance)


def _same_sweep(student: TrialSpec, teacher: TrialSpec) -> str:
    """What two sweeps of one default name share: student and teacher, whatever the seeds and the approaches."""
    reference = TeacherRef(trial=teacher.replace(data_seed=0), level="pruned")
    return student.replace(seed=0, data_seed=0, alpha=1.0, temperature=1.0, teacher=reference).trial_id


def _teachers(reader: Reader, student: TrialSpec) -> list[TeacherRef]:
    """A reference for each level asked for, all of one trial."""
    faults: list[str] = []
    references = []
    for text in reader.namespace.levels:
        reference, bad = read_teacher(reader.namespace, student, text)
        faults += bad
        if reference is not None:
            references.append(reference)
    reader.faults += dict.fromkeys(faults)  # the trial's own faults come back with each level
    _refuse_repeated(reader, "teacher", [0 if r.level == "dense" else r.level for r in references], "levels")
    return references


def _numbers(reader: Reader, flag: str, field: str) -> tuple[float, ...]:
    """The values of a flag that takes several numbers of one field; those with a fault are left out."""
    values = []
    for text in getattr(reader.namespace, flag):
        value, fault = parse_value(field, text, "float")
        fault = fault or value_fault(field, value)
        if fault:
            reader.faults.append(fault)
        else:
            values.append(value)
    _refuse_repeated(reader, field, values, "values")
    return tuple(values)


def _seeds(reader: Reader) -> tuple[int, ...]:
    values, given = reader.numbers("seeds", "int", 0, "a whole number from 0"), reader.namespace.seeds
    if len(given) > 1:
        _refuse_repeated(reader, "seeds", values, "seeds")
        return tuple(values) or (0,)
    if values == [0]:
        reader.faults.append("seeds 0: must be at least 1, or two and more seeds by number")
    return tuple(range(values[0])) if values and values[0] > 0 else (0,)


def _refuse_repeated(reader: Reader, name: str, values: Sequence[Any], what: str) -> None:
    if len(set(values)) < len(values):
        reader.faults.append(f"{name} {' '.join(map(str, values))}: must be different {what}")
