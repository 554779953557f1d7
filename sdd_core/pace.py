"""How fast levels of a trial are trained here: a few timed steps of the real thing, in a few seconds.

What is timed are steps of `training.train` on a part of the trial's own data, with the masks of a first
pruning, and passes of `training.evaluate`. Each is repeated for several turns; the fastest and the slowest
turn are the range that is reported. The result is a rate in real operations a second (`cost`), so it holds
for any level of the network: for another number of epochs, and for a level with a teacher, whose forward
passes are taken to run at the same rate. The power while the steps run is what `energy.Meter` says of it.

The rate leaves out the store's writes, the setting up of a level and other work on the same machine: trials
that run side by side are taken to be as fast as one trial alone on its threads. Nothing is kept.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import nn

from sdd_core import cost, energy, machine, models, training
from sdd_core.data import splits
from sdd_core.spec import TrialSpec
from sdd_core.training import pruning

_METER_SECONDS: Final = 4.0  # that a meter may take to import its tracker and take a first sample
_PROBE: Final = 8  # images in the first look at how slow a step is
_BATCHES_ON_GPU: Final = 16  # in a turn on a GPU, where a step is captured after its third batch


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a trial's levels are trained on a device: real operations in 10^12 a second."""

    slowest: float
    fastest: float
    source: str
    """Where the figures come from."""
    watts: float | None
    """The trial's part of the power, without PUE; None when it is not known."""
    watts_from: str
    """Where the power comes from, or why there is none."""

    def kwh(self, seconds: float) -> float | None:
        """Energy of so long a time, PUE included; None when the power is not known."""
        return None if self.watts is None else self.watts * seconds * energy.PUE / 3.6e6

    def seconds(self, pflop_real: float) -> tuple[float, float]:
        """Least and largest time for so many real operations (10^15)."""
        return pflop_real * 1e3 / self.fastest, pflop_real * 1e3 / self.slowest


def calibrate(
    spec: TrialSpec,
    *,
    device: str = "cpu",
    threads: int = 1,
    gpu_share: float = 1.0,
    turns: int = 5,
    seconds: float = 2.0,
) -> Pace:
    """The pace of a trial's levels on this machine, from `turns` turns that take about `seconds` together.

    `threads` is set for this process while it lasts; `gpu_share` is the trial's part of the GPU's power.
    Raises `sources.DataError` when the trial's data are not there, and `spec.SpecError` for what cannot
    run on the device.
    """
    place, alone = torch.device(device), spec.replace(alpha=0.0, teacher=None)
    with machine.cpu_arithmetic(threads), machine.meter(place, threads, gpu_share) as meter:
        meter.start()
        data = splits.load(alone, place)
        model = models.build(alone, data.image_shape, data.classes).to(place)
        await_sample(meter)
        began = time.monotonic()
        trained, evaluated = _times(model, data.train, alone, turns, seconds)
        power = meter.energy(began, time.monotonic())
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"{threads} CPU thread{'s'[: threads != 1]}"
    return Pace(
        slowest=_rate(alone, data, max(trained), max(evaluated)),
        fastest=_rate(alone, data, min(trained), min(evaluated)),
        source=f"calibration: {turns} turns on {name} of this machine",
        watts=power["power_w"],
        watts_from=power["method"] or power["reason"],
    )


def _rate(spec: TrialSpec, data: splits.Data, training_s: float, evaluation_s: float) -> float:
    """Real operations in 10^12 a second of a level, from the seconds that an image takes in an epoch and in a pass."""
    sizes = cost.Sizes(train=len(data.train), val=len(data.val) if data.val else 0, test=len(data.test))
    paid = cost.level_cost(spec, 0, sizes)
    level_s = training_s * sizes.train * spec.epochs + evaluation_s * (sizes.train + sizes.val + sizes.test)
    return (paid.pflop_real + paid.pflop_real_evaluation) * 1e3 / level_s


def await_sample(meter: energy.Meter) -> None:
    """Wait until the meter has said what it can measure, a few seconds at most."""
    until = time.monotonic() + _METER_SECONDS
    while time.monotonic() < until:
        meter.energy(0.0, 0.0)
        if all(device.samples or device.reason for device in meter.devices.values()):
            return
        time.sleep(0.05)


def _times(
    model: nn.Module, split: splits.Split, spec: TrialSpec, turns: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Seconds an image takes in each turn: in an epoch's training, and in an evaluation."""
    device = split.images.device
    masks = pruning.prune(
        pruning.prunable_weights(model), pruning.dense_masks(model), spec.prune_fraction, "global_magnitude"
    )
    if device.type == "cuda":
        images, epochs = min(len(split), _BATCHES_ON_GPU * spec.batch_size), 1
    else:
        each = _probe(model, masks, split, spec, _PROBE)
        if each * spec.batch_size < seconds / (turns + 1):  # a whole batch takes less time an image
            each = _probe(model, masks, split, spec, spec.batch_size)
        wanted = max(_PROBE, round(seconds / (turns + 1) / each))
        images = min(len(split), wanted)
        if images > spec.batch_size:  # whole batches: the last of a part is a larger share than that of an epoch
            images -= images % spec.batch_size
        epochs = max(1, wanted // images)
    part = _part(split, images)
    ticks = _epoch_seconds(model, masks, part, spec, turns * epochs)
    trained = [sum(ticks[turn * epochs : (turn + 1) * epochs]) / epochs / images for turn in range(turns)]
    return trained, [_evaluation_seconds(model, part) / images for _ in range(turns + 1)][1:]


def _probe(model: nn.Module, masks: pruning.Masks, split: splits.Split, spec: TrialSpec, images: int) -> float:
    """Seconds an image takes in steps of so many images, as a first look."""
    part = _part(split, images)
    return min(_epoch_seconds(model, masks, part, spec, 2)) / len(part)


def _part(split: splits.Split, size: int) -> splits.Split:
    return replace(
        split, images=split.images[:size], labels=split.labels[:size], clean_labels=split.clean_labels[:size]
    )


def _epoch_seconds(
    model: nn.Module, masks: pruning.Masks, part: splits.Split, spec: TrialSpec, epochs: int
) -> Sequence[float]:
    """How long each of `epochs` epochs takes after one that is not counted, in which a step may be captured.

    The learning rate is 0: the arithmetic is that of any other, and no weight diverges.
    """
    stamps: list[float] = []

    def stamp(epoch: int) -> None:
        _wait_for(part.images.device)
        stamps.append(time.perf_counter())

    training.train(model, masks, part, spec, 1, [(0, 0.0)] * (epochs + 1), stamp)
    return [after - before for before, after in itertools.pairwise(stamps)]


def _evaluation_seconds(model: nn.Module, part: splits.Split) -> float:
    began = time.perf_counter()
    training.evaluate(model, part, {"used": part.labels})
    _wait_for(part.images.device)
    return time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
