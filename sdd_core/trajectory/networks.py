"""The networks of a trial's finished levels: from memory, from the store, or trained again."""

from __future__ import annotations

from collections.abc import Callable

from sdd_core.data.splits import Data
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec, snapshot_key
from sdd_core.store import Arrays, Store
from sdd_core.training import retraining
from sdd_core.trajectory.level import Level, early_weights, train_level
from sdd_core.trajectory.state import State, from_arrays, new_model, to_arrays


class Networks:
    """The networks of one trial. The data are loaded, and a network is made, when they are first asked for.

    `curve` holds the records of the trial's finished levels; whoever adds a level to the trial adds it there.
    """

    def __init__(self, spec: TrialSpec, store: Store, data: Callable[[], Data]) -> None:
        self.spec, self.store, self.data = spec, store, data
        self.curve: list[LevelRecord] = []
        self._last: State | None = None
        self._teacher: Level | None = None
        self._early: Arrays | None = None

    def commit(self, made: Level) -> LevelRecord:
        """Write a level that was made. Returns the record that counts, another writer's when that came first."""
        self._keep_early(made.record.key, made.state.early)
        record, same_weights = self.store.commit(made.record, to_arrays(made.state))
        self._last = made.state if same_weights else None
        return record

    def before(self, level: int) -> Level | None:
        """The finished level before another one; None before level 0."""
        return Level(self.after(level - 1), self.curve[level - 1]) if level > 0 else None

    def after(self, level: int) -> State:
        """The network after a finished level.

        Where its weights were not kept, or are damaged, it is trained again from the nearest ancestor
        that has them. On a CPU that gives the same bytes, which are then kept again until they are dropped.
        """
        if self._last is not None and self._last.level == level:
            return self._last
        record = self.curve[level]
        arrays = self.store.weights(record)
        if arrays is not None:
            return from_arrays(arrays, new_model(self.spec, self.data()), level)
        before = self.after(level - 1) if level > 0 else None
        state = train_level(self.spec, level, before, self.teacher(), self.data(), self.early(level))
        self._keep_early(record.key, state.early)
        self.store.restore_weights(record, to_arrays(state))
        return state

    def teacher(self) -> Level | None:
        """The level that the trial is distilled from, which must be finished; None for a vanilla trial."""
        if self._teacher is None and self.spec.teacher is not None:
            record = self.store.teacher(self.spec)
            if record is not None:
                # A teacher and its student agree in every field that decides about the data.
                others = Networks(self.spec.teacher.trial, self.store, self.data)
                others.curve = self.store.curve(others.spec)[: record.level + 1]
                self._teacher = Level(others.after(record.level), record)
        return self._teacher

    def early(self, level: int) -> Arrays | None:
        """The weights of level 0 after `rewind_epoch` epochs; None for a level that does not start from them.

        Where they are neither in memory nor in the store, level 0 is trained again up to that epoch,
        which on a CPU gives the same bytes.
        """
        epoch, start = self.spec.rewind_epoch, retraining.POLICIES[self.spec.retraining].start
        if level == 0 or start != "rewound" or epoch is None or epoch == 0:
            return None
        if self._early is None:
            self._early = self.store.snapshot(snapshot_key(self.curve[0].key, epoch))
        if self._early is None:
            self._keep_early(self.curve[0].key, early_weights(self.spec, self.teacher(), self.data()))
        return self._early

    def _keep_early(self, dense_key: str, early: Arrays | None) -> None:
        """Write the early weights that a training of level 0 gave. Those of a writer that came first count."""
        epoch = self.spec.rewind_epoch
        if early is not None and epoch is not None:
            self._early = self.store.commit_snapshot(snapshot_key(dense_key, epoch), epoch, early)
