"""Verdicts of trials and of the points that a search asks for, read from their curves in the store."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.report import TrialResult
from sdd_core import curve
from sdd_core.curve import GiveUp, Verdict
from sdd_core.reading import Reading, Trial
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec
from sdd_core.store import Store, is_complete
from sweeps.sweep import Task


@dataclass(frozen=True)
class Judge:
    """Judges the trials of a point, one a seed and in the seeds' order, by a rule and against the base."""

    store: Store
    rule: GiveUp
    base: Sequence[TrialSpec]
    """The base's trials, which run to their end: what has collapsed is measured against them."""
    _held: dict[TrialSpec, list[LevelRecord]] = field(default_factory=dict, compare=False)
    """Curves that were read: a judge sees the store as it was at one moment."""

    def curves(self, trials: Sequence[TrialSpec]) -> list[Trial]:
        """Trials with their curves so far."""
        for spec in trials:
            if spec not in self._held:
                self._held[spec] = self.store.curve(spec)
        return [Trial(spec, self._held[spec]) for spec in trials]

    def unfinished(self, trials: Sequence[TrialSpec]) -> list[Task]:
        """Those short of their target sparsity, to be run to their end."""
        return [Task(spec, None) for spec, levels in self.curves(trials) if not is_complete(levels, spec)]

    def undecided(self, trials: Sequence[TrialSpec]) -> list[Task]:
        """Those whose verdict is not known yet, to be given up when it is."""
        return [
            Task(spec, self.rule)
            for spec, levels in self.curves(trials)
            if not is_complete(levels, spec) and not self.rule.applies(levels)
        ]

    def depth(self, levels: Sequence[LevelRecord]) -> float:
        """The dip, or rebound, that the verdict reads."""
        return curve.shape_of(levels, self.rule.shape, self.rule.labels)

    def median_depth(self, trials: Sequence[TrialSpec]) -> float:
        """The median over seeds of a point's dip; a lower bound while a trial is short of its end."""
        return statistics.median(self.depth(levels) for _, levels in self.curves(trials))

    def best(self, levels: Sequence[LevelRecord]) -> float:
        """The best deciding accuracy of a curve."""
        return max(record.deciding_accuracy(self.rule.labels) for record in levels)

    def thresholds(self) -> list[float | None]:
        """Per seed, the best accuracy below which a curve has collapsed; None while its base is short of its end."""
        return [
            curve.collapse_threshold(self.best(levels), levels[0].chance) if is_complete(levels, spec) else None
            for spec, levels in self.curves(self.base)
        ]

    def trial_verdicts(self, trials: Sequence[TrialSpec]) -> list[Verdict | None]:
        """Per seed, the trial's verdict; None while it, or one of the bases, is not known."""
        thresholds = [threshold for threshold in self.thresholds() if threshold is not None]
        if len(thresholds) < len(self.base):
            return [None] * len(trials)
        waiting = self.unfinished(trials) if trials == self.base else self.undecided(trials)
        undecided = {task.spec.trial_id for task in waiting}
        return [
            None
            if spec.trial_id in undecided
            else curve.trial_verdict(
                self.depth(levels), self.best(levels), self.rule.tolerance, threshold, diverged=levels[-1].diverged
            )
            for (spec, levels), threshold in zip(self.curves(trials), thresholds, strict=True)
        ]

    def decided(self, trials: Sequence[TrialSpec]) -> Verdict | None:
        """A point's verdict; None until all its trials have theirs."""
        found = self.trial_verdicts(trials)
        known = [verdict for verdict in found if verdict is not None]
        return curve.lambda_verdict(known) if len(known) == len(found) else None

    def verdict(self, trials: Sequence[TrialSpec]) -> Verdict:
        """The verdict of a point whose trials all have theirs."""
        verdict = self.decided(trials)
        assert verdict is not None, "a trial of this point has no verdict yet"
        return verdict

    def results(self, trials: Sequence[TrialSpec], reading: Reading) -> tuple[TrialResult, ...]:
        """Trials for a report, with their verdicts."""
        return tuple(
            TrialResult(
                spec=spec,
                curve=levels,
                reading=reading,
                verdict=verdict,
                tags={"verdict": verdict} if verdict is not None else {},
            )
            for (spec, levels), verdict in zip(self.curves(trials), self.trial_verdicts(trials), strict=True)
        )

    def constraints(self, trials: Sequence[TrialSpec]) -> dict[str, float]:
        """Optuna's constraints: by how much the median seed misses a clean verdict; <= 0 is clean.

        That of the divergence is the share of diverged seeds above a half.
        """
        levels = [records for _, records in self.curves(trials)]
        depths = [self.depth(records) - self.rule.tolerance for records in levels]
        short = [
            threshold - self.best(records)
            for records, threshold in zip(levels, self.thresholds(), strict=True)
            if threshold is not None
        ]
        diverged = statistics.fmean(records[-1].diverged for records in levels)
        return {
            self.rule.shape: statistics.median(depths),
            "collapse": statistics.median(short),
            "divergence": diverged - 0.5,
        }
