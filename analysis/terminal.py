"""How answers are printed: lines that are not wrapped or coloured by what they hold, tables without boxes, numbers."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def say(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is, however long."""
    console.print(line, highlight=False, soft_wrap=True, markup=False, style=style)


def note(console: Console, line: str) -> None:
    """Print a line that explains what stands above it."""
    say(console, f"  {line}", style="dim")


def plain_table(first: str, *others: str) -> Table:
    """A table without a box: its first column is words, the others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def percent(fraction: float) -> str:
    """A fraction in percent."""
    return f"{100 * fraction:.1f} %"


def points(fraction: float) -> str:
    """A difference of fractions in points of a percent."""
    return f"{100 * fraction:.1f} points"


def with_deviation(mean: float, deviation: float | None) -> str:
    """A mean in percent with its standard deviation, where there is one."""
    text = f"{100 * mean:.1f}"
    return text if deviation is None else f"{text} ± {100 * deviation:.1f}"


def count(number: int, what: str) -> str:
    """A number of things: "1 seed", "3 approaches"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('ch') else 's'}"
