"""What a sweep still has to train, from what the store holds, and what that costs. Nothing is trained here but once."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdd_core import cost, recipes, training, trajectory
from sdd_core.data import splits
from sdd_core.pace import Pace
from sdd_core.spec import TeacherRef, level_keys
from sdd_core.store import Store
from sweeps.forecast.report import SCHEMA, as_json, span
from sweeps.forecast.work import Bill, bill, forecast, sizes, total, work
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
    found = work(store, trials).jobs.values()
    return sorted((job.spec.weight_decay, job.spec.alpha, job.level, job.again) for job in found)


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
    found = work(store, {BASE: wanted})
    assert sorted((job.spec.weight_decay, job.spec.alpha, job.level, job.again) for job in found.jobs.values()) == (
        sorted(expected)
    )
    assert len(found.found) == min(there, wanted)


def drop_weights(store, spec, kept):
    """Fake levels share their weights, which are no arrays: each level gets its own here."""
    for record in store.curve(spec):
        object.__setattr__(record, "weights", f"{record.level:064d}")
        if record.level in kept:
            store._blobs.create(f"weights/00/{record.level:064d}.safetensors", b"kept")


def test_levels_that_trials_share_are_trained_once(store):
    """Another pace of pruning shares the dense level; a trajectory that goes further shares them all."""
    other, further = BASE.replace(prune_fraction=0.4), BASE.replace(target_sparsity=0.8)
    assert len(work(store, {BASE: 6, other: 3, further: 8}).jobs) == 1 + 7 + 2


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
    assert [job.share for job in work(store, {spec: 3}).jobs.values()] == [1, 1, 1]
    fake_levels(store, spec, CURVE[:2])
    (early,) = [job for job in work(store, {spec: 3}).jobs.values() if job.share < 1]
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
    planned = work(Store(store.url, read_only=True), {tiny(): 5}).jobs.values()
    train, trained = training.train, []
    monkeypatch.setattr(training, "train", lambda *given, **named: (trained.append(given[4]), train(*given, **named)))
    trajectory.run(tiny(), Store(store.url), energy=False)
    assert sorted(trained) == sorted(job.level for job in planned)
    assert sum(job.again for job in planned) == len(planned) - 1


# --- bills --------------------------------------------------------------------------------


def test_a_bill_is_what_the_levels_cost(store):
    one, paid = student("dense"), {}
    found = work(store, {one: 2}).jobs.values()
    for spec, level in ((BASE, 0), (one, 0), (one, 1)):
        paid[spec, level] = cost.level_cost(spec, level, cost.Sizes(train=1151, val=287, test=359))
    whole = total(found, lambda spec: PACE)
    assert (whole.levels, whole.again) == (3, 0)
    assert whole.pflop == pytest.approx(sum(level.pflop for level in paid.values()))
    assert whole.pflop_teacher == pytest.approx(sum(level.pflop_teacher for level in paid.values())) != 0
    real = sum(level.pflop_real + level.pflop_real_teacher + level.pflop_real_evaluation for level in paid.values())
    assert whole.pflop_real_all == pytest.approx(real)
    # 4 and 1 TFLOP/s; 100 W with a PUE of 1.58
    assert whole.seconds == pytest.approx((real * 1e3 / 4, real * 1e3 / 1))
    assert whole.kwh == pytest.approx([seconds * 158 / 3.6e6 for seconds in whole.seconds])


def test_the_sizes_are_those_of_the_data(tiny):
    held = splits.load(tiny(), torch.device("cpu"))
    assert sizes(tiny()) == cost.Sizes(train=len(held.train), val=len(held.val), test=len(held.test))
    assert sizes(tiny(protocol="paper")) == cost.Sizes(train=1438, val=0, test=359)


def test_without_a_pace_or_a_power_there_is_no_figure(store):
    (job,) = work(store, {BASE: 1}).jobs.values()
    assert (bill(job, lambda spec: None).seconds, bill(job, lambda spec: None).kwh) == (None, None)
    blind = Pace(slowest=1, fastest=1, source="stated", watts=None, watts_from="not given")
    assert bill(job, lambda spec: blind).seconds is not None
    assert bill(job, lambda spec: blind).kwh is None
    assert (bill(job, lambda spec: PACE) + bill(job, lambda spec: None)).seconds is None


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1e3), st.floats(0, 1e3)), max_size=6))
def test_bills_add_up(parts):
    bills = [Bill(levels=n, pflop=x, seconds=(x, x + y), kwh=(y, y)) for n, x, y in parts]
    whole = sum(bills, Bill())
    assert whole.levels == sum(n for n, _, _ in parts)
    assert whole.seconds == pytest.approx((sum(x for _, x, _ in parts), sum(x + y for _, x, y in parts)))


# --- a forecast ---------------------------------------------------------------------------


def test_a_forecast_puts_the_largest_consumers_first_and_names_teachers(store):
    one, two = student("pruned", weight_decay=0.01), student("pruned", weight_decay=0.1)
    fake_levels(store, BASE, CURVE[:1])
    outlook = Outlook(fewest={one: 6}, most={one: 6, two: 6}, trials={one: (6, 6), two: (0, 6)})
    found = forecast(store, outlook, lambda spec: PACE)
    names = [row.name for row in found.rows]
    assert names[0].startswith("λ=0.01 α=0.5")
    assert names[1].startswith("λ=0.1 α=0.5")
    assert names[2] == "teacher lenet on digits λ=0.0001"
    assert [(row.fewest.levels, row.most.levels) for row in found.rows] == [(6, 6), (0, 6), (5, 5)]
    assert (found.fewest.trials, found.most.trials) == (2, 3)
    assert (found.fewest.bill.levels, found.most.bill.levels) == (11, 17)
    assert found.most.found == 1


def test_a_sweep_that_runs_every_trial_to_its_end(store):
    """What a sweep of given trials plans, with their teacher."""
    specs = [student("pruned", alpha=alpha) for alpha in (0.1, 0.9)]
    found = forecast(store, Grid(arms=tuple(Arm(trials=(spec,)) for spec in specs)).outlook(store), lambda spec: PACE)
    assert found.fewest == found.most
    assert (found.most.trials, found.most.bill.levels) == (3, 18)


def test_json_of_a_forecast(store):
    outlook = Outlook(fewest={BASE: 3}, most={BASE: 6}, trials={BASE: (3, 6)})
    form = as_json(forecast(store, outlook, lambda spec: PACE), 100.0)
    assert SCHEMA == 1
    assert form["levels"] == {"low": 3, "high": 6}
    assert form["device_seconds"]["high"] == pytest.approx(8 * form["device_seconds"]["low"], rel=1e-3)
    assert form["co2_g"]["high"] == pytest.approx(100 * form["energy_kwh"]["high"])
    assert [row["name"] for row in form["consumers"]] == ["λ=0.0001"]
    assert as_json(forecast(store, outlook, lambda spec: None), 100.0)["co2_g"] is None


@pytest.mark.parametrize(
    ("ends", "form", "said"),
    [
        ({"low": 3, "high": 3}, "{:.0f}", "3"),
        ({"low": 0, "high": 7}, "{:.0f}", "0 – 7"),  # noqa: RUF001
        ({"low": 0.00123, "high": 0.00124}, None, "0.0012"),
        ({"low": 0.000083, "high": 1449}, None, "8.3e-05 – 1,400"),  # noqa: RUF001
        (None, None, "-"),
    ],
)
def test_ranges_in_words(ends, form, said):
    assert span(ends, form) == said


def test_a_store_that_is_only_read_sets_nothing_aside(tmp_path, store):
    fake_levels(store, BASE, CURVE[:2])
    key = next(itertools.islice(level_keys(BASE), 1, None))
    path = tmp_path / "store" / "levels" / key[:2] / f"{key}.json"
    path.write_text("damaged")
    before = sorted(tmp_path.rglob("*"))
    assert len(work(Store(store.url, read_only=True), {BASE: 6}).found) == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert len(work(Store(store.url), {BASE: 6}).found) == 1
    assert not path.exists()
