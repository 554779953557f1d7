"""Find λ_opt: `python sweeps/lambda_opt.py`. See --help.

On the embedded default (digits, half of the labels noisy, LeNet-300-100) it takes some minutes on 2 cores.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sweeps.flags import Common
from sweeps.kinds.lambda_opt.flags import Options, read_options
from sweeps.kinds.lambda_opt.naming import heading, in_database, namer
from sweeps.kinds.lambda_opt.report import report
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
        heading=heading(searches),
        plans=searches,
        specs=tuple(search.base for search in searches),
        report=lambda store, steps: report(store, searches, steps, common.sweep, common.reading),
        tolerance=searches[0].rule.tolerance,
        name=namer(searches),
        studies=tuple(in_database(options.optuna, common.sweep, search, searches) for search in searches),
    )


if __name__ == "__main__":
    sys.exit(main())
