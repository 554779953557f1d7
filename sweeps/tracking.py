"""Makes MLflow equal to the store: one parent run a sweep, one child run a trial, one step a level.

MLflow is a view of the store. A `Tracker` works through it from a daemon thread and never raises
into the driver or blocks it: an MLflow that is missing, down, slow or locked costs no level and no
trial, and the next run of the same command fills in what is not there. Runs are found again by their
tags; a level's metrics carry the time at which its record was made, so that logging a level twice
gives the same rows. No other file in sweeps/ imports mlflow.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sdd_core.curve import Curve
from sdd_core.spec import TrialSpec, setting_id
from sdd_core.store import Store
from sweeps import sqlite_file
from sweeps.run_content import (
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
    run_name,
    stamp_of,
)

EXPERIMENT: Final = "sdd"

PAUSE_S = 3.0
"""Between two rounds; updates that come in between are one round."""
LONGEST_PAUSE_S = 60.0
"""Between two rounds after many failed ones."""
FINISHING_PAUSE_S = 2.0
"""Between two rounds while the driver waits in `finish`."""
LEVELS_PER_BATCH = 50
"""MLflow takes 1000 metrics a request, and a level's must not be split."""
_RUNS_PER_PAGE: Final = 200

_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # failures are reported here, once, and not with a traceback
    # MLflow repeats POST requests that timed out, which can create a run twice. A failed round is
    # repeated as a whole instead, beginning with a search for the runs that are there.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}

_log = logging.getLogger("sweeps.tracking")


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
class _SweepFinal:
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    artifacts: Sequence[Path]
    finished: bool


