"""Find lambda_opt: `python sweeps/lambda_opt.py`. See --help.

On the embedded default (digits, half of the labels noisy, LeNet-300-100) it takes some minutes on 2 cores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from sdd_core.reading import Reading, trial_metrics
from sweeps.kinds.lambda_opt.flags import Options, make_parser, read_options
from sweeps.kinds.lambda_opt.plan import LambdaSearch
from sweeps.kinds.lambda_opt.report import LambdaAnswer
from sweeps.kinds.lambda_opt.study import LambdaStudy
from sweeps.run import launch
from sweeps.tracking.mirror import TrialFinal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return launch.command(lambda console: _run(read_options(arguments), console))


def _run(options: Options, console: Console) -> int:
    if len(options.searches) > 1:
        make_parser().refuse([f"{len(options.searches)} settings: one at a time for now"])
    return _search(options, console)


def _search(options: Options, console: Console) -> int:
    settings, common = options.search, options.common
    rule = settings.rule
    study = LambdaStudy(
        None if common.cost.plan else options.optuna,
        f"{common.sweep} {rule.shape} {rule.tolerance:.4g} {rule.labels}",
        settings.points,
        settings.width,
        lambda value: [trial.trial_id for trial in settings.trials(value)],
    )
    search = LambdaSearch(settings, common.store, study)
    running = launch.Launch(
        script="lambda_opt",
        common=common,
        source=search,
        specs=[settings.base],
        console=console,
        refuse=make_parser().refuse,
        tolerance=rule.tolerance,
    )
    if common.cost.plan:
        return running.plan(_heading(options))
    running.run(_heading(options))
    if not running.finished:
        search.plan()
        return running.account(search.trials(), _finals(search, None))
    answer = LambdaAnswer(search, common.sweep, common.reading)
    _draw(options, search, answer)
    metrics, tags = answer.sweep_figures()
    finals = _finals(search, common.reading)
    notes = [study.warning]
    running.conclude(search.trials(), answer.as_json(), answer.print, finals, metrics, tags, notes)
    return 0


def _heading(options: Options) -> str:
    from analysis import frames

    base, settings = options.search.base, options.search
    return (
        f"λ_opt for {frames.setting_label(base)}: λ in [{settings.points[0]:g}, "
        f"{settings.points[-1]:g}], {len(settings.points)} grid points, {len(settings.seeds)} "
        f"seed{'s' if len(settings.seeds) > 1 else ''} a λ, {settings.rule.shape} tolerance "
        f"{100 * settings.rule.tolerance:.1f} points on {base.decided_on}"
    )


def _draw(options: Options, search: LambdaSearch, answer: LambdaAnswer) -> None:
    from analysis import frames
    from analysis.pictures import curves

    picture = options.common.picture
    picture.parent.mkdir(parents=True, exist_ok=True)
    curves.plot_curves(
        picture,
        frames.setting_label(answer.base),
        search.trials(),
        base=options.search.points[0],
        optimum=answer.weight_decay(answer.found.optimum),
        tolerance=options.search.rule.tolerance,
        labels=options.search.rule.labels,
    )


def _finals(search: LambdaSearch, reading: Reading | None) -> dict[str, TrialFinal]:
    """Every trial asked for, as MLflow gets it: with final figures when there is an answer to read them for."""
    finals = {}
    for point in search.asked:
        verdicts = search.trial_verdicts(point)
        for (trial, levels), verdict in zip(search.curves(point), verdicts, strict=True):
            finals[trial.trial_id] = TrialFinal(
                spec=trial,
                metrics=trial_metrics(trial, levels, reading) if reading is not None else {},
                tags={"verdict": verdict} if verdict is not None else {},
                finished=verdict is not None,
            )
    return finals


if __name__ == "__main__":
    sys.exit(main())
