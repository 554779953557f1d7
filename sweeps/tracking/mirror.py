"""One sweep's runs in MLflow: found by their tags, filled from the store, ended.

Runs are found again by their tags; a level's metrics carry the time at which its record was made, so that
logging a level twice gives the same rows. No other file in sweeps/ imports mlflow.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sdd_core.record import Curve
from sdd_core.spec import TrialSpec, setting_id
from sdd_core.store import Store
from sdd_core.words import trial_name
from sweeps.tracking import sqlite_file
from sweeps.tracking.content import (
    ENERGY_TAG,
    KIND_TAG,
    LABELS_TAG,
    LEVEL_METRICS,
    MARKER,
    NOT_FINITE_TAG,
    SETTING_TAG,
    SHAPES,
    SWEEP_TAG,
    SYNCED_TAG,
    TRIAL_TAG,
    energy_tag,
    fingerprint_of,
    flat_params,
    git_commit,
    level_figures,
    stamp_of,
)

EXPERIMENT: Final = "sdd"

LEVELS_PER_BATCH = 1000 // len(LEVEL_METRICS)
"""MLflow takes 1000 metrics a request, and a level's must not be split."""
_RUNS_PER_PAGE: Final = 200

ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # failures are reported here, once, and not with a traceback
    # MLflow repeats POST requests that timed out, which can create a run twice. A failed round is
    # repeated as a whole instead, beginning with a search for the runs that are there.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""What MLflow reads when it is imported."""


@dataclass(frozen=True, kw_only=True)
class TrialFinal:
    """What is known of a trial when the sweep ends."""

    spec: TrialSpec
    metrics: Mapping[str, float]
    """Final figures: dip, rebound, best_val_accuracy, ..."""
    tags: Mapping[str, str]
    """verdict, stopped_early, ..."""
    finished: bool
    """False when it was killed, failed or was interrupted; its run is then KILLED, not FINISHED."""


@dataclass(frozen=True, kw_only=True)
class SweepFinal:
    """What is known of the sweep when it ends."""

    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    artifacts: Sequence[Path]
    finished: bool


@dataclass
class _Run:
    """A run as MLflow holds it, kept up to date with what is written, so that nothing is written twice."""

    run_id: str
    status: str
    end_time: int | None
    metrics: dict[str, float]
    """The latest value of each metric."""
    params: dict[str, str]
    tags: dict[str, str]


@dataclass
class _Connection:
    client: Any
    experiment_id: str
    file: tuple[int, int] | None
    parent: _Run
    trials: dict[str, _Run] = field(default_factory=dict)


