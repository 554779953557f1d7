"""Whether a fast way of running a training step does what the plain way does.

A step is captured as a CUDA graph, laid out channels-last, and updated by kernels that torch keeps private.
Each of these is right on the machines where it was tried, and may be wrong on another. So each is used only
after one run of it has left what the plain way leaves from the same state, and `judged` makes that
comparison for all of them. For each kind of tensor (parameters, running means, momentum and so on), with
norms over all tensors of the kind,

    |fast - plain| <= tolerance |plain - before| + 1e-6 |plain|

What is wrong with a step (a stale batch, a mask or a running statistic left out) is as large as the step's
own change, and rounding is far below it. The random state must be the same afterwards, too: then dropout
draws from the same stream, and nothing random was frozen into the fast way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

EXACT: Final = 0.01
"""Tolerance for the same kernels in float32: another order of a sum changes far less."""
ROUNDED: Final = 0.1
"""Tolerance for the same kernels with products of bfloat16 or TF32, in which a gradient has two or three digits."""
OTHER_KERNELS: Final = 0.6
"""Tolerance for other kernels in bfloat16 or TF32. Where a unit is near 0, or two are nearly the largest of a pool,
rounding decides which way a gradient goes: 0.15 to 0.3 was found for VGG and ResNet-18 on a CPU, batches of 16 and 64.
A gradient that is 0 or of another batch is off by 1 and more."""
_ROUNDING: Final = 1e-6  # of a float32 tensor's own size

Tensors = Mapping[str, Sequence[Tensor]]
"""Tensors by kind."""
Run = Callable[[], None]

_SAID: Final = ("captured", "channels_last")  # the ways of a GPU alone
_LOG: Final = logging.getLogger(__name__)
_warned: Final[set[str]] = set()


class Saved(NamedTuple):
    """A copy of a state: tensors by kind, and the states of the generators."""

    tensors: Tensors
    random: tuple[Tensor, ...]


class State:
    """What a step reads and changes on a device: tensors, by kind, and the generators of dropout.

    `tensors` is asked anew at each use, because a step may make its tensors when it first runs. The
    gradients of `parameters` are no part of the state between two steps: `restore` removes them.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], tensors: Callable[[], Tensors], device: torch.device
    ) -> None:
        self._parameters, self._tensors, self._device = list(parameters), tensors, device

    def now(self) -> Saved:
        """The state itself, not a copy of its tensors."""
        on_gpu = self._device.type == "cuda"
        random = (torch.get_rng_state(), *([torch.cuda.get_rng_state(self._device)] if on_gpu else []))
        return Saved({kind: [t.detach() for t in tensors] for kind, tensors in self._tensors().items()}, random)

    def save(self) -> Saved:
        """A copy of the state."""
        now = self.now()
        return now._replace(tensors={kind: [t.clone() for t in tensors] for kind, tensors in now.tensors.items()})

    def restore(self, saved: Saved) -> None:
        """Make the state that of a copy, in place; a tensor that did not exist then becomes 0."""
        for parameter in self._parameters:
            parameter.grad = None
        for kind, tensors in self.now().tensors.items():
            held = saved.tensors.get(kind) or [torch.zeros_like(t) for t in tensors]
            for tensor, value in zip(tensors, held, strict=True):
                tensor.copy_(value)
        torch.set_rng_state(saved.random[0])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(saved.random[1], self._device)


def of_model(model: nn.Module) -> Tensors:
    """A network's parameters and buffers, the buffers by the last part of their names."""
    kinds: dict[str, list[Tensor]] = {"parameters": list(model.parameters())}
    for name, buffer in model.named_buffers():
        kinds.setdefault(name.rpartition(".")[2], []).append(buffer)
    return kinds


def gradients_of(parameters: Iterable[nn.Parameter]) -> Tensors:
    """The gradients of parameters as a kind of tensor, 0 where there is none."""
    return {"gradients": [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]}


def judged(prepare: Callable[[], Run], plain: Run, state: State, tolerance: float) -> str | None:
    """Why a fast way cannot be trusted; None when it agrees with the plain one.

    `prepare` gives what runs the fast way. That and `plain` start from the present state, and what
    `plain` leaves is what stays: so whatever the fast way did, training goes on as if it had not been.
    """
    before, after, reason = state.save(), None, None
    try:
        fast = prepare()
        state.restore(before)
        fast()
        after = state.save()
    except Exception as error:  # whatever a library raises here is why its fast way is not used
        reason = first_line(error)
    state.restore(before)
    plain()
    return reason if after is None else difference(before, after, state.now(), tolerance)


def difference(before: Saved, fast: Saved, plain: Saved, tolerance: float) -> str | None:
    """Where two ways from one state come to different ends, in words; None when they agree."""
    for kind, tensors in plain.tensors.items():
        held = before.tensors.get(kind) or [torch.zeros_like(t) for t in tensors]
        apart = _apart(fast.tensors[kind], tensors)
        change, size = _apart(held, tensors), _norm(tensors)
        if apart != 0 and not apart <= tolerance * change + _ROUNDING * size:
            return f"{kind} are {apart:.2g} apart after a step that changes them by {change:.2g}"
    if not all(map(torch.equal, fast.random, plain.random)):
        return "it draws other random numbers"
    return None


def first_line(error: BaseException) -> str:
    """An error's class and the beginning of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0][:200]}" if said else type(error).__name__


def _apart(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Norm of the difference; the same infinity, or NaN in both, is no difference."""
    parts = []
    for one, other in zip(some, others, strict=True):
        a, b = one.float(), other.float()
        parts.append(torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, a - b))
    return _norm(parts)


def _norm(tensors: Sequence[Tensor]) -> float:
    norms = [torch.linalg.vector_norm(tensor.float()) for tensor in tensors]
    return float(torch.stack(norms).norm()) if norms else 0.0


# --- what came of it ------------------------------------------------------------------------


@dataclass
class Found:
    """Which fast ways the steps of a training took, and why not the others."""

    ways: dict[str, str | None] = field(default_factory=dict)
    """Way -> why it was not used, None where it was."""

    def use(self, way: str, reason: str | None) -> bool:
        """Note whether a way is used: it is when there is no reason against it. A warning says once why not."""
        self.ways[way] = reason
        if reason is not None and way not in _warned:
            _warned.add(way)
            _LOG.warning("a fast way of training, %r, is not used, the plain one is: %s", way, reason)
        return reason is None

    def as_record(self) -> dict[str, Any] | None:
        """What a record holds under `measured["step"]`, None where there is nothing to say.

        Capture and layout are said where they were tried, which is on a GPU; of the rest what was not used.
        """
        against = {way: reason for way, reason in self.ways.items() if reason is not None}
        said: dict[str, Any] = {way: way not in against for way in self.ways if way in _SAID or way in against}
        if against:
            said["reason"] = "; ".join(f"{way}: {reason}" for way, reason in against.items())
        return said or None
