"""What a sweep still has to train, from what the store holds, and what that costs. Nothing is trained here but once."""

import itertools
from dataclasses import replace

import pytest
import torch

from sdd_core import cost, recipes, training, trajectory
from sdd_core.data import splits
from sdd_core.pace import Pace
from sdd_core.record import PFLOPS
from sdd_core.spec import TeacherRef, level_keys
from sdd_core.store import Store
from sweeps.forecast.report import SCHEMA, as_json, forecast
from sweeps.forecast.work import expected, sizes, work
from sweeps.kinds.grid.plan import Grid
from sweeps.sweep import Arm, Outlook
from tests.fakes import fake_levels

BASE = recipes.digits_lenet().replace(target_sparsity=0.67, data_seed=0)  # 6 levels, with fakes as with the real one
CURVE = [0.9, 0.91, 0.88, 0.87, 0.7, 0.5]  # the best is level 1
PACE = Pace(slowest=1.0, fastest=4.0, source="stated", watts=100.0, watts_from="stated")


def student(level="pruned", **changes):
    return BASE.replace(**{"teacher": TeacherRef(trial=BASE, level=level), "alpha": 0.5} | changes)


def jobs(store, trials):
    """What has to be trained as (trial's lambda, alpha, level, again)."""
    (found,) = work(store, trials)
    return sorted((job.spec.weight_decay, job.spec.alpha, job.level, job.again) for job in found.jobs.values())


def levels(spec, *numbers, again=False):
    return [(spec.weight_decay, spec.alpha, level, again) for level in numbers]


@pytest.mark.parametrize(
    ("there", "wanted", "kept", "expected"),
    [
        (0, 6, (), levels(BASE, 0, 1, 2, 3, 4, 5)),
        (0, 2, (), levels(BASE, 0, 1)),
        (3, 6, (0, 1, 2), levels(BASE, 3, 4, 5)),
        (3, 6, (0, 2), levels(BASE, 3, 4, 5)),
        (3, 6, (0, 1), levels(BASE, 2, again=True) + levels(BASE, 3, 4, 5)),
        (4, 5, (0,), levels(BASE, 1, 2, 3, again=True) + levels(BASE, 4)),
        (2, 6, (), levels(BASE, 0, 1, again=True) + levels(BASE, 2, 3, 4, 5)),
        (6, 6, (), []),  # nobody needs the weights
        (4, 3, (), []),
    ],
)
def test_levels_that_the_store_lacks_and_weights_that_were_not_kept(store, there, wanted, kept, expected):
    fake_levels(store, BASE, CURVE[:there])
    drop_weights(store, BASE, kept)
    assert jobs(store, {BASE: wanted}) == sorted(expected)
    assert len(work(store, {BASE: wanted})[0].found) == min(there, wanted)


def drop_weights(store, spec, kept):
    """Fake levels share their weights, which are no arrays: each level gets its own here."""
    for record in store.curve(spec):
        object.__setattr__(record, "weights", f"{record.level:064d}")
        if record.level in kept:
            store._blobs.create(f"weights/00/{record.level:064d}.safetensors", b"kept")


def test_levels_that_trials_share_are_trained_once(store):
    """Another pace of pruning shares the dense level; a trajectory that goes further shares them all."""
    other, further = BASE.replace(prune_fraction=0.4), BASE.replace(target_sparsity=0.8)
    assert len(jobs(store, {BASE: 6, other: 3, further: 8})) == 1 + 7 + 2


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([student("dense")], levels(BASE, 0) + levels(student("dense"), 0, 1, 2)),
        ([student(2)], levels(BASE, 0, 1, 2) + levels(student(2), 0, 1, 2)),
        ([student("pruned")], levels(BASE, *range(6)) + levels(student(), 0, 1, 2)),
        (  # a teacher is trained once
            [student("pruned"), student("pruned", alpha=0.9)],
            levels(BASE, *range(6)) + levels(student(), 0, 1, 2) + levels(student(alpha=0.9), 0, 1, 2),
        ),
        (  # a teacher that is a trial of the sweep
            [student("pruned"), BASE],
            levels(BASE, *range(6)) + levels(student(), 0, 1, 2),
        ),
        ([BASE.replace(teacher=TeacherRef(trial=BASE, level="pruned"))], levels(BASE, 0, 1, 2)),  # alpha 0
    ],
)
def test_teachers_are_trained_once_and_their_students_after_them(store, trials, expected):
    assert jobs(store, dict.fromkeys(trials, 3)) == sorted(expected)


