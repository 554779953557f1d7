"""LeNet-300-100: in -> 300 -> 100 -> classes with ReLU between (266,610 parameters on MNIST)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from typing_extensions import Doc

from sdd_core.fields import Count
from sdd_core.models import Model

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class LeNet(Model):
    """Two hidden layers. Its steps are too small for a GPU: a core does as well."""

    gains_from_gpu: ClassVar[bool] = False

    hidden1: Annotated[Count, Doc("units of the first hidden layer")] = 300
    hidden2: Annotated[Count, Doc("units of the second")] = 100

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        from torch import nn

        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(image_shape), self.hidden1),
            nn.ReLU(),
            nn.Linear(self.hidden1, self.hidden2),
            nn.ReLU(),
            nn.Linear(self.hidden2, classes),
        )
