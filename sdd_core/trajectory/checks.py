"""Why a trial cannot run on a device."""

from __future__ import annotations

from sdd_core import cost, models
from sdd_core.data import splits
from sdd_core.spec import TeacherRef, TrialSpec
from sdd_core.training import steps


def faults(spec: TrialSpec, device_type: str = "cpu", capability: tuple[int, int] | None = None) -> list[str]:
    """Why a trial cannot run on a kind of device although its fields are valid.

    What is wrong with its model, its data and its arithmetic, whether they fit together, and the same of its teacher.
    """
    found = [*models.faults(spec), *splits.faults(spec), *steps.faults(spec, device_type, capability)]
    found = found or models.faults(spec, splits.train_size(spec))
    if not found and spec.distilled and spec.teacher is not None:
        found = [f"teacher's {fault}" for fault in faults(spec.teacher.trial, device_type, capability)]
        found = found or _level_faults(spec.teacher)
    return found


def _level_faults(teacher: TeacherRef) -> list[str]:
    """Whether the level that a reference names by its number lies beyond the end of the teacher's trajectory."""
    if not isinstance(teacher.level, int):
        return []
    last = cost.trainings(teacher.trial) - 1
    if teacher.level <= last:
        return []
    end = f"its trajectory ends at level {last}, target_sparsity {teacher.trial.target_sparsity!r}"
    return [f"teacher's level {teacher.level}: {end}"]
