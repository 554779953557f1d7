"""One whole trajectory in this process, without Ray, Optuna or MLflow: `python -m sdd_core`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from sdd_core import energy
from sdd_core.data.sources import set_data_dir
from sdd_core.fields import Flag, SpecError
from sdd_core.flags import Here, Parser, add_spec, open_store, read_spec
from sdd_core.reading import Reading
from sdd_core.record import LevelRecord, environments
from sdd_core.spec import TrialSpec
from sdd_core.words import environments_text, origin_lines

DESCRIPTION = """\
Run one pruning trajectory (Algorithm 1) in this process and print a line a level.

Levels go into the store, where a sweep over the same setting finds them; levels that are there
already are read, not trained, so the same command goes on where it was interrupted.
"""
EXAMPLES = """\
examples:
  python -m sdd_core                                the embedded default: digits, half the labels noisy
  python -m sdd_core --weight-decay 0.0178          the same with a stronger L2 penalty
  python -m sdd_core --epochs 5 --target-sparsity 0.9 --store /tmp/try
  python -m sdd_core --teacher pruned --teacher-with weight_decay=0.0178    distilled from the best level of another
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where and how the trajectory runs."""

    device: Annotated[str | None, Flag(default="a GPU where there is one"), Doc("cpu, cuda, cuda:1 and so on")] = None
    no_energy: Annotated[bool, Doc("do not measure energy")] = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="python -m sdd_core", description=DESCRIPTION, epilog=EXAMPLES)
    add_spec(parser)
    parser.add(Here, "run")
    parser.add(Run, "run")
    parser.add(Reading, "run", only=("intensity",))
    reader = parser.read(arguments)
    here, options, reading = reader.read(Here), reader.read(Run), reader.read(Reading)
    set_data_dir(here.data_dir)
    spec = read_spec(reader)

    import torch  # after the flags are read: it takes seconds, and --help does not need it

    from sdd_core import machine, trajectory
    from sdd_core.training.memory import OutOfMemory

    reader.faults += machine.device_faults(options.device)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if spec is not None:
        reader.faults += trajectory.faults(spec, device.split(":")[0])
    environment = machine.environment(device.split(":")[0], here.threads) if here.environment == "same" else None
    store = reader.collect(open_store, here.store or "./store", here.also_read, environment=environment)
    reader.refuse()
    assert spec is not None

    def run(trial: TrialSpec, last_level: int | None, title: str) -> list[LevelRecord]:
        store.add_trial(trial)
        what = f"λ={trial.weight_decay:g}  ε={trial.label_noise:g}  seed={trial.seed}"
        print(f"{title} {trial.trial_id}  {trial.model}  {what}  {store.url}")
        print("level  sparsity  train  val    test   loss    seconds")
        return trajectory.run(
            trial,
            store,
            last_level=last_level,
            keep=here.keep,
            device=options.device,
            threads=here.threads,
            on_level=_print_level,
            energy=not options.no_energy,
        )

    try:
        teacher = store.teacher_needed(spec)
        if teacher is not None and store.diverged_teacher(spec) is None:
            run(teacher.trial, teacher.last_level, "teacher")
        records = run(spec, None, "trial")
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; every finished level is kept, the same command goes on from there")
        return 130
    except OutOfMemory as error:
        print(f"python -m sdd_core: {error}\nevery finished level is kept", file=sys.stderr)
        return 1
    if records[-1].warning is not None:
        print(records[-1].warning)
    made_in = environments([records])
    if len(made_in) > 1:
        print(f"this curve mixes {environments_text(made_in)}")
    for line in origin_lines(store.origins(record.key for record in records), len(records)):
        print(line)
    figures = Reading().summary(records)
    print(
        f"{figures.levels} levels, dip {100 * figures.dip:.1f} points, best {spec.decided_on} accuracy "
        f"{100 * figures.best.accuracy:.1f} % at sparsity {100 * figures.best.sparsity:.2f} % "
        f"(test {100 * figures.best.test_accuracy:.1f} %)"
    )
    used = energy.describe(figures.energy_kwh, figures.energy_source, figures.energy_note, reading.intensity)
    print(f"{figures.pflop:.3g} PFLOP by the paper's convention, {figures.pflop_real:.3g} in real operations; {used}")
    return 0


def _print_level(record: LevelRecord, trained: bool) -> None:
    val = "-" if record.val_accuracy is None else f"{record.val_accuracy:.3f}"
    seconds = f"{record.measured['seconds']:7.2f}" if trained else "from store"
    print(
        f"{record.level:5d}  {record.sparsity:8.4f}  {record.train_accuracy:.3f}  {val:5s}  "
        f"{record.test_accuracy:.3f}  {record.train_loss:6.3f}  {seconds}",
        flush=True,
    )
