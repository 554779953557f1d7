"""The best performance-sparsity trade-off of each setting, run to the end and with early stopping.

    python analysis/tradeoff.py --store ./store --format table

Reads finished levels from the store and trains nothing: about a second. For each setting and
approach it answers which lambda to take, the sparsity and accuracy found, and what that costs:

* run to the end: every level of the curve is paid for, and its best one is taken. Only a lambda
  whose curves are all complete counts;
* with early stopping: the practitioner's rule is applied to each seed's curve; the levels up to
  where it ended are paid for. Only a lambda counts on all of whose curves the rule fired, or which
  are complete.

The lambda is chosen by its mean over seeds of the validation accuracy found (ties: the sparser)
and reported on test. Under the paper's protocol test decides, and every output says so.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

if not __package__:  # run as a script: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from analysis.runs import Trial, distinct_costs, read_trials, setting_labels
from sdd_core.curve import PFLOPS, Costs, Point, Summary, summarise, total_costs
from sdd_core.energy import WORLD_INTENSITY, describe, grams
from sdd_core.spec import TrialSpec, setting, setting_id
from sdd_core.store import Store, is_complete

SCHEMA: Final = 1
FORMATS: Final = ("table", "json", "csv")
LABELS: Final = ("clean", "noisy")
MODES: Final = {"run_to_end": "run to the end", "early_stopping": "early stopping"}
WIDTH: Final = 100


# --- the choice -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The lambda chosen in one mode: means over its seeds; a deviation is None for one seed."""

    weight_decay: float
    seeds: int
    """Trials that the means are over."""
    deciding_accuracy: float
    """Mean of the accuracies found, on the split and labels that decide."""
    deciding_accuracy_std: float | None
    """Sample standard deviation over the seeds."""
    test_accuracy: float
    test_accuracy_std: float | None
    sparsity: float
    sparsity_std: float | None
    levels: float
    """Trainings paid for by one seed, mean."""
    levels_total: int
    """Trainings paid for by all seeds."""
    pflop: float
    """Their cost by the paper's convention for one seed, mean; a teacher's cost is not in it."""
    pflop_total: float
    pflop_teacher: float
    """The teacher's forward passes by the paper's convention; from here on for one seed, mean."""
    pflop_real: float
    """The trainings in real operations: 2 a multiply-add, forward and backward as they are."""
    pflop_real_teacher: float
    pflop_real_evaluation: float
    seconds: float | None
    """For which the trainings held their device."""
    energy_kwh: float | None
    """None when a level has no figure."""
    energy_source: str
    energy_reason: str | None
    co2_g: float | None
    carbon_intensity: float
    """gCO2e/kWh that the CO2 is computed with."""
    stopped: int
    """Seeds whose curve ended by the rule; the others ran to their end."""
    target_sparsity: float
    """The lowest target of the trials."""
    lambdas: int
    """How many lambdas it was chosen from."""
    trial_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SettingTradeoff:
    """The answer for one setting and approach."""

    setting_id: str
    setting: dict[str, Any]
    label: str
    decided_on: str
    """`validation`, or `test` under the paper's protocol."""
    deciding_labels: str | None
    """`clean` or `noisy` validation labels; None where test decides."""
    run_to_end: Choice | None
    early_stopping: Choice | None
    reason: str | None
    """Why an answer is missing."""
    trials: int
    lambdas: int


CHOICE_COLUMNS: Final = tuple(field.name for field in dataclasses.fields(Choice))
CSV_COLUMNS: Final = ("setting_id", "label", "decided_on", "deciding_labels", "mode", *CHOICE_COLUMNS, "reason")


@dataclass(frozen=True)
class _Run:
    """One trial, read: whether its curve has run to its end, and its figures if it has a level."""

    spec: TrialSpec
    complete: bool
    summary: Summary | None
    only_teaches: bool
    """Whether it was run as far as its students need it and no further: nobody waits for its other levels."""

    def point(self, mode: str) -> Point | None:
        """What this trial gives in a mode, or None when its curve does not say yet."""
        if self.summary is None:
            return None
        if mode == "run_to_end":
            return self.summary.best if self.complete else None
        ended = self.complete or self.summary.early_stop_triggered
        return self.summary.early_stop if ended else None


