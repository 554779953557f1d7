"""What follows a pruning: the weights that a level starts from, and its epochs with their learning rates.

Every policy keeps the new masks and starts with a fresh optimiser. "Weights" are all parameters and
all buffers of the network, so the running statistics of norm layers too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from sdd_core.registry import POLICIES as POLICIES
from sdd_core.spec import TrialSpec
from sdd_core.training import Schedule, full_schedule

# kept: as the level before left them. initial: drawn anew, from the level's own stream.
# rewound: as they were after `rewind_epoch` epochs of level 0.
Start = Literal["kept", "initial", "rewound"]


@dataclass(frozen=True)
class Policy:
    """How the levels after level 0 are trained."""

    start: Start
    schedule: Callable[[TrialSpec], Schedule]


def _at_the_last_rate(spec: TrialSpec) -> Schedule:
    """As many epochs, all at the learning rate of the schedule's last epoch, its smallest."""
    whole = full_schedule(spec)
    return [(epoch, whole[-1][1]) for epoch, _ in whole]


def _from_the_rewind_epoch(spec: TrialSpec) -> Schedule:
    """The rest of the schedule that level 0 had before it from that epoch on."""
    assert spec.rewind_epoch is not None
    return full_schedule(spec)[spec.rewind_epoch :]


# rewind_lr is the paper's (and "learning rate rewinding" of Renda et al., 2020). finetune and
# rewind_weights are as Renda et al. (2020) define them; the latter is Frankle et al.'s (2020), and
# with rewind_epoch 0 the lottery ticket's. from_scratch trains what Liu et al. (2019) train: a new
# network in the pruned one's shape.
REWIND_LR: Final = Policy("kept", full_schedule)
FINETUNE: Final = Policy("kept", _at_the_last_rate)
FROM_SCRATCH: Final = Policy("initial", full_schedule)
REWIND_WEIGHTS: Final = Policy("rewound", _from_the_rewind_epoch)


def schedule(spec: TrialSpec, level: int) -> Schedule:
    """The epochs that a level trains, with their learning rates; level 0 is the same under every policy."""
    return full_schedule(spec) if level == 0 else POLICIES[spec.retraining].schedule(spec)
