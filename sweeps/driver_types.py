"""What the driver and its sources of trials say to each other, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sdd_core.curve import GiveUp
from sdd_core.spec import TrialSpec


@dataclass(frozen=True)
class Task:
    """A trial to run, and what may end it before its target sparsity."""

    spec: TrialSpec
    give_up: GiveUp | None
    """The rule that ends it when its verdict is known."""
    last_level: int | None = None
    """The level at which it ends because nobody needs more: the level that a teacher is asked for."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a sweep can still come to: how many levels its trials have when it is over, those there included.

    Teachers that students need are not among the trials.
    """

    fewest: Mapping[TrialSpec, int]
    """In the ending with the fewest levels to train."""
    most: Mapping[TrialSpec, int]
    """In the ending with the most."""
    trials: Mapping[TrialSpec, tuple[int, int]]
    """Each trial for itself: fewest and most levels over all endings."""


class Source(Protocol):
    """Whoever knows which trials a sweep needs."""

    def plan(self) -> list[Task]:
        """The unfinished trials to run now, decided from the store; [] when the sweep is over."""

    def trials_left(self) -> int:
        """A guess at how many more trials will be asked for after those of the plan."""

    def outlook(self) -> Outlook:
        """What the sweep can still come to from what the store holds; nothing is written."""


class Listener(Protocol):
    """Who follows a sweep as it runs. Called in the driver's process; must return at once."""

    def planned(self, tasks: Sequence[Task], trials_left: int) -> None:
        """These trials have to run now."""

    def started(self, task: Task) -> None:
        """A worker has taken a trial."""

    def level_finished(self, task: Task, metrics: dict[str, float], trained: bool) -> None:
        """A level was read or trained; `metrics` holds level, levels, sparsity and accuracy."""

    def ended(self, task: Task) -> None:
        """A trial has come to its end, or was given up."""

    def failed(self, task: Task, reason: str) -> None:
        """A trial failed for good."""


@dataclass
class Outcome:
    """How a sweep ended."""

    interrupted: bool = False
    failures: dict[str, str] = field(default_factory=dict)
    """trial_id -> the last lines of what went wrong."""
    held_back: dict[str, str] = field(default_factory=dict)
    """trial_id of a student that could not run -> that of the teacher that failed."""
    levels_trained: int = 0
