"""Makes MLflow equal to the store: one parent run a sweep, one child run a trial, one step a level.

MLflow is a view of the store. A `Tracker` works through it from a daemon thread and never raises
into the driver or blocks it: an MLflow that is missing, down, slow or locked costs no level and no
trial, and the next run of the same command fills in what is not there. What it writes is `mirror`'s.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sdd_core.words import trial_name
from sweeps.tracking.mirror import ENVIRONMENT, Mirror, SweepFinal, TrialFinal

PAUSE_S = 3.0
"""Between two rounds; updates that come in between are one round."""
LONGEST_PAUSE_S = 60.0
"""Between two rounds after many failed ones."""
FINISHING_PAUSE_S = 2.0
"""Between two rounds while the driver waits in `finish`."""
_log = logging.getLogger("sweeps.tracking.tracker")


class Tracker:
    """Keeps one sweep's MLflow runs equal to the store, from a background thread.

    `labels` (clean or noisy) are those that decide; `tolerance` is the sweep's, for the tags;
    `name` gives a trial's run its name.
    """

    def __init__(
        self,
        uri: str,
        store: Store,
        sweep: str,
        *,
        script: str,
        labels: str = "clean",
        tolerance: float | None = None,
        name: Callable[[TrialSpec], str] = trial_name,
    ) -> None:
        self.uri, self.sweep = uri, sweep
        self._mirror = Mirror(uri, store, sweep, script, labels, tolerance, name)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        # Guards everything below; notified when the thread has something to look at, and when it has stopped.
        self._changed = threading.Condition()
        self._queue: dict[str, tuple[TrialSpec, TrialFinal | None]] = {}
        self._current: str | None = None
        self._final: SweepFinal | None = None
        self._done = False
        self._closed = False
        self._stopped = False
        self._failure: str | None = None

    def start(self) -> None:
        """Start the thread, which imports mlflow (about 6 s) and finds the sweep's runs."""
        for name, value in ENVIRONMENT.items():
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
            self._final = SweepFinal(
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


def _shown(uri: str) -> str:
    """A URI without user name and password."""
    netloc = urlsplit(uri).netloc
    return uri.replace(netloc, netloc.rpartition("@")[2], 1) if "@" in netloc else uri
