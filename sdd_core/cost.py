"""Operations of a model, and what a training costs by the convention that the paper's figures follow.

    PFLOP = 3 x (multiply-adds per image, as one each) x training images x epochs

with 5 operations per element of every norm layer and the inputs of adaptive pooling added.
Softmax, activations, additions, dropout and evaluation are not counted, and there is no discount
for sparsity.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
_COUNTED: Final = (nn.Linear, nn.Conv2d, nn.AdaptiveAvgPool2d, *_NORMS)


def _operations(module: nn.Module, inputs: Tensor, output: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, nn.Conv2d):
        return output.numel() * module.weight[0].numel()
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return inputs.numel()
    return 5 * inputs.numel()


@torch.no_grad()
def operations_per_image(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Operations of one image's forward pass by the paper's convention; `image_shape` is (C, H, W)."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _operations(module, inputs[0], output)

    was_training = model.training
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, _COUNTED)]
    try:
        model.eval()
        model(torch.zeros(1, *image_shape, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return total


def training_pflop(operations: int, images: int, epochs: int) -> float:
    """Cost of one training in PFLOP (10^15 operations): forward once and backward twice per image and epoch."""
    return 3 * operations * images * epochs / 1e15
