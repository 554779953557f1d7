"""What a sweep still has to train: the levels that the store lacks, and what they are expected to cost.

    outlook (which trials, how far)  ->  work (which levels the store lacks)  ->  costs (what they are expected to cost)

Nothing here writes, and nothing is trained.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from sdd_core import cost
from sdd_core.data import splits
from sdd_core.ledger import Costs, total
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec, snapshot_key
from sdd_core.store import Store
from sdd_core.words import WITHIN_A_SETTING
from sweeps.forecast.paces import PaceOf


@dataclass(frozen=True, kw_only=True)
class Job:
    """One level that has to be trained."""

    spec: TrialSpec
    level: int
    again: bool = False
    """Finished before, and trained again because its weights are needed and were not kept."""
    share: float = 1.0
    """Of the level's epochs: less than 1 for the early epochs of a level 0 that weights are rewound to."""


@dataclass
class Work:
    """What some trials need: the levels that are there, and those to train, each once however many trials share it."""

    store: Store
    found: set[str] = field(default_factory=set)
    """Keys of levels that the store has."""
    jobs: dict[str, Job] = field(default_factory=dict)
    """By the key of the level."""

    def add(self, spec: TrialSpec, levels: int) -> None:
        """A trial that has to have so many levels."""
        keys = list(itertools.islice(self.store.keys_after(spec, self._teacher(spec)), levels))
        curve = self._held(keys)
        self.found.update(keys[: len(curve)])
        if len(curve) >= levels:
            return
        for level in range(len(curve), levels):
            self.jobs.setdefault(keys[level], Job(spec=spec, level=level))
        self._weights(spec, curve)
        self._early_weights(spec, keys[0])
        teacher = self.store.teacher(spec)
        if teacher is not None and spec.teacher is not None:
            self._weights(spec.teacher.trial, self.store.curve(spec.teacher.trial)[: teacher.level + 1])

    def _held(self, keys: list[str]) -> list[LevelRecord]:
        found = (self.store.record(key) for key in keys)
        return [record for record in itertools.takewhile(lambda record: record is not None, found) if record]

    def _weights(self, spec: TrialSpec, curve: list[LevelRecord]) -> None:
        """The weights after a curve: kept, or trained again from the nearest ancestor that has them."""
        for record in reversed(curve):
            if self.store.has_weights(record):
                break
            self.jobs.setdefault(record.key, Job(spec=spec, level=record.level, again=True))

    def _early_weights(self, spec: TrialSpec, dense: str) -> None:
        """The weights of the epoch that a trial rewinds to; training level 0 makes them on the way."""
        if not spec.rewind_epoch or dense in self.jobs:
            return
        key = snapshot_key(dense, spec.rewind_epoch)
        if self.store.snapshot(key) is None:
            share = spec.rewind_epoch / spec.epochs
            self.jobs.setdefault(key, Job(spec=spec, level=0, again=True, share=share))

    def _teacher(self, spec: TrialSpec) -> str | None:
        """What stands for the level that a trial learns from in its levels' keys; None without a teacher.

        While that level is not known its trial is added as far as it is needed, and the students' levels get
        keys that no store holds: they count as to be trained.
        """
        if spec.teacher is None or not spec.distilled:
            return None
        record, trial, named = self.store.teacher(spec), spec.teacher.trial, spec.teacher.level
        whole = cost.whole_levels(trial, self.store.curve(trial))
        self.add(trial, spec.teacher.levels_needed(whole))
        if record is not None:
            return record.key
        return f"not known yet: {named} of {trial.trial_id} to {trial.target_sparsity}"


def work(store: Store, *needs: Mapping[TrialSpec, int]) -> list[Work]:
    """For each of `needs`, the levels that its trials with so many levels need, their teachers' included.

    Needs that are equal get the same work, which is found once.
    """
    found: list[Work] = []
    for number, trials in enumerate(needs):
        same = needs.index(trials)
        if same < number:
            found.append(found[same])
            continue
        needed = Work(store)
        for spec, levels in trials.items():
            needed.add(spec, levels)
        found.append(needed)
    return found


# --- what it costs --------------------------------------------------------------------------


# Levels of trials of one setting cost the same, but for being dense or pruned.
_of_setting: Final = operator.attrgetter(
    *(field.name for field in fields(TrialSpec) if field.name not in WITHIN_A_SETTING)
)


def expected(jobs: Iterable[Job], pace: PaceOf, *, slow: bool) -> Costs:
    """What levels are expected to cost together, at the slowest or the fastest pace of their devices."""
    known: dict[tuple[Any, ...], Costs] = {}
    parts = []
    for job in jobs:
        kind = (_of_setting(job.spec), job.level > 0, job.again, job.share)
        if kind not in known:
            known[kind] = _of_job(job, pace, slow=slow)
        parts.append(known[kind])
    return total(parts)


def _of_job(job: Job, pace: PaceOf, *, slow: bool) -> Costs:
    """What a level is expected to cost. Reads how large the data set's splits are."""
    paid = cost.level_cost(job.spec, job.level, sizes(job.spec))
    training, passes = paid.pflop_real * job.share, paid.pflop_real_teacher * job.share
    evaluation = 0.0 if job.again else paid.pflop_real_evaluation
    known, seconds, kwh, reason = pace(job.spec), None, None, None
    if known is not None:
        seconds = known.seconds(training + passes + evaluation)[slow]
        kwh = known.kwh(seconds)
    if kwh is None:
        reason = "the pace of the device is not known" if known is None else known.watts_from
    return Costs(
        levels=int(not job.again),
        pflop=paid.pflop * job.share,
        pflop_teacher=paid.pflop_teacher * job.share,
        pflop_real=training,
        pflop_real_teacher=passes,
        pflop_real_evaluation=evaluation,
        seconds=seconds,
        energy_kwh=kwh,
        energy_source="none" if kwh is None else "estimated",
        energy_levels=int(kwh is not None and not job.again),
        energy_reason=reason,
    )


def sizes(spec: TrialSpec) -> cost.Sizes:
    """The splits of a trial, from its data."""
    val = 0 if spec.protocol == "paper" else splits.deciding_size(spec)
    return cost.Sizes(train=splits.train_size(spec), val=val, test=cost.nominal_sizes(spec).test)
