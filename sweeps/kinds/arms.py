"""Arms that have run to their end, with the part of their teachers that they pay for: what grids report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

from analysis.report import TrialResult, read
from analysis.terminal import count
from sdd_core import spec
from sdd_core.reading import Reading
from sdd_core.record import LevelRecord, mostly_diverged
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sweeps.kinds import figures
from sweeps.kinds.figures import Mode, Row, Shared, costs, shared_levels
from sweeps.sweep import Arm

_PREFIXES: Final[dict[Mode, str]] = {"run_to_end": "", "to_best": "to_best_", "early_stopping": "early_stop_"}


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """An arm whose trials have all run to their end."""

    fields: Mapping[str, Any]
    trials: tuple[TrialResult, ...]
    reading: Reading
    shared: Mapping[str, Shared]
    """Each trial's part (by trial_id) of its teacher's trainings; nothing for vanilla trials."""
    learnt_from: LevelRecord | None
    """The teacher's level that the first seed learns from; None for a vanilla arm."""

    @property
    def diverged(self) -> bool:
        """Whether most of its trials have diverged."""
        return mostly_diverged([result.curve for result in self.trials])

    def is_clean(self, tolerance: float) -> bool:
        """Whether its networks can be used and their median dip counts as none."""
        return not self.diverged and self.row("run_to_end").dip <= tolerance

    @property
    def distilled(self) -> bool:
        """Whether a teacher influences these trials."""
        return self.trials[0].spec.distilled

    def row(self, mode: Mode) -> Row:
        """The arm in one mode, over its seeds."""
        return self._rows[mode]

    def rank(self) -> tuple[bool, float, float]:
        """The larger, the better: the mean deciding accuracy of the best levels, then their sparsity.

        An arm that diverged comes after all others.
        """
        row = self.row("run_to_end")
        # Rounded, so that means of one value do not differ in their last bit.
        return not self.diverged, round(row.accuracy, 12), round(row.sparsity, 12)

    @cached_property
    def _rows(self) -> dict[Mode, Row]:
        trials = [result.trial for result in self.trials]
        return {mode: figures.row(mode, trials, self.reading, self.shared) for mode in figures.MODES}

    def trials_json(self) -> list[dict[str, Any]]:
        """Each trial's entry in an answer, with what it cost in each mode and its part of the teacher."""
        forms = []
        for result in self.trials:
            shared = self.shared.get(result.spec.trial_id, ())
            paid = costs(result.curve, self.reading, shared)
            forms.append(
                result.as_json()
                | dict(self.fields)
                | {
                    "teacher_level": None if self.learnt_from is None else self.learnt_from.level,
                    "teacher_key": None if self.learnt_from is None else self.learnt_from.key,
                    "pflop_teacher_share": sum(record.pflop / students for record, students in shared),
                    "costs": {mode: asdict(cost) for mode, cost in paid.items()},
                }
            )
        return forms

    def row_json(self, mode: Mode) -> dict[str, Any]:
        """The arm's row in one mode, as answers name it."""
        row = asdict(self.row(mode))
        trial_ids = list(row.pop("trial_ids"))
        setting_id = spec.setting_id(self.trials[0].spec)
        return dict(self.fields) | {"setting_id": setting_id} | row | {"trial_ids": trial_ids}


def arm_results(store: Store, arms: Sequence[Arm], reading: Reading, names: Sequence[str]) -> tuple[ArmResult, ...]:
    """The results of arms whose trials have all run to their end; `names` say what MLflow calls each."""
    shared = _shares(store, [spec for arm in arms for spec in arm.trials])
    results = []
    for arm, name in zip(arms, names, strict=True):
        learnt_from = store.teacher(arm.trials[0])
        tags = {"approach": name}
        if learnt_from is not None:
            tags |= {"teacher_level": str(learnt_from.level), "teacher_key": learnt_from.key}
        results.append(
            ArmResult(
                fields=arm.fields,
                trials=tuple(
                    replace(
                        result,
                        extra=_cost_metrics(result, shared.get(result.spec.trial_id, ())),
                        tags=tags | ({"verdict": "diverged"} if result.trial.diverged else {}),
                    )
                    for result in read(store, arm.trials, reading)
                ),
                reading=reading,
                shared=shared,
                learnt_from=learnt_from,
            )
        )
    return tuple(results)


def divergence(trials: Sequence[TrialResult]) -> str:
    """Where the trials of an arm diverged, and what to change."""
    first = next(result for result in trials if result.trial.diverged)
    last = first.curve[-1]
    epoch = "" if last.diverged_after is None else f" epoch {last.diverged_after} of"
    return (
        f"a weight or the loss was no longer finite after{epoch} level {last.level} "
        f"({sum(result.trial.diverged for result in trials)} of {count(len(trials), 'seed')}): "
        f"try a smaller learning_rate than {first.spec.learning_rate:g}"
    )


def _cost_metrics(result: TrialResult, shared: Shared) -> dict[str, float | None]:
    return {
        _PREFIXES[mode] + name: value
        for mode, cost in costs(result.curve, result.reading, shared).items()
        for name, value in asdict(cost).items()
        if isinstance(value, int | float)
    }


def _shares(store: Store, trials: Sequence[TrialSpec]) -> dict[str, Shared]:
    """Each distilled trial's part of its teacher's trainings: a level is shared equally by those that need it."""
    students: dict[TrialSpec, list[TrialSpec]] = {}
    for trial in dict.fromkeys(trials):
        if trial.distilled and trial.teacher is not None:
            students.setdefault(trial.teacher.trial, []).append(trial)
    shared: dict[str, Shared] = {}
    for teacher, taught in students.items():
        levels = store.curve(teacher)
        needed = {s.trial_id: s.teacher.levels_needed(len(levels)) for s in taught if s.teacher is not None}
        shared |= shared_levels(levels, needed)
    return shared


def teachers(store: Store, trials: Sequence[TrialSpec], reading: Reading) -> list[TrialResult]:
    """The teachers' trials, each once, with the levels that were needed of them."""
    found = {trial.teacher.trial: None for trial in trials if trial.distilled and trial.teacher is not None}
    return [replace(result, tags={"approach": "teacher"}) for result in read(store, list(found), reading)]


def each_once(teachers: Sequence[TrialResult], arms: Sequence[ArmResult]) -> list[TrialResult]:
    """Teachers and students, each trial once; a teacher that is a student of the sweep too says so in its tags."""
    found = {result.spec.trial_id: result for result in teachers}
    for arm in arms:
        for result in arm.trials:
            known = found.get(result.spec.trial_id)
            if known is not None and known.tags.get("approach") == "teacher":
                tags = dict(result.tags) | {"approach": "vanilla, teacher"}
                found[result.spec.trial_id] = replace(result, tags=tags)
            elif known is None:
                found[result.spec.trial_id] = result
    return list(found.values())


def energy_line(rows: Sequence[Row], reading: Reading, *, distilled: bool) -> str:
    """What a table's CO2 is, and where it comes from."""
    note = next((row.energy_note for row in rows if row.energy_note is not None), None)
    if not any(row.co2_g_full is not None for row in rows):
        return f"No energy and no CO2: {note}."
    of = "gCO2e: of the levels as they ran"
    if distilled:
        of += ", the teacher's forward passes in it, and that part of the teacher's trainings"
    sources = " and ".join(sorted({row.energy_source for row in rows}))
    return f"{of}; {sources}, at {reading.intensity:g} g/kWh{f' ({note})' if note else ''}."
