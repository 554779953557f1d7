"""What a sweep will still cost: levels to train, PFLOPs, device time, energy, before anything runs.

    outlook (which trials, how far)  ->  work (which levels the store lacks)  ->  bill (what they cost)

The fewest and the most levels make two bills; with the slowest and the fastest pace of the device they
are the ends of every range. Nothing here writes, and nothing is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sdd_core import cost
from sdd_core.data import splits
from sdd_core.pace import Pace
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec, level_keys, snapshot_key
from sdd_core.store import Store
from sdd_core.words import arm_name
from sweeps.kinds.lambda_opt.outlook import whole_levels
from sweeps.sweep import Outlook

PaceOf = Callable[[TrialSpec], Pace | None]
Span = tuple[float, float]
"""Least and largest."""


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
        keys = list(itertools.islice(level_keys(spec, self._teacher(spec)), levels))
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
        whole = whole_levels(trial, self.store.curve(trial))
        self.add(trial, spec.teacher.levels_needed(whole))
        if record is not None:
            return record.key
        return f"not known yet: {named} of {trial.trial_id} to {trial.target_sparsity}"


def work(store: Store, trials: Mapping[TrialSpec, int]) -> Work:
    """The levels that trials with so many levels each need, their teachers' included."""
    needed = Work(store)
    for spec, levels in trials.items():
        needed.add(spec, levels)
    return needed


# --- what it costs --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What levels cost. Time and energy are (least, largest); None where no pace or no power is known."""

    levels: int = 0
    """To be trained for the first time."""
    again: int = 0
    """To be trained again for their weights."""
    pflop: float = 0.0
    """Trainings, by the paper's convention."""
    pflop_teacher: float = 0.0
    """Teachers' forward passes, by the paper's convention."""
    pflop_real_all: float = 0.0
    """All real operations: trainings, teachers' passes, evaluations."""
    seconds: Span | None = (0.0, 0.0)
    """Of a device, or of the part of it that a trial has."""
    kwh: Span | None = (0.0, 0.0)

    def __add__(self, other: Bill) -> Bill:
        return Bill(
            levels=self.levels + other.levels,
            again=self.again + other.again,
            pflop=self.pflop + other.pflop,
            pflop_teacher=self.pflop_teacher + other.pflop_teacher,
            pflop_real_all=self.pflop_real_all + other.pflop_real_all,
            seconds=_sum(self.seconds, other.seconds),
            kwh=_sum(self.kwh, other.kwh),
        )


def _sum(one: Span | None, other: Span | None) -> Span | None:
    return None if one is None or other is None else (one[0] + other[0], one[1] + other[1])


def bill(job: Job, pace: PaceOf) -> Bill:
    """What a level costs. Reads how large the data set's splits are."""
    paid = cost.level_cost(job.spec, job.level, sizes(job.spec))
    real = (paid.pflop_real + paid.pflop_real_teacher) * job.share
    real += paid.pflop_real_evaluation if not job.again else 0.0
    known = pace(job.spec)
    seconds = known.seconds(real) if known is not None else None
    least, largest = (known.kwh(s) for s in seconds) if known is not None and seconds is not None else (None, None)
    return Bill(
        levels=not job.again,
        again=job.again,
        pflop=paid.pflop * job.share,
        pflop_teacher=paid.pflop_teacher * job.share,
        pflop_real_all=real,
        seconds=seconds,
        kwh=None if least is None or largest is None else (least, largest),
    )


def sizes(spec: TrialSpec) -> cost.Sizes:
    """The splits of a trial, from its data."""
    val = 0 if spec.protocol == "paper" else splits.deciding_size(spec)
    return cost.Sizes(train=splits.train_size(spec), val=val, test=cost.nominal_sizes(spec).test)


@dataclass(frozen=True, kw_only=True)
class Side:
    """One end of a plan's range."""

    trials: int
    """With something to train, teachers included."""
    found: int
    """Levels that the store has already."""
    bill: Bill


@dataclass(frozen=True, kw_only=True)
class Row:
    """Trials that differ in their seeds alone: what they cost in the endings that need the least and the most of it."""

    name: str
    trials: int
    fewest: Bill
    most: Bill


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a sweep will still cost."""

    fewest: Side
    most: Side
    rows: tuple[Row, ...]
    """Those that can cost the most first. They do not add up to the whole: no ending needs the least of all."""


def forecast(store: Store, outlook: Outlook, pace: PaceOf) -> Forecast:
    """What a sweep will still cost from what the store holds."""
    several = len({(spec.model, spec.model_options, spec.dataset) for spec in outlook.trials}) > 1
    rows: dict[str, tuple[list[Job], list[Job]]] = {}
    for end in (0, 1):
        for job in work(store, {spec: ends[end] for spec, ends in outlook.trials.items()}).jobs.values():
            name = _row_name(job.spec, teacher=job.spec not in outlook.trials, several=several)
            rows.setdefault(name, ([], []))[end].append(job)
    made = [
        Row(
            name=name,
            trials=len({job.spec.trial_id for job in most}),
            fewest=total(fewest, pace),
            most=total(most, pace),
        )
        for name, (fewest, most) in rows.items()
    ]
    return Forecast(
        fewest=_side(work(store, outlook.fewest), pace),
        most=_side(work(store, outlook.most), pace),
        rows=tuple(sorted(made, key=lambda row: (-row.most.pflop_real_all, -row.fewest.pflop_real_all, row.name))),
    )


def total(jobs: Iterable[Job], pace: PaceOf) -> Bill:
    """What levels cost together."""
    return sum((bill(job, pace) for job in jobs), Bill())


def _side(needed: Work, pace: PaceOf) -> Side:
    jobs = needed.jobs.values()
    trials = len({job.spec.trial_id for job in jobs})
    return Side(trials=trials, found=len(needed.found), bill=total(jobs, pace))


def _row_name(spec: TrialSpec, *, teacher: bool, several: bool) -> str:
    """What a row is called: its network is said where it is a teacher's, or where there are several."""
    where = f"{spec.model} on {spec.dataset} " if teacher or several else ""
    return f"{'teacher ' if teacher else ''}{where}{arm_name(spec)}"
