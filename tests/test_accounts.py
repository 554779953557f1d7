"""What a run was predicted to cost and did cost, its budget, what the sweep saved, and the pace on this machine."""

import dataclasses
import itertools
import os

import pytest

from sdd_core import cost, pace, recipes
from sdd_core.ledger import Costs, Prediction, Spent
from sdd_core.pace import Pace, calibrate
from sdd_core.spec import TeacherRef
from sweeps import flags
from sweeps.forecast import paces
from sweeps.forecast.balance import comparison, comparison_lines, saved, saved_line
from sweeps.forecast.paces import Paces
from sweeps.run.outcome import Budget
from tests.fakes import fake_levels, fake_pace

BASE = recipes.digits_lenet().replace(target_sparsity=0.67, data_seed=0)  # 6 levels
CURVE = [0.9, 0.91, 0.88, 0.87, 0.7, 0.5]


def paid(pflop=0.0, seconds=0.0, kwh=0.0, levels=1):
    return Costs(
        levels=levels,
        pflop=pflop,
        pflop_teacher=0.0,
        pflop_real=2 * pflop,
        pflop_real_teacher=0.0,
        pflop_real_evaluation=0.0,
        seconds=seconds,
        energy_kwh=kwh,
        energy_source="none" if kwh is None else "estimated",
        energy_levels=0 if kwh is None else levels,
        energy_reason=None,
    )


def spent(*levels):
    """What levels cost, each as (PFLOP, seconds, kWh or None)."""
    found = Spent()
    for number, level in enumerate(levels):
        found.add({"key": f"{number}", "costs": vars(paid(*level))})
    return found


# --- budgets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "levels", "used_up"),
    [
        ({}, [(9, 9, 9)], None),
        ({"pflop": 2.0}, [], None),
        ({"pflop": 2.0}, [(1.9, 1, None)], None),
        ({"pflop": 2.0}, [(1, 1, None), (1, 1, None)], "the budget of 2 PFLOP is used up"),
        ({"gco2": 1.0}, [(9, 1, 0.009)], None),  # 100 g a kWh
        ({"gco2": 1.0}, [(9, 1, 0.005), (9, 1, 0.005)], "the budget of 1 gCO2e is used up"),
        ({"gco2": 1.0}, [(9, 1, 0.005), (9, 0.9, None)], None),  # the others' power
        ({"gco2": 1.0}, [(9, 1, 0.005), (9, 1, None)], "the budget of 1 gCO2e is used up"),
        ({"gco2": 1.0}, [(9, 1, None)], "the budget of 1 gCO2e cannot be kept: no level has an energy figure"),
        ({"gco2": 1.0, "power": 0.005}, [(9, 1, None)], None),  # the predicted power
        ({"gco2": 1.0, "power": 0.005}, [(9, 1, None), (9, 1, None)], "the budget of 1 gCO2e is used up"),
        ({"gco2": 1.0}, [(9, 0.0, 0.0)], None),
        ({"pflop": 1.0, "gco2": 1.0}, [(1, 1, 1.0)], "the budget of 1 PFLOP is used up"),
    ],
)
def test_when_a_budget_is_used_up(limits, levels, used_up):
    assert Budget(**limits, intensity=100.0).used_up(spent(*levels)) == used_up


# --- prediction and measurement -----------------------------------------------------------

PREDICTED = Prediction(low=paid(2.0, 1.0, 0.1, levels=2), high=paid(5.0, 9.0, 0.9, levels=5))
BLIND = Prediction(low=paid(kwh=None, levels=0), high=paid(kwh=None, levels=0))


