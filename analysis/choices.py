"""Which lambda to take in each setting, run to the end and with early stopping. Pure.

* run to the end: every level of the curve is paid for, and its best one is taken. Only a lambda
  whose curves are all complete counts;
* with early stopping: the practitioner's rule is applied to each seed's curve; the levels up to
  where it ended are paid for. Only a lambda counts on all of whose curves the rule fired, or which
  are complete.

The lambda is chosen by its mean over seeds of the validation accuracy found (ties: the sparser)
and reported on test. Under the paper's protocol test decides.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sdd_core.curve import Point, Summary
from sdd_core.energy import grams
from sdd_core.ledger import Costs, total
from sdd_core.reading import Reading, Trial
from sdd_core.record import PFLOPS, environments, mostly_diverged
from sdd_core.spec import TrialSpec, setting, setting_id
from sdd_core.words import setting_labels

MODES: Final = {"run_to_end": "run to the end", "early_stopping": "early stopping"}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The lambda chosen in one mode: means over its seeds; a deviation is None for one seed."""

    weight_decay: float
    seeds: int
    """Trials that the means are over."""
    deciding_accuracy: float
    """Mean of the accuracies found, on the split and labels that decide."""
    deciding_accuracy_std: float | None
    """Sample standard deviation over the seeds."""
    test_accuracy: float
    test_accuracy_std: float | None
    sparsity: float
    sparsity_std: float | None
    each: Costs
    """What the levels paid for cost one seed, mean; a teacher's trainings are not in it."""
    total: Costs
    """What they cost all seeds together."""
    carbon_intensity: float
    """gCO2e/kWh that the CO2 is computed with."""
    stopped: int
    """Seeds whose curve ended by the rule; the others ran to their end."""
    target_sparsity: float
    """The lowest target of the trials."""
    lambdas: int
    """How many lambdas it was chosen from."""
    trial_ids: tuple[str, ...]

    def as_row(self) -> dict[str, Any]:
        """The choice with `CHOICE_COLUMNS`, as JSON and CSV have it; costs are of one seed, or a `_total`."""
        each, total = self.each, self.total
        row = vars(self) | vars(each) | {"levels_total": total.levels, "pflop_total": total.pflop}
        row |= {"energy_reason": total.energy_note, "co2_g": grams(each.energy_kwh, self.carbon_intensity)}
        return {name: row[name] for name in CHOICE_COLUMNS}


# The costs of a choice, as columns.
_COSTS: Final = (
    *("levels", "levels_total", "pflop", "pflop_total", *PFLOPS[1:]),
    *("seconds", "energy_kwh", "energy_source", "energy_reason", "co2_g"),
)
CHOICE_COLUMNS: Final = tuple(
    column
    for field in dataclasses.fields(Choice)
    for column in {"each": _COSTS, "total": ()}.get(field.name, (field.name,))
)


@dataclass(frozen=True, kw_only=True)
class SettingTradeoff:
    """The answer for one setting and approach."""

    setting_id: str
    setting: dict[str, Any]
    label: str
    decided_on: str
    """`validation`, or `test` under the paper's protocol."""
    deciding_labels: str | None
    """`clean` or `noisy` validation labels; None where test decides."""
    run_to_end: Choice | None
    early_stopping: Choice | None
    reason: str | None
    """Why an answer is missing."""
    trials: int
    lambdas: int
    environments: dict[str, int]
    """Levels by the environment class that made them; the accuracies of several are comparable up to rounding."""


@dataclass(frozen=True)
class _Run:
    """One trial, read, with its figures if it has a level."""

    trial: Trial
    summary: Summary | None
    only_teaches: bool
    """Whether it was run as far as its students need it and no further: nobody waits for its other levels."""

    def point(self, mode: str) -> Point | None:
        """What this trial gives in a mode, or None when its curve does not say yet."""
        if self.summary is None:
            return None
        if mode == "run_to_end":
            return self.summary.best if self.trial.complete else None
        ended = self.trial.complete or self.summary.early_stop_triggered
        return self.summary.early_stop if ended else None


def tradeoffs(trials: Sequence[Trial], reading: Reading) -> list[SettingTradeoff]:
    """The trade-off of each setting among `trials`, in the order of their labels."""
    runs: dict[str, list[_Run]] = {}
    needed = _levels_needed([trial.spec for trial in trials])
    for trial in trials:
        spec = trial.spec
        summary = reading.summary(trial.curve) if trial.curve else None
        only_teaches = not trial.complete and len(trial.curve) <= needed.get(spec.trial_id, -1)
        runs.setdefault(setting_id(spec), []).append(_Run(trial, summary, only_teaches))
    names = setting_labels([trial.spec for trial in trials])
    answers = [_setting_tradeoff(key, names[key], group, reading) for key, group in runs.items()]
    return sorted(answers, key=lambda answer: (answer.label, answer.setting_id))


