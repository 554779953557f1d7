"""A plan as one screen for people and as JSON for machines, and how it is compared with what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sdd_core import energy
from sweeps.forecast.work import Bill, Forecast, Row, Span

SCHEMA: Final = 1
ROWS_SHOWN: Final = 10


def as_json(found: Forecast, intensity: float) -> dict[str, Any]:
    """A forecast for machines (README: what `--plan --json` writes); every figure as `low` and `high`."""
    low, high = found.fewest, found.most
    whole = {"trials": _ends(low.trials, high.trials), "levels_in_store": _ends(low.found, high.found)}
    return (
        whole | _figures(low.bill, high.bill, intensity) | {"consumers": [_row(row, intensity) for row in found.rows]}
    )


def _row(row: Row, intensity: float) -> dict[str, Any]:
    return {"name": row.name, "trials": row.trials} | _figures(row.fewest, row.most, intensity)


def _figures(low: Bill, high: Bill, intensity: float) -> dict[str, Any]:
    kwh = _outer(low.kwh, high.kwh)
    grams = None if kwh is None else {end: energy.grams(value, intensity) for end, value in kwh.items()}
    return {
        "levels": _ends(low.levels, high.levels),
        "levels_again": _ends(low.again, high.again),
        "pflop": _ends(low.pflop, high.pflop),
        "pflop_teacher": _ends(low.pflop_teacher, high.pflop_teacher),
        "pflop_real_all": _ends(low.pflop_real_all, high.pflop_real_all),
        "device_seconds": _outer(low.seconds, high.seconds),
        "energy_kwh": kwh,
        "co2_g": grams,
    }


def _ends(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


def _outer(low: Span | None, high: Span | None) -> dict[str, float] | None:
    """The ends of two spans: the least of the fewest, the largest of the most."""
    return None if low is None or high is None else _ends(low[0], high[1])


# --- for people ---------------------------------------------------------------------------


def show(console: Console, found: Forecast, intensity: float, notes: Sequence[str]) -> None:
    """The plan on one screen: the whole, then the largest consumers first, then what it rests on."""
    form = as_json(found, intensity)
    console.print(_whole(form))
    if form["consumers"]:
        console.print()
        console.print(_consumers(form["consumers"]))
    for note in notes:
        console.print(f"  {note}", highlight=False, soft_wrap=True, markup=False, style="dim")


def _consumers(rows: Sequence[dict[str, Any]]) -> Table:
    """The largest consumers, each with the most that it can cost."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 2))
    for title in ("largest first", "trials", "levels", "max PFLOP", "max hours"):
        left = title == "largest first"
        table.add_column(title, justify="left" if left else "right", no_wrap=not left)
    for row in rows[:ROWS_SHOWN]:
        hours = _hours(row)
        most = "-" if hours is None else _two_digits(hours["high"])
        pflop = _two_digits(row["pflop"]["high"])
        table.add_row(row["name"], str(row["trials"]), span(row["levels"], "{:.0f}"), pflop, most)
    if len(rows) > ROWS_SHOWN:
        table.add_row(f"and {len(rows) - ROWS_SHOWN} more")
    return table


def _whole(form: dict[str, Any]) -> Table:
    """The figures of the whole sweep, a quantity a row; what is nought is left out."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    rows = {
        "trials with something to train": span(form["trials"], "{:.0f}"),
        "levels to train": span(form["levels"], "{:.0f}"),
        "  in the store already": span(form["levels_in_store"], "{:.0f}"),
        "  again, because weights were not kept": span(form["levels_again"], "{:.0f}"),
        "PFLOP by the paper's convention": span(form["pflop"]),
        "  teachers' forward passes beside": span(form["pflop_teacher"]),
        "PFLOP, all operations as they are": span(form["pflop_real_all"]),
        "device-hours": span(_hours(form)),
        "kWh": span(form["energy_kwh"]),
        "g CO2e": span(form["co2_g"]),
    }
    for name, text in rows.items():
        if text != "0" or name == "levels to train":
            table.add_row(name, text, style="bold" if name == "levels to train" else None)
    return table


def _hours(form: dict[str, Any]) -> dict[str, float] | None:
    seconds = form["device_seconds"]
    return None if seconds is None else {end: value / 3600 for end, value in seconds.items()}


def span(ends: dict[str, float] | None, form: str | None = None) -> str:
    """A range in words: one number where both ends are alike, a dash where there is none.

    Without a `form` of its own a number has two significant digits.
    """
    if ends is None:
        return "-"
    low, high = (_two_digits(ends[end]) if form is None else form.format(ends[end]) for end in ("low", "high"))
    return low if low == high else f"{low} – {high}"  # noqa: RUF001


def _two_digits(value: float) -> str:
    """1,400 and 0.0045 as they are; an exponent only where there would be many zeros."""
    return f"{float(f'{value:.2g}'):,g}"
