"""What is written down of one finished level: its scores, its operations, and what was measured as it was made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, kw_only=True)
class LevelCost:
    """What one level costs, in 10^15 operations. A vanilla level's teacher costs 0."""

    pflop: float
    """The training, by the paper's convention."""
    pflop_teacher: float
    """The teacher's forward passes, by the paper's convention: multiply-adds as one each."""
    pflop_real: float
    """The training as it is, with the pass over the training images that the criterion `gradient` needs."""
    pflop_real_teacher: float
    pflop_real_evaluation: float
    """One forward pass over each split after the training."""
    sparse_multiply_adds: int
    """Operations of one image's forward pass, by the paper's convention, with the surviving weights alone."""


@dataclass(frozen=True, kw_only=True)
class LevelRecord(LevelCost):
    """One finished level. Accuracies and losses are means over a split; None when there is no split."""

    key: str
    level: int
    sparsity: float
    """Share of prunable weights that are masked, in [0, 1]."""
    remaining: int
    """Prunable weights that are left."""
    prunable: int
    emptied_layers: tuple[str, ...]
    """Layers that have lost every weight."""
    train_accuracy: float
    """On the labels trained on, noise included, in evaluation mode after the last epoch."""
    train_loss: float
    val_accuracy: float | None
    """On the validation split's clean labels."""
    val_loss: float | None
    val_noisy_accuracy: float | None
    """On the validation split's noisy labels."""
    val_noisy_loss: float | None
    test_accuracy: float
    test_loss: float
    label_noise: float
    """Realised share of training labels that differ from the clean ones."""
    train_size: int
    val_size: int
    test_size: int
    chance: float
    """Largest class's share of the split that decides."""
    parent: dict[str, str] | None
    """Key and weights' checksum of the level before, None at level 0."""
    teacher: str | None
    """Key of the level distilled from."""
    weights: str | None
    """Checksum of the weights written with this record, which names their file."""
    measured: dict[str, Any]
    """What the key does not determine: time, device, versions, energy."""
    diverged_after: int | None = None
    """Epochs after which a weight was no longer finite, so that the training ended there; None when all ran."""

    @property
    def diverged(self) -> bool:
        """Whether the loss or a weight is not finite: the trial ends at this level."""
        return self.diverged_after is not None or not math.isfinite(self.train_loss)

    @property
    def environment(self) -> str | None:
        """The environment class that the level was trained in; None where the record does not say."""
        device, threads = self.measured.get("device"), self.measured.get("threads")
        torch = self.measured.get("versions", {}).get("torch")
        if device is None or threads is None or torch is None:
            return None
        return environment_class(str(device).split(":")[0], str(torch), int(threads))

    @property
    def warning(self) -> str | None:
        """What looked wrong while the level was trained."""
        if not self.diverged:
            return self.measured.get("warning")
        when = "" if self.diverged_after is None else f" in epoch {self.diverged_after}"
        return f"the training of level {self.level} diverged{when}, which ends the trial"

    @property
    def energy_kwh(self) -> float | None:
        """Energy of the training and its evaluation, None when it is not known."""
        kwh: float | None = self._energy.get("kwh")
        return kwh

    @property
    def energy_source(self) -> str:
        """`measured`, `estimated` or `none`."""
        return str(self._energy.get("source", "none"))

    @property
    def energy_reason(self) -> str | None:
        """Why there is no energy, or what is not in it."""
        reason: str | None = self._energy.get("reason", "nothing was recorded")
        return reason

    @property
    def _energy(self) -> dict[str, Any]:
        return dict(self.measured.get("energy", {}))

    def deciding_accuracy(self, labels: str = "clean") -> float:
        """Accuracy that decides: validation on `labels` (clean or noisy), test under the paper's protocol."""
        if self.val_accuracy is None or self.val_noisy_accuracy is None:
            return self.test_accuracy
        return self.val_accuracy if labels == "clean" else self.val_noisy_accuracy


Curve = Sequence[LevelRecord]


def environment_class(device_type: str, torch: str, threads: int) -> str:
    """What a level's bytes depend on beside its spec: "cpu, torch 2.15, 1 thread" or "cuda, torch 2.15".

    `torch` is torch's whole version, of which only major and minor number count. Precision is in the spec.
    """
    minor = ".".join(torch.split("+")[0].split(".")[:2])
    on_cpu = f", {threads} thread{'s' if threads != 1 else ''}" if device_type == "cpu" else ""
    return f"{device_type}, torch {minor}{on_cpu}"


def environments(curves: Iterable[Curve]) -> dict[str, int]:
    """How many levels of some curves were trained in each environment class; a level that curves share is one."""
    levels = {record.key: record.environment for curve in curves for record in curve}
    found = Counter(environment for environment in levels.values() if environment is not None)
    return dict(sorted(found.items()))


def mostly_diverged(curves: Collection[Curve]) -> bool:
    """Whether more than half of the trials of an arm have diverged, so that its figures say nothing."""
    return sum(bool(curve) and curve[-1].diverged for curve in curves) > len(curves) / 2


SCORES: Final = (
    "train_accuracy",
    "train_loss",
    "val_accuracy",
    "val_loss",
    "val_noisy_accuracy",
    "val_noisy_loss",
    "test_accuracy",
    "test_loss",
)
"""The fields of a record that say how good a level is, as every view of the store names them."""
PFLOPS: Final = ("pflop", "pflop_teacher", "pflop_real", "pflop_real_teacher", "pflop_real_evaluation")
"""The fields of a record, and of the costs of several, that count operations."""
