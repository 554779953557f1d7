"""What a trajectory's curve says: dip, rebound, phases, collapse, early stopping, verdicts. Pure.

Accuracies, sparsities and dips are fractions. In every function a NaN value stands for a level that
was not measured and is left out, as if the curve had no such level; an empty curve has dip 0 and
rebound 0. All functions take time linear in the curve's length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sdd_core.ledger import Costs, costs
from sdd_core.record import Curve

Verdict = Literal["dips", "clean", "collapsed", "diverged"]
UNUSABLE: Final[tuple[Verdict, ...]] = ("collapsed", "diverged")
"""The verdicts of a lambda whose networks are of no use, so that whether they dip does not matter."""
Shape = Literal["dip", "rebound"]

TOLERANCE_FLOOR: Final = 0.02


def _measured(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values if not math.isnan(value)]


def lift(values: Sequence[float], chance: float) -> list[float]:
    """`values` with everything under `chance` raised to it, so that noise in a dead tail makes no dip."""
    return [value if math.isnan(value) else max(float(value), chance) for value in values]


def dip(values: Sequence[float]) -> float:
    """Depth of the deepest valley: max_j(min(max_{i<j} a_i, max_{k>j} a_k) - a_j), 0 when there is none.

    It never shrinks as the curve grows at its end.
    """
    a = _measured(values)
    right = [-math.inf] * (len(a) + 1)
    for j in range(len(a) - 1, -1, -1):
        right[j] = max(right[j + 1], a[j])
    deepest, left = 0.0, -math.inf
    for j, value in enumerate(a):
        deepest = max(deepest, min(left, right[j + 1]) - value)
        left = max(left, value)
    return deepest


def rebound(values: Sequence[float]) -> float:
    """Largest rise above an earlier low: max_{i<j}(a_j - a_i), 0 for a non-increasing curve."""
    largest, low = 0.0, math.inf
    for value in _measured(values):
        largest = max(largest, value - low)
        low = min(low, value)
    return largest


SHAPES: Final = {"dip": dip, "rebound": rebound}


@dataclass(frozen=True)
class Phases:
    """Level indices of the paper's four phases (Sec. 3), as boundaries that both neighbours share.

    I: [0, fall], as good as dense; II: [fall, valley], the first decrease; III: [valley, peak],
    the rise; IV: [peak, last], the final drop. Without a dip there is no valley, `valley` is None
    and `fall` = `peak`: phase I ends where the final drop begins.
    """

    fall: int
    valley: int | None
    peak: int
    last: int


def phases(values: Sequence[float], tolerance: float = 0.0) -> Phases | None:
    """The four phases of a curve whose dip counts when it exceeds `tolerance`; None for an empty curve.

    The valley is the bottom of the deepest one (ties: the sparser); the fall begins at the last best
    level left of it and the peak is the last best level right of it.
    """
    index = [i for i, value in enumerate(values) if not math.isnan(value)]
    if not index:
        return None
    a = [float(values[i]) for i in index]
    depth = dip(a)
    if depth <= tolerance:
        best = max(range(len(a)), key=lambda i: (a[i], i))
        return Phases(index[best], None, index[best], index[-1])
    right = [-math.inf] * (len(a) + 1)
    for j in range(len(a) - 1, -1, -1):
        right[j] = max(right[j + 1], a[j])
    left, valley = -math.inf, 0
    for j, value in enumerate(a):
        if min(left, right[j + 1]) - value == depth:
            valley = j
        left = max(left, value)
    fall = max(range(valley), key=lambda i: (a[i], i))
    peak = max(range(valley + 1, len(a)), key=lambda i: (a[i], i))
    return Phases(index[fall], index[valley], index[peak], index[-1])


def best_level(values: Sequence[float]) -> int | None:
    """Index of the best value, ties to the sparser (later) level; None when nothing is measured."""
    index = [i for i, value in enumerate(values) if not math.isnan(value)]
    return max(index, key=lambda i: (values[i], i)) if index else None


@dataclass(frozen=True)
class EarlyStop:
    """Where the practitioner's rule ends and what it finds; both are level indices."""

    ended: int
    """Last level trained: ended + 1 trainings are paid for."""
    found: int
    """Best level up to there, ties to the sparser."""
    triggered: bool
    """False when the curve ran out before the rule fired."""


def early_stop(values: Sequence[float], patience: int = 3, min_drop: float = 0.02) -> EarlyStop | None:
    """The practitioner's early stopping on a curve; None for an empty curve.

    It ends at the first level whose last `patience` levels are all more than `min_drop` below the
    best so far. Raises ValueError for a patience under 1 or a negative drop.
    """
    if patience < 1 or not min_drop >= 0:
        raise ValueError(f"`patience >= 1` and `min_drop >= 0` must hold, but got {patience!r} and {min_drop!r}")
    found: int | None = None
    last, below = -1, 0
    for i, value in enumerate(values):
        if math.isnan(value):
            continue
        last = i
        if found is None or value >= values[found]:
            found, below = i, 0
        # A better level restarts the count; one that is merely close to the best does too.
        below = below + 1 if values[found] - value > min_drop else 0
        if below >= patience:
            return EarlyStop(i, found, True)
    return None if found is None else EarlyStop(last, found, False)


