"""The picture of one search: accuracy over sparsity for every λ, and what λ_opt changes on test data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D

from analysis.pictures.axes import (
    BASE_COLOUR,
    GREY,
    OPTIMUM_COLOUR,
    SMALL,
    TEXT,
    TITLE,
    Line,
    accuracies,
    by_test,
    curve_axes,
    deciding_split,
    dip_text,
    draw_dot,
    draw_mean,
    figure_key,
    mark,
    median_dip,
    new_figure,
    panel_key,
    remaining_share,
    seed_marks,
    write,
)
from sdd_core.curve import Shape, lift, phases
from sdd_core.reading import Reading, Trial
from sdd_core.record import Curve
from sdd_core.spec import setting_id
from sdd_core.store import is_complete

ZERO_COLOUR: Final = "#000000"
"""Of λ = 0, which a log scale has no place for."""
MOST_NAMES: Final = 24
"""So many λs fit into the key; of more, each second or third is named."""


@dataclass(frozen=True)
class _Arm:
    """One λ as it is drawn."""

    value: float
    curves: list[Curve]
    whole: list[bool]
    """For each seed whether its curve has run to its target."""
    colour: Any
    role: str
    """`base λ`, `λ_opt`, both joined, or empty."""
    depth: float
    """The median over the seeds of the dip or rebound: the number in the table."""
    bound: str
    """`≥ ` when a seed's curve is short of its end, so that the depth is a lower bound."""


def plot_curves(
    path: str | Path,
    title: str,
    trials: Sequence[Trial],
    *,
    base: float | None,
    optimum: float | None,
    tolerance: float,
    reading: Reading,
    shape: Shape = "dip",
) -> None:
    """Write the picture of one setting's trials as a PNG of 1440 x 864 pixels.

    Left: the deciding accuracy of every λ, the mean over seeds thick and each seed thin. Each λ whose median dip
    (or rebound, by `shape`) over the seeds exceeds `tolerance` (a fraction) is marked where its seeds' valleys
    lie, and the key names every λ with its median. Right, when `base` or `optimum` is among the trials: their
    test accuracy, with what early stopping does to each seed. Trials without a level are left out.
    Raises ValueError when none has one, or when they are of several settings.
    """
    drawn = [trial for trial in trials if trial.curve]
    if not drawn:
        raise ValueError(f"a picture needs a trial with at least one level, but got {len(trials)} trials without any")
    settings = sorted({setting_id(spec) for spec, _ in drawn})
    if len(settings) > 1:
        raise ValueError(f"a picture shows one setting, but got {len(settings)}: {', '.join(settings)}")
    arms = _arms(drawn, base, optimum, reading, shape)
    curves = [curve for _, curve in drawn]
    figure = new_figure(title)
    compared = [arm for arm in arms if arm.role]
    main, side = figure.subplots(1, 2, sharey=True, width_ratios=(1.6, 1)) if compared else (figure.subplots(), None)
    decider = "test" if by_test(curves) else "validation"
    main.set_title(f"Every λ: {deciding_split(curves, reading)}", loc="left", fontsize=TITLE)
    main.set_ylabel(f"{decider} accuracy (%)", fontsize=TEXT)
    marks = _draw_every(main, arms, tolerance, reading, shape)
    if side is not None:
        side.set_title(
            f"On test, {'which decides' if by_test(curves) else 'only reported'}", loc="left", fontsize=TITLE
        )
        marks += _draw_test(side, compared, reading, shape)
    figure_key(figure, marks, columns=4)
    write(figure, path)


def _arms(
    trials: Sequence[Trial], base: float | None, optimum: float | None, reading: Reading, shape: Shape
) -> list[_Arm]:
    """The λs in ascending order, dark to light."""
    by_lambda: dict[float, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: (trial[0].weight_decay, trial[0].seed)):
        by_lambda.setdefault(float(trial[0].weight_decay), []).append(trial)
    positive = [value for value in by_lambda if value > 0] or [1.0]
    # The map's last yellow is too pale on white.
    scale, shade = LogNorm(min(positive) * 0.999, max(positive) * 1.001), matplotlib.colormaps["viridis"]
    arms = []
    for value, group in by_lambda.items():
        names = {"base λ": base, "λ_opt": optimum}
        role = " = ".join(
            n for n, held in names.items() if held is not None and math.isclose(held, value, rel_tol=1e-9)
        )
        curves, whole = [curve for _, curve in group], [is_complete(curve, spec) for spec, curve in group]
        arm = _Arm(
            value=value,
            curves=list(curves),
            whole=whole,
            colour=shade(0.02 + 0.88 * float(scale(value))) if value > 0 else ZERO_COLOUR,
            role=role,
            depth=median_dip(curves, reading, shape),
            bound="" if all(whole) else "≥ ",
        )
        arms.append(arm)
    return arms


# --- every λ --------------------------------------------------------------------------------


