"""What a curve says: rules as tables, and properties against references written from the definitions."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdd_core import curve
from sdd_core.curve import EarlyStop, GiveUp, Phases
from sdd_core.ledger import COSTS, costs
from sdd_core.reading import Reading

NAN = math.nan
# Few distinct values, so that ties are common, and gaps where a level was not measured.
coarse = st.lists(st.integers(0, 8).map(lambda n: n / 8) | st.just(NAN), max_size=14)
fine = st.lists(st.floats(0, 1), max_size=14)
curves = coarse | fine


def measured(values):
    return [v for v in values if not math.isnan(v)]


def reference_dip(values):
    a = measured(values)
    return max([min(max(a[:j]), max(a[j + 1 :])) - a[j] for j in range(1, len(a) - 1)] + [0.0])


def reference_rebound(values):
    a = measured(values)
    return max([a[j] - a[i] for j in range(len(a)) for i in range(j)] + [0.0])


def reference_early_stop(values, patience, min_drop):
    index = [i for i, v in enumerate(values) if not math.isnan(v)]
    if not index:
        return None

    def best(ended):
        top = max(values[i] for i in index[: ended + 1])
        return top, max(i for i in index[: ended + 1] if values[i] == top)

    for ended in range(patience - 1, len(index)):
        top, found = best(ended)
        if all(top - values[i] > min_drop for i in index[ended - patience + 1 : ended + 1]):
            return EarlyStop(index[ended], found, True)
    return EarlyStop(index[-1], best(len(index) - 1)[1], False)


# --- dip and rebound ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dip", "rebound"),
    [
        ([], 0, 0),
        ([NAN, NAN], 0, 0),
        ([0.5], 0, 0),
        ([0.9, 0.5], 0, 0),
        ([0.5, 0.9], 0, 0.4),
        ([0.5, 0.5, 0.5], 0, 0),
        ([0.5, 0.75, 0.25], 0, 0.25),  # rises, then only falls: safe to stop on, yet not monotone
        ([0.75, 0.25, 0.5], 0.25, 0.25),
        ([0.5, 0.25, 0.75], 0.25, 0.5),  # the lower shoulder counts
        ([0.75, 0.25, 0.5, 0.125], 0.25, 0.25),  # sparse double descent
        ([0.75, 0.5, 0.625, 0.25, 0.5], 0.25, 0.25),  # the deeper of two valleys
        ([0.75, 0.25, 0.25, 0.75], 0.5, 0.5),  # a flat bottom
        ([0.75, NAN, 0.25, NAN, 0.5], 0.25, 0.25),  # what was not measured is left out
        ([NAN, 0.25, 0.5, NAN], 0, 0.25),
    ],
)
def test_dip_and_rebound(values, dip, rebound):
    assert curve.dip(values) == dip
    assert curve.rebound(values) == rebound


@given(values=curves)
def test_dip_is_its_definition(values):
    assert curve.dip(values) == reference_dip(values)


@given(values=curves)
def test_rebound_is_its_definition(values):
    assert curve.rebound(values) == reference_rebound(values)


@given(values=curves, more=curves)
def test_neither_shrinks_as_the_curve_grows(values, more):
    assert curve.dip(values + more) >= curve.dip(values)
    assert curve.rebound(values + more) >= curve.rebound(values)


@given(values=curves)
def test_a_dip_is_a_rebound_too_and_looks_the_same_from_behind(values):
    assert 0 <= curve.dip(values) <= curve.rebound(values)
    assert curve.dip(values[::-1]) == curve.dip(values)


@given(values=fine)
def test_monotone_curves_have_no_dip(values):
    assert curve.dip(sorted(values)) == 0
    assert curve.dip(sorted(values, reverse=True)) == 0
    assert curve.rebound(sorted(values, reverse=True)) == 0


@given(values=curves, at=st.integers(0, 14))
def test_a_level_that_was_not_measured_is_as_if_it_were_not_there(values, at):
    gap = [*values[:at], NAN, *values[at:]]
    assert curve.dip(gap) == curve.dip(values)
    assert curve.rebound(gap) == curve.rebound(values)


def test_long_curves():
    n = 200_000
    saw = [0.5 + (i % 2) / 4 for i in range(n)]
    assert curve.dip(saw) == 0.25
    assert curve.rebound(saw) == 0.25
    assert curve.phases(saw) == Phases(n - 3, n - 2, n - 1, n - 1)
    assert curve.early_stop(saw, patience=2) == EarlyStop(n - 1, n - 1, False)


VALUES = [0.75, 0.25, 0.5, 0.125, NAN]


@pytest.mark.parametrize(
    "sequence",
    [VALUES, tuple(VALUES), np.array(VALUES), np.array(VALUES, dtype=np.float32), pd.Series(VALUES).to_numpy()],
    ids=["list", "tuple", "float64", "float32", "pandas"],
)
def test_any_sequence_of_floats(sequence):
    assert curve.dip(sequence) == 0.25
    assert curve.rebound(sequence) == 0.25
    assert curve.phases(sequence) == Phases(0, 1, 2, 3)
    assert curve.best_level(sequence) == 0
    assert curve.early_stop(sequence, patience=2) == EarlyStop(2, 0, True)
    assert curve.lift(sequence, 0.3)[:4] == [0.75, 0.3, 0.5, 0.3]


# --- lift -----------------------------------------------------------------------------------


def test_lift_raises_what_is_under_chance():
    assert curve.lift([0.05, 0.1, 0.3], 0.1) == [0.1, 0.1, 0.3]
    assert curve.lift([], 0.1) == []
    assert math.isnan(curve.lift([NAN], 0.1)[0])


@given(values=curves, chance=st.floats(0, 1))
def test_lifting_deepens_nothing(values, chance):
    assert curve.dip(curve.lift(values, chance)) <= curve.dip(values)


# --- phases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "tolerance", "expected"),
    [
        ([], 0, None),
        ([NAN], 0, None),
        ([0.5], 0, Phases(0, None, 0, 0)),
        ([0.75, 0.5, 0.25], 0, Phases(0, None, 0, 2)),
        ([0.5, 0.75, 0.75, 0.25], 0, Phases(2, None, 2, 3)),  # ties: the sparser
        ([0.75, 0.75, 0.25, 0.5, 0.5, 0.125], 0, Phases(1, 2, 4, 5)),
        ([0.75, 0.25, 0.25, 0.5, 0.125], 0, Phases(0, 2, 3, 4)),  # a flat bottom: the sparser
        ([0.75, 0.5, 0.625, 0.25, 0.5], 0, Phases(0, 3, 4, 4)),  # the deepest valley
        ([0.75, 0.25, 0.5, 0.125], 0.25, Phases(0, None, 0, 3)),  # within the tolerance: no valley
        ([0.75, 0.25, 0.5, 0.125], 0.2, Phases(0, 1, 2, 3)),
        ([NAN, 0.75, NAN, 0.25, 0.5, NAN, 0.125, NAN], 0, Phases(1, 3, 4, 6)),
    ],
)
def test_phases(values, tolerance, expected):
    assert curve.phases(values, tolerance) == expected


@given(values=curves)
def test_phases_enclose_the_deepest_valley(values):
    found = curve.phases(values)
    depth = curve.dip(values)
    if found is None:
        assert not measured(values)
        return
    assert found.last == max(i for i, v in enumerate(values) if not math.isnan(v))
    if found.valley is None:
        assert depth == 0
        assert found.fall == found.peak <= found.last
    else:
        assert found.fall < found.valley < found.peak <= found.last
        assert min(values[found.fall], values[found.peak]) - values[found.valley] == depth > 0


@given(values=st.lists(st.floats(0, 1, width=32), max_size=14))
def test_phases_of_single_precision_are_those_of_the_same_numbers_in_double(values):
    assert curve.phases(np.array(values, dtype=np.float32)) == curve.phases(values)


# --- best level and early stopping ----------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], None), ([NAN], None), ([0.5], 0), ([0.5, 0.75, 0.25], 1), ([0.5, 0.75, 0.75, 0.25], 2), ([NAN, 0.5, NAN], 1)],
)
def test_best_level(values, expected):
    assert curve.best_level(values) == expected


@pytest.mark.parametrize(
    ("values", "patience", "min_drop", "expected"),
    [
        ([], 3, 0.02, None),
        ([NAN, NAN], 3, 0.02, None),
        ([0.5], 1, 0.0, EarlyStop(0, 0, False)),
        ([0.9, 0.8, 0.7, 0.6, 0.95], 3, 0.02, EarlyStop(3, 0, True)),  # the later rise is never seen
        ([0.9, 0.8, 0.7, 0.95], 3, 0.02, EarlyStop(3, 3, False)),  # a better level in time
        ([0.9, 0.8, 0.7], 3, 0.02, EarlyStop(2, 0, False)),  # ran out one level too early
        ([0.9, 0.8], 1, 0.02, EarlyStop(1, 0, True)),
        ([0.9, 0.8, 0.89, 0.8, 0.8, 0.8], 3, 0.02, EarlyStop(5, 0, True)),  # close to the best restarts the count
        ([0.75, 0.625, 0.625], 2, 0.125, EarlyStop(2, 0, False)),  # a drop of exactly min_drop is not more
        ([0.75, 0.625, 0.625], 2, 0.12, EarlyStop(2, 0, True)),
        ([0.75, 0.75, 0.5, 0.5], 2, 0.02, EarlyStop(3, 1, True)),  # ties: the sparser
        ([0.5, 0.5, 0.5], 1, 0.0, EarlyStop(2, 2, False)),
        ([0.5, 0.6, 0.7, 0.8], 1, 0.0, EarlyStop(3, 3, False)),
        ([0.9, 0.8, NAN, 0.8, 0.9], 2, 0.02, EarlyStop(3, 0, True)),  # the gap neither counts nor restarts
        ([NAN, 0.9, 0.8, NAN], 3, 0.02, EarlyStop(2, 1, False)),
        ([0.9, 0.8, 0.7, 0.6], 10, 0.02, EarlyStop(3, 0, False)),
    ],
)
def test_early_stop(values, patience, min_drop, expected):
    assert curve.early_stop(values, patience, min_drop) == expected


def test_early_stop_waits_for_three_levels_of_two_points_by_default():
    assert curve.early_stop([0.9, 0.87, 0.87, 0.87, 0.87]) == EarlyStop(3, 0, True)
    assert curve.early_stop([0.9, 0.885, 0.885, 0.885, 0.885]) == EarlyStop(4, 0, False)


@settings(max_examples=300)
@given(values=curves, patience=st.integers(1, 5), min_drop=st.sampled_from([0.0, 0.02, 0.125, 0.25]))
def test_early_stop_is_its_definition(values, patience, min_drop):
    assert curve.early_stop(values, patience, min_drop) == reference_early_stop(values, patience, min_drop)


@given(values=curves, more=curves, patience=st.integers(1, 4))
def test_an_early_stop_is_final(values, more, patience):
    stopped = curve.early_stop(values, patience)
    if stopped is not None and stopped.triggered:
        assert curve.early_stop(values + more, patience) == stopped


@pytest.mark.parametrize(("patience", "min_drop"), [(0, 0.02), (-1, 0.02), (3, -0.01), (3, NAN)])
def test_early_stop_refuses_what_means_nothing(patience, min_drop):
    with pytest.raises(ValueError, match="must hold, but got"):
        curve.early_stop([0.5], patience, min_drop)


# --- tolerance, collapse, verdicts ----------------------------------------------------------


@pytest.mark.parametrize(("size", "expected"), [(900, 0.02), (10_000, 0.02), (100, 0.06), (1, 0.6), (287, 0.0354169)])
def test_default_tolerance(size, expected):
    assert curve.default_tolerance(size) == pytest.approx(expected, abs=1e-6)


def test_a_tolerance_needs_a_split():
    with pytest.raises(ValueError, match="but got 0"):
        curve.default_tolerance(0)


def test_collapse_is_halfway_between_chance_and_the_base():
    assert curve.collapse_threshold(0.9, 0.1) == 0.5


@pytest.mark.parametrize(
    ("depth", "best", "expected"),
    [
        (0.0, 0.9, "clean"),
        (0.05, 0.9, "clean"),  # exactly the tolerance is within it
        (0.051, 0.9, "dips"),
        (0.0, 0.5, "clean"),  # exactly the threshold is not below it
        (0.0, 0.499, "collapsed"),
        (0.051, 0.2, "dips"),  # a dip is never taken back
    ],
)
def test_trial_verdict(depth, best, expected):
    assert curve.trial_verdict(depth, best, 0.05, 0.5) == expected


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["clean"], "clean"),
        (["dips"], "dips"),
        (["collapsed"], "collapsed"),
        (["clean", "clean", "clean"], "clean"),
        (["clean", "clean", "dips"], "clean"),
        (["clean", "clean", "collapsed"], "clean"),
        (["dips", "dips", "clean"], "dips"),
        (["dips", "dips", "collapsed"], "dips"),
        (["dips", "dips", "dips"], "dips"),
        (["diverged"], "diverged"),
        (["diverged", "clean", "clean"], "clean"),
        (["diverged", "collapsed", "clean"], "diverged"),
        (["diverged", "collapsed", "collapsed"], "collapsed"),
        (["diverged", "diverged", "dips"], "diverged"),
        (["diverged", "dips", "dips"], "dips"),
        (["collapsed", "collapsed", "clean"], "collapsed"),
        (["collapsed", "collapsed", "dips"], "collapsed"),
        (["collapsed", "collapsed", "collapsed"], "collapsed"),
        (["clean", "dips", "collapsed"], "clean"),  # two of three have a dip within the tolerance
        (["dips", "dips", "dips", "clean", "clean"], "dips"),
        (["dips", "dips", "collapsed", "clean", "collapsed"], "clean"),
    ],
)
def test_lambda_verdict(verdicts, expected):
    assert curve.lambda_verdict(verdicts) == expected
    assert curve.lambda_verdict(verdicts[::-1]) == expected


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_lambda_needs_an_odd_number_of_seeds(count):
    with pytest.raises(ValueError, match=f"but got {count}"):
        curve.lambda_verdict(["clean"] * count)


# --- records --------------------------------------------------------------------------------


@pytest.fixture
def curve_of(make_record):
    """Records with these clean validation accuracies; the other accuracies are apart from them."""

    def make(values, test=None, noisy=None):
        return [
            make_record(
                level,
                val_accuracy=value,
                val_noisy_accuracy=noisy[level] if noisy else 0.3,
                test_accuracy=test[level] if test else 0.6,
            )
            for level, value in enumerate(values)
        ]

    return make


def test_the_accuracy_that_decides(make_record):
    record = make_record(val_accuracy=0.8, val_noisy_accuracy=0.4, test_accuracy=0.7)
    assert (record.deciding_accuracy(), record.deciding_accuracy("noisy")) == (0.8, 0.4)
    assert make_record(val_accuracy=None, val_noisy_accuracy=None, test_accuracy=0.7).deciding_accuracy() == 0.7
    assert make_record(val_accuracy=0.0, val_noisy_accuracy=0.0, test_accuracy=0.7).deciding_accuracy() == 0.0


def test_a_record_cannot_be_changed(make_record):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_record().level = 3


@pytest.mark.parametrize(
    ("values", "shape", "tolerance", "expected"),
    [
        ([], "dip", 0.0, False),
        ([0.75, 0.25], "dip", 0.0, False),
        ([0.75, 0.25, 0.5], "dip", 0.25, False),  # exactly the tolerance is within it
        ([0.75, 0.25, 0.5], "dip", 0.2, True),
        ([0.5, 0.75], "dip", 0.2, False),
        ([0.5, 0.75], "rebound", 0.2, True),
        ([0.75, 0.05, 0.1, 0.05], "dip", 0.0, False),  # noise below chance is no dip
        ([0.75, 0.05, 0.2, 0.05], "dip", 0.0999, True),  # lifted to chance: 0.1 and not 0.15 deep
        ([0.75, 0.05, 0.2, 0.05], "dip", 0.11, False),
    ],
)
def test_give_up(curve_of, values, shape, tolerance, expected):
    assert GiveUp(tolerance=tolerance, shape=shape).applies(curve_of(values)) is expected


def test_give_up_reads_the_labels_it_is_told(curve_of):
    levels = curve_of([0.75, 0.5, 0.25], noisy=[0.5, 0.25, 0.5], test=[0.5, 0.125, 0.5])
    assert not GiveUp(tolerance=0.0).applies(levels)
    assert GiveUp(tolerance=0.0, labels="noisy").applies(levels)


def test_giving_up_is_known_as_soon_as_the_dip_is_and_stays(curve_of):
    levels = curve_of([0.75, 0.25, 0.5, 0.125, 0.125])
    assert [GiveUp(tolerance=0.1).applies(levels[:n]) for n in range(6)] == [False, False, False, True, True, True]


def test_summarise(curve_of):
    levels = curve_of([0.75, 0.5, 0.5, 0.875, 0.05], test=[0.7, 0.4, 0.05, 0.65, 0.0])
    found = Reading(patience=2).summary(levels)
    assert found.dip == 0.25
    assert found.rebound == 0.375
    assert found.test_dip == pytest.approx(0.55)  # lifted to chance, 0.1
    assert found.test_rebound == pytest.approx(0.55)
    assert (found.levels, found.pflop) == (5, 1.25)
    best, stop = found.best, found.early_stop
    assert (best.level, best.sparsity, best.accuracy, best.test_accuracy) == (3, levels[3].sparsity, 0.875, 0.65)
    assert (stop.level, stop.sparsity, stop.accuracy, stop.test_accuracy) == (0, 0.0, 0.75, 0.7)
    for part, paid in ((found, 5), (best, 5), (stop, 3)):
        assert {name: getattr(part, name) for name in COSTS} == vars(costs(levels[:paid]))
    assert found.early_stop_triggered


def test_summarise_a_curve_that_ran_out_and_on_noisy_labels(curve_of):
    found = Reading(labels="noisy").summary(curve_of([0.75, 0.5], noisy=[0.25, 0.5]))
    assert (found.best.level, found.best.accuracy) == (1, 0.5)
    assert (found.early_stop.level, found.early_stop.levels, found.early_stop_triggered) == (1, 2, False)


@pytest.mark.parametrize(("labels", "dip", "rebound"), [("clean", 0.25, 0.5), ("noisy", 0.125, 0.375)])
def test_the_dip_of_a_curve_is_that_of_the_labels_that_decide(curve_of, labels, dip, rebound):
    found = Reading(labels=labels).summary(
        curve_of([0.5, 0.25, 0.75], noisy=[0.5, 0.375, 0.75], test=[0.5, 0.125, 0.75])
    )
    assert (found.dip, found.rebound) == (dip, rebound)
    assert (found.test_dip, found.test_rebound) == (0.375, 0.625)


def test_the_rule_of_early_stopping_is_the_readings(curve_of):
    levels = curve_of([0.75, 0.5, 0.5, 0.5])
    assert Reading(patience=2, min_drop=0.2).summary(levels).early_stop.levels == 3
    assert Reading(patience=2, min_drop=0.3).summary(levels).early_stop.levels == 4


def test_summarise_a_single_level(curve_of):
    found = Reading().summary(curve_of([0.75], test=[0.05]))
    assert (found.levels, found.best.level, found.early_stop.level, found.early_stop_triggered) == (1, 0, 0, False)
    assert (found.dip, found.test_rebound) == (0.0, 0.0)


def test_what_decides_by_default_is_the_dip_on_clean_labels(curve_of):
    levels = curve_of([0.5, 0.25, 0.75], noisy=[0.5, 0.5, 0.5])
    assert (curve.shape_of(levels), curve.shape_of(levels, "rebound"), curve.shape_of([])) == (0.25, 0.5, 0.0)
    assert curve.shape_of(levels, "rebound", "noisy") == 0.0


def test_an_empty_curve_has_no_summary():
    with pytest.raises(ValueError, match="at least one measured level, but got 0"):
        Reading().summary([])
