"""VGG-like(gamma, delta): delta blocks of two 3x3 convolutions and a max-pool, the first 2**gamma wide.

The paper's student (Sec. 5) has blocks of 32, 64, 128, 256 and 512 channels: gamma 5, delta 5, which
is 4,967,082 parameters on CIFAR-10. Batch norm follows the ReLU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from torch import nn

from sdd_core.spec import ModelOptions

_POOLED = 7  # side of the map that the head sees, whatever the image's


def _block(before: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def vgg(options: ModelOptions, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Options: gamma (the first block has 2**gamma channels, each next twice as many), delta (blocks)."""
    gamma, delta = int(options["gamma"]), int(options["delta"])
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = image_shape[0]
    for number in range(delta):
        width = 2 ** (gamma + number)
        layers[f"block{number + 1}"] = _block(channels, width)
        channels = width
    layers |= {
        "pool": nn.AdaptiveAvgPool2d(_POOLED),
        "flatten": nn.Flatten(),
        "head": nn.Linear(channels * _POOLED**2, classes),
    }
    return nn.Sequential(layers)


def vgg_faults(options: ModelOptions, image_shape: tuple[int, int, int], smallest_batch: int) -> Iterator[str]:
    """Each block halves the map, and the last must leave a pixel."""
    delta, (_, height, width) = int(options["delta"]), image_shape
    most = min(height, width).bit_length() - 1
    if delta > most:
        yield f"delta={delta} halves {height}x{width} images away; delta must be from 1 to {most}"
