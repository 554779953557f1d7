"""What levels cost: one type for what they did cost, for what a run has cost so far, and for what is predicted. Pure.

    costs(levels)     what finished levels cost, from their records
    total(parts)      the sum of costs
    Spent             what a run has cost so far, from its workers' reports
    Prediction        what levels are expected to cost: the least and the largest

A figure that is not known is None, and a sum over levels of which some have no figure is None too, never too small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sdd_core.record import PFLOPS, LevelRecord


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What some levels cost together."""

    levels: float
    """Levels that were trained; not a whole number in a mean over seeds. A level that is trained again because its
    weights were not kept does not count, and its cost does."""
    pflop: float
    """The trainings by the paper's convention, in 10^15 operations, as all of them."""
    pflop_teacher: float
    """The teacher's forward passes by the paper's convention; the teacher's own training is not in it."""
    pflop_real: float
    """The trainings in real operations."""
    pflop_real_teacher: float
    pflop_real_evaluation: float
    seconds: float | None
    """For which training and evaluation held their device: a GPU, a share of one, or CPU threads."""
    energy_kwh: float | None
    energy_source: str
    """`measured` when every level is, `estimated` when each has a figure, else `none`."""
    energy_levels: float
    """Levels that have a figure."""
    energy_reason: str | None
    """Why one has none, or what is not in it."""

    @property
    def pflop_real_all(self) -> float:
        """All real operations: trainings, the teacher's forward passes and evaluations."""
        return self.pflop_real + self.pflop_real_teacher + self.pflop_real_evaluation

    @property
    def power(self) -> float | None:
        """Mean power in kWh a second; None where it is not known."""
        return self.energy_kwh / self.seconds if self.seconds and self.energy_kwh is not None else None

    @property
    def energy_note(self) -> str | None:
        """Why there is no sum, and for how many levels; or what is not in it."""
        if self.energy_kwh is not None:
            return self.energy_reason
        return f"{self.levels - self.energy_levels} of {self.levels} levels: {self.energy_reason}"

    def __truediv__(self, parts: int) -> Costs:
        """An equal part of these costs."""
        each: dict[str, Any] = {name: getattr(self, name) for name in (*_COUNTS, *_MEASURES)}
        each = {name: None if value is None else value / parts for name, value in each.items()}
        return dataclasses.replace(self, **each)


COSTS: Final = tuple(field.name for field in dataclasses.fields(Costs))
"""The costs of levels as every view of the store names them."""
_COUNTS: Final = ("levels", "energy_levels")
_MEASURES: Final = (*PFLOPS, "seconds", "energy_kwh")


def costs(levels: Sequence[LevelRecord]) -> Costs:
    """What finished levels cost together; one that several trials share is to be given once."""
    return total([_of_level(record) for record in levels])


def _of_level(record: LevelRecord) -> Costs:
    return Costs(
        levels=1,
        **{name: getattr(record, name) for name in PFLOPS},
        seconds=record.measured.get("seconds"),
        energy_kwh=record.energy_kwh,
        energy_source=record.energy_source,
        energy_levels=int(record.energy_kwh is not None),
        energy_reason=record.energy_reason,
    )


def total(parts: Sequence[Costs]) -> Costs:
    """The sum of costs; nothing costs 0."""
    sums: dict[str, Any] = {name: _sum([getattr(part, name) for part in parts]) for name in _MEASURES}
    sums |= {name: sum(getattr(part, name) for part in parts) for name in _COUNTS}
    measured = all(part.energy_source == "measured" for part in parts)
    # Why a figure is missing goes before what is not in one.
    reasons = [part.energy_reason for part in sorted(parts, key=lambda part: part.energy_kwh is not None)]
    return Costs(
        **sums,
        energy_source="none" if sums["energy_kwh"] is None else "measured" if measured else "estimated",
        energy_reason=next((reason for reason in reasons if reason is not None), None),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known, 0.0) if len(known) == len(values) else None


NOTHING: Final = total([])


@dataclass
class Spent:
    """What the levels cost that a run has trained. To add a level takes the same time however many there are."""

    keys: set[str] = field(default_factory=set)
    """Of these levels."""
    known: Costs = NOTHING
    """Of the levels that have an energy figure."""
    unknown: Costs = NOTHING
    """Of the others."""

    def add(self, level: Mapping[str, Any]) -> None:
        """Add a level that was trained: a worker's report of it has its `key` and the fields of its `costs`."""
        self.keys.add(level["key"])
        paid = Costs(**level["costs"])
        if paid.energy_kwh is None:
            self.unknown = total([self.unknown, paid])
        else:
            self.known = total([self.known, paid])

    @property
    def levels(self) -> int:
        """How many levels were trained."""
        return len(self.keys)

    @property
    def costs(self) -> Costs:
        """What they cost together."""
        return total([self.known, self.unknown])

    @property
    def pflop(self) -> float:
        """Their trainings by the paper's convention."""
        return self.costs.pflop

    def energy(self, otherwise: float | None = None) -> float | None:
        """Energy of all levels in kWh; those without a figure are taken to have the others' mean power.

        `otherwise` is the power in kWh a second where no level has a figure; without it there is none then.
        """
        if self.unknown.levels == 0:
            return self.known.energy_kwh
        power = otherwise if self.known.power is None else self.known.power
        if power is None or self.known.energy_kwh is None or self.unknown.seconds is None:
            return None
        return self.known.energy_kwh + power * self.unknown.seconds


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What levels are expected to cost."""

    low: Costs
    """The fewest levels, at the device's fastest."""
    high: Costs
    """The most levels, at its slowest."""

    def ends(self, figure: str, factor: float = 1) -> dict[str, float] | None:
        """The least and the largest of a figure of `Costs`, times a factor; None where one is not known."""
        low, high = getattr(self.low, figure), getattr(self.high, figure)
        return None if low is None or high is None else {"low": low * factor, "high": high * factor}

    @property
    def power(self) -> float | None:
        """Mean power of a trial in kWh a second; None where no power is known."""
        return self.high.power
