"""How a trial's curve is read, and the figures of a trial as every answer names them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from typing_extensions import Doc

from sdd_core import curve
from sdd_core.curve import PFLOPS, LevelRecord, Summary
from sdd_core.energy import WORLD_INTENSITY, grams
from sdd_core.fields import BelowOne, Count, Flag, NotNegative
from sdd_core.spec import TrialSpec
from sdd_core.store import is_complete

Trial = tuple[TrialSpec, list[LevelRecord]]
"""A trial with its curve so far."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How curves are read: labels that decide, early stopping, CO2. In no key, so it can be changed afterwards."""

    labels: Annotated[Literal["clean", "noisy"], Flag("deciding_labels"), Doc("validation labels that decide")] = (
        "clean"
    )
    patience: Annotated[Count, Doc("early stopping: levels in a row below the best")] = 3
    min_drop: Annotated[BelowOne, Doc("early stopping: by more than this, a fraction")] = 0.02
    intensity: Annotated[
        NotNegative, Flag("carbon_intensity", metavar="G"), Doc("gCO2e of a kWh; the world's in 2024 by the IEA")
    ] = WORLD_INTENSITY

    def summary(self, levels: Sequence[LevelRecord]) -> Summary:
        """A curve's figures, read this way."""
        return curve.summarise(levels, labels=self.labels, patience=self.patience, min_drop=self.min_drop)


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
