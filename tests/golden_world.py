"""Made-up finished levels for the golden tests: a store in which a command finds all that it asks for.

The golden files rest on these numbers, so they are kept apart from `tests.fakes`, of which only the making of a
record is used: every field is set here.
"""

import dataclasses
import hashlib
import math

import numpy as np

from tests.fakes import fake_record

PRUNABLE = 1000
VAL, TEST, TRAIN = 287, 359, 1151
CHANCE = 30 / 287
CUT = 5
"""Levels of a trial that was given up; the valleys and rebounds of these curves are over by then."""
NOTHING_KNOWN = {"kwh": None, "source": "none", "reason": "no power is known of this machine"}


def fill(store, spec, kind, *, levels=None, energy=True, weights=False, sweep=None):
    """Commit a trial's levels, as trained; `kind` says how its accuracies run.

    `d` dips, `p` dips and has its best level after that, where early stopping does not get to, `c` is clean, `x` has
    collapsed, `r` rebounds without a dip, `n` never leaves chance, `v` diverges at its first level; in capitals the
    trial was given up. `levels` are how many there are, where they are fewer. With `weights` each level has its own.
    """
    whole = _remaining(spec)
    count = (
        1
        if kind == "v"
        else min(len(whole), CUT if kind.isupper() else len(whole), len(whole) if levels is None else levels)
    )
    before, taught = None, store.teacher(spec)
    for level, key in zip(range(count), store.level_keys(spec), strict=False):
        record = store.record(key)
        if record is None:
            made = _record(spec, kind.lower(), level, whole, key, before, taught, energy)
            arrays = {"weights": np.asarray([_draw("weights", key)])} if weights else {}
            record, _ = store.commit(made, arrays)
        before = record
    if sweep is not None:
        store.add_trial(spec, sweep)


def _remaining(spec):
    """The weights that are left at each level of a whole trajectory."""
    left = [PRUNABLE]
    while (PRUNABLE - left[-1]) / PRUNABLE < spec.target_sparsity:
        left.append(left[-1] - round(spec.prune_fraction * left[-1]))
    return left


def _record(spec, kind, level, whole, key, before, taught, energy):
    x = level / (len(whole) - 1)
    val, test = _accuracy(spec, kind, x, "val", VAL), _accuracy(spec, kind, x, "test", TEST)
    noisy, train = _accuracy(spec, kind, x, "noisy", VAL), _accuracy(spec, kind, x, "train", TRAIN)
    paper, students = spec.protocol == "paper", spec.distilled
    pflop = 5.2e-6 + 1e-8 * level
    known = {"kwh": (1 + level + _draw("kwh", key)) * 1e-6, "source": "measured" if level else "estimated"}
    return dataclasses.replace(
        fake_record(spec, level, val, key=key),
        key=key,
        level=level,
        sparsity=1 - whole[level] / PRUNABLE,
        remaining=whole[level],
        prunable=PRUNABLE,
        emptied_layers=("hidden2",) if kind == "x" and x == 1 else (),
        train_accuracy=train,
        train_loss=math.inf if kind == "v" else round(2 - train, 4),
        diverged_after=2 if kind == "v" else None,
        val_accuracy=None if paper else val,
        val_loss=None if paper else round(2.1 - val, 4),
        val_noisy_accuracy=None if paper else noisy,
        val_noisy_loss=None if paper else round(2.2 - noisy, 4),
        test_accuracy=test,
        test_loss=round(2.3 - test, 4),
        label_noise=0.4996,
        train_size=TRAIN + VAL if paper else TRAIN,
        val_size=0 if paper else VAL,
        test_size=TEST,
        chance=CHANCE,
        pflop=pflop,
        pflop_teacher=1.7e-6 if students else 0.0,
        pflop_real=1.9 * pflop,
        pflop_real_teacher=2.1e-6 if students else 0.0,
        pflop_real_evaluation=3e-8,
        sparse_multiply_adds=50 * whole[level],
        parent=None if before is None else {"key": before.key, "weights": before.weights},
        teacher=None if taught is None else taught.key,
        weights=None,
        measured={
            "seconds": 0.25 + level / 8,
            "finished_at": 1_700_000_000.0 + 1000 * spec.seed + 10 * level,
            "energy": known | {"reason": None} if energy else NOTHING_KNOWN,
        },
    )


def _accuracy(spec, kind, x, split, size):
    """What a split's accuracy is at the part `x` of a trajectory, as a share of so many images."""
    approach = (spec.alpha, spec.temperature, spec.teacher.level) if spec.distilled else ()
    trial = (spec.weight_decay, *approach, spec.seed)
    if kind == "n":
        return CHANCE
    if kind == "v":
        return 0.0
    own, place = _draw("own", *trial), _draw("place", *trial)
    depth = (0.09 + 0.1 * own) * {"val": 1.0, "test": 0.9, "noisy": 0.8, "train": 0.2}[split]
    if kind in "dp":
        value = 0.76 - 0.02 * x - 0.06 * x**2 - depth * math.exp(-(((x - 0.4) / 0.15) ** 2))
        value += 0.3 * max(0.0, x - 0.55) if kind == "p" else 0.0
    elif kind == "c":
        value = 0.84 + 0.04 * own - 0.05 * place - 0.03 * abs(x - 0.6 * place) - 0.09 * max(0.0, x - 0.6 * place) ** 2
    elif kind == "r":
        value = 0.62 + 0.2 * min(1.0, 2.5 * x) - 0.1 * max(0.0, x - 0.4)
    else:
        value = 0.24 - 0.06 * x
    if split == "noisy":
        value = 0.05 + 0.5 * value
    value += {"val": 0.0, "test": -0.015, "noisy": 0.0, "train": -0.1}[split]
    value += 0.012 * (_draw("noise", *trial, split, round(1000 * x)) - 0.5)
    return round(value * size) / size


def _draw(*words):
    """A number from 0 to 1 that is always the same for the same words."""
    return int(hashlib.sha256(repr(words).encode()).hexdigest()[:8], 16) / 2**32
