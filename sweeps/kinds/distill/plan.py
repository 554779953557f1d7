"""The distillation sweep as the driver sees it: one student under several approaches, decided from the store.

All students share one `data_seed`, and so one teacher: each of its levels is trained once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sdd_core.reading import Trial, read_trials
from sdd_core.record import LevelRecord
from sdd_core.spec import TeacherRef, TrialSpec
from sdd_core.store import Store, is_complete
from sdd_core.words import level_name
from sweeps.kinds.lambda_opt.outlook import to_the_end
from sweeps.sweep import Outlook, Task


@dataclass(frozen=True)
class Approach:
    """How a student learns: from which level of the teacher, by which alpha and tau of Eq. 1."""

    level: str | int | None
    """The teacher's level as a reference names it; None for the vanilla student."""
    alpha: float
    temperature: float | None
    """None for the vanilla student, in whose training none occurs."""

    def __str__(self) -> str:
        if self.level is None:
            return "vanilla"
        return f"{level_name(self.level)} teacher, α = {self.alpha:g}, τ = {self.temperature:g}"


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
        """The vanilla student, then every alpha above 0 with every tau and level of the teacher."""
        return [VANILLA] + [
            Approach(level, alpha, temperature)
            for alpha in self.alphas
            if alpha > 0
            for temperature in self.temperatures
            for level in self.levels
        ]

    def trials(self, approach: Approach) -> list[TrialSpec]:
        """An approach's trials, one a seed."""
        students = [self.student.replace(seed=seed, data_seed=self.student.data_seed) for seed in self.seeds]
        if approach.level is None or approach.temperature is None:
            return students
        reference = TeacherRef(trial=self.teacher, level=approach.level)
        return [
            student.replace(teacher=reference, alpha=approach.alpha, temperature=approach.temperature)
            for student in students
        ]


@dataclass(frozen=True)
class DistillSweep:
    """A source of trials for the driver: every student, each to the end of its trajectory.

    The driver runs the teacher first, as far as the students need it.
    """

    settings: DistillSettings
    store: Store

    def plan(self) -> list[Task]:
        """The students that have not run to their end; [] when the sweep is over."""
        return [Task(spec, None) for spec, levels in self.students() if not is_complete(levels, spec)]

    def trials_left(self) -> int:
        """None: `plan` names every trial at once."""
        return 0

    def outlook(self) -> Outlook:
        """Every student to its end: fewest and most are alike."""
        return to_the_end(self.students())

    def curves(self, approach: Approach) -> list[Trial]:
        """An approach's trials with their curves so far."""
        return read_trials(self.store, self.settings.trials(approach))

    def students(self) -> list[Trial]:
        """The trials of all approaches with their curves so far."""
        return [trial for approach in self.settings.approaches for trial in self.curves(approach)]

    def teacher(self) -> Trial | None:
        """The teacher's trial with the levels that are there; None when no student has one."""
        if all(approach.level is None for approach in self.settings.approaches):
            return None
        return Trial(self.settings.teacher, self.store.curve(self.settings.teacher))

    def trials(self) -> list[Trial]:
        """The teacher's trial and the students', each once: the teacher may be a vanilla student too."""
        teacher = self.teacher()
        trials = [teacher] if teacher is not None else []
        return list({trial.spec.trial_id: trial for trial in [*trials, *self.students()]}.values())

    def learnt_from(self, approach: Approach) -> LevelRecord | None:
        """The level that a reference of the teacher means; None while it is not known, and for the vanilla student."""
        return self.store.teacher(self.settings.trials(approach)[0])
