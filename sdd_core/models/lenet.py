"""LeNet-300-100: in -> 300 -> 100 -> classes with ReLU between (266,610 parameters on MNIST)."""

from __future__ import annotations

import math

from torch import nn

from sdd_core.spec import ModelOptions


def lenet(options: ModelOptions, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Options: hidden1, hidden2 (units of the two hidden layers)."""
    hidden1, hidden2 = int(options["hidden1"]), int(options["hidden2"])
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(image_shape), hidden1),
        nn.ReLU(),
        nn.Linear(hidden1, hidden2),
        nn.ReLU(),
        nn.Linear(hidden2, classes),
    )
