"""Label noise: labels in, noisy labels and the mask of the flipped ones out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Flipped = NDArray[np.bool_]


def _symmetric(labels: Labels, classes: int, rng: np.random.Generator) -> Labels:
    """Each label moves to one of the other classes, all equally likely (never back to its own)."""
    return (labels + rng.integers(1, classes, size=len(labels))) % classes


KINDS: Final[dict[str, Callable[[Labels, int, np.random.Generator], Labels]]] = {"symmetric": _symmetric}


def flip_labels(labels: Labels, fraction: float, kind: str, classes: int, seed: int) -> tuple[Labels, Flipped]:
    """Flip exactly round(fraction * N) of N labels, each to a different class (paper, Sec. 3).

    Returns the noisy labels and the (N,) mask of those that were flipped; the input is not changed.
    Raises ValueError for a fraction outside [0, 1], an unknown kind, or a single class.
    """
    if not 0 <= fraction <= 1 or kind not in KINDS or classes < 2:
        raise ValueError(
            f"`0 <= fraction <= 1`, `kind in {sorted(KINDS)}` and `classes >= 2` must hold, "
            f"but got {fraction!r}, {kind!r} and {classes!r}"
        )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(labels))[: round(fraction * len(labels))])
    noisy = labels.copy()
    noisy[chosen] = KINDS[kind](labels[chosen], classes, rng)
    flipped = np.zeros(len(labels), dtype=np.bool_)
    flipped[chosen] = True
    return noisy, flipped
