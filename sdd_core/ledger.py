"""What levels cost: kept as they are trained, summed, compared with what was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
