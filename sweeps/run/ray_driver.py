"""The driver: plans -> queue -> Ray Tune -> the store.

`sweeps.run.queue` decides which trial runs next; here it is connected to Ray Tune, which starts the workers,
hands them the trials and replaces workers that die. A trial is one call of `sdd_core.trajectory.run` on a
worker, which reads and commits levels itself, so nothing depends on Ray's own experiment state: running
again is resuming.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

# Read by Ray and Tune when they are imported or when a run begins: no usage reports, no files beside the store, no
# handler of Tune's for Ctrl-C, and a trial that asked for no GPU sees none. Tune's record of the experiment, which
# holds every trial and its folder, is written at the beginning and the end alone: nothing reads it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "inf")

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from sdd_core import registry
from sdd_core.curve import GiveUp
from sdd_core.ledger import costs
from sdd_core.record import LevelRecord
from sdd_core.spec import from_json, last_level, to_json
from sdd_core.store import Store
from sweeps.run.outcome import Budget, Listener, Outcome, reason_of
from sweeps.run.queue import Queue
from sweeps.sweep import Plan, Task

RETRIES = 2  # of a trial whose worker died or raised; it goes on from its last finished level


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial asks for, and how many may run at once."""

    cpus: float
    gpus: float
    width: int
    threads: int


def run(
    plans: Sequence[Plan],
    store: Store,
    *,
    resources: Resources,
    keep: str,
    labels: str,
    listeners: Sequence[Listener],
    budget: Budget | None = None,
    shared_storage: str | None = None,
) -> Outcome:
    """Run the trials that the plans ask for until they ask for none. Ray must be attached already.

    `sweeps.run.queue` has the order in which they run. A trial that fails for good is named in the
    outcome, with the students that it holds back, and the others go on; Ctrl-C ends the sweep at once,
    and what is finished stays. When the `budget` is used up no trial is started any more, and each that
    runs ends with the level that it is in. `labels` (clean or noisy) are those of the accuracy that
    listeners are told. `shared_storage` is where Ray keeps its own passing files on a cluster; on one
    machine they go into a temporary folder. They are removed at the end, except from an object store.
    """
    outcome = Outcome()
    queue = Queue(plans, store, outcome=outcome, listeners=listeners, budget=budget)
    config = {
        "store": store.url,
        "environment": store.environment,
        "also_read": store.also_read,
        "keep": keep,
        "labels": labels,
        "threads": resources.threads,
        "gpu_share": min(1.0, resources.gpus) or 1.0,
        "plugins": registry.loaded_plugins(),
    }
    searcher = _Searcher(queue, resources.width, config)
    folder = shared_storage or tempfile.mkdtemp(prefix="sdd-ray-")
    name = f"run-{uuid.uuid4().hex}"  # never an earlier run's folder, which Tune would go on with
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # By default Tune starts a searcher's workers one after another, which takes some seconds each.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.width)
    try:
        with _ctrl_c(outcome):
            tune.Tuner(
                tune.with_resources(_run_trial, {"cpu": resources.cpus, "gpu": resources.gpus}),
                param_space={},
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=_Scheduler(),  # type: ignore[no-untyped-call]
                    num_samples=-1,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    storage_path=folder,
                    name=name,
                    verbose=0,
                    stop=_Stopper(searcher),
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    callbacks=[_Follow(searcher)],
                ),
            ).fit()
    finally:
        shutil.rmtree(folder if shared_storage is None else f"{folder}/{name}", ignore_errors=True)
    return outcome


def _run_trial(config: dict[str, Any]) -> None:
    """One trial on a worker: the whole trajectory, reported level by level."""
    from sdd_core import machine, trajectory

    config = json.loads(config["trial"])
    registry.load((name, source) for name, source in config["plugins"])
    spec = from_json(config["spec"])
    rule = GiveUp(**config["give_up"]) if config["give_up"] is not None else None
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    here = machine.environment(device, config["threads"])
    if config["environment"] not in (None, here):
        raise RuntimeError(f"this worker's environment is ({here}), and the sweep asks for ({config['environment']})")

    def report(record: LevelRecord, trained: bool) -> None:
        end = last_level(record.prunable, spec.prune_fraction, spec.target_sparsity)
        end = end if config["last_level"] is None else min(end, config["last_level"])
        report = {
            "key": record.key,
            "level": record.level,
            "levels": 1 + (record.level if record.diverged else end),
            "sparsity": record.sparsity,
            "accuracy": record.deciding_accuracy(config["labels"]),
            "seconds": record.measured["seconds"],
            "trained": trained,
            "warning": record.warning,
            "costs": vars(costs([record])),
        }
        tune.report({"report": json.dumps(report)})

    trajectory.run(
        spec,
        Store(config["store"], also_read=config["also_read"], environment=config["environment"]),
        give_up=rule,
        last_level=config["last_level"],
        keep=config["keep"],
        device=device,
        threads=config["threads"],
        on_level=report,
        gpu_share=config["gpu_share"],
    )


