"""VGG-like(gamma, delta): delta blocks of two 3x3 convolutions and a max-pool, the first 2**gamma wide.

The paper's student (Sec. 5) has blocks of 32, 64, 128, 256 and 512 channels: gamma 5, delta 5, which
is 4,967,082 parameters on CIFAR-10. Batch norm follows the ReLU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from annotated_types import Interval
from typing_extensions import Doc

from sdd_core.fields import Because, Count
from sdd_core.models import Model

if TYPE_CHECKING:
    from torch import nn

_POOLED: Final = 7  # side of the map that the head sees, whatever the image's
_EXPONENT: Final = "the first block is 2**gamma wide; the paper's width 32 is gamma 5"


@dataclass(frozen=True, kw_only=True)
class VGG(Model):
    """Blocks, each with half of the map's side and twice the channels of the one before."""

    gamma: Annotated[int, Interval(ge=1, le=12), Because(_EXPONENT), Doc("log2 of the first block's channels")] = 5
    delta: Annotated[Count, Doc("blocks")] = 5

    def faults(self, image_shape: tuple[int, int, int], smallest_batch: int) -> Iterator[str]:
        """Each block halves the map, and the last must leave a pixel."""
        _, height, width = image_shape
        most = min(height, width).bit_length() - 1
        if self.delta > most:
            yield f"delta={self.delta} halves {height}x{width} images away; delta must be from 1 to {most}"

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        from torch import nn

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = image_shape[0]
        for number in range(self.delta):
            width = 2 ** (self.gamma + number)
            layers[f"block{number + 1}"] = _block(channels, width)
            channels = width
        layers |= {
            "pool": nn.AdaptiveAvgPool2d(_POOLED),
            "flatten": nn.Flatten(),
            "head": nn.Linear(channels * _POOLED**2, classes),
        }
        return nn.Sequential(layers)


def _block(before: int, width: int) -> nn.Sequential:
    from torch import nn

    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
