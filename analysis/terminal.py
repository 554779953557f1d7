"""How answers are printed: lines that are not wrapped or coloured by what they hold, tables without boxes, numbers."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def say(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is, however long."""
    console.print(line, highlight=False, soft_wrap=True, markup=False, style=style)


def say_headline(console: Console, lines: Sequence[str]) -> None:
    """Print what was found: the first line stands out."""
    head, *rest = lines
    say(console, head, style="bold")
    for line in rest:
        say(console, f"  {line}")


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


def show_table(console: Console, table: Table) -> None:
    """Print a table in its full width. A narrower terminal breaks its lines, which reads better than cut figures."""
    wanted = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(file=console.file, width=max(console.width, wanted), highlight=False).print(table)


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
