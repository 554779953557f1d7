"""The best performance-sparsity trade-off of each setting, run to the end and with early stopping.

    python analysis/tradeoff.py --store ./store --format table

Reads finished levels from the store and trains nothing: about a second. For each setting and
approach it answers which lambda to take (`choices` says how it is chosen), the sparsity and accuracy
found, and what that costs. Under the paper's protocol test decides, and every output says so.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TextIO

if not __package__:  # run as a script: the repository's root is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table
from typing_extensions import Doc

from analysis.choices import CHOICE_COLUMNS, MODES, Choice, SettingTradeoff, tradeoffs
from analysis.frames import distinct_costs
from sdd_core.energy import describe, grams
from sdd_core.fields import Flag, SpecError
from sdd_core.flags import AlsoRead, Parser
from sdd_core.ledger import Costs
from sdd_core.reading import Reading, Trial, read_trials
from sdd_core.store import Store
from sdd_core.words import environments_text

SCHEMA: Final = 1
WIDTH: Final = 100


CSV_COLUMNS: Final = ("setting_id", "label", "decided_on", "deciding_labels", "mode", *CHOICE_COLUMNS, "reason")


# --- output ---------------------------------------------------------------------------------


def write_json(answers: Sequence[SettingTradeoff], out: TextIO, *, spent: Costs, intensity: float) -> None:
    """`{"schema": 1, "settings": [...], "costs": {...}}`; accuracies and sparsities are fractions.

    `spent` is what all levels read cost, each once.
    """
    settings = [_setting(answer) for answer in answers]
    whole = vars(spent) | {"co2_g": grams(spent.energy_kwh, intensity), "carbon_intensity": intensity}
    form = {"schema": SCHEMA, "settings": settings, "costs": whole}
    json.dump(form, out, indent=1, ensure_ascii=False, allow_nan=False)
    out.write("\n")


def _setting(answer: SettingTradeoff) -> dict[str, Any]:
    choices = {mode: choice.as_row() for mode in MODES if (choice := getattr(answer, mode)) is not None}
    return vars(answer) | choices | {"paper_protocol": answer.decided_on == "test"}


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
                row |= choice.as_row() | {"trial_ids": " ".join(choice.trial_ids)}
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
        if len(answer.environments) > 1:
            console.print(f"MIXED ENVIRONMENTS: {environments_text(answer.environments)}.", soft_wrap=True)
        if answer.reason is not None:
            console.print(f"Missing: {answer.reason}")
        for mode, name in MODES.items():
            choice: Choice | None = getattr(answer, mode)
            if choice is not None:
                console.print(f"One seed {name}: {_costs(choice.each, intensity, None)}.")  # the last lines say why
        console.print(_basis(answer) + "\n")
    console.print(f"All {spent.levels} levels read, each once: {_costs(spent, intensity, spent.energy_note)}.")
    console.print("Means over seeds ± sample standard deviation; levels and PFLOPs of one seed, without a teacher's.")
    console.print(f"Early stopping {rule}.")


def _costs(spent: Costs, intensity: float, reason: str | None) -> str:
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
        f"{choice.each.levels:.1f}".removesuffix(".0"),
        f"{choice.each.pflop:.3g}",
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is read and how it is said."""

    store: Annotated[str, Flag(metavar="PLACE"), Doc("store to read")] = "./store"
    also_read: AlsoRead = ()
    sweep: Annotated[str | None, Flag(default="all"), Doc("only this sweep's trials")] = None
    format: Annotated[Literal["table", "json", "csv"], Doc("how the answer is written")] = "table"


def main(argv: Sequence[str] | None = None) -> int:
    """Answer on standard output; returns 0, or exits with 2 and one message when the input is bad."""
    description = "The best accuracy-sparsity trade-off of each setting: run to the end, and with early stopping."
    parser = Parser(prog="tradeoff.py", description=description, epilog=_EPILOG)
    parser.add(Options, "what")
    parser.add(Reading, "reading", "How curves are read.")
    reader = parser.read(argv)
    options, reading = reader.read(Options), reader.read(Reading)
    if "://" not in options.store and not Path(options.store).expanduser().is_dir():
        reader.faults.append(f"store {options.store!r}: there is no such folder; give the folder that a sweep wrote to")
    reader.refuse()
    trials = reader.collect(_read, options.store, options.also_read, options.sweep)
    reader.refuse()
    answers = tradeoffs(trials, reading)
    spent = distinct_costs(trials)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show λ shows ?
    if options.format == "json":
        write_json(answers, sys.stdout, spent=spent, intensity=reading.intensity)
    elif options.format == "csv":
        write_csv(answers, sys.stdout)
    else:
        rule = f"ends after {reading.patience} levels more than {100 * reading.min_drop:g} points below the best so far"
        write_table(answers, sys.stdout, rule=rule, spent=spent, intensity=reading.intensity)
    return 0


def _read(url: str, also_read: Sequence[str], sweep: str | None) -> list[Trial]:
    """The trials of a store, at least one of which has a level. Raises `SpecError` otherwise."""
    try:
        store = Store(url, also_read=also_read)
        upstream = store.upstream_faults()
        trials = read_trials(store, store.trials(sweep))
        known = store.sweeps() if not trials and sweep is not None else []
    except Exception as error:  # an object store's own error, of any library, is an answer here
        raise SpecError([f"store {url!r}: cannot be read ({type(error).__name__}: {error})"]) from None
    if upstream:
        raise SpecError(upstream)
    if not trials and sweep is not None:
        raise SpecError([f"sweep {sweep!r}: not in the store {url}; it has {', '.join(known) or 'no sweeps'}"])
    if not any(curve for _, curve in trials):
        raise SpecError([f"store {url!r}: no trial has a finished level yet ({len(trials)} trials)"])
    return trials


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
