"""Energy of a level in kWh, measured or estimated, and where the figure comes from.

carbontracker reads the power: RAPL for the CPU packages, NVML for a GPU. It does so in a process of
its own, since its faults end the process that they happen in. That process starts in the background,
writes a line a second to a file and ends with its parent; a trial reads what is there when a level
ends and never waits. What the process says, when it raises, exits, hangs or reports 0 W, is an
answer too: an estimate, or no figure and the reason.

    kWh = mean power x share x PUE x seconds

* The share of the CPU packages is the trial's threads over the machine's CPUs, that of a GPU what the
  trial was given of it: trials side by side do not count one device twice. A share is an estimate.
* A level without a sample of its own, shorter than a second, gets the trial's mean power so far: an
  estimate. Before the first sample, or where nothing is measured, the power is the TDP of a CPU that
  carbontracker's table knows by its exact name, at full load, or what `SDD_CPU_WATTS` (all CPUs of this
  machine) and `SDD_GPU_WATTS` (one GPU) say; else there is no figure. In a virtual machine the table
  does not help: how much of the package it has is not known.
* PUE, the data centre's overhead, is carbontracker's.

CO2 is energy times the grid's intensity, computed when it is shown (`grams`). Nothing here asks the
network. The module needs neither torch nor carbontracker to be imported.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Protocol

PUE: Final = 1.58
"""Power usage effectiveness: the world's data centres in 2023 (Uptime Institute), as in carbontracker 2.4."""
WORLD_INTENSITY: Final = 445.0
"""gCO2e a kWh: the world's electricity in 2024 (IEA, Electricity 2025), as in carbontracker 2.4."""

INTERVAL: Final = 1.0  # seconds between samples; RAPL's own measurement takes as long
PATIENCE: Final = 30.0  # seconds after which a meter that says nothing is given up
TRACKER: Final = "carbontracker"
_READS: Final = {"cpu": "RAPL", "gpu": "NVML"}  # what carbontracker reads each from
_STATED: Final = {"cpu": "SDD_CPU_WATTS", "gpu": "SDD_GPU_WATTS"}


def grams(kwh: float | None, intensity: float = WORLD_INTENSITY) -> float | None:
    """CO2-equivalent of an energy in grams, for an intensity in gCO2e/kWh; None for an energy that is not known."""
    return None if kwh is None else kwh * intensity


def describe(kwh: float | None, source: str, reason: str | None, intensity: float = WORLD_INTENSITY) -> str:
    """An energy and its CO2 in words, with where it comes from: "0.012 kWh (estimated), 5.3 gCO2e at 445 g/kWh"."""
    if kwh is None:
        return f"energy unknown ({reason})" if reason is not None else "energy unknown"
    return f"{kwh:.3g} kWh ({source}), {kwh * intensity:.3g} gCO2e at {intensity:g} g/kWh"


# --- from samples to a figure ---------------------------------------------------------------


class Sample(NamedTuple):
    """A reading of a whole device."""

    at: float
    """`time.monotonic()`."""
    watts: float
    others: int = 0
    """Processes beside the trial's that computed on it."""


class Power(NamedTuple):
    """Of a whole device."""

    watts: float | None
    measured: bool
    how: str
    """What it comes from, or why there is none."""


@dataclass
class Device:
    """What the meter knows of one device."""

    share: float
    """Of its power that is the trial's, in (0, 1]."""
    name: str | None = None
    watts: float | None = None
    """Full load, when it is known without measuring."""
    watts_from: str = "its power at full load is not known"
    """Who says so, or that nobody does."""
    reason: str | None = None
    """Why it is not measured."""
    samples: list[Sample] = field(default_factory=list)

    def power(self, instrument: str, began: float, ended: float) -> Power:
        """Mean power of the whole device between two instants, by the best means there is."""
        sound = [sample for sample in self.samples if math.isfinite(sample.watts) and sample.watts > 0]
        within = [sample for sample in sound if began <= sample.at <= ended]
        if within:
            silent = ended - within[-1].at
            doubts = [
                *(["a share of the device"] if self.share < 1 else []),
                *(["not alone on the device"] if any(sample.others > 0 for sample in within) else []),
                *([f"no sample in the last {silent:.0f} s"] if silent > PATIENCE else []),
            ]
            return Power(_mean(within), not doubts, ", ".join([instrument, *doubts]))
        if sound:
            return Power(_mean(sound), False, f"{instrument}, the trial's mean power: no sample within the level")
        why = self.reason or (f"{instrument} reports 0 W" if self.samples else "no sample yet")
        if self.watts is not None:
            return Power(self.watts, False, f"{self.watts_from} at full load ({why})")
        return Power(None, False, f"{why}, and {self.watts_from}")


def _mean(samples: Sequence[Sample]) -> float:
    return statistics.fmean(sample.watts for sample in samples)