def test_students_of_a_known_teacher_are_looked_up(store):
    fake_levels(store, BASE, CURVE)
    one = student("pruned")
    assert jobs(store, {one: 6}) == levels(one, *range(6))
    fake_levels(store, one, CURVE[:2])
    assert jobs(store, {one: 6}) == levels(one, *range(2, 6))
    drop_weights(store, BASE, (0,))  # what the student learns from, level 1, has to be made again
    assert jobs(store, {one: 6}) == sorted(levels(BASE, 1, again=True) + levels(one, *range(2, 6)))


def test_the_early_epoch_that_weights_are_rewound_to(store):
    spec = BASE.replace(retraining="rewind_weights", rewind_epoch=3)
    assert [job.share for job in work(store, {spec: 3})[0].jobs.values()] == [1, 1, 1]
    fake_levels(store, spec, CURVE[:2])
    (early,) = [job for job in work(store, {spec: 3})[0].jobs.values() if job.share < 1]
    assert (early.level, early.again, early.share) == (0, True, 3 / 30)


def test_the_plan_is_what_a_trajectory_then_trains(tiny, store, monkeypatch):
    """On a real trajectory: interrupted, its last weights lost, planned, and counted as it goes on."""

    class Stop(Exception):
        pass

    def stop(record, trained):
        if record.level == 3:
            raise Stop

    with pytest.raises(Stop):
        trajectory.run(tiny(), store, on_level=stop, energy=False)
    store.drop_weights(store.curve(tiny())[-1])
    planned = work(Store(store.url, read_only=True), {tiny(): 5})[0].jobs.values()
    train, trained = training.train, []

    def counted(*given, **named):
        trained.append(given[4])
        return train(*given, **named)

    monkeypatch.setattr(training, "train", counted)
    trajectory.run(tiny(), Store(store.url), energy=False)
    assert sorted(trained) == sorted(job.level for job in planned)
    assert sum(job.again for job in planned) == len(planned) - 1


# --- what it costs --------------------------------------------------------------------------


def test_it_costs_what_the_levels_cost(store):
    one = student("dense")
    (found,) = work(store, {one: 2})
    paid = [
        cost.level_cost(spec, level, cost.Sizes(train=1151, val=287, test=359))
        for spec, level in ((BASE, 0), (one, 0), (one, 1))
    ]
    slow, fast = (expected(found.jobs.values(), lambda spec: PACE, slow=slow) for slow in (True, False))
    assert slow.levels == 3
    for name in PFLOPS:
        assert getattr(slow, name) == getattr(fast, name) == pytest.approx(sum(getattr(level, name) for level in paid))
    assert slow.pflop_teacher > 0
    # 4 and 1 TFLOP/s; 100 W with a PUE of 1.58
    assert (fast.seconds, slow.seconds) == pytest.approx((slow.pflop_real_all * 250, slow.pflop_real_all * 1000))
    assert (fast.energy_kwh, slow.energy_kwh) == pytest.approx((fast.seconds * 158 / 3.6e6, slow.seconds * 158 / 3.6e6))
    assert slow.energy_source == "estimated"


def test_a_level_that_is_trained_again_costs_and_does_not_count(store):
    fake_levels(store, BASE, CURVE[:2])
    drop_weights(store, BASE, ())
    (found,) = work(store, {BASE: 3})
    paid = expected(found.jobs.values(), lambda spec: PACE, slow=True)
    (new,) = [job for job in found.jobs.values() if not job.again]
    alone = expected([new], lambda spec: PACE, slow=True)
    assert (len(found.jobs), paid.levels, paid.pflop) == (3, 1, pytest.approx(3 * alone.pflop))
    assert paid.pflop_real_evaluation == alone.pflop_real_evaluation


