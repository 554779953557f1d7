"""The store's trials as flat pandas frames: one row a level, or one row a trial.

Every column name is in `LEVEL_COLUMNS` or `TRIAL_COLUMNS`, and the frames have exactly these
columns in this order, also when they are empty. Accuracies, sparsities and dips are fractions;
what was not measured is missing (NaN or None), never 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from sdd_core.curve import COSTS, Costs, Summary, costs
from sdd_core.energy import grams
from sdd_core.reading import AS_USUAL, Reading, Trial, read_trials
from sdd_core.record import PFLOPS, SCORES
from sdd_core.spec import TrialSpec, setting_id
from sdd_core.store import Store

# Fields of a spec that fit a cell as they are.
_SPEC_FIELDS: Final = tuple(
    field.name
    for field in dataclasses.fields(TrialSpec)
    if field.name not in ("model_options", "lr_milestones", "teacher")
)
ID_COLUMNS: Final = (
    "trial_id",
    "setting_id",
    *_SPEC_FIELDS,
    "model_options",
    "lr_milestones",
    "teacher",
    "teacher_level",
    "decided_on",
)
LEVEL_COLUMNS: Final = (
    *ID_COLUMNS,
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
)
_SPENT: Final = (*COSTS, "co2_g")
_POINT: Final = ("level", "sparsity", "accuracy", "test_accuracy", *_SPENT)
TRIAL_COLUMNS: Final = (
    *ID_COLUMNS,
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
        shared = _identity(trial.spec) | {"complete": trial.complete}
        total = 0.0
        for record in trial.curve:
            total += record.pflop
            # A record's `label_noise` and `teacher` would hide the spec's fields of these names.
            row = {name: value for name, value in vars(record).items() if name not in ID_COLUMNS}
            row |= {"realised_noise": record.label_noise, "pflop_total": total, "level_key": record.key}
            row |= _spent(costs([record]), reading.intensity)
            rows.append(shared | row)
    return pd.DataFrame(rows, columns=list(LEVEL_COLUMNS))


def trial_frame(store: Store, sweep: str | None = None, reading: Reading = AS_USUAL) -> pd.DataFrame:
    """One row per trial with the figures of `curve.Summary` and `TRIAL_COLUMNS`.

    A trial without a finished level has a row too, with 0 levels and no figures.
    """
    rows = []
    for trial in read_trials(store, store.trials(sweep)):
        row = _identity(trial.spec) | {"complete": trial.complete, "levels": len(trial.curve)}
        row |= {"labels": reading.labels, "patience": reading.patience, "min_drop": reading.min_drop}
        if trial.curve:
            row |= _figures(reading.summary(trial.curve), reading.intensity)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(TRIAL_COLUMNS))


def _identity(spec: TrialSpec) -> dict[str, Any]:
    row: dict[str, Any] = {"trial_id": spec.trial_id, "setting_id": setting_id(spec)}
    row |= {name: getattr(spec, name) for name in _SPEC_FIELDS}
    row["model_options"] = " ".join(f"{name}={value}" for name, value in spec.model_options)
    row["lr_milestones"] = " ".join(f"{milestone:g}" for milestone in spec.lr_milestones)
    row["teacher"] = spec.teacher.trial.trial_id if spec.teacher is not None else None
    row["teacher_level"] = str(spec.teacher.level) if spec.teacher is not None else None
    return row | {"decided_on": spec.decided_on}


def _figures(summary: Summary, intensity: float) -> dict[str, Any]:
    figures = {name: value for name, value in _spent(summary, intensity).items() if name not in ("best", "early_stop")}
    for prefix, point in (("best", summary.best), ("early_stop", summary.early_stop)):
        figures |= {f"{prefix}_{name}": value for name, value in _spent(point, intensity).items()}
    return figures


def _spent(spent: Costs, intensity: float) -> dict[str, Any]:
    """The fields of costs, and of what holds costs, with the CO2."""
    return vars(spent) | {"co2_g": grams(spent.energy_kwh, intensity)}


# --- names of settings ----------------------------------------------------------------------


def setting_label(spec: TrialSpec) -> str:
    """A setting and approach in words: "lenet on digits, ε=50 %", with what is out of the ordinary."""
    if spec.noise_kind == "human":
        noise = f"human labels {spec.noisy_labels}"
    else:
        kind = f" {spec.noise_kind}" if spec.noise_kind != "symmetric" and spec.label_noise > 0 else ""
        noise = f"ε={100 * spec.label_noise:g} %{kind}"
    label = f"{spec.model} on {spec.dataset}, {noise}"
    if spec.distilled:
        label += f", distilled from {teacher_label(spec)} (α={spec.alpha:g}, τ={spec.temperature:g})"
    if spec.protocol == "paper":
        label += " [paper's protocol: decided on test]"
    return label


def teacher_label(spec: TrialSpec) -> str:
    """Whom a trial is distilled from: "dense lenet", "level 3 of lenet"; raises ValueError when it has no teacher."""
    if spec.teacher is None:
        raise ValueError(f"trial {spec.trial_id} has no teacher")
    level = spec.teacher.level
    return f"{f'level {level} of' if isinstance(level, int) else level} {spec.teacher.trial.model}"


def setting_labels(specs: Sequence[TrialSpec]) -> dict[str, str]:
    """A label for the setting of each spec, by setting id; settings of one label get what tells them apart."""
    by_id = {setting_id(spec): spec for spec in specs}
    twins: dict[str, list[str]] = {}
    for key, spec in by_id.items():
        twins.setdefault(setting_label(spec), []).append(key)
    labels: dict[str, str] = {}
    for label, keys in twins.items():
        rows = {key: _identity(by_id[key]) for key in keys}
        own = ("trial_id", "setting_id", "weight_decay", "seed", "data_seed", "target_sparsity")
        apart = [n for n in ID_COLUMNS if n not in own and len({rows[key][n] for key in keys}) > 1]
        for key in keys:
            extra = ", ".join(f"{name}={rows[key][name]}" for name in apart)
            labels[key] = f"{label}, {extra}" if extra else label
    return labels