def account(devices: dict[str, Device], began: float, ended: float) -> dict[str, Any]:
    """The energy between two instants of `time.monotonic()`, as a record holds it under `measured["energy"]`.

    The first device is the one that trains; without a figure for it there is none. Keys:

    kwh      energy with PUE, None when not known
    source   measured, estimated or none
    method   what the power comes from, by device
    device   whose power it is
    power_w  mean power that is the trial's, all devices together, without PUE
    pue      what it was multiplied with
    share    the trial's share of the first device
    reason   why there is no figure, or what is not in it
    """
    powers = {kind: device.power(f"carbontracker ({_READS[kind]})", began, ended) for kind, device in devices.items()}
    main = next(iter(devices))
    if powers[main].watts is None:
        return nothing(f"{main.upper()}: {powers[main].how}", devices[main].name)
    known = {kind: power for kind, power in powers.items() if power.watts is not None}
    watts = sum(devices[kind].share * (power.watts or 0.0) for kind, power in known.items())
    left_out = [f"without the {kind.upper()}: {powers[kind].how}" for kind in devices if kind not in known]
    return {
        "kwh": watts * (ended - began) * PUE / 3.6e6,
        "source": "measured" if all(power.measured for power in known.values()) else "estimated",
        "method": "; ".join(f"{kind.upper()}: {power.how}" for kind, power in known.items()),
        "device": " + ".join(devices[kind].name or f"unknown {kind.upper()}" for kind in known),
        "power_w": watts,
        "pue": PUE,
        "share": devices[main].share,
        "reason": "; ".join(left_out) or None,
    }


def nothing(reason: str, device: str | None = None) -> dict[str, Any]:
    """The answer of `account` where there is no figure."""
    empty = dict.fromkeys(("kwh", "source", "method", "device", "power_w", "pue", "share"))
    return empty | {"source": "none", "device": device, "reason": reason}


# --- the trial's side -----------------------------------------------------------------------


class Meter:
    """The power of a trial's devices, from a process that `start` starts and `close` ends.

    `threads` are the trial's on the CPU. `gpu` is the UUID of the GPU that it trains on, None on a CPU,
    and `gpu_share` its part of it in (0, 1]. `tracker` is carbontracker, or `module:function` of another
    one: a function of (cpu or gpu, the GPU's UUID) that gives a `Handler`. No method raises or waits.
    """

    def __init__(
        self, *, threads: int, gpu: str | None = None, gpu_share: float = 1.0, tracker: str | None = None
    ) -> None:
        shares = {"gpu": gpu_share} if gpu is not None else {}
        shares["cpu"] = min(1.0, threads / (os.cpu_count() or threads))
        self.devices = {kind: Device(share=share, **_known(kind)) for kind, share in shares.items()}
        # -P: this file's folder holds modules whose names others may have, too.
        self._command = [sys.executable, "-P", __file__, tracker or TRACKER, gpu or ""]
        self._child: subprocess.Popen[bytes] | None = None
        self._file: IO[bytes] | None = None
        self._read = 0
        self._heard = math.inf

    def start(self) -> None:
        """Start the meter's process, at the first call; it gets ready while the trial goes on."""
        if self._file is not None:
            return
        self._heard = time.monotonic()
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=self._file,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
                start_new_session=True,  # Ctrl-C is for the trial
            )
        except OSError as error:
            self._give_up(f"the meter did not start: {error}")

    def energy(self, began: float, ended: float) -> dict[str, Any]:
        """`account` of what the meter has said by now."""
        status = self._child.poll() if self._child is not None else None
        try:
            self._listen()
        except Exception as error:  # whatever it is, it is no reason to end a trial
            self._give_up(f"the meter cannot be read ({type(error).__name__}: {error})")
        if self._child is not None:
            if status is not None:
                self._give_up(f"the meter ended with status {status}")
            elif time.monotonic() - self._heard > PATIENCE:
                self._give_up(f"the meter said nothing for {PATIENCE:g} s")
        return account(self.devices, began, ended)

    def close(self) -> None:
        """End the meter's process."""
        self._give_up("the meter was closed")
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, reason: str) -> None:
        for device in self.devices.values():
            device.reason = device.reason or reason
        if self._child is not None:
            self._child.kill()
            # A process that even a kill does not end at once is left to the system.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=0.1)
            if self._child.stdin is not None:
                self._child.stdin.close()
            self._child = None

    def _listen(self) -> None:
        """Take in the whole lines that the meter has written since."""
        if self._file is None:
            return
        text = os.pread(self._file.fileno(), 1 << 24, self._read)  # the file's own position is the writer's
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            self._heard = time.monotonic()
            said = json.loads(line)
            device = self.devices[said.pop("kind")]
            if "sample" in said:
                device.samples.append(Sample(*said.pop("sample")))
            for name, value in said.items():
                setattr(device, name, value)


# --- the meter's side -----------------------------------------------------------------------


class Handler(Protocol):
    """What measures a device: carbontracker's handlers have these methods."""

    def devices(self) -> list[str]:
        """Names of what is measured."""

    def power_usage(self) -> list[float]:
        """Power of each in W."""


