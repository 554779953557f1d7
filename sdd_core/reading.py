"""How a trial's curve is read, and the figures of a trial as every answer names them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sdd_core import curve
from sdd_core.curve import Summary
from sdd_core.energy import WORLD_INTENSITY, grams
from sdd_core.record import PFLOPS, Curve, LevelRecord
from sdd_core.spec import TrialSpec
from sdd_core.store import Store, is_complete


class Trial(NamedTuple):
    """A trial with its curve so far."""

    spec: TrialSpec
    curve: list[LevelRecord]

    @property
    def complete(self) -> bool:
        """Whether the curve has run to its end."""
        return is_complete(self.curve, self.spec)


def read_trials(store: Store, specs: Iterable[TrialSpec]) -> list[Trial]:
    """Trials with their curves so far, in the order given."""
    return [Trial(spec, store.curve(spec)) for spec in specs]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How curves are read: labels that decide, early stopping, CO2. In no key, so it can be changed afterwards."""

    labels: str = "clean"
    patience: int = 3
    min_drop: float = 0.02
    intensity: float = WORLD_INTENSITY
    """Of the electricity, in gCO2e/kWh."""

    def summary(self, levels: Curve) -> Summary:
        """The figures of a curve of at least one level, read this way; raises ValueError for an empty one."""
        return curve.summarise(levels, labels=self.labels, patience=self.patience, min_drop=self.min_drop)


AS_USUAL: Final = Reading()
"""How curves are read when nothing else is asked for."""


def trial_json(spec: TrialSpec, levels: list[LevelRecord], reading: Reading) -> dict[str, Any]:
    """One trial's entry in an answer (README: what `--json` writes), without a search's verdict.

    Nothing that was measured is in it: the same trial has the same entry, interrupted or not.
    """
    figures = reading.summary(levels)
    return {
        "trial_id": spec.trial_id,
        "weight_decay": spec.weight_decay,
        "seed": spec.seed,
        "data_seed": spec.data_seed,
        "dip": figures.dip,
        "rebound": figures.rebound,
        "levels": figures.levels,
        "stopped_early": not is_complete(levels, spec),
        "best_val_accuracy": figures.best.accuracy if spec.decided_on == "validation" else None,
        "test_accuracy_at_best": figures.best.test_accuracy,
        "sparsity_at_best": figures.best.sparsity,
        **{name: getattr(figures, name) for name in PFLOPS},
        "test_dip": figures.test_dip,
        "test_rebound": figures.test_rebound,
        "early_stop": {
            "level": figures.early_stop.level,
            "sparsity": figures.early_stop.sparsity,
            "test_accuracy": figures.early_stop.test_accuracy,
            "levels": figures.early_stop.levels,
            "pflop": figures.early_stop.pflop,
            "triggered": figures.early_stop_triggered,
        },
    }


def trial_metrics(spec: TrialSpec, levels: list[LevelRecord], reading: Reading) -> dict[str, float]:
    """The numbers of `trial_json` in one flat row, named alike, and what was measured: final figures in MLflow."""
    form, figures = trial_json(spec, levels, reading), reading.summary(levels)
    form |= {f"early_stop_{name}": value for name, value in form.pop("early_stop").items()}
    form |= {"seconds": figures.seconds, "energy_kwh": figures.energy_kwh}
    form["co2_g"] = grams(figures.energy_kwh, reading.intensity)
    return {name: float(value) for name, value in form.items() if isinstance(value, int | float)}
