"""Masks and exact pruning: weights of every Conv2d and Linear, never biases or norm layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from sdd_core.spec import prune_count

Masks = dict[str, Tensor]  # weight's name -> bool tensor of its shape, True where the weight survives


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that pruning may remove, by name, in the model's order."""
    return {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def dense_masks(model: nn.Module) -> Masks:
    """Masks that keep every weight."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable_weights(model).items()}


def remaining(masks: Mapping[str, Tensor]) -> int:
    """How many weights survive."""
    return sum(int(mask.sum()) for mask in masks.values())


def prunable(masks: Mapping[str, Tensor]) -> int:
    """How many weights there were at level 0."""
    return sum(mask.numel() for mask in masks.values())


def emptied_layers(masks: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Layers that have lost every weight."""
    return tuple(name.removesuffix(".weight") for name, mask in masks.items() if not bool(mask.any()))


def _magnitude(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([weight.detach().abs().flatten() for weight in weights.values()])


CRITERIA: Final[dict[str, Callable[[Mapping[str, Tensor]], Tensor]]] = {"global_magnitude": _magnitude}


def prune(weights: Mapping[str, Tensor], masks: Masks, fraction: float, criterion: str) -> Masks:
    """Masks with exactly `prune_count` more weights removed: those of the smallest score, over all layers.

    Ties go to the lower index (layers in the model's order, then row-major), so the result is exact
    and the same everywhere; comparing with a threshold would prune every tied weight. A removed
    weight never comes back.
    """
    keep = torch.cat([masks[name].flatten() for name in weights])
    alive = keep.nonzero().squeeze(1)
    scores = CRITERIA[criterion](weights)[alive]
    doomed = torch.sort(scores, stable=True).indices[: prune_count(len(alive), fraction)]
    keep[alive[doomed]] = False
    parts = keep.split([masks[name].numel() for name in weights])
    return {name: part.view(masks[name].shape) for name, part in zip(weights, parts, strict=True)}


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set every removed weight to exactly 0, in place."""
    for name, weight in weights.items():
        weight.masked_fill_(~masks[name], 0.0)