def tradeoffs(
    trials: Sequence[Trial],
    *,
    labels: str = "clean",
    patience: int = 3,
    min_drop: float = 0.02,
    intensity: float = WORLD_INTENSITY,
) -> list[SettingTradeoff]:
    """The trade-off of each setting among `trials`, in the order of their labels.

    `labels` names the validation labels that decide, `patience` (levels) and `min_drop` (a fraction)
    the early-stopping rule, `intensity` the gCO2e of a kWh. Pure.
    """
    runs: dict[str, list[_Run]] = {}
    needed = _levels_needed([spec for spec, _ in trials])
    for spec, curve in trials:
        summary = summarise(curve, labels=labels, patience=patience, min_drop=min_drop) if curve else None
        complete = is_complete(list(curve), spec)
        only_teaches = not complete and len(curve) <= needed.get(spec.trial_id, -1)
        runs.setdefault(setting_id(spec), []).append(_Run(spec, complete, summary, only_teaches))
    names = setting_labels([spec for spec, _ in trials])
    answers = [_setting_tradeoff(key, names[key], group, labels, intensity) for key, group in runs.items()]
    return sorted(answers, key=lambda answer: (answer.label, answer.setting_id))


def _levels_needed(specs: Sequence[TrialSpec]) -> dict[str, int]:
    """How many levels of a teacher's trial (by trial_id) are needed; none of a pruned one, which needs all."""
    needed: dict[str, int] = {}
    for spec in specs:
        if spec.distilled and spec.teacher is not None and spec.teacher.level != "pruned":
            levels = 1 if spec.teacher.level == "dense" else int(spec.teacher.level) + 1
            teacher = spec.teacher.trial.trial_id
            needed[teacher] = max(levels, needed.get(teacher, 0))
    return needed


def _setting_tradeoff(key: str, label: str, runs: Sequence[_Run], labels: str, intensity: float) -> SettingTradeoff:
    by_lambda: dict[float, list[_Run]] = {}
    for run in runs:
        by_lambda.setdefault(float(run.spec.weight_decay), []).append(run)
    choices = {mode: _choose(by_lambda, mode, intensity) for mode in MODES}
    spec = runs[0].spec
    return SettingTradeoff(
        setting_id=key,
        setting=setting(spec),
        label=label,
        decided_on=spec.decided_on,
        deciding_labels=labels if spec.decided_on == "validation" else None,
        run_to_end=choices["run_to_end"],
        early_stopping=choices["early_stopping"],
        reason=_reason(choices, runs, len(by_lambda)),
        trials=len(runs),
        lambdas=len(by_lambda),
    )


def _choose(by_lambda: dict[float, list[_Run]], mode: str, intensity: float) -> Choice | None:
    """The best lambda of those of which every known seed has an answer; a lucky seed alone does not count.

    A trial that was only run as a teacher is no seed that an answer waits for.
    """
    candidates: list[Choice] = []
    for weight_decay, known in by_lambda.items():
        runs = [run for run in known if not run.only_teaches]
        points = [point for run in runs if (point := run.point(mode)) is not None]
        if points and len(points) == len(runs):
            candidates.append(_over_seeds(weight_decay, runs, points, mode, intensity))
    if not candidates:
        return None
    # Rounded, so that means of one value do not differ in their last bit.
    best = max(candidates, key=lambda c: (round(c.deciding_accuracy, 12), round(c.sparsity, 12), -c.weight_decay))
    return dataclasses.replace(best, lambdas=len(candidates))


