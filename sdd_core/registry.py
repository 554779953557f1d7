"""What the words of a trial name: models, data sets, criteria and so on. Without torch.

An entry that is built in stands here by its place, "package.module:attribute", and is imported when it is
first used. So every name is known, and can be checked, before anything large is imported.

A user's own are registered by a plugin, a file or module that `load` runs. Its source is part of the keys that
its entries can influence.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import types
from collections import UserDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from sdd_core.fields import SpecError

if TYPE_CHECKING:
    from sdd_core.data.augmentation import Draw
    from sdd_core.data.noise import Move
    from sdd_core.data.sets import DataSet
    from sdd_core.models import Model
    from sdd_core.training.pruning import Criterion
    from sdd_core.training.retraining import Policy

T = TypeVar("T")
E = TypeVar("E")


_running: Final[list[str]] = []
"""The hash of the plugin that is being run, if one is."""


class Registry(UserDict[str, T]):
    """Names and what they stand for, in the order in which they were registered."""

    def __init__(self, **places: str) -> None:
        super().__init__()
        self.data |= places  # type: ignore[arg-type]  # until an entry is first used
        self.sources: dict[str, str] = {}
        """Of the entries that a plugin registered, the hash of its source."""

    def __getitem__(self, name: str) -> T:
        entry = self.data[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self.data[name] = getattr(importlib.import_module(module), attribute)
        return entry

    def __setitem__(self, name: str, entry: T) -> None:
        if _running:
            if name in self:
                raise SpecError([f"{name!r} is registered already; take another name"])
            self.sources[name] = _running[-1]
        super().__setitem__(name, entry)

    def register(self, name: str) -> Callable[[E], E]:
        """Register what follows, a class or a function, under a name: `@MODELS.register("mlp")`."""

        def add(entry: E) -> E:
            self[name] = entry  # type: ignore[assignment]
            return entry

        return add


_loaded: Final[dict[str, str]] = {}
"""The sources of the plugins that were run, by name."""

Plugin = str | tuple[str, str]
"""A file or a module, or its name and source as `loaded_plugins` gives them."""


def load(plugins: Iterable[Plugin]) -> None:
    """Run plugins, each once, so that they register what is theirs. Raises `SpecError` when one cannot be run.

    What `loaded_plugins` gives in one process can be loaded in another, where the file need not be.
    """
    for plugin in plugins:
        name, source = _found(plugin) if isinstance(plugin, str) else plugin
        if _loaded.get(name) == source:
            continue
        if name in _loaded:
            raise SpecError([f"plugin {name!r}: another one of this name is loaded already"])
        module = types.ModuleType(name if name.isidentifier() else f"sdd_plugin_{Path(name).stem}")
        module.__file__ = name
        sys.modules[module.__name__] = module  # dataclasses and annotations look their module up
        _running.append(hashlib.sha256(source.encode()).hexdigest())
        try:
            exec(compile(source, name, "exec"), module.__dict__)
        except Exception as error:  # whatever a user's file does wrong is told like any bad input
            raise SpecError([f"plugin {name!r}: cannot be run ({type(error).__name__}: {error})"]) from error
        finally:
            _running.pop()
        _loaded[name] = source


def loaded_plugins() -> list[tuple[str, str]]:
    """Name and source of every plugin that was loaded, to `load` them in another process."""
    return list(_loaded.items())


def _found(place: str) -> tuple[str, str]:
    """A plugin's full name and its source."""
    path = Path(place).expanduser().absolute()
    if not path.is_file() and not place.endswith(".py"):
        try:
            found = importlib.util.find_spec(place)
        except (ImportError, ValueError):
            found = None
        if found is not None and found.origin is not None:
            return place, Path(found.origin).read_text(encoding="utf-8")
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([f"plugin {place!r}: is no module, and no file that can be read ({error})"]) from None


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
