"""The distillation sweep's picture, in the manner of the paper's Fig. 5: test accuracy over sparsity.

A panel for each (alpha, tau): the vanilla student, the students of each level of the teacher, and the
teacher's own levels faint behind them. Object API of matplotlib with the Agg canvas, as in `plots`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.frames import Trial
from analysis.pictures.axes import DPI, GREY, chance_line, remaining_share, sparsity_axis
from sdd_core.curve import best_level, dip, lift, shape_of
from sdd_core.reading import Reading
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec

VANILLA_COLOUR: Final = "#D55E00"
# Okabe and Ito's. Levels asked for by number take the last ones, in turn.
LEVEL_COLOURS: Final = {"dense": "#0072B2", "pruned": "#009E73"}
NUMBER_COLOURS: Final = ("#CC79A7", "#E69F00", "#56B4E9")
TEACHER_COLOUR: Final = "#999999"
PANEL: Final = (5.4, 4.6)  # inches
COLUMNS: Final = 3


@dataclass(frozen=True)
class _Line:
    """The seeds' trials of one approach, as they are drawn in a panel."""

    name: str
    colour: str
    dashes: Literal["-", "--"]
    curves: list[Sequence[LevelRecord]]


def plot_distillation(
    path: str | Path, title: str, students: Sequence[Trial], *, teacher: Trial | None, reading: Reading
) -> None:
    labels = reading.labels
    """Write the picture of a distillation sweep as a PNG, 1440 pixels wide or more.

    `students` are of one student: vanilla ones, which are in every panel, and distilled ones; `teacher` is
    their teacher's trial with the levels that it has. Lines are means over seeds, bands one sample standard
    deviation; a dot is a seed's best level on the split that decides, with `labels`. Trials without a level
    are left out; raises ValueError when no student has one.
    """
    drawn = [(spec, curve) for spec, curve in students if curve]
    if not drawn:
        raise ValueError(f"a picture needs a student with at least one level, but got {len(students)} without any")
    panels = _panels(drawn)
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (max(10.0, columns * PANEL[0]), 6.0 if len(panels) == 1 else rows * PANEL[1] + 1.0)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (name, lines) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(name, loc="left", fontsize=11)
        _draw_panel(axes, lines, teacher, labels)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy (%)")
    by_test = drawn[0][0].protocol == "paper"
    _key(figure, several=len({spec.seed for spec, _ in drawn}) > 1, by_test=by_test, teacher=teacher)
    figure.savefig(path, format="png", dpi=DPI)


def _panels(students: Sequence[Trial]) -> dict[str, list[_Line]]:
    """The lines of each panel by its title: the vanilla student's first, then its teacher's levels in order."""
    vanilla = [curve for spec, curve in students if not spec.distilled]
    shared = [_Line("vanilla", VANILLA_COLOUR, "--", vanilla)] if vanilla else []
    found: dict[tuple[float, float], dict[str | int, list[Sequence[LevelRecord]]]] = {}
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
            _Line(f"from level {level}" if isinstance(level, int) else f"from {level}", colours[level], "-", curves)
            for level, curves in sorted(panel.items(), key=lambda item: _order(item[0]))
        ]
        for (alpha, temperature), panel in sorted(found.items())
    }


def _order(level: str | int) -> tuple[int, str]:
    """Dense and pruned, then numbers."""
    return (-1, level) if isinstance(level, str) else (level, "")


def _draw_panel(axes: Axes, lines: Sequence[_Line], teacher: Trial | None, labels: str) -> None:
    by_test = lines[0].curves[0][0].val_accuracy is None
    if teacher is not None and teacher[1]:
        _draw_teacher(axes, teacher[1], lines)
    handles = []
    for line in lines:
        _draw_line(axes, line, labels)
        deciding = statistics.median(shape_of(curve, "dip", labels) for curve in line.curves)
        test = statistics.median(dip(lift([r.test_accuracy for r in c], c[0].chance)) for c in line.curves)
        label = f"{line.name}: {100 * deciding:.1f}" + ("" if by_test else f" ({100 * test:.1f})")
        handles.append(Line2D([], [], color=line.colour, linestyle=line.dashes, linewidth=2.2, label=label))
    sparsity_axis(axes, [remaining_share(record) for line in lines for curve in line.curves for record in curve])
    chance_line(axes, 100 * lines[0].curves[0][0].chance)
    axes.tick_params(labelleft=True)
    key = axes.legend(handles=handles, loc="best", fontsize=9.5, framealpha=0.9, alignment="left")
    key.set_title("dip on test, points" if by_test else "dip on validation (test), points", FontProperties(size=9.5))


