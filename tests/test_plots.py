"""The sweep's picture: it is written for whatever curves there are, and marks what it should."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from analysis.pictures import curves
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec, level_keys

BASE = TrialSpec(target_sparsity=0.998)
DIPPING = [0.9, 0.6, 0.4, 0.7, 0.8, 0.3]
CLEAN = [0.9, 0.9, 0.88, 0.8, 0.6, 0.3]
# 1000, 200, 40, 8, 2, 0 weights are left: the last level is past the target, and empty.
LEFT = [1000, 200, 40, 8, 2, 0]


def trial(values: Sequence[float], **fields) -> tuple[TrialSpec, list[LevelRecord]]:
    fields.setdefault("data_seed", fields.get("seed", 0))
    spec = BASE.replace(prune_fraction=0.8, **fields)
    shared = {"prunable": 1000, "emptied_layers": (), "train_accuracy": 1.0, "train_loss": 0.0, "val_loss": 1.0,
              "val_noisy_loss": 1.0, "test_loss": 1.0, "label_noise": 0.0, "train_size": 80, "val_size": 20,
              "test_size": 50, "chance": 0.1, "pflop": 2.0, "pflop_teacher": 0.0, "pflop_real": 4.0,
              "pflop_real_teacher": 0.0, "pflop_real_evaluation": 0.5, "sparse_multiply_adds": 80,
              "parent": None, "teacher": None, "weights": None,
              "measured": {}}  # fmt: skip
    decides = None if spec.protocol == "paper" else 1.0
    return spec, [
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


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws, checks the file, and returns the figure that was saved."""
    saved: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), savefig(self, *a, **k))[1])

    def run(*trials, base=1e-4, optimum=1e-2, tolerance=0.035, labels="clean") -> Figure:
        path: Path = tmp_path / "curves.png"
        curves.plot_curves(
            path, "a $weird_title", trials, base=base, optimum=optimum, tolerance=tolerance, labels=labels
        )
        content = path.read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", content[16:24]) == (1440, 864)
        assert 10_000 < len(content) < 1_000_000
        return saved[-1]

    return run


def texts(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    found += [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
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
    for text in ("40.0", "≥ 30.0", "λ = 0", "given up or unfinished", "one seed", "dip beyond 3.5 points", "chance"):
        assert text in said, text
    assert "base λ = 0.0001" in said
    assert "$λ_{opt}$ = 0.01" in said
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
        curves.plot_curves(tmp_path / "x.png", "t", trials, base=None, optimum=None, tolerance=0.02)
