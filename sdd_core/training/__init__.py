"""Training a network at one level: the loop, its step, the loss, pruning, and what follows a pruning."""

from sdd_core.training.loop import (
    Schedule,
    Scores,
    evaluate,
    full_schedule,
    gradients,
    learning_rate,
    make_optimizer,
    train,
)

__all__ = [
    "Schedule",
    "Scores",
    "evaluate",
    "full_schedule",
    "gradients",
    "learning_rate",
    "make_optimizer",
    "train",
]
