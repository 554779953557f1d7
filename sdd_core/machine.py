"""The machine that levels are trained on: setting this process up for it, and what a record says about it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sdd_core.energy import Meter
from sdd_core.record import environment_class
from sdd_core.training import steps


@contextlib.contextmanager
def cpu_arithmetic(threads: int) -> Iterator[None]:
    """Compute with so many CPU threads and with denormal numbers taken as 0, and set both back at the end.

    Strong weight decay drives weights into the range of denormal numbers, where a CPU is many times slower.
    Both are states of the whole process, and other code's arithmetic is not ours to change.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def device_faults(device: str | None) -> list[str]:
    """Why nothing can be computed on a device of this name; None is whichever there is."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return [f"device {device!r}: {str(error).splitlines()[0]}"]
    return []


def meter(device: torch.device, threads: int, gpu_share: float) -> contextlib.AbstractContextManager[Meter]:
    """A meter of the energy that a trial on `device` uses, not started yet; it is closed at the end."""
    return contextlib.closing(Meter(threads=threads, gpu=steps.gpu_uuid(device), gpu_share=gpu_share))


def environment(device_type: str, threads: int) -> str:
    """The environment class of a training in this process on a kind of device ("cpu", "cuda")."""
    return environment_class(device_type, torch.__version__, threads)


def circumstances(device: torch.device) -> dict[str, Any]:
    """What a record says beside its result: where, when and with what it was made."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "process": os.getpid(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "finished_at": time.time(),
    }
