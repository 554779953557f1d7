"""The store: finished levels, trials and memberships, on disk or on an object store.

    levels/ab/<key>.json                    one record a level; the level exists when this does
    weights/ab/<sha256>.safetensors         weights and masks, named by their checksum
    snapshots/ab/<key>.json                 names the weights of an early epoch of a level 0
    trials/<trial_id>@<target>.json         a trial's full spec
    sweeps/<sweep>/<trial_id>@<target>.json membership of a trial in a sweep
    damaged/...                             what failed its checksum, set aside

Every file is written once and never replaced: weights first, then the record that names them.

A store can also read others, called upstream: a level, weights or an early epoch that are missing here are looked for
there, in the order in which the stores were named. Upstream is only read. Nothing is copied from it, written to it or
deleted in it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from sdd_core.blobs import ReadOnlyBlobs, open_blobs
from sdd_core.curve import best_level
from sdd_core.record import LevelRecord
from sdd_core.spec import (
    SCHEMA,
    SpecError,
    TeacherRef,
    TrialSpec,
    canonical_json,
    environment_key,
    from_json,
    last_level,
    level_key,
    level_keys,
    to_json,
)

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]

RECORDS: Final = 8192
"""How many records a store remembers, at some 3 KB each: those of a search, and not those of a sweep of thousands."""

_IDENTITY: Final = ("key", "level", "parent", "teacher", "weights", "measured")


class _MissingError(Exception):
    """There is no such record. An exception, since what is missing must not be remembered."""


class Need(NamedTuple):
    """What has to be run before a distilled trial can: levels of a teacher's trial, or their weights."""

    trial: TrialSpec
    last_level: int | None
    """The level whose weights are needed, at which the trial may end; None: the whole trajectory."""


class Diverged(NamedTuple):
    """A teacher's trial whose training diverged, and what is said of it."""

    trial: TrialSpec
    reason: str


