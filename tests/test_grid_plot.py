"""The pictures of a grid and of many settings: what makes the panels and the lines, and whose numbers stand there."""

from __future__ import annotations

import itertools
import statistics
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis.pictures import grid, settings
from analysis.pictures.axes import BASE_COLOUR, OKABE_ITO, OPTIMUM_COLOUR
from analysis.pictures.grid import Cell
from analysis.pictures.settings import Panel
from sdd_core.reading import Reading
from sdd_core.spec import TrialSpec
from tests.fakes import fake_record

SPEC = TrialSpec(prune_fraction=0.5, target_sparsity=0.9)
PAPER = SPEC.replace(protocol="paper")
FALLING = [0.9, 0.9, 0.8, 0.6, 0.3]


def curve(values: Sequence[float], spec: TrialSpec = SPEC):
    return [fake_record(spec, level, value, test=value - 0.1) for level, value in enumerate(values)]


def dipping(depth: float):
    return curve([0.9, 0.9 - depth, 0.9, 0.6, 0.3])


def product(axes: Mapping[str, Sequence[Any]], depth) -> list[Cell]:
    """A cell with one seed for each combination, whose dip is `depth` of its fields."""
    fields = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [Cell(of_cell, [dipping(depth(of_cell))]) for of_cell in fields]


@pytest.fixture
def saved(monkeypatch, tmp_path, request):
    """Returns the figure that a function of a path draws.

    Only a test that warnings fail has the file written too, with a look at it, since that takes most of the time.
    """
    figures: list[Figure] = []
    written = request.node.get_closest_marker("filterwarnings") is not None
    savefig = Figure.savefig

    def save(self, *arguments, **options):
        figures.append(self)
        if written:
            savefig(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", save)

    def run(draw) -> Figure:
        path = tmp_path / "picture.png"
        draw(path)
        if written:
            content = path.read_bytes()
            assert content[:8] == b"\x89PNG\r\n\x1a\n"
            assert struct.unpack(">I", content[16:20])[0] >= 1440
        return figures[-1]

    return run


@pytest.fixture
def draw(saved):
    def run(cells, axes, tolerance=0.035, title="a $weird_title", **reading) -> Figure:
        how = {"reading": Reading(**reading), "tolerance": tolerance}
        return saved(lambda path: grid.plot_grid(path, title, cells, axes, **how))

    return run


def headings(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]


def words(key):
    return [text.get_text() for text in key.get_texts()]


def names(figure):
    """The lines' names, beside several panels."""
    return words(figure.legends[0])


NOISE, ALPHA, TEACHER = [0.2, 0.5], [0.5, 0.8, 0.95], ["dense", "pruned"]


@pytest.mark.filterwarnings("error")
def test_the_axes_with_the_largest_effects_make_columns_and_rows(draw):
    axes = {"teacher": TEACHER, "alpha": ALPHA, "label_noise": NOISE}
    effects = {"dense": 0.01, "pruned": 0.0}
    figure = draw(
        product(axes, lambda f: f["label_noise"] + (0.95 - f["alpha"]) / 3 + effects[f["teacher"]]), axes, tolerance=0.3
    )
    assert headings(figure) == [f"ε = {100 * e:g} %, α = {a:g}" for a in ALPHA for e in NOISE]
    assert names(figure) == ["teacher = dense", "teacher = pruned"]
    key = figure.axes[0].get_legend()
    assert words(key) == ["36.0", "35.0"]
    assert {text.get_fontweight() for text in key.get_texts()} == {"bold"}
    assert {text.get_fontweight() for text in figure.axes[4].get_legend().get_texts()} == {"normal"}


def test_an_axis_that_changes_the_best_accuracy_alone_has_an_effect(draw):
    cells = [
        Cell({"alpha": a, "temperature": t}, [curve([0.5 + a / 4, 0.3, 0.2])]) for a in (0.1, 0.9) for t in (1.0, 4.0)
    ]
    figure = draw(cells, {"temperature": [1.0, 4.0], "alpha": [0.1, 0.9]})
    assert headings(figure) == ["α = 0.1", "α = 0.9"]
    assert names(figure) == ["τ = 1", "τ = 4"]


@pytest.mark.parametrize(("values", "shape"), [(4, (1, 4)), (5, (2, 3)), (7, (2, 4)), (9, (3, 3))])
def test_the_panels_of_two_axes_break_into_rows(draw, values, shape):
    axes = {"temperature": [float(t) for t in range(values)], "alpha": [0.1, 0.9]}
    figure = draw(product(axes, lambda f: f["temperature"] / 20), axes)
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    assert len(headings(figure)) == values


def test_a_wide_axis_makes_the_rows(draw):
    axes = {"temperature": [1.0, 2.0, 3.0, 4.0, 5.0], "alpha": [0.1, 0.9], "teacher": TEACHER}
    figure = draw(product(axes, lambda f: f["temperature"] / 10 + f["alpha"] / 20), axes)
    assert figure.axes[0].get_gridspec().get_geometry() == (5, 2)


@pytest.mark.filterwarnings("error")
def test_one_axis_is_one_panel_with_names_and_dips_in_its_key(draw):
    figure = draw(
        product({"prune_fraction": [0.2, 0.5]}, lambda f: f["prune_fraction"]), {"prune_fraction": [0.2, 0.5]}
    )
    (axes,) = figure.axes
    assert words(axes.get_legend()) == ["prune fraction = 0.2: 20.0", "prune fraction = 0.5: 50.0"]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_legend().get_lines()}
    assert looks == {(OKABE_ITO[0], "-"), (OKABE_ITO[1], "--")}  # they differ in grey too