def _levels_needed(specs: Sequence[TrialSpec]) -> dict[str, int]:
    """How many levels of a teacher's trial (by trial_id) are needed; none of a pruned one, which needs all."""
    needed: dict[str, int] = {}
    for spec in specs:
        if spec.distilled and spec.teacher is not None and spec.teacher.level != "pruned":
            teacher = spec.teacher.trial.trial_id
            needed[teacher] = max(spec.teacher.levels_needed(0), needed.get(teacher, 0))
    return needed


def _setting_tradeoff(key: str, label: str, runs: Sequence[_Run], reading: Reading) -> SettingTradeoff:
    by_lambda: dict[float, list[_Run]] = {}
    for run in runs:
        by_lambda.setdefault(float(run.trial.spec.weight_decay), []).append(run)
    choices = {mode: _choose(by_lambda, mode, reading.intensity) for mode in MODES}
    spec = runs[0].trial.spec
    return SettingTradeoff(
        setting_id=key,
        setting=setting(spec),
        label=label,
        decided_on=spec.decided_on,
        deciding_labels=reading.labels if spec.decided_on == "validation" else None,
        run_to_end=choices["run_to_end"],
        early_stopping=choices["early_stopping"],
        reason=_reason(choices, runs, len(by_lambda)),
        trials=len(runs),
        lambdas=len(by_lambda),
        environments=environments(run.trial.curve for run in runs),
    )


def _choose(by_lambda: dict[float, list[_Run]], mode: str, intensity: float) -> Choice | None:
    """The best lambda of those of which every known seed has an answer; a lucky seed alone does not count.

    Nor does a lambda count most of whose seeds diverged. A trial that was only run as a teacher is no seed that an
    answer waits for.
    """
    candidates: list[Choice] = []
    for weight_decay, known in by_lambda.items():
        runs = [run for run in known if not run.only_teaches]
        points = [point for run in runs if (point := run.point(mode)) is not None]
        if points and len(points) == len(runs) and not mostly_diverged([run.trial.curve for run in runs]):
            candidates.append(_over_seeds(weight_decay, runs, points, mode, intensity))
    if not candidates:
        return None
    # Rounded, so that means of one value do not differ in their last bit.
    best = max(candidates, key=lambda c: (round(c.deciding_accuracy, 12), round(c.sparsity, 12), -c.weight_decay))
    return dataclasses.replace(best, lambdas=len(candidates))


def _over_seeds(
    weight_decay: float, runs: Sequence[_Run], points: Sequence[Point], mode: str, intensity: float
) -> Choice:
    spent = total(points)
    stops = [run.summary is not None and run.summary.early_stop_triggered for run in runs]
    return Choice(
        weight_decay=weight_decay,
        seeds=len(runs),
        deciding_accuracy=statistics.fmean(point.accuracy for point in points),
        deciding_accuracy_std=_deviation([point.accuracy for point in points]),
        test_accuracy=statistics.fmean(point.test_accuracy for point in points),
        test_accuracy_std=_deviation([point.test_accuracy for point in points]),
        sparsity=statistics.fmean(point.sparsity for point in points),
        sparsity_std=_deviation([point.sparsity for point in points]),
        each=spent / len(points),
        total=spent,
        carbon_intensity=intensity,
        stopped=sum(stops) if mode == "early_stopping" else 0,
        target_sparsity=min(run.trial.spec.target_sparsity for run in runs),
        lambdas=1,
        trial_ids=tuple(sorted(run.trial.spec.trial_id for run in runs)),
    )


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _reason(choices: dict[str, Choice | None], runs: Sequence[_Run], lambdas: int) -> str | None:
    """Why an answer is missing, as one sentence, or None."""
    complete = sum(run.trial.complete for run in runs)
    needs = {
        "run_to_end": "the curves of all its seeds complete",
        "early_stopping": "the rule fired, or the curve complete, on all its seeds",
    }
    missing = [
        f"{MODES[mode]}: none of {lambdas} λ has {needs[mode]}" for mode, choice in choices.items() if choice is None
    ]
    if not missing:
        return None
    teachers = sum(run.only_teaches for run in runs)
    taught = f", {teachers} only as long as a teacher's has to be" if teachers else ""
    return "; ".join(missing) + f" ({complete} of {len(runs)} curves are complete{taught})."
