"""The sweep's picture: accuracy over sparsity for every λ, and what λ_opt changes on test data.

Object API of matplotlib with the Agg canvas throughout: no display and no global state, so it can
be called from any thread or worker.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import matplotlib
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import NDArray

from analysis.pictures.axes import DPI, GREY, HALO, chance_line, remaining_share, sparsity_axis
from sdd_core.curve import dip, early_stop, lift, phases
from sdd_core.reading import Reading
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec, setting_id
from sdd_core.store import is_complete

Colour = str | tuple[float, float, float, float]

SIZE: Final = (10.0, 6.0)  # inches: 1440 x 864 pixels
# Black for λ = 0, which a log scale has no place for; the base and λ_opt wear Okabe and Ito's
# vermilion and blue where colour does not say λ.
ZERO_COLOUR: Final = "#000000"
BASE_COLOUR: Final = "#D55E00"
OPTIMUM_COLOUR: Final = "#0072B2"
# More depths than this, written out, would hide the curves.
_MAX_DEPTHS: Final = 6


@dataclass(frozen=True)
class _Seed:
    """One trial's curve as numbers: x is the remaining fraction, y in percent."""

    x: list[float]
    deciding: list[float]
    test: list[float]
    chance: float
    complete: bool
    deciding_fractions: list[float]


@dataclass(frozen=True)
class _Mean:
    """Mean over a λ's seeds, up to the last level that all of them have."""

    x: list[float]
    deciding: list[float]
    test: list[float]
    whole: bool
    """Whether every seed's curve is complete."""


def plot_curves(
    path: str | Path,
    title: str,
    trials: Sequence[tuple[TrialSpec, Sequence[LevelRecord]]],
    *,
    base: float | None,
    optimum: float | None,
    tolerance: float,
    reading: Reading,
) -> None:
    labels = reading.labels
    """Write the picture of one setting's trials as a PNG of 1440 x 864 pixels.

    Left: the deciding accuracy of every λ, the mean over seeds thick and each seed thin, with each dip of
    a mean that exceeds `tolerance` (a fraction) marked. Right, when `base` or `optimum` is among the
    trials: their test accuracy, with what early stopping would do. Trials without a level are left out.
    Raises ValueError when none has one, or when they are of several settings.
    """
    drawn = [(spec, curve) for spec, curve in trials if curve]
    if not drawn:
        raise ValueError(f"a picture needs a trial with at least one level, but got {len(trials)} trials without any")
    settings = sorted({setting_id(spec) for spec, _ in drawn})
    if len(settings) > 1:
        raise ValueError(f"a picture shows one setting, but got {len(settings)}: {', '.join(settings)}")
    seeds: dict[float, list[_Seed]] = {}
    for spec, curve in sorted(drawn, key=lambda trial: (trial[0].weight_decay, trial[0].seed)):
        seeds.setdefault(float(spec.weight_decay), []).append(_seed(spec, curve, labels))
    base, optimum = _held(base, seeds), _held(optimum, seeds)
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    by_test = drawn[0][0].protocol == "paper"
    if base is None and optimum is None:
        main, side = figure.subplots(), None
    else:
        main, side = figure.subplots(1, 2, sharey=True, width_ratios=(1.75, 1))
    notes = _draw_main(main, seeds, base, optimum, tolerance)
    decided = "test accuracy, which decides under the paper's protocol" if by_test else f"validation, {labels} labels"
    main.set_title(f"Every λ: {decided}", loc="left", fontsize=11)
    main.set_ylabel("test accuracy (%)" if by_test else "validation accuracy (%)")
    if side is not None:
        _draw_test(side, seeds, base, optimum)
        side.set_title("On test" + (", which decides" if by_test else ", only reported"), loc="left", fontsize=11)
    figure.draw_without_rendering()  # fixes the layout, which the notes' places depend on
    figure.set_layout_engine("none")
    _place(main, notes, list(seeds.values()))
    figure.savefig(path, format="png", dpi=DPI)


# --- numbers --------------------------------------------------------------------------------


def _seed(spec: TrialSpec, curve: Sequence[LevelRecord], labels: str) -> _Seed:
    fractions = [record.deciding_accuracy(labels) for record in curve]
    return _Seed(
        x=[remaining_share(record) for record in curve],
        deciding=[100 * value for value in fractions],
        test=[100 * record.test_accuracy for record in curve],
        chance=100 * curve[0].chance,
        complete=is_complete(list(curve), spec),
        deciding_fractions=fractions,
    )


