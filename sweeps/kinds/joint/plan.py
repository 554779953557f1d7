"""The joint search over λ, α and τ of a distilled student, as a plan.

A point is one (λ, α, τ); its trials, one a seed, are given up and judged as in the search for λ_opt,
against the vanilla student at the base λ. Optuna asks for points and gets of each the best deciding
accuracy and the sparsity that it is at, both to be as high as they can, and by how much it misses a
clean verdict. As there, every step plays the search from its beginning.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdd_core.curve import GiveUp, Verdict
from sdd_core.reading import Reading
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sweeps.kinds.joint.study import Axes, JointStudy, Point, Told
from sweeps.kinds.judge import Judge
from sweeps.kinds.lambda_opt.outlook import standing
from sweeps.sweep import Asked, Outlook, Step, Task


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a joint search has found."""

    verdicts: dict[Point, Verdict]
    """Of the points in the order asked."""
    front: tuple[Point, ...]
    """The clean points than which no other clean one is better in both; the most accurate first."""


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """A joint search; `base` holds the student, with its teacher, at the base λ. It is the plan of that search."""

    base: TrialSpec
    axes: Axes
    budget: int
    """Points to ask for."""
    seeds: tuple[int, ...]
    """An odd number of seeds a point; all share the base's data seed, and so one teacher."""
    rule: GiveUp
    reading: Reading
    width: int = 2
    """Points that are asked at once."""

    def trials(self, point: Point) -> tuple[TrialSpec, ...]:
        """The trials of a point, one a seed."""
        fields = {"weight_decay": point.weight_decay, "alpha": point.alpha, "temperature": point.temperature}
        return tuple(self.base.replace(**fields, seed=seed) for seed in self.seeds)

    def vanilla(self) -> tuple[TrialSpec, ...]:
        """The trials of the student without a teacher at the base λ, one a seed."""
        return tuple(self.base.replace(teacher=None, alpha=0.0, seed=seed) for seed in self.seeds)

    def judge(self, store: Store) -> Judge:
        """Judges points against the vanilla student."""
        return Judge(store, self.rule, self.vanilla())

    def step(self, store: Store) -> Step:
        """The trials that have to run now; the answer is a `Found`."""
        judge, study = self.judge(store), JointStudy(self.axes)
        asked: list[Point] = []
        told: dict[Point, Told] = {}
        verdicts: dict[Point, Verdict] = {}
        tasks: Sequence[Task] = judge.unfinished(judge.base)
        while not tasks and (wave := study.ask(min(self.width, self.budget - len(told)), told)):
            asked += wave
            tasks = [task for point in wave for task in judge.undecided(self.trials(point))]
            if not tasks:
                for point in wave:
                    told[point], verdicts[point] = self._told(judge, point), judge.verdict(self.trials(point))
                study.tell({point: told[point] for point in wave})
        return Step(
            tasks=tuple(tasks),
            trials=(*judge.base, *(spec for point in asked for spec in self.trials(point))),
            left=len(self.seeds) * max(0, self.budget - len(verdicts) - self.width),
            answer=None if tasks else Found(verdicts=verdicts, front=tuple(study.front())),
            asked=tuple(self._shown(point, told.get(point), verdicts.get(point)) for point in asked),
        )

    def _shown(self, point: Point, told: Told | None, verdict: Verdict | None) -> Asked:
        return Asked(
            values=point._asdict(),
            trials=self.trials(point),
            verdict=verdict,
            objectives=() if told is None else (told.accuracy, told.sparsity),
            constraints={} if told is None else dict(told.constraints),
        )

    def _told(self, judge: Judge, point: Point) -> Told:
        trials = self.trials(point)
        best = [self.reading.summary(levels).best for _, levels in judge.curves(trials)]
        constraints: Mapping[str, float] = judge.constraints(trials)
        return Told(
            # Rounded, so that means of one value do not differ in their last bit and each is on the front.
            round(statistics.fmean(found.accuracy for found in best), 12),
            round(statistics.fmean(found.sparsity for found in best), 12),
            tuple(sorted(constraints.items())),
        )

    def outlook(self, store: Store) -> Outlook:
        """The fewest and the most levels that the search can still need: its points all dip at once, or are clean.

        Points that are not asked for yet cost what any others cost; the first of the grid stand for them.
        """
        judge = self.judge(store)
        asked = [Point(**point.values) for point in self.step(store).asked]
        rest = (point for _, point in self.axes.grid() if point not in asked)
        points = [*asked, *itertools.islice(rest, max(0, self.budget - len(asked)))]
        standings = [
            standing(spec, levels, self.rule, None, base=trials is judge.base)
            for trials in (judge.base, *map(self.trials, points))
            for spec, levels in judge.curves(trials)
        ]
        spans = {found.spec: (found.soonest, found.levels if found.decided else found.whole) for found in standings}
        return Outlook(
            fewest={spec: fewest for spec, (fewest, _) in spans.items()},
            most={spec: most for spec, (_, most) in spans.items()},
            trials=spans,
        )
