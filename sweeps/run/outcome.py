"""What happens while a sweep runs: who follows it, what its levels cost, what ends it, how it ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from sdd_core.ledger import Spent
from sweeps.sweep import Task

_PLAIN: Final = "sdd_core.training.memory.OutOfMemory: "  # an error whose message is written for the user


class Listener(Protocol):
    """Who follows a sweep as it runs. Called in the driver's process; must return at once."""

    def planned(self, waiting: int, left: int) -> None:
        """So many trials wait to be started, and about so many more will be asked for. Told when it changes."""

    def started(self, task: Task) -> None:
        """A worker has begun with a trial. Told again when the worker dies and another one takes over."""

    def level_finished(self, task: Task, metrics: dict[str, float], trained: bool) -> None:
        """A level was read or trained; `metrics` holds level, levels, sparsity and accuracy."""

    def warned(self, task: Task, warning: str) -> None:
        """Something looked wrong while a level was trained."""

    def ended(self, task: Task, by_budget: bool) -> None:
        """A trial has come to its end, or was given up; or a used-up budget has ended it."""

    def failed(self, task: Task, reason: str) -> None:
        """A trial failed for good."""


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


def reason_of(text: str) -> str:
    """Why a trial failed, from what its worker wrote of the error: the last lines, or less where less says it all."""
    lines = text.strip().splitlines() or ["no message"]
    plain = [line.partition(_PLAIN)[2] for line in lines if _PLAIN in line]
    return plain[-1] if plain else "\n".join(lines[-6:])


@dataclass
class Outcome:
    """How a sweep ended."""

    interrupted: bool = False
    exhausted: str | None = None
    """Why its budget ended it, in words."""
    failures: dict[str, str] = field(default_factory=dict)
    """trial_id -> the last lines of what went wrong."""
    diverged: set[str] = field(default_factory=set)
    """trial_id of each teacher among them whose training diverged, which another run would not change."""
    held_back: dict[str, str] = field(default_factory=dict)
    """trial_id of a student that could not run -> that of the teacher that failed."""
    spent: Spent = field(default_factory=Spent)
