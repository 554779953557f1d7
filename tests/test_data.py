"""The real digits: splits, label noise on them, and batches."""

import dataclasses
import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from sdd_core.data import sources
from sdd_core.data import splits as data
from sdd_core.registry import DATASETS
from sdd_core.spec import TrialSpec

CPU = torch.device("cpu")


def load(**fields):
    return data.load(TrialSpec(**fields), CPU)


def rows(split):
    """The images of a split, as a sorted list of byte strings."""
    return sorted(image.numpy().tobytes() for image in split.images)


def test_sizes_and_shapes():
    splits = load()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1151, 287, 359)
    assert (splits.classes, splits.image_shape) == (10, (1, 8, 8))
    for split in (splits.train, splits.val, splits.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (len(split), 1, 8, 8)
        assert split.labels.dtype == torch.int64


def test_the_splits_are_all_of_the_digits_once():
    splits = load()
    pixels, labels = load_digits(return_X_y=True)
    everything = sorted(image.astype(np.uint8).tobytes() for image in pixels)
    assert sorted(rows(splits.train) + rows(splits.val) + rows(splits.test)) == everything
    label_of = {image.astype(np.uint8).tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for split in (splits.train, splits.val, splits.test):
        assert [label_of[i.numpy().tobytes()] for i in split.images] == split.clean_labels.tolist()


def test_every_class_has_its_share_of_every_split():
    splits = load()
    whole = np.bincount(load_digits().target)
    test = np.bincount(splits.test.clean_labels)
    val = np.bincount(splits.val.clean_labels)
    assert test.tolist() == [round(0.2 * n) for n in whole]
    assert val.tolist() == [round(0.2 * (n - t)) for n, t in zip(whole, test, strict=True)]


@settings(max_examples=50)
@given(labels=st.lists(st.integers(0, 5), max_size=60), fraction=st.floats(0, 1), seed=st.integers(0, 2**63 - 1))
def test_a_stratified_part_holds_its_share_of_every_class(labels, fraction, seed):
    array = np.array(labels, dtype=np.int64)
    chosen = data.stratified(array, fraction, seed)
    for label in set(labels):
        assert chosen[array == label].sum() == round(fraction * labels.count(label))


def test_the_test_split_depends_on_no_seed_and_is_clean():
    first, second = load(seed=0, label_noise=0.5).test, load(seed=9, data_seed=4, label_noise=0.5).test
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.noise_rate == 0
    paper = load(protocol="paper", label_noise=0.5).test
    assert torch.equal(first.images, paper.images)
    assert paper.noise_rate == 0


GOLDEN = {
    "test": "5d9c9b5add27b72e",
    "val": "6fcb6eec8f58dff1",
    "noisy": "cf01e68cc1539e3f",
}


def test_golden_splits_none_of_these_should_change():
    """The draws of a data seed are part of every level's key without being in it."""
    splits = load(label_noise=0.5)
    content = {"test": splits.test.images, "val": splits.val.images, "noisy": splits.train.labels}
    assert {name: hashlib.sha256(t.numpy().tobytes()).hexdigest()[:16] for name, t in content.items()} == GOLDEN


@pytest.mark.parametrize("label_noise", [0.0, 0.5])
def test_the_data_seed_draws_the_split_and_the_noise_and_the_seed_nothing(label_noise):
    base = load(label_noise=label_noise, seed=0, data_seed=0)
    same = load(label_noise=label_noise, seed=5, data_seed=0)
    other = load(label_noise=label_noise, seed=0, data_seed=5)
    for name in ("train", "val"):
        assert torch.equal(getattr(base, name).images, getattr(same, name).images)
        assert torch.equal(getattr(base, name).labels, getattr(same, name).labels)
    assert rows(base.val) != rows(other.val)


def test_the_noise_is_another_at_another_data_seed():
    one, two = (load(protocol="paper", label_noise=0.5, data_seed=seed).train for seed in (0, 1))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.labels, two.labels)


@pytest.mark.parametrize("label_noise", [0.0, 0.1, 0.5, 1.0])
def test_the_noise_rate_is_realised_on_train_and_on_validation_beside_the_clean_labels(label_noise):
    splits = load(label_noise=label_noise)
    clean = load(label_noise=0.0)
    for name in ("train", "val"):
        split = getattr(splits, name)
        assert split.noise_rate == round(label_noise * len(split)) / len(split)
        assert torch.equal(split.clean_labels, getattr(clean, name).labels)
        assert torch.equal(split.images, getattr(clean, name).images)


def test_the_papers_protocol_trains_on_all_and_holds_nothing_out():
    splits = load(protocol="paper")
    assert splits.val is None
    assert len(splits.train) == 1438
    held_out = load()
    assert rows(splits.train) == sorted(rows(held_out.train) + rows(held_out.val))


@pytest.mark.parametrize(("fraction", "size"), [(0.1, 144), (0.5, 719)])
def test_the_validation_fraction(fraction, size):
    assert len(load(validation_fraction=fraction).val) == pytest.approx(size, abs=5)


@pytest.mark.parametrize(
    "fields", [{}, {"validation_fraction": 0.1}, {"validation_fraction": 0.37}, {"label_noise": 0.5}]
)
def test_the_size_of_the_split_that_decides_is_known_without_loading(fields):
    assert data.deciding_size(TrialSpec(**fields)) == len(load(**fields).val)
    assert data.deciding_size(TrialSpec(protocol="paper", **fields)) == 359


def test_chance_is_the_largest_class_of_the_clean_labels():
    val = load(label_noise=0.5).val
    assert val.chance == np.bincount(val.clean_labels).max() / 287


def test_inputs_are_normalised_with_the_pixel_statistics():
    train = load(protocol="paper").train
    inputs = train.inputs(slice(None))
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, (train.images.float() / 16 - 0.3049) / 0.3757)
    assert abs(float(inputs.mean())) < 0.02
    assert abs(float(inputs.std()) - 1) < 0.02