def test_the_sizes_are_those_of_the_data(tiny):
    held = splits.load(tiny(), torch.device("cpu"))
    assert sizes(tiny()) == cost.Sizes(train=len(held.train), val=len(held.val), test=len(held.test))
    assert sizes(tiny(protocol="paper")) == cost.Sizes(train=1438, val=0, test=359)


def test_without_a_pace_or_a_power_there_is_no_figure(store):
    (found,) = work(store, {BASE: 1, BASE.replace(label_noise=0.0): 1})
    jobs = found.jobs.values()
    unknown = expected(jobs, lambda spec: None, slow=True)
    assert (unknown.seconds, unknown.energy_kwh, unknown.energy_source) == (None, None, "none")
    blind = expected(jobs, lambda spec: replace(PACE, watts=None, watts_from="not given"), slow=True)
    assert blind.seconds is not None
    assert (blind.energy_kwh, blind.energy_note) == (None, "2 of 2 levels: not given")
    assert expected(jobs, lambda spec: PACE if spec == BASE else None, slow=True).seconds is None


def test_equal_needs_are_looked_up_once(store):
    one, other, same = work(store, {BASE: 2}, {BASE: 3}, {BASE: 2})
    assert one is same
    assert (len(one.jobs), len(other.jobs)) == (2, 3)


# --- a forecast ---------------------------------------------------------------------------


def test_a_forecast_puts_the_largest_consumers_first_and_names_teachers(store):
    one, two = student("pruned", weight_decay=0.01), student("pruned", weight_decay=0.1)
    fake_levels(store, BASE, CURVE[:1])
    outlook = Outlook(fewest={one: 6}, most={one: 6, two: 6}, trials={one: (6, 6), two: (0, 6)})
    found = forecast(store, outlook, lambda spec: PACE)
    names = [arm.name for arm in found.arms]
    assert names[0].startswith("λ=0.01 α=0.5")
    assert names[1].startswith("λ=0.1 α=0.5")
    assert names[2] == "teacher lenet on digits λ=0.0001"
    assert [(arm.fewest.costs.levels, arm.most.costs.levels) for arm in found.arms] == [(6, 6), (0, 6), (5, 5)]
    fewest, most = found.whole.fewest, found.whole.most
    assert (fewest.trials, most.trials) == (2, 3)
    assert (fewest.costs.levels, most.costs.levels) == (11, 17)
    assert found.found == (1, 1)


def test_a_sweep_that_runs_every_trial_to_its_end(store):
    """What a sweep of given trials plans, with their teacher."""
    specs = [student("pruned", alpha=alpha) for alpha in (0.1, 0.9)]
    found = forecast(store, Grid(arms=tuple(Arm(trials=(spec,)) for spec in specs)).outlook(store), lambda spec: PACE)
    fewest, most = found.whole.fewest, found.whole.most
    assert (fewest.trials, fewest.costs.levels) == (most.trials, most.costs.levels) == (3, 18)
    assert most.costs.seconds == pytest.approx(4 * fewest.costs.seconds)


def test_json_of_a_forecast(store):
    outlook = Outlook(fewest={BASE: 3}, most={BASE: 6}, trials={BASE: (3, 6)})
    form = as_json(forecast(store, outlook, lambda spec: PACE), 100.0)
    assert SCHEMA == 1
    assert form["levels"] == {"low": 3, "high": 6}
    assert form["device_seconds"]["high"] == pytest.approx(8 * form["device_seconds"]["low"], rel=1e-3)
    assert form["co2_g"]["high"] == pytest.approx(100 * form["energy_kwh"]["high"])
    assert [row["name"] for row in form["consumers"]] == ["λ=0.0001"]
    assert as_json(forecast(store, outlook, lambda spec: None), 100.0)["co2_g"] is None


def test_a_store_that_is_only_read_sets_nothing_aside(tmp_path, store):
    fake_levels(store, BASE, CURVE[:2])
    key = next(itertools.islice(level_keys(BASE), 1, None))
    path = tmp_path / "store" / "levels" / key[:2] / f"{key}.json"
    path.write_text("damaged")
    before = sorted(tmp_path.rglob("*"))
    assert len(work(Store(store.url, read_only=True), {BASE: 6})[0].found) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert len(work(Store(store.url), {BASE: 6})[0].found) == 1
    assert not path.exists()
