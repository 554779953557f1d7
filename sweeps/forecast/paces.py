"""How fast each trial's levels are trained: as the user states it, or as a few timed steps on this machine say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from sdd_core.pace import Pace, calibrate
from sdd_core.spec import TrialSpec
from sdd_core.words import span
from sweeps.flags import Common, gains_from_gpu

PaceOf = Callable[[TrialSpec], Pace | None]


class Paces:
    """The pace of each trial's device: the stated one, or timed on this machine once for each network and batch."""

    def __init__(self, common: Common, *, turns: int, seconds: float) -> None:
        self.common, self.turns, self.seconds = common, turns, seconds
        self.notes: list[str] = []
        self._known: dict[tuple[object, ...], Pace | None] = {}

    def __call__(self, spec: TrialSpec) -> Pace | None:
        """The pace of a trial; None, with the reason in `notes`, where there is none."""
        where = (spec.dataset, spec.model, spec.model_options, spec.augmentation)
        how = (spec.optimizer, spec.batch_size, spec.precision)
        if (where, how) not in self._known:
            self._known[where, how] = found = self._find(spec)
            if found is not None:
                rate = span({"low": found.slowest, "high": found.fastest}, "{:.3g}")
                watts = "no power is known" if found.watts is None else f"{found.watts:.3g} W"
                self._note(f"{spec.model}: {rate} real TFLOP/s ({found.source}); {watts} ({found.watts_from})")
        return self._known[where, how]

    def _find(self, spec: TrialSpec) -> Pace | None:
        given = self.common.cost
        if given.rate is not None:
            power = "--device-watts" if given.watts is not None else "--device-watts was not given"
            return Pace(
                slowest=given.rate[0], fastest=given.rate[1], source="stated", watts=given.watts, watts_from=power
            )
        gpus = self.common.gpus if self.common.gpus is not None else float(gains_from_gpu(spec))
        here = torch.cuda.is_available()
        if gpus > 0 and not here and self.common.gpus is not None:
            self._note(f"{spec.model}: asks for a GPU and there is none here to time it on; give --device-rate")
            return None
        options: dict[str, Any] = {"threads": self.common.threads, "turns": self.turns, "seconds": self.seconds}
        try:
            if not (gpus > 0 and here):
                return calibrate(spec, **options)
            # In a process of its own, so that nothing of the GPU stays taken when the trials come.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as aside:
                return aside.submit(calibrate, spec, device="cuda", gpu_share=min(1.0, gpus), **options).result()
        except Exception as error:  # a full GPU, a killed process: a sweep runs without its prediction
            self._note(f"{spec.model}: could not be timed here ({type(error).__name__}: {error}); give --device-rate")
            return None

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
