"""Label noise: exactly as many as asked, never back to the same class, uniform over the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdd_core.noise import flip_labels


def labels_of(n, classes, seed=0):
    return np.random.default_rng(seed).integers(0, classes, size=n)


@settings(max_examples=100)
@given(
    n=st.integers(0, 300),
    classes=st.integers(2, 12),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_exactly_the_fraction_is_flipped_each_to_another_class(n, classes, fraction, seed):
    labels = labels_of(n, classes)
    before = labels.copy()
    noisy, flipped = flip_labels(labels, fraction, "symmetric", classes, seed)
    assert flipped.sum() == round(fraction * n)
    np.testing.assert_array_equal(noisy != before, flipped)
    assert noisy.dtype == labels.dtype
    assert n == 0 or (noisy.min() >= 0 and noisy.max() < classes)
    np.testing.assert_array_equal(labels, before)  # the input is left alone


@pytest.mark.parametrize("source", range(10))
def test_the_new_classes_are_uniform_over_the_others(source):
    n, classes = 9000, 10
    noisy, _ = flip_labels(np.full(n, source), 1.0, "symmetric", classes, seed=source)
    counts = np.bincount(noisy, minlength=classes)
    assert counts[source] == 0
    others = np.delete(counts, source)
    chi_square = float(((others - 1000) ** 2 / 1000).sum())
    assert chi_square < 32  # 8 degrees of freedom: exceeded once in ten thousand seeds


def test_the_flipped_labels_are_spread_over_the_data():
    _, flipped = flip_labels(labels_of(10_000, 10), 0.2, "symmetric", 10, seed=3)
    assert all(300 < part.sum() < 500 for part in np.split(flipped, 5))  # 400 each; 5 standard deviations


def test_the_seed_decides():
    labels = labels_of(1000, 10)
    first, again = (flip_labels(labels, 0.5, "symmetric", 10, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    other, other_flipped = flip_labels(labels, 0.5, "symmetric", 10, seed=8)
    assert (other != first[0]).any()
    assert (other_flipped != first[1]).any()


def test_global_random_state_neither_matters_nor_changes():
    np.random.seed(1)  # noqa: NPY002
    first, _ = flip_labels(labels_of(100, 10), 0.5, "symmetric", 10, seed=7)
    state = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.random.random() == state  # noqa: NPY002
    second, _ = flip_labels(labels_of(100, 10), 0.5, "symmetric", 10, seed=7)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("fraction", [0, 0.0])
def test_no_noise_is_an_ordinary_value(fraction):
    labels = labels_of(50, 10)
    noisy, flipped = flip_labels(labels, fraction, "symmetric", 10, seed=0)
    np.testing.assert_array_equal(noisy, labels)
    assert not flipped.any()


@pytest.mark.parametrize(
    ("fraction", "kind", "classes", "given_value"),
    [
        (-0.1, "symmetric", 10, "-0.1"),
        (1.1, "symmetric", 10, "1.1"),
        (float("nan"), "symmetric", 10, "nan"),
        (0.5, "uniform", 10, "'uniform'"),
        (0.5, "symmetric", 1, "1"),
    ],
)
def test_bad_arguments_are_named(fraction, kind, classes, given_value):
    with pytest.raises(ValueError, match="must hold, but got") as caught:
        flip_labels(labels_of(10, 2), fraction, kind, classes, seed=0)
    assert given_value in str(caught.value)
