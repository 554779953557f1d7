"""What a trial costs, with its part of its teacher, and an arm over its seeds in figures. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sdd_core import ledger
from sdd_core.energy import grams
from sdd_core.reading import Reading, Trial
from sdd_core.record import LevelRecord

Mode = Literal["run_to_end", "to_best", "early_stopping"]
MODES: Final[dict[Mode, str]] = {
    "run_to_end": "run to the end",
    "to_best": "to its best level",
    "early_stopping": "early stopping",
}
"""Up to where a curve is paid for. The first two take its best level; early stopping takes what it finds."""


Shared = Sequence[tuple[LevelRecord, int]]
"""A student's part of its teacher's trainings: the levels that it needs, and how many students need each."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a trial's levels cost, counted both ways; `_full` is with its part of the teacher's trainings.

    PFLOP are by the paper's convention. Energy is that of the levels as they ran, so the teacher's forward
    passes are in both of its figures; None where a level has none.
    """

    levels: float
    pflop: float
    """The student's trainings alone: the teacher is left out, as in the paper's Table 2."""
    pflop_full: float
    """With the teacher's forward passes too."""
    energy_kwh: float | None
    energy_kwh_full: float | None
    energy_source: str
    """`measured`, `estimated` or `none`, for all levels in the full figure."""
    energy_note: str | None
    co2_g: float | None
    co2_g_full: float | None


def costs(levels: Sequence[LevelRecord], reading: Reading, shared: Shared) -> dict[Mode, Cost]:
    """What a student's curve cost in each mode.

    Its part of the teacher is paid in full however few of its own levels the student is trained for.
    """
    figures = reading.summary(levels)
    ends: dict[Mode, int] = {
        "run_to_end": len(levels),
        "to_best": figures.best.level + 1,
        "early_stopping": int(figures.early_stop.levels),
    }
    return {mode: _cost(levels[:end], shared, reading.intensity) for mode, end in ends.items()}


def _cost(paid: Sequence[LevelRecord], shared: Shared, intensity: float) -> Cost:
    own, everything = ledger.costs(paid), ledger.costs([*paid, *(record for record, _ in shared)])
    energy = None
    if own.energy_kwh is not None and everything.energy_kwh is not None:
        energy = own.energy_kwh + sum((record.energy_kwh or 0.0) / students for record, students in shared)
    return Cost(
        levels=own.levels,
        pflop=own.pflop,
        pflop_full=own.pflop + own.pflop_teacher + sum(record.pflop / students for record, students in shared),
        energy_kwh=own.energy_kwh,
        energy_kwh_full=energy,
        energy_source=everything.energy_source,
        energy_note=everything.energy_note,
        co2_g=grams(own.energy_kwh, intensity),
        co2_g_full=grams(energy, intensity),
    )


def shared_levels(teacher: Sequence[LevelRecord], needed: Mapping[str, int]) -> dict[str, Shared]:
    """Each student's part of its teacher's trainings.

    `needed` says how many of the teacher's levels a student (by trial_id) could not do without: 1 for
    the dense teacher, all for the pruned one, whose best level is known at the end. A level is shared
    equally by the students that need it, so that the parts add up to what was trained.
    """
    users = [sum(levels > record.level for levels in needed.values()) for record in teacher]
    return {trial_id: list(zip(teacher[:levels], users, strict=False)) for trial_id, levels in needed.items()}


@dataclass(frozen=True, kw_only=True)
class Row(Cost):
    """An arm in one mode over its seeds: medians of the dips, means of the rest, its costs too.

    A cost is None where a seed has no figure; the energy's source is the least sure of the seeds'.
    """

    mode: Mode
    trial_ids: tuple[str, ...]
    dip: float
    """Of the whole curve, on the split and labels that decide."""
    test_dip: float
    accuracy: float
    """The accuracy that decided which level is taken."""
    test_accuracy: float
    test_accuracy_std: float | None
    """Sample standard deviation over the seeds; None for one seed."""
    sparsity: float


_COSTS: Final = ("levels", "pflop", "pflop_full", "energy_kwh", "energy_kwh_full", "co2_g", "co2_g_full")


def row(mode: Mode, trials: Sequence[Trial], reading: Reading, shared: Mapping[str, Shared]) -> Row:
    """The figures of an arm's trials, each with at least one level; `shared` as from `shared_levels`."""
    figures = [reading.summary(levels) for _, levels in trials]
    points = [f.early_stop if mode == "early_stopping" else f.best for f in figures]
    paid = [costs(levels, reading, shared.get(spec.trial_id, ()))[mode] for spec, levels in trials]
    test = [point.test_accuracy for point in points]
    means: dict[str, Any] = {name: _known_mean([getattr(cost, name) for cost in paid]) for name in _COSTS}
    return Row(
        mode=mode,
        trial_ids=tuple(spec.trial_id for spec, _ in trials),
        dip=statistics.median(f.dip for f in figures),
        test_dip=statistics.median(f.test_dip for f in figures),
        accuracy=statistics.fmean(point.accuracy for point in points),
        test_accuracy=statistics.fmean(test),
        test_accuracy_std=statistics.stdev(test) if len(test) > 1 else None,
        sparsity=statistics.fmean(point.sparsity for point in points),
        **means,
        energy_source=_source({cost.energy_source for cost in paid}),
        energy_note=next((cost.energy_note for cost in paid if cost.energy_note is not None), None),
    )


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _source(sources: set[str]) -> str:
    """The least sure of some sources of energy."""
    return next(source for source in ("none", "estimated", "measured") if source in sources)
