"""Masks and exact pruning: weights of every Conv2d and Linear, never biases or norm layers.

A criterion gives every weight a score and says within what it ranks them; those of the smallest
score go. Whatever the criterion, a level removes the same number of weights, so that curves of
different criteria have the same sparsities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import torch
from torch import Tensor, nn

from sdd_core.registry import CRITERIA
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


# --- criteria -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at beside the weights; what it does not need may be left out."""

    seed: int | None = None
    """Of the random stream of this pruning."""

    gradients: Callable[[], Mapping[str, Tensor]] | None = None
    """dL/dw of every prunable weight, computed when asked for."""


@dataclass(frozen=True)
class Criterion:
    """How weights are ranked: one score a weight, in the weights' order; the smallest are removed."""

    scores: Callable[[Mapping[str, Tensor], Evidence], Tensor]
    per_layer: bool = False
    """Rank within each layer, which loses its share of the weights to remove (`shares`)."""


def _magnitude(weights: Mapping[str, Tensor], evidence: Evidence) -> Tensor:
    """|w|."""
    return torch.cat([weight.detach().abs().flatten() for weight in weights.values()])


def _random(weights: Mapping[str, Tensor], evidence: Evidence) -> Tensor:
    """A random order of all weights (so without ties), drawn on the CPU: uniform over those that remain."""
    assert evidence.seed is not None, "the random criterion draws from a seed"
    order = torch.randperm(
        sum(weight.numel() for weight in weights.values()), generator=torch.Generator().manual_seed(evidence.seed)
    )
    return order.to(next(iter(weights.values())).device)


def _saliency(weights: Mapping[str, Tensor], evidence: Evidence) -> Tensor:
    """|w dL/dw|: to first order, how much the loss changes without the weight.

    The Taylor criterion of Molchanov et al. (2017) for single weights, as in SNIP (Lee et al., 2019), but
    for the trained network of the level before instead of the initial one.
    """
    assert evidence.gradients is not None, "the gradient criterion needs the gradients"
    gradients = evidence.gradients()
    return torch.cat([(weight.detach() * gradients[name]).abs().flatten() for name, weight in weights.items()])


GLOBAL_MAGNITUDE: Final = Criterion(_magnitude)
LAYER_MAGNITUDE: Final = Criterion(_magnitude, per_layer=True)
RANDOM: Final = Criterion(_random)
GRADIENT: Final = Criterion(_saliency)


# --- pruning --------------------------------------------------------------------------------


def shares(left: Sequence[int], fraction: float) -> list[int]:
    """How many weights each layer loses when all together lose `prune_count(sum(left), fraction)`.

    By largest remainder: each layer loses the whole part of fraction x left, and what is missing to the
    total is taken one each from the layers with the largest rest, the earlier first among equals.
    Rounding every layer alone, as `torch.nn.utils.prune` does, would add up to other totals, and
    curves of different criteria would not have the same sparsities.
    """
    quotas = [Fraction(repr(float(fraction))) * count for count in left]  # exact: equal rests are equal
    counts = [int(quota) for quota in quotas]
    missing = prune_count(sum(left), fraction) - sum(counts)
    by_rest = sorted(range(len(left)), key=lambda layer: counts[layer] - quotas[layer])
    for layer in by_rest[:missing]:
        counts[layer] += 1
    return counts


def prune(
    weights: Mapping[str, Tensor], masks: Masks, fraction: float, criterion: str, evidence: Evidence | None = None
) -> Masks:
    """Masks with exactly `prune_count` more weights removed: those of the smallest score.

    Ties go to the lower index (layers in the model's order, then row-major), so the result is exact
    and the same everywhere; comparing with a threshold would prune every tied weight. A removed
    weight never comes back. A score that is not a number counts as the largest.
    """
    chosen = CRITERIA[criterion]
    sizes = [masks[name].numel() for name in weights]
    groups = sizes if chosen.per_layer else [sum(sizes)]
    keep = torch.cat([masks[name].flatten() for name in weights])
    scores = chosen.scores(weights, evidence or Evidence())
    parts = keep.split(groups)
    counts = shares([int(part.sum()) for part in parts], fraction)
    for part, part_scores, count in zip(parts, scores.split(groups), counts, strict=True):
        alive = part.nonzero().squeeze(1)
        doomed = torch.sort(part_scores[alive], stable=True).indices[:count]
        part[alive[doomed]] = False  # a view: `keep` itself
    return {name: part.view(masks[name].shape) for name, part in zip(weights, keep.split(sizes), strict=True)}


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set every removed weight to exactly 0, in place."""
    for name, weight in weights.items():
        weight.masked_fill_(~masks[name], 0.0)
