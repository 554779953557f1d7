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
from typing import Any, Final, NoReturn

from rich.console import Console

from sdd_core import energy
from sdd_core.ledger import Prediction
from sdd_core.reading import Trial
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sdd_core.training import steps
from sdd_core.words import span
from sweeps.flags import Common, gains_from_gpu
from sweeps.forecast import balance, report
from sweeps.forecast.paces import Paces
from sweeps.run import outcome
from sweeps.run.outcome import Listener, Outcome
from sweeps.run.progress import Progress
from sweeps.sweep import Source, Task
from sweeps.tracking.mirror import TrialFinal
from sweeps.tracking.tracker import Tracker

STOPPED_BY_BUDGET: Final = 3
"""Exit status of a run that its budget ended."""
PLAN_NOTES: Final = (
    "fewest to most levels that any ending of the sweep needs; slowest to fastest turn of the timing",
    "timed for one trial alone on its threads: trials side by side on one machine can be slower",
)


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
    predicted: Prediction | None = None
    """Made right before something runs."""
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
        return not (self.outcome.interrupted or self.outcome.failures or self.outcome.exhausted)

    def plan(self, heading: str) -> int:
        """Say what would run and what it would cost, and run and write nothing; returns the exit status."""
        common = self.common
        paces = Paces(common, turns=5, seconds=2.0)
        self.source.plan()
        found = report.forecast(common.store, self.source.outlook(), paces)
        notes = [*paces.notes, *PLAN_NOTES, f"{common.reading.intensity:g} gCO2e/kWh, PUE {energy.PUE:g}"]
        if common.json is not None:
            figures = report.as_json(found, common.reading.intensity)
            form = {"schema": report.SCHEMA, "plan": {"sweep": common.sweep, "notes": notes} | figures}
            if str(common.json) == "-":
                print(json.dumps(form, indent=2, ensure_ascii=False))
                return 0
            _write_json(common.json, form)
        self.say(f"{heading}; sweep {common.sweep}, store {common.store.url}")
        self.say("PLAN: nothing is run and nothing is written" + (" but the JSON file" if common.json else ""))
        report.show(self.console, found, common.reading.intensity, notes)
        return 0

    def run(self, heading: str) -> None:
        """Run what the source asks for until it asks for none or the budget is used up, and set `outcome`."""
        self.say(f"{heading}; sweep {self.common.sweep}, store {self.common.store.url}")
        if not self.source.plan():
            self.tracker.start()
            return
        # Before anything else runs: MLflow's thread and Ray would slow the timing.
        paces = Paces(self.common, turns=3, seconds=0.5)
        self.predicted = balance.predict(self.common.store, self.source.outlook(), paces)
        if self.common.cost.budget_gco2 is not None and self.predicted.power is None:
            stated = "state SDD_CPU_WATTS or SDD_GPU_WATTS, or --device-rate with --device-watts"
            self.refuse([f"budget_gco2: no energy figure can be had here ({'; '.join(paces.notes)}); {stated}"])
        self.tracker.start()
        cluster = self.common.cluster
        self.say("starting Ray" if cluster is None else f"joining the cluster of {cluster.path}")
        self.outcome = self._drive()
        if self.outcome.exhausted and not self.source.plan():
            self.outcome.exhausted = None  # with the last level

    def _drive(self) -> Outcome:
        """Start or join Ray, then let the driver run."""
        from cluster import connect
        from sweeps.run import ray_driver

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
            return ray_driver.run(
                self.source,
                common.store,
                resources=ray_driver.Resources(cpus=common.cpus, gpus=gpus, width=width, threads=common.threads),
                keep=common.keep,
                listeners=listeners,
                budget=outcome.Budget(
                    pflop=common.cost.budget_pflop,
                    gco2=common.cost.budget_gco2,
                    intensity=common.reading.intensity,
                    power=self.predicted.power if self.predicted is not None else None,
                ),
                shared_storage=shared,
            )

    # --- the end --------------------------------------------------------------------------

    def account(self, trials: Sequence[Trial], finals: Mapping[str, TrialFinal]) -> int:
        """After Ctrl-C, a failed trial or a used-up budget: say what is kept, what is left to do and how to go on.

        Returns the exit status.
        """
        outcome = self.outcome
        teachers = [spec.teacher.trial for spec, _ in trials if spec.distilled and spec.teacher is not None]
        records = [record for _, levels in trials for record in levels]
        records += [record for spec in dict.fromkeys(teachers) for record in self.common.store.curve(spec)]
        kept = len({record.key for record in records})
        what = "interrupted" if outcome.interrupted else f"failed trials: {len(outcome.failures)}"
        if outcome.exhausted and not (outcome.interrupted or outcome.failures):
            what = outcome.exhausted
        self.console.print()
        self.say(f"{what}: {kept} finished levels are kept in {self.common.store.url}")
        for trial_id, reason in outcome.failures.items():
            self.say(f"  trial {trial_id}: {reason}")
        for student, teacher in outcome.held_back.items():
            self.say(f"  trial {student}: held back by its teacher, trial {teacher}, which failed")
        if outcome.exhausted:
            self._say_what_is_left()
        self.say("run the same command again to go on from there")
        self._note(self.tracker.finish(finals, {}, {}, [], timeout=15))
        return 130 if outcome.interrupted else 1 if outcome.failures else STOPPED_BY_BUDGET

    def _say_what_is_left(self) -> None:
        spent = self.outcome.spent
        left = report.as_json(report.forecast(self.common.store, self.source.outlook(), lambda spec: None), 0.0)
        self.say(f"  this run: {spent.levels} levels, {spent.pflop:.3g} PFLOP")
        self.say(
            f"  left undone: {span(left['levels'], '{:.0f}')} levels of "
            f"{span(left['trials'], '{:.0f}')} trials, {span(left['pflop'])} PFLOP"
        )

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
        parent run's in MLflow. What this run cost is in MLflow and on the terminal, but not in the answer,
        which is the same however many runs it took.
        """
        for trial, _ in trials:  # also those whose levels were all there already
            self.common.store.add_trial(trial, self.common.sweep)
        costs = self._costs(trials)
        if self.common.json is not None:
            _write_json(self.common.json, form)
        self.console.print()
        show(self.console)
        complaint = self.tracker.finish(finals, {**metrics, **_flat(costs)}, tags, [self.common.picture])
        held = sum(len(levels) for _, levels in trials)
        self.say(f"  {self.outcome.spent.levels} levels trained now, {held} in the answer")
        lines = balance.comparison_lines(costs["run"]) if costs["run"] else []
        for line in (*lines, balance.saved_line(costs["saved"])):
            if line:
                self.say(f"  {line}")
        self.say(f"  picture    {_near(self.common.picture)}")
        if self.common.json is not None:
            self.say(f"  json       {_near(self.common.json)}")
        self.say(f"  MLflow UI  {_mlflow_command(self.common.mlflow)}")
        for note in (complaint, *notes):
            self._note(note)

    def _costs(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """What this run was predicted to cost and what it did (None when nothing ran), and what the sweep saved."""
        spent, run = self.outcome.spent, None
        if self.predicted is not None:
            run = balance.comparison(self.predicted, spent, self.common.reading.intensity)
        return {"run": run, "saved": balance.saved(self.common.store, trials, spent)}

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

    def ended(self, task: Task, by_budget: bool) -> None:
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


def _flat(costs: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a run's costs as metrics of one level of names; those that are not known left out."""
    metrics = {f"saved_{why}_{name}": value for why, form in costs["saved"].items() for name, value in form.items()}
    for name, form in (costs["run"] or {}).items():
        ends = form["predicted"] or {}
        metrics |= {f"run_{name}": form["measured"]} | {f"run_{name}_predicted_{end}": ends[end] for end in ends}
    return {name: float(value) for name, value in metrics.items() if value is not None}


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
