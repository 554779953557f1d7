"""The loop over the levels of a trial: read a level or make it, commit it, go on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import torch

from sdd_core import machine
from sdd_core.curve import GiveUp, best_level
from sdd_core.data import splits
from sdd_core.energy import Meter
from sdd_core.record import LevelRecord
from sdd_core.spec import SpecError, TrialSpec
from sdd_core.store import Store, is_complete
from sdd_core.training import steps
from sdd_core.trajectory.checks import faults
from sdd_core.trajectory.level import make_level
from sdd_core.trajectory.networks import Networks

Keep = Literal["dense_best_last", "all"]
KEEP: Final = ("dense_best_last", "all")
OnLevel = Callable[[LevelRecord, bool], None]


def run(
    spec: TrialSpec,
    store: Store,
    *,
    give_up: GiveUp | None = None,
    last_level: int | None = None,
    keep: Keep = "dense_best_last",
    device: str | None = None,
    threads: int = 1,
    on_level: OnLevel | None = None,
    energy: bool = True,
    gpu_share: float = 1.0,
) -> list[LevelRecord]:
    """Run one trial to its target sparsity, or until `give_up` knows its verdict. Returns its curve.

    A level that diverges is the trial's last.

    With `last_level` the run ends at that level and has its weights then: it is what a student needs of a
    teacher. A teacher of the trial that is missing in the store is run first, as far as it is needed.

    `keep` says which levels' weights stay in the store: all, or those of the dense, the best and the last level.
    `device` is a torch device, by default the first GPU where there is one. `threads` are CPU threads: the same
    spec, versions and number of threads give the same bytes on a CPU. `on_level(record, trained)` is called
    after each level of the trial, whether it was trained or read. `energy` is whether to measure energy, and
    `gpu_share` the part of the GPU that is this trial's for that. Raises `SpecError` for what cannot run.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wrong = faults(spec, place.type, steps.capability(place))
    if wrong:
        raise SpecError(wrong)
    if keep not in KEEP or threads < 1:
        raise ValueError(f"`keep in {KEEP}` and `threads >= 1` must hold, but got {keep!r} and {threads!r}")
    data = functools.cache(lambda: splits.load(spec, place))
    measuring = machine.meter(place, threads, gpu_share) if energy else contextlib.nullcontext()
    with machine.cpu_arithmetic(threads), measuring as meter:
        return _Runs(store, data, keep, meter).run(spec, give_up, last_level, on_level)


@dataclass(frozen=True)
class _Runs:
    """Runs of a trial and of its teachers, which share a store, the data and a meter."""

    store: Store
    data: Callable[[], splits.Data]
    keep: Keep
    meter: Meter | None

    def run(
        self,
        spec: TrialSpec,
        give_up: GiveUp | None = None,
        last_level: int | None = None,
        on_level: OnLevel | None = None,
    ) -> list[LevelRecord]:
        """Algorithm 1; the arguments are those of the module's `run`."""
        self._run_teachers_of(spec)
        if (diverged := self.store.diverged_teacher(spec)) is not None:
            raise SpecError([f"teacher {diverged.trial.trial_id}: {diverged.reason}"])
        networks = Networks(spec, self.store, self.data)
        curve = networks.curve
        for level, key in enumerate(self.store.level_keys(spec)):
            record = self.store.record(key)
            trained = record is None
            if record is None:
                before, teacher, early = networks.before(level), networks.teacher(), networks.early(level)
                made = make_level(spec, level, before, teacher, self.data(), early=early, meter=self.meter)
                # The store's key, which in a store of one environment can be another than the spec's.
                record = networks.commit(made._replace(record=dataclasses.replace(made.record, key=key)))
            curve.append(record)
            if trained and self.keep != "all":
                self._drop_unneeded_weights(curve)
            if on_level is not None:
                on_level(record, trained)
            if is_complete(curve, spec) or level == last_level or (give_up is not None and give_up.applies(curve)):
                break
        if last_level is not None and not self.store.has_weights(curve[-1]):
            networks.after(len(curve) - 1)
        return curve

    def _run_teachers_of(self, spec: TrialSpec) -> None:
        """Run what is missing of the level that a trial is distilled from, and of its own teachers before that."""
        tried = set()
        while (need := self.store.teacher_needed(spec)) is not None and need not in tried:
            tried.add(need)  # on a GPU weights that are trained again are other bytes, and so are not kept
            self.run(need.trial, last_level=need.last_level)

    def _drop_unneeded_weights(self, curve: list[LevelRecord]) -> None:
        """Keep the weights of the dense, the best and the last level; the level just finished is the last."""
        best = best_level([math.nan if record.diverged else record.deciding_accuracy() for record in curve])
        for record in curve[1:-1]:
            if record.level != best and self.store.has_weights(record):
                self.store.drop_weights(record)
