"""One call of an entry script, from its checked options to its exit status, whatever it sweeps over.

    parse -> a source of trials -> `Launch.run` -> an answer -> `Launch.conclude`

Starting or joining Ray, calling the driver, recording what starts and ends, MLflow, and what is said
on the terminal are the same for every sweep and are here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from sdd_core import steps
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sweeps.driver_types import Listener, Outcome, Source, Task
from sweeps.options import Common, gains_from_gpu
from sweeps.progress import Progress
from sweeps.tracking import Tracker, TrialFinal
from sweeps.trial_figures import Trial


def command(run: Callable[[Console], int]) -> int:
    """The exit status of a script's body, Ctrl-C included when the driver does not listen for it yet."""
    console = Console()
    try:
        return run(console)
    except KeyboardInterrupt:  # before the driver listens for Ctrl-C, or a second one
        say(console, "\ninterrupted: every finished level is kept; run the same command again to go on from there")
        return 130


@dataclass(kw_only=True)
class Launch:
    """A sweep that is run now: its options, its source of trials, and its views."""

    script: str
    """Name of the entry script, for MLflow."""

    common: Common
    source: Source
    specs: Sequence[TrialSpec]
    """One trial of each setting that is trained, for what its workers must have."""
    console: Console
    refuse: Callable[[Sequence[str]], NoReturn]
    """Ends the command with these faults and exit status 2."""
    tolerance: float | None = None
    """Of dips, where the sweep has one, for MLflow."""
    outcome: Outcome = field(default_factory=Outcome)
    tracker: Tracker = field(init=False)

    def __post_init__(self) -> None:
        common = self.common
        self.tracker = Tracker(
            common.mlflow,
            common.store,
            common.sweep,
            script=self.script,
            labels=common.reading.labels,
            tolerance=self.tolerance,
        )

    @property
    def finished(self) -> bool:
        """Whether the source got everything that it asked for."""
        return not (self.outcome.interrupted or self.outcome.failures)

    def run(self, heading: str) -> None:
        """Run what the source asks for until it asks for none, and set `outcome`."""
        self.tracker.start()
        say(self.console, f"{heading}; sweep {self.common.sweep}, store {self.common.store.url}")
        if not self.source.plan():
            return
        cluster = self.common.cluster
        say(self.console, "starting Ray" if cluster is None else f"joining the cluster of {cluster.path}")
        self.outcome = self._drive()

    def _drive(self) -> Outcome:
        """Start or join Ray, then let the driver run."""
        from cluster import connect
        from sweeps import driver

        common, shared = self.common, None
        try:
            if common.cluster is not None:
                connect.connect(common.cluster)
                shared = f"{common.store.url.rstrip('/')}/ray"
                faults = connect.check_nodes(common.store.url)
            else:
                connect.start_local(common.workers and int(common.workers * common.cpus))
                faults = []
            gpus = common.gpus
            if gpus is None:
                gpus = 1.0 if any(map(gains_from_gpu, self.specs)) and connect.have_gpus() else 0.0
            faults += connect.check_request(common.cpus, gpus)
            faults += [fault for spec in self.specs for fault in steps.faults(spec, "cuda" if gpus else "cpu")]
        except connect.ClusterError as error:
            self.refuse([str(error)])
        if faults:
            self.refuse(faults)
        width = connect.width(common.cpus, gpus)
        width = min(width, common.workers) if common.workers is not None else width
        progress = Progress(self.console, width, self.specs[0].decided_on)
        listeners: list[Listener] = [_Recorder(common.store, common.sweep, self.tracker), progress]
        with progress:
            return driver.run(
                self.source,
                common.store,
                resources=driver.Resources(cpus=common.cpus, gpus=gpus, width=width, threads=common.threads),
                keep=common.keep,
                listeners=listeners,
                shared_storage=shared,
            )

    # --- the end --------------------------------------------------------------------------

    def account(self, trials: Sequence[Trial], finals: Mapping[str, TrialFinal]) -> int:
        """After Ctrl-C or a failed trial: say what is kept and how to go on; returns the exit status."""
        outcome = self.outcome
        kept = sum(len(levels) for _, levels in trials)
        what = "interrupted" if outcome.interrupted else f"failed trials: {len(outcome.failures)}"
        self.console.print()
        self.say(f"{what}: {kept} finished levels are kept in {self.common.store.url}")
        for trial_id, reason in outcome.failures.items():
            self.say(f"  trial {trial_id}: {reason}")
        for student, teacher in outcome.held_back.items():
            self.say(f"  trial {student}: held back by its teacher, trial {teacher}, which failed")
        self.say("run the same command again to go on from there")
        self._note(self.tracker.finish(finals, {}, {}, [], timeout=15))
        return 130 if outcome.interrupted else 1

    def conclude(
        self,
        trials: Sequence[Trial],
        form: Mapping[str, Any],
        show: Callable[[Console], None],
        finals: Mapping[str, TrialFinal],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        notes: Iterable[str] = (),
    ) -> None:
        """Write down and show a finished sweep's answer; the picture must have been drawn.

        `form` is the answer for machines, `show` prints it for people; `metrics` and `tags` are the
        parent run's in MLflow.
        """
        for trial, _ in trials:  # also those whose levels were all there already
            self.common.store.add_trial(trial, self.common.sweep)
        if self.common.json is not None:
            _write_json(self.common.json, form)
        self.console.print()
        show(self.console)
        complaint = self.tracker.finish(finals, metrics, tags, [self.common.picture])
        held = sum(len(levels) for _, levels in trials)
        self.say(f"  {self.outcome.levels_trained} levels trained now, {held} in the answer")
        self.say(f"  picture    {_near(self.common.picture)}")
        if self.common.json is not None:
            self.say(f"  json       {_near(self.common.json)}")
        self.say(f"  MLflow UI  {_mlflow_command(self.common.mlflow)}")
        for note in (complaint, *notes):
            self._note(note)

    def say(self, line: str) -> None:
        """Print a line as it is."""
        say(self.console, line)

    def _note(self, note: str | None) -> None:
        if note:
            self.say(f"  note: {note}")


class _Recorder:
    """A listener that writes down trials as they start and tells the tracker of finished levels."""

    def __init__(self, store: Store, sweep: str, tracker: Tracker) -> None:
        self.store, self.sweep, self.tracker = store, sweep, tracker

    def planned(self, tasks: Sequence[Task], trials_left: int) -> None:
        for task in tasks:
            self.store.add_trial(task.spec, self.sweep)

    def started(self, task: Task) -> None: ...

    def level_finished(self, task: Task, metrics: dict[str, float], trained: bool) -> None:
        self.tracker.update([task.spec])

    def ended(self, task: Task) -> None:
        self.tracker.update([task.spec])

    def failed(self, task: Task, reason: str) -> None:
        self.tracker.update([task.spec])


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _write_json(path: Path, form: Mapping[str, Any]) -> None:
    """Write an answer to a file, whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(form, indent=2, ensure_ascii=False) + "\n")
    aside.replace(path)


def _near(path: Path) -> str:
    """A path as short as it can be said from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _mlflow_command(uri: str) -> str:
    if uri.startswith(("http://", "https://")):
        return uri
    here = f"sqlite:///{Path.cwd()}/"
    python = _near(Path(sys.executable)) if sys.prefix != sys.base_prefix else "python"
    return f"{python} -m mlflow ui --backend-store-uri {uri.replace(here, 'sqlite:///')}"
