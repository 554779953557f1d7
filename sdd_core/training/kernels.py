"""The update and the backward pass of a step: torch's private functions, and public ones in their place.

`Optimizer.step`, torch's functional optimisers and `Tensor.backward` spend 80, 10 and 10 microseconds a call
on bookkeeping, on steps that take 700 for a small model. So a step calls the functions that they end in. Those
are private: a version of torch may lack them or change them. They are called from this file alone, and only
where they exist and agree with the public ones on a few small tensors, asked once per process and device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from sdd_core.training.agreement import Found, Run, State, Tensors, gradients_of, judged

_TOLERANCE: Final = 1e-4  # elementwise float32 arithmetic: only the last bits may differ

Backward = Callable[[Tensor, Tensor], None]
"""Adds the gradients that follow from (logits, their gradient) to the parameters' `grad`."""


class Update(Protocol):
    """`step` and `zero_grad` of an optimiser with one group of parameters."""

    def __call__(self) -> None:
        """Update the parameters with their gradients, and remove those."""

    def tensors(self) -> Tensors:
        """The optimiser's own state, by kind."""


def make_update(optimizer: torch.optim.Optimizer, found: Found | None = None) -> Update:
    """The update of a fresh SGD or AdamW: by the fused kernels where they can be trusted, else the optimiser's own.

    Which it is, is noted in `found`.
    """
    (group,) = optimizer.param_groups
    name = type(optimizer).__name__
    reason = update_fault(name, group["params"][0].device)
    return _FUSED[name](optimizer) if (found or Found()).use("fused", reason) else Public(optimizer)


def make_backward(device: torch.device, found: Found | None = None) -> Backward:
    """The backward pass on a device: the engine's own call where it can be trusted, else the public one."""
    reason = backward_fault(device)
    return engine_backward if (found or Found()).use("engine", reason) else public_backward


# --- the update -----------------------------------------------------------------------------


class _Fused:
    """What the fused updates share: the parameters and their values."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        (self.group,) = optimizer.param_groups
        self.parameters: list[nn.Parameter] = self.group["params"]
        self.values = [parameter.detach() for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    def __call__(self) -> None:
        self.apply([parameter.grad for parameter in self.parameters])  # type: ignore[misc]
        for parameter in self.parameters:
            parameter.grad = None

    def apply(self, grads: list[Tensor]) -> None:
        raise NotImplementedError


class FusedSGD(_Fused):
    """SGD through the kernel that `torch.optim.SGD` ends in. Momentum that starts at 0 is the same as a first step."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        assert not any(self.group[name] for name in ("dampening", "nesterov", "maximize"))
        self.buffers = [torch.zeros_like(v) for v in self.values] if self.group["momentum"] != 0 else []

    def tensors(self) -> Tensors:
        return {"momentum": self.buffers}

    def apply(self, grads: list[Tensor]) -> None:
        torch._fused_sgd_(
            self.values,
            grads,
            self.buffers,
            weight_decay=self.group["weight_decay"],
            momentum=self.group["momentum"],
            lr=self.group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )


class FusedAdamW(_Fused):
    """AdamW through the kernels that `torch.optim.AdamW` ends in."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer)
        assert not any(self.group[name] for name in ("amsgrad", "maximize"))
        self.averages = [torch.zeros_like(v) for v in self.values]
        self.squares = [torch.zeros_like(v) for v in self.values]
        self.counts = [torch.zeros((), dtype=torch.float32, device=v.device) for v in self.values]

    def tensors(self) -> Tensors:
        return {"averages": self.averages, "squares": self.squares, "counts": self.counts}

    def apply(self, grads: list[Tensor]) -> None:
        torch._foreach_add_(self.counts, 1)
        torch._fused_adamw_(
            self.values,
            grads,
            self.averages,
            self.squares,
            [],
            self.counts,
            amsgrad=False,
            beta1=self.group["betas"][0],
            beta2=self.group["betas"][1],
            lr=self.group["lr"],
            weight_decay=self.group["weight_decay"],
            eps=self.group["eps"],
            maximize=False,
        )


class Public:
    """An optimiser's own `step`, tensor by tensor: the plainest arithmetic that torch has for it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group["fused"] = group["foreach"] = False
        optimizer.zero_grad(set_to_none=True)

    def __call__(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> Tensors:
        kinds: dict[str, list[Tensor]] = {}
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    kinds.setdefault(name, []).append(value)
        return kinds


_FUSED: Final[dict[str, Callable[[torch.optim.Optimizer], Update]]] = {"SGD": FusedSGD, "AdamW": FusedAdamW}


@functools.cache
def update_fault(name: str, device: torch.device) -> str | None:
    """Why the fused update of SGD or AdamW cannot be trusted on a device; None when it agrees with the public one."""
    parameters = [nn.Parameter(torch.linspace(-1, 1, size, device=device)) for size in (7, 64)]
    options: dict[str, Any] = {"momentum": 0.9} if name == "SGD" else {}

    def three_steps(make: Callable[[torch.optim.Optimizer], Update], rate: float | Tensor) -> Run:
        def run() -> None:
            optimizer = getattr(torch.optim, name)(parameters, lr=0.1, weight_decay=0.1, **options)
            update = make(optimizer)
            optimizer.param_groups[0]["lr"] = rate
            for turn in range(3):
                for parameter in parameters:
                    parameter.grad = torch.linspace(turn - 1.5, 1, parameter.numel(), device=device)
                update()

        return run

    def fused() -> Run:  # a captured step has its rate in the device's memory
        return three_steps(_FUSED[name], torch.tensor(0.1, device=device) if device.type == "cuda" else 0.1)

    state = State(parameters, lambda: {"parameters": parameters}, device)
    return judged(fused, three_steps(Public, 0.1), state, _TOLERANCE)


# --- the backward pass ----------------------------------------------------------------------


def engine_backward(logits: Tensor, gradient: Tensor) -> None:
    """`logits.backward(gradient)` without its checks of what it is given, which take longer than the loss."""
    torch.autograd.Variable._execution_engine.run_backward(
        (logits,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def public_backward(logits: Tensor, gradient: Tensor) -> None:
    """The documented way."""
    logits.backward(gradient)


@functools.cache
def backward_fault(device: torch.device) -> str | None:
    """Why the engine's own call cannot be trusted on a device; None when it agrees with the public one."""
    weight = nn.Parameter(torch.linspace(-1, 1, 12, device=device))
    gradient = torch.linspace(0.5, 2, 12, device=device)

    def once(backward: Backward) -> Run:
        return lambda: backward(weight * weight, gradient)

    state = State([weight], lambda: gradients_of([weight]), device)
    return judged(lambda: once(engine_backward), once(public_backward), state, _TOLERANCE)
