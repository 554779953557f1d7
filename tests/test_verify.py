"""`python -m sdd_core verify`: a clean store passes, and what was altered is found and named."""

import dataclasses
import json

import pytest

from sdd_core import trajectory
from sdd_core.blobs import open_blobs
from sdd_core.commands import verify
from sdd_core.commands.verify import chance_missed, draw
from sdd_core.spec import TeacherRef
from sdd_core.store import Store, determined
from sdd_core.trajectory import remake


@pytest.fixture
def filled(tiny, store):
    """A store with the tiny trial; gives the trial's curve too."""
    store.add_trial(tiny(), "sweep")
    return store, trajectory.run(tiny(), store)


@pytest.fixture
def run(capsys):
    """Runs the command on a store; gives its exit status and what it said."""

    def run(store, *arguments):
        status = verify.main(["--store", store.url, "--device", "cpu", *arguments])
        return status, capsys.readouterr().out

    return run


def contents(store):
    blobs = open_blobs(store.url)
    return {name: blobs.read(name) for name in blobs.names("")}


def rewrite(store, key, change, *, name=None):
    """Change the form of a record, and seal it with the checksum of what it holds then."""
    path = f"levels/{key[:2]}/{key}.json"
    form = json.loads(open_blobs(store.url).read(path))
    del form["checksum"]
    change(form)
    if name is None:
        open_blobs(store.url).delete(path)
    assert store._create(name or path, form)


def test_a_clean_store_agrees_and_stays_as_it_is(run, filled):
    store, _ = filled
    before = contents(store)
    status, said = run(store, "--sample", "100%")
    assert status == 0, said
    assert f"Every record in {store.url} was checked (5): every checksum, key and parent is right." in said
    assert said.count("agrees byte for byte") == 5
    assert "5 of 5 finished levels were trained again (seed 0): 5 agree and 0 differ." in said
    assert contents(store) == before


def test_a_level_whose_weights_and_early_epoch_are_lost_is_made_again(run, tiny, store):
    spec = tiny(epochs=2, retraining="rewind_weights", rewind_epoch=1)
    store.add_trial(spec)
    trajectory.run(spec, store)
    for folder in ("weights", "snapshots"):
        for name in open_blobs(store.url).names(folder):
            open_blobs(store.url).delete(name)
    before = contents(store)
    assert run(store, "--sample", "100%")[0] == 0
    assert contents(store) == before


def test_a_student_and_its_teacher_are_drawn(run, tiny, store):
    spec = tiny(alpha=0.5, teacher=TeacherRef(trial=tiny(weight_decay=0.01), level="dense"))
    store.add_trial(spec)
    trajectory.run(spec, store)
    status, said = run(store, "--sample", "6")
    assert status == 0, said
    assert "6 of 6 finished levels" in said


def test_a_record_that_was_altered_and_sealed_again_is_found(run, filled):
    store, curve = filled
    rewrite(store, curve[2].key, lambda form: form["result"].update(test_accuracy=0.99))
    status, said = run(store, "--sample", "100%")
    assert status == 1
    assert "every checksum, key and parent is right" in said
    spec = store.trials()[0]
    assert f"Level 2 of trial {spec.trial_id} is not what training it again gives (record {curve[2].key})" in said
    assert f"  test_accuracy is 0.99 in the store and {curve[2].test_accuracy!r} trained again." in said
    assert "4 agree and 1 differ." in said


def test_a_damaged_record_is_named_and_stays(run, filled):
    store, curve = filled
    blobs, name = open_blobs(store.url), f"levels/{curve[3].key[:2]}/{curve[3].key}.json"
    blobs.delete(name)
    blobs.create(name, b"{}")
    before = contents(store)
    status, said = run(store)
    assert status == 1
    assert f"Record {curve[3].key} is damaged" in said
    assert f"Level 4, record {curve[4].key}: its parent {curve[3].key} is not there." in said
    assert "was checked (5): this is wrong (2)" in said
    assert "Records that are on no trial's curve here cannot be drawn (2)." in said
    assert contents(store) == before


def test_a_record_under_another_name_is_named(run, filled):
    store, curve = filled
    other = "e" * 64
    rewrite(store, curve[1].key, lambda form: None, name=f"levels/ee/{other}.json")
    status, said = run(store)
    assert status == 1
    assert f"Record {other} is not of the level that its file is named by, but of {curve[1].key}." in said


def test_a_record_of_another_version_is_named(run, filled):
    store, curve = filled
    rewrite(store, curve[1].key, lambda form: form["result"].update(future=1))
    status, said = run(store)
    assert status == 1
    assert f"Record {curve[1].key} has not the fields of this version's records" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "b" * 64}, "it was made from weights " + "b" * 64 + ", but its parent"),
        ({"key": "c" * 64}, "its parent " + "c" * 64 + " is not there"),
    ],
)
def test_a_wrong_parent_is_named(run, filled, change, words):
    store, curve = filled
    rewrite(store, curve[2].key, lambda form: form["parent"].update(change))
    status, said = run(store)
    assert status == 1
    assert f"Level 2, record {curve[2].key}: {words}" in said


