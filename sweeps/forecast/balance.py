"""What a run of a sweep was predicted to cost, what it did cost, and what the sweep saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final

import torch

from sdd_core import cost, energy
from sdd_core.ledger import Spent
from sdd_core.pace import Pace, calibrate
from sdd_core.reading import Trial
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sweeps.flags import Common, gains_from_gpu
from sweeps.forecast.report import span
from sweeps.forecast.work import Bill, PaceOf, Span, total, work
from sweeps.kinds.lambda_opt.outlook import whole_levels
from sweeps.sweep import Outlook


class Paces:
    """The pace of each trial's device: the stated one, or timed on this machine once for each network and batch."""

    def __init__(self, common: Common, *, turns: int, seconds: float) -> None:
        self.common, self.turns, self.seconds = common, turns, seconds
        self.notes: list[str] = []
        self._known: dict[tuple[object, ...], Pace | None] = {}

    def __call__(self, spec: TrialSpec) -> Pace | None:
        """The pace of a trial; None, with the reason in `notes`, where there is none."""
        where = (spec.dataset, spec.model, spec.model_options, spec.augmentation)
        how = (spec.optimizer, spec.batch_size, spec.precision)
        if (where, how) not in self._known:
            self._known[where, how] = found = self._find(spec)
            if found is not None:
                rate = span({"low": found.slowest, "high": found.fastest}, "{:.3g}")
                watts = "no power is known" if found.watts is None else f"{found.watts:.3g} W"
                self._note(f"{spec.model}: {rate} real TFLOP/s ({found.source}); {watts} ({found.watts_from})")
        return self._known[where, how]

    def _find(self, spec: TrialSpec) -> Pace | None:
        given = self.common.cost
        if given.rate is not None:
            power = "--device-watts" if given.watts is not None else "--device-watts was not given"
            return Pace(
                slowest=given.rate[0], fastest=given.rate[1], source="stated", watts=given.watts, watts_from=power
            )
        gpus = self.common.gpus if self.common.gpus is not None else float(gains_from_gpu(spec))
        here = torch.cuda.is_available()
        if gpus > 0 and not here and self.common.gpus is not None:
            self._note(f"{spec.model}: asks for a GPU and there is none here to time it on; give --device-rate")
            return None
        options: dict[str, Any] = {"threads": self.common.threads, "turns": self.turns, "seconds": self.seconds}
        try:
            if not (gpus > 0 and here):
                return calibrate(spec, **options)
            # In a process of its own, so that nothing of the GPU stays taken when the trials come.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as aside:
                return aside.submit(calibrate, spec, device="cuda", gpu_share=min(1.0, gpus), **options).result()
        except Exception as error:  # a full GPU, a killed process: a sweep runs without its prediction
            self._note(f"{spec.model}: could not be timed here ({type(error).__name__}: {error}); give --device-rate")
            return None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


# --- prediction and measurement -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a run was predicted to train: the two ends of `plan.forecast`, made right before it."""

    fewest: Bill
    most: Bill

    @property
    def power(self) -> float | None:
        """Mean power of a trial in kWh a second; None where no power is known."""
        if self.most.seconds is None or self.most.kwh is None or self.most.seconds[1] == 0:
            return None
        return self.most.kwh[1] / self.most.seconds[1]


def predict(store: Store, outlook: Outlook, pace: PaceOf) -> Prediction:
    """What a run will train, if nothing stops it."""
    fewest, most = (total(work(store, trials).jobs.values(), pace) for trials in (outlook.fewest, outlook.most))
    return Prediction(fewest=fewest, most=most)


def comparison(predicted: Prediction, spent: Spent, intensity: float) -> dict[str, Any]:
    """Predicted range and measured value of each quantity; None where there is no figure.

    `levels_without_figure` of the energy are counted with the others' mean power.
    """
    low, high = predicted.fewest, predicted.most

    def ends(least: float | None, largest: float | None) -> dict[str, float] | None:
        return None if least is None or largest is None else {"low": least, "high": largest}

    def outer(least: Span | None, largest: Span | None, factor: float = 1.0) -> dict[str, float] | None:
        return None if least is None or largest is None else ends(least[0] * factor, largest[1] * factor)

    kwh = spent.energy()
    return {
        "levels": {"predicted": ends(low.levels, high.levels), "measured": spent.levels},
        "pflop": {"predicted": ends(low.pflop, high.pflop), "measured": spent.pflop},
        "pflop_real_all": {
            "predicted": ends(low.pflop_real_all, high.pflop_real_all),
            "measured": spent.pflop_real_all,
        },
        "device_seconds": {"predicted": outer(low.seconds, high.seconds), "measured": spent.seconds},
        "energy_kwh": {
            "predicted": outer(low.kwh, high.kwh),
            "measured": kwh,
            "levels_without_figure": spent.unmeasured,
        },
        "co2_g": {"predicted": outer(low.kwh, high.kwh, intensity), "measured": energy.grams(kwh, intensity)},
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
    found, shared, given_up = _Saving(), _Saving(), _Saving()
    teachers = {spec.teacher.trial.trial_id for spec, _ in trials if spec.distilled and spec.teacher is not None}
    for spec, levels in trials:
        if spec.trial_id in teachers:
            continue
        for record in [*_taught_by(store, spec), *levels]:
            if record.key in known:
                shared.add(record.pflop)
            known[record.key] = record
        if levels:
            last = levels[-1]
            sizes = cost.Sizes(train=last.train_size, val=last.val_size, test=last.test_size)
            given_up.add(cost.level_cost(spec, 1, sizes).pflop, whole_levels(spec, levels) - len(levels))
    known |= {record.key: record for spec, levels in trials if spec.trial_id in teachers for record in levels}
    for key, record in known.items():
        if key not in spent.keys:
            found.add(record.pflop)
    return {"found": vars(found), "shared": vars(shared), "given_up": vars(given_up)}


@dataclass
class _Saving:
    levels: int = 0
    pflop: float = 0.0

    def add(self, pflop: float, levels: int = 1) -> None:
        self.levels += levels
        self.pflop += pflop * levels


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
