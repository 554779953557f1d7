"""The joint search over λ, α and τ of a distilled student, as the driver sees it.

A point is one (λ, α, τ); its trials, one a seed, are given up and judged as in the search for λ_opt,
against the vanilla student at the base λ. Optuna asks for points and gets of each the best deciding
accuracy and the sparsity that it is at, both to be as high as they can, and by how much it misses a
clean verdict. As there, every call of `plan` replays the search from its beginning.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from sdd_core.curve import GiveUp, Verdict
from sdd_core.reading import Reading, Trial
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sweeps.kinds.joint.study import Axes, JointStudy, Point, Told
from sweeps.kinds.judge import Judge
from sweeps.kinds.lambda_opt.outlook import standing
from sweeps.sweep import Outlook, Task


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """What a joint search is asked; `base` holds the student, with its teacher, at the base λ."""

    base: TrialSpec
    axes: Axes
    budget: int
    """Points to ask for."""
    seeds: tuple[int, ...]
    """An odd number of seeds a point; all share the base's data seed, and so one teacher."""
    rule: GiveUp
    width: int = 2
    """Points that are asked at once."""

    def trials(self, point: Point) -> list[TrialSpec]:
        """The trials of a point, one a seed."""
        fields = {"weight_decay": point.weight_decay, "alpha": point.alpha, "temperature": point.temperature}
        return [self.base.replace(**fields, seed=seed) for seed in self.seeds]

    def vanilla(self) -> list[TrialSpec]:
        """The trials of the student without a teacher at the base λ, one a seed."""
        return [self.base.replace(teacher=None, alpha=0.0, seed=seed) for seed in self.seeds]


@dataclass
class JointSearch:
    """A source of trials for the driver. After `plan` returned [], `front` holds what was found."""

    settings: JointSettings
    store: Store
    study: JointStudy
    reading: Reading
    verdicts: dict[Point, Verdict] = field(default_factory=dict)
    """Of the points asked so far, in the order asked."""
    front: list[Point] = field(default_factory=list)
    """The clean points than which no other clean one is better in both; the most accurate first."""
    asked: list[Point] = field(default_factory=list)
    """Those points and the ones that wait for their trials."""
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        self.judge = Judge(self.store, self.settings.rule, self.settings.vanilla())

    def plan(self) -> list[Task]:
        """The trials that have to run now; [] when the search is over."""
        self.verdicts, self.front, self.asked = {}, [], []
        bases = self.judge.unfinished(self.judge.base)
        if bases:
            return bases
        self.study.restart()
        told: dict[Point, Told] = {}
        while wave := self.study.ask(min(self.settings.width, self.settings.budget - len(told)), told):
            self.asked += wave
            undecided = [task for point in wave for task in self.judge.undecided(self.settings.trials(point))]
            if undecided:
                return undecided
            for point in wave:
                told[point] = self._told(point)
                self.verdicts[point] = self.judge.verdict(self.settings.trials(point))
            self.study.tell({point: told[point] for point in wave})
        self.front = self.study.front()
        self.study.keep([(point, told[point], self._trial_ids(point)) for point in self.verdicts])
        return []

    def trials_left(self) -> int:
        """How many trials may still be asked for after those of the plan."""
        left = self.settings.budget - len(self.verdicts) - self.settings.width
        return len(self.settings.seeds) * max(0, left)

    def outlook(self) -> Outlook:
        """The fewest and the most levels that the search can still need: its points all dip at once, or are clean.

        Points that are not asked for yet cost what any others cost; the first of the grid stand for them.
        """
        self.plan()
        rest = (point for _, point in self.settings.axes.grid() if point not in self.asked)
        points = [*self.asked, *itertools.islice(rest, max(0, self.settings.budget - len(self.asked)))]
        standings = [
            standing(spec, levels, self.settings.rule, None, base=trials is self.judge.base)
            for trials in (self.judge.base, *map(self.settings.trials, points))
            for spec, levels in self.judge.curves(trials)
        ]
        spans = {found.spec: (found.soonest, found.levels if found.decided else found.whole) for found in standings}
        return Outlook(
            fewest={spec: fewest for spec, (fewest, _) in spans.items()},
            most={spec: most for spec, (_, most) in spans.items()},
            trials=spans,
        )

    def trials(self) -> list[Trial]:
        """The vanilla student's trials and those of all points asked for so far, with their curves."""
        points = [self.judge.base, *(self.settings.trials(point) for point in self.asked)]
        return [trial for specs in points for trial in self.judge.curves(specs)]

    def _trial_ids(self, point: Point) -> list[str]:
        return [trial.trial_id for trial in self.settings.trials(point)]

    def _told(self, point: Point) -> Told:
        trials = self.settings.trials(point)
        best = [self.reading.summary(levels).best for _, levels in self.judge.curves(trials)]
        constraints: Mapping[str, float] = self.judge.constraints(trials)
        return Told(
            # Rounded, so that means of one value do not differ in their last bit and each is on the front.
            round(statistics.fmean(found.accuracy for found in best), 12),
            round(statistics.fmean(found.sparsity for found in best), 12),
            tuple(sorted(constraints.items())),
        )