class Tracker:
    """Keeps one sweep's MLflow runs equal to the store, from a background thread.

    `labels` (clean or noisy) are those that decide; `tolerance` is the sweep's, for the tags.
    """

    def __init__(
        self, uri: str, store: Store, sweep: str, *, script: str, labels: str = "clean", tolerance: float | None = None
    ) -> None:
        self.uri, self.sweep = uri, sweep
        self._mirror = _Mirror(uri, store, sweep, script, labels, tolerance)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        # Guards everything below; notified when the thread has something to look at, and when it has stopped.
        self._changed = threading.Condition()
        self._queue: dict[str, tuple[TrialSpec, TrialFinal | None]] = {}
        self._current: str | None = None
        self._final: _SweepFinal | None = None
        self._done = False
        self._closed = False
        self._stopped = False
        self._failure: str | None = None

    def start(self) -> None:
        """Start the thread, which imports mlflow (about 6 s) and finds the sweep's runs."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads, or started before
            self._note_failure(error)

    def update(self, specs: Iterable[TrialSpec]) -> None:
        """Say that these trials have new levels. Returns at once."""
        with self._changed:
            for spec in specs:
                self._enqueue(spec, None)
            self._changed.notify_all()

    def finish(
        self,
        finals: Mapping[str, TrialFinal],
        sweep_metrics: Mapping[str, float],
        sweep_tags: Mapping[str, str],
        artifacts: Sequence[Path],
        timeout: float = 60.0,
    ) -> str | None:
        """Write every trial of `finals` and the sweep's own figures; wait for it at most `timeout` seconds.

        Returns None, or one sentence on what could not be written. The thread ends in either case.
        """
        with self._changed:
            for final in finals.values():
                self._enqueue(final.spec, final)
            self._final = _SweepFinal(
                metrics=dict(sweep_metrics),
                tags=dict(sweep_tags),
                artifacts=tuple(artifacts),
                finished=all(final.finished for final in finals.values()),
            )
            self._changed.notify_all()
            if self._thread.is_alive():
                self._changed.wait_for(lambda: self._stopped, timeout)
            self._closed = True
            self._changed.notify_all()
            if self._done:
                return None
            lacking = len(self._queue.keys() | ({self._current} if self._current is not None else set()))
            late = f"not done within {timeout:g} s" if self._thread.is_alive() else "it was not started"
            reason = self._failure or late
        trials = f"{lacking} of {len(finals)} trials and " if lacking else ""
        return (
            f"MLflow at {_shown(self.uri)} lacks {trials}the sweep's own figures ({reason}); "
            "everything is in the store, and running the same command again fills them in."
        )

    # --- the thread -----------------------------------------------------------------------

    def _enqueue(self, spec: TrialSpec, final: TrialFinal | None) -> None:
        """Add a trial, with the lock held; of targets that differ the largest counts, as in the store."""
        held_spec, held_final = self._queue.get(spec.trial_id, (spec, None))
        if held_spec.target_sparsity > spec.target_sparsity:
            spec = held_spec
        self._queue[spec.trial_id] = (spec, final or held_final)

    def _work(self) -> None:
        failures = 0
        try:
            while not (self._closed or self._done):
                finishing = self._final is not None
                try:
                    self._round()
                    failures = 0
                except ImportError as error:  # MLflow is missing: that does not mend itself
                    self._note_failure(error)
                    return
                except Exception as error:  # whatever MLflow, its database, the network or the store raise: try again
                    self._mirror.disconnect()
                    self._note_failure(error)
                    failures += 1
                self._pause(failures, finishing)
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()

    def _pause(self, failures: int, finishing: bool) -> None:
        """Wait between two rounds, and after a good one until there is work. A call of `finish` ends the pause."""
        pause = min(PAUSE_S * 2 ** min(failures, 10), FINISHING_PAUSE_S if finishing else LONGEST_PAUSE_S)
        with self._changed:
            if not self._done:
                self._changed.wait_for(lambda: self._closed or (self._final is not None and not finishing), pause)
            if failures == 0:
                self._changed.wait_for(lambda: bool(self._closed or self._queue or self._final))

    def _round(self) -> None:
        """Bring MLflow up to date: the trials that wait, then, at the end, the sweep."""
        self._mirror.connect()
        while not self._closed:
            with self._changed:
                if not self._queue:
                    final = self._final
                    break
                trial_id = self._current = next(iter(self._queue))
                spec, trial_final = self._queue.pop(trial_id)
            try:
                self._mirror.sync_trial(spec, trial_final)
            except BaseException:  # back to the end of the queue, so that the others get their turn; and raised
                with self._changed:
                    self._enqueue(spec, self._queue.get(trial_id, (spec, None))[1] or trial_final)
                raise
            finally:
                self._current = None
        else:
            return
        if final is not None:
            self._mirror.sync_sweep(final)
            self._done = True

    def _note_failure(self, error: BaseException) -> None:
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
        login = urlsplit(self.uri).netloc.rpartition("@")[0]
        if login:
            reason = reason.replace(f"{login}@", "")
        known, self._failure = self._failure, reason if len(reason) <= 300 else f"{reason[:300]}..."
        if known is None:
            _log.warning(
                "MLflow at %s cannot be written to (%s); the sweep goes on without it", _shown(self.uri), self._failure
            )


# --- MLflow ---------------------------------------------------------------------------------


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


class _Mirror:
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
        uri, file = self.uri, None
        if self._file is not None:
            sqlite_file.raise_when_locked(self._file)
            file = sqlite_file.identity_of(self._file)
            if self._connection is not None and self._connection.file != file:
                self._connection = None  # the file was deleted or replaced
            uri = sqlite_file.uri_of(self._file)
        if self._connection is not None:
            return self._connection

        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
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
            file = sqlite_file.remember(self._file)
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
            run = _create(connection.client, connection.experiment_id, run_name(spec), tags, begin)
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

    def sync_sweep(self, final: _SweepFinal) -> None:
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


def _shown(uri: str) -> str:
    """A URI without user name and password."""
    netloc = urlsplit(uri).netloc
    return uri.replace(netloc, netloc.rpartition("@")[2], 1) if "@" in netloc else uri
