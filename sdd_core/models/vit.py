"""Vision transformer: patches and a class token through pre-norm blocks, the head on the class token.

The paper's (patch 4, width 512, depth 6, 8 heads of 64, MLP 512) has 9,523,722 parameters on CIFAR-10,
9,466,880 of them prunable: the weights of every Linear, patch embedding, qkv and head included. Its modules
are in `vit_network`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from typing_extensions import Doc

from sdd_core.fields import BelowOne, Count
from sdd_core.models import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ViT(Model):
    """Blocks of attention and a multi-layer perceptron over the patches of an image."""

    patch: Annotated[Count, Doc("side of a patch in pixels")] = 4
    width: Annotated[Count, Doc("values a token")] = 512
    depth: Annotated[Count, Doc("blocks")] = 6
    heads: Annotated[Count, Doc("heads of attention, of width / heads values each")] = 8
    mlp: Annotated[Count, Doc("hidden units of a block's perceptron")] = 512
    dropout: Annotated[BelowOne, Doc("share of values dropped while training")] = 0.1

    def contradictions(self) -> Iterator[str]:
        if self.width % self.heads:
            yield f"heads={self.heads}: must divide width ({self.width}) into heads of equal size"

    def faults(self, image_shape: tuple[int, int, int], smallest_batch: int) -> Iterator[str]:
        """Patches must tile the image."""
        _, height, width = image_shape
        if height % self.patch or width % self.patch:
            fits = [side for side in range(1, min(height, width) + 1) if height % side == width % side == 0]
            yield f"patch={self.patch} does not tile {height}x{width} images; what does: {', '.join(map(str, fits))}"

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        from sdd_core.models.vit_network import Network

        return Network(self, image_shape, classes)
