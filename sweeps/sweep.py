"""What a sweep is: plans that say which trials are needed now, and a report of what they gave.

    Plan.step(store) -> Step      which unfinished trials to run now, or the plan's answer
    Sweep                         a name, its plans, and the report to make when they are over

A plan is a value. It decides from its own settings and from what the store holds, and from nothing else, so
there is no order of calls to know, and running the same command again goes on where the last run stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from analysis.report import TrialResult
from sdd_core.curve import GiveUp, Verdict
from sdd_core.spec import TrialSpec
from sdd_core.store import Store


@dataclass(frozen=True)
class Task:
    """A trial to run, and what may end it before its target sparsity."""

    spec: TrialSpec
    give_up: GiveUp | None = None
    """The rule that ends it when its verdict is known."""
    last_level: int | None = None
    """The level at which it ends because nobody needs more: the level that a teacher is asked for."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The trials that differ in their seeds alone: a λ of a search, an approach, a cell of a grid."""

    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What tells this arm from the others of its sweep, by the names that its answers use."""
    trials: tuple[TrialSpec, ...]
    """One a seed, in the seeds' order."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A point that a search has asked for, as a study shows it."""

    values: Mapping[str, float]
    """What is searched for, by the spec's field."""
    trials: tuple[TrialSpec, ...]
    verdict: Verdict | None = None
    """None while a trial has none."""
    objectives: tuple[float, ...] = ()
    """What the search was told of it; () without a verdict."""
    constraints: Mapping[str, float] = field(default_factory=dict)
    """By how much it misses a clean verdict, which it has when none is above 0."""


class StudyView(Protocol):
    """A study that shows what a search has asked for. It is a view: nothing is ever read back from it."""

    warning: str
    """What could not be written, or ""."""

    def show(self, asked: Sequence[Asked]) -> None:
        """Make the study hold these points. Never raises."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a plan asks for, given what the store holds."""

    tasks: tuple[Task, ...] = ()
    """The unfinished trials to run now, in the order in which they should start; () when the plan is over."""
    trials: tuple[TrialSpec, ...]
    """All trials asked for so far, the finished ones too."""
    left: int = 0
    """A guess at how many more trials will be asked for after those of `tasks`."""
    answer: Any = None
    """What the plan has found; None exactly as long as there are tasks."""
    asked: tuple[Asked, ...] = ()
    """The points that a search has asked for so far, in the order asked."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a plan can still come to: how many levels its trials have when it is over, those there included.

    Teachers that students need are not among the trials.
    """

    fewest: Mapping[TrialSpec, int]
    """In the ending with the fewest levels to train."""
    most: Mapping[TrialSpec, int]
    """In the ending with the most."""
    trials: Mapping[TrialSpec, tuple[int, int]]
    """Each trial for itself: fewest and most levels over all endings."""


class Plan(Protocol):
    """Whoever knows which trials are needed. A plan is a value: it holds its settings and no state of a run."""

    def step(self, store: Store) -> Step:
        """What is needed now. Until one of the tasks of a step has ended, the next step is the same."""

    def outlook(self, store: Store) -> Outlook:
        """What the plan can still come to from what the store holds."""


class Report(Protocol):
    """What a sweep has found, computed once from the store. Every output is a function of it."""

    @property
    def results(self) -> Sequence[TrialResult]:
        """Every trial that the report speaks of, teachers' too, each once."""

    def as_json(self) -> dict[str, Any]:
        """The answer for machines. Nothing that was measured is in it but where a kind says so."""

    def show(self, console: Console) -> None:
        """Print the answer on one screen, without paths, which the caller knows."""

    def draw(self, path: Path) -> None:
        """Write the picture of the sweep's curves."""

    def figures(self) -> tuple[dict[str, float], dict[str, str]]:
        """Metrics and tags of the sweep's own run in MLflow."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that running a sweep needs to know of it."""

    script: str
    """Name of the entry script, as a message or MLflow calls it."""
    heading: str
    """What the sweep does, in one line."""
    plans: tuple[Plan, ...]
    """What decides which trials run. They do not depend on each other and share the workers."""
    specs: tuple[TrialSpec, ...]
    """One trial of each network and data set that is trained, for what the workers must have."""
    report: Callable[[Store, Sequence[Step]], Report]
    """Makes the report from the last step of each plan, all of which are over."""
    tolerance: float | None
    """The largest dip that counts as none; None where each arm has its own."""
    partial: bool = False
    """Whether there is a report of the trials that are finished when others have failed: arms stand alone."""
    studies: tuple[StudyView, ...] = ()
    """Where Optuna shows what each plan has asked for; as many as there are plans, or none."""


def together(outlooks: Iterable[Outlook]) -> Outlook:
    """The outlook of several plans. A trial that two of them need has to have the levels that either needs."""
    fewest: dict[TrialSpec, int] = {}
    most: dict[TrialSpec, int] = {}
    trials: dict[TrialSpec, tuple[int, int]] = {}
    for one in outlooks:
        for held, levels in ((fewest, one.fewest), (most, one.most)):
            for spec, count in levels.items():
                held[spec] = max(count, held.get(spec, 0))
        for spec, (low, high) in one.trials.items():
            before = trials.get(spec, (0, 0))
            trials[spec] = (max(low, before[0]), max(high, before[1]))
    return Outlook(fewest=fewest, most=most, trials=trials)
