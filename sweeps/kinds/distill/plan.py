"""A student under several approaches to distillation: its arms, which run as a grid.

All students share one `data_seed`, and so one teacher: each of its levels is trained once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sdd_core.spec import TeacherRef, TrialSpec
from sdd_core.words import level_name
from sweeps.kinds.grid.plan import Grid
from sweeps.sweep import Arm


@dataclass(frozen=True)
class Approach:
    """How a student learns: from which level of the teacher, by which α and τ of Eq. 1."""

    level: str | int | None
    """The teacher's level as a reference names it; None for the vanilla student."""
    alpha: float
    temperature: float | None
    """None for the vanilla student, in whose training none occurs."""

    def __str__(self) -> str:
        if self.level is None:
            return "vanilla"
        return f"{level_name(self.level)} teacher, α = {self.alpha:g}, τ = {self.temperature:g}"

    def as_json(self) -> dict[str, Any]:
        """The approach as answers name it."""
        return {"teacher": self.level, "alpha": self.alpha, "temperature": self.temperature}


VANILLA: Final = Approach(None, 0.0, None)


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """What a distillation sweep compares; `student` is vanilla and holds everything but approach and seed."""

    student: TrialSpec
    teacher: TrialSpec
    """The teacher's trial, on its student's data."""
    levels: tuple[str | int, ...]
    """The teacher's levels that students learn from."""
    alphas: tuple[float, ...]
    temperatures: tuple[float, ...]
    seeds: tuple[int, ...]
    """The students'; the data seed is `student`'s for all."""

    @property
    def approaches(self) -> list[Approach]:
        """The vanilla student, then every α above 0 with every τ and level of the teacher."""
        return [VANILLA] + [
            Approach(level, alpha, temperature)
            for alpha in self.alphas
            if alpha > 0
            for temperature in self.temperatures
            for level in self.levels
        ]

    def trials(self, approach: Approach) -> tuple[TrialSpec, ...]:
        """An approach's trials, one a seed."""
        students = tuple(self.student.replace(seed=seed, data_seed=self.student.data_seed) for seed in self.seeds)
        if approach.level is None or approach.temperature is None:
            return students
        reference = TeacherRef(trial=self.teacher, level=approach.level)
        return tuple(
            student.replace(teacher=reference, alpha=approach.alpha, temperature=approach.temperature)
            for student in students
        )

    def plan(self) -> Grid:
        """Every student, each to the end of its trajectory."""
        return Grid(
            arms=tuple(Arm(fields=approach.as_json(), trials=self.trials(approach)) for approach in self.approaches)
        )
