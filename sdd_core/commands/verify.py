"""Whether a store is what it says it is: `python -m sdd_core verify`."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from annotated_types import Predicate
from typing_extensions import Doc

from sdd_core.data.sources import set_data_dir
from sdd_core.fields import Count, Flag, Must, Natural, SpecError
from sdd_core.flags import Here, Parser, Reader, open_store
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec
from sdd_core.store import Store

DESCRIPTION = """\
Check the records of a store, then train some of its levels again and compare them.

Every record must have the checksum of its content, the key that its file is named by, and a parent that is there
with the weights that it was made from. Then finished levels of the trials are drawn, and each is trained again from
its nearest ancestor whose weights are kept. Nothing is written, moved or kept.

On a CPU all figures and the weights must be the same, byte for byte. On a GPU, and where a level was made on another
kind of device, with another minor version of torch or another number of threads, that cannot be asked: there each
accuracy must agree within 5 points, or within 1.2/sqrt(n) on a split of n images where that is more; sizes, costs and
sparsities must be equal; losses and weights are not compared.
"""
EXAMPLES = """\
examples:
  python -m sdd_core verify                                   one level in a hundred of ./store
  python -m sdd_core verify --store /data/store --sweep lambda_opt-1a2b3c --sample 20
  python -m sdd_core verify --sample 100%                      everything: as long as it took to train

exit status: 0 all agrees, 1 something differs, 2 bad input
"""
SHARES: Final = (1, 5, 10)
"""The shares of bad levels, in percent, for which it is said how likely they were to be missed."""


def _is_sample(text: str) -> bool:
    try:
        return 0 < float(text[:-1]) <= 100 if text.endswith("%") else int(text) >= 1
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is trained again, and how."""

    sweep: Annotated[str | None, Flag(default="all"), Doc("draw only from this sweep's trials")] = None
    sample: Annotated[
        str,
        Predicate(_is_sample),
        Flag(metavar="N"),
        Must("must be a whole number from 1, or a share above 0% and up to 100%"),
        Doc("levels to train again: how many, or which share of all, at least one"),
    ] = "1%"
    seed: Annotated[Natural, Doc("draws the levels")] = 0
    device: Annotated[
        str | None,
        Flag(default="the kind that made the level where there is one, else the CPU"),
        Doc("cpu, cuda, cuda:1 and so on"),
    ] = None
    threads: Annotated[Count | None, Flag(default="as many as made the level"), Doc("CPU threads")] = None


class Drawn(NamedTuple):
    """A finished level, with a trial that has it."""

    spec: TrialSpec
    record: LevelRecord


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="python -m sdd_core verify", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add(Here, "where", only=("store", "also_read", "data_dir"))
    parser.add(Options, "what")
    reader = parser.read(arguments)
    here, options = reader.read(Here), reader.read(Options)
    set_data_dir(here.data_dir)
    store = reader.collect(open_store, here.store or "./store", here.also_read, read_only=True, there=True)
    reader.refuse()
    levels = reader.collect(finished_levels, store, options.sweep)
    reader.refuse()
    drawn = draw(levels, options.sample, options.seed)
    plans = [(one, *_how(one.record, options)) for one in drawn]
    _check(reader, options, plans)
    keys = store.held_keys()
    wrong = _report_records(store, keys)
    if not (levels or wrong):
        parser.refuse([f"store {store.url!r}: no trial has a finished level, so none can be trained again"])
    left_out = set(keys) - {one.record.key for one in levels}
    if left_out and options.sweep is None:
        print(f"Records that are on no trial's curve here cannot be drawn ({len(left_out)}).")
    differing = [one for one, device, threads in plans if not _report_level(store, one, device, threads)]
    agree = f"{len(drawn) - len(differing)} agree and {len(differing)} differ"
    print(f"{len(drawn)} of {len(levels)} finished levels were trained again (seed {options.seed}): {agree}.")
    for percent in SHARES if drawn else ():
        bad = f"{percent} % of the levels were bad ({_of(percent, len(levels))} of {len(levels)})"
        missed = 100 * chance_missed(len(levels), len(drawn), percent)
        print(f"If {bad}, such a draw would miss all bad ones with a probability of {missed:.3g} %.")
    return int(bool(wrong or differing))


# --- which levels ---------------------------------------------------------------------------


def finished_levels(store: Store, sweep: str | None) -> list[Drawn]:
    """The finished levels of a sweep's trials and of their teachers', or of all, each once and in the keys' order.

    Raises `SpecError` for a sweep that is not there. A trial with a record of another version is left out.
    """
    trials = store.trials(sweep)
    if not trials and sweep is not None:
        known = ", ".join(store.sweeps()) or "no sweeps"
        raise SpecError([f"sweep {sweep!r}: not in the store {store.url}; it has {known}"])
    found: dict[str, Drawn] = {}
    for spec in (one for trial in trials for one in _with_teachers(trial)):
        try:
            curve = store.curve(spec)
        except (KeyError, TypeError):  # the check of the records names it
            continue
        for record in curve:
            found.setdefault(record.key, Drawn(spec, record))
    return [found[key] for key in sorted(found)]


