"""Verdicts of trials, each against the base of its own seed, on the labels that decide; invented curves."""

import pytest

from sdd_core import recipes
from sdd_core.curve import GiveUp
from sweeps.kinds.judge import Judge
from tests.fakes import fake_levels

BASE = recipes.digits_lenet().replace(target_sparsity=0.36)  # 3 levels; chance is 0.1
SEEDS = (0, 1, 2)


def trials(weight_decay):
    return tuple(BASE.replace(weight_decay=weight_decay, seed=seed, data_seed=seed) for seed in SEEDS)


@pytest.fixture
def judge(store):
    """A judge whose base and whose trials of another lambda have these accuracies, one row a seed."""

    def make(base, other, **rule):
        for weight_decay, rows in ((1e-4, base), (0.1, other)):
            for spec, row in zip(trials(weight_decay), rows, strict=True):
                fake_levels(store, spec, row)
        return Judge(store, GiveUp(**({"tolerance": 0.05} | rule)), trials(1e-4))

    return make


def falling(best):
    return [best, best - 0.01, best - 0.02]


@pytest.mark.parametrize(
    ("base", "other", "verdicts", "collapse"),
    [
        # Thresholds are 0.5, 0.3 and 0.45: half of the way from chance to the best of the same seed's base.
        ((0.9, 0.5, 0.8), (0.4, 0.4, 0.4), ("collapsed", "clean", "collapsed"), 0.05),
        ((0.9, 0.5, 0.8), (0.5, 0.29, 0.45), ("clean", "collapsed", "clean"), 0.0),
        ((0.5, 0.9, 0.8), (0.4, 0.4, 0.4), ("clean", "collapsed", "collapsed"), 0.05),
        ((0.5, 0.5, 0.9), (0.4, 0.4, 0.4), ("clean", "clean", "collapsed"), -0.1),
    ],
)
def test_a_trial_has_collapsed_against_the_base_of_its_own_seed(judge, base, other, verdicts, collapse):
    made = judge(map(falling, base), map(falling, other))
    assert made.thresholds() == pytest.approx([(best + 0.1) / 2 for best in base])
    assert made.trial_verdicts(trials(0.1)) == list(verdicts)
    assert made.constraints(trials(0.1))["collapse"] == pytest.approx(collapse)


@pytest.mark.parametrize(("labels", "verdict"), [("clean", "dips"), ("noisy", "clean")])
def test_the_labels_that_decide_are_those_of_the_rule(judge, labels, verdict):
    """A valley on clean labels is a hill on noisy ones, of half its height (`builders.AGAINST`)."""
    made = judge([falling(0.4)] * 3, [[0.6, 0.2, 0.6]] * 3, labels=labels)
    assert made.verdict(trials(0.1)) == verdict
    levels = made.curves(trials(0.1))[0].curve
    depth, best = {"clean": (0.4, 0.6), "noisy": (0.0, 0.4)}[labels]
    assert (made.depth(levels), made.best(levels)) == pytest.approx((depth, best))
    assert made.median_depth(trials(0.1)) == pytest.approx(depth)
    assert made.constraints(trials(0.1))["dip"] == pytest.approx(depth - 0.05)


def test_without_every_base_there_is_no_verdict(judge):
    made = judge([falling(0.9), falling(0.9), [0.9]], [falling(0.8)] * 3)
    assert made.trial_verdicts(trials(0.1)) == [None] * 3
    assert [task.spec.seed for task in made.unfinished(trials(1e-4))] == [2]
