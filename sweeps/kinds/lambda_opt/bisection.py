"""Where lambda_opt lies on a grid: verdicts in, what to ask next or the answer out. Pure.

The lambdas are points 0 .. n-1 of a rising grid; point 0 is the base lambda. Those that dip are too low, those
that collapsed or diverged too high, so each wave cuts the open bracket into equal sections. Noise can break
that order, which is why an answer needs evidence: the grid neighbour below it must not be clean,
the next lambda tried above it must be clean too, and "there is none" is said only when no two
neighbouring tries leave more than one point untried between them. When the base itself diverges the search
ends at once: its learning rate is the fault, and no lambda can be compared with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sdd_core.curve import UNUSABLE, Verdict

Reason = Literal["found", "no_dip_at_base", "none_dip_free", "all_collapsed", "base_diverged"]

_SMALLEST = 1e-6  # where the grid begins when the base lambda is 0: less decay than this changes nothing


def grid(low: float, high: float, per_decade: int) -> list[float]:
    """The rising lambdas of a range: its two ends and the points of the fixed log grid between them.

    The grid is 10^(k / per_decade), rounded to three significant digits, whatever the range, so that
    searches over other ranges ask for the same lambdas. A point within a tenth of a step of an end is left out:
    it would cost as much as any other and tell nothing. Raises ValueError unless 0 <= low < high.
    """
    if not 0 <= low < high < math.inf or per_decade < 1:
        raise ValueError(f"`0 <= low < high` and `per_decade >= 1` must hold, but got {low!r}, {high!r}, {per_decade}")
    first = math.floor(math.log10(max(low, _SMALLEST)) * per_decade)
    last = math.ceil(math.log10(high) * per_decade)
    points = (float(f"{10 ** (k / per_decade):.3g}") for k in range(first, last + 1))
    nearest = 10 ** (0.1 / per_decade)
    return [low, *(point for point in points if low * nearest <= point <= high / nearest and point > low), high]


@dataclass(frozen=True)
class Ask:
    """The grid points to try next, all at once."""

    points: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What the search found. `optimum` is the grid point of lambda_opt, None when there is none."""

    reason: Reason
    optimum: int | None
    below: int | None
    """The largest point below lambda_opt whose curve dips, if any."""
    unconfirmed: tuple[int, ...] = ()
    """Clean points that were not announced because the next lambda above them dips."""


def decide(size: int, verdicts: Mapping[int, Verdict], width: int = 2) -> Ask | Answer:
    """What a search over `size` >= 2 grid points asks next, `width` >= 1 points at a time, or its answer.

    A function of its arguments alone. Every `Ask` names at least one point without a verdict, and
    only such points.
    """
    if size < 2 or width < 1:
        raise ValueError(f"`size >= 2` and `width >= 1` must hold, but got {size} and {width}")
    if 0 not in verdicts:
        return Ask(tuple(p for p in (0, *_section(0, size, width)) if p not in verdicts))
    if verdicts[0] == "diverged":
        return Answer("base_diverged", None, None)
    tried = sorted(verdicts)
    unconfirmed = []
    for point in tried:
        if verdicts[point] != "clean":
            continue
        step = _examine(point, tried, verdicts, size, width)
        if step is not None:
            return step
        unconfirmed.append(point)
    return _none_clean(tried, verdicts, size, width, tuple(unconfirmed))


def _examine(
    point: int, tried: Sequence[int], verdicts: Mapping[int, Verdict], size: int, width: int
) -> Ask | Answer | None:
    """The next step for the smallest clean point that is left; None when a dip right above it rejects it."""
    below = max((p for p in tried if p < point), default=None)
    above = min((p for p in tried if p > point), default=size)
    end = above == size or verdicts[above] in UNUSABLE  # past here the range, or its usable part, is over
    unproven = above > point + 1 and (end or verdicts[above] == "dips")
    confirm = ((point + above) // 2,) if unproven else ()
    if below is not None and below < point - 1:
        narrow = _section(below, point, width)
        # Room that the narrowing leaves in the wave goes to what will be asked next unless the candidate moves.
        return Ask(narrow + confirm if len(narrow) < width else narrow)
    if confirm:
        return Ask(confirm)
    if not end and verdicts[above] == "dips":
        return None
    dips = max((p for p in tried if p < point and verdicts[p] == "dips"), default=None)
    return Answer("no_dip_at_base" if point == 0 else "found", point, dips)


def _none_clean(
    tried: Sequence[int], verdicts: Mapping[int, Verdict], size: int, width: int, unconfirmed: tuple[int, ...]
) -> Ask | Answer:
    """The next step when no clean point is left: look between the last dip and what is too high, then in the gaps."""
    low = max(p for p in tried if verdicts[p] not in UNUSABLE or p == 0)
    high = min((p for p in tried if p > low), default=size)
    if high - low > 1:
        return Ask(_section(low, high, width))
    gaps = [(right - left, -left) for left, right in itertools.pairwise(tried) if right <= low]
    widest, left = max(gaps, default=(0, 0))
    if widest > 2:
        return Ask(_section(-left, -left + widest, width))
    return Answer("none_dip_free" if high == size or unconfirmed else "all_collapsed", None, low, unconfirmed)


def _section(low: int, high: int, width: int) -> tuple[int, ...]:
    """At most `width` points strictly between two that are not neighbours, cutting the gap evenly."""
    parts = min(width, high - low - 1) + 1
    return tuple(sorted({low + max(1, round((high - low) * i / parts)) for i in range(1, parts)} - {low, high}))