class Store:
    """A store at a path or fsspec URL. Opening writes nothing.

    One that is `read_only` writes nothing later either, and leaves what is damaged where it is. `also_read` are the
    upstream stores. With an `environment` class its curves hold levels of that class alone; see `level_keys`.
    """

    def __init__(
        self, url: str, *, read_only: bool = False, also_read: Sequence[str] = (), environment: str | None = None
    ) -> None:
        self.url, self.read_only, self.also_read = url, read_only, tuple(also_read)
        self.environment = environment
        self._blobs = ReadOnlyBlobs(open_blobs(url)) if read_only else open_blobs(url)
        self._upstream = tuple(Store(other, read_only=True) for other in also_read)
        self._remembered = functools.lru_cache(RECORDS)(self._read_record)

    # --- levels ---------------------------------------------------------------------------

    def record(self, key: str) -> LevelRecord | None:
        """The finished level with this key; None when there is none or its record was damaged (set aside)."""
        try:
            return self._remembered(key)[0]
        except _MissingError:
            return None

    def _read_record(self, key: str) -> tuple[LevelRecord, str]:
        """A level's record, and the URL of the store that holds it."""
        for store in (self, *self._upstream):
            form = store._read(_record_name(key))
            if form is not None:
                return _from_form(form), store.url
        raise _MissingError

    def held_keys(self) -> list[str]:
        """The keys that the files of records here are named by, upstream's not among them."""
        return [name.rsplit("/", 1)[1].removesuffix(".json") for name in self._blobs.names("levels")]

    def origins(self, keys: Iterable[str]) -> dict[str, int]:
        """How many of these levels each upstream store holds in the place of this one, by the store's URL."""
        if not self.also_read:  # nothing needs to be read again
            return {}
        found = Counter(self._remembered(key)[1] for key in set(keys) if self.record(key) is not None)
        return {url: found[url] for url in self.also_read}

    def commit(self, record: LevelRecord, arrays: Arrays) -> tuple[LevelRecord, bool]:
        """Write a finished level: its weights, then its record. Returns the record that counts.

        When another writer came first that record is the other's; the second value then says whether
        its weights are `arrays` all the same. `record.weights` is filled in here.
        """
        assert not self.read_only, f"store {self.url!r} is only read"
        content, checksum = _pack(arrays)
        self._blobs.create(_weights_name(checksum), content)
        record = dataclasses.replace(record, weights=checksum)
        while not self._create(_record_name(record.key), _to_form(record)):
            winner = self.record(record.key)
            if winner is None:  # a damaged record was in the way, and has just been set aside
                continue
            if winner.weights != checksum:
                self._blobs.delete(_weights_name(checksum))
            return winner, winner.weights == checksum
        return record, True

    def weights(self, record: LevelRecord) -> Arrays | None:
        """A level's weights, checked; None when they were not kept or are damaged (set aside)."""
        return None if record.weights is None else self._arrays(record.weights)

    def has_weights(self, record: LevelRecord) -> bool:
        """Whether a level's weights were kept, unchecked."""
        if record.weights is None:
            return False
        name = _weights_name(record.weights)
        return any(store._blobs.exists(name) for store in (self, *self._upstream))

    def restore_weights(self, record: LevelRecord, arrays: Arrays) -> bool:
        """Keep weights that were made again; False when they are not the record's, bit for bit."""
        content, checksum = _pack(arrays)
        if checksum != record.weights:
            return False
        self._blobs.create(_weights_name(checksum), content)
        return True

    def drop_weights(self, record: LevelRecord) -> None:
        """Delete a level's weights here; its record stays, and they can be made again."""
        if record.weights is not None:
            self._blobs.delete(_weights_name(record.weights))

    def curve(self, spec: TrialSpec) -> list[LevelRecord]:
        """The finished levels of a trial from level 0 on, up to its target sparsity; [] when there are none."""
        found: list[LevelRecord] = []
        for key in self.level_keys(spec):
            record = self.record(key)
            if record is None:
                break
            found.append(record)
            if is_complete(found, spec):
                break
        return found

    def level_keys(self, spec: TrialSpec) -> Iterator[str]:
        """The keys of a trial's levels without end; none while its teacher's level is not known.

        A store of one environment class leaves a trajectory where it finds another class's level: that level and
        those after it have keys of their own, so they are trained anew from the level before.
        """
        if not spec.distilled:
            yield from self.keys_after(spec, None)
        elif (teacher := self.teacher(spec)) is not None:
            yield from self.keys_after(spec, teacher.key)

    def keys_after(self, spec: TrialSpec, teacher: str | None) -> Iterator[str]:
        """The keys of a trial's levels without end when it learns from the level with this key, or from none."""
        if self.environment is None:
            yield from level_keys(spec, teacher)
            return
        key: str | None = None
        for level in itertools.count():
            key = level_key(spec, level, key, teacher)
            record = self.record(key)
            if record is not None and record.environment != self.environment:
                key = environment_key(key, self.environment)
            yield key

    def next_key(self, spec: TrialSpec) -> str | None:
        """The key of the level that a trial trains next; None while its teacher's level is not known."""
        return next((key for key in self.level_keys(spec) if self.record(key) is None), None)

    # --- teachers -------------------------------------------------------------------------

    def teacher(self, spec: TrialSpec) -> LevelRecord | None:
        """The finished level that a distilled trial learns from; None while there is none, or no teacher.

        `pruned` is the level with the best deciding accuracy on clean labels over the teacher's whole
        trajectory, ties to the sparser (paper, Sec. 5): known when that has run to its end.
        """
        if not spec.distilled or spec.teacher is None:
            return None
        curve = self.curve(spec.teacher.trial)
        if spec.teacher.level == "pruned" and not is_complete(curve, spec.teacher.trial):
            return None
        level = _resolved(spec.teacher, curve)
        if level is None or level >= len(curve) or _has_diverged(spec.teacher, curve):
            return None
        return curve[level]

    def diverged_teacher(self, spec: TrialSpec) -> Diverged | None:
        """The teacher that a trial can never learn from, because it has diverged: its own, or a teacher of that."""
        if not spec.distilled or spec.teacher is None:
            return None
        teacher = spec.teacher.trial
        before, curve = self.diverged_teacher(teacher), self.curve(teacher)
        if before is not None or not _has_diverged(spec.teacher, curve):
            return before
        why = f"its training diverged at level {curve[-1].level}"
        return Diverged(teacher, f"{why}; a smaller learning_rate than {teacher.learning_rate:g} may help")

    def teacher_needed(self, spec: TrialSpec) -> Need | None:
        """What has to be run before a trial, or None: of a chain of teachers what comes first.

        Levels of its teacher that are missing, or the weights of the one it learns from.
        """
        if not spec.distilled or spec.teacher is None:
            return None
        before = self.teacher_needed(spec.teacher.trial)
        record = self.teacher(spec)
        if before is not None and record is None:
            return before
        if record is None:
            return Need(spec.teacher.trial, _resolved(spec.teacher, []))
        return None if self.has_weights(record) else Need(spec.teacher.trial, record.level)

    # --- snapshots ------------------------------------------------------------------------

    def snapshot(self, key: str) -> Arrays | None:
        """The weights of an early epoch, checked; None when there are none or they are damaged (set aside)."""
        form = self._first(lambda store: store._read(_snapshot_name(key)))
        return None if form is None else self._arrays(form["weights"])

    def commit_snapshot(self, key: str, epoch: int, arrays: Arrays) -> Arrays:
        """Write the weights of an early epoch, then the record that names them. Returns those that count.

        They are another writer's when it came first. Where the record is there and its weights are
        lost, they are kept again only when they are the same bytes.
        """
        content, checksum = _pack(arrays)
        form = self._first(lambda store: store._read(_snapshot_name(key)))
        # Reading first sets aside what is damaged, which would be in the way.
        if (form is None or form["weights"] == checksum) and self._arrays(checksum) is None:
            self._blobs.create(_weights_name(checksum), content)
        if form is None:
            self._create(_snapshot_name(key), {"schema": SCHEMA, "key": key, "epoch": epoch, "weights": checksum})
        held = self.snapshot(key)
        return arrays if held is None else held

    # --- trials and sweeps ----------------------------------------------------------------

    def add_trial(self, spec: TrialSpec, sweep: str | None = None) -> None:
        """Write down that a trial exists, and that it belongs to `sweep`. A repetition changes nothing."""
        self._create(f"trials/{_trial_name(spec)}.json", {"trial_id": spec.trial_id, "spec": to_json(spec)})
        if sweep is not None:
            member = {"sweep": sweep, "trial_id": spec.trial_id, "target_sparsity": spec.target_sparsity}
            self._create(f"sweeps/{sweep}/{_trial_name(spec)}.json", member)

    def trials(self, sweep: str | None = None) -> list[TrialSpec]:
        """The trials of a sweep, or all; of targets that differ only the largest, in the order of their ids."""
        specs: dict[str, TrialSpec] = {}
        for name in self._blobs.names("trials" if sweep is None else f"sweeps/{sweep}"):
            form = self._read(f"trials/{name.rsplit('/', 1)[1]}")
            if form is None:
                continue
            try:
                spec = from_json(form["spec"])
            except (SpecError, KeyError, TypeError):  # written by a version with other fields
                continue
            held = specs.get(spec.trial_id)
            if held is None or held.target_sparsity < spec.target_sparsity:
                specs[spec.trial_id] = spec
        return [specs[trial_id] for trial_id in sorted(specs)]

    def sweeps(self) -> list[str]:
        """The names of all sweeps."""
        return sorted({name.split("/")[1] for name in self._blobs.names("sweeps")})

    # --- checks ---------------------------------------------------------------------------

    def fault(self) -> str | None:
        """Why nothing can be written here, or None; writes and removes a probe."""
        name = f"probes/{uuid.uuid4().hex}"
        try:
            self._blobs.create(name, b"probe")
            same = self._blobs.read(name) == b"probe"
            self._blobs.delete(name)
        except Exception as error:  # any backend's own error is an answer here
            return f"store {self.url!r}: cannot be written to ({type(error).__name__}: {error})"
        return None if same else f"store {self.url!r}: does not read back what was written"

    def unreadable(self) -> str | None:
        """Why there is no store to be read here, or None."""
        try:
            there = self._blobs.exists("levels")
            self._blobs.read(_record_name("0" * 64))  # a folder may be seen and yet not be open to us
        except Exception as error:  # any backend's own error is an answer here
            return f"store {self.url!r}: cannot be read ({type(error).__name__}: {error})"
        return None if there else f"store {self.url!r}: there is no store with levels there"

    def upstream_faults(self) -> list[str]:
        """Why upstream stores cannot be read, one sentence each."""
        return [fault for store in self._upstream if (fault := store.unreadable()) is not None]

    def write_probe(self) -> str:
        """Leave a probe for other machines to read with `read_probe`; `remove_probe` takes it away."""
        token = uuid.uuid4().hex
        self._blobs.create(f"probes/{token}", token.encode())
        return token

    def read_probe(self, token: str) -> bool:
        """Whether another machine's probe can be read from here."""
        return self._blobs.read(f"probes/{token}") == token.encode()

    def remove_probe(self, token: str) -> None:
        """Take a probe away."""
        self._blobs.delete(f"probes/{token}")

    # --- files ----------------------------------------------------------------------------

    def _create(self, name: str, form: Mapping[str, Any]) -> bool:
        sealed = dict(form) | {"checksum": _checksum(form)}
        return self._blobs.create(name, (json.dumps(sealed, indent=1, sort_keys=True) + "\n").encode())

    def _read(self, name: str) -> dict[str, Any] | None:
        content = self._blobs.read(name)
        if content is None:
            return None
        try:
            form = json.loads(content)
            if form.pop("checksum") == _checksum(form):
                return dict(form)
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
        self._set_aside(name, content)
        return None

    def _first(self, look: Callable[[Store], T | None]) -> T | None:
        """What this store has, or else the first upstream store that has it."""
        found = (look(store) for store in (self, *self._upstream))
        return next((one for one in found if one is not None), None)

    def _arrays(self, checksum: str) -> Arrays | None:
        return self._first(lambda store: store._own_arrays(checksum))

    def _own_arrays(self, checksum: str) -> Arrays | None:
        name = _weights_name(checksum)
        content = self._blobs.read(name)
        if content is None:
            return None
        if hashlib.sha256(content).hexdigest() == checksum:
            try:
                return safetensors.numpy.load(content)
            except SafetensorError:
                pass
        self._set_aside(name, content)
        return None

    def _set_aside(self, name: str, content: bytes) -> None:
        """Move what is damaged out of the way, keeping it for whoever wants to know why."""
        self._blobs.create(f"damaged/{name}.{time.time_ns()}", content)
        self._blobs.delete(name)


