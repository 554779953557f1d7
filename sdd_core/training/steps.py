"""How one training step runs on a device: precision, layout, fused update, CUDA-graph capture.

`step_plan` decides, from the device, the networks and the spec alone. The precision is the spec's; what
the device decides (layout, capture, cuDNN's choice of algorithms) does not change what is computed: layout and
capture are used only after they have shown that on the training at hand (`agreement`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from sdd_core.spec import SpecError, TrialSpec
from sdd_core.training import kernels, losses
from sdd_core.training.agreement import (
    EXACT,
    OTHER_KERNELS,
    ROUNDED,
    Found,
    Run,
    State,
    Tensors,
    gradients_of,
    judged,
    of_model,
)
from sdd_core.training.captured import Captured, Step

_TENSOR_CORES: Final = (7, 0)
_TF32: Final = (8, 0)


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

    @property
    def tolerance(self) -> float:
        """How far a captured step may be from the plain one, as a part of what a step changes."""
        return ROUNDED if self.tf32 or self.autocast is not None else EXACT


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


def make_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    factors: Sequence[tuple[Tensor, Tensor]],
    plan: StepPlan,
    spec: TrialSpec,
    teacher: nn.Module | None = None,
    found: Found | None = None,
) -> Step:
    """The training step of a model: gradient of Eq. 1, update, and each (weight, factor) multiplied in.

    A `teacher` is asked at every step, for a batch's own inputs, and its part added to the targets that
    the step is given; without one, they are taken as they are. The learning rate is read from the
    optimiser at every step; change it with `set_rate`. Which fast ways were used is noted in `found`.
    """
    found = found or Found()
    device = next(model.parameters()).device
    add_gradients = _gradients(model, plan, spec, teacher, found)
    update = kernels.make_update(optimizer, found)
    held = [(weight.detach(), factor) for weight, factor in factors]

    def step(inputs: Tensor, targets: Tensor) -> None:
        add_gradients(inputs, targets)
        update()
        for weight, factor in held:
            weight.mul_(factor)

    if not plan.captured:
        return step
    for group in optimizer.param_groups:  # a captured step reads the rate from the device's memory
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
    state = State(model.parameters(), lambda: {**of_model(model), **update.tensors()}, device)
    return Captured(step, spec.batch_size, state, plan.tolerance, found)


def _gradients(model: nn.Module, plan: StepPlan, spec: TrialSpec, teacher: nn.Module | None, found: Found) -> Step:
    """The part of a step that adds the gradients of Eq. 1 to the parameters' `grad`."""
    alpha, temperature = spec.alpha, spec.temperature
    backward = kernels.make_backward(next(model.parameters()).device, found)

    def add(inputs: Tensor, targets: Tensor) -> None:
        if teacher is not None:
            with torch.no_grad():
                targets = targets + losses.teacher_targets(forward(teacher, inputs, plan), alpha, temperature)
        logits = forward(model, inputs, plan)
        backward(logits, losses.gradient(logits, targets, alpha, temperature))

    return add


def checked_layout(
    model: nn.Module,
    plan: StepPlan,
    spec: TrialSpec,
    teacher: nn.Module | None,
    batch: tuple[Tensor, Tensor],
    found: Found,
) -> StepPlan:
    """The plan, without channels-last where the gradients of a batch are others in it; that is noted in `found`.

    `batch` is (inputs, the labels' part of the targets). The model is left as it was, the random state too.
    Dropout of whole images (n, C, H, W) on a GPU draws in the order of the layout, so a network that has it is
    trained without channels-last.
    """
    if not plan.channels_last:
        return plan
    contiguous = replace(plan, channels_last=False)
    networks = nn.ModuleList([model] if teacher is None else [model, teacher])

    def once(plan: StepPlan) -> Run:
        def run() -> None:
            with layout(networks, plan):
                _gradients(model, plan, spec, teacher, found)(*batch)

        return run

    def tensors() -> Tensors:
        buffers = {kind: held for kind, held in of_model(model).items() if kind != "parameters"}
        return {**gradients_of(model.parameters()), **buffers}

    state = State(model.parameters(), tensors, batch[0].device)
    before = state.save()
    reason = judged(lambda: once(plan), once(contiguous), state, OTHER_KERNELS)
    state.restore(before)
    return plan if found.use("channels_last", reason) else contiguous


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where a captured step reads it; the host waits for nothing."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
