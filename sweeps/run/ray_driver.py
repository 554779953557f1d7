"""The driver: trials -> Ray Tune -> the store.

Ray Tune schedules; a searcher hands it the trials that a source asks for, one level key never to two
workers at once. Each trial is one call of `sdd_core.trajectory.run` on a worker, which reads and
commits levels itself, so nothing depends on Ray's own experiment state: running again is resuming.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

# Read by Ray and Tune when they are imported: no usage reports, no files beside the store, no handler of
# Tune's for Ctrl-C, and a trial that asked for no GPU sees none.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from sdd_core.curve import GiveUp
from sdd_core.ledger import costs
from sdd_core.record import LevelRecord
from sdd_core.spec import from_json, last_level, to_json
from sdd_core.store import Store
from sweeps.run.outcome import Budget, Listener, Outcome
from sweeps.run.teachers_first import in_stages, teacher_task
from sweeps.sweep import Source, Task

RETRIES = 2  # of a trial whose worker died or raised; it goes on from its last finished level


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial asks for, and how many may run at once."""

    cpus: float
    gpus: float
    width: int
    threads: int


def run(
    source: Source,
    store: Store,
    *,
    resources: Resources,
    keep: str,
    listeners: Sequence[Listener],
    budget: Budget | None = None,
    shared_storage: str | None = None,
) -> Outcome:
    """Run the trials that `source` asks for until it asks for none. Ray must be attached already.

    Teachers are run before the students that wait for them. A trial that fails for good is named in the
    outcome, with the students that it holds back, and the others go on; Ctrl-C ends the sweep at once,
    and what is finished stays. When the `budget` is used up no trial is started any more, and each that
    runs ends with the level that it is in. `shared_storage` is where Ray keeps its own passing files on
    a cluster; on one machine they go into a temporary folder. They are removed at the end, except from an
    object store.
    """
    outcome = Outcome()
    queue = _Queue(source, store, resources, keep, listeners, outcome, budget)
    folder = shared_storage or tempfile.mkdtemp(prefix="sdd-ray-")
    name = f"run-{uuid.uuid4().hex}"  # never an earlier run's folder, which Tune would go on with
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    try:
        with _ctrl_c(outcome):
            tune.Tuner(
                tune.with_resources(_run_trial, {"cpu": resources.cpus, "gpu": resources.gpus}),
                param_space={},
                tune_config=tune.TuneConfig(search_alg=queue, num_samples=-1, reuse_actors=True),
                run_config=tune.RunConfig(
                    storage_path=folder,
                    name=name,
                    verbose=0,
                    stop=_StopWhen(queue),
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    callbacks=[_Follow(queue)],
                ),
            ).fit()
    finally:
        shutil.rmtree(folder if shared_storage is None else f"{folder}/{name}", ignore_errors=True)
    return outcome


def _run_trial(config: dict[str, Any]) -> None:
    """One trial on a worker: the whole trajectory, reported level by level."""
    from sdd_core import trajectory

    spec = from_json(config["spec"])
    rule = GiveUp(**config["give_up"]) if config["give_up"] is not None else None
    gpu = bool(ray.get_gpu_ids())

    def report(record: LevelRecord, trained: bool) -> None:
        end = last_level(record.prunable, spec.prune_fraction, spec.target_sparsity)
        tune.report(
            {
                "key": record.key,
                "level": record.level,
                "levels": 1 + (end if config["last_level"] is None else min(end, config["last_level"])),
                "sparsity": record.sparsity,
                "accuracy": record.deciding_accuracy(rule.labels if rule is not None else "clean"),
                "seconds": record.measured["seconds"],
                "trained": trained,
                "costs": vars(costs([record])),
            }
        )

    trajectory.run(
        spec,
        Store(config["store"]),
        give_up=rule,
        last_level=config["last_level"],
        keep=config["keep"],
        device="cuda" if gpu else "cpu",
        threads=config["threads"],
        on_level=report,
        gpu_share=config["gpu_share"],
    )