def _draw_line(axes: Axes, line: _Line, labels: str) -> None:
    """Mean and band over the seeds, up to the last level that all have, and each seed's best level."""
    shared = min(map(len, line.curves))
    x = [remaining_share(record) for record in line.curves[0][:shared]]
    values = [[100 * curve[i].test_accuracy for curve in line.curves] for i in range(shared)]
    mean = [statistics.fmean(at) for at in values]
    axes.plot(x, mean, color=line.colour, linestyle=line.dashes, linewidth=2.2, zorder=5,
              marker="o" if shared == 1 else None)  # fmt: skip
    if len(line.curves) > 1:
        spread = [statistics.stdev(at) for at in values]
        low = [m - s for m, s in zip(mean, spread, strict=True)]
        high = [m + s for m, s in zip(mean, spread, strict=True)]
        axes.fill_between(x, low, high, color=line.colour, alpha=0.18, linewidth=0, zorder=3)
    for curve in line.curves:
        best = best_level([record.deciding_accuracy(labels) for record in curve])
        if best is not None:
            axes.plot(remaining_share(curve[best]), 100 * curve[best].test_accuracy, marker="o", markersize=7,
                      color=line.colour, markeredgecolor="white", linestyle="none", zorder=7)  # fmt: skip


def _draw_teacher(axes: Axes, levels: Sequence[LevelRecord], lines: Sequence[_Line]) -> None:
    """The teacher's levels, and in the colour of its students each level that somebody learns from."""
    axes.plot([remaining_share(r) for r in levels], [100 * r.test_accuracy for r in levels], color=TEACHER_COLOUR,
              linewidth=1.2, alpha=0.8, zorder=2)  # fmt: skip
    for line in lines:
        for record in levels:
            if record.key == line.curves[0][0].teacher:
                axes.plot(remaining_share(record), 100 * record.test_accuracy, marker="D", markersize=7,
                          markerfacecolor="white", markeredgecolor=line.colour, markeredgewidth=1.6,
                          linestyle="none", zorder=6)  # fmt: skip


def _key(figure: Figure, *, several: bool, by_test: bool, teacher: Trial | None) -> None:
    """What the marks mean, below all panels."""
    handles: list[Line2D | Patch] = []
    if several:
        handles.append(Line2D([], [], color=GREY, linewidth=2.2, label="mean over seeds"))
        handles.append(Patch(color=GREY, alpha=0.2, linewidth=0, label="± 1 standard deviation"))
    chosen = "chosen on test, by the paper's protocol" if by_test else "chosen on validation"
    best = Line2D([], [], color=GREY, marker="o", markersize=7, markeredgecolor="white", linestyle="none")
    best.set_label(f"best level{' of a seed' if several else ''}, {chosen}")
    handles.append(best)
    if teacher is not None and teacher[1]:
        handles.append(Line2D([], [], color=TEACHER_COLOUR, linewidth=1.2, label=_teacher_name(teacher[0])))
        learnt = Line2D([], [], marker="D", markersize=7, markerfacecolor="white", markeredgecolor=GREY)
        learnt.set(markeredgewidth=1.6, linestyle="none", label="the teacher's level learnt from")
        handles.append(learnt)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9.5, frameon=False)


def _teacher_name(spec: TrialSpec) -> str:
    size = " ".join(f"{name}={value}" for name, value in spec.model_options)
    return f"teacher: {spec.model} {size}, λ={spec.weight_decay:g}"