def _over_seeds(
    weight_decay: float, runs: Sequence[_Run], points: Sequence[Point], mode: str, intensity: float
) -> Choice:
    seeds, spent = len(points), total_costs(points)
    energy = None if spent.energy_kwh is None else spent.energy_kwh / seeds
    stops = [run.summary is not None and run.summary.early_stop_triggered for run in runs]
    return Choice(
        weight_decay=weight_decay,
        seeds=len(runs),
        deciding_accuracy=statistics.fmean(point.accuracy for point in points),
        deciding_accuracy_std=_deviation([point.accuracy for point in points]),
        test_accuracy=statistics.fmean(point.test_accuracy for point in points),
        test_accuracy_std=_deviation([point.test_accuracy for point in points]),
        sparsity=statistics.fmean(point.sparsity for point in points),
        sparsity_std=_deviation([point.sparsity for point in points]),
        levels=spent.levels / seeds,
        levels_total=spent.levels,
        **{name: getattr(spent, name) / seeds for name in PFLOPS},
        pflop_total=spent.pflop,
        seconds=None if spent.seconds is None else spent.seconds / seeds,
        energy_kwh=energy,
        energy_source=spent.energy_source,
        energy_reason=spent.energy_note,
        co2_g=grams(energy, intensity),
        carbon_intensity=intensity,
        stopped=sum(stops) if mode == "early_stopping" else 0,
        target_sparsity=min(run.spec.target_sparsity for run in runs),
        lambdas=1,
        trial_ids=tuple(sorted(run.spec.trial_id for run in runs)),
    )


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _reason(choices: dict[str, Choice | None], runs: Sequence[_Run], lambdas: int) -> str | None:
    """Why an answer is missing, as one sentence, or None."""
    complete = sum(run.complete for run in runs)
    needs = {
        "run_to_end": "the curves of all its seeds complete",
        "early_stopping": "the rule fired, or the curve complete, on all its seeds",
    }
    missing = [
        f"{MODES[mode]}: none of {lambdas} λ has {needs[mode]}" for mode, choice in choices.items() if choice is None
    ]
    if not missing:
        return None
    teachers = sum(run.only_teaches for run in runs)
    taught = f", {teachers} only as long as a teacher's has to be" if teachers else ""
    return "; ".join(missing) + f" ({complete} of {len(runs)} curves are complete{taught})."


# --- output ---------------------------------------------------------------------------------


def write_json(answers: Sequence[SettingTradeoff], out: TextIO, *, spent: Costs, intensity: float) -> None:
    """`{"schema": 1, "settings": [...], "costs": {...}}`; accuracies and sparsities are fractions.

    `spent` is what all levels read cost, each once.
    """
    settings = [dataclasses.asdict(answer) | {"paper_protocol": answer.decided_on == "test"} for answer in answers]
    whole = vars(spent) | {"co2_g": grams(spent.energy_kwh, intensity), "carbon_intensity": intensity}
    form = {"schema": SCHEMA, "settings": settings, "costs": whole}
    json.dump(form, out, indent=1, ensure_ascii=False, allow_nan=False)
    out.write("\n")


def write_csv(answers: Sequence[SettingTradeoff], out: TextIO) -> None:
    """One row per setting and mode with `CSV_COLUMNS`; accuracies and sparsities are fractions."""
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for answer in answers:
        for mode in MODES:
            choice: Choice | None = getattr(answer, mode)
            row = {name: getattr(answer, name) for name in ("setting_id", "label", "decided_on", "deciding_labels")}
            row["mode"] = mode
            if choice is None:
                row["reason"] = answer.reason
            else:
                row |= {name: getattr(choice, name) for name in CHOICE_COLUMNS}
                row["trial_ids"] = " ".join(choice.trial_ids)
            writer.writerow(row)


