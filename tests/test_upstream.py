"""Stores that are also read: their levels are used as if they were here, and nothing is written there."""

import json

import numpy as np
import pytest

from sdd_core import trajectory
from sdd_core.blobs import open_blobs
from sdd_core.commands import trajectory as command
from sdd_core.flags import open_store
from sdd_core.spec import SpecError, TeacherRef
from sdd_core.store import Store, determined
from sweeps.kinds.grid.flags import read_options
from sweeps.run import launch
from tests.fakes import fake_levels

ARRAYS = {"model.1.weight": np.arange(6, dtype=np.float32)}
OTHER = {"model.1.weight": np.zeros(6, dtype=np.float32)}


@pytest.fixture
def upstream(any_store):
    return any_store


@pytest.fixture
def here(upstream, tmp_path):
    """An empty store that also reads another."""
    return Store(str(tmp_path / "here"), also_read=[upstream.url])


def contents(store):
    blobs = open_blobs(store.url)
    return {name: blobs.read(name) for name in blobs.names("")}


def trained(spec, store, **how):
    """Which levels a run trained, and its curve."""
    said = []
    curve = trajectory.run(spec, store, on_level=lambda record, new: said.append(new), **how)
    return said, curve


def test_a_level_of_upstream_is_read_and_not_copied(upstream, here, make_record):
    record, _ = upstream.commit(make_record(), ARRAYS)
    assert here.record(record.key) == record
    assert here.has_weights(record)
    assert np.array_equal(here.weights(record)["model.1.weight"], ARRAYS["model.1.weight"])
    assert here.origins([record.key, "f" * 64]) == {upstream.url: 1}
    assert here.held_keys() == []
    assert contents(here) == {}


def test_what_is_here_goes_first_and_upstream_in_its_order(tmp_path, make_record):
    key, urls = make_record().key, [str(tmp_path / name) for name in "abc"]
    for url, accuracy in zip(urls[1:], (0.1, 0.2), strict=True):
        Store(url).commit(make_record(test_accuracy=accuracy), ARRAYS)
    assert Store(urls[0], also_read=urls[1:]).record(key).test_accuracy == 0.1
    assert Store(urls[0], also_read=urls[:0:-1]).record(key).test_accuracy == 0.2
    Store(urls[0]).commit(make_record(test_accuracy=0.3), ARRAYS)
    store = Store(urls[0], also_read=urls[1:])
    assert store.record(key).test_accuracy == 0.3
    assert store.origins([key]) == {urls[1]: 0, urls[2]: 0}


def test_weights_are_dropped_here_alone(upstream, here, make_record):
    record, _ = upstream.commit(make_record(), ARRAYS)
    here.commit(make_record(), ARRAYS)
    here.drop_weights(record)
    assert open_blobs(here.url).names("weights") == []
    assert here.has_weights(record)
    assert upstream.weights(record) is not None


def test_an_early_epoch_of_upstream_is_read(upstream, here):
    upstream.commit_snapshot("a" * 64, 3, ARRAYS)
    assert np.array_equal(here.snapshot("a" * 64)["model.1.weight"], ARRAYS["model.1.weight"])
    held = here.commit_snapshot("a" * 64, 3, OTHER)  # upstream's came first
    assert np.array_equal(held["model.1.weight"], ARRAYS["model.1.weight"])
    assert contents(here) == {}


def test_what_is_damaged_upstream_stays_there_and_is_made_here(upstream, here, make_record):
    record, _ = upstream.commit(make_record(), ARRAYS)
    blobs = open_blobs(upstream.url)
    for name in blobs.names(""):
        blobs.delete(name)
        blobs.create(name, b"{")
    before = contents(upstream)
    assert here.record(record.key) is None
    assert here.weights(record) is None
    assert here.commit(make_record(), ARRAYS) == (record, True)
    assert here.origins([record.key]) == {upstream.url: 0}
    assert contents(upstream) == before


