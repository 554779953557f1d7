"""What every report is made of: trials with the figures of their curves. Values only; outputs are functions of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from sdd_core.curve import Summary, Verdict
from sdd_core.energy import grams
from sdd_core.reading import Reading, Trial
from sdd_core.record import PFLOPS, LevelRecord, environments
from sdd_core.spec import TrialSpec
from sdd_core.store import Store

_OF_EARLY_STOP: Final = ("level", "sparsity", "test_accuracy", "levels", "pflop")


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A trial with its curve, read in one way."""

    spec: TrialSpec
    curve: list[LevelRecord]
    reading: Reading
    verdict: Verdict | None = None
    """None where nothing was judged."""
    extra: Mapping[str, float | None] = field(default_factory=dict)
    """Further final figures, for MLflow."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What MLflow says of the trial beside its figures."""

    @property
    def trial(self) -> Trial:
        """The trial without what was read from it."""
        return Trial(self.spec, self.curve)

    @property
    def environment_tag(self) -> dict[str, str]:
        """In MLflow the environment classes of its levels, where the records say them."""
        found = "; ".join(environments([self.curve]))
        return {"environment": found} if found else {}

    @cached_property
    def summary(self) -> Summary:
        """The figures of the curve, which must have a level."""
        return self.reading.summary(self.curve)

    def as_json(self) -> dict[str, Any]:
        """The trial's entry in an answer. Nothing that was measured is in it: it is the same, interrupted or not."""
        spec, figures = self.spec, self.summary
        return {
            "trial_id": spec.trial_id,
            "weight_decay": spec.weight_decay,
            "seed": spec.seed,
            "data_seed": spec.data_seed,
            "dip": figures.dip,
            "rebound": figures.rebound,
            "levels": figures.levels,
            "stopped_early": not self.trial.complete,
            "diverged_after": self.curve[-1].diverged_after,
            "best_val_accuracy": figures.best.accuracy if spec.decided_on == "validation" else None,
            "test_accuracy_at_best": figures.best.test_accuracy,
            "sparsity_at_best": figures.best.sparsity,
            **{name: getattr(figures, name) for name in PFLOPS},
            "test_dip": figures.test_dip,
            "test_rebound": figures.test_rebound,
            "early_stop": {
                **{name: getattr(figures.early_stop, name) for name in _OF_EARLY_STOP},
                "triggered": figures.early_stop_triggered,
            },
        }

    def metrics(self) -> dict[str, float]:
        """The numbers of `as_json` in one flat row, and what was measured: the final figures in MLflow."""
        form, figures = self.as_json(), self.summary
        form |= {f"early_stop_{name}": value for name, value in form.pop("early_stop").items()}
        form |= {"seconds": figures.seconds, "energy_kwh": figures.energy_kwh}
        form["co2_g"] = grams(figures.energy_kwh, self.reading.intensity)
        form |= self.extra
        return {name: float(value) for name, value in form.items() if isinstance(value, int | float)}


def read(store: Store, specs: Sequence[TrialSpec], reading: Reading) -> tuple[TrialResult, ...]:
    """Trials as the store holds them now."""
    return tuple(TrialResult(spec=spec, curve=store.curve(spec), reading=reading) for spec in specs)


def titled(title: str, results: Sequence[TrialResult]) -> str:
    """A picture's title, which says so when the curves under it come from several environment classes."""
    found = environments(result.curve for result in results)
    return title if len(found) < 2 else f"{title} (levels of {len(found)} environments)"


def mean(results: Sequence[TrialResult], figure: Callable[[Summary], float]) -> float:
    """The mean of a figure over the seeds of an arm."""
    return statistics.fmean(figure(result.summary) for result in results)


def median(results: Sequence[TrialResult], figure: Callable[[Summary], float]) -> float:
    """The median of a figure over the seeds of an arm: how dips are summed up."""
    return statistics.median(figure(result.summary) for result in results)
