"""The store's trials as flat pandas frames: one row a level, or one row a trial.

Every column name is in `LEVEL_COLUMNS` or `TRIAL_COLUMNS`, and the frames have exactly these
columns in this order, also when they are empty. Accuracies, sparsities and dips are fractions;
what was not measured is missing (NaN or None), never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from sdd_core import words
from sdd_core.curve import Summary
from sdd_core.energy import grams
from sdd_core.ledger import COSTS, Costs, costs
from sdd_core.reading import AS_USUAL, Reading, Trial, read_trials
from sdd_core.record import PFLOPS, SCORES, environments
from sdd_core.store import Store

LEVEL_COLUMNS: Final = (
    *words.CELLS,
    "complete",
    "level",
    "sparsity",
    "remaining",
    "prunable",
    *SCORES,
    "realised_noise",
    "chance",
    *PFLOPS,
    "pflop_total",
    "sparse_multiply_adds",
    "seconds",
    "energy_kwh",
    "energy_source",
    "energy_reason",
    "co2_g",
    "level_key",
    "diverged_after",
    "environment",
)
_SPENT: Final = (*COSTS, "co2_g")
_POINT: Final = ("level", "sparsity", "accuracy", "test_accuracy", *_SPENT)
TRIAL_COLUMNS: Final = (
    *words.CELLS,
    "complete",
    "labels",
    "patience",
    "min_drop",
    *_SPENT,
    "dip",
    "rebound",
    "test_dip",
    "test_rebound",
    *(f"best_{name}" for name in _POINT),
    *(f"early_stop_{name}" for name in _POINT),
    "early_stop_triggered",
    "diverged",
    "environments",
)


def distinct_costs(trials: Sequence[Trial]) -> Costs:
    """What all levels of these trials cost together; a level that trials share is paid for once."""
    return costs(list({record.key: record for _, curve in trials for record in curve}.values()))


def level_frame(store: Store, sweep: str | None = None, reading: Reading = AS_USUAL) -> pd.DataFrame:
    """One row per finished level of each trial, with `LEVEL_COLUMNS`.

    A level that trials share has a row in each. `pflop_total` is the cost of the trial up to and
    with this level; `complete` says whether the trial's curve has run to its end. Of `reading` only the
    intensity of the electricity matters, for `co2_g`.
    """
    rows: list[dict[str, Any]] = []
    for trial in read_trials(store, store.trials(sweep)):
        shared = words.cells(trial.spec) | {"complete": trial.complete}
        total = 0.0
        for record in trial.curve:
            total += record.pflop
            # A record's `label_noise` and `teacher` would hide the spec's fields of these names.
            row = {name: value for name, value in vars(record).items() if name not in words.CELLS}
            row |= {"realised_noise": record.label_noise, "pflop_total": total, "level_key": record.key}
            row["environment"] = record.environment
            row |= _spent(costs([record]), reading.intensity)
            rows.append(shared | row)
    return pd.DataFrame(rows, columns=list(LEVEL_COLUMNS))


def trial_frame(store: Store, sweep: str | None = None, reading: Reading = AS_USUAL) -> pd.DataFrame:
    """One row per trial with the figures of `curve.Summary` and `TRIAL_COLUMNS`.

    A trial without a finished level has a row too, with 0 levels and no figures.
    """
    rows = []
    for trial in read_trials(store, store.trials(sweep)):
        row = words.cells(trial.spec) | {"complete": trial.complete, "levels": len(trial.curve)}
        row |= {"labels": reading.labels, "patience": reading.patience, "min_drop": reading.min_drop}
        row |= {"diverged": trial.diverged, "environments": "; ".join(environments([trial.curve]))}
        if trial.curve:
            row |= _figures(reading.summary(trial.curve), reading.intensity)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(TRIAL_COLUMNS))


def _figures(summary: Summary, intensity: float) -> dict[str, Any]:
    figures = {name: value for name, value in _spent(summary, intensity).items() if name not in ("best", "early_stop")}
    for prefix, point in (("best", summary.best), ("early_stop", summary.early_stop)):
        figures |= {f"{prefix}_{name}": value for name, value in _spent(point, intensity).items()}
    return figures


def _spent(spent: Costs, intensity: float) -> dict[str, Any]:
    """The fields of costs, and of what holds costs, with the CO2."""
    return vars(spent) | {"co2_g": grams(spent.energy_kwh, intensity)}
