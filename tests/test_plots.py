"""The sweep's picture: it is written for whatever curves there are, and marks what it should."""

from __future__ import annotations

import statistics
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis.pictures import curves
from sdd_core.reading import Reading, Trial
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec, level_keys

BASE = TrialSpec(target_sparsity=0.998)
DIPPING = [0.9, 0.6, 0.4, 0.7, 0.8, 0.3]
CLEAN = [0.9, 0.9, 0.88, 0.8, 0.6, 0.3]
# 1000, 200, 40, 8, 2, 0 weights are left: the last level is past the target, and empty.
LEFT = [1000, 200, 40, 8, 2, 0]


def trial(values: Sequence[float], **fields) -> Trial:
    fields.setdefault("data_seed", fields.get("seed", 0))
    spec = BASE.replace(prune_fraction=0.8, **fields)
    shared = {"prunable": 1000, "emptied_layers": (), "train_accuracy": 1.0, "train_loss": 0.0, "val_loss": 1.0,
              "val_noisy_loss": 1.0, "test_loss": 1.0, "label_noise": 0.0, "train_size": 80, "val_size": 20,
              "test_size": 50, "chance": 0.1, "pflop": 2.0, "pflop_teacher": 0.0, "pflop_real": 4.0,
              "pflop_real_teacher": 0.0, "pflop_real_evaluation": 0.5, "sparse_multiply_adds": 80,
              "parent": None, "teacher": None, "weights": None,
              "measured": {}}  # fmt: skip
    decides = None if spec.protocol == "paper" else 1.0
    curve = [
        LevelRecord(
            key=key,
            level=i,
            remaining=LEFT[i],
            sparsity=1 - LEFT[i] / 1000,
            val_accuracy=decides and value,
            val_noisy_accuracy=decides and value / 2,
            test_accuracy=value - 0.02,
            **shared,
        )
        for i, (value, key) in enumerate(zip(values, level_keys(spec), strict=False))
    ]
    return Trial(spec, curve)


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws, checks the file, and returns the figure that was saved."""
    saved: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), savefig(self, *a, **k))[1])

    def run(*trials, base=1e-4, optimum=1e-2, tolerance=0.035, shape="dip", **reading) -> Figure:
        path: Path = tmp_path / "curves.png"
        curves.plot_curves(
            path, "a $weird_title", trials, base=base, optimum=optimum, tolerance=tolerance,
            reading=Reading(**reading), shape=shape,
        )  # fmt: skip
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", content[16:24]) == (1440, 864)
        assert 10_000 < len(content) < 1_000_000
        return saved[-1]

    return run


def texts(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    found += [text.get_text() for key in figure.legends for text in key.get_texts()]
    found += [axes.get_title(loc="left") for axes in figure.axes]
    return "\n".join(found)


@pytest.mark.filterwarnings("error")
def test_a_search_with_seeds_zero_and_given_up_curves(draw):
    trials = [trial(DIPPING, weight_decay=1e-4, seed=s) for s in (0, 1, 2)]
    trials += [trial(CLEAN, weight_decay=1e-2, seed=s) for s in (0, 1, 2)]
    trials += [trial(DIPPING[:5], weight_decay=1e-3), trial(DIPPING[:4], weight_decay=1e-3, seed=1)]
    trials += [trial(DIPPING, weight_decay=0.0), trial([], weight_decay=1.0)]
    figure = draw(*trials)
    said = texts(figure)
    for text in (
        *("0: 40.0", "0.0001: 40.0  (base λ)", "0.001: ≥ 35.0", "0.01: 0.0  (λ_opt)"),
        *("base λ = 0.0001: 40.0", "λ_opt = 0.01: 0.0", "dip beyond 3.5 points"),
        *("given up or unfinished", "one seed", "chance"),
    ):
        assert text in said, text
    assert "only reported" in said
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["0", "50", "80", "90", "95", "99", "99.8"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("trials", "options"),
    [
        ([trial(DIPPING, weight_decay=0.0)], {"base": 0.0, "optimum": None}),  # λ=0 alone: no colour bar
        ([trial(CLEAN)], {"base": None, "optimum": None}),  # one λ, nothing to compare
        ([trial([0.5])], {"base": 1e-4, "optimum": 1e-4}),  # a single level
        ([trial([0.1] * 6), trial(CLEAN, weight_decay=1e-2)], {"labels": "noisy"}),  # a dead curve
        ([trial(CLEAN, weight_decay=10.0**-i) for i in range(20)], {}),  # too many for the bar's ticks
    ],
)
def test_what_a_store_may_hold(draw, trials, options):
    figure = draw(*trials, **options)
    for axes in figure.axes:
        for line in axes.get_lines():
            assert all(float(v) == float(v) for v in line.get_ydata()), "NaN in a curve"


# Three seeds whose valleys lie at different levels, so that the mean curve's dip is not the seeds' median.
SEEDS = [[0.9, 0.5, 0.8, 0.8, 0.8, 0.3], [0.9, 0.8, 0.5, 0.8, 0.8, 0.3], [0.9, 0.8, 0.8, 0.6, 0.8, 0.3]]


@pytest.mark.parametrize(("shape", "test"), [("dip", "test_dip"), ("rebound", "test_rebound")])
def test_the_numbers_are_those_of_the_table(draw, shape, test):
    trials = [trial(values, weight_decay=1e-4, seed=seed) for seed, values in enumerate(SEEDS)]
    figure = draw(*trials, trial(CLEAN, weight_decay=1e-2), shape=shape)
    figures = [Reading().summary(curve) for _, curve in trials]
    depth = statistics.median(getattr(figure, shape) for figure in figures)
    assert depth == pytest.approx(0.3)  # the mean curve's is 0.1
    left, right = figure.axes
    assert f"{100 * depth:.1f}" in [text.get_text() for text in left.texts]
    assert f"0.0001: {100 * depth:.1f}  (base λ)" in [text.get_text() for text in left.get_legend().get_texts()]
    on_test = 100 * statistics.median(getattr(figure, test) for figure in figures)
    assert f"base λ = 0.0001: {on_test:.1f}" in [text.get_text() for text in right.get_legend().get_texts()]


def test_the_triangle_stands_on_the_mean_curve_at_the_median_valley(draw):
    figure = draw(*(trial(values, weight_decay=1e-4, seed=seed) for seed, values in enumerate(SEEDS)))
    (triangle,) = [line for line in figure.axes[0].get_lines() if line.get_marker() == "v"]
    assert triangle.get_xdata()[0] == pytest.approx(LEFT[2] / 1000)
    assert triangle.get_ydata()[0] == pytest.approx(70)


@pytest.mark.parametrize(
    ("reading", "taken", "ended"),
    [({}, 0, 3), ({"patience": 1}, 0, 1), ({"min_drop": 0.3}, 0, None), ({"patience": 1, "min_drop": 0.45}, 0, 2)],
)
def test_early_stopping_is_what_was_asked_for(draw, reading, taken, ended):
    figure = draw(trial(DIPPING, weight_decay=1e-4), **reading)
    marks = {line.get_marker(): line for line in figure.axes[1].get_lines() if len(line.get_xdata()) == 1}
    assert marks["o"].get_xdata()[0] == pytest.approx(LEFT[taken] / 1000)
    assert ("|" in marks) == (ended is not None)
    if ended is not None:
        assert marks["|"].get_xdata()[0] == pytest.approx(LEFT[ended] / 1000)
        assert f"patience {reading.get('patience', 3)}, drop {100 * reading.get('min_drop', 0.02):g} points" in texts(
            figure
        )


def test_the_labels_that_decide_are_those_of_the_reading(draw):
    figure = draw(trial(DIPPING, weight_decay=1e-4), labels="noisy")
    assert "0.0001: 20.0  (base λ)" in texts(figure)


def test_papers_protocol_is_marked(draw):
    said = texts(draw(trial(CLEAN, protocol="paper", epochs=3)))
    assert "paper's protocol" in said
    assert "only reported" not in said


def test_a_dip_within_the_tolerance_is_not_marked(draw):
    assert "dip beyond" not in texts(draw(trial(DIPPING), tolerance=0.5))


@pytest.mark.parametrize(
    ("trials", "told"),
    [([], "at least one level"), ([trial([])], "1 trials"), ([trial(CLEAN), trial(CLEAN, epochs=2)], "one setting")],
)
def test_what_cannot_be_drawn(tmp_path, trials, told):
    with pytest.raises(ValueError, match=told):
        curves.plot_curves(tmp_path / "x.png", "t", trials, base=None, optimum=None, tolerance=0.02, reading=Reading())
