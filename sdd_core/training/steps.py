"""How one training step runs on a device: precision, layout, fused update, CUDA-graph capture.

`step_plan` decides, from the device, the networks and the spec alone. The precision is the spec's; what
the device decides (layout, capture, cuDNN's choice of algorithms) does not change what is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdd_core.spec import SpecError, TrialSpec
from sdd_core.training import losses

Step = Callable[[Tensor, Tensor], None]
"""One training step on (inputs, targets) of a batch; the targets are those of `losses.gradient`."""

_TENSOR_CORES: Final = (7, 0)
_TF32: Final = (8, 0)
# Steps that run as they are before one is captured: cuDNN and cuBLAS set themselves up in them.
_WARM_UP: Final = 3


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """How a training step runs on a device."""

    autocast: torch.dtype | None = None
    """Type of matrix products and convolutions; weights, their update and the loss stay float32."""

    tf32: bool = False
    """Whether float32 products may round their factors to TF32."""

    channels_last: bool = False
    """Whether images and convolutions are laid out N, H, W, C."""

    captured: bool = False
    """Whether the step of a full batch is captured once as a CUDA graph and replayed."""

    cudnn_benchmark: bool = False
    """Whether cuDNN times its algorithms and takes the fastest."""


def faults(spec: TrialSpec, device_type: str, capability: tuple[int, int] | None = None) -> list[str]:
    """What of a spec's training cannot run on a device; `capability` is a GPU's, None when not known."""
    if spec.precision != "tf32" or (device_type == "cuda" and (capability is None or capability >= _TF32)):
        return []
    where = device_type if capability is None else f"{device_type} of capability {capability[0]}.{capability[1]}"
    return [f"precision 'tf32': needs a GPU of compute capability 8.0 or newer, not {where}; float32 runs everywhere"]


def step_plan(device_type: str, capability: tuple[int, int] | None, model: nn.Module, spec: TrialSpec) -> StepPlan:
    """The plan for a kind of device ("cpu", "cuda", ...); `capability` is a GPU's compute capability.

    Channels-last is for tensor cores, which read that layout; plain float32 convolutions on a GPU are
    no faster in it. Raises `SpecError` for a precision that the device does not have.
    """
    found = faults(spec, device_type, capability)
    if found:
        raise SpecError(found)
    on_gpu = device_type == "cuda"
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    tensor_cores = on_gpu and spec.precision != "float32" and (capability is None or capability >= _TENSOR_CORES)
    return StepPlan(
        autocast=torch.bfloat16 if spec.precision == "bfloat16" else None,
        tf32=spec.precision == "tf32",
        channels_last=convolves and tensor_cores,
        captured=on_gpu,
        cudnn_benchmark=on_gpu and convolves,
    )


def capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a GPU, None of anything else."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def gpu_uuid(device: torch.device) -> str | None:
    """A GPU's UUID as NVML writes it, None of anything else."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


@contextlib.contextmanager
def arithmetic(plan: StepPlan) -> Iterator[None]:
    """Set the process-wide switches of float32 arithmetic and cuDNN to the plan's, and put them back."""
    cudnn: Any = torch.backends.cudnn  # its parts are not in torch's type stubs
    matmul, conv = torch.backends.cuda.matmul, cudnn.conv
    before = (matmul.fp32_precision, conv.fp32_precision, cudnn.benchmark)
    try:
        matmul.fp32_precision = conv.fp32_precision = "tf32" if plan.tf32 else "ieee"
        cudnn.benchmark = plan.cudnn_benchmark
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision, cudnn.benchmark = before


@contextlib.contextmanager
def layout(model: nn.Module, plan: StepPlan) -> Iterator[None]:
    """Lay the model out as the plan says, and as it was before when done: stored weights have one layout."""
    if not plan.channels_last:
        yield
        return
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)


