"""The search for λ_opt as a plan: which trials are needed next, decided from the store.

Every step plays the search from its beginning: Optuna asks, the store gives the verdicts of what is
finished. So what is asked next depends on the settings and the verdicts alone, never on order, time or
the number of workers, and a killed search goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sdd_core.curve import UNUSABLE, GiveUp, Verdict
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sweeps.kinds.judge import Judge
from sweeps.kinds.lambda_opt import bisection
from sweeps.kinds.lambda_opt.outlook import outlook, standing
from sweeps.kinds.lambda_opt.study import PARAMETER, LambdaStudy
from sweeps.sweep import Asked, Outlook, Step, Task


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search has found, by grid point; point 0 is the base λ."""

    answer: bisection.Answer
    verdicts: dict[int, Verdict]
    least_bad: int | None
    """The point to name when there is no λ_opt; None also when the base λ diverged."""

    @property
    def named(self) -> int:
        """The point that is compared with the base: λ_opt, or the least bad; the base itself when that diverged."""
        candidates = (self.answer.optimum, self.least_bad, 0)
        return next(point for point in candidates if point is not None)


_BASE_DIVERGED: Final = Found(
    answer=bisection.Answer("base_diverged", None, None), verdicts={0: "diverged"}, least_bad=None
)


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """A search for λ_opt in one setting; `base` holds everything but λ and seeds. It is the plan of that search."""

    base: TrialSpec
    points: tuple[float, ...]
    """The grid of λs, rising; its first is the base λ."""
    seeds: tuple[int, ...]
    """An odd number of seeds a λ."""
    data_seed: int | None = None
    """One data seed for all trials; each trial's seed when None."""
    rule: GiveUp
    """Tolerance, shape and labels of the verdicts."""
    width: int = 2
    """λs that are asked at once."""

    def trials(self, weight_decay: float) -> tuple[TrialSpec, ...]:
        """The trials of a λ, one a seed."""
        return tuple(
            self.base.replace(
                weight_decay=weight_decay, seed=seed, data_seed=seed if self.data_seed is None else self.data_seed
            )
            for seed in self.seeds
        )

    def step(self, store: Store) -> Step:
        """The trials that have to run now; the answer is a `Found`."""
        judge, study = self._judge(store), LambdaStudy(self.points, self.width)
        verdicts: dict[int, Verdict] = {}
        asked: list[int] = []
        while not isinstance(wave := study.ask(), bisection.Answer):
            asked += wave
            tasks = [task for point in wave for task in self._undecided(judge, point)]
            if tasks and judge.decided(judge.base) == "diverged":  # what was asked with it need not be waited for
                return self._step(judge, asked, {0: "diverged"}, [], _BASE_DIVERGED)
            if tasks:
                return self._step(judge, asked, verdicts, tasks)
            for point in wave:
                trials = self._at(point)
                verdicts[point] = judge.verdict(trials)
                study.tell(point, verdicts[point], judge.constraints(trials))
        if wave.reason == "base_diverged":
            return self._step(judge, asked, verdicts, [], _BASE_DIVERGED)
        least_bad = None if wave.optimum is not None else self._least_bad(judge, verdicts)
        found = Found(answer=wave, verdicts=verdicts, least_bad=least_bad)
        # λ_opt, or the least bad λ, runs to its end on every seed.
        return self._step(judge, asked, verdicts, judge.unfinished(self._at(found.named)), found)

    def _step(
        self,
        judge: Judge,
        asked: list[int],
        verdicts: dict[int, Verdict],
        tasks: list[Task],
        found: Found | None = None,
    ) -> Step:
        guess = max(1, len(self.points).bit_length() + 1 - len(asked))
        return Step(
            tasks=tuple(tasks),
            trials=tuple(spec for point in sorted(asked) for spec in self._at(point)),
            left=0 if found is not None else len(self.seeds) * guess,
            answer=None if tasks else found,
            asked=tuple(self._shown(judge, point, verdicts.get(point)) for point in asked),
        )

    def _shown(self, judge: Judge, point: int, verdict: Verdict | None) -> Asked:
        value, trials = self.points[point], self._at(point)
        known = {} if verdict is None else judge.constraints(trials)
        return Asked(values={PARAMETER: value}, trials=trials, verdict=verdict, objectives=(value,), constraints=known)

    def _least_bad(self, judge: Judge, verdicts: dict[int, Verdict]) -> int:
        """The usable point with the smallest dip.

        The dip of a trial that was given up is a lower bound, so it can still grow. The plan therefore runs
        this point to its end and looks again, until the smallest dip is a true one.
        """
        usable = [point for point, verdict in verdicts.items() if verdict not in UNUSABLE]
        return min(usable, key=lambda point: (judge.median_depth(self._at(point)), point))

    def outlook(self, store: Store) -> Outlook:
        """The fewest and the most levels that the search can still need."""
        step, judge = self.step(store), self._judge(store)
        if step.answer is not None:
            there = {spec: len(levels) for spec, levels in judge.curves(step.trials)}
            return Outlook(fewest=there, most=there, trials={spec: (n, n) for spec, n in there.items()})
        thresholds = judge.thresholds()
        standings = [
            [
                standing(spec, levels, self.rule, threshold, base=point == 0)
                for (spec, levels), threshold in zip(judge.curves(self._at(point)), thresholds, strict=True)
            ]
            for point in range(len(self.points))
        ]
        return outlook(standings, self.width)

    def _at(self, point: int) -> tuple[TrialSpec, ...]:
        return self.trials(self.points[point])

    def _judge(self, store: Store) -> Judge:
        return Judge(store, self.rule, self._at(0))

    def _undecided(self, judge: Judge, point: int) -> list[Task]:
        """The trials of a grid point whose verdict is not known yet. The base λ runs to its end."""
        return judge.unfinished(self._at(0)) if point == 0 else judge.undecided(self._at(point))
