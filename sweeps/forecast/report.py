"""What a sweep will still cost, before anything runs: a value, as one screen for people and as JSON for machines.

The fewest and the most levels that the sweep can still come to, at the fastest and at the slowest pace of the
device, are the ends of every range.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sdd_core.ledger import Costs, Prediction
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sdd_core.words import arm_name, span, two_digits
from sweeps.forecast.paces import PaceOf
from sweeps.forecast.work import Job, expected, work
from sweeps.sweep import Outlook

SCHEMA: Final = 1
ROWS_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True)
class Side:
    """One end of a range: what is to be trained in that ending of a sweep."""

    trials: int
    """With something to train, teachers included."""
    again: int
    """Levels to be trained again for their weights."""
    costs: Costs


@dataclass(frozen=True, kw_only=True)
class Part:
    """What some trials will still cost, in the endings of the sweep that train the least and the most of them."""

    name: str
    fewest: Side
    most: Side

    @property
    def costs(self) -> Prediction:
        """The ends of what they will cost."""
        return Prediction(low=self.fewest.costs, high=self.most.costs)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a sweep will still cost."""

    whole: Part
    found: tuple[int, int]
    """Levels that the store has already, of those needed in the ending with the fewest and in that with the most."""
    arms: tuple[Part, ...]
    """What each arm and each teacher will cost; those that can cost the most first. They do not add up to the whole:
    no ending needs the least of all."""


def forecast(store: Store, outlook: Outlook, pace: PaceOf) -> Forecast:
    """What a sweep will still cost from what the store holds."""
    each = [{spec: ends[end] for spec, ends in outlook.trials.items()} for end in (0, 1)]
    fewest, most, *of_each = work(store, outlook.fewest, outlook.most, *each)
    several = len({(spec.model, spec.model_options, spec.dataset) for spec in outlook.trials}) > 1
    arms: dict[str, tuple[list[Job], list[Job]]] = {}
    for end, needed in enumerate(of_each):
        names: dict[TrialSpec, str] = {}
        for job in needed.jobs.values():
            if job.spec not in names:
                names[job.spec] = _name(job.spec, teacher=job.spec not in outlook.trials, several=several)
            arms.setdefault(names[job.spec], ([], []))[end].append(job)
    parts = [_part(name, *jobs, pace) for name, jobs in arms.items()]
    return Forecast(
        whole=_part("", fewest.jobs.values(), most.jobs.values(), pace),
        found=(len(fewest.found), len(most.found)),
        arms=tuple(sorted(parts, key=_size)),
    )


def _part(name: str, fewest: Iterable[Job], most: Iterable[Job], pace: PaceOf) -> Part:
    return Part(name=name, fewest=_side(fewest, pace, slow=False), most=_side(most, pace, slow=True))


def _side(jobs: Iterable[Job], pace: PaceOf, *, slow: bool) -> Side:
    jobs = list(jobs)
    return Side(
        trials=len({spec.trial_id for spec in {job.spec for job in jobs}}),
        again=sum(job.again for job in jobs),
        costs=expected(jobs, pace, slow=slow),
    )


def _size(part: Part) -> tuple[float, float, str]:
    return -part.most.costs.pflop_real_all, -part.fewest.costs.pflop_real_all, part.name


def _name(spec: TrialSpec, *, teacher: bool, several: bool) -> str:
    """What an arm is called: its network is said where it is a teacher's, or where there are several."""
    where = f"{spec.model} on {spec.dataset} " if teacher or several else ""
    return f"{'teacher ' if teacher else ''}{where}{arm_name(spec)}"


# --- for machines ---------------------------------------------------------------------------


def as_json(found: Forecast, intensity: float) -> dict[str, Any]:
    """A forecast for machines (README: what `--plan --json` writes); every figure as `low` and `high`."""
    whole = found.whole
    return {
        "trials": _ends(whole.fewest.trials, whole.most.trials),
        "levels_in_store": _ends(*found.found),
        **_figures(whole, intensity),
        "consumers": [
            {"name": part.name, "trials": part.most.trials} | _figures(part, intensity) for part in found.arms
        ],
    }


def _figures(part: Part, intensity: float) -> dict[str, Any]:
    ends = part.costs.ends
    return {
        "levels": ends("levels"),
        "levels_again": _ends(part.fewest.again, part.most.again),
        "pflop": ends("pflop"),
        "pflop_teacher": ends("pflop_teacher"),
        "pflop_real_all": ends("pflop_real_all"),
        "device_seconds": ends("seconds"),
        "energy_kwh": ends("energy_kwh"),
        "co2_g": ends("energy_kwh", intensity),
    }


def _ends(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


# --- for people -----------------------------------------------------------------------------


def show(console: Console, found: Forecast, intensity: float, notes: Sequence[str]) -> None:
    """The plan on one screen: the whole, then the largest consumers first, then what it rests on."""
    console.print(_whole(found, intensity))
    if found.arms:
        console.print()
        console.print(_consumers(found.arms))
    for note in notes:
        console.print(f"  {note}", highlight=False, soft_wrap=True, markup=False, style="dim")


def _whole(found: Forecast, intensity: float) -> Table:
    """The figures of the whole sweep, a quantity a row; what is nought is left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    low, high, ends = found.whole.fewest, found.whole.most, found.whole.costs.ends
    rows = {
        "trials with something to train": span(_ends(low.trials, high.trials), "{:.0f}"),
        "levels to train": span(ends("levels"), "{:.0f}"),
        "  in the store already": span(_ends(*found.found), "{:.0f}"),
        "  again, because weights were not kept": span(_ends(low.again, high.again), "{:.0f}"),
        "PFLOP by the paper's convention": span(ends("pflop")),
        "  teachers' forward passes beside": span(ends("pflop_teacher")),
        "PFLOP, all operations as they are": span(ends("pflop_real_all")),
        "device-hours": span(ends("seconds", 1 / 3600)),
        "kWh": span(ends("energy_kwh")),
        "g CO2e": span(ends("energy_kwh", intensity)),
    }
    for name, text in rows.items():
        if text != "0" or name == "levels to train":
            table.add_row(name, text, style="bold" if name == "levels to train" else None)
    return table


def _consumers(arms: Sequence[Part]) -> Table:
    """The largest consumers, each with the most that it can cost."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 2))
    for title in ("largest first", "trials", "levels", "max PFLOP", "max hours"):
        left = title == "largest first"
        table.add_column(title, justify="left" if left else "right", no_wrap=not left)
    for part in arms[:ROWS_SHOWN]:
        most = part.most.costs
        hours = "-" if most.seconds is None else two_digits(most.seconds / 3600)
        levels = span(part.costs.ends("levels"), "{:.0f}")
        table.add_row(part.name, str(part.most.trials), levels, two_digits(most.pflop), hours)
    if len(arms) > ROWS_SHOWN:
        table.add_row(f"and {len(arms) - ROWS_SHOWN} more")
    return table
