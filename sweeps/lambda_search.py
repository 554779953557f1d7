"""The search for lambda_opt as the driver sees it: which trials are needed next, decided from the store.

Every call of `plan` replays the search from its beginning: Optuna asks, the store gives the verdicts
of what is finished. So what is asked next depends on the arguments and the verdicts alone, never on
order, time or number of workers, and a killed search goes on where it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from sdd_core import curve
from sdd_core.curve import GiveUp, LevelRecord, Verdict
from sdd_core.spec import TrialSpec
from sdd_core.store import Store, is_complete
from sweeps.driver_types import Outlook, Task
from sweeps.outlook import outlook, standing
from sweeps.search import LambdaStudy
from sweeps.section import Answer
from sweeps.trial_figures import Trial


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search is asked; `base` holds everything but lambda and seeds."""

    base: TrialSpec
    points: tuple[float, ...]
    """The grid, rising; its first is the base lambda."""
    seeds: tuple[int, ...]
    """An odd number of seeds a lambda."""
    data_seed: int | None = None
    """One data seed for all trials; each trial's seed when None."""
    rule: GiveUp
    """Tolerance, shape and labels of the verdicts."""
    width: int = 2
    """Lambdas that are asked at once."""

    def trials(self, weight_decay: float) -> list[TrialSpec]:
        """The trials of a lambda, one a seed."""
        return [
            self.base.replace(
                weight_decay=weight_decay, seed=seed, data_seed=seed if self.data_seed is None else self.data_seed
            )
            for seed in self.seeds
        ]


@dataclass
class LambdaSearch:
    """A source of trials for the driver. After `plan` returned [], `answer` holds what was found."""

    settings: SearchSettings
    store: Store
    study: LambdaStudy
    answer: Answer | None = None
    least_bad: int | None = None
    """The grid point to name when there is no lambda_opt."""
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    """The grid points asked so far, in the order asked."""

    def plan(self) -> list[Task]:
        """The trials that have to run now; [] when the search is over."""
        self.answer, self.least_bad, self.verdicts, self.asked = None, None, {}, []
        while True:
            step = self.study.next(self.verdicts)
            if isinstance(step, Answer):
                self.answer = step
                return self._run_to_the_end(step)
            self.asked += step
            undecided = [task for point in step for task in self._tasks(point)]
            if undecided:
                return undecided
            for point in step:
                self.verdicts[point] = self._verdict(point)
                self.study.tell(point, self.verdicts[point], self._constraints(point))

    def trials_left(self) -> int:
        """A guess at how many trials will still be asked for after the wave that runs now."""
        if self.answer is not None:
            return 0
        return len(self.settings.seeds) * max(1, len(self.settings.points).bit_length() + 1 - len(self.asked))

    def trials(self) -> list[Trial]:
        """All trials asked for so far with their curves, by lambda and seed."""
        return [trial for point in sorted(self.asked) for trial in self.curves(point)]

    def outlook(self) -> Outlook:
        """The fewest and the most levels that the search can still need. `plan` tells before when it is over."""
        if self.answer is not None and not self._run_to_the_end(self.answer):
            there = {spec: len(levels) for spec, levels in self.trials()}
            return Outlook(fewest=there, most=there, trials={spec: (n, n) for spec, n in there.items()})
        bases = self.curves(0)
        thresholds = [
            threshold if is_complete(levels, spec) else None
            for threshold, (spec, levels) in zip(self._thresholds(), bases, strict=True)
        ]
        standings = [
            [
                standing(spec, levels, self.settings.rule, threshold, base=point == 0)
                for (spec, levels), threshold in zip(self.curves(point), thresholds, strict=True)
            ]
            for point in range(len(self.settings.points))
        ]
        return outlook(standings, self.settings.width)

    # --- what the store knows -------------------------------------------------------------

    def curves(self, point: int) -> list[Trial]:
        """The seeds' trials of a grid point with their curves so far."""
        return [(spec, self.store.curve(spec)) for spec in self.settings.trials(self.settings.points[point])]

    def _tasks(self, point: int) -> list[Task]:
        """The trials of a grid point whose verdict is not known yet. The base lambda runs to its end."""
        rule = None if point == 0 else self.settings.rule
        return [
            Task(spec, rule)
            for spec, levels in self.curves(point)
            if not is_complete(levels, spec) and not (rule is not None and rule.applies(levels))
        ]

    def _unfinished(self, point: int) -> list[Task]:
        return [Task(spec, None) for spec, levels in self.curves(point) if not is_complete(levels, spec)]

    def depth(self, levels: Sequence[LevelRecord]) -> float:
        """The dip, or rebound, that the verdict reads."""
        return curve.shape_of(levels, self.settings.rule.shape, self.settings.rule.labels)

    def _best(self, levels: Sequence[LevelRecord]) -> float:
        return max(record.deciding_accuracy(self.settings.rule.labels) for record in levels)

    def _thresholds(self) -> list[float]:
        """Per seed, the best accuracy below which a curve has collapsed."""
        return [
            curve.collapse_threshold(self._best(levels), levels[0].chance) if is_complete(levels, spec) else 0.0
            for spec, levels in self.curves(0)
        ]

    def trial_verdicts(self, point: int) -> list[Verdict | None]:
        """Per seed, the trial's verdict; None while it is not known."""
        if any(not is_complete(levels, spec) for spec, levels in self.curves(0)):
            return [None] * len(self.settings.seeds)
        undecided = {task.spec.trial_id for task in self._tasks(point)}
        return [
            None
            if spec.trial_id in undecided
            else curve.trial_verdict(self.depth(levels), self._best(levels), self.settings.rule.tolerance, threshold)
            for (spec, levels), threshold in zip(self.curves(point), self._thresholds(), strict=True)
        ]

    def _verdict(self, point: int) -> Verdict:
        verdicts = [verdict for verdict in self.trial_verdicts(point) if verdict is not None]
        return curve.lambda_verdict(verdicts)

    def _constraints(self, point: int) -> dict[str, float]:
        """Optuna's constraints: by how much the median seed misses a clean verdict; <= 0 is clean."""
        levels = [records for _, records in self.curves(point)]
        depths = [self.depth(records) - self.settings.rule.tolerance for records in levels]
        short = [t - self._best(records) for records, t in zip(levels, self._thresholds(), strict=True)]
        return {self.settings.rule.shape: statistics.median(depths), "collapse": statistics.median(short)}

    # --- the end --------------------------------------------------------------------------

    def _run_to_the_end(self, answer: Answer) -> list[Task]:
        """lambda_opt, or the least bad lambda, runs to its end on every seed."""
        if answer.optimum is not None:
            return self._unfinished(answer.optimum)
        usable = [point for point in self.asked if self.verdicts[point] != "collapsed"]
        # The dip of a trial that was given up is a lower bound, so the smallest can still grow: run it
        # to its end and look again, until the smallest is a true one.
        self.least_bad = min(usable, key=lambda point: (self.median_depth(point), point))
        return self._unfinished(self.least_bad)

    def median_depth(self, point: int) -> float:
        """The median over seeds of a lambda's dip; a lower bound while a trial is short of its end."""
        return statistics.median(self.depth(levels) for _, levels in self.curves(point))