def write_table(answers: Sequence[SettingTradeoff], out: TextIO, *, rule: str, spent: Costs, intensity: float) -> None:
    """A table per setting, in percent, within 100 columns.

    `rule` describes the early-stopping rule, `spent` is what all levels read cost, each once.
    """
    console = Console(file=out, width=WIDTH, highlight=False, markup=False, emoji=False)
    for answer in answers:
        by_test = answer.decided_on == "test"
        decided = "test" if by_test else f"val. ({answer.deciding_labels})"
        table = Table("", "λ", f"decided on {decided} %", "test %", "sparsity %", "levels", "PFLOPs", "seeds")
        table.columns[0].no_wrap = True
        for column in table.columns[1:]:
            column.justify = "right"
        for mode, name in MODES.items():
            table.add_row(name, *_cells(getattr(answer, mode)))
        console.print(f"{answer.label}  (setting {answer.setting_id})", style="bold", soft_wrap=True)
        console.print(table)
        if by_test:
            console.print("Paper's protocol: test data decided λ and level, so its accuracy here is optimistic.")
        if answer.reason is not None:
            console.print(f"Missing: {answer.reason}")
        for mode, name in MODES.items():
            choice: Choice | None = getattr(answer, mode)
            if choice is not None:
                console.print(f"One seed {name}: {_costs(choice, intensity, None)}.")  # the last lines say why
        console.print(_basis(answer) + "\n")
    console.print(f"All {spent.levels} levels read, each once: {_costs(spent, intensity, spent.energy_note)}.")
    console.print("Means over seeds ± sample standard deviation; levels and PFLOPs of one seed, without a teacher's.")
    console.print(f"Early stopping {rule}.")


def _costs(spent: Choice | Costs, intensity: float, reason: str | None) -> str:
    """Costs in one sentence, without its full stop."""
    passes = [(spent.pflop_real_teacher, "a teacher's passes"), (spent.pflop_real_evaluation, "evaluation")]
    beside = ", ".join(f"{pflop:.3g} for {what}" for pflop, what in passes if pflop > 0)
    held = "device time unknown" if spent.seconds is None else f"{spent.seconds:.3g} device-seconds"
    energy = describe(spent.energy_kwh, spent.energy_source, reason, intensity)
    return (
        f"{spent.pflop:.3g} PFLOP by the paper's convention, {spent.pflop_real:.3g} in real operations"
        f"{f' ({beside})' if beside else ''}, {held}, {energy}"
    )


def _basis(answer: SettingTradeoff) -> str:
    """What the choice was made from, and how many λ could not take part yet."""
    short = [
        f"{MODES[mode]} from {choice.lambdas}"
        for mode in MODES
        if (choice := getattr(answer, mode)) is not None and choice.lambdas < answer.lambdas
    ]
    waiting = f"; chosen {', '.join(short)} of them, the others lack levels" if short else ""
    return f"{answer.trials} trials over {answer.lambdas} λ{waiting}."


def _cells(choice: Choice | None) -> list[str]:
    if choice is None:
        return ["—"] * 7
    return [
        f"{choice.weight_decay:.3g}",
        _percent(choice.deciding_accuracy, choice.deciding_accuracy_std),
        _percent(choice.test_accuracy, choice.test_accuracy_std),
        _percent(choice.sparsity, None),
        f"{choice.levels:.1f}".removesuffix(".0"),
        f"{choice.pflop:.3g}",
        str(choice.seeds),
    ]


def _percent(mean: float, deviation: float | None) -> str:
    text = f"{100 * mean:.2f}"
    return text if deviation is None else f"{text} ± {100 * deviation:.2f}"


# --- command line ---------------------------------------------------------------------------

