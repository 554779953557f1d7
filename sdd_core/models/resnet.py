"""ResNet-18 in its CIFAR form: a 3x3 stem of stride 1, then four stages of two basic blocks.

11,173,962 parameters on CIFAR-10. The paper does not say whether a max-pool follows the stem; one
repository of its authors has one. Without it (the default) an image costs 557 million multiply-adds,
with it 141 million.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import Doc

from sdd_core.fields import Count
from sdd_core.models import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ResNet18(Model):
    """Four stages, each with half of the map's side and twice the channels of the one before."""

    width: Annotated[Count, Doc("channels of the first stage")] = 64
    stem: Annotated[Literal["no_pool", "pool"], Doc("whether a max-pool follows the stem")] = "no_pool"

    def faults(self, image_shape: tuple[int, int, int], smallest_batch: int) -> Iterator[str]:
        """Any image fits, but batch norm cannot train on a single value a channel."""
        _, height, width = image_shape
        shrink = 16 if self.stem == "pool" else 8
        if smallest_batch == 1 and height <= shrink and width <= shrink:
            yield (
                f"it shrinks {height}x{width} images to one pixel, where batch norm needs two images; "
                "take a batch_size that leaves no batch of one"
            )

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        from torch import nn

        width = self.width
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False),
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
        )
        if self.stem == "pool":
            layers["pool"] = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        layers["stage1"] = _stage(width, width, stride=1)
        for number in (2, 3, 4):
            layers[f"stage{number}"] = _stage(width, 2 * width, stride=2)
            width *= 2
        layers |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "head": nn.Linear(width, classes)}
        return nn.Sequential(layers)


def _stage(before: int, width: int, stride: int) -> nn.Sequential:
    """Two basic blocks; the first may halve the map and change its width."""
    from torch import nn

    # Importing torchvision takes as long as importing torch; only this model pays for it.
    from torchvision.models.resnet import BasicBlock, conv1x1

    shortcut = None
    if stride != 1 or before != width:
        shortcut = nn.Sequential(conv1x1(before, width, stride), nn.BatchNorm2d(width))
    return nn.Sequential(BasicBlock(before, width, stride, shortcut), BasicBlock(width, width))