def _mean(seeds: Sequence[_Seed]) -> _Mean:
    shared = min(len(seed.x) for seed in seeds)
    return _Mean(
        x=seeds[0].x[:shared],
        deciding=[statistics.fmean(values) for values in zip(*(s.deciding[:shared] for s in seeds), strict=True)],
        test=[statistics.fmean(values) for values in zip(*(s.test[:shared] for s in seeds), strict=True)],
        whole=all(seed.complete for seed in seeds),
    )


def _held(value: float | None, seeds: Mapping[float, object]) -> float | None:
    """The λ among the trials that `value` means, or None."""
    if value is None:
        return None
    return next((held for held in seeds if math.isclose(held, value, rel_tol=1e-9)), None)


def _colours(lambdas: Sequence[float]) -> tuple[dict[float, Colour], ScalarMappable | None]:
    """A colour for each λ, dark to light; and what the colour bar needs, None when there is no positive λ."""
    positive = [value for value in lambdas if value > 0]
    if not positive:
        return dict.fromkeys(lambdas, ZERO_COLOUR), None
    low, high = min(positive), max(positive)
    if low == high:
        low, high = low / 3, high * 3
    # The map's last yellow is too pale on white.
    whole = matplotlib.colormaps["viridis"]
    cmap: Colormap = ListedColormap([whole(0.02 + 0.88 * i / 255) for i in range(256)])
    norm = LogNorm(low, high)
    mapped = ScalarMappable(norm, cmap)
    return {value: cmap(norm(value)) if value > 0 else ZERO_COLOUR for value in lambdas}, mapped


# --- notes beside the curves ----------------------------------------------------------------


@dataclass(frozen=True)
class _Note:
    """A text and the points (data coordinates) beside one of which it may stand."""

    text: str
    anchors: list[tuple[float, float]]
    size: float
    bold: bool
    gaps: tuple[float, ...]
    """Distances from the point to try, in points; a name that stood far off would name another curve."""
    rank: float


_Box = tuple[float, float, float, float]


