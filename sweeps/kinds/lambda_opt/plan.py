"""The search for lambda_opt as the driver sees it: which trials are needed next, decided from the store.

Every call of `plan` replays the search from its beginning: Optuna asks, the store gives the verdicts
of what is finished. So what is asked next depends on the arguments and the verdicts alone, never on
order, time or number of workers, and a killed search goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sdd_core.curve import GiveUp, Verdict
from sdd_core.reading import Trial
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sweeps.kinds.judge import Judge
from sweeps.kinds.lambda_opt.bisection import Answer
from sweeps.kinds.lambda_opt.outlook import outlook, standing
from sweeps.kinds.lambda_opt.study import LambdaStudy
from sweeps.sweep import Outlook, Task


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
    judge: Judge = field(init=False)

    def __post_init__(self) -> None:
        self.judge = Judge(self.store, self.settings.rule, self._trials(0))

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
                trials = self._trials(point)
                self.verdicts[point] = self.judge.verdict(trials)
                self.study.tell(point, self.verdicts[point], self.judge.constraints(trials))

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
        thresholds = self.judge.thresholds()
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
        return self.judge.curves(self._trials(point))

    def median_depth(self, point: int) -> float:
        """The median over seeds of a lambda's dip; a lower bound while a trial is short of its end."""
        return self.judge.median_depth(self._trials(point))

    def trial_verdicts(self, point: int) -> list[Verdict | None]:
        """Per seed, the trial's verdict; None while it is not known."""
        return self.judge.trial_verdicts(self._trials(point))

    def _trials(self, point: int) -> list[TrialSpec]:
        return self.settings.trials(self.settings.points[point])

    def _tasks(self, point: int) -> list[Task]:
        """The trials of a grid point whose verdict is not known yet. The base lambda runs to its end."""
        trials = self._trials(point)
        return self.judge.unfinished(trials) if point == 0 else self.judge.undecided(trials)

    # --- the end --------------------------------------------------------------------------

    def _run_to_the_end(self, answer: Answer) -> list[Task]:
        """lambda_opt, or the least bad lambda, runs to its end on every seed."""
        if answer.optimum is not None:
            return self.judge.unfinished(self._trials(answer.optimum))
        usable = [point for point in self.asked if self.verdicts[point] != "collapsed"]
        # The dip of a trial that was given up is a lower bound, so the smallest can still grow: run it
        # to its end and look again, until the smallest is a true one.
        self.least_bad = min(usable, key=lambda point: (self.median_depth(point), point))
        return self.judge.unfinished(self._trials(self.least_bad))
