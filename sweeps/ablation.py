"""Sweep any grid of a trial's fields: `python sweeps/ablation.py --vary label_noise=0.2,0.5 --vary alpha=0,0.8`.

See --help. Every arm of the grid runs its whole trajectories, beside all others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.terminal import count
from sweeps.flags import Common
from sweeps.kinds.grid.flags import Options, read_options
from sweeps.kinds.grid.report import report
from sweeps.run import launch
from sweeps.sweep import Sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return launch.main(lambda: sweep(read_options(arguments)))


def sweep(options: Options) -> tuple[Common, Sweep]:
    """The grid that the options ask for."""
    common, grid, tolerance = options.common, options.grid, options.tolerance
    axes = " × ".join(f"{len(values)} {name}" for name, values in grid.axes.items())  # noqa: RUF001
    heading = (
        f"ablation: {count(len(grid.arms), 'arm')}{f' of {axes}' if axes else ''}, {count(len(grid.trials()), 'trial')}"
    )
    return common, Sweep(
        script="ablation.py",
        heading=heading,
        plans=(grid,),
        specs=options.specs,
        report=lambda store, steps: report(store, grid, common.sweep, heading, common.reading, tolerance),
        tolerance=tolerance,
        partial=True,
    )


if __name__ == "__main__":
    sys.exit(main())
