"""A training whose weights leave the finite numbers: where it ends, what it costs, and what is said of it."""

import io
import math

import pytest
import torch
from rich.console import Console

from sdd_core import cost, training, trajectory
from sdd_core.curve import GiveUp
from sdd_core.data import splits
from sdd_core.spec import SpecError, TeacherRef
from sdd_core.store import determined, is_complete
from sdd_core.training import pruning
from sdd_core.trajectory.state import new_model
from sdd_core.words import trial_name
from sweeps.kinds.judge import Judge
from sweeps.kinds.lambda_opt.plan import SearchSettings
from sweeps.run import ending
from sweeps.run.outcome import Outcome
from sweeps.sweep import Outlook
from tests.builders import fake_record, level_record
from tests.fakes import fake_levels

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def wild(tiny):
    """A trial that diverges in its first epoch."""
    return tiny(learning_rate=1e6, epochs=3, momentum=0.9)


@pytest.fixture(scope="module")
def student(tiny, wild):
    """A trial that learns from a level of a teacher that diverges."""
    return lambda level: tiny(teacher=TeacherRef(trial=wild, level=level), alpha=0.5)


# --- one training ---------------------------------------------------------------------------


def test_a_diverged_training_ends_with_its_epoch_and_its_trial_with_its_level(wild, store):
    (record,) = trajectory.run(wild, store)
    assert record.diverged
    assert (record.level, record.diverged_after) == (0, 1)
    assert record.train_loss == math.inf
    assert is_complete([record], wild)
    sizes = cost.Sizes(train=record.train_size, val=record.val_size, test=record.test_size)
    assert record.pflop == pytest.approx(cost.level_cost(wild, 0, sizes).pflop / 3)  # one of three epochs
    assert store.curve(wild) == [record]
    assert cost.whole_levels(wild, [record]) == 1


def test_a_run_over_a_diverged_trial_trains_nothing(wild, store):
    first = trajectory.run(wild, store)
    trained = []
    again = trajectory.run(wild, store, on_level=lambda record, new: trained.append(new))
    assert trained == [False]
    assert [determined(r) for r in again] == [determined(r) for r in first]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tensor", ["weight", "bias", "running_var"])
def test_one_value_that_is_not_finite_is_seen(value, tensor):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    assert training.loop._is_finite(model)
    model.state_dict()[f"{1 if tensor == 'running_var' else 0}.{tensor}"].view(-1)[1] = value
    assert not training.loop._is_finite(model)


def test_finite_weights_whose_sum_is_not_have_not_diverged():
    model = torch.nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.fill_(3e38)
    assert training.loop._is_finite(model)


def test_removed_weights_of_a_diverged_network_are_zero(tiny, wild):
    data = splits.load(wild, CPU)
    model = new_model(wild, data)
    masks = pruning.prune(pruning.prunable_weights(model), pruning.dense_masks(model), 0.5, "global_magnitude")
    assert training.train(model, masks, data.train, wild, 1) == 1
    for name, weight in pruning.prunable_weights(model).items():
        assert bool((weight[~masks[name]] == 0).all())


def test_levels_of_a_store_without_the_field_have_diverged_when_their_loss_is_infinite():
    assert level_record(train_loss=math.inf).diverged
    assert not level_record(train_loss=9.0).diverged


@pytest.mark.parametrize(("rate", "warned"), [(0.1, False), (30.0, True)])
def test_a_loss_above_a_uniform_guess_after_the_first_epoch_is_said_at_once(rate, warned, tiny, store, caplog):
    spec = tiny(learning_rate=rate, momentum=0.0, label_noise=0.0)
    curve = trajectory.run(spec, store)
    said = [message for message in caplog.messages if "above the 2.3 of a uniform guess" in message]
    assert len(said) == int(warned)
    if warned:
        assert f"learning_rate {rate:g}" in said[0]
        assert curve[0].warning is not None


def test_looking_at_the_first_epoch_changes_nothing_that_is_trained(tiny):
    spec = tiny(epochs=2)
    data = splits.load(spec, CPU)
    model = new_model(spec, data)
    training.train(model, pruning.dense_masks(model), data.train, spec, 0)
    state = trajectory.make_level(spec, 0, None, None, data).state
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state.model.state_dict()[name])


# --- teachers -------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["dense", "pruned", 1])
def test_a_teacher_that_diverges_holds_its_students_back_by_name(level, student, store):
    spec = student(level)
    with pytest.raises(SpecError, match="diverged at level 0; a smaller learning_rate than 1e"):
        trajectory.run(spec, store)
    assert store.teacher(spec) is None
    assert store.curve(spec) == []


