"""The picture of a grid of trials, or of arms with names of their own: test accuracy over sparsity in small panels.

Which axes make the panels is read off the curves. An axis's effect is how far apart the averages of its values lie,
of the mean best deciding accuracy or of the median dip, whichever lies farther apart. The axis with the largest
effect makes the columns and the next one the rows; at least one axis always stays for the lines inside a panel,
because a panel with a single line has nothing to compare. So one axis gives one panel, and two give a row of panels.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib
from matplotlib.axes import Axes

from analysis.pictures.axes import (
    DASHES,
    MARKERS,
    OKABE_ITO,
    SMALL,
    TEXT,
    WIDTH,
    Line,
    deciding_split,
    dip_text,
    draw_panel,
    figure_key,
    mark,
    mean_marks,
    median_dip,
    new_figure,
    panel_key,
    small_multiples,
    write,
)
from sdd_core.reading import Reading
from sdd_core.record import Curve
from sdd_core.words import field_text

PANEL: Final = (3.0, 2.6)  # inches
COLUMNS: Final = 4
MOST_DASHED: Final = 8
"""More lines than this in a panel are told apart by a scale of colours alone."""

NAME_WIDTH: Final = 32
"""Characters in a line of a name in the key."""


@dataclass(frozen=True)
class Cell:
    """One arm: what tells it from the others, and its seeds' curves.

    `fields` has a value for each axis that the arm has a place on, and under `arm` its name where it has one.
    An arm without a value for an axis, such as a vanilla baseline, is drawn in every panel of that axis.
    """

    fields: Mapping[str, Any]
    curves: Sequence[Curve]


class _Key(NamedTuple):
    """What a line is inside its panel: equal keys look and are named alike in all panels."""

    hue: tuple[Any, ...]
    """The arm's name and its places on the lines' axes, without the last of several: its colour."""
    dash: int | None
    """The place on the last of several lines' axes: its dashes."""


def plot_grid(
    path: str | Path,
    title: str,
    cells: Sequence[Cell],
    axes: Mapping[str, Sequence[Any]],
    *,
    reading: Reading,
    tolerance: float,
) -> None:
    """Write the picture of a grid as a PNG of 1440 pixels or more in width.

    `axes` holds the varied fields with their values in order; without any, the arms' names tell the lines apart.
    Lines are means over an arm's seeds, bands one sample standard deviation, and a dot is a seed's best level
    on the split that decides. Each line's median dip on that split stands in the panel's key, bold where it exceeds
    `tolerance` (a fraction). Cells without a level are left out; raises ValueError when none has one.
    """
    drawn = [Cell(cell.fields, held) for cell in cells if (held := [curve for curve in cell.curves if curve])]
    if not drawn:
        raise ValueError(f"a picture needs a cell with at least one level, but got {len(cells)} cells without any")
    across, down, inside = _layout(drawn, axes, reading)
    looks = _looks(drawn, {name: axes[name] for name in inside})
    panels = _panels(drawn, axes, across, down)
    rows, columns = len(panels), len(panels[0])
    figure = new_figure(
        title, max(WIDTH, columns * PANEL[0] + 1.6), max(5.2, rows * PANEL[1] + 1.0, 0.22 * len(looks) + 1.0)
    )
    alone = rows * columns == 1
    curves = [curve for cell in drawn for curve in cell.curves]
    for places, row in zip(small_multiples(figure, rows, columns), panels, strict=True):
        for place, panel in zip(places, row, strict=True):
            if panel is None:
                place.set_visible(False)
                continue
            heading, inhabitants = panel
            place.set_title(heading, loc="left", fontsize=TEXT, parse_math=False)
            if not inhabitants:
                place.text(0.5, 0.5, "no finished level", transform=place.transAxes, ha="center", fontsize=TEXT)
                continue
            _draw(place, inhabitants, looks, {name: axes[name] for name in inside}, reading, tolerance, named=alone)
    if not alone:
        key = figure.legend(handles=[line.handle(line.name) for line in looks.values()], loc="outside right center",
                            fontsize=TEXT, frameon=False, handlelength=3.2)  # fmt: skip
        for text in key.get_texts():
            text.set_parse_math(False)
    marks = mean_marks(curves, reading, several=any(len(cell.curves) > 1 for cell in drawn))
    split = deciding_split(curves, reading)
    marks.append(mark(f"numbers: median dip on {split}, points; bold: beyond {100 * tolerance:.3g}", marker="none"))
    figure_key(figure, marks, columns=2)
    write(figure, path)


# --- what goes where ------------------------------------------------------------------------


def _layout(
    cells: Sequence[Cell], axes: Mapping[str, Sequence[Any]], reading: Reading
) -> tuple[str | None, str | None, list[str]]:
    """The axis of the columns, the axis of the rows, and those of the lines inside a panel."""
    ranked = sorted(axes, key=lambda name: -_effect(name, cells, axes[name], reading))
    across, down = [*ranked[: min(2, len(axes) - 1)], None, None][:2] if axes else (None, None)
    if across is not None and down is not None and COLUMNS < len(axes[across]) > len(axes[down]):
        across, down = down, across
    return across, down, [name for name in axes if name not in (across, down)]


