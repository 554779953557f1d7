"""What a sweep is: plans that say which trials are needed now, and a report of what they gave.

    Plan.step(store) -> Step      which unfinished trials to run now, or the plan's answer
    Sweep                         a name, its plans, and the report to make when they are over

A plan is a value. It decides from its own settings and from what the store holds, and from nothing else, so
there is no order of calls to know, and running the same command again goes on where the last run stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdd_core.curve import GiveUp
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


class Source(Protocol):
    """Whoever knows which trials a sweep needs."""

    def plan(self) -> list[Task]:
        """The unfinished trials to run now, decided from the store; [] when the sweep is over."""

    def trials_left(self) -> int:
        """A guess at how many more trials will be asked for after those of the plan."""

    def outlook(self) -> Outlook:
        """What the sweep can still come to from what the store holds, after `plan` was called."""
