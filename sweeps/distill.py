"""Compare a distilled student with the vanilla one: `python sweeps/distill.py`. See --help.

On the embedded default (digits, half of the labels noisy, LeNet-300-100) it takes some minutes on 2 cores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from sdd_core.reading import trial_metrics
from sdd_core.store import is_complete
from sweeps.kinds.distill.flags import Options, make_parser, read_options
from sweeps.kinds.distill.plan import DistillSweep
from sweeps.kinds.distill.report import DistillAnswer
from sweeps.run import launch
from sweeps.tracking.mirror import TrialFinal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return launch.command(lambda console: _sweep(read_options(arguments), console))


def _sweep(options: Options, console: Console) -> int:
    settings, common = options.settings, options.common
    sweep = DistillSweep(settings, common.store)
    running = launch.Launch(
        script="distill",
        common=common,
        source=sweep,
        specs=[settings.student, settings.teacher],
        console=console,
        refuse=make_parser().refuse,
        tolerance=options.tolerance,
    )
    if common.cost.plan:
        return running.plan(_heading(options))
    running.run(_heading(options))
    if not running.finished:
        return running.account(sweep.trials(), _finals(sweep, None))
    answer = DistillAnswer(sweep, common.sweep, common.reading, options.tolerance)
    _draw(options, sweep)
    metrics, tags = answer.sweep_figures()
    running.conclude(sweep.trials(), answer.as_json(), answer.print, _finals(sweep, answer), metrics, tags)
    return 0


def _heading(options: Options) -> str:
    from analysis import frames

    settings = options.settings
    swept = {"α": settings.alphas, "τ": settings.temperatures, "teacher": settings.levels}
    product = " × ".join(f"{name} {', '.join(map(_short, values))}" for name, values in swept.items())  # noqa: RUF001
    approaches, seeds = len(settings.approaches), len(settings.seeds)
    return (
        f"distillation for {frames.setting_label(settings.student)}: vanilla and {product}, "
        f"{seeds} seed{'s' if seeds > 1 else ''} each: {seeds * approaches} students"
    )


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _draw(options: Options, sweep: DistillSweep) -> None:
    from analysis import frames
    from analysis.pictures import distill

    picture, student = options.common.picture, options.settings.student
    picture.parent.mkdir(parents=True, exist_ok=True)
    distill.plot_distillation(
        picture,
        f"{frames.setting_label(student)}, λ={student.weight_decay:g}",
        sweep.students(),
        teacher=sweep.teacher(),
        reading=options.common.reading,
    )


def _finals(sweep: DistillSweep, answer: DistillAnswer | None) -> dict[str, TrialFinal]:
    """Every trial, the teacher's too, as MLflow gets it: with final figures when there is an answer."""
    finals = {}
    held = sweep.teacher()
    if held is not None:
        trial, levels = held
        complete = answer is not None  # it has all levels that the students need
        metrics = trial_metrics(trial, levels, answer.reading) if answer is not None else {}
        finals[trial.trial_id] = TrialFinal(
            spec=trial, metrics=metrics, tags={"approach": "teacher"}, finished=complete
        )
    for approach in sweep.settings.approaches:
        for trial, levels in sweep.curves(approach):
            metrics, tags = answer.trial_figures(approach, trial, levels) if answer is not None else ({}, {})
            if trial.trial_id in finals:
                tags["approach"] = "vanilla, teacher"
            finals[trial.trial_id] = TrialFinal(
                spec=trial, metrics=metrics, tags=tags, finished=is_complete(levels, trial)
            )
    return finals


if __name__ == "__main__":
    sys.exit(main())
