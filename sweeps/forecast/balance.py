"""What a run of a sweep was predicted to cost, what it did cost, and what the sweep saved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sdd_core import cost, energy
from sdd_core.ledger import Prediction, Spent
from sdd_core.reading import Trial
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sdd_core.words import span
from sweeps.forecast.paces import PaceOf
from sweeps.forecast.work import expected, work
from sweeps.sweep import Outlook


def predict(store: Store, outlook: Outlook, pace: PaceOf) -> Prediction:
    """What a run will train, if nothing stops it."""
    fewest, most = work(store, outlook.fewest, outlook.most)
    return Prediction(
        low=expected(fewest.jobs.values(), pace, slow=False), high=expected(most.jobs.values(), pace, slow=True)
    )


def comparison(predicted: Prediction, spent: Spent, intensity: float) -> dict[str, Any]:
    """Predicted range and measured value of each quantity; None where there is no figure.

    `levels_without_figure` of the energy are counted with the others' mean power.
    """
    paid, kwh = spent.costs, spent.energy()
    return {
        "levels": {"predicted": predicted.ends("levels"), "measured": paid.levels},
        "pflop": {"predicted": predicted.ends("pflop"), "measured": paid.pflop},
        "pflop_real_all": {"predicted": predicted.ends("pflop_real_all"), "measured": paid.pflop_real_all},
        "device_seconds": {"predicted": predicted.ends("seconds"), "measured": paid.seconds},
        "energy_kwh": {
            "predicted": predicted.ends("energy_kwh"),
            "measured": kwh,
            "levels_without_figure": spent.unknown.levels,
        },
        "co2_g": {"predicted": predicted.ends("energy_kwh", intensity), "measured": energy.grams(kwh, intensity)},
    }


_SAID: Final = {
    "levels": ("{:.0f}", "levels"),
    "pflop": ("{:.3g}", "PFLOP"),
    "device_seconds": ("{:.3g}", "device-seconds"),
    "energy_kwh": ("{:.3g}", "kWh"),
    "co2_g": ("{:.3g}", "g CO2e"),
}


def comparison_lines(form: Mapping[str, Any]) -> list[str]:
    """The comparison in two lines; what has no figure on one side says so with a dash."""
    shown = {
        name: said for name, said in _SAID.items() if form[name]["predicted"] or form[name]["measured"] is not None
    }
    predicted = ", ".join(f"{span(form[name]['predicted'], text)} {unit}" for name, (text, unit) in shown.items())
    values = {name: form[name]["measured"] for name in shown}
    measured = ", ".join(
        f"{'-' if values[name] is None else text.format(values[name])} {unit}" for name, (text, unit) in shown.items()
    )
    without = form["energy_kwh"]["levels_without_figure"]
    if without and form["energy_kwh"]["measured"] is not None:
        measured += f" (estimated for {without} levels without a figure, from the others)"
    return [f"predicted  {predicted}", f"measured   {measured}"]


# --- what the sweep saved -----------------------------------------------------------------


def saved(store: Store, trials: Sequence[Trial], spent: Spent) -> dict[str, dict[str, float]]:
    """Levels that did not have to be trained, with their PFLOP by the paper's convention, by the reason why.

    `found`: levels of the answer, its teachers' among them, that the store had before this run. `shared`:
    levels that several trials of the sweep need, counted for each trial but one; a teacher's levels are
    needed by each of its students, and not by its own trial. `given_up`: levels between the end of a trial
    and its target sparsity.
    """
    known: dict[str, LevelRecord] = {}
    shared: list[float] = []
    given_up: list[float] = []
    teachers = {spec.teacher.trial.trial_id for spec, _ in trials if spec.distilled and spec.teacher is not None}
    for spec, levels in trials:
        if spec.trial_id in teachers:
            continue
        for record in [*_taught_by(store, spec), *levels]:
            if record.key in known:
                shared.append(record.pflop)
            known[record.key] = record
        if levels:
            last = levels[-1]
            sizes = cost.Sizes(train=last.train_size, val=last.val_size, test=last.test_size)
            left_out = cost.whole_levels(spec, levels) - len(levels)
            given_up += [cost.level_cost(spec, 1, sizes).pflop] * left_out
    known |= {record.key: record for spec, levels in trials if spec.trial_id in teachers for record in levels}
    found = [record.pflop for key, record in known.items() if key not in spent.keys]
    reasons = {"found": found, "shared": shared, "given_up": given_up}
    return {why: {"levels": len(pflops), "pflop": math.fsum(pflops)} for why, pflops in reasons.items()}


def _taught_by(store: Store, spec: TrialSpec) -> list[LevelRecord]:
    """The levels that it took to have a trial's teacher; [] without one."""
    if spec.teacher is None or store.teacher(spec) is None:
        return []
    whole = store.curve(spec.teacher.trial)
    return whole[: spec.teacher.levels_needed(len(whole))]


_WHY: Final = {
    "found": "were in the store",
    "shared": "are shared by trials, teachers by their students",
    "given_up": "were left out because a trial was given up",
}


def saved_line(form: Mapping[str, Mapping[str, float]]) -> str:
    """What the sweep saved, in words; "" when that is nothing."""
    parts = [
        f"{values['levels']} levels ({values['pflop']:.3g} PFLOP) {_WHY[why]}"
        for why, values in form.items()
        if values["levels"] > 0
    ]
    return f"not trained: {'; '.join(parts)}" if parts else ""


def flat(run: Mapping[str, Any] | None, saved: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What a run cost and saved as metrics of one level of names; figures that are not known are left out."""
    metrics: dict[str, Any] = {
        f"saved_{why}_{name}": value for why, form in saved.items() for name, value in form.items()
    }
    for name, form in (run or {}).items():
        ends = form["predicted"] or {}
        metrics |= {f"run_{name}": form["measured"]} | {f"run_{name}_predicted_{end}": ends[end] for end in ends}
    return {name: float(value) for name, value in metrics.items() if value is not None}
