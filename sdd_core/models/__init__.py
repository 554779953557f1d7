"""The architectures, one file each: a builder takes (options, image shape, classes) and gives logits.

Layers keep the initialisation that PyTorch gives them: the paper names no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import nn

from sdd_core.models.lenet import lenet
from sdd_core.models.resnet import resnet18, resnet18_faults
from sdd_core.models.vgg import vgg, vgg_faults
from sdd_core.models.vit import vit, vit_faults
from sdd_core.spec import DATASET_SHAPES, ModelOptions, TrialSpec, stream

Builder = Callable[[ModelOptions, tuple[int, int, int], int], nn.Module]
# (options, image shape, images in the smallest batch) -> why the model cannot take them
Check = Callable[[ModelOptions, tuple[int, int, int], int], Iterator[str]]

BUILDERS: Final[dict[str, Builder]] = {
    "lenet": lenet,
    "resnet18": resnet18,
    "vgg": vgg,
    "vit": vit,
}
# A model that takes any image needs no line here.
CHECKS: Final[dict[str, Check]] = {
    "resnet18": resnet18_faults,
    "vgg": vgg_faults,
    "vit": vit_faults,
}


def build(spec: TrialSpec, image_shape: tuple[int, int, int], classes: int, level: int = 0) -> nn.Module:
    """The trial's model with the initial weights that `seed` (and a level after level 0) draws, on the CPU.

    `image_shape` is (C, H, W). The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("init", spec.seed, *([level] if level > 0 else [])))
        return BUILDERS[spec.model](spec.options, image_shape, classes)


def faults(spec: TrialSpec, train_size: int | None = None) -> list[str]:
    """Why the spec's model cannot train on its data set's images, in one sentence each.

    `train_size` is how many images are trained on: it decides how small the last batch of an epoch is.
    Without it, every batch counts as full.
    """
    check = CHECKS.get(spec.model)
    if check is None:
        return []
    rest = 0 if train_size is None else train_size % spec.batch_size
    smallest = spec.batch_size if rest == 0 else rest
    return [
        f"model {spec.model!r} with dataset {spec.dataset!r} and batch_size {spec.batch_size}: {why}"
        for why in check(spec.options, DATASET_SHAPES[spec.dataset].image_shape, smallest)
    ]
