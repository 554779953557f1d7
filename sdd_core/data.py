"""Data sets as splits held as tensors on the training device, and the batches drawn from them.

Shapes: N images, C channels, H x W pixels. Images are uint8 until a batch is made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdd_core import noise
from sdd_core.spec import TrialSpec, stream

# Batches gathered and normalised at once: enough to hide the overhead of small steps, few enough
# that the float copy stays small beside the data and, on a CPU, in its cache.
_CHUNK: Final = 16
_CHUNK_PIXELS: Final = 2**17


@dataclass(frozen=True)
class RawData:
    """A data set as it is published: uint8 images (N, C, H, W), int64 labels (N,), pixel statistics."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    classes: int
    mean: tuple[float, ...]
    """Per channel, of pixels scaled to [0, 1]."""
    std: tuple[float, ...]
    pixel_range: int
    """The largest pixel value, which scales to 1."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        c, h, w = self.train_images.shape[1:]
        return c, h, w


@dataclass(frozen=True)
class Split:
    """Images of one split with the labels used and the clean ones, on one device."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64, with noise where the split has noise
    clean_labels: Tensor  # (N,) int64
    scale: Tensor  # (1, C, 1, 1): pixel * scale + shift is the model's input
    shift: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, index: Tensor | slice) -> Tensor:
        """The model's input for some images: (n, C, H, W) float32, normalised."""
        # `index_select` copies whole images, where indexing goes pixel by pixel.
        images = self.images.index_select(0, index) if isinstance(index, Tensor) else self.images[index]
        return images.to(torch.float32).mul_(self.scale).add_(self.shift)

    @property
    def chance(self) -> float:
        """Accuracy of always naming the largest class of the clean labels."""
        return float(torch.bincount(self.clean_labels).max()) / len(self)

    @property
    def noise_rate(self) -> float:
        """Share of labels that differ from the clean ones."""
        return int((self.labels != self.clean_labels).sum()) / len(self)


@dataclass(frozen=True)
class Data:
    """The splits of one trial."""

    train: Split
    val: Split | None
    """None under the paper's protocol, which trains on all and decides on test."""
    test: Split
    classes: int
    image_shape: tuple[int, int, int]


def stratified(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mask of a random subset that holds round(fraction * n) of every class's n images."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen[rng.permutation(members)[: round(fraction * len(members))]] = True
    return chosen


@functools.lru_cache(maxsize=1)
def _digits() -> RawData:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels; a fixed fifth of each class is the test split."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    labels = labels.astype(np.int64)
    test = stratified(labels, 0.2, seed=stream("digits", "test"))
    return RawData(
        images[~test], labels[~test], images[test], labels[test], 10, mean=(0.3049,), std=(0.3757,), pixel_range=16
    )


DATA_SETS: Final[dict[str, Callable[[], RawData]]] = {"digits": _digits}


def load(spec: TrialSpec, device: torch.device) -> Data:
    """The splits of a trial, on `device`.

    `data_seed` draws the validation split (stratified, from the training images) and the label
    noise: on what is left to train on, and on the validation split's own labels, kept beside the
    clean ones. The test split is clean and depends on neither seed.
    """
    raw = DATA_SETS[spec.dataset]()
    assert spec.data_seed is not None
    train_images, train_labels = raw.train_images, raw.train_labels
    val: Split | None = None
    if spec.protocol == "validation":
        held_out = stratified(train_labels, spec.validation_fraction, stream("split", spec.data_seed))
        val = _split(spec, raw, train_images[held_out], train_labels[held_out], "val", device)
        train_images, train_labels = train_images[~held_out], train_labels[~held_out]
    return Data(
        train=_split(spec, raw, train_images, train_labels, "train", device),
        val=val,
        test=_split(spec, raw, raw.test_images, raw.test_labels, None, device),
        classes=raw.classes,
        image_shape=raw.image_shape,
    )


def _split(
    spec: TrialSpec,
    raw: RawData,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    noise_stream: str | None,
    device: torch.device,
) -> Split:
    noisy = labels
    if noise_stream is not None and spec.label_noise > 0:
        assert spec.data_seed is not None
        seed = stream("noise", noise_stream, spec.data_seed)
        noisy, _ = noise.flip_labels(labels, spec.label_noise, spec.noise_kind, raw.classes, seed)
    std = torch.tensor(raw.std, device=device).view(1, -1, 1, 1)
    mean = torch.tensor(raw.mean, device=device).view(1, -1, 1, 1)
    return Split(
        images=torch.from_numpy(images).to(device),
        labels=torch.from_numpy(noisy).to(device),
        clean_labels=torch.from_numpy(labels).to(device),
        scale=1 / (raw.pixel_range * std),
        shift=-mean / std,
    )


def epoch_batches(split: Split, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch's (inputs, labels) batches in the order that `seed` draws; the last may be smaller."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator).to(split.labels.device)
    fitting = _CHUNK_PIXELS // (batch_size * split.images[0].numel()) if order.device.type == "cpu" else _CHUNK
    for chunk in order.split(batch_size * min(max(fitting, 1), _CHUNK)):
        inputs, labels = split.inputs(chunk), split.labels.index_select(0, chunk)
        yield from zip(inputs.split(batch_size), labels.split(batch_size), strict=True)


def deciding_size(spec: TrialSpec) -> int:
    """How many images the split that decides has: validation, or test under the paper's protocol."""
    raw = DATA_SETS[spec.dataset]()
    return len(raw.test_labels) if spec.protocol == "paper" else _held_out(spec, raw)


def _held_out(spec: TrialSpec, raw: RawData) -> int:
    return sum(round(spec.validation_fraction * int(n)) for n in np.bincount(raw.train_labels))


def faults(spec: TrialSpec) -> list[str]:
    """What is wrong with a spec's splits, which only the data can tell."""
    if spec.protocol == "paper":
        return []
    raw = DATA_SETS[spec.dataset]()
    val, total = _held_out(spec, raw), len(raw.train_labels)
    if 0 < val < total:
        return []
    split = "validate on" if val == 0 else "train on"
    return [f"validation_fraction {spec.validation_fraction!r}: leaves no image of {total} to {split}"]
