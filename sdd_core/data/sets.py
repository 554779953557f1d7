"""The data sets: what is known of each without its files, and how its files are read. Without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sdd_core.data import noise, sources
from sdd_core.spec import stream


@dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """A data set that trials can name."""

    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    classes: int
    train_images: int
    """Before any validation split."""
    test_images: int
    read: Callable[[Path], sources.Published]
    """Its images and labels, from the data directory. Raises `sources.DataError` for missing and damaged files."""
    mean: tuple[float, ...] | None = None
    """Per channel, of pixels scaled to [0, 1]; None: the training images', computed when they are read."""
    std: tuple[float, ...] | None = None
    pixel_range: int = 255
    """The largest pixel value, which scales to 1."""
    asymmetric: noise.ClassMap = field(default_factory=dict)
    """Where asymmetric noise moves its classes; without it, the data set has no such noise."""
    human_labels: tuple[str, ...] = ()
    """The sets of labels that people gave its training images."""
    torchvision: str | None = None
    """Its name in torchvision, which downloads it."""


def stratified(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mask of a random subset that holds round(fraction * n) of every class's n images."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[rng.permutation(members)[: round(fraction * len(members))]] = True
    return chosen


def part_of(labels: NDArray[np.int64], size: int, seed: int) -> NDArray[np.bool_]:
    """Mask of a random subset of exactly `size`, in which every class has its share, by largest remainder."""
    rng = np.random.default_rng(seed)
    known, counts = np.unique(labels, return_counts=True)
    wanted = size * counts // len(labels)
    rests = size * counts % len(labels)
    wanted[np.argsort(-rests, kind="stable")[: size - wanted.sum()]] += 1
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label, count in zip(known, wanted, strict=True):
        chosen[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return chosen


def _digits(root: Path) -> sources.Published:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels; a fixed fifth of each class is the test split."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    labels = labels.astype(np.int64)
    test = stratified(labels, 0.2, seed=stream("digits", "test"))
    return sources.Published(images[~test], labels[~test], images[test], labels[test])


DIGITS: Final = DataSet(
    image_shape=(1, 8, 8),
    classes=10,
    train_images=1_438,
    test_images=359,
    read=_digits,
    mean=(0.3049,),
    std=(0.3757,),
    pixel_range=16,
    asymmetric=noise.ASYMMETRIC["digits"],
)
# The published sets' pixel statistics are over all training images, per channel, of pixels scaled to
# [0, 1], to four digits. Those of MNIST and CIFAR-10 were computed from the real files; those of
# Fashion-MNIST and CIFAR-100 are the commonly used ones.
MNIST: Final = DataSet(
    image_shape=(1, 28, 28),
    classes=10,
    train_images=60_000,
    test_images=10_000,
    read=sources.mnist,
    mean=(0.1307,),
    std=(0.3081,),
    asymmetric=noise.ASYMMETRIC["mnist"],
    torchvision="MNIST",
)
FASHION_MNIST: Final = replace(
    MNIST,
    read=sources.fashion_mnist,
    mean=(0.2860,),
    std=(0.3530,),
    asymmetric=noise.ASYMMETRIC["fashion_mnist"],
    torchvision="FashionMNIST",
)
CIFAR10: Final = DataSet(
    image_shape=(3, 32, 32),
    classes=10,
    train_images=50_000,
    test_images=10_000,
    read=sources.cifar10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    asymmetric=noise.ASYMMETRIC["cifar10"],
    human_labels=tuple(sources.HUMAN_FILES["cifar10"][1]),
    torchvision="CIFAR10",
)
CIFAR100: Final = replace(
    CIFAR10,
    classes=100,
    read=sources.cifar100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    asymmetric=noise.ASYMMETRIC["cifar100"],
    human_labels=tuple(sources.HUMAN_FILES["cifar100"][1]),
    torchvision="CIFAR100",
)
