"""What the words of a trial name: models, data sets, criteria and so on. Without torch.

An entry that is built in stands here by its place, "package.module:attribute", and is imported when it is
first used. So every name is known, and can be checked, before anything large is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from sdd_core.data.augmentation import Draw
    from sdd_core.data.noise import Move
    from sdd_core.data.sets import DataSet
    from sdd_core.models import Model
    from sdd_core.training.pruning import Criterion
    from sdd_core.training.retraining import Policy

T = TypeVar("T")
E = TypeVar("E")


class Registry(MutableMapping[str, T]):
    """Names and what they stand for, in the order in which they were registered."""

    def __init__(self, **places: str) -> None:
        self._entries: dict[str, T | str] = dict(places)

    def __getitem__(self, name: str) -> T:
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return entry

    def __setitem__(self, name: str, entry: T) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def register(self, name: str) -> Callable[[E], E]:
        """Register what follows, a class or a function, under a name: `@MODELS.register("mlp")`."""

        def add(entry: E) -> E:
            self[name] = entry  # type: ignore[assignment]
            return entry

        return add


MODELS: Final[Registry[type[Model]]] = Registry(
    lenet="sdd_core.models.lenet:LeNet",
    resnet18="sdd_core.models.resnet:ResNet18",
    vgg="sdd_core.models.vgg:VGG",
    vit="sdd_core.models.vit:ViT",
)
DATASETS: Final[Registry[DataSet]] = Registry(
    digits="sdd_core.data.sets:DIGITS",
    mnist="sdd_core.data.sets:MNIST",
    fashion_mnist="sdd_core.data.sets:FASHION_MNIST",
    cifar10="sdd_core.data.sets:CIFAR10",
    cifar100="sdd_core.data.sets:CIFAR100",
)
NOISE_KINDS: Final[Registry[Move]] = Registry(
    symmetric="sdd_core.data.noise:symmetric",
    asymmetric="sdd_core.data.noise:asymmetric",
    pair_flip="sdd_core.data.noise:pair_flip",
)
AUGMENTATIONS: Final[Registry[Draw]] = Registry(
    none="sdd_core.data.augmentation:none",
    flip_crop="sdd_core.data.augmentation:flip_crop",
)
CRITERIA: Final[Registry[Criterion]] = Registry(
    global_magnitude="sdd_core.training.pruning:GLOBAL_MAGNITUDE",
    layer_magnitude="sdd_core.training.pruning:LAYER_MAGNITUDE",
    random="sdd_core.training.pruning:RANDOM",
    gradient="sdd_core.training.pruning:GRADIENT",
)
POLICIES: Final[Registry[Policy]] = Registry(
    rewind_lr="sdd_core.training.retraining:REWIND_LR",
    rewind_weights="sdd_core.training.retraining:REWIND_WEIGHTS",
    finetune="sdd_core.training.retraining:FINETUNE",
    from_scratch="sdd_core.training.retraining:FROM_SCRATCH",
)
