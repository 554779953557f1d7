"""A finished level trained again, and the figures in which it is not the level that the store holds.

On a CPU a level is the same bytes again where its environment is the same: the kind of device, torch's minor
version, the number of threads. Elsewhere the same experiment is promised and not the same bytes: sums are made in
another order, and training magnifies the last bit. There what no arithmetic touches must be equal, accuracies must
agree within `tolerance`, and losses and weights are not compared.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Final

import torch

from sdd_core import machine
from sdd_core.data import splits
from sdd_core.record import SCORES, LevelRecord
from sdd_core.spec import TrialSpec
from sdd_core.store import Store, checksum_of, determined
from sdd_core.trajectory.level import make_level
from sdd_core.trajectory.networks import Networks
from sdd_core.trajectory.state import to_arrays

TOLERANCE: Final = 0.05
"""By how much an accuracy may differ between environments, a fraction; more on a small split, see `tolerance`."""
_OF_ARITHMETIC: Final = (*SCORES, "weights", "emptied_layers", "sparse_multiply_adds")
"""Figures that depend on the last bit of a sum: scores, and which weights are the smallest."""


def remake(spec: TrialSpec, level: int, store: Store, *, device: str, threads: int) -> LevelRecord:
    """The record of a finished level, trained again from its nearest ancestor whose weights are kept.

    It names the weights that came out. A store that is read only stays as it is.
    """
    data = functools.cache(lambda: splits.load(spec, torch.device(device)))
    with machine.cpu_arithmetic(threads):
        networks = Networks(spec, store, data)
        networks.curve = store.curve(spec)
        before, teacher, early = networks.before(level), networks.teacher(), networks.early(level)
        made = make_level(spec, level, before, teacher, data(), early=early)
        return dataclasses.replace(made.record, weights=checksum_of(to_arrays(made.state)))


def same_bytes(kept: LevelRecord, made: LevelRecord) -> bool:
    """Whether two makings of a level must be the same bytes."""
    return kept.environment == made.environment and str(kept.environment).startswith("cpu")


def tolerance(images: int) -> float:
    """By how much an accuracy on so many images may differ between environments, a fraction.

    The larger of 5 points and 1.2/√n, four binomial standard errors at 90 % accuracy.
    """
    return max(TOLERANCE, 1.2 / math.sqrt(images))


def differences(kept: LevelRecord, made: LevelRecord) -> list[str]:
    """The figures in which a level that was trained again is not the one that was kept, with both values."""
    old, new = determined(kept), determined(made)
    unequal = [name for name in old if old[name] != new[name]]
    if not same_bytes(kept, made):
        unequal = [name for name in unequal if name not in _OF_ARITHMETIC or _too_far(name, old, new)]
    return [f"{name} is {_shown(old[name])} in the store and {_shown(new[name])} trained again" for name in unequal]


def _too_far(name: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether an accuracy differs by more than the tolerance; of the other figures nothing can be said."""
    if not name.endswith("accuracy"):
        return False
    if old[name] is None or new[name] is None:
        return True
    return bool(abs(old[name] - new[name]) > tolerance(new[f"{name.split('_')[0]}_size"]))


def _shown(value: object) -> str:
    return f"{value[:12]}…" if isinstance(value, str) and len(value) > 12 else repr(value)
