"""Label noise: exactly as many as asked, never back to the same class, uniform over the others."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdd_core.data.noise import ASYMMETRIC, SUPERCLASSES, _next_within, flip_labels
from sdd_core.registry import DATASETS, NOISE_KINDS


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


@pytest.mark.parametrize(
    ("kind", "class_map", "noisy"),
    [
        ("symmetric", None, [3, 0, 2, 4, 2, 5, 1, 1, 2, 3, 1, 5]),
        ("pair_flip", None, [1, 2, 2, 4, 5, 5, 1, 1, 2, 3, 5, 5]),
        ("asymmetric", {0: 3, 3: 0, 5: 1}, [3, 1, 2, 3, 4, 1, 0, 1, 2, 3, 4, 1]),
    ],
)
def test_golden_labels_none_of_these_should_change(kind, class_map, noisy):
    """Levels with these labels are in stores; another draw needs another `spec.SCHEMA`."""
    assert flip_labels(np.arange(12) % 6, 0.5, kind, 6, 7, class_map)[0].tolist() == noisy


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


# --- other kinds ----------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    labels=st.lists(st.integers(0, 9), max_size=300),
    fraction=st.floats(0, 1),
    dataset=st.sampled_from(["mnist", "fashion_mnist", "cifar10", "digits"]),
    seed=st.integers(0, 2**63 - 1),
)
def test_asymmetric_noise_moves_exactly_the_fraction_of_the_mapped_classes(labels, fraction, dataset, seed):
    class_map = ASYMMETRIC[dataset]
    before = np.array(labels, dtype=np.int64)
    noisy, flipped = flip_labels(before, fraction, "asymmetric", 10, seed, class_map)
    mapped = np.isin(before, list(class_map))
    assert flipped.sum() == round(fraction * mapped.sum())
    assert not flipped[~mapped].any()
    np.testing.assert_array_equal(noisy != before, flipped)
    assert all(new == class_map[old] for old, new in zip(before[flipped], noisy[flipped], strict=True))
    assert noisy.dtype == before.dtype


@settings(max_examples=100)
@given(n=st.integers(0, 300), classes=st.integers(2, 12), fraction=st.floats(0, 1), seed=st.integers(0, 2**63 - 1))
def test_pair_flip_moves_exactly_the_fraction_each_to_the_next_class(n, classes, fraction, seed):
    labels = labels_of(n, classes)
    noisy, flipped = flip_labels(labels, fraction, "pair_flip", classes, seed)
    assert flipped.sum() == round(fraction * n)
    np.testing.assert_array_equal(noisy, np.where(flipped, (labels + 1) % classes, labels))


def test_asymmetric_noise_is_spread_over_the_mapped_classes():
    labels = np.repeat(np.arange(10), 1000)
    _, flipped = flip_labels(labels, 0.4, "asymmetric", 10, 3, ASYMMETRIC["cifar10"])
    counts = np.bincount(labels[flipped], minlength=10)
    mapped = sorted(ASYMMETRIC["cifar10"])
    assert flipped.sum() == 2000  # 40 % of five classes of 1000
    assert all(300 < counts[label] < 500 for label in mapped)
    assert np.delete(counts, mapped).sum() == 0


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@pytest.mark.parametrize(
    ("dataset", "names", "moves"),
    [
        (
            "cifar10",
            CIFAR10,
            {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"},
        ),
        ("mnist", tuple("0123456789"), {"2": "7", "3": "8", "5": "6", "6": "5", "7": "1"}),
        (
            "fashion_mnist",
            FASHION,
            {"ankle boot": "sneaker", "sneaker": "sandal", "pullover": "shirt", "coat": "dress", "dress": "coat"},
        ),
    ],
)
def test_the_class_maps_are_those_of_the_literature(dataset, names, moves):
    assert {names[a]: names[b] for a, b in ASYMMETRIC[dataset].items()} == moves


@pytest.mark.parametrize(
    ("groups", "moves"),
    [((), {}), ((0, 1, 0, 1, 0), {0: 2, 2: 4, 4: 0, 1: 3, 3: 1}), ((5, 5), {0: 1, 1: 0}), ((2, 1), {0: 0, 1: 1})],
)
def test_each_class_moves_to_the_next_of_its_group_and_the_last_to_the_first(groups, moves):
    assert _next_within(groups) == moves


def test_cifar100_moves_to_the_next_class_of_the_superclass():
    class_map = ASYMMETRIC["cifar100"]
    assert sorted(class_map) == sorted(class_map.values()) == list(range(100))
    assert [SUPERCLASSES.count(group) for group in range(20)] == [5] * 20
    for start in range(100):
        path = [start]
        while class_map[path[-1]] != start:
            path.append(class_map[path[-1]])
        assert len(path) == 5  # round the superclass
        assert {SUPERCLASSES[label] for label in path} == {SUPERCLASSES[start]}
        assert sum(later < earlier for earlier, later in zip(path, [*path[1:], start], strict=True)) == 1
    # aquatic mammals: beaver, dolphin, otter, seal, whale
    assert [label for label in range(100) if SUPERCLASSES[label] == 0] == [4, 30, 55, 72, 95]
    assert (class_map[4], class_map[95]) == (30, 4)


@pytest.mark.parametrize("class_map", [None, {}, {1: 1}, {1: 10}, {10: 1}, {-1: 2}], ids=str)
def test_asymmetric_noise_needs_a_class_map(class_map):
    with pytest.raises(ValueError, match="a class map from classes to others") as caught:
        flip_labels(labels_of(10, 10), 0.5, "asymmetric", 10, 0, class_map)
    assert str(class_map) in str(caught.value)


@pytest.mark.parametrize("kind", ["symmetric", "pair_flip"])
def test_other_kinds_read_no_class_map(kind):
    labels = labels_of(100, 10)
    with_map = flip_labels(labels, 0.5, kind, 10, 7, {1: 2})
    np.testing.assert_array_equal(with_map[0], flip_labels(labels, 0.5, kind, 10, 7)[0])


def test_every_data_set_has_a_class_map_and_every_kind_can_be_made():
    assert {name: known.asymmetric for name, known in DATASETS.items()} == ASYMMETRIC
    assert all(map(callable, NOISE_KINDS.values()))
