"""Compare a distilled student with the vanilla one: `python sweeps/distill.py`. See --help.

On the embedded default (digits, half of the labels noisy, LeNet-300-100) it takes some minutes on 2 cores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.terminal import count
from sdd_core import words
from sweeps.flags import Common
from sweeps.kinds.distill.flags import Options, read_options
from sweeps.kinds.distill.plan import DistillSettings
from sweeps.kinds.distill.report import report
from sweeps.run import launch
from sweeps.sweep import Sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return launch.main(lambda: sweep(read_options(arguments)))


def sweep(options: Options) -> tuple[Common, Sweep]:
    """The student under every approach that the options ask for."""
    common, settings, tolerance = options.common, options.settings, options.tolerance
    return common, Sweep(
        script="distill.py",
        heading=_heading(settings),
        plans=(settings.plan(),),
        specs=(settings.student, settings.teacher),
        report=lambda store, steps: report(store, settings, common.sweep, common.reading, tolerance),
        tolerance=tolerance,
    )


def _heading(settings: DistillSettings) -> str:
    swept = {"α": settings.alphas, "τ": settings.temperatures, "teacher": settings.levels}
    product = " × ".join(f"{name} {', '.join(map(_short, values))}" for name, values in swept.items())  # noqa: RUF001
    approaches, seeds = len(settings.approaches), len(settings.seeds)
    return (
        f"distillation for {words.setting_label(settings.student)}: vanilla and {product}, "
        f"{count(seeds, 'seed')} each: {seeds * approaches} students"
    )


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


if __name__ == "__main__":
    sys.exit(main())
