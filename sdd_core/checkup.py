"""What this machine can do, tried and not guessed: versions, devices, steps of training, energy, data, store.

Each function gives plain values for `sdd_core.commands.doctor`, which says them. A step is tried by training
a tiny network with convolution, running statistics and dropout on each device, as a level is trained.
"""

from __future__ import annotations

import copy
import importlib.metadata
import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from sdd_core import machine, pace, recipes, training
from sdd_core.data import sources, splits
from sdd_core.energy.full_load import known
from sdd_core.registry import DATASETS
from sdd_core.spec import FIELDS, SpecError, TrialSpec
from sdd_core.training import pruning, steps
from sdd_core.training.agreement import Found, Saved, difference, first_line, of_model

PACKAGES: Final = (
    *("sdd-sweep", "torch", "torchvision", "ray", "optuna", "mlflow", "pandas", "carbontracker"),
    *("numpy", "scikit-learn", "safetensors", "pydantic", "fsspec"),
)
_BATCH: Final = 32
_BATCHES: Final = 8  # of an epoch, enough for a step to be captured and replayed


# --- the machine ----------------------------------------------------------------------------


def versions() -> dict[str, str | None]:
    """Version of Python and of each package, None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["torch"] = torch.__version__  # with the kind of build
    return found | {"cuda": torch.version.cuda, "cudnn": _cudnn(), "nvidia driver": _driver()}


def _cudnn() -> str | None:
    return str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else None


def _driver() -> str | None:
    """Version of NVIDIA's driver, None where NVML does not say."""
    try:
        import pynvml

        pynvml.nvmlInit()
        said = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # there is none, or none that answers
        return None
    return said.decode() if isinstance(said, bytes) else str(said)


def this_machine() -> dict[str, Any]:
    """System, CPU, cores and bytes of memory; None for what the system does not say."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = None
    return {
        "system": platform.platform(),
        "cpu": known("cpu")["name"],
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "memory": memory,
    }


def devices() -> list[torch.device]:
    """The CPU, and every GPU that torch can use."""
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]


def described(device: torch.device) -> dict[str, Any]:
    """Name, compute capability and bytes of memory of a device; None for what a CPU has not."""
    if device.type != "cuda":
        return {"device": str(device), "name": known("cpu")["name"]} | dict.fromkeys(("capability", "free", "memory"))
    free, total = torch.cuda.mem_get_info(device)
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    name = torch.cuda.get_device_name(device)
    return {"device": str(device), "name": name, "capability": capability, "free": free, "memory": total}


# --- a step of training ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StepCheck:
    """What came of training on a device in one precision with one optimiser."""

    precision: str
    optimizer: str
    runs: bool
    reason: str | None = None
    """Why it does not run."""
    ways: dict[str, str | None]
    """The fast ways that were tried: way -> why it is not used, None where it agrees with the plain one."""
    wrong: bool = False
    """Whether something does not agree or does not run that should."""


def step_checks(device: torch.device) -> list[StepCheck]:
    """Steps of every precision with both optimisers, tried on a device."""
    return [
        step_check(device, precision, optimizer)
        for precision in FIELDS["precision"].words or ()
        for optimizer in FIELDS["optimizer"].words or ()
    ]


def step_check(device: torch.device, precision: str, optimizer: str) -> StepCheck:
    """Train a tiny network on a device, and where a step is captured once more without; compare the weights."""
    spec = recipes.digits_lenet().replace(
        precision=precision, optimizer=optimizer, learning_rate=0.01, epochs=2, batch_size=_BATCH
    )
    named: dict[str, Any] = {"precision": precision, "optimizer": optimizer}
    network, found = _network(), Found()
    try:
        plan = steps.step_plan(device.type, steps.capability(device), network, spec)
        trained = _trained(network, device, spec, plan, found)
        if plan.captured and found.ways["captured"] is None:
            layout = plan.channels_last and found.ways["channels_last"] is None
            plain = _trained(network, device, spec, replace(plan, captured=False, channels_last=layout), Found())
            before = _tensors(copy.deepcopy(network).to(device))
            found.use("captured", difference(before, _tensors(trained), _tensors(plain), plan.tolerance))
    except SpecError as error:
        return StepCheck(**named, runs=False, reason="; ".join(error.faults), ways={})
    except Exception as error:  # whatever it is, it is what a report must hold
        return StepCheck(**named, runs=False, reason=first_line(error), ways=found.ways, wrong=True)
    return StepCheck(**named, runs=True, ways=found.ways, wrong=any(found.ways.values()))


def _network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # A bias before a norm has no gradient but rounding, which AdamW would blow up.
        convolution = (nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*convolution, nn.Linear(8 * 36, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 10))


def _trained(
    network: nn.Module, device: torch.device, spec: TrialSpec, plan: steps.StepPlan, found: Found
) -> nn.Module:
    model = copy.deepcopy(network).to(device)
    training.train(model, pruning.dense_masks(model), _made_up(device), spec, 0, plan=plan, found=found)
    return model


def _made_up(device: torch.device) -> splits.Split:
    """Random images of digits' shape, with random labels."""
    draw, count = np.random.default_rng(0), _BATCH * _BATCHES
    images = torch.from_numpy(draw.integers(0, 17, (count, 1, 8, 8), dtype=np.uint8)).to(device)
    labels = torch.from_numpy(draw.integers(0, 10, count)).to(device)
    scale, shift = (torch.full((1, 1, 1, 1), value, device=device) for value in (1 / 6, -0.8))
    return splits.Split(images, labels, labels, scale, shift)


def _tensors(model: nn.Module) -> Saved:
    return Saved({kind: [t.detach() for t in held] for kind, held in of_model(model).items()}, ())


# --- energy, data, store --------------------------------------------------------------------


def energy(device: torch.device) -> dict[str, Any]:
    """How the energy of a trial that has a device to itself is found here: an account of a few seconds of it."""
    with machine.meter(device, os.cpu_count() or 1, 1.0) as meter:
        began = time.monotonic()
        meter.start()
        pace.await_sample(meter)
        return meter.energy(began, time.monotonic())


def data_sets() -> dict[str, str | None]:
    """Data set -> why it cannot be used, None where it is whole. Files are read and checked."""
    return {name: _missing(name, sources.data_dir()) for name in DATASETS}


def _missing(name: str, root: Path) -> str | None:
    try:
        DATASETS[name].read(root)
    except sources.DataError as error:
        return "; ".join(error.faults)
    except Exception as error:  # a user's own data set can raise anything
        return first_line(error)
    return None
