"""Operations of a model, and what a level costs by two conventions. Pure arithmetic: no data, no training.

`paper` is the convention that the paper's figures follow:

    PFLOP = 3 x (multiply-adds per image, as one each) x training images x epochs

with 5 operations per element of every norm layer and the inputs of adaptive pooling added.
Softmax, activations, additions, dropout and evaluation are not counted, and there is no discount
for sparsity. A teacher's forward passes, which the paper leaves out, are a figure of their own.

`real` counts operations as they are done, a multiplication and an addition as 2:

* forward: 2 for each multiply-add; norms 5 per element, adaptive pooling 1 per input;
* backward: a layer's product once for its weights and once for its input, so twice the forward
  pass; but once for the first layer, whose input needs no gradient, and for adaptive pooling;
* training, the teacher's forward passes and the evaluation of the finished level are three figures.

Left out of it: softmax, activations, max-pooling, residual additions, dropout, the loss, the
optimiser's step and the masks. Each is a few operations per element where a layer does hundreds, so
together under 1 % of any model of the paper, and how many depends on how they are implemented; so
does the figure for norms, which is as small.

`sparse` is what the surviving weights alone would need for one image: every convolution and linear
layer counts its output positions times its surviving weights. Attention's products, norms and
pooling stay as dense as they are, and a neuron that has lost all its inputs still counts its outputs.

    python -m sdd_core.cost --dataset cifar10 --model vit        19.28858 PFLOP per training
    python -m sdd_core.cost --dataset cifar10 --model vgg --json

The command needs no data files. It counts all training images, as the paper's protocol does; a
validation split makes a training cheaper (--images N counts N).
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdd_core import models
from sdd_core.record import Curve, LevelCost
from sdd_core.registry import DATASETS
from sdd_core.spec import TrialSpec, last_level
from sdd_core.training import pruning

_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
_COUNTED: Final = (nn.Linear, nn.Conv2d, nn.AdaptiveAvgPool2d, *_NORMS)


# --- operations of a model ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Call:
    """One layer's part in one image's forward pass."""

    kind: str
    """Class of the layer."""
    weight: str | None
    """Name of the prunable weight that it multiplies with."""
    operations: int
    """By the paper's convention: multiply-adds as one each."""
    forward: int
    """As they are."""
    backward: int
    """As they are, in the backward pass."""


@dataclass(frozen=True)
class Operations:
    """The operations of a model for one image."""

    calls: tuple[Call, ...]
    weights: dict[str, int]
    """How many elements each prunable weight has."""

    def by_kind(self) -> dict[str, int]:
        """Operations of a forward pass by the paper's convention, by class of layer."""
        found: dict[str, int] = {}
        for call in self.calls:
            found[call.kind] = found.get(call.kind, 0) + call.operations
        return found

    @property
    def paper(self) -> int:
        """Operations of a forward pass by the paper's convention."""
        return sum(call.operations for call in self.calls)

    @property
    def forward(self) -> int:
        """Real operations of a forward pass."""
        return sum(call.forward for call in self.calls)

    @property
    def training(self) -> int:
        """Real operations of a forward and a backward pass."""
        return sum(call.forward + call.backward for call in self.calls)

    def sparse(self, masks: pruning.Masks) -> int:
        """Operations of a forward pass by the paper's convention with the weights that survive in `masks`."""
        left = {name: int(mask.sum()) for name, mask in masks.items()}
        return sum(
            # A weight's operations are its elements times the positions that it is applied at.
            call.operations if call.weight is None else call.operations // self.weights[call.weight] * left[call.weight]
            for call in self.calls
        )