# --- batches --------------------------------------------------------------------------------


def numbered(n):
    """A split whose labels are 0 .. n-1 and whose images say the same."""
    index = torch.arange(n)
    images = torch.stack([index % 256, index // 256], dim=1).to(torch.uint8).view(n, 2, 1, 1)
    return data.Split(images, index, index, scale=torch.ones(1, 2, 1, 1), shift=torch.zeros(1, 2, 1, 1))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 700), batch_size=st.integers(1, 800), seed=st.integers(0, 2**63 - 1))
def test_an_epoch_is_a_permutation_in_batches(n, batch_size, seed):
    batches = list(data.epoch_batches(numbered(n), torch.arange(n), batch_size, seed))
    labels = torch.cat([labels for _, labels in batches])
    inputs = torch.cat([inputs for inputs, _ in batches])
    assert sorted(labels.tolist()) == list(range(n))
    assert torch.equal((inputs[:, 0, 0, 0] + 256 * inputs[:, 1, 0, 0]).long(), labels)  # each with its own image
    sizes = [len(labels) for _, labels in batches]
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] == (n % batch_size or batch_size)


def test_the_order_is_the_seeds():
    def order(seed):
        return torch.cat(
            [labels for _, labels in data.epoch_batches(numbered(500), torch.arange(500), 128, seed)]
        ).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != list(range(500))


