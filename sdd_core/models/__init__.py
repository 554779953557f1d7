"""The architectures, one file each: its options, what they must satisfy, and the network itself.

Layers keep the initialisation that PyTorch gives them: the paper names no other. torch is imported where a
network is built, so that a model's options can be read without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sdd_core import registry
from sdd_core.spec import TrialSpec, stream

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Model:
    """An architecture. Its fields are its options, annotated like a trial's (`sdd_core.fields`)."""

    gains_from_gpu: ClassVar[bool] = True
    """Whether its trials ask for a GPU where there is one."""

    def contradictions(self) -> Iterator[str]:
        """Options that do not go together, each as "NAME=VALUE: why"."""
        yield from ()

    def faults(self, image_shape: tuple[int, int, int], smallest_batch: int) -> Iterator[str]:
        """Why it cannot train on images of this shape (C, H, W), in batches the smallest of which has so many."""
        yield from ()

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        """The network that gives an image's logits, with weights from torch's global random state."""
        raise NotImplementedError


def of(spec: TrialSpec) -> Model:
    """The trial's model with its options."""
    return registry.MODELS[spec.model](**spec.options)


def build(spec: TrialSpec, image_shape: tuple[int, int, int], classes: int, level: int = 0) -> nn.Module:
    """The trial's model with the initial weights that `seed` (and a level after level 0) draws, on the CPU.

    `image_shape` is (C, H, W). The global random state is left as it was.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("init", spec.seed, *([level] if level > 0 else [])))
        return of(spec).build(image_shape, classes)


def faults(spec: TrialSpec, train_size: int | None = None) -> list[str]:
    """Why the spec's model cannot train on its data set's images, in one sentence each.

    `train_size` is how many images are trained on: it decides how small the last batch of an epoch is.
    Without it, every batch counts as full.
    """
    rest = 0 if train_size is None else train_size % spec.batch_size
    return [
        f"model {spec.model!r} with dataset {spec.dataset!r} and batch_size {spec.batch_size}: {why}"
        for why in of(spec).faults(registry.DATASETS[spec.dataset].image_shape, rest or spec.batch_size)
    ]