def test_named_arms_are_lines(draw):
    figure = draw([Cell({"arm": "as $published"}, [dipping(0.3)]), Cell({"arm": "AdamW"}, [dipping(0.1)])], {})
    assert words(figure.axes[0].get_legend()) == ["as $published: 30.0", "AdamW: 10.0"]


def test_an_arm_without_a_place_on_an_axis_is_in_all_its_panels(draw):
    axes = {"label_noise": NOISE, "alpha": ALPHA, "teacher": TEACHER}
    cells = product(axes, lambda f: f["label_noise"] + (1 - f["alpha"]) / 10)
    vanilla = [Cell({"arm": "vanilla", "label_noise": e}, [dipping(e + 0.3)]) for e in NOISE]
    figure = draw([*cells, *vanilla], axes)
    assert names(figure) == ["teacher = dense", "teacher = pruned", "vanilla"]
    for panel, noise in zip(figure.axes, itertools.cycle(NOISE), strict=False):
        assert words(panel.get_legend())[2] == f"{100 * noise + 30:.1f}"


def test_colour_says_the_first_axis_in_a_panel_and_dashes_the_second(draw):
    axes = {"label_noise": NOISE, "dataset": ["digits", "mnist"], "alpha": [0.1, 0.5, 0.9], "teacher": TEACHER}
    figure = draw(product(axes, lambda f: f["label_noise"] + 0.1 * (f["dataset"] == "mnist")), axes)
    lines = figure.legends[0].get_lines()
    assert names(figure)[:2] == ["α = 0.1, teacher = dense", "α = 0.1, teacher = pruned"]
    assert [line.get_color() for line in lines] == [OKABE_ITO[i] for i in (0, 0, 1, 1, 2, 2)]
    assert [line.get_linestyle() for line in lines] == ["-", "--"] * 3


@pytest.mark.parametrize("count", [8, 20])
def test_many_lines_have_a_colour_each(draw, count):
    axes = {"temperature": [float(t) for t in range(count)]}
    figure = draw(product(axes, lambda f: f["temperature"] / 50), axes)
    lines = figure.axes[0].get_legend().get_lines()
    assert len({line.get_color() for line in lines}) == count
    assert {line.get_linestyle() for line in lines} == {"-"}


def test_the_dip_is_the_median_over_the_seeds_and_the_dots_are_their_best_levels(draw):
    seeds = [[0.9, 0.5, 0.8, 0.3], [0.9, 0.8, 0.5, 0.95], [0.5, 0.9, 0.8, 0.85]]
    curves = [curve(values) for values in seeds]
    (axes,) = draw([Cell({"arm": "a"}, curves)], {}).axes
    depth = statistics.median(Reading().summary(of_seed).dip for of_seed in curves)
    assert words(axes.get_legend()) == [f"a: {100 * depth:.1f}"] == ["a: 30.0"]
    dots = {float(line.get_xdata()[0]): line.get_ydata()[0] for line in axes.get_lines() if line.get_marker() == "o"}
    assert dots == pytest.approx({1.0: 80, 0.125: 85, 0.5: 80})
    (mean,) = [line for line in axes.get_lines() if len(line.get_xdata()) == 4]
    assert mean.get_ydata()[0] == pytest.approx(100 * statistics.fmean(values[0] for values in seeds) - 10)
    (band,) = axes.collections
    bottom = band.get_paths()[0].get_extents().y0
    assert bottom == pytest.approx(
        min(100 * (statistics.fmean(at) - statistics.stdev(at)) - 10 for at in zip(*seeds, strict=True))
    )


