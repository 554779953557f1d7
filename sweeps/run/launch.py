"""One call of an entry script, from its checked options to its exit status, whatever it sweeps over.

    flags -> Sweep -> plan: what would run -> drive: Ray Tune -> report -> outputs

An answer is made only when every plan of the sweep is over, whatever ended the run: that is looked up in the
store, where the answer is made. Otherwise the run says what is kept and what is left (`ending`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from rich.console import Console

from analysis.terminal import say
from sdd_core import energy
from sdd_core.flags import Parser
from sdd_core.ledger import Prediction
from sdd_core.record import environments
from sdd_core.store import Store
from sdd_core.training import steps as training_steps
from sdd_core.words import environments_text, origin_lines
from sweeps.flags import Common, gains_from_gpu
from sweeps.forecast import balance, report
from sweeps.forecast.paces import Paces
from sweeps.run import answers, ending
from sweeps.run.outcome import Budget, Listener, Outcome
from sweeps.run.progress import Progress
from sweeps.sweep import Outlook, Plan, Report, Step, StudyView, Sweep, Task, together
from sweeps.tracking.mirror import TrialFinal
from sweeps.tracking.tracker import Tracker

_SHOWN: Final = 20
PLAN_NOTES: Final = (
    "fewest to most levels that any ending of the sweep needs; slowest to fastest turn of the timing",
    "timed for one trial alone on its threads: trials side by side on one machine can be slower",
)


def main(read: Callable[[], tuple[Common, Sweep]]) -> int:
    """The exit status of a script whose flags `read` reads; Ctrl-C included, also before the driver listens for it."""
    console = Console()
    try:
        common, sweep = read()
        running = Running(common, sweep, console)
        if common.check is not None:
            return running.check(common.check)
        return running.plan() if common.cost.plan else running.run()
    except KeyboardInterrupt:
        say(console, "\ninterrupted: every finished level is kept; run the same command again to go on from there")
        return ending.INTERRUPTED


@dataclass(frozen=True)
class _Shown:
    """A plan whose points a study shows as they are asked for and judged."""

    plan: Plan
    study: StudyView

    def step(self, store: Store) -> Step:
        step = self.plan.step(store)
        self.study.show(step.asked)
        return step

    def outlook(self, store: Store) -> Outlook:
        return self.plan.outlook(store)


class Running:
    """A sweep that is run now, with its views."""

    def __init__(self, common: Common, sweep: Sweep, console: Console) -> None:
        self.common, self.sweep, self.console = common, sweep, console
        self.store, self.outcome = common.store, Outcome()
        self.predicted: Prediction | None = None  # made right before something runs
        self.plans: Sequence[Plan] = sweep.plans
        if sweep.studies and not common.cost.plan and common.check is None:
            self.plans = [_Shown(plan, study) for plan, study in zip(sweep.plans, sweep.studies, strict=True)]
        self.tracker = Tracker(
            common.mlflow,
            common.store,
            common.sweep,
            script=sweep.script.removesuffix(".py"),
            labels=common.reading.labels,
            tolerance=sweep.tolerance,
            name=sweep.name,
        )

    def outlook(self) -> Outlook:
        """What all plans can still come to."""
        return together(plan.outlook(self.store) for plan in self.plans)

    def steps(self) -> list[Step]:
        """What each plan asks for now."""
        return [plan.step(self.store) for plan in self.plans]

    def refuse(self, faults: Sequence[str]) -> NoReturn:
        """End the command with these faults and exit status 2."""
        Parser(prog=self.sweep.script, description="").refuse(faults)

    def say(self, line: str) -> None:
        """Print a line as it is."""
        say(self.console, line)

    # --- before -----------------------------------------------------------------------------

    def plan(self) -> int:
        """Say what would run and what it would cost, and run and write nothing; returns the exit status."""
        common = self.common
        paces = Paces(common, turns=5, seconds=2.0)
        found = report.forecast(self.store, self.outlook(), paces)
        notes = [*paces.notes, *PLAN_NOTES, f"{common.reading.intensity:g} gCO2e/kWh, PUE {energy.PUE:g}"]
        if common.json is not None:
            figures = report.as_json(found, common.reading.intensity)
            form = {"schema": report.SCHEMA, "plan": {"sweep": common.sweep, "notes": notes} | figures}
            if str(common.json) == "-":
                print(json.dumps(form, indent=2, ensure_ascii=False))
                return 0
            answers.write(common.json, form)
        self._say_heading()
        self.say("PLAN: nothing is run and nothing is written" + (" but the JSON file" if common.json else ""))
        report.show(self.console, found, common.reading.intensity, notes)
        return 0

    def check(self, answer: Mapping[str, Any]) -> int:
        """Decide again from the store's records alone and compare with an answer; 1 where they differ."""
        self._say_heading()
        steps = self.steps()
        waiting = {task.spec.trial_id for step in steps for task in step.tasks}
        if waiting:
            self.say(f"CHECK: the store cannot give this answer: {len(waiting)} trials are unfinished or not there")
            return 1
        found = answers.differences(answer, self.sweep.report(self.store, steps).as_json())
        for difference in found[:_SHOWN]:
            self.say(f"  {difference}")
        verdict = f"differs from the store's records in {len(found)} places" if found else "is what the records say"
        self.say(f"CHECK: the answer {verdict}")
        return int(bool(found))

    def _say_heading(self) -> None:
        self.say(f"{self.sweep.heading}; sweep {self.common.sweep}, store {self.store.url}")

    # --- the run ----------------------------------------------------------------------------

    def run(self) -> int:
        """Run what the plans ask for until they are over or something ends the run; returns the exit status."""
        self._say_heading()
        steps = self.steps()
        if any(step.tasks for step in steps):
            self._predict()
            self.tracker.start()
            cluster = self.common.cluster
            self.say("starting Ray" if cluster is None else f"joining the cluster of {cluster.path}")
            self.outcome = self._drive()
            steps = self.steps()
        else:
            self.tracker.start()
        if any(step.tasks for step in steps):
            return self._end_unfinished(steps)
        return self._conclude(self.sweep.report(self.store, steps))

    def _predict(self) -> None:
        """What the run will cost. Before anything else runs: MLflow's thread and Ray would slow the timing."""
        paces = Paces(self.common, turns=3, seconds=0.5)
        self.predicted = balance.predict(self.store, self.outlook(), paces)
        if self.common.cost.budget_gco2 is not None and self.predicted.power is None:
            stated = "state SDD_CPU_WATTS or SDD_GPU_WATTS, or --device-rate with --device-watts"
            self.refuse([f"budget_gco2: no energy figure can be had here ({'; '.join(paces.notes)}); {stated}"])

    def _drive(self) -> Outcome:
        """Start or join Ray, then let the driver run."""
        from cluster import connect
        from sweeps.run import ray_driver

        common, shared = self.common, None
        try:
            if common.cluster is not None:
                connect.connect(common.cluster)
                shared = f"{self.store.url.rstrip('/')}/ray"
                faults = connect.check_nodes(self.store.url, self.store.also_read)
            else:
                connect.start_local(common.workers and int(common.workers * common.cpus))
                faults = []
            gpus = common.gpus
            if gpus is None:
                gpus = 1.0 if any(map(gains_from_gpu, self.sweep.specs)) and connect.have_gpus() else 0.0
            faults += connect.check_request(common.cpus, gpus)
            device = "cuda" if gpus else "cpu"
            faults += [fault for spec in self.sweep.specs for fault in training_steps.faults(spec, device)]
        except connect.ClusterError as error:
            self.refuse([str(error)])
        if faults:
            self.refuse(faults)
        width = connect.width(common.cpus, gpus)
        width = min(width, common.workers) if common.workers is not None else width
        progress = Progress(self.console, width, self.sweep.specs[0].decided_on, self.sweep.name)
        listeners: list[Listener] = [_Recorder(self.store, common.sweep, self.tracker), progress]
        with progress:
            return ray_driver.run(
                self.plans,
                self.store,
                resources=ray_driver.Resources(cpus=common.cpus, gpus=gpus, width=width, threads=common.threads),
                keep=common.keep,
                labels=common.reading.labels,
                listeners=listeners,
                budget=Budget(
                    pflop=common.cost.budget_pflop,
                    gco2=common.cost.budget_gco2,
                    intensity=common.reading.intensity,
                    power=self.predicted.power if self.predicted is not None else None,
                ),
                shared_storage=shared,
            )

    # --- the end ----------------------------------------------------------------------------

    def _end_unfinished(self, steps: Sequence[Step]) -> int:
        """Say what is kept and what is left; where arms stand alone, also what the finished ones show."""
        trials = list(dict.fromkeys(spec for step in steps for spec in step.trials))
        finals: dict[str, TrialFinal] = {}
        if self.sweep.partial and self.outcome.failures:
            found = self.sweep.report(self.store, steps)
            if found.results:
                self._output(found)
        waiting = {task.spec for step in steps for task in step.tasks}
        for spec in ending.teachers_of(trials):
            finals[spec.trial_id] = TrialFinal(spec=spec, metrics={}, tags={"approach": "teacher"}, finished=False)
        for spec in trials:
            finals[spec.trial_id] = TrialFinal(spec=spec, metrics={}, tags={}, finished=spec not in waiting)
        ending.explain(self.console, self.store, trials, self.outcome, self.outlook(), self.sweep.name)
        self._note(self.tracker.finish(finals, {}, {}, [], timeout=15))
        return ending.status(self.outcome)

    def _conclude(self, found: Report) -> int:
        """Write down and show a finished sweep's answer.

        What this run cost is in MLflow and on the terminal, but not in the answer, which is the same however
        many runs it took.
        """
        results = found.results
        for result in results:  # also those whose levels were all there already
            self.store.add_trial(result.spec, self.common.sweep)
        self._output(found)
        trials = [result.trial for result in results]
        saved, spent = balance.saved(self.store, trials, self.outcome.spent), self.outcome.spent
        run = None
        if self.predicted is not None:
            run = balance.comparison(self.predicted, spent, self.common.reading.intensity)
        metrics, tags = found.figures()
        finals = {
            result.spec.trial_id: TrialFinal(
                spec=result.spec,
                metrics=result.metrics(),
                tags=dict(result.tags) | result.environment_tag,
                finished=True,
            )
            for result in results
        }
        complaint = self.tracker.finish(finals, metrics | balance.flat(run, saved), tags, [self.common.picture])
        self.say(f"  {spent.levels} levels trained now, {sum(len(levels) for _, levels in trials)} in the answer")
        keys = _keys_of(found)
        came_from = origin_lines(self.store.origins(keys), len(keys))
        for line in (*came_from, *(balance.comparison_lines(run) if run else ()), balance.saved_line(saved)):
            if line:
                self.say(f"  {line}")
        self.say(f"  picture    {ending.near(self.common.picture)}")
        self.say(f"  config     {ending.near(self._config_file)}")
        if self.common.json is not None:
            self.say(f"  json       {ending.near(self.common.json)}")
        self.say(f"  MLflow UI  {_mlflow_command(self.common.mlflow)}")
        for note in (complaint, *(study.warning for study in self.sweep.studies)):
            self._note(note)
        return 0

    def _output(self, found: Report) -> None:
        """Picture, JSON and terminal of a report."""
        self.common.picture.parent.mkdir(parents=True, exist_ok=True)
        found.draw(self.common.picture)
        self._config_file.write_text(self.common.config, encoding="utf-8")
        made_in = environments(result.curve for result in found.results)
        if self.common.json is not None:
            origins = self.store.origins(_keys_of(found))
            provenance = {"environments": made_in, "levels_from": origins}
            answers.write(self.common.json, found.as_json() | {name: held for name, held in provenance.items() if held})
        self.console.print()
        found.show(self.console)
        if len(made_in) > 1:
            mixed = sum(len(environments([result.curve])) > 1 for result in found.results)
            self.say(
                f"  MIXED ENVIRONMENTS: {environments_text(made_in)}; {mixed} curves mix them. Such levels are "
                "equal to each other only up to rounding; --environment same trains with one alone"
            )

    @property
    def _config_file(self) -> Path:
        """What runs this sweep again with --config."""
        return self.common.picture.with_suffix(".yaml")

    def _note(self, note: str | None) -> None:
        if note:
            self.say(f"  note: {note}")