def _resolved(teacher: TeacherRef, curve: list[LevelRecord]) -> int | None:
    """The number of the level that a reference means on a whole curve; None for `pruned` of an empty one."""
    if teacher.level == "pruned":
        return best_level([record.deciding_accuracy() for record in curve])
    return 0 if teacher.level == "dense" else int(teacher.level)


def _has_diverged(teacher: TeacherRef, curve: list[LevelRecord]) -> bool:
    """Whether a teacher's curve diverged at a level that its students need, or before it."""
    return bool(curve) and curve[-1].diverged and len(curve) <= teacher.levels_needed(len(curve))


def is_complete(curve: list[LevelRecord], spec: TrialSpec) -> bool:
    """Whether a curve has run to its end: its target sparsity, nothing left to prune, or a level that diverged."""
    if not curve:
        return False
    end = last_level(curve[0].prunable, spec.prune_fraction, spec.target_sparsity)
    return curve[-1].diverged or curve[-1].level >= end


def _record_name(key: str) -> str:
    return f"levels/{key[:2]}/{key}.json"


def _snapshot_name(key: str) -> str:
    return f"snapshots/{key[:2]}/{key}.json"


def _weights_name(checksum: str) -> str:
    return f"weights/{checksum[:2]}/{checksum}.safetensors"