def _place(axes: Axes, notes: Sequence[_Note], groups: Sequence[Sequence[_Seed]]) -> None:
    """Write each note where it covers the least of the curves and no other note. The layout must be final."""
    scale = axes.figure.dpi / 72  # pixels per point
    obstacles = np.concatenate([_pixels(axes, mean.x, mean.deciding) for mean in map(_mean, groups)])
    thin = np.concatenate([_pixels(axes, seed.x, seed.deciding) for group in groups for seed in group])
    frame = axes.bbox.extents
    legend = axes.get_legend()
    taken: list[_Box] = [] if legend is None else [legend.get_window_extent().extents]
    for note in notes:
        width = (0.62 if note.bold else 0.56) * note.size * scale * len(re.sub(r"[${}_]", "", note.text))
        height = 1.15 * note.size * scale
        best: tuple[float, _Box] | None = None
        for order, anchor in enumerate(note.anchors):
            x, y = axes.transData.transform(anchor)
            for turn, box in enumerate(_boxes(x, y, width, height, [gap * scale for gap in note.gaps])):
                cost = 100.0 * (box[0] < frame[0] or box[2] > frame[2] or box[1] < frame[1] or box[3] > frame[3])
                cost += 50.0 * sum(_overlap(box, other) for other in taken)
                # Among equals, the first place.
                cost += _inside(obstacles, box) + 0.2 * _inside(thin, box) + 0.1 * turn + 0.01 * order
                if best is None or cost < best[0]:
                    best = cost, box
        if best is None:
            continue
        box = best[1]
        taken.append(box)
        text = axes.text((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, note.text, transform=None, ha="center",
                         va="center", fontsize=note.size, fontweight="bold" if note.bold else "normal",
                         zorder=10)  # fmt: skip
        text.set_path_effects([effects.withStroke(linewidth=2.5, foreground=HALO)])


def _boxes(x: float, y: float, width: float, height: float, gaps: Sequence[float]) -> Iterator[_Box]:
    """Places for a text beside a point: below, above, left and right, near first."""
    for gap in gaps:
        for left, bottom in (
            (x - width / 2, y - gap - height),
            (x - width / 2, y + gap),
            (x - gap - width, y - height / 2),
            (x + gap, y - height / 2),
        ):
            yield left, bottom, left + width, bottom + height


def _inside(points: NDArray[np.float64], box: _Box) -> float:
    return float(((points > box[:2]).all(axis=1) & (points < box[2:]).all(axis=1)).sum())


def _pixels(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> NDArray[np.float64]:
    """Points every few pixels along a curve, shape (n, 2)."""
    corners = axes.transData.transform(np.column_stack([xs, ys]))
    steps = np.linspace(0, len(corners) - 1, 8 * len(corners))
    index = np.arange(len(corners))
    return np.column_stack([np.interp(steps, index, corners[:, 0]), np.interp(steps, index, corners[:, 1])])


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# --- panels ---------------------------------------------------------------------------------


def _draw_main(
    axes: Axes,
    seeds: Mapping[float, Sequence[_Seed]],
    base: float | None,
    optimum: float | None,
    tolerance: float,
) -> list[_Note]:
    """Every λ's deciding accuracy over sparsity. Returns what is still to be written beside the curves."""
    colours, mapped = _colours(list(seeds))
    valleys: list[_Note] = []
    for value, group in seeds.items():
        marked = value in (base, optimum)
        _draw_lambda(axes, group, colours[value], marked)
        mean = _mean(group)
        valley = _valley(mean, group[0].chance, tolerance)
        if valley is not None:
            x, y, depth = valley
            axes.plot(x, y, marker="v", markersize=8 if marked else 6, color="white", markeredgecolor="black",
                      markeredgewidth=1.1, linestyle="none", zorder=8)  # fmt: skip
            bound = "" if mean.whole else "≥ "
            valleys.append(_Note(f"{bound}{depth:.1f}", [(x, y)], 9, marked, (6, 12), depth))
    sparsity_axis(axes, [x for group in seeds.values() for seed in group for x in seed.x])
    chance_line(axes, next(iter(seeds.values()))[0].chance)
    _key(
        axes,
        several=any(len(group) > 1 for group in seeds.values()),
        zero=0.0 in seeds and mapped is not None,
        given_up=any(not seed.complete for group in seeds.values() for seed in group),
        dips=f"dip beyond {100 * tolerance:.3g} points, its depth" if valleys else None,
    )
    if mapped is not None:
        _colour_bar(axes, mapped, [value for value in seeds if value > 0])
    deepest = sorted(valleys, key=lambda note: (not note.bold, -note.rank))[:_MAX_DEPTHS]
    return deepest + _names(seeds, base, optimum)  # who has the fewest places to stand goes first


def _draw_lambda(axes: Axes, group: Sequence[_Seed], colour: Colour, marked: bool) -> None:
    """One λ: its seeds thin, their mean thick, and a cross where a curve ends before its target."""
    mean = _mean(group)
    for seed in group:
        if len(group) > 1:
            axes.plot(seed.x, seed.deciding, color=colour, linewidth=0.7, alpha=0.4, zorder=2)
        if not seed.complete:
            axes.plot(seed.x[-1], seed.deciding[-1], marker="X", markersize=7, color=colour,
                      markeredgecolor=HALO, markeredgewidth=0.6, zorder=7)  # fmt: skip
    (line,) = axes.plot(mean.x, mean.deciding, color=colour, linewidth=1.6, zorder=4)
    if marked:
        line.set(linewidth=3.2, zorder=6, path_effects=[effects.withStroke(linewidth=5.0, foreground=HALO)])
    if len(mean.x) == 1:  # a line through one point cannot be seen
        line.set(marker="o", markersize=5)


def _valley(mean: _Mean, chance: float, tolerance: float) -> tuple[float, float, float] | None:
    """Where a mean curve's dip is deepest (x, y) and how deep, all in percent; None within the tolerance."""
    lifted = lift(mean.deciding, chance)
    found = phases(lifted, 100 * tolerance)
    if found is None or found.valley is None:
        return None
    return mean.x[found.valley], mean.deciding[found.valley], dip(lifted)


def _names(seeds: Mapping[float, Sequence[_Seed]], base: float | None, optimum: float | None) -> list[_Note]:
    """The names of the emphasised curves, each to be written anywhere along its mean."""
    names = {base: "base λ", optimum: "$λ_{opt}$"}
    if base == optimum:
        names = {base: "base λ = $λ_{opt}$"}
    notes = []
    for value, name in names.items():
        if value is not None:
            mean = _mean(seeds[value])
            notes.append(
                _Note(
                    f"{name} = {value:.3g}",
                    list(zip(mean.x, mean.deciding, strict=True))[len(mean.x) // 4 :],
                    11,
                    True,
                    (5,),
                    0.0,
                )
            )
    return notes


def _draw_test(axes: Axes, seeds: Mapping[float, Sequence[_Seed]], base: float | None, optimum: float | None) -> None:
    """Test accuracy of the base and λ_opt, and where early stopping ends and what it finds."""
    handles: list[Line2D] = []
    fired = False
    pairs: tuple[tuple[float | None, str, str, Literal["--", "-"]], ...] = (
        (base, "base λ", BASE_COLOUR, "--"),
        (optimum, "$λ_{opt}$", OPTIMUM_COLOUR, "-"),
    )
    for value, name, colour, dashes in pairs:
        if value is None or (colour == BASE_COLOUR and base == optimum):
            continue
        mean = _mean(seeds[value])
        axes.plot(mean.x, mean.test, color=colour, linewidth=2.6, linestyle=dashes, zorder=4)
        handles.append(Line2D([], [], color=colour, linewidth=2.6, linestyle=dashes, label=f"{name} = {value:.3g}"))
        for seed in seeds[value]:
            axes.plot(seed.x, seed.test, color=colour, linewidth=0.8, alpha=0.45, zorder=3)
            stop = early_stop(seed.deciding_fractions)
            if stop is None:
                continue
            axes.plot(seed.x[stop.found], seed.test[stop.found], marker="o", markersize=8, color=colour,
                      markeredgecolor="white", markeredgewidth=1.0, zorder=7)  # fmt: skip
            if stop.triggered:
                fired = True
                axes.plot(seed.x[stop.ended], seed.test[stop.ended], marker="|", markersize=15, markeredgewidth=2.4,
                          color=colour, zorder=6)  # fmt: skip
    handles.append(Line2D([], [], marker="o", markersize=8, color=GREY, linestyle="none", label="early stop takes"))
    if fired:
        ends = Line2D([], [], marker="|", markersize=13, markeredgewidth=2.4, color=GREY, linestyle="none")
        ends.set_label("early stop ends")
        handles.append(ends)
    sparsity_axis(axes, [x for value in (base, optimum) if value is not None for s in seeds[value] for x in s.x])
    axes.set_ylabel("test accuracy (%)")
    axes.tick_params(labelleft=True)
    axes.legend(handles=handles, loc="best", fontsize=9.5, framealpha=0.9)


# --- keys -----------------------------------------------------------------------------------


def _key(axes: Axes, *, several: bool, zero: bool, given_up: bool, dips: str | None) -> None:
    """What the marks mean, for those that were used."""
    handles: list[Line2D] = []
    if several:
        handles.append(Line2D([], [], color=GREY, linewidth=1.8, label="mean over seeds"))
        handles.append(Line2D([], [], color=GREY, linewidth=0.7, alpha=0.6, label="one seed"))
    if zero:
        handles.append(Line2D([], [], color=ZERO_COLOUR, linewidth=1.8, label="λ = 0"))
    if dips is not None:
        handles.append(Line2D([], [], color="white", marker="v", markeredgecolor="black", markersize=7,
                              linestyle="none", label=dips))  # fmt: skip
    if given_up:
        handles.append(Line2D([], [], color=GREY, marker="X", linestyle="none", label="given up or unfinished"))
    if handles:
        axes.legend(handles=handles, loc="best", fontsize=9.5, framealpha=0.9)


def _colour_bar(axes: Axes, mapped: ScalarMappable, lambdas: Sequence[float]) -> None:
    """The bar of λ; the λs of the sweep are its ticks while they are few enough to read."""
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(mapped, ax=axes, pad=0.015, aspect=32)
    bar.ax.set_title("λ", fontsize=12)
    if len(lambdas) <= 14:
        bar.ax.yaxis.set_major_locator(FixedLocator(list(lambdas)))
        bar.ax.yaxis.set_major_formatter(FixedFormatter([f"{value:.3g}" for value in lambdas]))
        bar.ax.yaxis.set_minor_locator(NullLocator())
