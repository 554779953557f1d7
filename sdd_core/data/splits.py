"""Data sets as splits held as tensors on the training device, and the batches drawn from them.

Shapes: N images, C channels, H x W pixels. Images are uint8 until a batch is made.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdd_core.data import noise, sources
from sdd_core.data.augmentation import Augment
from sdd_core.data.sets import DataSet, part_of, stratified
from sdd_core.registry import DATASETS
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
        return self.normalise(self.images.index_select(0, index) if isinstance(index, Tensor) else self.images[index])

    def normalise(self, images: Tensor) -> Tensor:
        """The model's input for uint8 images (n, C, H, W)."""
        return images.to(torch.float32).mul_(self.scale).add_(self.shift)

    def first(self, count: int) -> Split:
        """The first images of the split, at most `count`."""
        parts = {name: getattr(self, name)[:count] for name in ("images", "labels", "clean_labels")}
        return dataclasses.replace(self, **parts)

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


def raw_data(name: str) -> RawData:
    """A data set as it is published, read and checked once per process. Raises `sources.DataError`."""
    known = DATASETS[name]
    raw = _raw_data(known, sources.data_dir())
    for images, count in ((raw.train_images, known.train_images), (raw.test_images, known.test_images)):
        if images.shape != (count, *known.image_shape):
            said = f"holds images of shape {images.shape}, but is registered with {(count, *known.image_shape)}"
            raise sources.DataError([f"dataset {name!r}: {said}"])
    return raw


@functools.lru_cache(maxsize=2)
def _raw_data(known: DataSet, root: Path) -> RawData:
    published = known.read(root)
    mean, std = known.mean, known.std
    if mean is None or std is None:
        mean, std = _statistics(published.train_images, known.pixel_range)
    return RawData(*published, classes=known.classes, mean=mean, std=std, pixel_range=known.pixel_range)


