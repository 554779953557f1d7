"""Environment classes: what a level's bytes depend on beside its spec, and how a store keeps them apart."""

import dataclasses
from pathlib import Path

import pytest

from sdd_core import machine, trajectory
from sdd_core.commands.trajectory import main
from sdd_core.record import environment_class, environments
from sdd_core.store import Store, determined
from sweeps import lambda_opt
from tests.builders import level_record

OTHER = "cuda, torch 2.11"


def made_in(device, threads, torch):
    return {"device": f"{device}: some name", "threads": threads, "versions": {"torch": torch}}


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (made_in("cpu", 1, "2.15.0+cpu"), "cpu, torch 2.15, 1 thread"),
        (made_in("cpu", 1, "2.15.1"), "cpu, torch 2.15, 1 thread"),
        (made_in("cpu", 4, "2.11.0"), "cpu, torch 2.11, 4 threads"),
        (made_in("cuda", 4, "2.15.0+cu130"), "cuda, torch 2.15"),
        ({"seconds": 1.0}, None),
    ],
)
def test_a_level_says_what_made_it(measured, expected):
    assert level_record(measured=measured).environment == expected


def test_levels_are_counted_by_class_each_once():
    one, two = (
        level_record(n, measured=made_in(device, 1, "2.15"), key=str(n)) for n, device in enumerate(("cpu", "cuda"))
    )
    assert environments([[one, two], [one]]) == {environment_class("cpu", "2.15", 1): 1, "cuda, torch 2.15": 1}


def begin_elsewhere(store, spec, from_level):
    """Run a trial, then let its levels from one on look as if another kind of device had made them."""
    curve = trajectory.run(spec, store, keep="all")
    for record in curve[from_level:]:
        weights = store.weights(record)
        next((Path(store.url) / "levels").rglob(f"{record.key}.json")).unlink()
        foreign = dataclasses.replace(record, measured=record.measured | made_in("cuda", 1, "2.11.0"))
        Store(store.url).commit(foreign, weights)
    return curve


def test_a_curve_that_was_begun_elsewhere_goes_on_and_says_so(tiny, store):
    spec = tiny()
    curve = begin_elsewhere(store, spec, 3)
    read = trajectory.run(spec, Store(store.url))
    here = machine.environment("cpu", 1)
    assert [r.key for r in read] == [r.key for r in curve]
    assert environments([read]) == {here: 3, OTHER: len(curve) - 3}


def test_a_store_of_one_class_trains_anew_what_another_class_has_made(tiny, store):
    spec, here = tiny(), machine.environment("cpu", 1)
    curve = begin_elsewhere(store, spec, 3)
    own = Store(store.url, environment=here)
    assert len(own.curve(spec)) == 3
    trained = []
    again = trajectory.run(spec, own, on_level=lambda record, new: trained.append(new))
    assert trained == [False] * 3 + [True] * (len(curve) - 3)
    assert environments([again]) == {here: len(curve)}
    assert [r.key for r in again[:3]] == [r.key for r in curve[:3]]
    assert {r.key for r in again[3:]}.isdisjoint(r.key for r in curve)
    apart = ("key", "parent")  # the same network on the same machine, under keys of its own
    for ours, theirs in zip(again, curve, strict=True):
        ours, theirs = (
            {name: value for name, value in determined(record).items() if name not in apart}
            for record in (ours, theirs)
        )
        assert ours == theirs
    assert trajectory.run(spec, Store(store.url, environment=here)) == again


def test_without_another_class_a_store_of_one_class_is_any_store(tiny, store):
    spec = tiny()
    curve = trajectory.run(spec, Store(store.url, environment=machine.environment("cpu", 1)))
    assert Store(store.url).curve(spec) == curve


def test_a_trajectory_of_another_class_is_kept_apart_by_the_command_too(tiny, store, capsys):
    spec = tiny()
    begin_elsewhere(store, spec, 3)
    flags = ["--store", store.url, "--epochs", "1", "--target-sparsity", "0.5", "--device", "cpu", "--no-energy"]
    flags += ["--model-options", "hidden1=32", "hidden2=16", "--seed", str(spec.seed), "--data-seed", "0"]
    assert main(flags) == 0
    assert "this curve mixes 3 levels of (cpu" in capsys.readouterr().out
    assert main([*flags, "--environment", "same"]) == 0
    said = capsys.readouterr().out
    assert "mixes" not in said
    assert said.count("from store") == 3


def test_a_sweep_needs_to_know_its_devices_to_keep_them_apart(capsys):
    with pytest.raises(SystemExit) as left:
        lambda_opt.main(["--environment", "same"])
    assert left.value.code == 2
    assert "environment 'same': only with --gpus-per-trial" in capsys.readouterr().err
