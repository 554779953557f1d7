"""Find lambda_opt: `python sweeps/lambda_opt.py`. See --help.

On the embedded default (digits, half of the labels noisy, LeNet-300-100) it takes some minutes on 2 cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from sdd_core import steps
from sdd_core.store import Store
from sweeps.answer import LambdaAnswer
from sweeps.driver_types import Listener, Outcome, Task
from sweeps.lambda_search import LambdaSearch
from sweeps.options import Options, gains_from_gpu, make_parser, read_options
from sweeps.progress import Progress
from sweeps.search import LambdaStudy
from sweeps.tracking import Tracker, TrialFinal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    console = Console()
    try:
        return _search(read_options(arguments), console)
    except KeyboardInterrupt:  # before the driver listens for Ctrl-C, or a second one
        _say(console, "\ninterrupted: every finished level is kept; run the same command again to go on from there")
        return 130


def _search(options: Options, console: Console) -> int:
    settings = options.search
    study = LambdaStudy(
        options.optuna,
        f"{options.sweep} {settings.rule.shape} {settings.rule.tolerance:.4g} {settings.rule.labels}",
        settings.points,
        settings.width,
        lambda value: [trial.trial_id for trial in settings.trials(value)],
    )
    search = LambdaSearch(settings, options.store, study)
    tracker = Tracker(
        options.mlflow,
        options.store,
        options.sweep,
        script="lambda_opt",
        labels=settings.rule.labels,
        tolerance=settings.rule.tolerance,
    )
    tracker.start()
    _announce(console, options)
    outcome = Outcome()
    if search.plan():
        _say(console, "starting Ray" if options.cluster is None else f"joining the cluster of {options.cluster.path}")
        outcome = _run(console, options, search, tracker)
    if outcome.interrupted or outcome.failures:
        return _give_account(console, options, search, tracker, outcome)
    _answer(console, options, search, tracker, outcome)
    return 0


# --- running ------------------------------------------------------------------------------


class _Recorder:
    """A listener that writes down trials as they start and tells the tracker of finished levels."""

    def __init__(self, store: Store, sweep: str, tracker: Tracker) -> None:
        self.store, self.sweep, self.tracker = store, sweep, tracker

    def planned(self, tasks: Sequence[Task], lambdas_left: int) -> None:
        for task in tasks:
            self.store.add_trial(task.spec, self.sweep)

    def started(self, task: Task) -> None: ...

    def level_finished(self, task: Task, metrics: dict[str, float], trained: bool) -> None:
        self.tracker.update([task.spec])

    def ended(self, task: Task) -> None:
        self.tracker.update([task.spec])

    def failed(self, task: Task, reason: str) -> None:
        self.tracker.update([task.spec])


def _announce(console: Console, options: Options) -> None:
    base, settings = options.search.base, options.search
    console.print(
        f"λ_opt for {base.model} on {base.dataset}, ε = {base.label_noise:g}: λ in [{settings.points[0]:g}, "
        f"{settings.points[-1]:g}], {len(settings.points)} grid points, {len(settings.seeds)} "
        f"seed{'s' if len(settings.seeds) > 1 else ''} a λ, {settings.rule.shape} tolerance "
        f"{100 * settings.rule.tolerance:.1f} points on {base.decided_on}; "
        f"sweep {options.sweep}, store {options.store.url}",
        highlight=False,
        soft_wrap=True,
    )


def _run(console: Console, options: Options, search: LambdaSearch, tracker: Tracker) -> Outcome:
    """Start or join Ray, then run what the search asks for."""
    from cluster import connect
    from sweeps import driver

    shared: str | None = None
    try:
        if options.cluster is not None:
            connect.connect(options.cluster)
            shared = f"{options.store.url.rstrip('/')}/ray"
            faults = connect.check_nodes(options.store.url)
        else:
            connect.start_local(options.workers and int(options.workers * options.cpus))
            faults = []
        gpus = options.gpus
        if gpus is None:
            gpus = 1.0 if gains_from_gpu(options.search.base) and connect.have_gpus() else 0.0
        faults += connect.check_request(options.cpus, gpus)
        faults += steps.faults(options.search.base, "cuda" if gpus else "cpu")
    except connect.ClusterError as error:
        make_parser().refuse([str(error)])
    if faults:
        make_parser().refuse(faults)
    width = connect.width(options.cpus, gpus)
    width = min(width, options.workers) if options.workers is not None else width
    progress = Progress(console, width, len(options.search.seeds), options.search.base.decided_on)
    listeners: list[Listener] = [_Recorder(options.store, options.sweep, tracker), progress]
    with progress:
        return driver.run(
            search,
            options.store,
            resources=driver.Resources(cpus=options.cpus, gpus=gpus, width=width, threads=options.threads),
            keep=options.keep,
            listeners=listeners,
            shared_storage=shared,
        )


# --- the end ------------------------------------------------------------------------------


def _answer(console: Console, options: Options, search: LambdaSearch, tracker: Tracker, outcome: Outcome) -> None:
    """Print, draw, write and record the answer."""
    from analysis import plots, runs

    answer = LambdaAnswer(search, options.sweep, options.reading)
    trials = answer.trials()
    for trial, _ in trials:  # also those whose levels were all there already
        options.store.add_trial(trial, options.sweep)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    plots.plot_curves(
        options.picture,
        runs.setting_label(answer.base),
        trials,
        base=options.search.points[0],
        optimum=answer.weight_decay(answer.found.optimum),
        tolerance=options.search.rule.tolerance,
        labels=options.search.rule.labels,
    )
    if options.json is not None:
        answer.write_json(options.json)
    console.print()
    answer.print(console)
    metrics, tags = answer.sweep_figures()
    complaint = tracker.finish(_finals(search, answer), metrics, tags, [options.picture])
    trained = f"{outcome.levels_trained} levels trained now, {sum(len(c) for _, c in trials)} in the answer"
    _say(console, f"  {trained}")
    _say(console, f"  picture    {_near(options.picture)}")
    if options.json is not None:
        _say(console, f"  json       {_near(options.json)}")
    _say(console, f"  MLflow UI  {_mlflow_command(options.mlflow)}")
    for warning in (complaint, search.study.warning):
        if warning:
            _say(console, f"  note: {warning}")


def _finals(search: LambdaSearch, answer: LambdaAnswer | None) -> dict[str, TrialFinal]:
    """Final figures of every trial asked for, as MLflow gets them."""
    finals = {}
    for point in search.asked:
        verdicts = search.trial_verdicts(point)
        for (trial, levels), verdict in zip(search.curves(point), verdicts, strict=True):
            decided = verdict is not None
            finals[trial.trial_id] = TrialFinal(
                spec=trial,
                metrics=answer.trial_figures(trial, levels) if answer is not None else {},
                tags={"verdict": verdict} if verdict is not None else {},
                finished=decided,
            )
    return finals


def _give_account(console: Console, options: Options, search: LambdaSearch, tracker: Tracker, outcome: Outcome) -> int:
    """After Ctrl-C or a failed trial: what is kept, and how to go on."""
    search.plan()
    kept = sum(len(levels) for point in search.asked for _, levels in search.curves(point))
    what = "interrupted" if outcome.interrupted else f"failed trials: {len(outcome.failures)}"
    console.print()
    _say(console, f"{what}: {kept} finished levels are kept in {options.store.url}")
    for trial_id, reason in outcome.failures.items():
        _say(console, f"  trial {trial_id}: {reason}")
    _say(console, "run the same command again to go on from there")
    complaint = tracker.finish(_finals(search, None), {}, {}, [], timeout=15)
    if complaint:
        _say(console, f"  note: {complaint}")
    return 130 if outcome.interrupted else 1


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, soft_wrap=True, markup=False)


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


if __name__ == "__main__":
    sys.exit(main())
