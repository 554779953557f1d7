"""The picture of a joint search: what each point (λ, α, τ) trades, accuracy against sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from matplotlib.axes import Axes

from analysis.pictures.axes import (
    BASE_COLOUR,
    GREY,
    OPTIMUM_COLOUR,
    PALE,
    TEXT,
    TITLE,
    new_figure,
    plain_frame,
    write,
)


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
    "dips": ("x", PALE, 36, "dips"),
    "collapsed": ("v", "#bbbbbb", 30, "collapsed"),
    "diverged": ("X", "#bbbbbb", 30, "diverged"),
    "clean": ("o", "#56B4E9", 34, "clean"),
    "front": ("o", OPTIMUM_COLOUR, 64, "clean and on the front"),
    "vanilla": ("s", BASE_COLOUR, 64, "vanilla"),
}


_MAX_NAMES: Final = 14
"""More points of a front than fit beside the panels are drawn and counted, not named."""


def plot_joint(path: str | Path, title: str, vanilla: Place, points: Sequence[Place], *, decided_on: str) -> None:
    """Write the picture as a PNG: accuracy of the best level over its sparsity, deciding and on test.

    The points of the front are numbered, the most accurate first, and named beside.
    """
    figure = new_figure(title, 12.0, 5.2)
    left, right, names = figure.subplots(1, 3, width_ratios=(1, 1, 0.42))
    right.sharex(left)
    right.sharey(left)
    by_test = decided_on == "test"
    front = sorted((place for place in points if place.kind == "front"), key=lambda place: -place.deciding)
    for axes, score, what in (
        (left, "deciding", "Best level of each point: " + ("test, which decides" if by_test else decided_on)),
        (right, "test", "On test" + (", which decides" if by_test else ", only reported")),
    ):
        _draw(axes, [vanilla, *points], front, score)
        axes.set_title(what, loc="left", fontsize=TITLE)
    left.set_ylabel("accuracy at the best level (%)")
    _write_names(names, left, front)
    write(figure, path)


def _draw(axes: Axes, places: Sequence[Place], front: Sequence[Place], score: str) -> None:
    for kind, (marker, colour, size, name) in _STYLES.items():
        of_kind = [place for place in places if place.kind == kind]
        if of_kind:
            x, y = [100 * place.sparsity for place in of_kind], [100 * getattr(place, score) for place in of_kind]
            axes.scatter(x, y, s=size, marker=marker, color=colour, label=name, zorder=3)
    numbers: dict[tuple[float, float], list[str]] = {}
    for number, place in enumerate(front, start=1):
        numbers.setdefault((100 * place.sparsity, 100 * getattr(place, score)), []).append(str(number))
    for where, found in numbers.items():
        axes.annotate(", ".join(found), where, xytext=(6, 5), textcoords="offset points", fontsize=TEXT, color=GREY)
    axes.set_xlabel("sparsity of the best level (%)")
    axes.margins(x=0.12, y=0.12)
    plain_frame(axes)


def _write_names(axes: Axes, drawn: Axes, front: Sequence[Place]) -> None:
    """The legend of the panels, and the points of the front by number."""
    axes.axis("off")
    handles, labels = drawn.get_legend_handles_labels()
    axes.legend(handles, labels, loc="upper left", fontsize=TEXT, frameon=False, borderaxespad=0)
    lines = [f"{number}  {place.label}" for number, place in enumerate(front[:_MAX_NAMES], start=1)]
    lines += [f"and {len(front) - _MAX_NAMES} more"] if len(front) > _MAX_NAMES else []
    axes.text(0.02, 0.66, "\n".join(lines), va="top", fontsize=TEXT, color=GREY, transform=axes.transAxes)
