"""What every picture of curves shares: the sparsity axis, chance, and how large and grey things are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

from sdd_core.record import LevelRecord

DPI: Final = 144
SPARSITY_TICKS: Final = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.998, 0.9998)
GREY: Final = "#444444"
HALO: Final = "white"


def remaining_share(record: LevelRecord) -> float:
    """A level's place on the sparsity axis: the share of its weights that remains.

    An empty network has no place on a log scale: half a weight stands for none.
    """
    return max(record.remaining, 0.5) / max(record.prunable, 1)


def sparsity_axis(axes: Axes, remaining: Sequence[float]) -> None:
    """Sparsity to the right, spread out by the log of what remains."""
    lowest = min(min(remaining), 0.45)
    axes.set_xscale("log")
    axes.set_xlim(1.09, lowest / 1.12)
    ticks = [sparsity for sparsity in SPARSITY_TICKS if 1 - sparsity >= lowest / 1.06]
    axes.xaxis.set_major_locator(FixedLocator([1 - sparsity for sparsity in ticks]))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{100 * sparsity:g}" for sparsity in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("sparsity (%)")
    axes.grid(True, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def chance_line(axes: Axes, chance: float) -> None:
    """A dotted line at chance, in percent."""
    axes.axhline(chance, color="#777777", linewidth=0.9, linestyle=":", zorder=1)
    axes.annotate("chance", (1.0, chance), xytext=(2, 3), textcoords="offset points", fontsize=8.5, color="#555555")