@pytest.mark.parametrize(
    ("level", "usable"),
    [("dense", True), (0, True), (1, True), (2, False), (3, False), ("pruned", False)],
)
def test_levels_before_the_divergence_can_be_learnt_from(level, usable, tiny, store):
    teacher = tiny()
    for number, key in zip(range(3), store.level_keys(teacher), strict=False):
        record = fake_record(teacher, number, 0.5, key=key)
        store.commit(level_record(**(vars(record) | {"diverged_after": 1 if number == 2 else None})), {})
    spec = tiny(teacher=TeacherRef(trial=teacher, level=level), alpha=0.5)
    assert (store.diverged_teacher(spec) is None) == usable
    assert (store.teacher(spec) is not None) == usable


@pytest.mark.parametrize(
    ("others", "said"),
    [({}, "the same command would end in the same way"), ({"f" * 12: "broken"}, "run the same command again")],
)
def test_running_again_is_not_advised_where_it_changes_nothing(others, said, student, store):
    spec, console = student("dense"), Console(file=io.StringIO(), width=200)
    teacher = spec.teacher.trial.trial_id
    outcome = Outcome(failures={teacher: "its training diverged"} | others, diverged={teacher})
    outcome.held_back[spec.trial_id] = teacher
    ending.explain(console, store, [spec], outcome, Outlook(fewest={}, most={}, trials={}), trial_name)
    assert said in console.file.getvalue()
    assert f"held back by its teacher, trial {teacher}" in console.file.getvalue()


# --- verdicts -------------------------------------------------------------------------------


def search(tiny, seeds=(0, 1, 2), points=(1e-4, 1e-3, 1e-2, 1e-1)):
    return SearchSettings(base=tiny(), points=points, seeds=seeds, rule=GiveUp(tolerance=0.05))


def diverge(store, spec, at=0, before=0.5):
    """Commit a trial whose level `at` diverged."""
    for level, key in zip(range(at + 1), store.level_keys(spec), strict=False):
        record = fake_record(spec, level, before if level < at else 0.0, key=key)
        store.commit(level_record(**(vars(record) | {"diverged_after": 1 if level == at else None})), {})


def test_the_verdicts_of_diverged_trials(tiny, store):
    settings = search(tiny)
    for spec in settings.trials(1e-4):
        fake_levels(store, spec, [0.8] * 5)
    for spec in settings.trials(1e-2):
        diverge(store, spec, at=2)
    judge = Judge(store, settings.rule, settings.trials(1e-4))
    assert judge.trial_verdicts(settings.trials(1e-2)) == ["diverged"] * 3
    assert judge.verdict(settings.trials(1e-2)) == "diverged"
    assert judge.constraints(settings.trials(1e-2))["divergence"] == 0.5
    assert judge.constraints(settings.trials(1e-4))["divergence"] == -0.5


def test_a_base_that_diverges_is_an_answer_and_the_rest_of_the_wave_is_not_waited_for(tiny, store):
    settings = search(tiny)
    assert settings.step(store).answer is None
    for spec in settings.trials(1e-4):
        diverge(store, spec)
    step = settings.step(store)
    assert step.tasks == ()
    assert step.answer.answer.reason == "base_diverged"
    assert (step.answer.named, step.answer.least_bad) == (0, None)
    assert settings.outlook(store).fewest


def test_a_diverged_lambda_is_too_high_for_the_search(tiny, store):
    settings = search(tiny, seeds=(0,))
    curves = {1e-4: [0.8, 0.4, 0.8, 0.8, 0.8], 1e-3: [0.8] * 5}
    for value, accuracies in curves.items():
        for spec in settings.trials(value):
            fake_levels(store, spec, accuracies)
    for value in (1e-2, 1e-1):
        for spec in settings.trials(value):
            diverge(store, spec)
    found = settings.step(store).answer
    assert found.answer.reason == "found"
    assert settings.points[found.answer.optimum] == 1e-3


def test_a_base_that_is_worse_than_chance_ends_in_an_answer(tiny, store):
    settings = search(tiny, seeds=(0,))
    for value in settings.points:
        for spec in settings.trials(value):
            fake_levels(store, spec, [0.05] * 5)  # chance is 0.1
    assert settings.step(store).answer.answer.reason == "no_dip_at_base"


def test_a_diverged_base_of_another_seed_does_not_stop_the_outlook(tiny, store):
    settings = search(tiny)
    first, *_ = settings.trials(1e-4)
    diverge(store, first)
    outlook = settings.outlook(store)
    assert outlook.trials[first] == (1, 1)
