"""A plan as one screen for people and as JSON for machines, and how it is compared with what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sdd_core import energy
from sweeps.plan import Bill, Forecast, Row, Span

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
        "pflop_real": _ends(low.pflop_real, high.pflop_real),
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
    """The plan on one screen: what there is to do, the largest consumers first, and what it rests on."""
    form = as_json(found, intensity)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for title in ("", "trials", "levels", "PFLOP", "real PFLOP", "device-hours", "kWh", "g CO2e"):
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
    for row in form["consumers"][:ROWS_SHOWN]:
        table.add_row(row["name"], str(row["trials"]), *_cells(row))
    left_out = len(form["consumers"]) - ROWS_SHOWN
    if left_out > 0:
        table.add_row(f"and {left_out} more")
    table.add_row("all", span(form["trials"], "{:.0f}"), *_cells(form), style="bold")
    console.print(table)
    there, again = form["levels_in_store"], form["levels_again"]
    lines = [f"levels in the store already: {span(there, '{:.0f}')}"]
    if again["high"] > 0:
        lines.append(f"levels to train again, because their weights were not kept: {span(again, '{:.0f}')}")
    if form["pflop_teacher"]["high"] > 0:
        lines.append(f"teachers' forward passes beside: {span(form['pflop_teacher'])} PFLOP")
    for line in (*lines, *notes):
        console.print(f"  {line}", highlight=False, soft_wrap=True, markup=False, style="dim")


def _cells(form: dict[str, Any]) -> list[str]:
    hours = _scaled(form["device_seconds"], lambda seconds: seconds / 3600)
    return [
        span(form["levels"], "{:.0f}"),
        *(span(values) for values in (form["pflop"], form["pflop_real"], hours, form["energy_kwh"], form["co2_g"])),
    ]


def _scaled(ends: dict[str, float] | None, change: Callable[[float], float]) -> dict[str, float] | None:
    return None if ends is None else {end: change(value) for end, value in ends.items()}


def span(ends: dict[str, float] | None, form: str = "{:.2g}") -> str:
    """A range in words: one number where both ends are alike, a dash where there is none."""
    if ends is None:
        return "-"
    low, high = form.format(ends["low"]), form.format(ends["high"])
    return low if low == high else f"{low} – {high}"  # noqa: RUF001
