"""The style that all pictures share: sizes, colours, the axes of a curve, an arm's mean with its band, keys, files.

Every picture uses matplotlib's object API with the Agg canvas: there is no display and no global state, so a
picture can be drawn in any thread. Accuracies and dips are fractions in the data and percent in the pictures.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, NullFormatter, NullLocator

from sdd_core.reading import Reading
from sdd_core.record import Curve, LevelRecord, mostly_diverged

DPI: Final = 144
WIDTH: Final = 10.0  # inches: 1440 pixels
HEADING, TITLE, TEXT, SMALL = 13.0, 11.0, 9.5, 8.5  # font sizes in points
SPARSITY_TICKS: Final = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.998, 0.9998)

# The colours of Okabe and Ito, which colour-blind readers can tell apart. Yellow is left out: it is too pale on white.
# Neighbours differ in brightness too, so that they can be told apart in grey.
OKABE_ITO: Final = ("#0072B2", "#E69F00", "#000000", "#CC79A7", "#009E73", "#D55E00", "#56B4E9")
BASE_COLOUR: Final = "#D55E00"
"""Vermilion: the base λ, and the vanilla student."""
OPTIMUM_COLOUR: Final = "#0072B2"
"""Blue: λ_opt, and the front of a joint search."""
GREY: Final = "#444444"
"""Of what belongs to no line: the marks in a key, and notes."""
PALE: Final = "#999999"
"""Of what stands behind: the teacher's own curve, trials that dip."""
Dashes = Literal["-", "--", ":", "-."]
DASHES: Final[tuple[Dashes, ...]] = ("-", "--", ":", "-.")
MARKERS: Final = ("o", "s", "D", "^", "v", "P", "X")


@dataclass(frozen=True)
class Line:
    """An arm as it is drawn: its name, its seeds' curves, of at least one level each, and its look."""

    name: str
    curves: Sequence[Curve]
    colour: Any
    dashes: Dashes = "-"
    marker: str = "o"
    """The shape of the dots at the seeds' best levels."""

    def handle(self, label: str) -> Line2D:
        """This line's entry in a key."""
        return Line2D([], [], color=self.colour, linestyle=self.dashes, linewidth=2.2, label=label)


# --- figures --------------------------------------------------------------------------------


def new_figure(title: str, width: float = WIDTH, height: float = 6.0) -> Figure:
    """An empty figure of so many inches with a heading, in which nothing is read as a formula."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    heading = textwrap.fill(title, round(8 * width))  # so many bold letters of this size fit
    figure.suptitle(heading, fontsize=HEADING, fontweight="bold", parse_math=False)
    return figure


def write(figure: Figure, path: str | Path) -> None:
    """Write the figure as a PNG file."""
    figure.savefig(path, format="png", dpi=DPI)


def small_multiples(figure: FigureBase, rows: int, columns: int) -> list[list[Axes]]:
    """Panels of test accuracy in rows, all on one accuracy axis."""
    panels: list[list[Axes]] = figure.subplots(rows, columns, sharey=True, squeeze=False).tolist()
    for row in panels:
        row[0].set_ylabel("test accuracy (%)", fontsize=TEXT)
        for axes in row:
            axes.tick_params(labelleft=True, labelsize=SMALL)
    return panels


# --- axes -----------------------------------------------------------------------------------


def remaining_share(record: LevelRecord) -> float:
    """A level's place on the sparsity axis: the share of its weights that remains.

    An empty network has no place on a log scale: half a weight stands for none.
    """
    return max(record.remaining, 0.5) / max(record.prunable, 1)


def curve_axes(axes: Axes, curves: Sequence[Curve]) -> None:
    """Sparsity to the right, spread out by the log of what remains, and dotted lines at chance.

    One line at chance does for curves whose chance differs by the draw of the split; two stand for two data sets.
    """
    lowest = min(0.45, *(remaining_share(record) for curve in curves for record in curve))
    axes.set_xscale("log")
    axes.set_xlim(1.09, lowest / 1.12)
    ticks = [sparsity for sparsity in SPARSITY_TICKS if 1 - sparsity >= lowest / 1.06]
    axes.xaxis.set_major_locator(FixedLocator([1 - sparsity for sparsity in ticks]))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{100 * sparsity:g}" for sparsity in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("sparsity (%)", fontsize=TEXT)
    plain_frame(axes)
    chances = [100 * curve[0].chance for curve in curves]
    low, high = min(chances), max(chances)
    for chance in {low, high} if high - low > 2 else {low}:
        axes.axhline(chance, color="#777777", linewidth=0.9, linestyle=":", zorder=1)
        axes.annotate("chance", (1.0, chance), xytext=(2, 3), textcoords="offset points", fontsize=8, color="#555555")


def plain_frame(axes: Axes) -> None:
    """A pale grid, and a frame on two sides only."""
    axes.grid(True, color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


# --- an arm ---------------------------------------------------------------------------------


def test_score(record: LevelRecord) -> float:
    """The accuracy that the pictures of several arms show."""
    return record.test_accuracy


def accuracies(curves: Sequence[Curve], score: Callable[[LevelRecord], float]) -> tuple[list[float], np.ndarray]:
    """The levels that all seeds have: their places, and the accuracies in percent, one row a seed."""
    shared = min(map(len, curves))
    rows = [[100 * score(record) for record in curve[:shared]] for curve in curves]
    return [remaining_share(record) for record in curves[0][:shared]], np.array(rows)


def draw_mean(axes: Axes, line: Line, *, band: float = 0.18) -> None:
    """The mean test accuracy over the seeds, and a band of one sample standard deviation to either side.

    It ends at the last level that all seeds have. `band` is the opacity of the band.
    """
    x, seeds = accuracies(line.curves, test_score)
    mean = seeds.mean(axis=0)
    # A line through one point cannot be seen without a marker.
    axes.plot(x, mean, color=line.colour, linestyle=line.dashes, linewidth=2.2, zorder=5,
              marker="o" if len(x) == 1 else None)  # fmt: skip
    if len(seeds) > 1:
        spread = seeds.std(axis=0, ddof=1)
        axes.fill_between(x, mean - spread, mean + spread, color=line.colour, alpha=band, linewidth=0, zorder=3)


def draw_dot(axes: Axes, record: LevelRecord, colour: Any, marker: str = "o") -> None:
    """A dot at one level of one seed, at its test accuracy."""
    axes.plot(remaining_share(record), 100 * record.test_accuracy, marker=marker, markersize=7, color=colour,
              markeredgecolor="white", linestyle="none", zorder=7)  # fmt: skip


def draw_panel(axes: Axes, lines: Sequence[Line], reading: Reading, *, band: float = 0.18) -> None:
    """Each line's mean, its band, and a dot at each seed's best level on the split that decides."""
    for line in lines:
        draw_mean(axes, line, band=band)
        for curve in line.curves:
            draw_dot(axes, curve[reading.summary(curve).best.level], line.colour, line.marker)
    curve_axes(axes, [curve for line in lines for curve in line.curves])


# --- numbers and keys -----------------------------------------------------------------------


def median_dip(curves: Sequence[Curve], reading: Reading, which: str = "dip") -> float:
    """The median over an arm's seeds of each seed's own figure (`dip`, `test_dip`, `rebound`, …), as in the tables."""
    return float(statistics.median(getattr(reading.summary(curve), which) for curve in curves))


def dip_text(curves: Sequence[Curve], reading: Reading, which: str = "dip", bound: str = "") -> str:
    """An arm's median dip in points, as a key writes it; of an arm most of whose seeds diverged there is none."""
    if mostly_diverged(curves):
        return "diverged"
    return f"{bound}{100 * median_dip(curves, reading, which):.1f}"


