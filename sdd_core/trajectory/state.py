"""The network after a level: its weights and masks, as tensors on the training device and as a store's arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdd_core import models
from sdd_core.data.splits import Data
from sdd_core.spec import TrialSpec
from sdd_core.store import Arrays
from sdd_core.training import pruning


@dataclass(frozen=True)
class State:
    """The network after a level, on the training device."""

    level: int
    model: nn.Module
    masks: pruning.Masks
    early: Arrays | None = None
    """The model's tensors after `rewind_epoch` epochs of level 0, where level 0 was trained past that epoch here."""
    diverged_after: int | None = None
    """Epochs after which the training of this level diverged, where it was trained here."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the record says under `measured` of the training: how its steps ran, and what looked wrong."""


def new_model(spec: TrialSpec, data: Data) -> nn.Module:
    """A trial's network with the initial weights of level 0, on the device that holds the data."""
    return models.build(spec, data.image_shape, data.classes).to(data.train.images.device)


def model_arrays(model: nn.Module) -> Arrays:
    """A copy of the model's tensors, parameters and buffers, which further training does not change."""
    return {name: tensor.cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def model_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Such a copy in the form that a model loads."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def to_arrays(state: State) -> Arrays:
    """A state as a store holds it: the model's tensors, and each mask packed eight weights to a byte."""
    arrays: Arrays = {f"model.{name}": tensor.cpu().numpy() for name, tensor in state.model.state_dict().items()}
    arrays |= {f"mask.{name}": np.packbits(mask.cpu().numpy()) for name, mask in state.masks.items()}
    return arrays


def from_arrays(arrays: Arrays, model: nn.Module, level: int) -> State:
    """The state that `to_arrays` made the arrays of; its weights are loaded into `model`."""
    held = {name.removeprefix("model."): array for name, array in arrays.items() if name.startswith("model.")}
    model.load_state_dict(model_tensors(held))
    masks = {}
    for name, weight in pruning.prunable_weights(model).items():
        bits = np.unpackbits(arrays[f"mask.{name}"], count=weight.numel()).astype(np.bool_)
        masks[name] = torch.from_numpy(bits).view(weight.shape).to(weight.device)
    return State(level, model, masks)