def _serve(tracker: str, gpu: str) -> None:
    """Describe the devices, then say their power every second until the parent ends."""
    channel = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # trackers print

    def say(kind: str, **facts: Any) -> None:
        channel.write(json.dumps({"kind": kind} | facts) + "\n")
        channel.flush()

    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    kinds = ["gpu", "cpu"] if gpu else ["cpu"]
    make = _carbontracker if tracker == TRACKER else _named(tracker)
    handlers: dict[str, Handler] = {}
    for kind in kinds:
        try:
            handlers[kind] = make(kind, gpu)
            names = handlers[kind].devices()
        except Exception as error:  # whatever a tracker raises is why a device is not measured
            handlers.pop(kind, None)
            say(kind, reason=_told(error))
            continue
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
            others = _others(gpu) if kind == "gpu" and tracker == TRACKER else 0
            say(kind, sample=(time.monotonic(), watts, others))
        time.sleep(max(0.0, INTERVAL - (time.monotonic() - began)))


class _NotMeasured(Exception):
    """A device that cannot be measured, for a reason that is no fault."""


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, _NotMeasured) else f"{type(error).__name__}: {error}"


def _end_with_the_parent() -> None:
    os.read(0, 1)  # returns when the parent's end of the pipe is gone, however it ended
    os._exit(0)


def _named(name: str) -> Callable[[str, str], Handler]:
    module, _, function = name.partition(":")
    found: Callable[[str, str], Handler] = getattr(importlib.import_module(module), function)
    return found


def _carbontracker(kind: str, gpu: str) -> Handler:
    """carbontracker's handler of a kind of device. Raises where it would read nothing, or more than the trial's."""
    if kind == "cpu":
        from carbontracker.components.cpu.intel import IntelCPU

        packages: Handler = _ready(IntelCPU(pids=[], devices_by_pid=False), "RAPL is not there")
        if not packages.devices():
            raise _NotMeasured("RAPL names no CPU package")
        return packages
    import pynvml
    from carbontracker.components.gpu.nvidia import NvidiaGPU

    if gpu.startswith("MIG"):
        raise _NotMeasured("NVML gives the power of a whole GPU, and the trial has a MIG part of it")
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(gpu)
    with contextlib.suppress(pynvml.NVMLError_NotSupported):
        if pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
            raise _NotMeasured("NVML gives the power of a whole GPU, and this one is divided by MIG")
    # carbontracker takes indices from here, and all GPUs when it finds UUIDs.
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


# --- known devices --------------------------------------------------------------------------


def _known(kind: str) -> dict[str, Any]:
    """A device's name, and its power at full load where that is known without measuring."""
    variable = _STATED[kind]
    cpuinfo = Path("/proc/cpuinfo").read_text() if kind == "cpu" and Path("/proc/cpuinfo").exists() else ""
    facts: dict[str, Any] = {"watts_from": f"its power at full load is not known ({variable} may say it)"}
    if kind == "cpu":
        facts["name"] = cpu_name(cpuinfo)
    stated = os.environ.get(variable)
    if stated is not None:
        try:
            watts = float(stated)
        except ValueError:
            watts = math.nan
        if not (math.isfinite(watts) and watts > 0):
            return facts | {"watts_from": f"{variable} {stated!r} must be a number above 0"}
        return facts | {"watts": watts, "watts_from": variable}
    if kind == "cpu":
        watts_known = full_load(cpuinfo, _table())
        if watts_known is not None:
            facts |= {"watts": watts_known, "watts_from": "carbontracker's TDP"}
    return facts


def cpu_name(cpuinfo: str) -> str:
    """The CPU's name in the text of /proc/cpuinfo, as tables write it; the platform's where it has none."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    name = found.group(1) if found else platform.processor() or platform.machine()
    for noise in (r"\((R|TM|r|tm)\)", r"@.*$", r"\bCPU\b", r"\b\d+-Core Processor\b", r"\bProcessor\b", r"^\d+th Gen "):
        name = re.sub(noise, " ", name)
    return " ".join(name.split())


def full_load(cpuinfo: str, table: Sequence[tuple[str, float]]) -> float | None:
    """TDP of all of a machine's CPU packages in W, or None: an unknown name, or a part of a package (a virtual one)."""
    virtual = re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None
    watts = dict(table).get(cpu_name(cpuinfo))
    if watts is None or virtual:
        return None
    packages = set(re.findall(r"^physical id\s*:\s*(\d+)$", cpuinfo, re.MULTILINE))
    return watts * max(1, len(packages))


def _table() -> list[tuple[str, float]]:
    """carbontracker's (name, TDP in W) of CPUs; empty when it is not installed."""
    found = importlib.util.find_spec("carbontracker")
    places = found.submodule_search_locations if found is not None else None
    rows: list[tuple[str, float]] = []
    for place in places or []:
        for line in (Path(place) / "data" / "cpu_power.csv").read_text().splitlines()[1:]:
            name, _, watts = line.rpartition(",")
            with contextlib.suppress(ValueError):  # a few are ranges
                rows.append((name.strip('"'), float(watts)))
    return rows


if __name__ == "__main__":
    _serve(*sys.argv[1:])
