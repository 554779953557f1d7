"""One train(), one evaluate(). They know tensors, a spec and a level; no files and no trackers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdd_core.data import augmentation, splits
from sdd_core.registry import DATASETS
from sdd_core.spec import TrialSpec, stream
from sdd_core.training import losses, memory, pruning, steps
from sdd_core.training.agreement import Found

# Images at once in a pass over a whole split: more would need more memory than a training step does.
_PASS_BATCH: Final = 256

Schedule = Sequence[tuple[int, float]]  # (epoch, its learning rate) of each epoch that a level trains


def learning_rate(spec: TrialSpec, epoch: int) -> float:
    """Learning rate during `epoch` (from 0); every level runs the schedule from its start (paper, Sec. 3)."""
    if spec.lr_schedule == "cosine":
        return spec.learning_rate * (1 + math.cos(math.pi * epoch / spec.epochs)) / 2
    if spec.lr_schedule == "steps":
        passed = sum(epoch >= milestone * spec.epochs for milestone in spec.lr_milestones)
        return float(spec.learning_rate * spec.lr_decay**passed)
    return spec.learning_rate


def full_schedule(spec: TrialSpec) -> Schedule:
    """Every epoch with its learning rate, from the schedule's start."""
    return [(epoch, learning_rate(spec, epoch)) for epoch in range(spec.epochs)]


def make_optimizer(spec: TrialSpec, model: nn.Module) -> torch.optim.Optimizer:
    """A fresh optimiser over all parameters, weight decay on every one of them (biases and norms too)."""
    parameters = list(model.parameters())
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
    )


def train(
    model: nn.Module,
    masks: pruning.Masks,
    split: splits.Split,
    spec: TrialSpec,
    level: int,
    schedule: Schedule | None = None,
    after_epoch: Callable[[int], None] | None = None,
    plan: steps.StepPlan | None = None,
    teacher: nn.Module | None = None,
    found: Found | None = None,
) -> int | None:
    """Train `model` in place, keeping every removed weight at exactly 0.

    Returns None, or how many epochs it took until a weight was no longer finite: the training ends there. A loss
    that is not finite makes weights that are not in the same step, so weights and buffers are all that is looked at,
    once an epoch.

    `schedule` names the epochs and their learning rates, by default all of the spec's.
    `after_epoch(epoch)` is called after each and may read the model. `teacher`, on the model's device, is
    given exactly when the trial is distilled (raises `ValueError` otherwise); it is left as it was.

    The masks are applied after each step: neither momentum nor weight decay can bring back a weight
    that enters every forward pass as 0. Batch order and dropout are drawn from `seed`, the level and
    the epoch, so a level does not depend on what ran before it in this process. `plan` is by default
    `steps.step_plan`'s for the split's device; which of its fast ways were used is noted in `found`. Nothing
    inside an epoch waits for a GPU, but the comparison of one step with the plain one. Raises
    `memory.OutOfMemory` when a step does not fit into a GPU.
    """
    if (teacher is not None) != spec.distilled:
        raise ValueError(f"{'no' if teacher is None else 'a'} teacher for a trial with alpha {spec.alpha!r}")
    device = split.images.device
    networks = nn.ModuleList([model] if teacher is None else [model, teacher])
    plan = plan or steps.step_plan(device.type, steps.capability(device), networks, spec)
    found = found or Found()
    model.train()
    with (
        memory.told(spec, device),
        steps.arithmetic(plan),
        steps.side_stream(device),
        _own_random_state(device),
        _evaluating(teacher),
        steps.layout(networks, plan := _with_checked_layout(model, plan, spec, teacher, split, found)),
    ):
        weights = pruning.prunable_weights(model)
        # A multiplication by 0 and 1 costs less per step than a masked fill; a layer with all weights needs neither.
        factors = [(w, torch.empty_like(w).copy_(masks[n])) for n, w in weights.items() if not bool(masks[n].all())]
        optimizer = make_optimizer(spec, model)
        targets = losses.label_targets(split.labels, DATASETS[spec.dataset].classes, spec.alpha)
        in_step = teacher
        if teacher is not None and spec.augmentation == "none":  # it says the same of an image at every step
            _add_teacher(targets, teacher, split, spec, plan)
            in_step = None
        step = steps.make_step(model, optimizer, factors, plan, spec, in_step, found)
        diverged_after = None
        for trained, (epoch, rate) in enumerate(full_schedule(spec) if schedule is None else schedule, start=1):
            _seed(device, stream("dropout", spec.seed, level, epoch))
            steps.set_rate(optimizer, rate)
            drawn = stream("augmentation", spec.seed, level, epoch)
            augment = augmentation.augmenter(spec.augmentation, len(split), device, drawn)
            order = stream("order", spec.seed, level, epoch)
            for inputs, wanted in splits.epoch_batches(split, targets, spec.batch_size, order, augment):
                step(inputs, wanted)
            if not _is_finite(model):
                diverged_after = trained
                break
            if after_epoch is not None:
                after_epoch(epoch)
        # A weight that diverged to NaN or infinity survives a multiplication by 0.
        pruning.apply_masks(weights, masks)
    return diverged_after


