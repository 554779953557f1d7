"""What a training that does not fit into a GPU's memory says: what was needed, and what to set."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from sdd_core.spec import TrialSpec


class OutOfMemory(RuntimeError):
    """A training step does not fit into the device's memory. The message is one line for whoever runs it."""


@contextlib.contextmanager
def told(spec: TrialSpec, device: torch.device) -> Iterator[None]:
    """Raise `OutOfMemory` in the place of torch's error. Nothing is made smaller: the batch is the recipe's."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(message(spec, str(device), str(error), _memory(device))) from None


def message(spec: TrialSpec, device: str, error: str, memory: tuple[int, int] | None) -> str:
    """The sentence about a trial that does not fit; `memory` is (free, total) in bytes, None when not known."""
    options = "".join(f" {name}={value}" for name, value in spec.model_options)
    asked = re.search(r"[Tt]ried to allocate ([\d.]+ [KMGT]?i?B)", error)
    facts = [
        f"could not allocate {asked.group(1)}" if asked else "how much was asked for is not known",
        "how much is free is not known" if memory is None else f"{_gib(memory[0])} of {_gib(memory[1])} free",
    ]
    return (
        f"out of memory on {device}: a training step of model {spec.model}{options} with batch_size {spec.batch_size} "
        f"in {spec.precision} does not fit ({', '.join(facts)}). Set a smaller --batch-size (another recipe), "
        "or let fewer trials share a GPU (a larger --gpus-per-trial)"
    )


def _memory(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.mem_get_info(device) if device.type == "cuda" and torch.cuda.is_available() else None


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
