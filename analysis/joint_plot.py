"""The picture of a joint search: what each point (λ, α, τ) trades, accuracy against sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from analysis.plots import BASE_COLOUR, DPI, GREY, OPTIMUM_COLOUR


class Place(NamedTuple):
    """A point's best level, means over its seeds; accuracies and sparsity are fractions."""

    sparsity: float
    deciding: float
    test: float
    label: str
    kind: str
    """`vanilla`, `front`, or a verdict."""


# kind -> (marker, colour, size, name in the legend)
_STYLES: Final = {
    "dips": ("x", "#999999", 36, "dips"),
    "collapsed": ("v", "#bbbbbb", 30, "collapsed"),
    "clean": ("o", "#56B4E9", 34, "clean"),
    "front": ("o", OPTIMUM_COLOUR, 64, "clean and on the front"),
    "vanilla": ("s", BASE_COLOUR, 64, "vanilla student at the base λ"),
}


def plot_joint(path: str | Path, title: str, vanilla: Place, points: Sequence[Place], *, decided_on: str) -> None:
    """Write the picture as a PNG: deciding accuracy of the best level over its sparsity, and on test beside it."""
    figure = Figure(figsize=(11.0, 5.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    decided = "test, which decides" if decided_on == "test" else decided_on
    _draw(left, [vanilla, *points], "deciding")
    left.set_title(f"Best level of each point: {decided}", loc="left", fontsize=11)
    left.set_ylabel("accuracy at the best level (%)")
    _draw(right, [vanilla, *points], "test")
    right.set_title(
        "On test" + (", which decides" if decided_on == "test" else ", only reported"), loc="left", fontsize=11
    )
    left.legend(loc="best", fontsize=9, framealpha=0.9)
    figure.savefig(path, format="png", dpi=DPI)


def _draw(axes: Axes, places: Sequence[Place], score: str) -> None:
    for kind, (marker, colour, size, name) in _STYLES.items():
        of_kind = [place for place in places if place.kind == kind]
        if of_kind:
            x, y = [100 * place.sparsity for place in of_kind], [100 * getattr(place, score) for place in of_kind]
            axes.scatter(x, y, s=size, marker=marker, color=colour, label=name, zorder=3)
    front = sorted(place for place in places if place.kind == "front")
    x, y = [100 * place.sparsity for place in front], [100 * getattr(place, score) for place in front]
    axes.plot(x, y, color=OPTIMUM_COLOUR, linewidth=1, alpha=0.6)
    for place, across, up in zip(front, x, y, strict=True):
        axes.annotate(place.label, (across, up), xytext=(5, 6), textcoords="offset points", fontsize=7.5, color=GREY)
    axes.set_xlabel("sparsity of the best level (%)")
    axes.margins(x=0.12, y=0.12)
    axes.grid(alpha=0.25)