class _NotSaved:
    """Tune pickles what it is given to restore an experiment; nothing is restored here, so nothing is saved."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _NotSaved, ()


class _Stopper(_NotSaved, tune.Stopper):
    """Tells the queue of every level; ends trials when the budget is used up, and all of them after Ctrl-C.

    The searcher is not told of the level at which a trial is ended, so it is the stopper that tells the queue.
    """

    def __init__(self, searcher: _Searcher) -> None:
        self.searcher, self.outcome = searcher, searcher.queue.outcome

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        task = self.searcher.tasks.get(trial_id)
        if task is not None and "report" in result and not result.get("done"):  # the last is repeated at the end
            self.searcher.queue.level_finished(task, json.loads(result["report"]))
        return self.outcome.exhausted is not None

    def stop_all(self) -> bool:
        return self.outcome.interrupted


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


class _Searcher(_NotSaved, Searcher):
    """Hands Ray Tune the trials of the queue, and tells the queue which have ended."""

    # A trial goes to its worker as one string, and a level comes back as one: Tune sends a trial's whole
    # configuration back with every level, and keeps statistics of each number in it.

    def __init__(self, queue: Queue, width: int, config: Mapping[str, Any]) -> None:
        super().__init__(metric=None, mode=None)
        self.queue, self.width, self.config = queue, width, config
        self.tasks: dict[str, Task] = {}  # those that run, by Ray's id of the trial

    def suggest(self, trial_id: str) -> Any:  # a config, None to be asked again, or FINISHED
        if len(self.tasks) >= self.width and not self.queue.over:
            return None
        task = self.queue.take()
        if task is None:
            return Searcher.FINISHED if self.queue.over else None
        self.tasks[trial_id] = task
        trial = {
            "spec": to_json(task.spec),
            "give_up": asdict(task.give_up) if task.give_up is not None else None,
            "last_level": task.last_level,
        }
        return {"trial": json.dumps({**self.config, **trial})}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error and trial_id in self.tasks:  # of an error the callback tells, with the reason
            self.queue.ended(self.tasks.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is what a sweep resumes from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class _Scheduler(_NotSaved, FIFOScheduler):
    """Starts trials in the order in which they come, and makes Tune forget those that are over.

    Tune keeps every trial that it has ever run, and looks through all of them at each event and when it is idle.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        trials = tune_controller.get_trials()  # Tune's own list
        over = [trial for trial in trials if trial.is_finished()]
        if over:
            trials[:] = [trial for trial in trials if not trial.is_finished()]
            tune_controller.get_live_trials().difference_update(over)
            inside = tune_controller._tune_controller
            for held in (inside._stopped_trials, inside._failed_trials, inside._trials_to_cache):
                held.clear()
        return super().choose_trial_to_run(tune_controller)


class _Follow(_NotSaved, TrialProgressCallback):
    """Tells the queue what the searcher is not told: that a trial has started, and why one failed for good.

    It stands in the place of Tune's own progress callback, which prints nothing here and remembers every trial.
    """

    def __init__(self, searcher: _Searcher) -> None:
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.searcher.queue.started(self.searcher.tasks[trial.trial_id])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # Not `get_error`, which looks where Tune copies the file to, some time later.
        file = Path(trial.error_file) if trial.error_file else None
        text = file.read_text() if file is not None and file.exists() else ""
        self.searcher.queue.failed(self.searcher.tasks.pop(trial.trial_id), reason_of(text))

    def on_trial_result(self, *_: Any, **__: Any) -> None:
        """Nothing: the stopper tells the queue."""

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """Nothing: the searcher tells the queue."""
