"""Levels that were never trained, in a store, and a pace that was never timed."""

import os

from sdd_core.pace import Pace
from sdd_core.store import is_complete
from tests.builders import fake_record


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
    """What `pace.calibrate` returns, without timing anything: its fields say what it was asked, and where."""
    return Pace(slowest=1.0, fastest=1.0, source=f"{device} {threads}", watts=gpu_share, watts_from=str(os.getpid()))