def test_each_quantity_is_compared_with_its_widest_range():
    form = comparison(PREDICTED, spent((1.5, 2.0, 0.25), (1.5, 2.0, 0.25)), 100.0)
    assert form["levels"] == {"predicted": {"low": 2, "high": 5}, "measured": 2}
    assert form["pflop"] == {"predicted": {"low": 2.0, "high": 5.0}, "measured": 3.0}
    assert form["device_seconds"] == {"predicted": {"low": 1.0, "high": 9.0}, "measured": 4.0}
    assert form["energy_kwh"] == {"predicted": {"low": 0.1, "high": 0.9}, "measured": 0.5, "levels_without_figure": 0}
    assert form["co2_g"] == {"predicted": {"low": 10.0, "high": 90.0}, "measured": 50.0}
    assert PREDICTED.power == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("predicted", "levels", "ends"),
    [
        (PREDICTED, [(1, 2, 0.25)], ["0.1 – 0.9 kWh, 10 – 90 g CO2e", "0.25 kWh, 25 g CO2e"]),  # noqa: RUF001
        (
            PREDICTED,
            [(1, 2, 0.25), (1, 2, None)],
            [
                "0.1 – 0.9 kWh, 10 – 90 g CO2e",  # noqa: RUF001
                "0.5 kWh, 50 g CO2e (estimated for 1 levels without a figure, from the others)",
            ],
        ),
        (PREDICTED, [(1, 2, None)], ["0.1 – 0.9 kWh, 10 – 90 g CO2e", "- kWh, - g CO2e"]),  # noqa: RUF001
        (BLIND, [(1, 2, None)], ["0 device-seconds", "2 device-seconds"]),
    ],
)
def test_what_is_not_known_is_said(predicted, levels, ends):
    lines = comparison_lines(comparison(predicted, spent(*levels), 100.0))
    assert all(line.endswith(end) for line, end in zip(lines, ends, strict=True)), lines


# --- what was saved -----------------------------------------------------------------------


def trial(store, spec, levels=6):
    fake_levels(store, spec, CURVE[:levels])
    return spec, store.curve(spec)


def test_what_a_sweep_saved(store):
    """Fake levels cost 0.001 PFLOP each; those left out by giving up what the real network would."""
    further = BASE.replace(prune_fraction=0.4)  # shares the dense level of 4
    trials = [trial(store, BASE), trial(store, further), trial(store, BASE.replace(weight_decay=0.1), 4)]
    now = spent()
    now.keys = {record.key for record in trials[0][1]}
    found = saved(store, trials, now)
    assert found["shared"] == {"levels": 1, "pflop": pytest.approx(0.001)}
    assert found["found"] == {"levels": 3 + 4, "pflop": pytest.approx(0.007)}
    each = cost.level_cost(BASE, 1, cost.Sizes(train=1000, val=287, test=300)).pflop
    assert found["given_up"] == {"levels": 2, "pflop": pytest.approx(2 * each)}
    said = saved_line(found)
    assert said.startswith("not trained: 7 levels (0.007 PFLOP) were in the store; 1 levels (0.001 PFLOP) are shared")


@pytest.mark.parametrize(("level", "taught"), [("dense", 1), (2, 3), ("pruned", 6)])
def test_a_teacher_is_shared_by_its_students(store, level, taught):
    fake_levels(store, BASE, CURVE)
    ref = TeacherRef(trial=BASE, level=level)
    students = [BASE.replace(teacher=ref, alpha=alpha) for alpha in (0.1, 0.5, 0.9)]
    trials = [trial(store, spec) for spec in students]
    assert saved(store, trials, spent())["shared"]["levels"] == 2 * taught
    assert saved(store, trials, spent())["found"]["levels"] == 18 + taught
    found = saved(store, [trial(store, BASE), *trials], spent())  # its own trial in the answer, too
    assert [found[why]["levels"] for why in ("found", "shared", "given_up")] == [18 + 6, 2 * taught, 0]


def test_nothing_saved_is_not_said(store):
    trials = [trial(store, BASE)]
    now = spent()
    now.keys = {record.key for record in trials[0][1]}
    assert saved_line(saved(store, trials, now)) == ""


# --- paces --------------------------------------------------------------------------------


