"""What a search can still come to: every ending is among those played, and its levels lie within the range."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdd_core.curve import GiveUp
from sweeps.kinds.lambda_opt.bisection import Answer, decide
from sweeps.kinds.lambda_opt.outlook import Standing, endings, outlook, soonest
from tests.fakes import fake_levels, fake_record
from tests.test_lambda_search import BASE, CLEAN, DEAD, DIPS, make_search, settings_for

WORD = {"d": "dips", "c": "clean", "x": "collapsed"}
ANY, BASE_ANY = frozenset(WORD.values()), frozenset({"dips", "clean"})
WHOLE = 6  # levels of a fake trial


def play(truth, width):
    """The verdicts that a search asks for when the truth is known, and its answer."""
    known = {}
    while not isinstance(step := decide(len(truth), known, width), Answer):
        known |= {point: WORD[truth[point]] for point in step.points}
    return known, step


def falling(size):
    """Truths in which lambdas first dip, then are clean, then have collapsed."""
    cuts = st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted)
    return cuts.map(lambda cut: "d" * cut[0] + "c" * (cut[1] - cut[0]) + "x" * (size - cut[1]))


truths = st.integers(2, 13).flatmap(falling).filter(lambda truth: truth[0] != "x")


@given(truths, st.integers(1, 4))
def test_every_search_ends_in_one_of_the_endings(truth, width):
    found = list(endings([BASE_ANY] + [ANY] * (len(truth) - 1), width))
    assert play(truth, width) in found


@given(truths, st.integers(1, 4), st.data())
def test_what_is_known_leaves_the_true_ending_in(truth, width, data):
    """Some verdicts of the truth are in the store, whoever asked for them."""
    known = data.draw(st.sets(st.integers(0, len(truth) - 1)))
    possible = [frozenset({WORD[truth[p]]}) if p in known else ANY if p else BASE_ANY for p in range(len(truth))]
    assert play(truth, width) in list(endings(possible, width))


@pytest.mark.parametrize("state", ["cd..", "d.cxd", "cx.d", "dcdcd", "dxcxd"])
@pytest.mark.parametrize("width", [1, 2])
def test_verdicts_that_contradict_each_other_still_have_endings(state, width):
    possible = [frozenset({WORD[s]}) if s != "." else ANY for s in state]
    for verdicts, answer in endings(possible, width):
        assert all(WORD[state[p]] == v for p, v in verdicts.items() if state[p] != ".")
        assert decide(len(state), verdicts, width) == answer


@pytest.mark.parametrize(
    ("accuracies", "shape", "levels"),
    [
        ([], "dip", 3),  # up, down, up
        ([], "rebound", 2),
        ([0.8], "dip", 3),  # down, up
        ([0.8, 0.6], "dip", 3),  # up
        ([0.8, 0.79], "dip", 4),
        ([0.8, 0.79, 0.5], "dip", 4),
        ([0.8], "rebound", 2),
        ([0.8, 0.6, 0.7], "dip", 3),  # known already
        ([0.5, 0.6], "rebound", 2),
        ([0.9, 0.9, 0.9, 0.9, 0.9], "dip", 6),  # its last level comes first
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], "dip", 6),
        ([0.1], "dip", 4),  # at chance it cannot fall any more
    ],
)
def test_how_soon_a_trial_can_be_given_up(accuracies, shape, levels):
    curve = [fake_record(BASE, level, value) for level, value in enumerate(accuracies)]
    assert soonest(curve, GiveUp(tolerance=0.05, shape=shape), WHOLE) == levels


def standings(size, seeds=3):
    """A search of which nothing is known."""
    return [
        [
            Standing(
                spec=BASE.replace(weight_decay=1e-4 * (point + 1), seed=seed, data_seed=seed),
                levels=0,
                soonest=3 if point else WHOLE,
                whole=WHOLE,
                verdicts=ANY if point else BASE_ANY,
            )
            for seed in range(seeds)
        ]
        for point in range(size)
    ]


@pytest.mark.parametrize(
    ("size", "seeds", "fewest", "most"),
    [
        # The base runs to its end. A second lambda that dips is given up after 3 levels.
        (2, 1, 6 + 3, 6 + 6),
        (2, 3, 3 * 6 + 3 * 3, 6 * 6),
        # The first wave asks for 0, 4 and 9. Both others dip: 10 and 12 follow. Or the base is clean and so is 4,
        # where one seed of 3 may dip, as of 9.
        (13, 1, 6 + 3 + 3 + 3 + 3, 10 * 6),
    ],
)
def test_the_range_of_a_search_not_begun(size, seeds, fewest, most):
    found = outlook(standings(size, seeds), 2)
    assert (sum(found.fewest.values()), sum(found.most.values())) == (fewest, most)
    assert len(found.trials) == size * seeds
    low, high = zip(*found.trials.values(), strict=True)
    assert all(a <= b <= WHOLE for a, b in zip(low, high, strict=True))
    assert sum(low) <= fewest


LETTER = {"d": DIPS, "c": CLEAN, "x": DEAD}


@pytest.mark.parametrize(
    ("truth", "width"),
    [("ddddccccc", 2), ("dcccccccc", 1), ("ccccc", 3), ("ddddd", 2), ("ddddxxxxx", 2), ("ddddddcxx", 4), ("cx", 1)],
)
def test_at_every_moment_the_rest_of_a_search_lies_within_the_range(store, truth, width):
    """A whole search on invented curves, its trials in any order; before each the range is noted."""
    rng = random.Random(f"{truth} {width}")
    search = make_search(store, settings_for(truth, seeds=(0, 1, 2), width=width))
    noted, made = [], 0
    while tasks := search.plan():
        noted.append(search.outlook())
        task = rng.choice(tasks)
        point = search.settings.points.index(task.spec.weight_decay)
        made += fake_levels(store, task.spec, LETTER[truth[point]], give_up=task.give_up)
    noted.append(search.outlook())
    ranges = [(sum(found.fewest.values()), sum(found.most.values())) for found in noted]
    assert ranges[-1] == (made, made)
    assert all(low <= made <= high for low, high in ranges), (made, ranges)
    for found in noted:
        for spec, (low, high) in found.trials.items():
            assert low <= len(store.curve(spec)) <= high
