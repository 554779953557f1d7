"""Label noise: labels in, noisy labels and the mask of the flipped ones out. Pure.

| kind | which labels may move | where to |
|---|---|---|
| symmetric | all | one of the other classes, all equally likely (paper, Sec. 3) |
| pair_flip | all | the next class, c + 1 mod C (Han et al. 2018, Co-teaching) |
| asymmetric | those of the classes that the data set's class map names | the class's image in the map |

Of the n labels that may move exactly round(fraction * n) do. So under asymmetric noise the fraction
is that of the mapped classes, as in the literature: 0.4 on CIFAR-10, where five of ten classes are
mapped, moves 20 % of all labels. The rate over all labels is in every level's record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sdd_core.registry import NOISE_KINDS

Labels = NDArray[np.int64]
Flipped = NDArray[np.bool_]
ClassMap = Mapping[int, int]
# (labels, classes, a generator, class map) -> where each label moves
Move = Callable[[Labels, int, np.random.Generator, ClassMap], Labels]

# CIFAR-100: the superclass of each class, both numbered as in the published files.
# fmt: off
SUPERCLASSES: Final = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)
# fmt: on


def _next_within(groups: tuple[int, ...]) -> ClassMap:
    """Each class to the next one of its group, the last to the first."""
    moves: dict[int, int] = {}
    for group in set(groups):
        members = [label for label, own in enumerate(groups) if own == group]
        moves |= dict(pairwise([*members, members[0]]))
    return moves


_DIGITS: Final[ClassMap] = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}
# data set -> where asymmetric noise moves its classes; a class not named keeps its labels
ASYMMETRIC: Final[dict[str, ClassMap]] = {
    # Patrini et al. 2017, "Making deep neural networks robust to label noise": MNIST, CIFAR-10 and CIFAR-100.
    "mnist": _DIGITS,
    "digits": _DIGITS,  # the same ten classes, so MNIST's map
    # truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    # the next class within the superclass, circularly
    "cifar100": _next_within(SUPERCLASSES),
    # Zhang and Sabuncu 2018, "Generalized cross entropy loss": ankle boot -> sneaker, sneaker -> sandal,
    # pullover -> shirt, coat <-> dress
    "fashion_mnist": {9: 7, 7: 5, 2: 6, 4: 3, 3: 4},
}


def symmetric(labels: Labels, classes: int, rng: np.random.Generator, class_map: ClassMap) -> Labels:
    """Each label moves to one of the other classes, all equally likely (never back to its own)."""
    return (labels + rng.integers(1, classes, size=len(labels))) % classes


def pair_flip(labels: Labels, classes: int, rng: np.random.Generator, class_map: ClassMap) -> Labels:
    """Each label moves to the next class."""
    return (labels + 1) % classes


def asymmetric(labels: Labels, classes: int, rng: np.random.Generator, class_map: ClassMap) -> Labels:
    """Each label moves where the class map says."""
    return np.array([class_map.get(label, label) for label in range(classes)], dtype=np.int64)[labels]


def flip_labels(
    labels: Labels, fraction: float, kind: str, classes: int, seed: int, class_map: ClassMap | None = None
) -> tuple[Labels, Flipped]:
    """Flip exactly round(fraction * n) of the n labels that the kind may move, each to a different class.

    `class_map` says where asymmetric noise moves each class (one of `ASYMMETRIC`); the other kinds
    read none and may move all labels. Returns the noisy labels (N,) and the mask (N,) of those that
    were flipped; the input is not changed. Raises ValueError for a fraction outside [0, 1], an
    unknown kind, a single class, or a map that is missing, leaves the classes or maps one to itself.
    """
    if not 0 <= fraction <= 1 or kind not in NOISE_KINDS or classes < 2:
        raise ValueError(
            f"`0 <= fraction <= 1`, `kind in {sorted(NOISE_KINDS)}` and `classes >= 2` must hold, "
            f"but got {fraction!r}, {kind!r} and {classes!r}"
        )
    moves = class_map if class_map is not None and kind == "asymmetric" else {}
    if kind == "asymmetric" and not (
        moves and all(0 <= a < classes and 0 <= b < classes and a != b for a, b in moves.items())
    ):
        raise ValueError(f"a class map from classes to others in [0, {classes}) must hold, but got {class_map!r}")
    rng = np.random.default_rng(seed)
    movable = np.flatnonzero(np.isin(labels, list(moves))) if kind == "asymmetric" else np.arange(len(labels))
    chosen = np.sort(rng.permutation(len(movable))[: round(fraction * len(movable))])
    chosen = movable[chosen]
    noisy = labels.copy()
    noisy[chosen] = NOISE_KINDS[kind](labels[chosen], classes, rng, moves)
    flipped = np.zeros(len(labels), dtype=np.bool_)
    flipped[chosen] = True
    return noisy, flipped
