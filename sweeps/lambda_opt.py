"""Find λ_opt: `python sweeps/lambda_opt.py`. See --help.

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
from sweeps.kinds.lambda_opt.flags import Options, read_options
from sweeps.kinds.lambda_opt.plan import SearchSettings
from sweeps.kinds.lambda_opt.report import report
from sweeps.kinds.lambda_opt.study import PARAMETER
from sweeps.kinds.study import StudyInDatabase, log_range
from sweeps.run import launch
from sweeps.sweep import Sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""

    return launch.main(lambda: sweep(read_options(arguments)))


def sweep(options: Options) -> tuple[Common, Sweep]:
    """The searches that the options ask for, one a setting."""
    common, searches = options.common, options.searches
    return common, Sweep(
        script="lambda_opt.py",
        heading=_heading(searches),
        plans=searches,
        specs=tuple(search.base for search in searches),
        report=lambda store, steps: report(store, searches, steps, common.sweep, common.reading),
        tolerance=searches[0].rule.tolerance,
        studies=tuple(_study(options, search) for search in searches),
    )


def _study(options: Options, search: SearchSettings) -> StudyInDatabase:
    rule, points = search.rule, search.points
    own = "" if len(options.searches) == 1 else f" {words.setting_label(search.base)}"
    name = f"{options.common.sweep} {rule.shape} {rule.tolerance:.4g} {rule.labels}{own}"
    return StudyInDatabase(options.optuna, name, ["minimize"], {PARAMETER: log_range(points[0], points[-1])})


def _heading(searches: Sequence[SearchSettings]) -> str:
    first = searches[0]
    what = words.setting_label(first.base) if len(searches) == 1 else f"{len(searches)} settings"
    return (
        f"λ_opt for {what}: λ in [{first.points[0]:g}, {first.points[-1]:g}], {len(first.points)} grid points, "
        f"{count(len(first.seeds), 'seed')} a λ, {first.rule.shape} tolerance "
        f"{100 * first.rule.tolerance:.1f} points on {first.base.decided_on}"
    )


if __name__ == "__main__":
    sys.exit(main())