@pytest.fixture
def common(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(*arguments):
        parser = flags.Parser(prog="test", description="")
        flags.add_common_flags(parser)
        reader = parser.read(arguments)
        found = flags.read_common(reader, "test")
        assert reader.faults == []
        return found

    return make


def test_a_stated_rate_is_taken_and_nothing_is_timed(common, monkeypatch):
    monkeypatch.setattr(paces, "calibrate", None)
    found = Paces(common("--plan", "--device-rate", "2", "4", "--device-watts", "100"), turns=1, seconds=0.1)
    assert found(BASE) == Pace(slowest=2, fastest=4, source="stated", watts=100, watts_from="--device-watts")
    found = Paces(common("--plan", "--device-rate", "3"), turns=1, seconds=0.1)
    pace_found = found(BASE)
    assert (pace_found.slowest, pace_found.fastest, pace_found.watts) == (3, 3, None)
    assert "no power is known (--device-watts was not given)" in found.notes[0]


def test_each_network_is_timed_once(common, monkeypatch):
    timed = []
    monkeypatch.setattr(paces, "calibrate", lambda spec, **given: timed.append(spec.model_options))
    found = Paces(common("--plan"), turns=1, seconds=0.1)
    small = BASE.replace(model_options=(("hidden1", 32),))
    for spec in (BASE, BASE.replace(weight_decay=0.1, seed=4), small, BASE.replace(label_noise=0.0), small):
        found(spec)
    assert timed == [BASE.model_options, small.model_options]


def test_what_asks_for_a_gpu_has_no_pace_where_there_is_none(common, monkeypatch):
    monkeypatch.setattr(paces.torch.cuda, "is_available", lambda: False)
    found = Paces(common("--plan", "--gpus-per-trial", "1"), turns=1, seconds=0.1)
    assert found(BASE) is None
    assert "give --device-rate" in found.notes[0]


def test_what_cannot_be_timed_costs_the_prediction_and_not_the_sweep(common, monkeypatch):
    def fail(spec, **given):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(paces, "calibrate", fail)
    found = Paces(common("--plan"), turns=1, seconds=0.1)
    assert found(BASE) is None
    assert "could not be timed here (RuntimeError: out of memory)" in found.notes[0]


def test_a_gpu_is_timed_in_a_process_of_its_own(common, monkeypatch):
    """So that this one holds none of it when the trials come."""
    monkeypatch.setattr(paces.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(paces, "calibrate", fake_pace)
    found = Paces(common("--plan", "--gpus-per-trial", "0.25", "--threads", "3"), turns=1, seconds=0.1)
    assert found(BASE).watts == 0.25
    assert found(BASE).source == "cuda 3"
    assert found(BASE).watts_from != str(os.getpid())


@pytest.fixture
def _no_waiting(monkeypatch):
    monkeypatch.setattr(pace, "_METER_SECONDS", 0.0)


@pytest.mark.usefixtures("_no_waiting")
def test_the_pace_of_a_real_network_is_found_and_leaves_nothing_behind(tiny):
    before = pace.torch.get_num_threads()
    state = pace.torch.random.get_rng_state()
    found = calibrate(tiny(teacher=TeacherRef(trial=tiny(), level="dense"), alpha=0.5), turns=2, seconds=0.05)
    assert 0 < found.slowest <= found.fastest
    assert found.watts_from
    assert pace.torch.get_num_threads() == before
    assert pace.torch.equal(pace.torch.random.get_rng_state(), state)


@pytest.mark.usefixtures("_no_waiting")
def test_a_pace_is_a_levels_real_operations_over_its_time(tiny, monkeypatch):
    """A microsecond and two for an image's training, half for its evaluation."""
    monkeypatch.setattr(pace, "_times", lambda *given: ([1e-6, 2e-6], [0.5e-6, 0.5e-6]))
    spec = tiny(epochs=7)
    found = calibrate(spec, turns=2)
    paid = cost.level_cost(spec, 1, cost.Sizes(train=1151, val=287, test=359))
    evaluation = 0.5e-6 * 1797
    least, largest = found.seconds(paid.pflop_real + paid.pflop_real_evaluation)
    assert (least, largest) == pytest.approx((7 * 1151 * 1e-6 + evaluation, 7 * 1151 * 2e-6 + evaluation))
    assert dataclasses.replace(found, watts=1000.0).kwh(3600.0) == pytest.approx(1.58)
    assert dataclasses.replace(found, watts=None).kwh(3600.0) is None


@pytest.mark.parametrize(("images", "batch_size"), [(1151, 128), (100, 128), (1151, 1000)])
def test_what_is_timed_are_whole_turns_of_real_steps(tiny, monkeypatch, images, batch_size):
    """By a clock that gives each step its images in seconds, so the turns are known exactly."""
    spec, seen = tiny(batch_size=batch_size), [0.0]
    held = pace.splits.load(spec, pace.torch.device("cpu"))
    part = pace._part(held.train, images)
    model = pace.models.build(spec, held.image_shape, held.classes)
    batches = pace.splits.epoch_batches

    def counted(*given):
        for batch in batches(*given):
            seen[0] += len(batch[0])
            yield batch

    monkeypatch.setattr(pace.splits, "epoch_batches", counted)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: seen[0])
    monkeypatch.setattr(pace, "_evaluation_seconds", lambda model, part: float(len(part)))
    weights = [value.clone() for value in model.parameters()]
    trained, evaluated = pace._times(model, part, spec, 3, 10_000.0)
    assert trained == pytest.approx([1.0] * 3)
    assert evaluated == pytest.approx([1.0] * 3)
    kept = [(new == old) | (new == 0) for new, old in zip(model.parameters(), weights, strict=True)]
    assert all(bool(same.all()) for same in itertools.chain(kept))
