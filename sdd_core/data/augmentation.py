"""Image augmentation on the training device: whole batches of uint8 images at once, by index arithmetic.

What happens to an image in an epoch is drawn by that epoch's seed and the image's place in its
split, on the CPU: it depends neither on batch order and size nor on the device. Augmented images are
not kept. Shapes: N images of the split, n of them in a batch, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from sdd_core.registry import AUGMENTATIONS

# (images (n, C, H, W) uint8, their places in the split (n,)) -> images of the same shape
Augment = Callable[[Tensor, Tensor], Tensor]
# (images of the split, device, seed of an epoch) -> what that epoch does to its images
Draw = Callable[[int, torch.device, int], Augment | None]

PAD: Final = 4


def flip_and_crop(images: Tensor, down: Tensor, right: Tensor, flipped: Tensor) -> Tensor:
    """Pad with `PAD` black pixels, cut out the H x W window at (down, right), mirror it where flipped.

    Black is pixel value 0, before normalisation, as torchvision's RandomCrop and RandomHorizontalFlip
    have it. images (n, C, H, W) uint8; down and right (n,) in [0, 2 PAD]; flipped (n,) bool.
    """
    n, c, h, w = images.shape
    padded = F.pad(images, (PAD, PAD, PAD, PAD))
    x = torch.arange(w, device=images.device)
    columns = torch.where(flipped[:, None], w - 1 - x, x) + right[:, None]
    rows = torch.arange(h, device=images.device) + down[:, None]
    place = rows[:, :, None] * (w + 2 * PAD) + columns[:, None, :]
    return padded.flatten(2).gather(2, place.view(n, 1, h * w).expand(n, c, h * w)).view(n, c, h, w)


def none(size: int, device: torch.device, seed: int) -> None:
    """The images as they are."""


def flip_crop(size: int, device: torch.device, seed: int) -> Augment:
    """A mirror image with probability 1/2, then a random crop of the zero-padded image (paper facts: CIFAR)."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randint(2 * PAD + 1, (2, size), generator=generator)
    flips = torch.randint(2, (size,), generator=generator).bool()
    down, right = offsets.to(device)
    flipped = flips.to(device)
    return lambda images, index: flip_and_crop(images, down[index], right[index], flipped[index])


def augmenter(name: str, size: int, device: torch.device, seed: int) -> Augment | None:
    """One epoch's augmentation of a split of `size` images, drawn by `seed`; None when there is none."""
    return AUGMENTATIONS[name](size, device, seed)