@pytest.mark.filterwarnings("error")
def test_cells_without_a_finished_level_are_left_out(draw):
    axes = {"label_noise": NOISE, "alpha": [0.1, 0.9]}
    cells = product(axes, lambda f: f["label_noise"])
    figure = draw([cells[0], Cell(cells[1].fields, [[], []]), Cell(cells[2].fields, []), cells[3]], axes)
    assert sum(len(words(panel.get_legend())) for panel in figure.axes) == 2
    figure = draw([cells[0], Cell(cells[2].fields, [[]])], axes)
    assert [panel.get_legend() is None for panel in figure.axes] == [False, True]
    assert [text.get_text() for text in figure.axes[1].texts] == ["no finished level"]
    with pytest.raises(ValueError, match="at least one level, but got 1 cells"):
        draw([Cell({}, [[]])], {})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("curves", "reading", "said"),
    [
        ([curve(FALLING)], {}, "validation, clean labels"),
        ([curve(FALLING)], {"labels": "noisy"}, "validation, noisy labels"),
        ([curve(FALLING, PAPER)], {}, "test, by the paper's protocol"),
        ([curve([0.1])], {}, "validation, clean labels"),
        ([curve([0.1] * 5), curve([0.1] * 3)], {}, "validation, clean labels"),
    ],
)
def test_what_a_store_may_hold(draw, curves, reading, said):
    figure = draw([Cell({"arm": "a"}, curves)], {}, **reading)
    assert any(f"chosen on {said}" in text for text in words(figure.legends[-1]))
    assert any(f"median dip on {said}" in text for text in words(figure.legends[-1]))


def test_a_long_title_is_broken(draw):
    figure = draw([Cell({}, [curve(FALLING)])], {}, title="a sweep of everything that can be varied, " * 6)
    assert figure.get_suptitle().count("\n") >= 2


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("label_noise", 0.25, "ε = 25 %"),
        ("label_noise", 0.0, "ε = 0 %"),
        ("weight_decay", 0.0, "λ = 0"),
        ("weight_decay", 0.0178, "λ = 0.0178"),
        ("alpha", 0.95, "α = 0.95"),
        ("temperature", 10.0, "τ = 10"),
        ("teacher", "dense", "teacher = dense"),
        ("teacher", None, "teacher = none"),
        ("model_options", {"width": 64, "stem": "pool"}, "model options = width=64 stem=pool"),
        ("epochs", 160, "epochs = 160"),
        ("arm", "vanilla", "vanilla"),
    ],
)
def test_names_of_fields(name, value, text):
    assert grid.field_text(name, value) == text


# --- λ_opt over settings --------------------------------------------------------------------


def panel(label: str, base=1e-4, lambda_opt: float | None = 0.01, depths=(0.2, 0.3, 0.4)) -> Panel:
    found = [curve(FALLING)] * 3 if lambda_opt is not None else []
    return Panel(label, base, lambda_opt, [dipping(depth) for depth in depths], found)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.filterwarnings("error")), 6, 20])
def test_a_panel_for_each_setting_below_all_their_lambdas(saved, count):
    panels = [panel(f"setting {i}") for i in range(count)]
    figure = saved(lambda path: settings.plot_settings(path, panels, Reading()))
    above, *below = [axes for axes in figure.axes if axes.get_visible()]
    assert [label.get_text() for label in above.get_yticklabels()] == [f"setting {i}" for i in range(count)]
    assert headings(figure)[1:] == [f"setting {i}" for i in range(count)]
    assert words(below[-1].get_legend()) == ["base λ = 0.0001: 30.0 (30.0)", "λ_opt = 0.01: 0.0 (0.0)"]
    assert [line.get_color() for line in below[-1].get_legend().get_lines()] == [BASE_COLOUR, OPTIMUM_COLOUR]


@pytest.mark.filterwarnings("error")
def test_none_zero_and_a_clean_base_are_said(saved):
    panels = [
        panel("none", lambda_opt=None),
        panel("zero", base=0.0, lambda_opt=0.001),
        panel("zero and none", base=0.0, lambda_opt=None),
        panel("same", base=0.01),
        Panel("not begun", 1e-4, None, [[]], []),
        panel("zero is clean", base=0.0, lambda_opt=0.0),
    ]
    figure = saved(lambda path: settings.plot_settings(path, panels, Reading()))
    above, *below = figure.axes
    said = {(round(text.xy[1]), text.get_text()) for text in above.texts}
    assert {(0, "none"), (1, "0"), (1, "0.001"), (2, "0"), (2, "none"), (3, "0.01"), (4, "none"), (5, "0")} <= said
    assert all(line.get_xdata()[0] > 0 for line in above.get_lines() if len(line.get_xdata()))
    assert words(below[0].get_legend()) == ["base λ = 0.0001: 30.0 (30.0)"]
    assert words(below[3].get_legend()) == ["base λ = λ_opt = 0.01: 30.0 (30.0)"]
    assert [text.get_text() for text in below[4].texts] == ["no finished level"]


def test_settings_without_a_level_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one level"):
        settings.plot_settings(tmp_path / "x.png", [Panel("a", 1e-4, None, [], [])], Reading())