def _draw_every(axes: Axes, arms: Sequence[_Arm], tolerance: float, reading: Reading, shape: Shape) -> list[Artist]:
    """Every λ's deciding accuracy over sparsity, and its key. Returns the marks that it used."""
    handles: list[Artist] = []
    for arm in arms:
        _draw_arm(axes, arm, reading)
        if arm.depth > tolerance:
            _draw_depth(axes, arm, reading, shape)
        name = f"{arm.value:.3g}: {dip_text(arm.curves, reading, shape, arm.bound)}"
        name += f"  ({arm.role})" if arm.role else ""
        handles.append(Line2D([], [], color=arm.colour, linewidth=3.6 if arm.role else 1.6, label=name))
    curve_axes(axes, [curve for arm in arms for curve in arm.curves])
    step = math.ceil(len(handles) / MOST_NAMES)
    named = [handle for i, handle in enumerate(handles) if i % step == 0 or "(" in str(handle.get_label())]
    axes.legend(handles=named, title=f"λ: median {shape},\npoints", title_fontsize=SMALL, fontsize=SMALL,
                loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, alignment="left")  # fmt: skip
    marks: list[Artist] = []
    if any(len(arm.curves) > 1 for arm in arms):
        marks += seed_marks(band=any(arm.role for arm in arms))
        marks.append(Line2D([], [], color=GREY, linewidth=0.7, alpha=0.6, label="one seed"))
    if any(arm.depth > tolerance for arm in arms):
        marks.append(
            mark(f"{shape} beyond {100 * tolerance:.3g} points", marker="v", color="white", markeredgecolor="black")
        )
    if not all(all(arm.whole) for arm in arms):
        marks.append(mark("given up or unfinished", marker="X"))
    return marks


def _draw_arm(axes: Axes, arm: _Arm, reading: Reading) -> None:
    """One λ: its seeds thin, their mean thick, and a cross where a curve ends before its target."""
    for curve, whole in zip(arm.curves, arm.whole, strict=True):
        x, ((*y,),) = accuracies([curve], lambda record: record.deciding_accuracy(reading.labels))
        if len(arm.curves) > 1:
            axes.plot(x, y, color=arm.colour, linewidth=0.7, alpha=0.4, zorder=2)
        if not whole:
            axes.plot(x[-1], y[-1], marker="X", markersize=7, color=arm.colour, markeredgecolor="white",
                      markeredgewidth=0.6, zorder=7)  # fmt: skip
    x, seeds = accuracies(arm.curves, lambda record: record.deciding_accuracy(reading.labels))
    (line,) = axes.plot(x, seeds.mean(axis=0), color=arm.colour, linewidth=1.6, zorder=4)
    if arm.role:
        line.set(linewidth=3.2, zorder=6, path_effects=[effects.withStroke(linewidth=5.0, foreground="white")])
    if len(x) == 1:  # a line through one point cannot be seen
        line.set(marker="o", markersize=5)


def _draw_depth(axes: Axes, arm: _Arm, reading: Reading, shape: Shape) -> None:
    """A triangle on the mean curve at the seeds' median valley; the base and λ_opt have their depth beside it."""
    x, seeds = accuracies(arm.curves, lambda record: record.deciding_accuracy(reading.labels))
    lows = [low for curve in arm.curves if (low := _low(curve, reading, shape)) is not None]
    place = min(statistics.median_low(lows), len(x) - 1)
    at = x[place], float(seeds.mean(axis=0)[place])
    axes.plot(*at, marker="v", markersize=8 if arm.role else 6, color="white", markeredgecolor="black",
              markeredgewidth=1.1, linestyle="none", zorder=8)  # fmt: skip
    if arm.role:
        text = axes.annotate(f"{arm.bound}{100 * arm.depth:.1f}", at, xytext=(0, -8), textcoords="offset points",
                             ha="center", va="top", fontsize=TEXT, fontweight="bold", zorder=10)  # fmt: skip
        text.set_path_effects([effects.withStroke(linewidth=2.5, foreground="white")])


def _low(curve: Curve, reading: Reading, shape: Shape) -> int | None:
    """The level at the bottom of a seed's deepest valley, or where its largest rise begins; None without one."""
    lifted = lift([record.deciding_accuracy(reading.labels) for record in curve], curve[0].chance)
    if shape == "dip":
        found = phases(lifted)
        return found.valley if found is not None else None
    top = int(np.argmax(np.array(lifted) - np.minimum.accumulate(lifted)))
    return int(np.argmin(lifted[: top + 1])) if top else None


# --- on test --------------------------------------------------------------------------------


def _draw_test(axes: Axes, arms: Sequence[_Arm], reading: Reading, shape: Shape) -> list[Artist]:
    """Test accuracy of the base and λ_opt, and where early stopping ends and what it finds."""
    lines, fired = [], False
    for arm in arms:
        optimum = arm.role == "λ_opt"
        name = f"{arm.role} = {arm.value:.3g}: {dip_text(arm.curves, reading, f'test_{shape}', arm.bound)}"
        line = Line(name, arm.curves, OPTIMUM_COLOUR if optimum else BASE_COLOUR, "-" if optimum else "--")
        lines.append(line)
        draw_mean(axes, line)
        for curve in arm.curves:
            figures = reading.summary(curve)
            draw_dot(axes, curve[figures.early_stop.level], line.colour)
            if figures.early_stop_triggered:
                fired = True
                ended = curve[int(figures.early_stop.levels) - 1]
                axes.plot(remaining_share(ended), 100 * ended.test_accuracy, marker="|", markersize=15,
                          markeredgewidth=2.4, color=line.colour, zorder=6)  # fmt: skip
    curve_axes(axes, [curve for arm in arms for curve in arm.curves])
    axes.set_ylabel("test accuracy (%)", fontsize=TEXT)
    axes.tick_params(labelleft=True)
    panel_key(axes, [line.handle(line.name) for line in lines], f"median {shape} on test, points")
    rule = f"early stop (patience {reading.patience}, drop {100 * reading.min_drop:g} points)"
    ends = mark("early stop ends", marker="|", markersize=13, markeredgewidth=2.4)
    return [mark(f"{rule} takes", marker="o", markersize=8), *([ends] if fired else [])]