def _statistics(images: NDArray[np.uint8], pixel_range: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels scaled to [0, 1]; without a float copy of all images."""
    values = np.arange(256) / pixel_range
    shares = [np.bincount(images[:, c].ravel(), minlength=256) / images[:, c].size for c in range(images.shape[1])]
    means = [float(share @ values) for share in shares]
    variances = [float(share @ (values - mean) ** 2) for share, mean in zip(shares, means, strict=True)]
    return tuple(means), tuple(variance**0.5 for variance in variances)


def load(spec: TrialSpec, device: torch.device) -> Data:
    """The splits of a trial, on `device`. Raises `sources.DataError`, which `faults` tells before."""
    raw = raw_data(spec.dataset)
    return make_splits(raw, spec, device, _human_labels(spec, raw.train_labels))


def _human_labels(spec: TrialSpec, clean: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    if spec.noise_kind != "human":
        return None
    assert spec.noisy_labels is not None
    return sources.human_labels(sources.data_dir(), spec.dataset, spec.noisy_labels, clean)


def make_splits(raw: RawData, spec: TrialSpec, device: torch.device, human: NDArray[np.int64] | None = None) -> Data:
    """The splits that a trial makes of a data set, on `device`.

    `data_seed` draws the validation split (stratified by clean class, from the training images), which of
    the rest is trained on when `train_images` says how many, and the label noise: on these images, and on
    the validation split's own labels, kept beside the clean ones. `human` are people's labels of all training
    images; each split then has its own part of them. The test split is clean and depends on neither seed.
    """
    assert spec.data_seed is not None
    held_out = np.zeros(len(raw.train_labels), dtype=np.bool_)
    if spec.protocol == "validation":
        held_out = stratified(raw.train_labels, spec.validation_fraction, stream("split", spec.data_seed))
    trained_on = ~held_out
    if spec.train_images is not None:
        drawn = stream("train_images", spec.data_seed)
        trained_on[trained_on] = part_of(raw.train_labels[trained_on], spec.train_images, drawn)

    def part(mask: NDArray[np.bool_], name: str) -> Split:
        clean = raw.train_labels[mask]
        noisy = _flipped(spec, raw, clean, name) if human is None else human[mask]
        return _split(raw, raw.train_images[mask], clean, noisy, device)

    return Data(
        train=part(trained_on, "train"),
        val=part(held_out, "val") if spec.protocol == "validation" else None,
        test=_split(raw, raw.test_images, raw.test_labels, raw.test_labels, device),
        classes=raw.classes,
        image_shape=raw.image_shape,
    )


def _flipped(spec: TrialSpec, raw: RawData, clean: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    """The labels of a split with the trial's label noise."""
    if spec.label_noise == 0:
        return clean
    assert spec.data_seed is not None
    seed, class_map = stream("noise", name, spec.data_seed), DATASETS[spec.dataset].asymmetric
    return noise.flip_labels(clean, spec.label_noise, spec.noise_kind, raw.classes, seed, class_map)[0]


def _split(
    raw: RawData,
    images: NDArray[np.uint8],
    clean: NDArray[np.int64],
    noisy: NDArray[np.int64],
    device: torch.device,
) -> Split:
    std = torch.tensor(raw.std, device=device).view(1, -1, 1, 1)
    mean = torch.tensor(raw.mean, device=device).view(1, -1, 1, 1)
    return Split(
        images=torch.from_numpy(images).to(device),
        labels=torch.from_numpy(noisy).to(device),
        clean_labels=torch.from_numpy(clean).to(device),
        scale=1 / (raw.pixel_range * std),
        shift=-mean / std,
    )


def epoch_batches(
    split: Split, targets: Tensor, batch_size: int, seed: int, augment: Augment | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch's (inputs, targets) batches in the order that `seed` draws; the last may be smaller.

    `targets` (N, ...) holds what each image of the split is trained towards.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator).to(split.labels.device)
    fitting = _CHUNK_PIXELS // (batch_size * split.images[0].numel()) if order.device.type == "cpu" else _CHUNK
    for chunk in order.split(batch_size * min(max(fitting, 1), _CHUNK)):
        images, wanted = split.images.index_select(0, chunk), targets.index_select(0, chunk)
        inputs = split.normalise(images if augment is None else augment(images, chunk))
        yield from zip(inputs.split(batch_size), wanted.split(batch_size), strict=True)


def deciding_size(spec: TrialSpec) -> int:
    """How many images the split that decides has: validation, or test under the paper's protocol."""
    raw = raw_data(spec.dataset)
    return len(raw.test_labels) if spec.protocol == "paper" else _held_out(spec, raw)


def train_size(spec: TrialSpec) -> int:
    """How many images are trained on: `train_images`, or all under the paper's protocol, else those not held out."""
    return spec.train_images if spec.train_images is not None else _trainable(spec, raw_data(spec.dataset))


def _trainable(spec: TrialSpec, raw: RawData) -> int:
    return len(raw.train_labels) - (0 if spec.protocol == "paper" else _held_out(spec, raw))


def _held_out(spec: TrialSpec, raw: RawData) -> int:
    return sum(round(spec.validation_fraction * int(n)) for n in np.bincount(raw.train_labels))


def faults(spec: TrialSpec) -> list[str]:
    """What is wrong with a trial's data: missing or damaged files, human labels that do not fit, empty splits."""
    found: list[str] = []
    raw: RawData | None = None
    try:
        raw = raw_data(spec.dataset)
    except sources.DataError as error:
        found += error.faults
    try:
        _human_labels(spec, raw.train_labels if raw is not None else None)
    except sources.DataError as error:
        found += error.faults
    if spec.noise_kind == "asymmetric" and not DATASETS[spec.dataset].asymmetric:
        found.append(f"noise_kind 'asymmetric': dataset {spec.dataset!r} says of no class where its labels move")
    if raw is not None and spec.train_images is not None and spec.train_images > (most := _trainable(spec, raw)):
        found.append(f"train_images {spec.train_images}: there are {most} to train on")
    if raw is not None and spec.protocol == "validation":
        val, total = _held_out(spec, raw), len(raw.train_labels)
        if not 0 < val < total:
            split = "validate on" if val == 0 else "train on"
            found.append(f"validation_fraction {spec.validation_fraction!r}: leaves no image of {total} to {split}")
    return found
