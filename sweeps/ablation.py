"""Sweep any grid of a trial's fields: `python sweeps/ablation.py --vary label_noise=0.2,0.5 --vary alpha=0,0.8`.

See --help. Every arm of the grid runs its whole trajectories, beside all others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.terminal import count
from sdd_core.words import SIGNS
from sweeps.flags import Common
from sweeps.kinds.grid.flags import Options, read_options
from sweeps.kinds.grid.plan import Grid
from sweeps.kinds.grid.report import report
from sweeps.run import launch
from sweeps.sweep import Sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return launch.main(lambda: sweep(read_options(arguments)))


def sweep(options: Options) -> tuple[Common, Sweep]:
    """The grid that the options ask for."""
    common, settings = options.common, options.settings
    grid = Grid(arms=settings.arms, axes=settings.axes)
    axes = " × ".join(f"{len(values)} {SIGNS.get(name, name)}" for name, values in grid.axes.items())  # noqa: RUF001
    trials = grid.trials()
    title = f"ablation: {count(len(grid.arms), 'arm')}{f' of {axes}' if axes else ''}"
    return common, Sweep(
        script="ablation.py",
        heading=f"{title}, {count(len(trials), 'trial')}",
        plans=(grid,),
        specs=tuple({(s.model, s.model_options, s.dataset, s.precision): s for s in trials}.values()),
        report=lambda store, steps: report(store, grid, common.sweep, title, common.reading, options.tolerance),
        tolerance=options.tolerance,
        partial=True,
    )


if __name__ == "__main__":
    sys.exit(main())
