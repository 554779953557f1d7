"""What the searches of one sweep are called: on the terminal, in MLflow and in Optuna's database."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analysis.terminal import count
from sdd_core import words
from sdd_core.spec import TrialSpec
from sweeps.kinds.lambda_opt.plan import SearchSettings
from sweeps.kinds.lambda_opt.study import PARAMETER
from sweeps.kinds.study import StudyInDatabase, log_range


def heading(searches: Sequence[SearchSettings]) -> str:
    """What the sweep does, in one line."""
    first = searches[0]
    what = words.setting_label(first.base) if len(searches) == 1 else f"{len(searches)} settings"
    grids = {search.points for search in searches}
    where = f"λ in [{first.points[0]:g}, {first.points[-1]:g}], {len(first.points)} grid points"
    if len(grids) > 1:
        where = f"λ on {len(grids)} grids, from each setting's base λ on"
    return (
        f"λ_opt for {what}: {where}, "
        f"{count(len(first.seeds), 'seed')} a λ, {first.rule.shape} tolerance "
        f"{100 * first.rule.tolerance:.1f} points on {first.base.decided_on}"
    )


def namer(searches: Sequence[SearchSettings]) -> Callable[[TrialSpec], str]:
    """What tells a trial from the others: its setting too, where there are several."""
    if len(searches) == 1:
        return words.trial_name
    return lambda trial: f"{words.setting_label(trial)}, {words.trial_name(trial)}"


def in_database(url: str, sweep: str, search: SearchSettings, searches: Sequence[SearchSettings]) -> StudyInDatabase:
    """The study that shows one of the searches of a sweep."""
    rule, points = search.rule, search.points
    own = "" if len(searches) == 1 else f" {words.setting_label(search.base)}"
    name = f"{sweep} {rule.shape} {rule.tolerance:.4g} {rule.labels}{own}"
    return StudyInDatabase(url, name, ["minimize"], {PARAMETER: log_range(points[0], points[-1])})
