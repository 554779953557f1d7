"""Levels that were never trained: records with given accuracies, for tests of what reads a store."""

import os

from sdd_core.pace import Pace
from sdd_core.record import LevelRecord
from sdd_core.store import is_complete

PRUNABLE = 1000


def fake_record(spec, level, accuracy, *, key=None, test=None, teacher=None, kwh=None):
    """A level record of a network of 1,000 weights; deciding, noisy and test accuracy are equal unless given."""
    remaining = PRUNABLE
    energy = {"kwh": kwh, "source": "estimated", "reason": None}
    for _ in range(level):
        remaining -= round(spec.prune_fraction * remaining)
    return LevelRecord(
        key=key or f"{level:064x}",
        level=level,
        sparsity=1 - remaining / PRUNABLE,
        remaining=remaining,
        prunable=PRUNABLE,
        emptied_layers=(),
        train_accuracy=accuracy,
        train_loss=1.0,
        val_accuracy=None if spec.protocol == "paper" else accuracy,
        val_loss=None if spec.protocol == "paper" else 1.0,
        val_noisy_accuracy=None if spec.protocol == "paper" else accuracy,
        val_noisy_loss=None if spec.protocol == "paper" else 1.0,
        test_accuracy=accuracy if test is None else test,
        test_loss=1.0,
        label_noise=spec.label_noise,
        train_size=1000,
        val_size=0 if spec.protocol == "paper" else 287,
        test_size=300,
        chance=0.1,
        pflop=0.001,
        pflop_teacher=0.0,
        pflop_real=0.002,
        pflop_real_teacher=0.0,
        pflop_real_evaluation=0.0001,
        sparse_multiply_adds=remaining,
        parent=None,
        teacher=teacher,
        weights=None,
        measured={"seconds": 0.1, "finished_at": 1.0} | ({} if kwh is None else {"energy": energy}),
    )


def fake_levels(store, spec, accuracies, *, give_up=None, kwh=None):
    """Commit a trial's missing levels with these accuracies, as a worker would; returns how many were made."""
    made = 0
    curve = []
    for level, (key, accuracy) in enumerate(zip(store.level_keys(spec), accuracies, strict=False)):
        record = store.record(key)
        if record is None:
            record, _ = store.commit(fake_record(spec, level, accuracy, key=key, kwh=kwh), {})
            made += 1
        curve.append(record)
        if is_complete(curve, spec) or (give_up is not None and give_up.applies(curve)):
            break
    return made


def fake_pace(spec, *, device, threads, gpu_share, **how):
    """What `calibration.calibrate` returns, without timing anything: its fields say what it was asked, and where."""
    return Pace(slowest=1.0, fastest=1.0, source=f"{device} {threads}", watts=gpu_share, watts_from=str(os.getpid()))
