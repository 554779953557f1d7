"""A step that is captured as a CUDA graph and replayed, after it has shown that it does what the plain step does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from sdd_core.training.agreement import Found, Run, State, judged

Step = Callable[[Tensor, Tensor], None]
"""One training step on (inputs, targets) of a batch; the targets are those of `losses.gradient`."""

# Steps that run as they are before one is captured: cuDNN and cuBLAS set themselves up in them.
WARM_UP: Final = 3


def cuda_graph(step: Run) -> Run:
    """Capture `step`, which is not run, as a CUDA graph; returns what runs it."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph.replay


class Captured:
    """A step that is captured for full batches and replayed; others, as the last of an epoch, run as they are.

    The first full batches run as they are too, as training: nothing is undone. Then one is captured, replayed
    and compared with the plain step from the same state, whose result is what training goes on from. Where
    the capture fails or the results differ by more than `tolerance` (`agreement`), every step is the
    plain one and `found` has the reason. Dropout in a replay draws from the device's generator as it is then seeded.
    """

    def __init__(self, step: Step, batch_size: int, state: State, tolerance: float, found: Found) -> None:
        self._step, self._batch_size, self._found = step, batch_size, found
        self._state, self._tolerance = state, tolerance
        found.ways["captured"] = f"there were no {WARM_UP + 1} full batches"  # until one was tried
        self._warm = 0
        self._judged = False
        self._replay: Run | None = None
        self._inputs = self._targets = torch.empty(0)

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        full = len(targets) == self._batch_size
        if full and self._replay is not None:
            self._inputs.copy_(inputs)
            self._targets.copy_(targets)
            self._replay()
        elif full and not self._judged and self._warm == WARM_UP:
            self._judge(inputs, targets)
        else:
            self._warm += full and not self._judged
            self._step(inputs, targets)

    def _judge(self, inputs: Tensor, targets: Tensor) -> None:
        """Do this batch's step as it is, and find out whether the captured one does the same."""
        self._judged = True
        self._inputs, self._targets = inputs.clone(), targets.clone()

        def captured() -> Run:
            self._replay = cuda_graph(lambda: self._step(self._inputs, self._targets))
            return self._replay

        reason = judged(captured, lambda: self._step(inputs, targets), self._state, self._tolerance)
        if not self._found.use("captured", reason):
            self._replay = None
            self._inputs = self._targets = torch.empty(0)
