"""The process that asks for the power: `python -P probe.py TRACKER GPU`, started by `meter.Meter`.

It writes JSON lines to its standard output: first what each device is called, or why it cannot be measured,
then its power every second. It ends when its standard input is closed, which is when its parent ends.

This file is run by its path. It imports nothing but the standard library, until it imports the tracker.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

INTERVAL: Final = 1.0
"""Seconds between two samples; RAPL's own measurement takes as long."""
CARBONTRACKER: Final = "carbontracker"


class Handler(Protocol):
    """What measures a device: carbontracker's handlers have these methods."""

    def devices(self) -> list[str]:
        """Names of what is measured."""

    def power_usage(self) -> list[float]:
        """Power of each in W."""


def serve(tracker: str, gpu: str) -> None:
    """Describe the devices, then write their power every second until the parent ends."""
    say = _own_channel()
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    make = carbontracker if tracker == CARBONTRACKER else _named(tracker)
    handlers: dict[str, Handler] = {}
    for kind in ["gpu", "cpu"] if gpu else ["cpu"]:
        try:
            handler = make(kind, gpu)
            names = handler.devices()
        except Exception as error:  # whatever a tracker raises is why a device is not measured
            say(kind, reason=_told(error))
            continue
        handlers[kind] = handler
        if kind == "gpu":  # RAPL's names are those of its counters
            say(kind, name=" + ".join(names))
    while handlers:
        began = time.monotonic()
        for kind, handler in list(handlers.items()):
            try:
                watts = float(sum(handler.power_usage()))
            except Exception as error:  # likewise
                del handlers[kind]
                say(kind, reason=_told(error))
                continue
            others = _others(gpu) if kind == "gpu" and tracker == CARBONTRACKER else 0
            say(kind, sample=(time.monotonic(), watts, others))
        time.sleep(max(0.0, INTERVAL - (time.monotonic() - began)))


def _own_channel() -> Callable[..., None]:
    """A function that writes facts of a kind of device as a line, where the standard output led until now.

    Trackers print, so the standard output itself leads nowhere from now on.
    """
    channel = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)

    def say(kind: str, **facts: Any) -> None:
        channel.write(json.dumps({"kind": kind} | facts) + "\n")
        channel.flush()

    return say


class _NotMeasured(Exception):
    """A device that cannot be measured, for a reason that is no fault."""


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, _NotMeasured) else f"{type(error).__name__}: {error}"


def _end_with_the_parent() -> None:
    os.read(0, 1)  # returns when the parent's end of the pipe is gone, however the parent ended
    os._exit(0)


def _named(name: str) -> Callable[[str, str], Handler]:
    module, _, function = name.partition(":")
    found: Callable[[str, str], Handler] = getattr(importlib.import_module(module), function)
    return found


def carbontracker(kind: str, gpu: str) -> Handler:
    """carbontracker's handler of a kind of device. Raises where it would read nothing, or more than the trial's."""
    if kind == "gpu":
        return _one_gpu(gpu)
    from carbontracker.components.cpu.intel import IntelCPU

    packages: Handler = _ready(IntelCPU(pids=[], devices_by_pid=False), "RAPL is not there")
    if not packages.devices():
        raise _NotMeasured("RAPL names no CPU package")
    return packages


def _one_gpu(uuid: str) -> Handler:
    """carbontracker's handler of one GPU alone."""
    import pynvml
    from carbontracker.components.gpu.nvidia import NvidiaGPU

    if uuid.startswith("MIG"):
        raise _NotMeasured("NVML gives the power of a whole GPU, and the trial has a MIG part of it")
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    with contextlib.suppress(pynvml.NVMLError_NotSupported):
        if pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            raise _NotMeasured("NVML gives the power of a whole GPU, and this one is divided by MIG")
    # carbontracker takes the indices of GPUs from this variable; where it finds UUIDs, it reads all GPUs.
    os.environ["CUDA_VISIBLE_DEVICES"] = str(pynvml.nvmlDeviceGetIndex(handle))
    whole: Handler = _ready(NvidiaGPU(pids=[], devices_by_pid=False), "NVML is not there")
    return whole


def _ready(handler: Any, otherwise: str) -> Any:
    if not handler.available():
        raise _NotMeasured(otherwise)
    handler.init()
    return handler


def _others(gpu: str) -> int:
    """How many processes beside one compute on a GPU, 0 when NVML does not say."""
    import pynvml

    try:
        return max(0, len(pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByUUID(gpu))) - 1)
    except pynvml.NVMLError:
        return 0


if __name__ == "__main__":
    serve(*sys.argv[1:])
