"""The architectures, one file each: a builder takes (options, image shape, classes) and gives logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import nn

from sdd_core.models.lenet import lenet
from sdd_core.spec import TrialSpec, stream

Options = Mapping[str, int | float | str]
Builder = Callable[[Options, tuple[int, int, int], int], nn.Module]

BUILDERS: Final[dict[str, Builder]] = {"lenet": lenet}


def build(spec: TrialSpec, image_shape: tuple[int, int, int], classes: int, level: int = 0) -> nn.Module:
    """The trial's model with the initial weights that `seed` (and a level after level 0) draws, on the CPU.

    `image_shape` is (C, H, W). The global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("init", spec.seed, *([level] if level > 0 else [])))
        return BUILDERS[spec.model](spec.options, image_shape, classes)