def _effect(name: str, cells: Sequence[Cell], values: Sequence[Any], reading: Reading) -> float:
    """How far apart an axis's values lie: in mean best deciding accuracy or median dip, whichever is farther."""
    best: list[float] = []
    dips: list[float] = []
    for value in values:
        held = [cell for cell in cells if name in cell.fields and cell.fields[name] == value]
        if held:
            summaries = [[reading.summary(curve) for curve in cell.curves] for cell in held]
            best.append(statistics.fmean(statistics.fmean(s.best.accuracy for s in of_cell) for of_cell in summaries))
            dips.append(statistics.fmean(median_dip(cell.curves, reading) for cell in held))
    return max(max(best) - min(best), max(dips) - min(dips)) if best else 0.0


def _panels(
    cells: Sequence[Cell], axes: Mapping[str, Sequence[Any]], across: str | None, down: str | None
) -> list[list[tuple[str, list[Cell]] | None]]:
    """The panels in rows, each with its heading and its cells; None fills up the last row of a single axis."""

    def panel(**fixed: Any) -> tuple[str, list[Cell]]:
        held = [cell for cell in cells if all(cell.fields.get(name, value) == value for name, value in fixed.items())]
        return ", ".join(field_text(name, value) for name, value in fixed.items()), held

    if across is None:
        return [[panel()]]
    if down is not None:
        return [[panel(**{across: x, down: y}) for x in axes[across]] for y in axes[down]]
    columns = math.ceil(len(axes[across]) / math.ceil(len(axes[across]) / COLUMNS))
    whole: list[tuple[str, list[Cell]] | None] = [panel(**{across: value}) for value in axes[across]]
    whole += [None] * (-len(whole) % columns)
    return [whole[start : start + columns] for start in range(0, len(whole), columns)]


# --- lines ----------------------------------------------------------------------------------


def _key(cell: Cell, inside: Mapping[str, Sequence[Any]]) -> _Key:
    places = [list(values).index(cell.fields[name]) if name in cell.fields else -1 for name, values in inside.items()]
    arm = cell.fields.get("arm", "")
    return _Key((arm, *places[:-1]), places[-1]) if len(places) > 1 else _Key((arm, *places), None)


def _looks(cells: Sequence[Cell], inside: Mapping[str, Sequence[Any]]) -> dict[_Key, Line]:
    """The look and the name of each line, without curves.

    Colour says the first of the lines' axes and dashes the second. With one axis both say it, so that the
    lines differ in grey too. Too many lines for that get a scale of colours, dark to light, in the axes' order.
    """
    names: dict[_Key, str] = {}
    for cell in cells:
        words = [field_text(name, cell.fields[name]) for name in ("arm", *inside) if name in cell.fields]
        names.setdefault(_key(cell, inside), textwrap.fill(", ".join(words) or "all trials", NAME_WIDTH))
    arms = list(dict.fromkeys(key.hue[0] for key in names))
    order = sorted(names, key=lambda key: (arms.index(key.hue[0]), key.hue[1:], key.dash or 0))
    hues = list(dict.fromkeys(key.hue for key in order))
    dashes = sorted({key.dash for key in order if key.dash is not None})
    looks: dict[_Key, Line] = {}
    for i, key in enumerate(order):
        hue = hues.index(key.hue)
        dash = hue % len(DASHES) if key.dash is None else dashes.index(key.dash)
        if len(order) <= MOST_DASHED and len(hues) <= len(OKABE_ITO) and len(dashes) <= len(DASHES):
            looks[key] = Line(names[key], (), OKABE_ITO[hue], DASHES[dash], MARKERS[hue])
        else:
            # The map's last yellow is too pale on white.
            colour = matplotlib.colormaps["viridis"](0.92 * i / max(len(order) - 1, 1))
            looks[key] = Line(names[key], (), colour)
    return looks


def _draw(
    axes: Axes,
    cells: Sequence[Cell],
    looks: Mapping[_Key, Line],
    inside: Mapping[str, Sequence[Any]],
    reading: Reading,
    tolerance: float,
    *,
    named: bool,
) -> None:
    """One panel with its key: each line's median dip, after its name when `named`."""
    order = list(looks)
    lines = []
    for cell in sorted(cells, key=lambda cell: order.index(_key(cell, inside))):
        look = looks[_key(cell, inside)]
        lines.append(Line(look.name, cell.curves, look.colour, look.dashes, look.marker))
    draw_panel(axes, lines, reading, band=0.18 if len(lines) <= 4 else 0.08)
    dips = [median_dip(line.curves, reading) for line in lines]
    texts = [(f"{line.name}: " if named else "") + dip_text(line.curves, reading) for line in lines]
    handles = [line.handle(text) for line, text in zip(lines, texts, strict=True)]
    if named:
        key = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=TEXT, frameon=False,
                          handlelength=3.2)  # fmt: skip
    else:
        key = panel_key(axes, handles, ncols=math.ceil(len(handles) / 4), columnspacing=1.0)
    for text, depth in zip(key.get_texts(), dips, strict=True):
        text.set_parse_math(False)
        text.set_fontweight("bold" if depth > tolerance else "normal")
        text.set_fontsize(TEXT if named else SMALL)
