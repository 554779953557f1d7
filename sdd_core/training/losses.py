"""The training loss, Eq. 1 of the paper (Sec. 5), and its gradient in the student's logits.

    L = (1 - alpha) CE(z, y) + alpha tau^2 KL(softmax(t / tau) || softmax(z / tau))

with the student's logits z, the labels y and the teacher's logits t, averaged over the batch; alpha 0 is
plain cross-entropy. The factor tau^2 is the usual one, which keeps the two terms' gradients of one size.

The gradient has a closed form, linear in what the student is trained towards:

    dL/dz = ((1 - alpha) softmax(z) + alpha tau softmax(z / tau) - targets) / n
    targets = (1 - alpha) onehot(y) + alpha tau softmax(t / tau)

so a training step begins its backward pass at the logits, and a teacher changes nothing of it but the
targets. Shapes: n images, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def loss(
    logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None, alpha: float = 0.0, temperature: float = 1.0
) -> Tensor:
    """Eq. 1 as a differentiable scalar, in float32 or wider.

    logits and teacher_logits (n, C); labels (n,) int64. Without a teacher `alpha` must be 0: raises
    `ValueError` otherwise.
    """
    logits = _wide(logits)
    if alpha == 0:
        return F.cross_entropy(logits, labels)
    if teacher_logits is None:
        raise ValueError(f"alpha {alpha!r} needs the teacher's logits")
    student = torch.log_softmax(logits / temperature, dim=1)
    teacher = torch.log_softmax(_wide(teacher_logits) / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature**2 * divergence


def label_targets(labels: Tensor, classes: int, alpha: float) -> Tensor:
    """(1 - alpha) onehot(y): the labels' part of the targets, (n, C) float32."""
    return F.one_hot(labels, classes).to(torch.float32) * (1 - alpha)


def teacher_targets(logits: Tensor, alpha: float, temperature: float) -> Tensor:
    """alpha tau softmax(t / tau): the teacher's part of the targets, (n, C), in float32 or wider."""
    return _softmax(_wide(logits) / temperature).mul_(alpha * temperature)


def gradient(logits: Tensor, targets: Tensor, alpha: float, temperature: float) -> Tensor:
    """dL/dz of Eq. 1, (n, C), in float32 or wider; nothing of it is recorded for autograd.

    `targets` (n, C) is the sum of `label_targets` and, unless alpha is 0, `teacher_targets`.
    """
    logits = _wide(logits.detach())
    outputs = _softmax(logits)
    if alpha > 0:
        outputs.mul_(1 - alpha).add_(_softmax(logits / temperature), alpha=alpha * temperature)
    return outputs.sub_(targets).mul_(1 / len(logits))


def _softmax(logits: Tensor) -> Tensor:
    """Over the classes, (n, C). A CPU does many images at once; along a row of ten it takes five times as long."""
    return torch.softmax(logits.t(), dim=0).t()


def _wide(values: Tensor) -> Tensor:
    """At least float32: in bfloat16 a sum of exponentials has two digits."""
    return values if values.dtype == torch.float64 else values.float()
