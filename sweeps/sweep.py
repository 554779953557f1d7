"""What the driver and its sources of trials say to each other, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
        """What the sweep can still come to from what the store holds, after `plan` was called."""


class Listener(Protocol):
    """Who follows a sweep as it runs. Called in the driver's process; must return at once."""

    def planned(self, tasks: Sequence[Task], trials_left: int) -> None:
        """These trials have to run now."""

    def started(self, task: Task) -> None:
        """A worker has taken a trial."""

    def level_finished(self, task: Task, metrics: dict[str, float], trained: bool) -> None:
        """A level was read or trained; `metrics` holds level, levels, sparsity and accuracy."""

    def ended(self, task: Task, by_budget: bool) -> None:
        """A trial has come to its end, or was given up; or a used-up budget has ended it."""

    def failed(self, task: Task, reason: str) -> None:
        """A trial failed for good."""


@dataclass
class Spent:
    """What the levels cost that a run has trained."""

    keys: set[str] = field(default_factory=set)
    """Of these levels."""
    pflop: float = 0.0
    """Trainings, by the paper's convention."""
    pflop_teacher: float = 0.0
    """Teachers' forward passes, by the paper's convention."""
    pflop_real_all: float = 0.0
    """All real operations: trainings, teachers' passes, evaluations."""
    seconds: float = 0.0
    """Of a device, or of the part of it that a trial has."""
    kwh: float = 0.0
    """Of the levels with an energy figure."""
    unmeasured: int = 0
    """Levels without one."""
    unmeasured_seconds: float = 0.0
    """Of these."""

    @property
    def levels(self) -> int:
        """How many levels were trained."""
        return len(self.keys)

    def add(self, level: Mapping[str, Any]) -> None:
        """Add a level that was trained; its `kwh` is None where its energy is not known."""
        self.keys.add(level["key"])
        for name in ("pflop", "pflop_teacher", "pflop_real_all", "seconds"):
            setattr(self, name, getattr(self, name) + level[name])
        if level["kwh"] is None:
            self.unmeasured += 1
            self.unmeasured_seconds += level["seconds"]
        else:
            self.kwh += level["kwh"]

    def energy(self, otherwise: float | None = None) -> float | None:
        """Energy of all levels in kWh; those without a figure are taken to have the others' mean power.

        `otherwise` is the power in kWh a second where no level has a figure; without it there is none then.
        """
        measured = self.seconds - self.unmeasured_seconds
        power = self.kwh / measured if measured > 0 else otherwise
        if self.unmeasured == 0:
            return self.kwh
        return None if power is None else self.kwh + power * self.unmeasured_seconds


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the levels that a run trains may cost; None: no limit."""

    pflop: float | None = None
    """By the paper's convention, without teachers' passes."""
    gco2: float | None = None
    intensity: float
    """Of the electricity, in gCO2e/kWh."""
    power: float | None = None
    """Of a trial in kWh a second, for as long as no level has an energy figure."""

    def used_up(self, spent: Spent) -> str | None:
        """Which limit has been reached, in words; None while none has.

        Energy that is not known at all ends a run with a limit on CO2, which could not be kept.
        """
        if self.pflop is not None and spent.pflop >= self.pflop:
            return f"the budget of {self.pflop:g} PFLOP is used up"
        if self.gco2 is not None:
            kwh = spent.energy(self.power)
            if kwh is None:
                return f"the budget of {self.gco2:g} gCO2e cannot be kept: no level has an energy figure"
            if kwh * self.intensity >= self.gco2:
                return f"the budget of {self.gco2:g} gCO2e is used up"
        return None


@dataclass
class Outcome:
    """How a sweep ended."""

    interrupted: bool = False
    exhausted: str | None = None
    """Why its budget ended it, in words."""
    failures: dict[str, str] = field(default_factory=dict)
    """trial_id -> the last lines of what went wrong."""
    held_back: dict[str, str] = field(default_factory=dict)
    """trial_id of a student that could not run -> that of the teacher that failed."""
    spent: Spent = field(default_factory=Spent)