_EPILOG: Final = """\
What it reads: the trials and finished levels of a store, as the sweeps write them. It trains
nothing and needs no MLflow, Ray or GPU. Trials are grouped by setting (data set, model, label
noise, recipe) and approach (teacher); within a group they differ in λ and seed.

How it chooses: per λ, the mean over its seeds of the best validation accuracy; the highest mean
wins, ties go to the sparser. Test accuracy is only reported. A λ counts once all its known seeds
have an answer: "run to the end" needs complete curves; "early stopping" needs curves on which the
rule fired, or complete ones. A trial that was only run as far as its students need their teacher is
no seed to wait for. With protocol=paper test decides, and the output says so.

Costs are of the trainings of the chosen λ, not of the search for it: PFLOPs by the paper's convention
in the table, below it also real operations, device time, energy and CO2. CO2 is the energy in the store
times --carbon-intensity. The last lines say what all levels read cost.

example:
  python analysis/tradeoff.py --store ./store --format json --patience 3 --min-drop 0.02
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail([message])


def _fail(faults: Sequence[str]) -> NoReturn:
    print(f"tradeoff: {'; '.join(faults)}", file=sys.stderr)
    raise SystemExit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tradeoff.py",
        description="The best accuracy-sparsity trade-off of each setting: run to the end, and with early stopping.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Values are taken as text and checked together, so that all faults are told at once.
    parser.add_argument("--store", default="./store", metavar="DIR", help="store to read (default: %(default)s)")
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep's trials (default: all)")
    parser.add_argument("--format", default="table", metavar="F", help="table, json or csv (default: %(default)s)")
    parser.add_argument(
        "--patience", default="3", metavar="N", help="early stopping: levels in a row below (default: %(default)s)"
    )
    parser.add_argument(
        "--min-drop",
        default="0.02",
        metavar="X",
        help="early stopping: how far below the best, a fraction (default: %(default)s, two points)",
    )
    parser.add_argument(
        "--deciding-labels",
        default="clean",
        metavar="L",
        help="validation labels that decide: clean or noisy (default: %(default)s)",
    )
    parser.add_argument(
        "--carbon-intensity",
        default=f"{WORLD_INTENSITY:g}",
        metavar="G",
        help="gCO2e of a kWh (default: %(default)s, the world's electricity in 2024 by the IEA)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Answer on standard output; returns 0, or exits with 2 and one message when the input is bad."""
    args, unknown = _parser().parse_known_args(argv)
    faults = [f"{word!r}: not an option; see --help" for word in unknown]
    if args.format not in FORMATS:
        faults.append(f"--format {args.format!r}: allowed are {', '.join(FORMATS)}")
    if args.deciding_labels not in LABELS:
        faults.append(f"--deciding-labels {args.deciding_labels!r}: allowed are {', '.join(LABELS)}")
    patience, min_drop = _number(args.patience, int), _number(args.min_drop, float)
    if patience is None or patience < 1:
        faults.append(f"--patience {args.patience}: must be a whole number from 1")
    if min_drop is None or not 0 <= min_drop < 1:
        faults.append(f"--min-drop {args.min_drop}: must be a fraction in [0, 1), such as 0.02 for two points")
    intensity = _number(args.carbon_intensity, float)
    if intensity is None or not 0 <= intensity < math.inf:
        faults.append(f"--carbon-intensity {args.carbon_intensity}: must be gCO2e per kWh, a number from 0")
    if "://" not in args.store and not Path(args.store).expanduser().is_dir():
        faults.append(f"--store {args.store}: there is no such folder; give the folder that a sweep wrote to")
    if faults or patience is None or min_drop is None or intensity is None:
        _fail(faults)
    trials = _read(args.store, args.sweep)
    answers = tradeoffs(
        trials, labels=args.deciding_labels, patience=int(patience), min_drop=min_drop, intensity=intensity
    )
    spent = distinct_costs(trials)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show λ shows ?
    if args.format == "json":
        write_json(answers, sys.stdout, spent=spent, intensity=intensity)
    elif args.format == "csv":
        write_csv(answers, sys.stdout)
    else:
        rule = f"ends after {args.patience} levels more than {100 * min_drop:g} points below the best so far"
        write_table(answers, sys.stdout, rule=rule, spent=spent, intensity=intensity)
    return 0


def _number(text: str, kind: type[int] | type[float]) -> float | None:
    try:
        return kind(text)
    except ValueError:
        return None


def _read(url: str, sweep: str | None) -> list[Trial]:
    """The trials of a store, at least one of which has a level; exits with 2 otherwise."""
    try:
        store = Store(url)
        trials = read_trials(store, sweep)
        known = store.sweeps() if not trials and sweep is not None else []
    except Exception as error:  # an object store's own error, of any library, is an answer here
        _fail([f"--store {url}: cannot be read ({type(error).__name__}: {error})"])
    if not trials and sweep is not None:
        _fail([f"--sweep {sweep}: not in the store {url}; it has {', '.join(known) or 'no sweeps'}"])
    if not any(curve for _, curve in trials):
        _fail([f"--store {url}: no trial has a finished level yet ({len(trials)} trials)"])
    return trials


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