def _trial_name(spec: TrialSpec) -> str:
    return f"{spec.trial_id}@{spec.target_sparsity!r}"


def _checksum(form: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(form).encode()).hexdigest()


def _pack(arrays: Arrays) -> tuple[bytes, str]:
    content = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    return content, hashlib.sha256(content).hexdigest()


def _to_form(record: LevelRecord) -> dict[str, Any]:
    """A record as JSON: identity, `result` (what the key determines) and `measured` (what it does not)."""
    form = dataclasses.asdict(record)
    result = {name: value for name, value in form.items() if name not in _IDENTITY}
    result = {name: "inf" if value == math.inf else value for name, value in result.items()}  # JSON has no infinity
    return {"schema": SCHEMA} | {name: form[name] for name in _IDENTITY} | {"result": result}


def _from_form(form: Mapping[str, Any]) -> LevelRecord:
    result: dict[str, Any] = {n: math.inf if value == "inf" else value for n, value in form["result"].items()}
    result["emptied_layers"] = tuple(result["emptied_layers"])
    return LevelRecord(**{name: form[name] for name in _IDENTITY}, **result)


def checksum_of(arrays: Arrays) -> str:
    """The checksum that a record names these weights by."""
    return _pack(arrays)[1]


def determined(record: LevelRecord) -> dict[str, Any]:
    """What the key determines: everything but `measured`. Equal between two runs of one level on one machine."""
    form = dataclasses.asdict(record)
    form.pop("measured")
    return form
