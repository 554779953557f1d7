"""Search λ, α and τ of a distilled student together: `python sweeps/joint.py --teacher dense`. See --help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.terminal import count
from sdd_core import words
from sweeps.flags import Common
from sweeps.kinds.joint.flags import Options, read_options
from sweeps.kinds.joint.plan import JointSettings
from sweeps.kinds.joint.report import report
from sweeps.kinds.joint.study import OBJECTIVES
from sweeps.kinds.study import StudyInDatabase
from sweeps.run import launch
from sweeps.sweep import Sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return launch.main(lambda: sweep(read_options(arguments)))


def sweep(options: Options) -> tuple[Common, Sweep]:
    """The joint search that the options ask for."""
    common, settings = options.common, options.settings
    rule = settings.rule
    name = f"{common.sweep} {rule.shape} {rule.tolerance:.4g} {rule.labels} {settings.width}"
    return common, Sweep(
        script="joint.py",
        heading=_heading(settings),
        plans=(settings,),
        specs=(settings.base,),
        report=lambda store, steps: report(store, settings, steps[0].answer, common.sweep),
        tolerance=rule.tolerance,
        studies=(StudyInDatabase(options.optuna, name, ["maximize"] * len(OBJECTIVES), settings.axes.ranges()),),
    )


def _heading(settings: JointSettings) -> str:
    axes = settings.axes
    ranges = ", ".join(
        f"{sign} in [{values[0]:g}, {values[-1]:g}]"
        for sign, values in (("λ", axes.weight_decay), ("α", axes.alpha), ("τ", axes.temperature))
    )
    student = words.setting_label(settings.base.replace(teacher=None, alpha=0.0))
    return (
        f"λ, α and τ for {student}, distilled from {words.teacher_label(settings.base)}: {settings.budget} points of "
        f"{ranges}, {count(len(settings.seeds), 'seed')} a point, {settings.rule.shape} "
        f"tolerance {100 * settings.rule.tolerance:.1f} points on {settings.base.decided_on}"
    )


if __name__ == "__main__":
    sys.exit(main())