class Mirror:
    """One sweep's runs in MLflow. Used by one thread; raises whatever MLflow, SQLite and the store raise."""

    def __init__(self, uri: str, store: Store, sweep: str, script: str, labels: str, tolerance: float | None) -> None:
        self.uri, self.store, self.sweep = uri, store, sweep
        self.script, self.labels, self.tolerance = script, labels, tolerance
        self._file = sqlite_file.file_of(uri)
        self._connection: _Connection | None = None
        self._made_with: dict[str, str] | None = None

    def disconnect(self) -> None:
        """Forget what MLflow holds: after a failure it has to be looked up."""
        self._connection = None

    def connect(self) -> _Connection:
        """The sweep's runs, looked up when that has not been done since the last failure."""
        file = None
        if self._file is not None:
            sqlite_file.raise_when_locked(self._file)
            file = sqlite_file.identity_of(self._file)
            if self._connection is not None and self._connection.file != file:
                self._connection = None  # the file was deleted or replaced
            sqlite_file.forget_deleted(self.uri, self._file)
        if self._connection is not None:
            return self._connection

        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            beside = self._file.with_name("mlartifacts").as_uri() if self._file is not None else None
            experiment_id = client.create_experiment(EXPERIMENT, artifact_location=beside)
        else:
            experiment_id = experiment.experiment_id
        parent, trials = self._find_runs(client, experiment_id)
        if parent is None:
            parent = _create(client, experiment_id, self.sweep, self._tags("sweep"), None)
        elif parent.status != "RUNNING":
            client.update_run(parent.run_id, status="RUNNING")
            parent.status = "RUNNING"
        if self._file is not None:
            file = sqlite_file.remember(self.uri, self._file)
        self._connection = _Connection(client, experiment_id, file, parent, trials)
        return self._connection

    def _find_runs(self, client: Any, experiment_id: str) -> tuple[_Run | None, dict[str, _Run]]:
        """The sweep's run and its trials'; of several with the same tags (two drivers once overlapped) the oldest."""
        quote = '"' if "'" in self.sweep else "'"
        query = f"tags.`{SWEEP_TAG}` = {quote}{self.sweep}{quote}"
        found, token = [], None
        while True:
            page = client.search_runs([experiment_id], query, max_results=_RUNS_PER_PAGE, page_token=token)
            found += page
            token = page.token
            if not token:
                break
        parent, trials = None, {}
        for run in sorted(found, key=lambda run: (run.info.start_time, run.info.run_id), reverse=True):
            data, info = run.data, run.info
            known = _Run(
                info.run_id, info.status, info.end_time, dict(data.metrics), dict(data.params), dict(data.tags)
            )
            if known.tags.get(SWEEP_TAG) != self.sweep:  # MySQL compares without case
                continue
            if known.tags.get(KIND_TAG) == "sweep":
                parent = known
            elif TRIAL_TAG in known.tags:
                trials[known.tags[TRIAL_TAG]] = known
        return parent, trials

    def sync_trial(self, spec: TrialSpec, final: TrialFinal | None) -> None:
        """Write what a trial's run lacks: its levels, and, when given, its final figures and status."""
        connection, curve = self.connect(), self.store.curve(spec)
        run = connection.trials.get(spec.trial_id)
        if run is None:
            tags = self._tags("trial") | {
                TRIAL_TAG: spec.trial_id,
                SETTING_TAG: setting_id(spec),
                "sdd.decided_on": spec.decided_on,
                "mlflow.parentRunId": connection.parent.run_id,
            }
            begin = stamp_of(curve[0]) - round(1000 * curve[0].measured.get("seconds", 0)) if curve else None
            run = _create(connection.client, connection.experiment_id, trial_name(spec), tags, begin)
            connection.trials[spec.trial_id] = run
        # Parameters cannot be changed, but a trial's target (no part of its id) can: it is a tag as well.
        params = {name: value for name, value in flat_params(spec).items() if name not in run.params}
        _write(connection.client, run, params=params, tags={"sdd.target_sparsity": repr(spec.target_sparsity)})
        if curve:
            self._sync_levels(connection.client, run, spec, curve)
        if final is not None:
            step, stamp = (curve[-1].level, stamp_of(curve[-1])) if curve else (0, _now())
            figures = level_figures(spec, curve, self.labels)[-1] if curve else {}
            # A level's metric is its last level's already; a final figure that differs gets its own name.
            finals = {
                f"final_{name}" if name in LEVEL_METRICS else name: value
                for name, value in final.metrics.items()
                if not (name in figures and figures[name] == value)
            }
            _write_figures(connection.client, run, finals, step, stamp, final.tags)
            _terminate(connection.client, run, final.finished, stamp if curve else None)

    def _sync_levels(self, client: Any, run: _Run, spec: TrialSpec, curve: Curve) -> None:
        fingerprint = fingerprint_of(curve, self.labels)
        if run.tags.get(SYNCED_TAG) == fingerprint:
            return
        if run.status != "RUNNING":
            client.update_run(run.run_id, status="RUNNING")
            run.status = "RUNNING"
        there: dict[int, int] = {}  # level -> when its newest record was made
        if MARKER in run.metrics:
            for row in client.get_metric_history(run.run_id, MARKER):
                there[row.step] = max(row.timestamp, there.get(row.step, row.timestamp))
        relabelled = run.tags.get(LABELS_TAG, self.labels) != self.labels
        levels: list[tuple[int, int, dict[str, float]]] = []
        not_finite: dict[str, list[int]] = {}
        for record, figures in zip(curve, level_figures(spec, curve, self.labels), strict=True):
            finite = {name: value for name, value in figures.items() if math.isfinite(value)}
            for name in figures.keys() - finite.keys():
                not_finite.setdefault(f"{name}={figures[name]}", []).append(record.level)
            if there.get(record.level, -1) < stamp_of(record):
                levels.append((record.level, stamp_of(record), finite))
            elif relabelled:  # what decides was chosen anew since this level was written
                levels.append((record.level, _now(), {name: finite[name] for name in SHAPES}))
        for batch in _batches(levels):
            _write(client, run, metrics=batch)
        tags = {LABELS_TAG: self.labels, SYNCED_TAG: fingerprint, ENERGY_TAG: energy_tag(curve)}
        if not_finite:
            tags[NOT_FINITE_TAG] = "; ".join(f"{name} at {levels}" for name, levels in sorted(not_finite.items()))
        _write(client, run, tags=tags | self._provenance())

    def sync_sweep(self, final: SweepFinal) -> None:
        """Write the sweep's own figures, tags and artifacts, and end its run."""
        connection = self.connect()
        client, parent = connection.client, connection.parent
        _write_figures(client, parent, final.metrics, 0, _now(), self._tags("sweep") | dict(final.tags))
        for path in final.artifacts:
            if Path(path).is_dir():
                client.log_artifacts(parent.run_id, str(path), Path(path).name)
            else:
                client.log_artifact(parent.run_id, str(path))
        _terminate(client, parent, final.finished, None)

    def _tags(self, kind: str) -> dict[str, str]:
        tags = {SWEEP_TAG: self.sweep, KIND_TAG: kind, LABELS_TAG: self.labels} | self._provenance()
        if self.tolerance is not None:
            tags["sdd.tolerance"] = repr(self.tolerance)
        return tags

    def _provenance(self) -> dict[str, str]:
        """What wrote a run's newest levels: script, commit, versions."""
        if self._made_with is None:
            tags = {"sdd.script": self.script, "mlflow.source.name": self.script, "mlflow.source.type": "LOCAL"}
            tags["sdd.version.python"] = platform.python_version()
            for name in ("torch", "ray", "optuna", "mlflow"):
                with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                    tags[f"sdd.version.{name}"] = importlib.metadata.version(name)
            commit = git_commit()
            if commit is not None:
                tags["sdd.git_commit"], tags["mlflow.source.git.commit"] = commit, commit
            self._made_with = tags
        return self._made_with