def test_drawing_batches_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    list(data.epoch_batches(numbered(50), torch.arange(50), 8, 3))
    load(label_noise=0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_splits_cannot_be_reassigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().train = None


# --- published data sets --------------------------------------------------------------------


def raw_data(n=200, classes=10, shape=(3, 32, 32)):
    """A made-up data set in the form of the published ones; every image is another."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n + 50, *shape), dtype=np.uint8)
    labels = np.arange(n + 50) % classes
    statistics = {"mean": (0.5,) * shape[0], "std": (0.25,) * shape[0], "pixel_range": 255}
    return data.RawData(images[:n], labels[:n], images[n:], labels[n:], classes=classes, **statistics)


def test_a_published_set_is_split_like_any_other():
    raw = raw_data()
    splits = data.make_splits(raw, TrialSpec(dataset="cifar10", label_noise=0.2), CPU)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (160, 40, 50)
    assert (splits.classes, splits.image_shape) == (10, (3, 32, 32))
    everything = sorted(image.tobytes() for image in raw.train_images)
    assert sorted(rows(splits.train) + rows(splits.val)) == everything
    assert (splits.train.noise_rate, splits.val.noise_rate) == (0.2, 0.2)


def test_asymmetric_noise_is_a_share_of_the_mapped_classes_in_the_splits_of_its_data_set():
    noisy = TrialSpec(dataset="cifar10", label_noise=0.4, noise_kind="asymmetric")
    splits = data.make_splits(raw_data(), noisy, CPU)
    for split in (splits.train, splits.val):
        assert split.noise_rate == 0.2  # five of ten classes are mapped
        moved = split.labels != split.clean_labels
        pairs = set(zip(split.clean_labels[moved].tolist(), split.labels[moved].tolist(), strict=True))
        assert pairs <= {(9, 1), (2, 0), (4, 7), (3, 5), (5, 3)}
    assert splits.test.noise_rate == 0


def test_pair_flip_noise_on_the_real_digits():
    splits = load(label_noise=0.3, noise_kind="pair_flip")
    moved = splits.train.labels != splits.train.clean_labels
    assert int(moved.sum()) == round(0.3 * len(splits.train))
    assert torch.equal(splits.train.labels[moved], (splits.train.clean_labels[moved] + 1) % 10)


@pytest.mark.parametrize("protocol", ["validation", "paper"])
def test_human_labels_follow_their_images_into_both_splits(protocol):
    raw = raw_data()
    human = (raw.train_labels + np.arange(200) % 3) % 10
    spec = TrialSpec(dataset="cifar10", noise_kind="human", noisy_labels="worse", protocol=protocol)
    splits = data.make_splits(raw, spec, CPU, human)
    label_of = {i.tobytes(): (c, h) for i, c, h in zip(raw.train_images, raw.train_labels, human, strict=True)}
    parts = [split for split in (splits.train, splits.val) if split is not None]
    assert len(parts) == (2 if protocol == "validation" else 1)
    for split in parts:
        both = list(zip(split.clean_labels.tolist(), split.labels.tolist(), strict=True))
        assert [label_of[image.numpy().tobytes()] for image in split.images] == both
    assert sum(len(part) * part.noise_rate for part in parts) == pytest.approx((human != raw.train_labels).sum())
    assert torch.equal(splits.test.labels, splits.test.clean_labels)


def test_the_validation_split_is_the_same_whatever_the_labels_noise():
    raw = raw_data()
    human = data.make_splits(
        raw, TrialSpec(dataset="cifar10", noise_kind="human", noisy_labels="worse"), CPU, raw.train_labels
    )
    clean = data.make_splits(raw, TrialSpec(dataset="cifar10"), CPU)
    assert torch.equal(human.val.images, clean.val.images)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_data_set_that_is_not_there_is_a_fault_that_says_how_to_get_it(dataset):
    (fault,) = data.faults(TrialSpec(dataset=dataset))
    for word in (f"dataset {dataset!r}", "lacks", "get it with: python -m sdd_core.download", dataset, "--data-dir"):
        assert word in fault
    assert data.faults(TrialSpec(dataset=dataset, protocol="paper")) == [fault]
    with pytest.raises(sources.DataError):
        data.load(TrialSpec(dataset=dataset), CPU)


def test_missing_images_and_missing_human_labels_are_told_at_once():
    faults = data.faults(TrialSpec(dataset="cifar10", noise_kind="human", noisy_labels="aggre"))
    assert [fault.split()[0] for fault in faults] == ["dataset", "noisy_labels"]


@pytest.mark.parametrize("size", [1, 10, 101, 1151])
def test_a_part_of_the_training_images_is_exact_and_has_every_class(size):
    spec = TrialSpec(label_noise=0.5, train_images=size)
    whole, part = data.load(spec.replace(train_images=None), CPU), data.load(spec, CPU)
    assert len(part.train) == size == data.train_size(spec)
    assert torch.equal(part.val.images, whole.val.images)  # held out before
    assert torch.equal(part.test.images, whole.test.images)
    shares = torch.bincount(whole.train.clean_labels, minlength=10) * size / len(whole.train)
    assert (torch.bincount(part.train.clean_labels, minlength=10) - shares).abs().max() < 1
    assert part.train.noise_rate == pytest.approx(0.5, abs=0.5 / size + 1e-9)


def test_data_seed_alone_draws_which_images_are_trained_on():
    def images(**fields):
        return data.load(TrialSpec(train_images=50, protocol="paper", **fields), CPU).train.images

    assert torch.equal(images(seed=1, data_seed=0), images(seed=2, data_seed=0))
    assert not torch.equal(images(seed=1, data_seed=0), images(seed=1, data_seed=1))


@pytest.mark.parametrize(("protocol", "most"), [("validation", 1151), ("paper", 1438)])
def test_more_training_images_than_there_are_is_refused(protocol, most):
    spec = TrialSpec(protocol=protocol, train_images=most)
    assert data.faults(spec) == []
    assert data.faults(spec.replace(train_images=most + 1)) == [
        f"train_images {most + 1}: there are {most} to train on"
    ]


def test_a_data_set_without_a_class_map_has_no_asymmetric_noise(monkeypatch):
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], asymmetric={}))
    (fault,) = data.faults(TrialSpec(noise_kind="asymmetric", label_noise=0.2))
    assert fault.startswith("noise_kind 'asymmetric': dataset 'digits' says of no class")


def test_a_data_set_that_is_not_what_it_is_registered_as_is_refused(monkeypatch):
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], train_images=1000))
    (fault,) = data.faults(TrialSpec())
    assert fault == "dataset 'digits': holds images of shape (1438, 1, 8, 8), but is registered with (1000, 1, 8, 8)"


def test_every_known_data_set_can_be_loaded():
    assert all(callable(known.read) for known in DATASETS.values())
    assert data.faults(TrialSpec()) == []


# --- the real thing -------------------------------------------------------------------------

REAL = os.environ.get("SDD_TEST_DATA")


@pytest.mark.skipif(REAL is None, reason="SDD_TEST_DATA is not set")
@pytest.mark.parametrize(("dataset", "shape"), [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_real_inputs_have_mean_0_and_standard_deviation_1(dataset, shape, monkeypatch):
    monkeypatch.setenv("SDD_DATA", REAL)
    assert data.faults(TrialSpec(dataset=dataset)) == []
    splits = data.load(TrialSpec(dataset=dataset, protocol="paper"), CPU)
    assert splits.image_shape == shape
    sample = splits.train.inputs(slice(None, None, 7))
    assert abs(float(sample.mean())) < 0.01
    assert abs(float(sample.std()) - 1) < 0.01
    assert data.raw_data(dataset) is data.raw_data(dataset)  # read once per process


@pytest.mark.skipif(REAL is None, reason="SDD_TEST_DATA is not set")
def test_the_real_human_labels_are_on_train_and_on_validation(monkeypatch):
    monkeypatch.setenv("SDD_DATA", REAL)
    spec = TrialSpec(dataset="cifar10", noise_kind="human", noisy_labels="worse")
    assert data.faults(spec) == []
    splits = data.load(spec, CPU)
    assert (len(splits.train), len(splits.val)) == (40_000, 10_000)
    share = (4 * splits.train.noise_rate + splits.val.noise_rate) / 5
    assert share == pytest.approx(0.4021, abs=5e-5)
    assert abs(splits.val.noise_rate - 0.4021) < 0.02
