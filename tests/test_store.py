"""The store: written once, checked when read, the same on a disk and on an object store."""

import math
import os
import stat
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdd_core import trajectory
from sdd_core.blobs import LocalBlobs, open_blobs
from sdd_core.energy import nothing
from sdd_core.spec import TrialSpec, level_keys
from sdd_core.store import Store, determined, is_complete

ARRAYS = {"model.1.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "mask.1.weight": np.array([63], np.uint8)}
OTHER = {"model.1.weight": np.zeros((2, 3), np.float32), "mask.1.weight": np.array([0], np.uint8)}


def again(store):
    """The same place, opened by another process."""
    return Store(store.url)


def names(store, folder=""):
    return open_blobs(store.url).names(folder)


def record_name(key):
    return f"levels/{key[:2]}/{key}.json"


def weights_name(record):
    return f"weights/{record.weights[:2]}/{record.weights}.safetensors"


def overwrite(store, name, content):
    blobs = open_blobs(store.url)
    blobs.delete(name)
    assert blobs.create(name, content)


def truncated(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def emptied(content):
    return b""


DAMAGES = [truncated, flipped, emptied]


# --- blobs ----------------------------------------------------------------------------------


@pytest.fixture(params=["disk", "file URL", "memory"])
def blobs(request, tmp_path):
    url = {"disk": str(tmp_path / "b"), "file URL": f"file://{tmp_path}/b", "memory": f"memory://{uuid.uuid4().hex}/b"}
    return open_blobs(url[request.param])


def test_a_blob_is_created_once(blobs):
    assert blobs.read("a/b.bin") is None
    assert not blobs.exists("a/b.bin")
    assert blobs.create("a/b.bin", b"first")
    assert not blobs.create("a/b.bin", b"second")
    assert blobs.read("a/b.bin") == b"first"
    assert blobs.exists("a/b.bin")


def test_a_blob_is_deleted_and_may_be_created_again(blobs):
    blobs.delete("a/b.bin")
    blobs.create("a/b.bin", b"first")
    blobs.delete("a/b.bin")
    assert blobs.read("a/b.bin") is None
    assert blobs.create("a/b.bin", b"second")
    assert blobs.read("a/b.bin") == b"second"


def test_blobs_are_listed_by_folder(blobs):
    assert blobs.names("a") == []
    for name in ("a/2", "a/1", "a/deep/3", "ab/4"):
        blobs.create(name, b"")
    assert blobs.names("a") == ["a/1", "a/2", "a/deep/3"]
    blobs.delete("a/1")
    assert blobs.names("a") == ["a/2", "a/deep/3"]


def test_writing_aside_leaves_nothing_behind(tmp_path):
    blobs = LocalBlobs(tmp_path)
    blobs.create("a/1", b"x")
    blobs.create("a/1", b"y")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["1"]


def test_a_blob_is_whole_and_flushed_before_it_has_its_name(tmp_path, monkeypatch):
    """So that a power cut leaves it whole or not at all: written aside, flushed, linked, and the link flushed too."""
    told, fsync, link, place = [], os.fsync, os.link, tmp_path / "a" / "1"

    def flush(handle):
        found = os.fstat(handle)
        told.append(("flush", "folder" if stat.S_ISDIR(found.st_mode) else found.st_size, place.exists()))
        fsync(handle)

    def name(aside, path):
        told.append(("link", Path(aside).read_bytes(), place.exists()))
        link(aside, path)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "link", name)
    LocalBlobs(tmp_path).create("a/1", b"whole")
    assert told == [("flush", 5, False), ("link", b"whole", False), ("flush", "folder", True)]


def test_a_blob_that_could_not_be_flushed_is_not_there(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            LocalBlobs(tmp_path).create("a/1", b"first")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []
    assert LocalBlobs(tmp_path).create("a/1", b"second")


def test_a_rival_that_comes_between_the_look_and_the_writing_wins(blobs, monkeypatch):
    """The look spares the writing; only the conditional put, or the link, says who came first."""
    blobs.create("a/b.bin", b"first")
    with monkeypatch.context() as patch:
        patch.setattr(type(blobs), "exists", lambda self, name: False)
        patch.setattr(Path, "exists", lambda self: False)
        assert not blobs.create("a/b.bin", b"second")
    assert blobs.read("a/b.bin") == b"first"


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def no_links(*paths):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    blobs = LocalBlobs(tmp_path)
    assert blobs.create("a/1", b"first")
    assert not blobs.create("a/1", b"second")
    assert blobs.read("a/1") == b"first"
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["1"]


def test_of_many_writers_at_once_one_wins_and_none_tears(tmp_path):
    contents = [bytes([i]) * 200_000 for i in range(8)]
    start, won = threading.Barrier(8), []

    def write(content):
        start.wait()
        if LocalBlobs(tmp_path).create("a/1", content):
            won.append(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert LocalBlobs(tmp_path).read("a/1") == won[0]


@pytest.mark.parametrize("url", ["nope://bucket/store", "nosuch+proto://x"])
def test_an_unknown_protocol_is_named(url):
    with pytest.raises(ValueError, match="store") as caught:
        Store(url)
    assert repr(url) in str(caught.value)


# --- levels ---------------------------------------------------------------------------------


def test_opening_and_reading_write_nothing(tmp_path):
    place = tmp_path / "store"
    store = Store(str(place))
    assert store.record("0" * 64) is None
    assert store.curve(TrialSpec()) == []
    assert store.trials() == []
    assert store.sweeps() == []
    assert not place.exists()


def test_a_committed_level_is_read_back(any_store, make_record):
    record, mine = any_store.commit(make_record(), ARRAYS)
    assert mine
    assert len(record.weights) == 64
    for store in (any_store, again(any_store)):
        assert store.record(record.key) == record
        assert store.has_weights(record)
        arrays = store.weights(record)
        assert arrays.keys() == ARRAYS.keys()
        assert all(np.array_equal(arrays[name], ARRAYS[name]) for name in ARRAYS)
        assert all(arrays[name].dtype == ARRAYS[name].dtype for name in ARRAYS)
    assert names(any_store) == [record_name(record.key), weights_name(record)]


def test_every_field_of_a_record_survives(any_store, make_record):
    record = make_record(
        3,
        emptied_layers=("1", "3"),
        val_accuracy=None,
        val_loss=None,
        val_noisy_accuracy=None,
        val_noisy_loss=None,
        train_accuracy=0.1 + 0.2,
        parent={"key": "a" * 64, "weights": "b" * 64},
        teacher="c" * 64,
        measured={"seconds": 1.5, "energy": nothing("off"), "versions": {"torch": "2"}},
    )
    record, _ = any_store.commit(record, ARRAYS)
    assert again(any_store).record(record.key) == record


@pytest.mark.parametrize("field", ["train_loss", "val_loss", "val_noisy_loss", "test_loss"])
def test_an_infinite_loss_survives(any_store, make_record, field):
    record, _ = any_store.commit(make_record(**{field: math.inf}), ARRAYS)
    assert getattr(again(any_store).record(record.key), field) == math.inf
    assert again(any_store).record(record.key) == record


def test_a_second_writer_gets_the_winners_record(any_store, make_record):
    rival = again(any_store)
    winner, _ = any_store.commit(make_record(measured={"host": "a"}), ARRAYS)
    held, mine = rival.commit(make_record(measured={"host": "b"}, test_accuracy=0.1), OTHER)
    assert held == winner
    assert not mine
    assert again(any_store).record(winner.key) == winner
    assert len(names(any_store, "weights")) == 1  # the loser's weights are gone
    assert any_store.weights(winner) is not None


def test_a_second_writer_with_the_same_weights_may_go_on_from_its_own(any_store, make_record):
    rival = again(any_store)
    winner, _ = any_store.commit(make_record(measured={"host": "a"}), ARRAYS)
    held, mine = rival.commit(make_record(measured={"host": "b"}), ARRAYS)
    assert held == winner
    assert mine
    assert any_store.weights(winner) is not None


def test_determined_leaves_out_what_was_measured_and_nothing_else(make_record):
    record = make_record()
    assert determined(record) == determined(make_record(measured={"host": "b"}))
    assert set(determined(record)) == set(record.__dataclass_fields__) - {"measured"}
    assert determined(record) != determined(make_record(test_accuracy=0.71))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_set_aside_and_may_be_written_again(any_store, make_record, damage):
    record, _ = any_store.commit(make_record(), ARRAYS)
    name = record_name(record.key)
    content = damage(open_blobs(any_store.url).read(name))
    overwrite(any_store, name, content)
    assert again(any_store).record(record.key) is None
    (aside,) = names(any_store, "damaged")
    assert aside.startswith(f"damaged/{name}.")
    assert open_blobs(any_store.url).read(aside) == content
    assert name not in names(any_store)
    replaced, mine = again(any_store).commit(make_record(measured={"host": "c"}), ARRAYS)
    assert mine
    assert again(any_store).record(record.key) == replaced


def test_a_damaged_record_in_a_writers_way_is_set_aside(any_store, make_record):
    key = make_record().key
    open_blobs(any_store.url).create(record_name(key), b"{")
    record, mine = any_store.commit(make_record(), ARRAYS)
    assert mine
    assert again(any_store).record(key) == record
    assert len(names(any_store, "damaged")) == 1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_whatever_bit_of_a_record_flips_it_is_noticed_or_harmless(make_record, place, bit, cut):
    store = Store(f"memory://{uuid.uuid4().hex}/s")
    record, _ = store.commit(make_record(train_loss=math.inf, emptied_layers=("1",)), ARRAYS)
    name = record_name(record.key)
    content = bytearray(open_blobs(store.url).read(name))
    at = int(place * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= 1 << bit
    overwrite(store, name, bytes(content))
    assert again(store).record(record.key) in (None, record)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_count_as_missing(any_store, make_record, damage):
    record, _ = any_store.commit(make_record(), ARRAYS)
    name = weights_name(record)
    overwrite(any_store, name, damage(open_blobs(any_store.url).read(name)))
    assert any_store.weights(record) is None
    assert not any_store.has_weights(record)
    assert len(names(any_store, "damaged")) == 1
    assert any_store.record(record.key) == record  # the level is finished all the same
    assert not any_store.restore_weights(record, OTHER)
    assert any_store.weights(record) is None
    assert any_store.restore_weights(record, ARRAYS)
    assert np.array_equal(any_store.weights(record)["model.1.weight"], ARRAYS["model.1.weight"])


def test_dropped_weights_leave_the_level(any_store, make_record):
    record, _ = any_store.commit(make_record(), ARRAYS)
    any_store.drop_weights(record)
    any_store.drop_weights(record)
    assert any_store.weights(record) is None
    assert again(any_store).record(record.key) == record
    assert names(any_store, "damaged") == []


def test_weights_without_a_record_are_no_level(any_store, make_record):
    """A writer killed between its two writes."""
    record, _ = any_store.commit(make_record(), ARRAYS)
    open_blobs(any_store.url).delete(record_name(record.key))
    assert again(any_store).record(record.key) is None
    assert again(any_store).commit(make_record(), ARRAYS) == (record, True)


# --- curves ---------------------------------------------------------------------------------


def test_a_curve_is_the_finished_levels_from_the_first_on(any_store, make_record):
    spec = TrialSpec(target_sparsity=0.45)  # of 1000 weights: levels 0 to 3
    keys = [key for _, key in zip(range(6), level_keys(spec), strict=False)]
    for level in (0, 1, 3):
        any_store.commit(make_record(level, key=keys[level]), ARRAYS)
    assert [r.level for r in any_store.curve(spec)] == [0, 1]
    assert any_store.next_key(spec) == keys[2]
    any_store.commit(make_record(2, key=keys[2]), ARRAYS)
    any_store.commit(make_record(4, key=keys[4]), ARRAYS)
    assert [r.level for r in any_store.curve(spec)] == [0, 1, 2, 3]  # not past its target
    assert any_store.next_key(spec) == keys[5]
    assert [r.level for r in any_store.curve(spec.replace(target_sparsity=0.9))] == [0, 1, 2, 3, 4]
    assert any_store.curve(spec.replace(weight_decay=0.5)) == []


def test_complete_is_the_target_or_nothing_left_to_prune(make_record):
    spec = TrialSpec(target_sparsity=0.3)
    levels = [make_record(level) for level in range(3)]
    assert [is_complete(levels[:n], spec) for n in range(4)] == [False, False, False, True]
    assert is_complete([make_record(0, prunable=2, remaining=2)], spec)


# --- trials and sweeps ----------------------------------------------------------------------


def by_id(*specs):
    return sorted(specs, key=lambda spec: spec.trial_id)


def test_trials_and_their_sweeps(any_store):
    one, two, three = (TrialSpec(weight_decay=value) for value in (0.0, 0.01, 0.1))
    any_store.add_trial(one)
    any_store.add_trial(two, "first")
    any_store.add_trial(three, "first")
    any_store.add_trial(three, "second")
    any_store.add_trial(three, "second")  # a repetition changes nothing
    assert any_store.sweeps() == ["first", "second"]
    assert any_store.trials() == by_id(one, two, three)
    assert any_store.trials("first") == by_id(two, three)
    assert again(any_store).trials("second") == [three]
    assert any_store.trials("third") == []
    assert len(names(any_store)) == 6


def test_of_two_targets_of_one_trial_the_larger_counts(any_store):
    short, long = TrialSpec(target_sparsity=0.5), TrialSpec(target_sparsity=0.998)
    assert short.trial_id == long.trial_id
    for spec in (long, short):
        any_store.add_trial(spec, "sweep")
    any_store.add_trial(short, "short sweep")
    assert any_store.trials() == [long]
    assert any_store.trials("sweep") == [long]
    assert any_store.trials("short sweep") == [short]


def test_what_another_version_wrote_is_passed_over(any_store):
    any_store.add_trial(TrialSpec())
    any_store._create("trials/abc@0.9.json", {"trial_id": "abc", "spec": {"future_field": 1}})
    open_blobs(any_store.url).create("trials/def@0.9.json", b"not JSON")
    assert any_store.trials() == [TrialSpec()]
    assert len(names(any_store, "damaged")) == 1


# --- checks ---------------------------------------------------------------------------------


def test_a_probe_is_read_by_others_until_it_is_removed(any_store):
    token = any_store.write_probe()
    assert again(any_store).read_probe(token)
    assert not again(any_store).read_probe("0" * 32)
    any_store.remove_probe(token)
    assert not again(any_store).read_probe(token)


def test_a_store_that_works_has_no_fault_and_keeps_no_probe(any_store):
    assert any_store.fault() is None
    assert names(any_store) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    place = str(tmp_path / "file" / "store")
    fault = Store(place).fault()
    assert fault is not None
    assert repr(place) in fault
    assert "cannot be written to" in fault


# --- damage and repair of a real trajectory -------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """The curve of the tiny trial, up to 80 % sparsity, as it is when nothing goes wrong."""
    return trajectory.run(tiny(target_sparsity=0.8), Store(str(tmp_path_factory.mktemp("undisturbed"))))


def same(curve, expected):
    return [determined(record) for record in curve] == [determined(record) for record in expected]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("level", [0, 2, 4])
def test_a_level_whose_record_is_damaged_is_trained_again_with_the_same_result(
    tiny, any_store, undisturbed, level, damage
):
    spec = tiny(target_sparsity=0.5)
    trajectory.run(spec, any_store)
    name = record_name(undisturbed[level].key)
    overwrite(any_store, name, damage(open_blobs(any_store.url).read(name)))
    trained = []
    curve = trajectory.run(spec, again(any_store), on_level=lambda record, new: trained.append(new))
    assert trained == [k == level for k in range(5)]
    assert same(curve, undisturbed[:5])
    assert [n.split("/")[1] for n in names(any_store, "damaged")] == ["levels"]
    assert same(trajectory.run(spec.replace(target_sparsity=0.8), again(any_store)), undisturbed)


def remove(content):
    return None


@pytest.mark.parametrize("damage", [*DAMAGES, remove])
@pytest.mark.parametrize("which", ["last", "all"])
def test_weights_that_are_damaged_or_missing_are_made_again(tiny, any_store, undisturbed, which, damage):
    short = trajectory.run(tiny(target_sparsity=0.5), any_store)
    victims = [short[-1]] if which == "last" else [r for r in short if any_store.has_weights(r)]
    for record in victims:
        blobs, name = open_blobs(any_store.url), weights_name(record)
        content = damage(blobs.read(name))
        blobs.delete(name)
        if content is not None:
            blobs.create(name, content)
    trained = []
    store = again(any_store)
    curve = trajectory.run(tiny(target_sparsity=0.8), store, on_level=lambda record, new: trained.append(new))
    assert same(curve, undisturbed)
    assert trained == [level >= 5 for level in range(len(undisturbed))]
    if damage is not remove:
        assert len(names(any_store, "damaged")) == len(victims)