@contextlib.contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Run on a GPU stream of its own, which a capture needs; nothing on other devices."""
    if device.type != "cuda":
        yield
        return
    outer, inner = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    inner.wait_stream(outer)
    try:
        with torch.cuda.stream(inner):
            yield
    finally:
        inner.synchronize()  # before a captured graph and its memory go


def forward(model: nn.Module, inputs: Tensor, plan: StepPlan) -> Tensor:
    """A network's logits in the plan's layout and precision; where that is bfloat16 they are made float32."""
    if plan.channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    if plan.autocast is None:
        return model(inputs)  # type: ignore[no-any-return]
    # Each weight is used once in a step, so there is nothing for autocast to cache.
    with torch.autocast(inputs.device.type, dtype=plan.autocast, cache_enabled=False):
        return model(inputs).float()  # type: ignore[no-any-return]


def _backward(logits: Tensor, gradient: Tensor) -> None:
    """`logits.backward(gradient)` without its checks of what it is given, which take longer than the loss."""
    torch.autograd.Variable._execution_engine.run_backward(
        (logits,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def make_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    factors: Sequence[tuple[Tensor, Tensor]],
    plan: StepPlan,
    spec: TrialSpec,
    teacher: nn.Module | None = None,
) -> Step:
    """The training step of a model: gradient of Eq. 1, update, and each (weight, factor) multiplied in.

    A `teacher` is asked at every step, for a batch's own inputs, and its part added to the targets that
    the step is given; without one, they are taken as they are. The learning rate is read from the
    optimiser at every step; change it with `set_rate`.
    """
    alpha, temperature = spec.alpha, spec.temperature
    update = fused_update(optimizer)
    held = [(weight.detach(), factor) for weight, factor in factors]

    def step(inputs: Tensor, targets: Tensor) -> None:
        if teacher is not None:
            with torch.no_grad():
                targets = targets + losses.teacher_targets(forward(teacher, inputs, plan), alpha, temperature)
        logits = forward(model, inputs, plan)
        _backward(logits, losses.gradient(logits, targets, alpha, temperature))
        update()
        for weight, factor in held:
            weight.mul_(factor)

    if not plan.captured:
        return step
    device = next(model.parameters()).device
    for group in optimizer.param_groups:  # a captured step reads the rate from the device's memory
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
    return Captured(step, spec.batch_size)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where a captured step reads it; the host waits for nothing."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def fused_update(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """`step` and `zero_grad` of a fresh SGD or AdamW with one group, through the kernels that they end in.

    `Optimizer.step` and torch's functional forms spend 80 and 10 microseconds a call on bookkeeping, on
    steps that take 700 for a small model.
    """
    (group,) = optimizer.param_groups
    parameters: list[Tensor] = group["params"]
    values = [parameter.detach() for parameter in parameters]
    if isinstance(optimizer, torch.optim.SGD):
        assert not any(group[name] for name in ("dampening", "nesterov", "maximize"))
        buffers = [torch.zeros_like(v) for v in values] if group["momentum"] != 0 else []

        def apply(grads: list[Tensor]) -> None:
            torch._fused_sgd_(
                values,
                grads,
                buffers,
                weight_decay=group["weight_decay"],
                momentum=group["momentum"],
                lr=group["lr"],
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )

    else:
        assert isinstance(optimizer, torch.optim.AdamW)
        assert not any(group[name] for name in ("amsgrad", "maximize"))
        averages, squares = [torch.zeros_like(v) for v in values], [torch.zeros_like(v) for v in values]
        counts = [torch.zeros((), dtype=torch.float32, device=v.device) for v in values]
        beta1, beta2 = group["betas"]

        def apply(grads: list[Tensor]) -> None:
            torch._foreach_add_(counts, 1)
            torch._fused_adamw_(
                values,
                grads,
                averages,
                squares,
                [],
                counts,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def update() -> None:
        apply([parameter.grad for parameter in parameters])  # type: ignore[misc]
        for parameter in parameters:
            parameter.grad = None

    for parameter in parameters:
        parameter.grad = None
    return update


def _cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """Capture `step`, which is not run, as a CUDA graph; returns what runs it."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph.replay


class Captured:
    """A step that is captured for full batches and replayed; others, as the last of an epoch, run as they are.

    The first full batches run as they are too, as training: nothing is undone. Dropout in a replay
    draws from the device's generator as it is then seeded.
    """

    def __init__(
        self,
        step: Step,
        batch_size: int,
        capture: Callable[[Callable[[], None]], Callable[[], None]] = _cuda_graph,
    ) -> None:
        self._step, self._batch_size, self._capture = step, batch_size, capture
        self._warm = 0
        self._replay: Callable[[], None] | None = None
        self._inputs = self._targets = torch.empty(0)

    def __call__(self, inputs: Tensor, targets: Tensor) -> None:
        if len(targets) != self._batch_size or self._warm < _WARM_UP:
            self._warm += len(targets) == self._batch_size
            self._step(inputs, targets)
            return
        if self._replay is None:
            self._inputs, self._targets = torch.empty_like(inputs), torch.empty_like(targets)
            self._replay = self._capture(lambda: self._step(self._inputs, self._targets))
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._replay()
