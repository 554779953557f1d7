"""What MLflow shows of a trial: names of metrics and tags, and the figures of each level. Pure."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sdd_core.curve import shape_of
from sdd_core.energy import WORLD_INTENSITY, grams
from sdd_core.ledger import costs
from sdd_core.record import PFLOPS, SCORES, Curve, LevelRecord
from sdd_core.spec import TrialSpec, to_json

MARKER: Final = "level"
"""The metric whose history says which levels are there; the last of its level's metrics."""
RECORDED: Final = ("sparsity", *SCORES, *PFLOPS, "sparse_multiply_adds")
SHAPES: Final = ("dip", "rebound")
MEASURED: Final = ("seconds", "energy_kwh", "co2_g")
TOTALS: Final = tuple(f"{name}_total" for name in (*PFLOPS, *MEASURED))
LEVEL_METRICS: Final = (*RECORDED, "weight_decay", *SHAPES, *MEASURED, *TOTALS, MARKER)
"""Metrics with one row a level (step = level)."""

SWEEP_TAG: Final = "sdd.sweep"
KIND_TAG: Final = "sdd.kind"
TRIAL_TAG: Final = "sdd.trial_id"
SETTING_TAG: Final = "sdd.setting_id"
LABELS_TAG: Final = "sdd.deciding_labels"
NOT_FINITE_TAG: Final = "sdd.not_finite"
ENERGY_TAG: Final = "sdd.energy"
SYNCED_TAG: Final = "sdd.synced"
"""Fingerprint of the levels that a run holds: equal to the store's when there is nothing to do."""


def level_figures(spec: TrialSpec, curve: Curve, labels: str = "clean") -> list[dict[str, float]]:
    """The metrics of each level of a curve; what was not measured is left out.

    `dip` and `rebound` are those of the curve up to the level, the `_total`s are its costs up to there.
    CO2 is at `energy.WORLD_INTENSITY`; for another, multiply the energy.
    """
    figures = []
    for end, record in enumerate(curve, start=1):
        values: dict[str, float | None] = {name: getattr(record, name) for name in RECORDED}
        values["weight_decay"] = spec.weight_decay
        values["dip"] = shape_of(curve[:end], "dip", labels)
        values["rebound"] = shape_of(curve[:end], "rebound", labels)
        for suffix, spent in (("", costs([record])), ("_total", costs(curve[:end]))):
            values |= {f"{name}{suffix}": getattr(spent, name) for name in (*PFLOPS, "seconds", "energy_kwh")}
            values[f"co2_g{suffix}"] = grams(spent.energy_kwh)
        values[MARKER] = record.level
        figures.append({name: float(value) for name, value in values.items() if value is not None})
    return figures


def energy_tag(curve: Curve) -> str:
    """Where a trial's energy comes from, and what CO2 is computed with; or why there is none."""
    spent = costs(curve)
    if spent.energy_kwh is None:
        return f"none; {spent.energy_note}"
    left_out = f"; {spent.energy_note}" if spent.energy_note is not None else ""
    return f"{spent.energy_source}{left_out}; CO2 at {WORLD_INTENSITY:g} g/kWh"


def flat_params(spec: TrialSpec) -> dict[str, str]:
    """Every field of a spec as text; those of nested values are named with dots (teacher.trial.seed)."""

    def flatten(prefix: str, value: object) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for name, item in value.items():
                yield from flatten(f"{prefix}.{name}", item)
        elif isinstance(value, str):
            yield prefix, value
        else:
            yield prefix, json.dumps(value) if value is not None else "none"

    return {name: text for key, value in to_json(spec).items() for name, text in flatten(key, value)}


def stamp_of(record: LevelRecord) -> int:
    """When a level's record was made, in milliseconds: the timestamp of its metrics."""
    return round(1000 * float(record.measured.get("finished_at", 0)))


def fingerprint_of(curve: Curve, labels: str) -> str:
    """What tells whether a run holds these levels already."""
    levels = [[record.key, stamp_of(record)] for record in curve]
    return f"{len(curve)}:{hashlib.sha256(json.dumps([labels, levels]).encode()).hexdigest()[:16]}"


def git_commit() -> str | None:
    """The commit of the checkout that this file lies in, None when it is not in one or git is not there."""
    root = Path(__file__).resolve().parents[2]
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--show-toplevel", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.split("\n")
    # An environment may lie inside somebody else's checkout.
    return lines[1] if answer.returncode == 0 and Path(lines[0]) == root else None