def _with_teachers(spec: TrialSpec) -> Iterator[TrialSpec]:
    yield spec
    if spec.distilled and spec.teacher is not None:
        yield from _with_teachers(spec.teacher.trial)


def draw(levels: Sequence[Drawn], sample: str, seed: int) -> list[Drawn]:
    """So many of the levels, or such a share of them and at least one, drawn at random without repetition."""
    share = sample.endswith("%")
    count = math.ceil(float(sample[:-1]) / 100 * len(levels)) if share else int(sample)
    return random.Random(seed).sample(levels, min(count, len(levels)))


def _of(percent: int, total: int) -> int:
    """A share of the levels, rounded up."""
    return -(-percent * total // 100)


def chance_missed(total: int, drawn: int, percent: int) -> float:
    """The probability that a draw without repetition has no bad level when `percent` of `total` are bad."""
    return math.comb(total - _of(percent, total), drawn) / math.comb(total, drawn)


def _how(record: LevelRecord, options: Options) -> tuple[str, int]:
    """The device and the threads on which a level is trained again."""
    import torch

    kind = "cuda" if str(record.environment).startswith("cuda") and torch.cuda.is_available() else "cpu"
    return options.device or kind, options.threads or int(record.measured.get("threads", 1))


def _check(reader: Reader, options: Options, plans: Sequence[tuple[Drawn, str, int]]) -> None:
    """End the command when a device, a data set or a trial's arithmetic is not to be had here."""
    from sdd_core import machine, trajectory

    reader.faults += machine.device_faults(options.device)
    for spec, device in {(one.spec, device.split(":")[0]) for one, device, _ in plans}:
        reader.faults += trajectory.faults(spec, device)
    reader.refuse()


# --- what is said ---------------------------------------------------------------------------


def record_faults(store: Store, keys: Sequence[str]) -> list[str]:
    """What is wrong with these records of a store itself; their parents may be upstream. One sentence a fault."""
    own, faults = Store(store.url, read_only=True), []
    for key in keys:
        try:
            record = own.record(key)
        except (KeyError, TypeError) as error:
            faults.append(f"Record {key} has not the fields of this version's records ({error}).")
            continue
        if record is None:
            faults.append(f"Record {key} is damaged: it has not the checksum of its content.")
        elif record.key != key:
            faults.append(f"Record {key} is not of the level that its file is named by, but of {record.key}.")
        else:
            faults += [f"Level {record.level}, record {key}: {why}." for why in _parent_faults(store, record)]
    return faults


def _parent_faults(store: Store, record: LevelRecord) -> list[str]:
    if (record.parent is None) != (record.level == 0):
        return ["a level has no parent exactly when it is level 0"]
    if record.parent is None:
        return []
    key, weights = record.parent["key"], record.parent["weights"]
    try:
        parent = store.record(key)
    except (KeyError, TypeError):
        parent = None
    if parent is None:
        return [f"its parent {key} is not there"]
    if parent.level != record.level - 1:
        return [f"its parent {key} is level {parent.level}"]
    if str(parent.weights) != weights:
        return [f"it was made from weights {weights}, but its parent {key} has {parent.weights}"]
    return []


def _report_records(store: Store, keys: Sequence[str]) -> list[str]:
    """Say what is wrong with the records, and return it."""
    faults = record_faults(store, keys)
    verdict = f"this is wrong ({len(faults)})" if faults else "every checksum, key and parent is right"
    print(f"Every record in {store.url} was checked ({len(keys)}): {verdict}.")
    for fault in faults:
        print(f"  {fault}")
    return faults


def _report_level(store: Store, drawn: Drawn, device: str, threads: int) -> bool:
    """Train a level again and say how it compares; returns whether it agrees."""
    from sdd_core.trajectory import remake

    kept = drawn.record
    made = remake.remake(drawn.spec, kept.level, store, device=device, threads=threads)
    exact, found = remake.same_bytes(kept, made), remake.differences(kept, made)
    how = "byte for byte" if exact else "within the tolerance"
    verdict = "is not what training it again gives" if found else f"agrees {how}"
    print(f"Level {kept.level} of trial {drawn.spec.trial_id} {verdict} (record {kept.key}).", flush=True)
    for difference in found:
        print(f"  {difference}.")
    if not exact:
        there = kept.environment or "a machine that its record does not name"
        print(f"  Made on ({there}) and again on ({made.environment}): compared within the tolerance only.")
    elif found and kept.measured.get("host") != made.measured["host"]:
        print(f"  It was made on another machine, {kept.measured.get('host')}; CPUs can differ in the last bit.")
    return not found
