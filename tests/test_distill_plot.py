"""The distillation sweep's picture: a panel for each (alpha, tau), and who is drawn in it."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from matplotlib.figure import Figure

from analysis.pictures import distill
from analysis.pictures.axes import BASE_COLOUR, PALE
from analysis.pictures.distill import LEVEL_COLOURS
from sdd_core.reading import Reading, Trial
from sdd_core.record import LevelRecord
from sdd_core.spec import TeacherRef, TrialSpec, level_keys
from tests.fakes import fake_record

BASE = TrialSpec(prune_fraction=0.5, target_sparsity=0.9)
DIPPING, FALLING = [0.9, 0.5, 0.4, 0.7, 0.3], [0.9, 0.92, 0.8, 0.6, 0.3]


def levels(spec: TrialSpec, values: Sequence[float], teacher: str | None = None) -> list[LevelRecord]:
    return [
        fake_record(spec, i, value, key=key, test=value - 0.1, teacher=teacher)
        for i, (value, key) in enumerate(zip(values, level_keys(spec, teacher), strict=False))
    ]


def taught(level, values=FALLING, alpha=0.5, temperature=4.0, base=BASE, **fields):
    """A student of a level of the teacher, with its curve; level 1 is the pruned teacher's best."""
    teacher = base.replace(weight_decay=0.01, model_options=(("hidden1", 77),))
    spec = base.replace(
        teacher=TeacherRef(trial=teacher, level=level), alpha=alpha, temperature=temperature, data_seed=0, **fields
    )
    number = {"dense": 0, "pruned": 1}.get(level, level)
    return Trial(spec, levels(spec, values, levels(teacher, FALLING)[number].key))


def vanilla(values=DIPPING, base=BASE, **fields):
    spec = base.replace(data_seed=0, **fields)
    return Trial(spec, levels(spec, values))


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws, checks the file, and returns the figure that was saved."""
    saved: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), savefig(self, *a, **k))[1])

    def run(*students, labels="clean", with_teacher=5, base=BASE) -> Figure:
        trial = taught("dense", base=base)[0].teacher.trial
        teacher = Trial(trial, levels(trial, FALLING[:with_teacher])) if with_teacher else None
        path = tmp_path / "picture.png"
        distill.plot_distillation(path, "a $weird_title", students, teacher=teacher, reading=Reading(labels=labels))
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">I", content[16:20])[0] >= 1440
        return saved[-1]

    return run


def panels(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


def key(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def lines(axes, colour):
    """The curves of a colour: markers alone have one point."""
    return [line for line in axes.get_lines() if line.get_color() == colour and len(line.get_xdata()) > 1]


@pytest.mark.filterwarnings("error")
def test_a_panel_for_each_alpha_and_tau_with_the_vanilla_student_in_all(draw):
    approaches = [(0.5, 4.0), (0.5, 10.0), (1.0, 4.0), (1.0, 10.0)]
    students = [vanilla(seed=seed) for seed in (0, 1)]
    students += [taught(lv, alpha=a, temperature=t, seed=s) for a, t in approaches for lv in ("dense", "pruned")
                 for s in (0, 1)]  # fmt: skip
    figure = draw(*students)
    drawn = panels(figure)
    assert [axes.get_title(loc="left") for axes in drawn] == [f"α = {a:g}, τ = {t:g}" for a, t in approaches]
    for axes in drawn:
        assert key(axes) == ["vanilla: 30.0 (30.0)", "from dense: 0.0 (0.0)", "from pruned: 0.0 (0.0)"]
        for colour in (BASE_COLOUR, LEVEL_COLOURS["dense"], LEVEL_COLOURS["pruned"], PALE):
            (line,) = lines(axes, colour)
            values = DIPPING if colour == BASE_COLOUR else FALLING
            assert list(line.get_ydata()) == pytest.approx([100 * value - 10 for value in values])
        assert len(axes.collections) == 3  # bands of the students, none of the teacher
    (below,) = figure.legends
    said = [text.get_text() for text in below.get_texts()]
    assert "mean over seeds" in said
    assert "best level of a seed, chosen on validation, clean labels" in said
    assert "teacher: lenet hidden1=77 hidden2=100, λ=0.01" in said


def test_means_and_bands_are_over_the_seeds(draw):
    figure = draw(vanilla([0.9, 0.5, 0.4, 0.7, 0.3], seed=0), vanilla([0.7, 0.5, 0.4, 0.7, 0.3], seed=1))
    (axes,) = panels(figure)
    (line,) = lines(axes, BASE_COLOUR)
    assert line.get_ydata()[0] == pytest.approx(70)
    (band,) = axes.collections
    low, high = band.get_paths()[0].get_extents().intervaly
    assert high == pytest.approx(70 + 10 * 2**0.5)
    assert low == pytest.approx(20)


def test_marks_stand_at_the_best_level_and_at_the_teachers(draw):
    (axes,) = panels(draw(taught("pruned", [0.5, 0.6, 0.8, 0.8, 0.3])))
    points = {line.get_marker(): line for line in axes.get_lines() if len(line.get_xdata()) == 1}
    assert points["s"].get_xdata()[0] == pytest.approx(0.125)  # of equals the sparser
    assert points["D"].get_xdata()[0] == pytest.approx(0.5)
    assert points["D"].get_ydata()[0] == pytest.approx(82)
    assert not list(axes.collections)  # one seed has no band


PAPER = BASE.replace(protocol="paper")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("students", "options", "titles"),
    [
        ([vanilla()], {"with_teacher": 0}, ["vanilla"]),
        ([taught("dense")], {"with_teacher": 1}, ["α = 0.5, τ = 4"]),
        ([vanilla([0.5]), taught(3, [0.5])], {"labels": "noisy"}, ["α = 0.5, τ = 4"]),
        ([vanilla(), taught("dense", []), taught("pruned", DIPPING[:3])], {}, ["α = 0.5, τ = 4"]),
        ([vanilla(base=PAPER), taught("dense", base=PAPER)], {"base": PAPER}, ["α = 0.5, τ = 4"]),
    ],
)
def test_what_a_store_may_hold(draw, students, options, titles):
    figure = draw(*students, **options)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == titles
    for axes in figure.axes:
        for line in axes.get_lines():
            assert all(float(v) == float(v) for v in line.get_ydata()), "NaN in a curve"


def test_papers_protocol_is_marked(draw):
    figure = draw(vanilla(base=PAPER), taught("dense", base=PAPER), base=PAPER)
    (below,) = figure.legends
    assert any("chosen on test, by the paper's protocol" in text.get_text() for text in below.get_texts())
    (axes,) = panels(figure)
    assert key(axes) == ["vanilla: 30.0", "from dense: 0.0"]


def test_levels_by_number_come_last_and_look_different(draw):
    students = [taught(level) for level in (4, "pruned", 3, "dense")]
    (axes,) = panels(draw(*students))
    assert [text.split(":")[0] for text in key(axes)] == ["from dense", "from pruned", "from level 3", "from level 4"]
    assert len({line.get_color() for line in axes.get_legend().get_lines()}) == 4


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one level"):
        distill.plot_distillation(tmp_path / "x.png", "t", [vanilla([])], teacher=None, reading=Reading())