def operations(model: nn.Module, image_shape: tuple[int, int, int]) -> Operations:
    """What one image of shape (C, H, W) asks of `model`.

    A module that multiplies by other means than the counted layers has a method `operations(first
    input, output)` that says how many multiply-adds; both its factors count as needing a gradient. Raises
    `TypeError` for a layer with weights of a kind that is not counted, since the sum would be silently
    too small.
    """
    uncounted = [
        type(module).__name__
        for module in model.modules()
        if not _is_counted(module) and any("weight" in name for name, _ in module.named_parameters(recurse=False))
    ]
    if uncounted:
        raise TypeError(f"operations of {', '.join(sorted(set(uncounted)))} are not counted; give it `operations`")
    calls: list[Call] = []

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_call(name, module, inputs[0], output))

    was_training = model.training
    handles = [
        module.register_forward_hook(functools.partial(note, name))
        for name, module in model.named_modules()
        if _is_counted(module)
    ]
    try:
        model.eval()
        with torch.enable_grad():  # so that a layer's input says whether it needs a gradient
            model(torch.zeros(1, *image_shape, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    weights = {name: weight.numel() for name, weight in pruning.prunable_weights(model).items()}
    return Operations(tuple(calls), weights)


def _is_counted(module: nn.Module) -> bool:
    return isinstance(module, _COUNTED) or hasattr(module, "operations")


def _call(name: str, module: nn.Module, inputs: Tensor, output: Tensor) -> Call:
    weight, each, products = None, 2, 2  # operations of a unit counted; products that its backward pass needs
    if isinstance(module, nn.Linear | nn.Conv2d):
        weight, count = f"{name}.weight", output.numel() * module.weight[0].numel()
        products = 2 if inputs.requires_grad else 1
    elif isinstance(module, nn.AdaptiveAvgPool2d):
        count, each, products = inputs.numel(), 1, 1
    elif isinstance(module, _NORMS):
        count, each = 5 * inputs.numel(), 1
    else:
        count = module.operations(inputs, output)  # type: ignore[operator]
    return Call(
        kind=type(module).__name__,
        weight=weight,
        operations=count,
        forward=each * count,
        backward=products * each * count,
    )


def training_pflop(operations: int, images: int, epochs: int) -> float:
    """Cost of one training in PFLOP (10^15 operations): forward once and backward twice per image and epoch."""
    return 3 * operations * images * epochs / 1e15


# --- cost of a level ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Images of each split."""

    train: int
    val: int
    test: int


def level_cost(
    spec: TrialSpec, level: int, sizes: Sizes, masks: pruning.Masks | None = None, epochs: int | None = None
) -> LevelCost:
    """What a level of a trial costs; `masks` are those it was trained with, by default those of level 0.

    `epochs` are those that a training ran which diverged before its end.

    Only the architectures, the data set's shape, the epochs and the splits' sizes matter, so a plan
    asks before anything is trained, with `nominal_sizes`. With augmentation a teacher sees every
    training image in every epoch; without, its logits are computed once a level.
    """
    student = _network(spec).operations
    epochs = _epochs(spec, level) if epochs is None else epochs
    scoring = 1 if level > 0 and spec.criterion == "gradient" else 0
    passes = epochs if spec.augmentation != "none" else 1
    teacher = _network(spec.teacher.trial).operations if spec.teacher is not None and spec.distilled else None
    seen = 0 if teacher is None else sizes.train * passes
    return LevelCost(
        pflop=training_pflop(student.paper, sizes.train, epochs),
        pflop_teacher=0.0 if teacher is None else teacher.paper * seen / 1e15,
        pflop_real=student.training * sizes.train * (epochs + scoring) / 1e15,
        pflop_real_teacher=0.0 if teacher is None else teacher.forward * seen / 1e15,
        pflop_real_evaluation=student.forward * (sizes.train + sizes.val + sizes.test) / 1e15,
        sparse_multiply_adds=student.paper if masks is None else student.sparse(masks),
    )


def nominal_sizes(spec: TrialSpec) -> Sizes:
    """The splits of a trial without its data. A split by class differs by rounding, an image or two a class."""
    shape = DATASETS[spec.dataset]
    val = 0 if spec.protocol == "paper" else round(spec.validation_fraction * shape.train_images)
    return Sizes(train=spec.train_images or shape.train_images - val, val=val, test=shape.test_images)


def trainings(spec: TrialSpec) -> int:
    """Levels of a trial that runs to its target sparsity, level 0 included."""
    return last_level(_network(spec).prunable, spec.prune_fraction, spec.target_sparsity) + 1


def whole_levels(spec: TrialSpec, curve: Curve) -> int:
    """Levels of a trial that runs to its end, from its finished levels where it has any; see `trainings`."""
    if not curve:
        return trainings(spec)
    if curve[-1].diverged:
        return len(curve)
    return last_level(curve[0].prunable, spec.prune_fraction, spec.target_sparsity) + 1


def _epochs(spec: TrialSpec, level: int) -> int:
    """Epochs that a level trains: a pruned level that rewinds does not train the early ones again."""
    return spec.epochs - (spec.rewind_epoch or 0) if level > 0 else spec.epochs


@dataclass(frozen=True)
class _Network:
    operations: Operations
    parameters: int

    @property
    def prunable(self) -> int:
        return sum(self.operations.weights.values())


def _network(spec: TrialSpec) -> _Network:
    known = DATASETS[spec.dataset]
    return _built(models.of(spec), known.image_shape, known.classes)


@functools.cache
def _built(model: models.Model, image_shape: tuple[int, int, int], classes: int) -> _Network:
    with torch.random.fork_rng(devices=[]):
        network = model.build(image_shape, classes)
    return _Network(operations(network, image_shape), sum(parameter.numel() for parameter in network.parameters()))


def estimate(spec: TrialSpec, images: int | None = None) -> dict[str, Any]:
    """What a trial costs, without its data: per image, per training and per trajectory, by both conventions.

    `images` are those trained on, by default the trial's `train_images` or all of the data set's. A teacher's own
    trainings are not in it, and no give-up: every level is trained.
    """
    shape, network = DATASETS[spec.dataset], _network(spec)
    sizes = Sizes(train=images or spec.train_images or shape.train_images, val=0, test=shape.test_images)
    dense, pruned = level_cost(spec, 0, sizes), level_cost(spec, 1, sizes)
    levels = trainings(spec)
    answer: dict[str, Any] = {
        "dataset": spec.dataset,
        "model": spec.model,
        "model_options": spec.options,
        "parameters": network.parameters,
        "prunable": network.prunable,
        "operations_per_image": network.operations.paper,
        "operations_by_kind": network.operations.by_kind(),
        "real_operations_per_image": {"forward": network.operations.forward, "training": network.operations.training},
        "train_images": sizes.train,
        "test_images": sizes.test,
        "epochs": spec.epochs,
        "trainings": levels,
    }
    for name in ("pflop", "pflop_teacher", "pflop_real", "pflop_real_teacher", "pflop_real_evaluation"):
        first, later = getattr(dense, name), getattr(pruned, name)
        answer |= {f"{name}_per_training": first, f"{name}_per_trajectory": first + later * (levels - 1)}
    return answer


if __name__ == "__main__":
    from sdd_core.commands.cost import main

    sys.exit(main())
