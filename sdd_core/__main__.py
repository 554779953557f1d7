"""One whole trajectory in this process, without Ray, Optuna or MLflow: `python -m sdd_core`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from sdd_core import energy
from sdd_core.flags import Parser, add_data_dir_flag, add_spec_flags, parse_value, read_spec, set_data_dir
from sdd_core.reading import Reading
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec
from sdd_core.store import Store

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="python -m sdd_core", description=DESCRIPTION, epilog=EXAMPLES)
    add_spec_flags(parser)
    group = parser.add_argument_group("run")
    group.add_argument("--store", metavar="PLACE", default="./store", help="folder or URL of the store [./store]")
    add_data_dir_flag(group)
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 ... [a GPU where there is one]")
    group.add_argument("--threads", metavar="N", default="1", help="CPU threads [1]")
    group.add_argument("--keep-weights", metavar="WHICH", default="dense_best_last", help="dense_best_last or all")
    group.add_argument("--no-energy", action="store_true", help="do not measure energy")
    group.add_argument(
        "--carbon-intensity",
        metavar="G",
        default=f"{energy.WORLD_INTENSITY:g}",
        help=f"gCO2e of a kWh [{energy.WORLD_INTENSITY:g}, the world's electricity in 2024 by the IEA]",
    )
    options, faults = parser.parse_collecting(arguments)
    set_data_dir(options)
    spec, spec_faults = read_spec(options)
    threads, fault = parse_value("threads", options.threads, "int")
    faults += spec_faults + [f for f in [fault] if f]
    if threads is not None and threads < 1:
        faults.append(f"threads {threads}: must be a whole number from 1")
    intensity, fault = parse_value("carbon_intensity", options.carbon_intensity, "float")
    if fault or not 0 <= intensity < math.inf:
        faults.append(f"carbon_intensity {options.carbon_intensity!r}: must be gCO2e per kWh, a number from 0")

    import torch  # after the flags are read: it takes seconds, and --help does not need it

    from sdd_core import trajectory

    if options.keep_weights not in trajectory.KEEP:
        faults.append(f"keep_weights {options.keep_weights!r}: allowed are {', '.join(trajectory.KEEP)}")
    faults += _device_faults(options.device)
    if not spec_faults:
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        faults += trajectory.faults(spec, device.split(":")[0])
    try:
        store = Store(options.store)
        fault = store.fault()
    except ValueError as error:
        store, fault = None, str(error)
    if faults or fault or store is None:
        parser.refuse([*faults, *([fault] if fault else [])])

    def run(trial: TrialSpec, last_level: int | None, title: str) -> list[LevelRecord]:
        store.add_trial(trial)
        what = f"λ={trial.weight_decay:g}  ε={trial.label_noise:g}  seed={trial.seed}"
        print(f"{title} {trial.trial_id}  {trial.model}  {what}  {store.url}")
        print("level  sparsity  train  val    test   loss    seconds")
        return trajectory.run(
            trial,
            store,
            last_level=last_level,
            keep=options.keep_weights,
            device=options.device,
            threads=threads,
            on_level=_print_level,
            energy=not options.no_energy,
        )

    try:
        teacher = store.teacher_needed(spec)
        if teacher is not None:
            run(teacher.trial, teacher.last_level, "teacher")
        records = run(spec, None, "trial")
    except KeyboardInterrupt:
        print("\ninterrupted; every finished level is kept, the same command goes on from there")
        return 130
    figures = Reading().summary(records)
    print(
        f"{figures.levels} levels, dip {100 * figures.dip:.1f} points, best {spec.decided_on} accuracy "
        f"{100 * figures.best.accuracy:.1f} % at sparsity {100 * figures.best.sparsity:.2f} % "
        f"(test {100 * figures.best.test_accuracy:.1f} %)"
    )
    used = energy.describe(figures.energy_kwh, figures.energy_source, figures.energy_note, intensity)
    print(f"{figures.pflop:.3g} PFLOP by the paper's convention, {figures.pflop_real:.3g} in real operations; {used}")
    return 0


def _device_faults(device: str | None) -> list[str]:
    if device is None:
        return []
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return [f"device {device!r}: {str(error).splitlines()[0]}"]
    return []


def _print_level(record: LevelRecord, trained: bool) -> None:
    val = "-" if record.val_accuracy is None else f"{record.val_accuracy:.3f}"
    seconds = f"{record.measured['seconds']:7.2f}" if trained else "from store"
    print(
        f"{record.level:5d}  {record.sparsity:8.4f}  {record.train_accuracy:.3f}  {val:5s}  "
        f"{record.test_accuracy:.3f}  {record.train_loss:6.3f}  {seconds}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