def by_test(curves: Sequence[Curve]) -> bool:
    """Whether the test split decides for all of these curves, as in the paper's own protocol."""
    return all(curve[0].val_accuracy is None for curve in curves)


def deciding_split(curves: Sequence[Curve], reading: Reading) -> str:
    """The split that decides, in words."""
    if by_test(curves):
        return "test, by the paper's protocol"
    mixed = any(curve[0].val_accuracy is None for curve in curves)
    return f"validation, {reading.labels} labels" + (" (test under the paper's protocol)" if mixed else "")


def dips_key(axes: Axes, lines: Sequence[Line], reading: Reading) -> Legend:
    """A key inside a panel: each line's name, its median dip on the deciding split, and on test in brackets."""
    alone = by_test([curve for line in lines for curve in line.curves])
    handles = []
    for line in lines:
        text = f"{line.name}: {dip_text(line.curves, reading)}"
        handles.append(line.handle(text if alone else f"{text} ({dip_text(line.curves, reading, 'test_dip')})"))
    return panel_key(axes, handles, "dip on test, points" if alone else "dip on validation (test), points")


def panel_key(axes: Axes, handles: Sequence[Artist], title: str | None = None, **how: Any) -> Legend:
    """A key inside a panel, where it hides the least."""
    return axes.legend(handles=handles, title=title, title_fontsize=SMALL, fontsize=SMALL, framealpha=0.85,
                       alignment="left", loc="best", handlelength=3.2, **how)  # fmt: skip


def figure_key(figure: FigureBase, handles: Sequence[Artist], columns: int = 3) -> Legend:
    """The key of the whole picture, below all panels."""
    return figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=TEXT, frameon=False)


def mark(label: str, **look: Any) -> Line2D:
    """A mark without a line, as it stands in a key."""
    settings: dict[str, Any] = {"color": GREY, "markersize": 7, "linestyle": "none", **look}
    return Line2D([], [], label=label, **settings)


def seed_marks(*, band: bool = True) -> list[Artist]:
    """The mean over several seeds, and the band beside it where one is drawn."""
    deviation = Patch(color=GREY, alpha=0.2, linewidth=0, label="± 1 standard deviation")
    return [Line2D([], [], color=GREY, linewidth=2.2, label="mean over seeds"), *([deviation] if band else [])]


def mean_marks(curves: Sequence[Curve], reading: Reading, *, several: bool) -> list[Artist]:
    """What `draw_panel` draws, in words; `several` says whether an arm has more than one seed."""
    chosen = f"best level{' of a seed' if several else ''}, chosen on {deciding_split(curves, reading)}"
    return [*(seed_marks() if several else []), mark(chosen, marker="o", markeredgecolor="white")]