class _NotSaved:
    """Tune pickles what it is given to restore an experiment; nothing is restored here, so nothing is saved."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _NotSaved, ()


class _StopWhen(_NotSaved, tune.Stopper):
    """Ends the whole experiment when the user has interrupted it, and a trial's when the budget is used up.

    It hears of every level: of one that it ends a trial at Tune does not tell the searcher.
    """

    def __init__(self, queue: _Queue) -> None:
        self.queue = queue

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.queue.level_finished(trial_id, result)
        return self.queue.outcome.exhausted is not None

    def stop_all(self) -> bool:
        return self.queue.outcome.interrupted


@contextmanager
def _ctrl_c(outcome: Outcome) -> Iterator[None]:
    """The first Ctrl-C (or a polite kill) ends the sweep cleanly, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if outcome.interrupted:
            raise KeyboardInterrupt
        outcome.interrupted = True

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Queue(_NotSaved, Searcher):
    """Hands Ray Tune the trials that a source asks for, when a worker is free and their next level is nobody's."""

    def __init__(
        self,
        source: Source,
        store: Store,
        resources: Resources,
        keep: str,
        listeners: Sequence[Listener],
        outcome: Outcome,
        budget: Budget | None,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self.source, self.store, self.resources, self.keep = source, store, resources, keep
        self.listeners, self.outcome, self.budget = listeners, outcome, budget
        self.running: dict[str, Task] = {}  # by Ray's id of the trial
        self._plan: list[Task] | None = None
        self._ran: set[Task] = set()

    def suggest(self, trial_id: str) -> Any:  # a config, None to be asked again, or FINISHED
        if self.outcome.interrupted or self.outcome.exhausted is not None:
            return Searcher.FINISHED
        if len(self.running) >= self.resources.width:
            return None
        task = self._next_task()
        if task is None:
            return None if self.running else Searcher.FINISHED
        self.running[trial_id] = task
        return {
            "spec": to_json(task.spec),
            "give_up": asdict(task.give_up) if task.give_up is not None else None,
            "last_level": task.last_level,
            "store": self.store.url,
            "keep": self.keep,
            "threads": self.resources.threads,
            "gpu_share": min(1.0, self.resources.gpus) or 1.0,
        }

    def _next_task(self) -> Task | None:
        """The first planned trial that waits for nothing, is not running, has not failed, and shares no level.

        Its teacher's level is known, and its own next level is nobody's who runs now.
        """
        if self._plan is None:
            self._plan = in_stages(self.store, self.source.plan(), self._ran)
            for listener in self.listeners:
                listener.planned(self._plan, self.source.trials_left())
        taken = {self.store.next_key(task.spec) for task in self.running.values()}
        running = {task.spec.trial_id for task in self.running.values()}
        for task in self._plan:
            teacher = teacher_task(self.store, task, self._ran)
            if teacher is not None:
                if teacher.spec.trial_id in self.outcome.failures:
                    self.outcome.held_back[task.spec.trial_id] = teacher.spec.trial_id
                continue
            if task.spec.trial_id in running or task.spec.trial_id in self.outcome.failures:
                continue
            if self.store.next_key(task.spec) not in taken:
                return task
        return None

    def started(self, ray_id: str) -> None:
        for listener in self.listeners:
            listener.started(self.running[ray_id])

    def level_finished(self, ray_id: str, result: dict[str, Any]) -> None:
        """A worker has read or trained a level."""
        task = self.running.get(ray_id)
        if task is None or "level" not in result or result.get("done"):  # the last level's is repeated at the end
            return
        metrics = {name: float(result[name]) for name in ("level", "levels", "sparsity", "accuracy", "seconds")}
        if result["trained"]:
            self.outcome.spent.add(result)
            if self.budget is not None and self.outcome.exhausted is None:
                self.outcome.exhausted = self.budget.used_up(self.outcome.spent)
        for listener in self.listeners:
            listener.level_finished(task, metrics, bool(result["trained"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:  # `failed` follows, with the reason
            return
        task = self.running.pop(trial_id, None)
        self._plan = None
        if task is None or self.outcome.interrupted:
            return
        self._ran.add(task)
        for listener in self.listeners:
            listener.ended(task, by_budget=self.outcome.exhausted is not None)

    def failed(self, ray_id: str, reason: str) -> None:
        task = self.running.pop(ray_id, None)
        self._plan = None
        if task is None:
            return
        self.outcome.failures[task.spec.trial_id] = reason
        for listener in self.listeners:
            listener.failed(task, reason)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is what a sweep resumes from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class _Follow(_NotSaved, tune.Callback):
    """What the searcher is not told: that a trial has started, and why one failed for good."""

    def __init__(self, queue: _Queue) -> None:
        self.queue = queue

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.queue.started(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_error()
        lines = str(error).strip().splitlines() if error is not None else ["no message"]
        self.queue.failed(trial.trial_id, "\n".join(lines[-6:]))
