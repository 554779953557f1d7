"""What a distilled student costs, and an approach over its seeds in figures. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sdd_core.curve import LevelRecord
from sweeps.distill_sweep import Approach
from sweeps.trial_figures import Reading, Trial

Mode = Literal["run_to_end", "to_best", "early_stopping"]
MODES: Final[dict[Mode, str]] = {
    "run_to_end": "run to the end",
    "to_best": "to its best level",
    "early_stopping": "early stopping",
}
"""Up to where a curve is paid for. The first two take its best level; early stopping takes what it finds."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a trial's levels cost, in PFLOP by the paper's convention, counted both ways."""

    levels: int
    pflop: float
    """The student's trainings alone: the teacher is left out, as in the paper's Table 2."""
    pflop_full: float
    """With the teacher's forward passes, and this student's share of the teacher's trainings."""


def costs(levels: Sequence[LevelRecord], reading: Reading, share: float) -> dict[Mode, Cost]:
    """What a student's curve cost in each mode; `share` is its part of the teacher's trainings, in PFLOP.

    The share is paid in full however few of its own levels the student is trained for.
    """
    figures = reading.summary(levels)
    ends: dict[Mode, int] = {
        "run_to_end": len(levels),
        "to_best": figures.best.level + 1,
        "early_stopping": figures.early_stop.levels,
    }
    return {mode: _cost(levels[:end], share) for mode, end in ends.items()}


def _cost(paid: Sequence[LevelRecord], share: float) -> Cost:
    pflop = sum(record.pflop for record in paid)
    return Cost(
        levels=len(paid),
        pflop=pflop,
        pflop_full=pflop + sum(record.pflop_teacher for record in paid) + share,
    )


def teacher_shares(teacher: Sequence[LevelRecord], needed: Mapping[str, int]) -> dict[str, float]:
    """Each student's part of its teacher's trainings, in PFLOP by the paper's convention.

    `needed` says how many of the teacher's levels a student (by trial_id) could not do without: 1 for
    the dense teacher, all for the pruned one, whose best level is known at the end. Each level's
    training is shared equally by the students that need it, so that the shares add up to what was trained.
    """
    shares = dict.fromkeys(needed, 0.0)
    for record in teacher:
        users = [trial_id for trial_id, levels in needed.items() if levels > record.level]
        for trial_id in users:
            shares[trial_id] += record.pflop / len(users)
    return shares


def levels_needed(level: str | int, teacher: Sequence[LevelRecord]) -> int:
    """How many of a teacher's levels have to be trained for a reference to one; `teacher` is all there is."""
    return {"dense": 1, "pruned": len(teacher)}[level] if isinstance(level, str) else level + 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """An approach in one mode over its seeds: medians of the dips, means of the rest."""

    approach: Approach
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
    levels: float
    pflop: float
    pflop_full: float


def row(approach: Approach, mode: Mode, trials: Sequence[Trial], reading: Reading, shares: Mapping[str, float]) -> Row:
    """The figures of an approach's trials, each with at least one level; `shares` as from `teacher_shares`."""
    figures = [reading.summary(levels) for _, levels in trials]
    points = [f.early_stop if mode == "early_stopping" else f.best for f in figures]
    paid = [costs(levels, reading, shares.get(spec.trial_id, 0.0))[mode] for spec, levels in trials]
    test = [point.test_accuracy for point in points]
    return Row(
        approach=approach,
        mode=mode,
        trial_ids=tuple(spec.trial_id for spec, _ in trials),
        dip=statistics.median(f.dip for f in figures),
        test_dip=statistics.median(f.test_dip for f in figures),
        accuracy=statistics.fmean(point.accuracy for point in points),
        test_accuracy=statistics.fmean(test),
        test_accuracy_std=statistics.stdev(test) if len(test) > 1 else None,
        sparsity=statistics.fmean(point.sparsity for point in points),
        levels=statistics.fmean(cost.levels for cost in paid),
        pflop=statistics.fmean(cost.pflop for cost in paid),
        pflop_full=statistics.fmean(cost.pflop_full for cost in paid),
    )
