"""Operations of a model, and what a training costs by the convention that the paper's figures follow.

    PFLOP = 3 x (multiply-adds per image, as one each) x training images x epochs

with 5 operations per element of every norm layer and the inputs of adaptive pooling added.
Softmax, activations, additions, dropout and evaluation are not counted, and there is no discount
for sparsity.

    python -m sdd_core.cost --dataset cifar10 --model vit        19.28858 PFLOP per training
    python -m sdd_core.cost --dataset cifar10 --model vgg --json

The command needs no data files. It counts all training images, as the paper's protocol does; a
validation split makes a training cheaper (--images N counts N).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdd_core import models, pruning
from sdd_core.spec import DATASET_SHAPES, TrialSpec, last_level

_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)
_COUNTED: Final = (nn.Linear, nn.Conv2d, nn.AdaptiveAvgPool2d, *_NORMS)


def _is_counted(module: nn.Module) -> bool:
    return isinstance(module, _COUNTED) or hasattr(module, "operations")


def _operations(module: nn.Module, inputs: Tensor, output: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, nn.Conv2d):
        return output.numel() * module.weight[0].numel()
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return inputs.numel()
    if isinstance(module, _NORMS):
        return 5 * inputs.numel()
    own: int = module.operations(inputs, output)  # type: ignore[operator]
    return own


@torch.no_grad()
def operations_by_kind(model: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Operations of one image's forward pass by class of layer; `image_shape` is (C, H, W).

    A module that multiplies by other means than these layers has a method `operations(first input,
    output)`. Raises `TypeError` for a layer with weights of a kind that is not counted, since the sum
    would be silently too small.
    """
    uncounted = [
        type(module).__name__
        for module in model.modules()
        if not _is_counted(module) and any("weight" in name for name, _ in module.named_parameters(recurse=False))
    ]
    if uncounted:
        raise TypeError(f"operations of {', '.join(sorted(set(uncounted)))} are not counted; give it `operations`")
    found: dict[str, int] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kind = type(module).__name__
        found[kind] = found.get(kind, 0) + _operations(module, inputs[0], output)

    was_training = model.training
    handles = [m.register_forward_hook(count) for m in model.modules() if _is_counted(m)]
    try:
        model.eval()
        model(torch.zeros(1, *image_shape, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return found


def operations_per_image(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Operations of one image's forward pass by the paper's convention; `image_shape` is (C, H, W)."""
    return sum(operations_by_kind(model, image_shape).values())


def training_pflop(operations: int, images: int, epochs: int) -> float:
    """Cost of one training in PFLOP (10^15 operations): forward once and backward twice per image and epoch."""
    return 3 * operations * images * epochs / 1e15


def estimate(spec: TrialSpec, images: int | None = None) -> dict[str, Any]:
    """What a trial costs, without its data: per image, per training and per trajectory.

    `images` are those trained on, by default all of the data set's training images. A teacher's own
    trainings and forward passes are not in it.
    """
    shape = DATASET_SHAPES[spec.dataset]
    images = shape.train_images if images is None else images
    model = models.build(spec, shape.image_shape, shape.classes)
    kinds = operations_by_kind(model, shape.image_shape)
    prunable = pruning.prunable(pruning.dense_masks(model))
    trainings = last_level(prunable, spec.prune_fraction, spec.target_sparsity) + 1
    pflop = training_pflop(sum(kinds.values()), images, spec.epochs)
    rewound = 0 if spec.rewind_epoch is None else spec.rewind_epoch  # epochs that pruned levels do not train again
    pflop_pruned = training_pflop(sum(kinds.values()), images, spec.epochs - rewound)
    return {
        "dataset": spec.dataset,
        "model": spec.model,
        "model_options": spec.options,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prunable": prunable,
        "operations_per_image": sum(kinds.values()),
        "operations_by_kind": kinds,
        "train_images": images,
        "epochs": spec.epochs,
        "pflop_per_training": pflop,
        "trainings": trainings,
        "pflop_per_trajectory": pflop + pflop_pruned * (trainings - 1),
    }


DESCRIPTION = """\
What a trial costs by the paper's convention, from its model alone: no data, no training.

3 x multiply-adds per image x training images x epochs; norms (5 an element) and adaptive pooling
included, no discount for sparsity. All training images of the data set are counted, as in the
paper's protocol; with a validation split a training is cheaper by that share.
"""
EXAMPLES = """\
examples:
  python -m sdd_core.cost --dataset cifar10 --model vit            the paper's Table 1: 19.28858 PFLOP a training
  python -m sdd_core.cost --dataset cifar10 --model vgg --json     Table 2: 1.627951
  python -m sdd_core.cost --dataset cifar10 --model resnet18 --model-options stem=pool --images 40000
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from sdd_core.cli import Parser, add_spec_flags, parse_value, read_spec

    parser = Parser(prog="python -m sdd_core.cost", description=DESCRIPTION, epilog=EXAMPLES)
    add_spec_flags(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--images", metavar="N", help="images trained on [all training images of the data set]")
    group.add_argument("--json", action="store_true", help="print one JSON object")
    options, faults = parser.parse_collecting(arguments)
    spec, spec_faults = read_spec(options)
    faults += spec_faults or models.faults(spec)
    images = None
    if options.images is not None:
        images, fault = parse_value("images", options.images, "int")
        if fault or images < 1:
            faults.append(fault or f"images {images}: must be a whole number from 1")
    if faults:
        parser.refuse(faults)
    answer = estimate(spec, images)
    if options.json:
        print(json.dumps(answer, indent=1))
        return 0
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in answer["operations_by_kind"].items())
    print(f"{spec.model} on {spec.dataset}: {answer['parameters']:,} parameters, {answer['prunable']:,} prunable")
    print(f"{answer['operations_per_image']:,} operations an image ({kinds})")
    size = f"{spec.epochs} epochs x {answer['train_images']:,} images"
    print(f"{answer['pflop_per_training']:.7g} PFLOP a training of {size}")
    print(f"{answer['pflop_per_trajectory']:.7g} PFLOP a trajectory of {answer['trainings']} trainings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
