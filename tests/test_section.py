"""The bracket search as a table: verdicts by grid point in, what is asked or answered out."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.kinds.lambda_opt.bisection import Answer, Ask, decide, grid

WORD = {"d": "dips", "c": "clean", "x": "collapsed", "v": "diverged"}


def verdicts(text):
    """`d..c` -> {0: dips, 3: clean}."""
    return {i: WORD[letter] for i, letter in enumerate(text) if letter != "."}


@pytest.mark.parametrize(
    ("low", "high", "per_decade", "expected"),
    [
        (1e-4, 1e-2, 1, [1e-4, 1e-3, 1e-2]),
        (1e-4, 1e-3, 4, [1e-4, 1.78e-4, 3.16e-4, 5.62e-4, 1e-3]),
        (2e-4, 7e-4, 4, [2e-4, 3.16e-4, 5.62e-4, 7e-4]),
        (3e-4, 3.1e-4, 4, [3e-4, 3.1e-4]),
        (0, 1e-5, 1, [0, 1e-6, 1e-5]),
        (0, 1e-7, 1, [0, 1e-7]),
        (0.03, 3, 4, [0.03, 0.0562, 0.1, 0.178, 0.316, 0.562, 1, 1.78, 3]),  # 0.0316 is 0.03 again
        (1e-4, 0.0314, 1, [1e-4, 1e-3, 1e-2, 0.0314]),
        (1e-4, 0.103, 1, [1e-4, 1e-3, 1e-2, 0.103]),
        (1e-4, 0.0125, 1, [1e-4, 1e-3, 0.0125]),  # a tenth of a step is a factor of 1.2589
        (1e-4, 0.01265, 1, [1e-4, 1e-3, 1e-2, 0.01265]),
        (1, 100, 2, [1, 3.16, 10, 31.6, 100]),
    ],
)
def test_grid(low, high, per_decade, expected):
    assert grid(low, high, per_decade) == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 12), st.floats(1e-6, 1), st.floats(1.01, 1e4))
def test_grids_of_any_two_ranges_share_their_inner_points(per_decade, low, factor):
    inner = grid(low, low * factor, per_decade)[1:-1]
    assert all(point == float(f"{point:.3g}") for point in inner)
    wider = grid(low / 2, low * factor * 2, per_decade)
    assert set(inner) <= set(wider)


@pytest.mark.parametrize("bad", [(1, 1, 4), (2, 1, 4), (-1, 1, 4), (0, math.inf, 4), (0, 1, 0)])
def test_bad_grids_are_refused(bad):
    with pytest.raises(ValueError, match="must hold"):
        grid(*bad)


@pytest.mark.parametrize(
    ("width", "state", "asked"),
    [
        (2, ".............", (0, 4, 9)),
        (1, ".............", (0, 6)),
        (4, ".............", (0, 3, 5, 8, 10)),
        (2, "..", (0, 1)),
        (2, "d...d....c...", (6, 7)),  # between the last dip and the first clean one
        (1, "d...d....c...", (6,)),
        (2, "d...d..d.c...", (8, 11)),  # room in the wave: narrow and confirm at once
        (1, "d...d..d.c...", (8,)),
        (2, "d...d..d.cc..", (8,)),
        (2, "d...d.dcc....", ()),  # neighbours, and the next above is clean: answered
        (2, "d...d.dc.....", (10,)),  # nothing tried above the candidate yet
        (2, "d...d.dc...d.", (9,)),  # a dip above that is no neighbour: look between
        (2, "d...d.dc...x.", (9,)),  # so for a collapsed one
        (2, "d...d.dc...v.", (9,)),  # and for one that diverged
        (2, "d.v.d....c...", (6, 7)),  # one that diverged below is no evidence
        (2, "xxxx", ()),  # nothing is usable: answered
        (2, "v...d........", ()),  # a base that diverged: answered
        (2, "c...c........", ()),
        (2, "c...d........", (2,)),
        (2, "d...d....d...", (10, 12)),  # all dip: look above
        (2, "d...d....x...", (6, 7)),  # dips, then collapsed
        (2, "d..d", (1, 2)),
        (2, "d...d....d..d", (6, 7)),  # the top dips: look into the widest gap before saying "none"
    ],
)
def test_what_is_asked(width, state, asked):
    step = decide(len(state), verdicts(state), width)
    assert (step.points if isinstance(step, Ask) else ()) == asked


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        ("dc", Answer("found", 1, 0)),  # the end of the range needs nothing above it
        ("dcc", Answer("found", 1, 0)),
        ("ddcc", Answer("found", 2, 1)),
        ("dcx", Answer("found", 1, 0)),  # so does the end of what has not collapsed
        ("ddc.c", Answer("found", 2, 1)),  # the next one tried
        ("dxc", Answer("found", 2, 0)),  # the largest below that dips
        ("cc", Answer("no_dip_at_base", 0, None)),
        ("c.c", Answer("no_dip_at_base", 0, None)),
        ("cx", Answer("no_dip_at_base", 0, None)),
        ("cdcc", Answer("found", 2, 1)),  # the base was clean by chance
        ("dcdcc", Answer("found", 3, 2)),
        ("dd", Answer("none_dip_free", None, 1)),
        ("d.d.d", Answer("none_dip_free", None, 4)),
        ("dx", Answer("all_collapsed", None, 0)),
        ("d.dxx", Answer("all_collapsed", None, 2)),
        ("dcd", Answer("none_dip_free", None, 2, unconfirmed=(1,))),
        ("dcdx", Answer("none_dip_free", None, 2, unconfirmed=(1,))),
    ],
)
def test_answers(state, answer):
    assert decide(len(state), verdicts(state)) == answer


@pytest.mark.parametrize(("size", "width"), [(1, 2), (0, 1), (2, 0), (13, -1)])
def test_a_search_needs_two_points_and_a_width(size, width):
    with pytest.raises(ValueError, match=f"must hold, but got {size} and {width}"):
        decide(size, {}, width)


def test_two_points_are_asked_at_once_by_default():
    assert decide(13, verdicts("d...d....c...")) == Ask((6, 7))


def play(truth, width):
    """Run a search against known verdicts; returns its answer, what it tried and its waves."""
    known, waves = {}, 0
    while isinstance(step := decide(len(truth), known, width), Ask):
        assert step.points
        assert all(p not in known and 0 <= p < len(truth) for p in step.points)
        known |= {p: WORD[truth[p]] for p in step.points}
        waves += 1
    return step, known, waves


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [2, 3, 13, 25])
def test_every_threshold_is_found_exactly(size, width):
    for threshold in range(1, size):
        for clean in {1, 3, size}:
            truth = ("d" * threshold + "c" * clean + "x" * size)[:size]
            answer, known, _ = play(truth, width)
            assert answer == Answer("found", threshold, threshold - 1)
            assert len(known) <= 2 * width + 4 * math.ceil(math.log2(size)) + 2


def test_the_default_search_is_short():
    answer, known, waves = play("d" * 9 + "ccc" + "x", width=2)
    assert (answer.optimum, len(known), waves) == (9, 7, 3)


@given(
    st.text("dcx", min_size=2, max_size=16).filter(lambda truth: truth[0] != "x"),
    st.integers(1, 5),
)
def test_any_verdicts_end_in_an_answer_with_its_evidence(truth, width):
    answer, known, _ = play(truth, width)
    tried = sorted(known)
    if answer.optimum is None:
        assert answer.reason in ("none_dip_free", "all_collapsed")
        return
    assert truth[answer.optimum] == "c"
    above = [p for p in tried if p > answer.optimum]
    if above and truth[above[0]] != "c":
        assert truth[above[0]] == "x"
        assert above[0] == answer.optimum + 1
    if answer.optimum > 0:
        assert answer.optimum - 1 in known


@given(st.text("dcx", min_size=2, max_size=14).filter(lambda t: t[0] != "x"), st.integers(1, 4), st.randoms())
def test_the_order_in_which_verdicts_came_changes_nothing(truth, width, rng: random.Random):
    _, known, _ = play(truth, width)
    shuffled = list(known.items())
    rng.shuffle(shuffled)
    assert decide(len(truth), dict(shuffled), width) == decide(len(truth), known, width)
