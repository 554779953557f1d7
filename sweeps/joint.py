"""The joint search over λ, α and τ: `python sweeps/joint.py --teacher dense`. See --help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from analysis import frames
from analysis.pictures import joint
from sdd_core.reading import trial_metrics
from sweeps.kinds.joint.flags import Options, make_parser, read_options
from sweeps.kinds.joint.plan import JointSearch, JointSettings
from sweeps.kinds.joint.report import JointAnswer
from sweeps.kinds.joint.study import JointStudy
from sweeps.run import launch
from sweeps.tracking.mirror import TrialFinal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return launch.command(lambda console: _search(read_options(arguments), console))


def _search(options: Options, console: Console) -> int:
    settings, common = options.settings, options.common
    rule = settings.rule
    name = f"{common.sweep} {rule.shape} {rule.tolerance:.4g} {rule.labels} {settings.width}"
    study = JointStudy(None if common.cost.plan else options.optuna, name, settings.axes)
    source = JointSearch(settings, common.store, study, common.reading)
    running = launch.Launch(
        script="joint",
        common=common,
        source=source,
        specs=[settings.base],
        console=console,
        refuse=make_parser().refuse,
        tolerance=rule.tolerance,
    )
    heading = _heading(settings)
    if common.cost.plan:
        return running.plan(heading)
    running.run(heading)
    if not running.finished:
        source.plan()
        return running.account(source.trials(), _finals(source, whole=False))
    answer = JointAnswer(source, common.sweep)
    vanilla, places = answer.places()
    common.picture.parent.mkdir(parents=True, exist_ok=True)
    label = frames.setting_label(settings.base.replace(teacher=None, alpha=0.0))
    title = f"{label}: distilled from {frames.teacher_label(settings.base)}"
    joint.plot_joint(common.picture, title, vanilla, places, decided_on=settings.base.decided_on)
    metrics, tags = answer.sweep_figures()
    finals = _finals(source, whole=True)
    running.conclude(source.trials(), answer.as_json(), answer.print, finals, metrics, tags, [study.warning])
    return 0


def _heading(settings: JointSettings) -> str:
    axes = settings.axes
    ranges = ", ".join(
        f"{sign} in [{values[0]:g}, {values[-1]:g}]"
        for sign, values in (("λ", axes.weight_decay), ("α", axes.alpha), ("τ", axes.temperature))
    )
    student = frames.setting_label(settings.base.replace(teacher=None, alpha=0.0))
    return (
        f"λ, α and τ for {student}, distilled from {frames.teacher_label(settings.base)}: {settings.budget} points of "
        f"{ranges}, {len(settings.seeds)} seed{'s' if len(settings.seeds) > 1 else ''} a point, {settings.rule.shape} "
        f"tolerance {100 * settings.rule.tolerance:.1f} points on {settings.base.decided_on}"
    )


def _finals(source: JointSearch, *, whole: bool) -> dict[str, TrialFinal]:
    """Every trial asked for, as MLflow gets it: with final figures when the search is over (`whole`)."""
    points = [source.judge.base, *(source.settings.trials(point) for point in source.asked)]
    finals = {}
    for trials in points:
        verdicts = source.judge.trial_verdicts(trials)
        for (trial, levels), verdict in zip(source.judge.curves(trials), verdicts, strict=True):
            finals[trial.trial_id] = TrialFinal(
                spec=trial,
                metrics=trial_metrics(trial, levels, source.reading) if whole else {},
                tags={"verdict": verdict} if verdict is not None else {},
                finished=verdict is not None,
            )
    return finals


if __name__ == "__main__":
    sys.exit(main())