def test_a_trajectory_goes_on_from_upstream_which_is_left_as_it_is(tiny, upstream, here):
    _, short = trained(tiny(target_sparsity=0.3), upstream)
    before = contents(upstream)
    said, curve = trained(tiny(), here)
    assert said == [False] * len(short) + [True] * (len(curve) - len(short))
    assert contents(upstream) == before
    assert here.origins(record.key for record in curve) == {upstream.url: len(short)}
    assert len(here.held_keys()) == len(curve) - len(short)
    _, alone = trained(tiny(), Store(f"{here.url}-alone"))
    assert [determined(record) for record in curve] == [determined(record) for record in alone]


def test_a_teacher_of_upstream_is_not_trained_again(tiny, upstream, here):
    teacher = tiny(weight_decay=0.01)
    trained(teacher, upstream)
    before = contents(upstream)
    trained(tiny(alpha=0.5, teacher=TeacherRef(trial=teacher, level="pruned")), here)
    assert len(here.held_keys()) == 5  # the student's
    assert contents(upstream) == before


def test_a_store_that_is_read_only_takes_nothing(store, tiny):
    _, curve = trained(tiny(), store)
    before, looking = contents(store), Store(store.url, read_only=True)
    looking.add_trial(tiny(weight_decay=0.5))
    looking.drop_weights(curve[0])
    looking.commit_snapshot("a" * 64, 1, ARRAYS)
    with pytest.raises(AssertionError, match="only read"):
        looking.commit(curve[0], ARRAYS)
    assert contents(store) == before


# --- what users say -------------------------------------------------------------------------


def test_every_place_that_cannot_be_read_is_refused_at_once(tmp_path):
    (tmp_path / "empty").mkdir()
    places = [str(tmp_path / name) for name in ("none", "empty")]
    with pytest.raises(SpecError) as caught:
        open_store(str(tmp_path / "here"), places)
    assert list(caught.value.faults) == [f"store {place!r}: there is no store with levels there" for place in places]
    with pytest.raises(SpecError, match="Protocol not known: nowhere"):
        open_store(str(tmp_path / "here"), ["nowhere://x"])


@pytest.mark.parametrize("main", [command.main, lambda words: read_options(words)])
def test_a_missing_place_is_a_fault_of_every_command(main, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["--also-read", "nowhere", "--also-read", "neither"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "2 faults" in said
    assert said.count("there is no store with levels there") == 2


def test_the_command_says_how_many_levels_came_from_where(tmp_path, capsys, upstream):
    small = ["--epochs", "1", "--model-options", "hidden1=16", "hidden2=8", "--no-energy", "--device", "cpu"]
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    command.main([*small, "--target-sparsity", "0.3", "--store", first])
    assert "were read from" not in capsys.readouterr().out
    command.main([*small, "--target-sparsity", "0.5", "--store", second, "--also-read", first])
    assert f"3 of the 5 levels were read from {first}" in capsys.readouterr().out


def test_an_answer_says_how_many_levels_came_from_where(tmp_path, monkeypatch, capsys):
    from sweeps import ablation

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch.Tracker, "start", lambda self: None)
    flags = ["--vary", "weight_decay=0,0.01", "--seeds", "1", "--target-sparsity", "0.3", "--json", "a.json"]
    options = read_options(flags)
    one, two = (arm.trials[0] for arm in options.settings.arms)
    fake_levels(Store("up"), one, [0.9, 0.8, 0.7])
    fake_levels(options.common.store, two, [0.9, 0.8, 0.7])
    assert ablation.main([*flags, "--also-read", "up"]) == 0
    up = str(tmp_path / "up")
    assert json.loads((tmp_path / "a.json").read_text())["levels_from"] == {up: 3}
    assert f"3 of the 6 levels were read from {up}" in " ".join(capsys.readouterr().out.split())
    fake_levels(options.common.store, one, [0.9, 0.8, 0.7])
    assert ablation.main(flags) == 0
    assert "levels_from" not in json.loads((tmp_path / "a.json").read_text())