def _create(client: Any, experiment_id: str, name: str, tags: dict[str, str], begin: int | None) -> _Run:
    run = client.create_run(experiment_id, start_time=begin, tags=tags, run_name=name)
    return _Run(run.info.run_id, run.info.status, None, {}, {}, dict(tags))


def _write(
    client: Any,
    run: _Run,
    *,
    metrics: Sequence[tuple[str, float, int, int]] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log metrics (name, value, timestamp, step), params and those tags that are not there yet."""
    from mlflow.entities import Metric, Param, RunTag

    params = params or {}
    changed = {name: value for name, value in (tags or {}).items() if run.tags.get(name) != value}
    if not (metrics or params or changed):
        return
    client.log_batch(
        run.run_id,
        metrics=[Metric(name, value, timestamp, step) for name, value, timestamp, step in metrics],
        params=[Param(name, value) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in changed.items()],
        synchronous=True,
    )
    run.metrics.update({name: value for name, value, _, _ in metrics})
    run.params.update(params)
    run.tags.update(changed)


def _write_figures(
    client: Any, run: _Run, figures: Mapping[str, float], step: int, stamp: int, tags: Mapping[str, str]
) -> None:
    """Log final figures that MLflow does not show yet; of one step it shows the newest."""
    texts = {name: str(value) for name, value in tags.items()}
    finite = {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}
    infinite = [
        f"{name}={figures[name]}" for name in sorted(figures) if name not in finite and figures[name] is not None
    ]
    if infinite:
        texts[f"{NOT_FINITE_TAG}.final"] = "; ".join(infinite)
    rows = [
        (name, value, _now() if name in run.metrics else stamp, step)
        for name, value in finite.items()
        if run.metrics.get(name) != value
    ]
    _write(client, run, metrics=rows, tags=texts)


def _terminate(client: Any, run: _Run, finished: bool, end_time: int | None) -> None:
    status = "FINISHED" if finished else "KILLED"
    if run.status != status or (end_time is not None and run.end_time != end_time):
        client.set_terminated(run.run_id, status=status, end_time=end_time)
        run.status, run.end_time = status, end_time


def _batches(levels: Sequence[tuple[int, int, dict[str, float]]]) -> Iterator[list[tuple[str, float, int, int]]]:
    """Metrics of levels (level, timestamp, figures) for one request each, no level split between two."""
    for first in range(0, len(levels), LEVELS_PER_BATCH):
        yield [
            (name, value, timestamp, level)
            for level, timestamp, figures in levels[first : first + LEVELS_PER_BATCH]
            for name, value in figures.items()
        ]


def _now() -> int:
    return round(1000 * time.time())