def test_a_parent_may_be_upstream(run, tiny, tmp_path, filled):
    store, _ = filled
    long, here = tiny(target_sparsity=0.6), Store(str(tmp_path / "here"), also_read=[store.url])
    here.add_trial(long)
    trajectory.run(long, here)
    assert run(here, "--also-read", store.url, "--sample", "100%")[0] == 0
    assert "is not there" in run(here)[1]


def test_a_level_of_other_threads_is_compared_within_the_tolerance(run, filled):
    store, _ = filled
    status, said = run(store, "--threads", "2", "--sample", "1")
    assert status == 0, said
    assert said.count("agrees within the tolerance") == 1
    assert "1 thread) and again on (cpu" in said


def made_on(record, device="cpu: x", torch="2.11.0", threads=1, **changes):
    measured = {"device": device, "threads": threads, "versions": {"torch": torch}}
    return dataclasses.replace(record, measured=measured, **changes)


@pytest.mark.parametrize(
    ("other", "exact"),
    [
        ({}, True),
        ({"torch": "2.11.1+cpu"}, True),
        ({"device": "cpu: another"}, True),
        ({"torch": "2.12.0"}, False),
        ({"threads": 2}, False),
        ({"device": "cuda: H100"}, False),
    ],
)
def test_bytes_are_asked_for_in_one_environment_alone(make_record, other, exact):
    assert remake.same_bytes(made_on(make_record()), made_on(make_record(), **other)) == exact


def test_a_gpu_never_promises_bytes(make_record):
    record = made_on(make_record(), device="cuda: H100")
    assert not remake.same_bytes(record, record)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"weights": "a" * 64, "test_loss": 9.0, "sparse_multiply_adds": 1}, []),
        ({"train_accuracy": 0.549}, []),  # of 1,151 images
        ({"train_accuracy": 0.551}, ["train_accuracy"]),
        ({"val_accuracy": 0.73}, []),  # of 287, where the tolerance is 7.1 points
        ({"val_accuracy": 0.72}, ["val_accuracy"]),
        ({"val_noisy_accuracy": None}, ["val_noisy_accuracy"]),
        ({"pflop": 0.26, "remaining": 999}, ["remaining", "pflop"]),
    ],
)
def test_what_must_agree_elsewhere(make_record, changes, names):
    found = remake.differences(made_on(make_record()), made_on(make_record(), threads=2, **changes))
    assert {difference.split()[0] for difference in found} == set(names)


def test_in_one_environment_everything_must_agree(make_record):
    record = make_record()
    assert determined(record) == determined(made_on(record))
    (found,) = remake.differences(made_on(record), made_on(record, test_loss=1.1000001))
    assert found == "test_loss is 1.1 in the store and 1.1000001 trained again"


# --- the draw -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "drawn", "percent", "missed"),
    [
        (100, 1, 1, 0.99),
        (100, 10, 10, 0.33047621),  # C(90, 10) / C(100, 10)
        (5, 1, 1, 0.8),  # one of five at least
        (5, 5, 1, 0.0),
        (100_000, 1000, 1, 4e-5),
    ],
)
def test_the_chance_that_bad_levels_are_missed(total, drawn, percent, missed):
    assert chance_missed(total, drawn, percent) == pytest.approx(missed, rel=1e-6 if total < 1000 else 0.1)


@pytest.mark.parametrize(("sample", "count"), [("1%", 1), ("10%", 3), ("100%", 25), ("7", 7), ("99", 25)])
def test_how_many_are_drawn(sample, count):
    levels = list(range(25))
    assert len(set(draw(levels, sample, 0))) == count
    assert draw(levels, sample, 0) == draw(levels, sample, 0)


def test_another_seed_draws_others():
    assert draw(list(range(100)), "5", 0) != draw(list(range(100)), "5", 1)


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["0", "0%", "101%", "1.5", "few", "nan%", "-1"])
def test_a_bad_sample_is_refused(filled, capsys, sample):
    assert f"sample {sample!r}: must be a whole number from 1" in refused(capsys, filled[0].url, f"--sample={sample}")


def test_a_place_or_sweep_that_is_not_there_is_refused(tmp_path, filled, capsys):
    assert "there is no store with levels there" in refused(capsys, str(tmp_path / "none"))
    assert "2 faults" in refused(capsys, str(tmp_path / "none"), "--also-read", str(tmp_path / "neither"))
    assert "sweep 'no': not in the store" in refused(capsys, filled[0].url, "--sweep", "no")
    assert "device 'tpu0'" in refused(capsys, filled[0].url, "--device", "tpu0")
    assert not (tmp_path / "none").exists()


def test_levels_of_no_trial_cannot_be_verified(tiny, store, capsys):
    trajectory.run(tiny(target_sparsity=0.1), store)
    assert "no trial has a finished level" in refused(capsys, store.url)


def refused(capsys, url, *arguments):
    with pytest.raises(SystemExit) as ended:
        verify.main(["--store", url, *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err
