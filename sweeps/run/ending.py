"""How a run ends that has no answer: what is kept, what is left to do, and how to go on."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from analysis.terminal import say
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sdd_core.words import span
from sweeps.forecast import report
from sweeps.run.outcome import Outcome
from sweeps.sweep import Outlook

STOPPED_BY_BUDGET: Final = 3
"""Exit status of a run that its budget ended."""
INTERRUPTED: Final = 130


def status(outcome: Outcome) -> int:
    """Exit status of a run that has no answer."""
    if outcome.interrupted:
        return INTERRUPTED
    if outcome.exhausted and not outcome.failures:
        return STOPPED_BY_BUDGET
    return 1


def teachers_of(trials: Sequence[TrialSpec]) -> list[TrialSpec]:
    """The trials that others learn from, each once."""
    return list(dict.fromkeys(s.teacher.trial for s in trials if s.distilled and s.teacher is not None))


def explain(
    console: Console,
    store: Store,
    trials: Sequence[TrialSpec],
    outcome: Outcome,
    outlook: Outlook,
    name: Callable[[TrialSpec], str],
) -> None:
    """Say what ended a run, what is kept of it, what is left undone, and the command that goes on from there."""
    what = "stopped before its end"
    if outcome.interrupted:
        what = "interrupted"
    elif outcome.failures:
        what = f"failed trials: {len(outcome.failures)}"
    elif outcome.exhausted:
        what = outcome.exhausted
    specs = [*trials, *teachers_of(trials)]
    names = {spec.trial_id: f"{spec.trial_id} ({name(spec)})" for spec in specs}
    kept = len({record.key for spec in dict.fromkeys(specs) for record in store.curve(spec)})
    console.print()
    say(console, f"{what}: {kept} finished levels are kept in {store.url}")
    for trial_id, reason in outcome.failures.items():
        say(console, f"  trial {names.get(trial_id, trial_id)}: {reason}")
    for student, teacher in outcome.held_back.items():
        who = names.get(student, student)
        say(console, f"  trial {who}: held back by its teacher, trial {teacher}, which failed")
    if outcome.exhausted:
        _say_what_is_left(console, store, outcome, outlook)
    if (
        outcome.failures
        and outcome.diverged.issuperset(outcome.failures)
        and not (outcome.exhausted or outcome.interrupted)
    ):
        say(
            console,
            "the same command would end in the same way: give the teacher another learning_rate (--teacher-with)",
        )
    else:
        say(console, f"run the same command again to go on from there: {command()}")


def _say_what_is_left(console: Console, store: Store, outcome: Outcome, outlook: Outlook) -> None:
    spent = outcome.spent
    left = report.as_json(report.forecast(store, outlook, lambda spec: None), 0.0)
    say(console, f"  this run: {spent.levels} levels, {spent.pflop:.3g} PFLOP")
    say(
        console,
        f"  left undone: {span(left['levels'], '{:.0f}')} levels of "
        f"{span(left['trials'], '{:.0f}')} trials, {span(left['pflop'])} PFLOP",
    )


def command() -> str:
    """The command line that started this process, as it can be typed again."""
    return shlex.join(["python", *(near(Path(word)) if number == 0 else word for number, word in enumerate(sys.argv))])


def near(path: Path) -> str:
    """A path as short as it can be said from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
