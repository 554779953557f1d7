"""What a search for lambda_opt can still come to: the fewest and the most levels of any ending. Pure.

Before a search has run it is not known which lambdas it will ask for, nor at which level a trial will be given up:
both depend on where the answer lies. So every place of the answer that the verdicts in the store allow is supposed in
turn: a lambda below which all dip, and one from which on all have collapsed. For each place the search itself
(`bisection.decide`) is run on these supposed verdicts, which gives the lambdas that it would ask for. The fewest
levels count each trial as given up as soon as its dip could exceed the tolerance, the most count each to its end. The
range is that of the places with the least and with the most left to train. Real verdicts that noise puts out of this
order can lead a search beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sdd_core import curve
from sdd_core.cost import whole_levels
from sdd_core.curve import GiveUp, Verdict
from sdd_core.record import Curve, LevelRecord
from sdd_core.spec import TrialSpec
from sweeps.kinds.lambda_opt.bisection import Answer, decide
from sweeps.sweep import Outlook

_ORDER: Final[tuple[Verdict, ...]] = ("dips", "clean", "collapsed")  # as lambda rises


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the store knows of one trial of a search."""

    spec: TrialSpec
    levels: int
    """Finished."""
    soonest: int
    """Levels after which it can be given up at the earliest; `levels` when its verdict is known."""
    whole: int
    """Levels of its whole trajectory."""
    verdicts: frozenset[Verdict]
    """Those that it can still get."""

    @property
    def decided(self) -> bool:
        """Whether no further level is needed for its verdict."""
        return self.soonest == self.levels


def standing(
    spec: TrialSpec, levels: list[LevelRecord], rule: GiveUp, threshold: float | None, *, base: bool
) -> Standing:
    """The standing of a trial with this curve; `threshold` is its seed's for a collapse, None while not known.

    The base lambda's trials (`base`) are never given up, and cannot collapse.
    """
    whole = whole_levels(spec, levels)
    end = soonest(levels, rule, whole)
    verdicts: set[Verdict] = {"dips", "clean", "collapsed"}
    if rule.applies(levels):
        verdicts = {"dips"}
    elif end == len(levels):
        best = max(record.deciding_accuracy(rule.labels) for record in levels)
        verdicts = {"clean", "collapsed"} if threshold is None else {curve.trial_verdict(0.0, best, 0.0, threshold)}
        if levels[-1].diverged:  # the search asks the same after it as after one that collapsed
            verdicts = {"clean"} if base else {"collapsed"}
    if base:
        verdicts, end = verdicts - {"collapsed"}, whole
    return Standing(spec=spec, levels=len(levels), soonest=end, whole=whole, verdicts=frozenset(verdicts))


def soonest(levels: Curve, rule: GiveUp, whole: int) -> int:
    """The fewest levels after which a trial of `whole` levels can have its verdict."""
    if len(levels) >= whole or rule.applies(levels):
        return len(levels)
    chance = levels[0].chance if levels else 0.0
    values = curve.lift([record.deciding_accuracy(rule.labels) for record in levels], chance)
    for more in (1, 2):
        if curve.SHAPES[rule.shape]([*values, *[chance, 1.0][-more:]]) > rule.tolerance:
            return min(len(levels) + more, whole)
    return min(len(levels) + 3, whole)  # up, down and up again


def outlook(points: Sequence[Sequence[Standing]], width: int) -> Outlook:
    """The fewest and the most levels that a search can need, from the standings of each grid point's trials.

    Point 0 is the base lambda; each point has the same odd number of trials.
    """
    ends = list(endings([_verdicts(standings) for standings in points], width))
    low = [{p: _fewest(points[p], p, verdict, answer) for p, verdict in found.items()} for found, answer in ends]
    high = [{p: _most(points[p], p, verdict, answer) for p, verdict in found.items()} for found, answer in ends]

    def to_train(ending: Mapping[int, Sequence[int]]) -> int:
        return sum(sum(levels) - sum(s.levels for s in points[p]) for p, levels in ending.items())

    def by_trial(ending: Mapping[int, Sequence[int]]) -> dict[TrialSpec, int]:
        return {s.spec: n for p in sorted(ending) for s, n in zip(points[p], ending[p], strict=True)}

    ranges = {}
    for point in sorted(set().union(*low)):
        for i, s in enumerate(points[point]):
            # A search that does not ask for a lambda leaves its trials as they are.
            fewest = min(ending[point][i] if point in ending else s.levels for ending in low)
            ranges[s.spec] = (fewest, max(ending[point][i] for ending in high if point in ending))
    return Outlook(fewest=by_trial(min(low, key=to_train)), most=by_trial(max(high, key=to_train)), trials=ranges)


