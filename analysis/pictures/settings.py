"""The picture of λ_opt over many settings: which λ each one takes, and what it changes on test data."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes

from analysis.pictures.axes import (
    BASE_COLOUR,
    OPTIMUM_COLOUR,
    PALE,
    SMALL,
    TEXT,
    TITLE,
    WIDTH,
    Line,
    dips_key,
    draw_panel,
    figure_key,
    mean_marks,
    new_figure,
    plain_frame,
    small_multiples,
    write,
)
from sdd_core.reading import Reading
from sdd_core.record import Curve

PANEL: Final = (3.3, 2.9)  # inches
COLUMNS: Final = 3
LABEL_WIDTH: Final = 42
"""Characters in a line of a setting's name."""


@dataclass(frozen=True)
class Panel:
    """One setting: what its search began with and what it found. The curves are one a seed."""

    label: str
    base: float
    lambda_opt: float | None
    """None where no λ was found to be clean."""
    base_curves: Sequence[Curve]
    curves: Sequence[Curve]
    """Of λ_opt; empty without one."""


def plot_settings(path: str | Path, panels: Sequence[Panel], reading: Reading) -> None:
    """Write the picture of λ_opt over settings as a PNG, 1440 pixels wide.

    On top the λs of all settings; below, a panel a setting with the test accuracy of the base λ and of λ_opt over
    sparsity: means over seeds, bands of one sample standard deviation, and a dot at each seed's best level on the
    split that decides. Raises ValueError when no setting has a trial with a level.
    """
    lines = [_lines(panel) for panel in panels]
    curves = [curve for of_panel in lines for line in of_panel for curve in line.curves]
    if not curves:
        raise ValueError(f"a picture needs a setting with at least one level, but got {len(panels)} without any")
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    above, below = 0.3 * len(panels) + 1.0, rows * PANEL[1] + 0.6
    figure = new_figure(f"λ_opt over {len(panels)} setting{'s' if len(panels) > 1 else ''}", WIDTH, above + below + 0.4)
    (top,), (bottom,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(above, below))
    _draw_lambdas(top.subplots(), panels)
    places = [axes for row in small_multiples(bottom, rows, columns) for axes in row]
    for axes, panel, of_panel in zip(places, panels, lines, strict=False):
        axes.set_title(textwrap.fill(panel.label, LABEL_WIDTH), loc="left", fontsize=TEXT, parse_math=False)
        if of_panel:
            draw_panel(axes, of_panel, reading)
            dips_key(axes, of_panel, reading)
        else:
            axes.text(0.5, 0.5, "no finished level", transform=axes.transAxes, ha="center", fontsize=TEXT)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    several = any(len(line.curves) > 1 for of_panel in lines for line in of_panel)
    figure_key(bottom, mean_marks(curves, reading, several=several))
    write(figure, path)


def _lines(panel: Panel) -> list[Line]:
    """The base λ and λ_opt, as far as they have levels; one line where they are the same."""
    base, found = ([curve for curve in curves if curve] for curves in (panel.base_curves, panel.curves))
    if panel.lambda_opt is not None and math.isclose(panel.lambda_opt, panel.base, rel_tol=1e-9):
        return [Line(f"base λ = λ_opt = {panel.base:.3g}", base, OPTIMUM_COLOUR, "-", "s")] if base else []
    lines = [Line(f"base λ = {panel.base:.3g}", base, BASE_COLOUR, "--")] if base else []
    if found and panel.lambda_opt is not None:
        lines.append(Line(f"λ_opt = {panel.lambda_opt:.3g}", found, OPTIMUM_COLOUR, "-", "s"))
    return lines


def _draw_lambdas(axes: Axes, panels: Sequence[Panel]) -> None:
    """The base λ and λ_opt of each setting on one log axis; a λ of 0 stands at its left end and says so."""
    positive = [value for panel in panels for value in (panel.base, panel.lambda_opt) if value] or [1.0]
    left = min(positive) / 4
    for row, panel in enumerate(panels):
        base, optimum = panel.base or left, panel.lambda_opt or left
        axes.plot(base, row, marker="o", color="white", markeredgecolor=BASE_COLOUR, markersize=8, markeredgewidth=1.6,
                  zorder=4, linestyle="none", label="base λ" if row == 0 else None)  # fmt: skip
        if panel.base == 0:
            _write_beside(axes, base, row, "0", -9)
        if panel.lambda_opt is None:
            _write_beside(axes, base, row, "none")
            continue
        axes.plot([base, optimum], [row, row], color=PALE, linewidth=1.2, zorder=2)
        axes.plot(optimum, row, marker="s", color=OPTIMUM_COLOUR, markersize=7, zorder=5, linestyle="none")
        _write_beside(axes, optimum, row, f"{panel.lambda_opt:.3g}")
    axes.plot([], [], marker="s", color=OPTIMUM_COLOUR, markersize=7, linestyle="none", label="λ_opt")
    axes.set_xscale("log")
    axes.set_xlim(left / 2, max(positive) * 6)
    labels = [textwrap.fill(panel.label, LABEL_WIDTH) for panel in panels]
    axes.set_yticks(range(len(panels)), labels, fontsize=SMALL, parse_math=False)
    axes.set_ylim(len(panels) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.set_xlabel("λ", fontsize=TITLE)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=TEXT, frameon=False)
    plain_frame(axes)


def _write_beside(axes: Axes, x: float, row: int, text: str, gap: float = 9) -> None:
    """Write to the right of a dot, or to its left when the gap, in points, is negative."""
    axes.annotate(text, (x, row), xytext=(gap, 0), textcoords="offset points", va="center", fontsize=SMALL,
                  ha="left" if gap > 0 else "right")  # fmt: skip
