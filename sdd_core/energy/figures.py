"""From samples of the power to the energy of a level, and from energy to CO2."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

PUE: Final = 1.58
"""Power usage effectiveness: the world's data centres in 2023 (Uptime Institute), as in carbontracker 2.4."""
WORLD_INTENSITY: Final = 445.0
"""gCO2e a kWh: the world's electricity in 2024 (IEA, Electricity 2025), as in carbontracker 2.4."""
PATIENCE: Final = 30.0
"""Seconds of silence after which a probe is given up, and a level that lasts so long no longer counts as measured."""

_READS: Final = {"cpu": "RAPL", "gpu": "NVML"}  # what carbontracker reads the power of each kind of device from


def grams(kwh: float | None, intensity: float = WORLD_INTENSITY) -> float | None:
    """CO2-equivalent of an energy in grams, for an intensity in gCO2e/kWh; None for an energy that is not known."""
    return None if kwh is None else kwh * intensity


def describe(kwh: float | None, source: str, reason: str | None, intensity: float = WORLD_INTENSITY) -> str:
    """An energy and its CO2 in words, with where it comes from: "0.012 kWh (estimated), 5.3 gCO2e at 445 g/kWh"."""
    if kwh is None:
        return f"energy unknown ({reason})" if reason is not None else "energy unknown"
    return f"{kwh:.3g} kWh ({source}), {kwh * intensity:.3g} gCO2e at {intensity:g} g/kWh"


class Sample(NamedTuple):
    """A reading of a whole device."""

    at: float
    """`time.monotonic()`."""
    watts: float
    others: int = 0
    """How many processes beside the trial's computed on the device."""


class Power(NamedTuple):
    """The power of a whole device."""

    watts: float | None
    measured: bool
    how: str
    """What the power comes from, or why it is not known."""


@dataclass
class Device:
    """What the meter knows of one device."""

    share: float
    """The part of its power that is the trial's, in (0, 1]."""
    name: str | None = None
    watts: float | None = None
    """Its power at full load, where that is known without measuring."""
    watts_from: str = "its power at full load is not known"
    """Who states the power at full load, or that nobody does."""
    reason: str | None = None
    """Why the device is not measured."""
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
    """What `account` answers where there is no figure."""
    empty = dict.fromkeys(("kwh", "source", "method", "device", "power_w", "pue", "share"))
    return empty | {"source": "none", "device": device, "reason": reason}