class _Recorder:
    """A listener that writes down trials as they start and tells the tracker of finished levels."""

    def __init__(self, store: Store, sweep: str, tracker: Tracker) -> None:
        self.store, self.sweep, self.tracker = store, sweep, tracker

    def planned(self, waiting: int, left: int) -> None: ...

    def started(self, task: Task) -> None:
        self.store.add_trial(task.spec, self.sweep)

    def level_finished(self, task: Task, metrics: dict[str, float], trained: bool) -> None:
        self.tracker.update([task.spec])

    def warned(self, task: Task, warning: str) -> None: ...

    def ended(self, task: Task, by_budget: bool) -> None:
        self.tracker.update([task.spec])

    def failed(self, task: Task, reason: str) -> None:
        self.tracker.update([task.spec])


def _keys_of(found: Report) -> set[str]:
    """The keys of the levels that a report speaks of."""
    return {record.key for result in found.results for record in result.curve}


def _mlflow_command(uri: str) -> str:
    if uri.startswith(("http://", "https://")):
        return uri
    here = f"sqlite:///{Path.cwd()}/"
    python = ending.near(Path(sys.executable)) if sys.prefix != sys.base_prefix else "python"
    return f"{python} -m mlflow ui --backend-store-uri {uri.replace(here, 'sqlite:///')}"