def endings(possible: Sequence[frozenset[Verdict]], width: int) -> Iterator[tuple[dict[int, Verdict], Answer]]:
    """Every way a search can end: the verdicts of the points it asked for, and its answer.

    `possible` holds the verdicts that each grid point can still get. The places of the thresholds are
    those that contradict the fewest points; a point that is contradicted gets the nearest possible one.
    """
    size = len(possible)
    places = [(dips, usable) for dips in range(size + 1) for usable in range(max(dips, 1), size + 1)]
    known = [point for point in range(size) if len(possible[point]) < len(_ORDER)]
    misfits = {place: sum(_by_place(point, place) not in possible[point] for point in known) for place in places}
    least = min(misfits.values())

    def verdict(point: int, place: tuple[int, int]) -> Verdict:
        rank = _ORDER.index(_by_place(point, place))
        return min(possible[point], key=lambda other: (abs(_ORDER.index(other) - rank), other))

    def follow(
        verdicts: dict[int, Verdict], left: list[tuple[int, int]]
    ) -> Iterator[tuple[dict[int, Verdict], Answer]]:
        step = decide(size, verdicts, width)
        if isinstance(step, Answer):
            yield verdicts, step
            return
        branches: dict[tuple[Verdict, ...], list[tuple[int, int]]] = {}
        for place in left:
            branches.setdefault(tuple(verdict(point, place) for point in step.points), []).append(place)
        for found, places in branches.items():
            yield from follow(verdicts | dict(zip(step.points, found, strict=True)), places)

    yield from follow({}, [place for place in places if misfits[place] == least])


def _by_place(point: int, place: tuple[int, int]) -> Verdict:
    """The verdict of a point when those below place[0] dip and those from place[1] on have collapsed."""
    dips, usable = place
    return "dips" if point < dips else "clean" if point < usable else "collapsed"


def _verdicts(standings: Sequence[Standing]) -> frozenset[Verdict]:
    """The verdicts that a lambda can still get from those of its trials (`curve.lambda_verdict`)."""
    half = len(standings) / 2

    def count(verdict: Verdict, certain: bool) -> int:
        return sum(verdict in s.verdicts and (not certain or len(s.verdicts) == 1) for s in standings)

    found: set[Verdict] = {verdict for verdict in ("dips", "collapsed") if count(verdict, False) > half}
    if count("dips", True) < half and count("collapsed", True) < half:
        found.add("clean")
    return frozenset(found)


def _fewest(standings: Sequence[Standing], point: int, verdict: Verdict, answer: Answer) -> list[int]:
    """The levels of a lambda's trials when each is given up as soon as the verdict allows.

    Without a lambda_opt the least bad lambda runs to its end: that can be the base, which has.
    """
    if point in (0, answer.optimum):
        return [s.whole for s in standings]
    # A lambda that does not dip can still have a minority of trials that do.
    dipped = sum(s.decided and s.verdicts == {"dips"} for s in standings)
    room = len(standings) if verdict == "dips" else max(0, (len(standings) - 1) // 2 - dipped)
    undecided = [i for i, s in enumerate(standings) if not s.decided]
    quick = sorted(undecided, key=lambda i: standings[i].soonest - standings[i].whole)[:room]
    return [s.soonest if s.decided or i in quick else s.whole for i, s in enumerate(standings)]


def _most(standings: Sequence[Standing], point: int, verdict: Verdict, answer: Answer) -> list[int]:
    """The levels of a lambda's trials when none is given up before its last level."""
    # Without a lambda_opt, every lambda that dips may have to be run to its end to find the least bad.
    to_the_end = point in (0, answer.optimum) or (answer.optimum is None and verdict != "collapsed")
    return [s.levels if s.decided and not to_the_end else s.whole for s in standings]
