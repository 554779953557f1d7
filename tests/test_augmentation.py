"""flip_crop: what it does to each image, how it is drawn, and that it does not depend on batches or device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdd_core.data import augmentation
from sdd_core.data import splits as data
from sdd_core.data.augmentation import PAD, flip_and_crop

CPU = torch.device("cpu")


def images_of(n, shape=(3, 9, 7), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8))


def one_by_one(images, down, right, flipped):
    """The same, an image at a time, as it is usually written."""
    out = []
    for image, d, r, mirror in zip(images.numpy(), down.tolist(), right.tolist(), flipped.tolist(), strict=True):
        _, h, w = image.shape
        crop = np.pad(image, ((0, 0), (PAD, PAD), (PAD, PAD)))[:, d : d + h, r : r + w]
        out.append(crop[:, :, ::-1] if mirror else crop)
    return torch.from_numpy(np.stack(out))


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 6),
    c=st.sampled_from([1, 3]),
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_image_is_padded_cropped_and_mirrored(n, c, h, w, seed):
    rng = np.random.default_rng(seed)
    down, right = (torch.from_numpy(rng.integers(0, 2 * PAD + 1, n)) for _ in range(2))
    flipped = torch.from_numpy(rng.integers(0, 2, n).astype(bool))
    images = images_of(n, (c, h, w), seed)
    got = flip_and_crop(images, down, right, flipped)
    assert got.dtype == torch.uint8
    assert torch.equal(got, one_by_one(images, down, right, flipped))


def test_the_middle_crop_is_the_image_and_its_mirror_twice_again():
    images, middle = images_of(4), torch.full((4,), PAD)
    same, mirrored = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    assert torch.equal(flip_and_crop(images, middle, middle, same), images)
    once = flip_and_crop(images, middle, middle, mirrored)
    assert torch.equal(once, images.flip(-1))


def test_padding_is_black_before_normalisation():
    images = torch.full((1, 1, 8, 8), 16, dtype=torch.uint8)
    none, no = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    split = data.Split(images, none, none, scale=torch.full((1, 1, 1, 1), 2.0), shift=torch.full((1, 1, 1, 1), -1.0))
    inputs = split.normalise(flip_and_crop(images, none, none, no))
    assert (inputs[0, 0, :PAD] == -1).all()
    assert (inputs[0, 0, PAD:, PAD:] == 31).all()


def positions(n, seed):
    """Where the pixels of n 9x9 images that hold one white pixel in the middle end up."""
    images = torch.zeros(n, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 1
    augment = augmentation.augmenter("flip_crop", n, CPU, seed)
    return augment(images, torch.arange(n)).flatten(1).argmax(dim=1)


def test_all_offsets_are_equally_likely():
    counts = torch.bincount(positions(81_000, seed=5), minlength=81).double()
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 139  # 80 degrees of freedom: exceeded once in 20,000 seeds


def test_half_of_the_images_are_mirrored():
    n = 10_000
    images = torch.zeros(n, 1, 9, 32, dtype=torch.uint8)
    images[..., 16:] = 1  # the right half is white: wherever the crop is, column 23 is, and column 8 is not
    augment = augmentation.augmenter("flip_crop", n, CPU, 3)
    mirrored = int((augment(images, torch.arange(n))[:, 0, 4, 8] == 1).sum())
    assert abs(mirrored - n / 2) < 250  # 5 standard deviations


def test_none_is_no_augmentation():
    assert augmentation.augmenter("none", 5, CPU, 0) is None


def test_drawing_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    augmentation.augmenter("flip_crop", 50, CPU, 3)
    assert torch.equal(torch.get_rng_state(), before)


# --- in batches -----------------------------------------------------------------------------


def numbered_split(n, device=CPU):
    index = torch.arange(n, device=device)
    one = torch.ones(1, 3, 1, 1, device=device)
    return data.Split(images_of(n, (3, 8, 8)).to(device), index, index, scale=one, shift=torch.zeros_like(one))


def epoch(n, batch_size, order, drawn, device=CPU):
    """An epoch's inputs, put back into the order of the split."""
    split = numbered_split(n, device)
    augment = augmentation.augmenter("flip_crop", n, device, drawn)
    batches = list(data.epoch_batches(split, split.labels, batch_size, order, augment))
    places = torch.cat([labels for _, labels in batches])
    inputs = torch.cat([inputs for inputs, _ in batches])
    return inputs[places.argsort()].cpu()


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 90), sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 2**63 - 1))
def test_an_images_augmentation_depends_on_its_seed_alone_not_on_its_batch(n, sizes, seed):
    first, second = (epoch(n, size, order, seed) for order, size in enumerate(sizes))
    assert torch.equal(first, second)


def test_an_epoch_augments_each_image_as_the_function_does():
    n, split = 40, numbered_split(40)
    augment = augmentation.augmenter("flip_crop", n, CPU, 7)
    everything = torch.arange(n)
    assert torch.equal(epoch(n, 16, 0, 7), augment(split.images, everything).float())


def test_every_epoch_and_every_image_is_drawn_anew():
    first, second = epoch(60, 16, 0, 1), epoch(60, 16, 0, 2)
    assert int((first != second).flatten(1).any(dim=1).sum()) > 50
    same = torch.ones(60, 1, 1, 1, dtype=torch.uint8) * images_of(1, (1, 8, 8))
    augmented = augmentation.augmenter("flip_crop", 60, CPU, 1)(same, torch.arange(60))
    assert len({image.numpy().tobytes() for image in augmented}) > 30


def test_the_splits_images_stay_as_they_are():
    split = numbered_split(20)
    before = split.images.clone()
    list(data.epoch_batches(split, split.labels, 8, 0, augmentation.augmenter("flip_crop", 20, CPU, 1)))
    assert torch.equal(split.images, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_and_makes_the_same_images():
    assert torch.equal(epoch(500, 64, 3, 9, torch.device("cuda")), epoch(500, 64, 3, 9))
