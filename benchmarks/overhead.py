"""What running a sweep costs beside the training: the driver's time and memory, as ratios within one run.

    python benchmarks/overhead.py                      the queue alone, then levels that are not trained through Ray
    python benchmarks/overhead.py --real 100           also 100 real trials of 29 levels of about 0.3 s, twice: 15 min
    python benchmarks/overhead.py --trials 200 --sizes 200 400     a quick look

(a) `--real N`: N trials of LeNet-300-100 on digits through the driver, against the same trials in bare processes, as
    many as there are workers, that share the trials equally. To reach: at most 1.10 times the bare time.
(b) The queue alone, told of levels that nobody trained: time of an event in the last tenth of the trials over
    that in the first, for each of `--sizes` (2,000 and 10,000 trials of 29 levels). To reach: at most 1.2, and
    under 1 KB of memory a level.
(c) `--trials N` (2,000) through real Ray with a worker that only reports: the same ratio of the driver's time. What
    a trial takes there is almost all Ray's.

Times differ between machines and hours; the ratios are what is compared. A machine that does other work at the same
time makes them worse.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sdd_core import recipes
from sdd_core.ledger import NOTHING
from sdd_core.spec import TrialSpec, level_keys
from sdd_core.store import Store
from sweeps.run.outcome import Outcome
from sweeps.run.queue import Queue
from sweeps.sweep import Outlook, Step, Task

LEVELS: Final = 29
WORKERS: Final = 2
EPOCHS: Final = 45
"""A level of LeNet-300-100 on digits then takes about 0.3 s on a core."""


@dataclass
class Once:
    """A plan that asks for its trials once and is over when they have ended, whatever the store holds."""

    specs: Sequence[TrialSpec]
    asked: bool = False

    def step(self, store: Store) -> Step:
        tasks = () if self.asked else tuple(Task(spec) for spec in self.specs)
        self.asked = True
        return Step(tasks=tasks, trials=tuple(self.specs), answer=None if tasks else "over")

    def outlook(self, store: Store) -> Outlook:
        raise AssertionError("nothing is planned here")


@dataclass
class Clock:
    """A listener that notes when each trial ended."""

    ends: list[float] = field(default_factory=list)

    def planned(self, waiting: int, left: int) -> None: ...

    def started(self, task: Task) -> None: ...

    def level_finished(self, task: Task, metrics: dict[str, float], trained: bool) -> None: ...

    def warned(self, task: Task, warning: str) -> None: ...

    def ended(self, task: Task, by_budget: bool) -> None:
        self.ends.append(time.perf_counter())

    def failed(self, task: Task, reason: str) -> None:
        raise RuntimeError(f"trial {task.spec.trial_id} failed: {reason}")

    def growth(self) -> float:
        """Time of the last tenth of the trials over that of the first."""
        tenth = max(1, len(self.ends) // 10)
        first = self.ends[tenth] - self.ends[0]
        last = self.ends[-1] - self.ends[-1 - tenth]
        return last / first


def trials(count: int, **changes: Any) -> list[TrialSpec]:
    """So many trials that share no level."""
    base = recipes.digits_lenet().replace(**changes)
    return [base.replace(seed=seed, data_seed=seed) for seed in range(count)]


def report(key: str, level: int) -> dict[str, Any]:
    """What a worker says of a level."""
    paid = vars(NOTHING) | {"levels": 1, "energy_source": "none"}
    figures = {"level": level, "levels": LEVELS, "sparsity": 0.5, "accuracy": 0.5, "seconds": 0.0}
    return {"key": key, "trained": True, "costs": paid, **figures}


# --- (b) the queue alone --------------------------------------------------------------------


def queue_alone(count: int) -> dict[str, float]:
    """Play `count` trials through the queue, as two workers would; times exclude making the levels' keys."""
    specs = trials(count)
    with tempfile.TemporaryDirectory() as folder:
        tracemalloc.start()
        clock = Clock()
        queue = Queue([Once(specs)], Store(folder), outcome=Outcome(), listeners=[clock])
        before, spent = tracemalloc.get_traced_memory()[0], list[float]()
        running: list[tuple[Task, Iterator[str]]] = []
        while True:
            while len(running) < WORKERS and (task := _timed(spent, queue.take)) is not None:
                running.append((task, itertools.islice(level_keys(task.spec), LEVELS)))
            if not running:
                break
            task, keys = running.pop(0)
            events = [functools.partial(queue.started, task)]
            events += [functools.partial(queue.level_finished, task, report(k, n)) for n, k in enumerate(keys)]
            events.append(functools.partial(queue.ended, task))
            spent[-1] += sum(map(_seconds, events))
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    tenth = max(1, len(spent) // 10)
    return {
        "trials": count,
        "last_tenth_over_first": sum(spent[-tenth:]) / sum(spent[:tenth]),
        "milliseconds_a_trial": 1000 * sum(spent) / len(spent),
        "bytes_a_level": grown / (count * LEVELS),
    }


def _timed(spent: list[float], call: Any) -> Any:
    began = time.perf_counter()
    answer = call()
    if answer is not None:
        spent.append(time.perf_counter() - began)
    return answer


def _seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# --- (c) through Ray, without training ------------------------------------------------------


def _only_report(config: dict[str, Any]) -> None:
    """What a worker does in place of a trial."""
    from ray import tune

    from sdd_core.spec import from_json

    spec = from_json(json.loads(config["trial"])["spec"])
    for level, key in enumerate(itertools.islice(level_keys(spec), LEVELS)):
        tune.report({"report": json.dumps(report(key, level))})


def drive(specs: Sequence[TrialSpec], folder: str, *, pretend: bool) -> tuple[float, Clock]:
    """Run trials through the driver on a Ray of this machine; returns the seconds that it took."""
    import ray

    from cluster import connect
    from sweeps.run import ray_driver

    connect.start_local(WORKERS)
    clock, run_trial = Clock(), ray_driver._run_trial
    try:
        ray_driver._run_trial = _only_report if pretend else run_trial
        began = time.perf_counter()
        ray_driver.run(
            [Once(specs)],
            Store(folder),
            resources=ray_driver.Resources(cpus=1, gpus=0, width=WORKERS, threads=1),
            keep="dense_best_last",
            labels="clean",
            listeners=[clock],
        )
        return time.perf_counter() - began, clock
    finally:
        ray_driver._run_trial = run_trial
        ray.shutdown()


def through_ray(count: int) -> dict[str, float]:
    """Play `count` trials through Ray Tune with workers that only report."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, clock = drive(trials(count), folder, pretend=True)
    return {
        "trials": count,
        "last_tenth_over_first": clock.growth(),
        "milliseconds_a_trial": 1000 * seconds / count,
    }


# --- (a) real trials ------------------------------------------------------------------------


def _bare(specs: Sequence[TrialSpec], folder: str) -> None:
    from sdd_core import trajectory

    for spec in specs:
        trajectory.run(spec, Store(folder))


def real(count: int) -> dict[str, float]:
    """The same real trials through the driver and in bare processes, one after the other."""
    specs = trials(count, epochs=EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_bare, args=(specs[number::WORKERS], folder)) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        bare = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        driven, _ = drive(specs, folder, pretend=False)
    return {"trials": count, "bare_seconds": bare, "driver_seconds": driven, "driver_over_bare": driven / bare}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2_000, 10_000], help="trials of (b)")
    parser.add_argument("--trials", type=int, default=2_000, help="trials of (c); 0 leaves it out")
    parser.add_argument("--real", type=int, default=0, metavar="N", help="trials of (a) [left out]")
    parser.add_argument("--json", metavar="FILE", help="write the figures here too")
    options = parser.parse_args(arguments)
    figures: dict[str, list[dict[str, float]]] = {
        "queue alone": [queue_alone(count) for count in options.sizes],
        "through Ray, nothing trained": [through_ray(options.trials)] if options.trials else [],
        "real trials": [real(options.real)] if options.real else [],
    }
    for name, found in figures.items():
        for form in found:
            print(f"{name}: " + ", ".join(f"{word.replace('_', ' ')} {value:.4g}" for word, value in form.items()))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
