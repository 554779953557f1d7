"""The distillation sweep's picture, in the manner of the paper's Fig. 5: test accuracy over sparsity.

A panel for each (alpha, tau): the vanilla student, the students of each level of the teacher, and the
teacher's own levels faint behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.pictures.axes import (
    BASE_COLOUR,
    GREY,
    PALE,
    TITLE,
    WIDTH,
    Dashes,
    Line,
    dips_key,
    draw_panel,
    figure_key,
    mark,
    mean_marks,
    new_figure,
    remaining_share,
    small_multiples,
    write,
)
from sdd_core.reading import Reading, Trial
from sdd_core.record import Curve
from sdd_core.words import level_name, network_name

# Levels asked for by number take the last colours, in turn.
LEVEL_COLOURS: Final = {"dense": "#0072B2", "pruned": "#009E73"}
NUMBER_COLOURS: Final = ("#CC79A7", "#E69F00", "#56B4E9")
LEVEL_LOOKS: Final[Mapping[str | int, tuple[Dashes, str]]] = {"dense": ("-", "o"), "pruned": ("-.", "s")}
PANEL: Final = (4.0, 3.7)  # inches
COLUMNS: Final = 3


def plot_distillation(
    path: str | Path, title: str, students: Sequence[Trial], *, teacher: Trial | None, reading: Reading
) -> None:
    """Write the picture of a distillation sweep as a PNG, 1440 pixels wide or more.

    `students` are of one student: vanilla ones, which are in every panel, and distilled ones; `teacher` is
    their teacher's trial with the levels that it has. Lines are means over seeds, bands one sample standard
    deviation; a dot is a seed's best level on the split that decides. Trials without a level are left out;
    raises ValueError when no student has one.
    """
    drawn = [trial for trial in students if trial.curve]
    if not drawn:
        raise ValueError(f"a picture needs a student with at least one level, but got {len(students)} without any")
    panels = _panels(drawn)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(title, max(WIDTH, columns * PANEL[0]), 6.0 if len(panels) == 1 else rows * PANEL[1] + 1.0)
    places = [axes for row in small_multiples(figure, rows, columns) for axes in row]
    for axes, (name, lines) in zip(places, panels.items(), strict=False):
        axes.set_title(name, loc="left", fontsize=TITLE)
        draw_panel(axes, lines, reading)
        dips_key(axes, lines, reading)
        if teacher is not None and teacher.curve:
            _draw_teacher(axes, teacher.curve, lines)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    curves = [curve for _, curve in drawn]
    marks = mean_marks(curves, reading, several=len({spec.seed for spec, _ in drawn}) > 1)
    if teacher is not None and teacher.curve:
        name = f"teacher: {network_name(teacher.spec)}, λ={teacher.spec.weight_decay:g}"
        marks.append(Line2D([], [], color=PALE, linewidth=1.2, label=name))
        marks.append(mark("the teacher's level learnt from", marker="D", markerfacecolor="white",
                          markeredgecolor=GREY, markeredgewidth=1.6))  # fmt: skip
    figure_key(figure, marks)
    write(figure, path)


def _panels(students: Sequence[Trial]) -> dict[str, list[Line]]:
    """The lines of each panel by its title: the vanilla student's first, then its teacher's levels in order."""
    vanilla = [curve for spec, curve in students if not spec.distilled]
    shared = [Line("vanilla", vanilla, BASE_COLOUR, "--")] if vanilla else []
    found: dict[tuple[float, float], dict[str | int, list[Curve]]] = {}
    for spec, curve in students:
        if spec.distilled and spec.teacher is not None:
            panel = found.setdefault((spec.alpha, spec.temperature), {})
            panel.setdefault(spec.teacher.level, []).append(curve)
    if not found:
        return {"vanilla": shared}
    numbers = sorted({level for panel in found.values() for level in panel if isinstance(level, int)})
    colours = LEVEL_COLOURS | {n: NUMBER_COLOURS[i % len(NUMBER_COLOURS)] for i, n in enumerate(numbers)}
    return {
        f"α = {alpha:g}, τ = {temperature:g}": shared
        + [
            Line(f"from {level_name(level)}", curves, colours[level], *LEVEL_LOOKS.get(level, (":", "^")))
            for level, curves in sorted(panel.items(), key=lambda item: _order(item[0]))
        ]
        for (alpha, temperature), panel in sorted(found.items())
    }


def _order(level: str | int) -> tuple[int, str]:
    """Dense and pruned, then numbers."""
    return (-1, level) if isinstance(level, str) else (level, "")


def _draw_teacher(axes: Axes, levels: Curve, lines: Sequence[Line]) -> None:
    """The teacher's levels, and in the colour of its students each level that somebody learns from."""
    x, y = [remaining_share(record) for record in levels], [100 * record.test_accuracy for record in levels]
    axes.plot(x, y, color=PALE, linewidth=1.2, alpha=0.8, zorder=2)
    for line in lines:
        for record, place, accuracy in zip(levels, x, y, strict=True):
            if record.key == line.curves[0][0].teacher:
                axes.plot(place, accuracy, marker="D", markersize=7, markerfacecolor="white",
                          markeredgecolor=line.colour, markeredgewidth=1.6, linestyle="none", zorder=6)  # fmt: skip