def default_tolerance(size: int) -> float:
    """Tolerance of a dip: the larger of 2 points and two binomial standard errors at 90 % accuracy.

    `size` is the number of images of the split that decides; 0.6 = 2 sqrt(0.9 * 0.1).
    """
    if size < 1:
        raise ValueError(f"the deciding split needs at least one image, but got {size!r}")
    return max(TOLERANCE_FLOOR, 0.6 / math.sqrt(size))


def collapse_threshold(base_best: float, chance: float) -> float:
    """A curve whose best is below this has collapsed: halfway between chance and the base lambda's best.

    A base that is below chance itself sets the threshold: against it nothing can be said to have collapsed.
    """
    return min(base_best, (chance + base_best) / 2)


def trial_verdict(depth: float, best: float, tolerance: float, threshold: float, *, diverged: bool = False) -> Verdict:
    """Verdict of one trial from its dip, its best deciding accuracy, the collapse threshold and how it ended.

    A dip beyond the tolerance goes first: it is known as soon as it appears, and never taken back.
    """
    if depth > tolerance:
        return "dips"
    if diverged:
        return "diverged"
    return "clean" if best >= threshold else "collapsed"


def lambda_verdict(verdicts: Sequence[Verdict]) -> Verdict:
    """Verdict of a lambda from those of its seeds (an odd number).

    When more than half of them collapsed or diverged, whichever of the two is more frequent (ties: diverged);
    otherwise clean unless more than half dip. Raises ValueError for an even number of seeds, where a tie could
    decide.
    """
    if len(verdicts) % 2 == 0:
        raise ValueError(f"a lambda needs an odd number of verdicts, but got {len(verdicts)}")
    half = len(verdicts) / 2
    collapsed, diverged = verdicts.count("collapsed"), verdicts.count("diverged")
    if collapsed + diverged > half:
        return "collapsed" if collapsed > diverged else "diverged"
    return "dips" if verdicts.count("dips") > half else "clean"


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """The rule that ends a trial whose verdict is known: its own dip exceeds the tolerance.

    Decided inside the trial from its own curve, so independent of timing and of other trials.
    """

    tolerance: float
    shape: Shape = "dip"
    labels: str = "clean"

    def applies(self, curve: Curve) -> bool:
        """Whether the trial's verdict is known from these levels on."""
        return shape_of(curve, self.shape, self.labels) > self.tolerance


def shape_of(curve: Curve, shape: Shape = "dip", labels: str = "clean") -> float:
    """Dip or rebound of the accuracies that decide, those below chance counted as chance; 0 for an empty curve."""
    if not curve:
        return 0.0
    return SHAPES[shape](lift([record.deciding_accuracy(labels) for record in curve], curve[0].chance))


@dataclass(frozen=True, kw_only=True)
class Point(Costs):
    """A level that a practitioner would take, with the costs of all levels that were trained to find it."""

    level: int
    sparsity: float
    accuracy: float
    """The accuracy that decided."""
    test_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Summary(Costs):
    """A curve in figures, and what its levels cost. For dips and rebounds an accuracy below chance counts as chance."""

    dip: float
    rebound: float
    test_dip: float
    test_rebound: float
    best: Point
    """The best deciding level of all, ties to the sparser; it costs the whole curve."""
    early_stop: Point
    """What the practitioner's early stopping finds; it costs the levels up to where the rule ended."""
    early_stop_triggered: bool
    """False when the curve ran out first."""


def summarise(curve: Curve, *, labels: str, patience: int, min_drop: float) -> Summary:
    """The figures of a curve of at least one level; raises ValueError for an empty one."""
    values = [record.deciding_accuracy(labels) for record in curve]
    best, stop = best_level(values), early_stop(values, patience, min_drop)
    if best is None or stop is None:
        raise ValueError(f"a curve needs at least one measured level, but got {len(curve)} levels")
    test = lift([record.test_accuracy for record in curve], curve[0].chance)

    def point(level: int, ended: int) -> Point:
        record = curve[level]
        return Point(
            level=record.level,
            sparsity=record.sparsity,
            accuracy=values[level],
            test_accuracy=record.test_accuracy,
            **vars(costs(curve[: ended + 1])),
        )

    return Summary(
        dip=shape_of(curve, "dip", labels),
        rebound=shape_of(curve, "rebound", labels),
        test_dip=dip(test),
        test_rebound=rebound(test),
        **vars(costs(curve)),
        best=point(best, len(curve) - 1),
        early_stop=point(stop.found, stop.ended),
        early_stop_triggered=stop.triggered,
    )