@torch.no_grad()
def _is_finite(model: nn.Module) -> bool:
    """Whether no parameter and no buffer of a model holds a NaN or an infinity; waits for the device once."""
    # A sum is several times as fast as a look at each element, and is finite only when each of them is.
    sums = torch.stack([tensor.sum(dtype=torch.float32) for tensor in model.state_dict().values()])
    if bool(sums.isfinite().all()):
        return True
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


def _with_checked_layout(
    model: nn.Module,
    plan: steps.StepPlan,
    spec: TrialSpec,
    teacher: nn.Module | None,
    split: splits.Split,
    found: Found,
) -> steps.StepPlan:
    """The plan, with its layout checked on the split's first batch."""
    if not plan.channels_last:
        return plan
    first = slice(0, spec.batch_size)
    targets = losses.label_targets(split.labels[first], DATASETS[spec.dataset].classes, spec.alpha)
    return steps.checked_layout(model, plan, spec, teacher, (split.inputs(first), targets), found)


@torch.no_grad()
def _add_teacher(
    targets: Tensor, teacher: nn.Module, split: splits.Split, spec: TrialSpec, plan: steps.StepPlan
) -> None:
    """Add the teacher's part to the targets (N, C) of a whole split, in place."""
    for start in range(0, len(split), _PASS_BATCH):
        part = slice(start, start + _PASS_BATCH)
        logits = steps.forward(teacher, split.inputs(part), plan)
        targets[part] += losses.teacher_targets(logits, spec.alpha, spec.temperature)


@contextlib.contextmanager
def _evaluating(network: nn.Module | None) -> Iterator[None]:
    """In evaluation mode: dropout off, running statistics as they are. Each module's mode is put back."""
    before = {module: module.training for module in network.modules()} if network is not None else {}
    try:
        if network is not None:
            network.eval()
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


def _own_random_state(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _seed(device: torch.device, seed: int) -> None:
    """Seed the generators that dropout draws from.

    Where CUDA is not in use, `torch.manual_seed` queues a call for later with a formatted stack for
    every kind of device: a tenth of a millisecond, and memory that is never freed.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def gradients(model: nn.Module, split: splits.Split) -> dict[str, Tensor]:
    """dL/dw of every prunable weight, L the mean cross-entropy over a whole split with its (noisy) labels.

    In evaluation mode, without augmentation, summed in the split's own order: nothing is drawn.
    """
    model.eval()
    weights = pruning.prunable_weights(model)
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for start in range(0, len(split), _PASS_BATCH):
        part = slice(start, start + _PASS_BATCH)
        loss = F.cross_entropy(model(split.inputs(part)), split.labels[part], reduction="sum") / len(split)
        for total, gradient in zip(sums.values(), torch.autograd.grad(loss, list(weights.values())), strict=True):
            total += gradient
    return sums


@dataclass(frozen=True)
class Scores:
    """Mean accuracy and cross-entropy over a split."""

    accuracy: float
    loss: float


@torch.no_grad()
def evaluate(model: nn.Module, split: splits.Split, labelings: Mapping[str, Tensor]) -> dict[str, Scores]:
    """Scores of `model` in evaluation mode on each labelling (N,) of one split, from one forward pass.

    Always in full float32, whatever precision the model was trained in. A model that diverged has a
    loss of inf; its NaN logits count as wrong answers.
    """
    model.eval()
    correct = dict.fromkeys(labelings, 0)
    loss = dict.fromkeys(labelings, 0.0)
    with steps.arithmetic(steps.StepPlan()):
        for start in range(0, len(split), _PASS_BATCH):
            part = slice(start, start + _PASS_BATCH)
            logits = model(split.inputs(part)).float()
            finite = logits.isfinite().all(dim=1)
            for name, labels in labelings.items():
                correct[name] += int(((logits.argmax(dim=1) == labels[part]) & finite).sum())
                loss[name] += float(F.cross_entropy(logits, labels[part], reduction="sum"))
    size = len(split)
    return {
        name: Scores(correct[name] / size, loss[name] / size if math.isfinite(loss[name]) else math.inf)
        for name in labelings
    }
