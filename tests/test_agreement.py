"""Fast ways of a training step: each is used only where it does what the plain way does, and training never depends
on which it was. CUDA graphs, faulty kernels and faulty layouts are stood in for by functions."""

import logging

import pytest
import torch
from torch import nn

from sdd_core import training, trajectory
from sdd_core.data import splits as data
from sdd_core.spec import TeacherRef
from sdd_core.training import agreement, captured, kernels, pruning, steps
from sdd_core.training.agreement import EXACT, Found, State, judged
from sdd_core.training.steps import StepPlan

CPU = torch.device("cpu")
OPTIMIZERS = ["sgd", "adamw"]


@pytest.fixture(scope="module")
def splits(tiny):
    return data.load(tiny(), CPU)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing has been found out yet in this process, and nothing is remembered of it."""
    monkeypatch.setattr(agreement, "_warned", set())
    for asked in (kernels.update_fault, kernels.backward_fault):
        asked.cache_clear()
    yield
    for asked in (kernels.update_fault, kernels.backward_fault):
        asked.cache_clear()


def network():
    """Convolution, running statistics and dropout. A bias before a norm has no gradient, which AdamW would blow up."""
    torch.manual_seed(3)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten()),
        *(nn.Dropout(0.3), nn.Linear(64, 10)),
    )


def trained(spec, splits, plan=None, teacher=None):
    """A network after a training of a pruned level, and what was found out about its steps."""
    model, found = network(), Found()
    weights, masks = pruning.prunable_weights(model), pruning.dense_masks(model)
    masks = pruning.prune(weights, masks, 0.5, "global_magnitude")
    pruning.apply_masks(weights, masks)
    training.train(model, masks, splits.train, spec, 1, plan=plan, teacher=teacher, found=found)
    return torch.cat([value.flatten().double() for value in model.state_dict().values()]), found


def spec_of(tiny, optimizer="sgd", **changes):
    rate = 0.1 if optimizer == "sgd" else 1e-3
    return tiny(
        epochs=2, optimizer=optimizer, learning_rate=rate, batch_size=200, **changes
    )  # 5 full batches and a rest


# --- captures that stand in for a CUDA graph ------------------------------------------------


def agreeing(step):
    return step


def refused(step):
    raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be ...")


def broken_off(step):
    step()
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def broken_replay(step):
    def replay():
        step()
        raise RuntimeError("the graph is gone")

    return replay


def stale(step):
    return lambda: None


def doubled(step):
    def replay():
        step()
        step()

    return replay


def frozen_dropout(step):
    def replay():
        before = torch.get_rng_state()
        step()
        torch.set_rng_state(before)

    return replay


FAULTY = {
    refused: "RuntimeError: operation not permitted when stream is capturing",
    broken_off: "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    broken_replay: "RuntimeError: the graph is gone",
    stale: "parameters are ",
    doubled: "parameters are ",
    frozen_dropout: "it draws other random numbers",
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_capture_that_agrees_is_used(tiny, splits, monkeypatch, optimizer):
    replays = []
    monkeypatch.setattr(captured, "cuda_graph", lambda step: lambda: (replays.append(0), step()))
    spec = spec_of(tiny, optimizer)
    weights, found = trained(spec, splits, StepPlan(captured=True))
    assert found.ways == {"engine": None, "fused": None, "captured": None}
    assert found.as_record() == {"captured": True}
    assert len(replays) == 2 * 5 - 3
    torch.testing.assert_close(weights, trained(spec, splits)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("capture", FAULTY)
def test_a_capture_that_fails_or_does_something_else_changes_no_training(
    tiny, splits, monkeypatch, caplog, capture, optimizer
):
    spec, plan, captures = spec_of(tiny, optimizer), StepPlan(captured=True), []
    monkeypatch.setattr(captured, "cuda_graph", agreeing)
    expected, _ = trained(spec, splits, plan)
    monkeypatch.setattr(captured, "cuda_graph", lambda step: (captures.append(0), capture(step))[1])
    with caplog.at_level(logging.WARNING):
        weights, found = trained(spec, splits, plan)
        assert torch.equal(weights, expected)
        assert torch.equal(trained(spec, splits, plan)[0], expected)
    assert len(captures) == 2  # one a training, then never again
    said = found.as_record()
    assert said["captured"] is False
    assert said["reason"].startswith(f"captured: {FAULTY[capture]}")
    (warning,) = caplog.messages  # once per process, not once a training
    assert FAULTY[capture] in warning


@pytest.mark.parametrize("capture", [agreeing, stale])
def test_a_distilled_training_is_checked_with_its_teacher(tiny, splits, monkeypatch, capture):
    base = spec_of(tiny, augmentation="flip_crop")
    spec = base.replace(teacher=TeacherRef(trial=base, level=0), alpha=0.8, temperature=4.0)
    monkeypatch.setattr(captured, "cuda_graph", capture)
    weights, found = trained(spec, splits, StepPlan(captured=True), network())
    torch.testing.assert_close(weights, trained(spec, splits, None, network())[0], rtol=0, atol=1e-6)
    assert found.as_record()["captured"] is (capture is agreeing)


def test_a_training_without_enough_full_batches_says_that_nothing_was_captured(tiny, splits, monkeypatch, caplog):
    monkeypatch.setattr(captured, "cuda_graph", agreeing)
    _, found = trained(tiny(batch_size=500), splits, StepPlan(captured=True))
    assert found.as_record() == {"captured": False, "reason": "captured: there were no 4 full batches"}
    assert caplog.messages == []


def test_on_a_cpu_there_is_nothing_to_say(tiny, splits):
    assert trained(tiny(), splits)[1].as_record() is None


def test_a_record_says_how_its_steps_ran(tiny, store, monkeypatch):
    plain = trajectory.run(spec_of(tiny), store, last_level=1, energy=False)
    assert all("step" not in record.measured for record in plain)
    monkeypatch.setattr(captured, "cuda_graph", refused)
    monkeypatch.setattr(steps, "step_plan", lambda *_: StepPlan(captured=True))
    for record in trajectory.run(spec_of(tiny, seed=1), store, last_level=1, energy=False):
        assert record.measured["step"] == {"captured": False, "reason": f"captured: {FAULTY[refused]}"}


# --- layout ---------------------------------------------------------------------------------


def test_channels_last_is_used_where_it_agrees(tiny, splits):
    spec = spec_of(tiny)
    weights, found = trained(spec, splits, StepPlan(channels_last=True))
    assert found.as_record() == {"channels_last": True}
    torch.testing.assert_close(weights, trained(spec, splits)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_channels_last_that_computes_something_else_is_not_used(tiny, splits, monkeypatch, precision):
    spec = spec_of(tiny, precision=precision)
    plan = steps.step_plan("cpu", None, network(), spec)
    expected, _ = trained(spec, splits, plan)
    forward = steps.forward

    def faulty(model, inputs, plan):
        return forward(model, inputs.flip(3) if plan.channels_last else inputs, plan)

    monkeypatch.setattr(steps, "forward", faulty)
    weights, found = trained(spec, splits, StepPlan(channels_last=True, autocast=plan.autocast))
    assert torch.equal(weights, expected)
    assert found.as_record()["channels_last"] is False
    assert found.ways["channels_last"].startswith("gradients are ")


def test_a_layout_that_a_layer_refuses_is_not_used(tiny, splits, monkeypatch):
    expected, _ = trained(spec_of(tiny), splits)
    forward = steps.forward

    def refusing(model, inputs, plan):
        if plan.channels_last:
            raise RuntimeError("no kernel for this layout")
        return forward(model, inputs, plan)

    monkeypatch.setattr(steps, "forward", refusing)
    weights, found = trained(spec_of(tiny), splits, StepPlan(channels_last=True))
    assert torch.equal(weights, expected)
    assert found.ways["channels_last"] == "RuntimeError: no kernel for this layout"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bfloat16_in_another_layout_is_within_the_tolerance(tiny, splits, optimizer):
    plan = StepPlan(channels_last=True, autocast=torch.bfloat16)
    assert trained(spec_of(tiny, optimizer, precision="bfloat16"), splits, plan)[1].as_record() == {
        "channels_last": True
    }


# --- torch's private functions --------------------------------------------------------------

PRIVATE = {"sgd": "_fused_sgd_", "adamw": "_fused_adamw_"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_the_fused_kernel_the_optimisers_own_step_trains_the_same(tiny, splits, monkeypatch, caplog, optimizer):
    spec = spec_of(tiny, optimizer)
    expected, _ = trained(spec, splits)
    kernels.update_fault.cache_clear()
    monkeypatch.delattr(torch, PRIVATE[optimizer])
    weights, found = trained(spec, splits)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)
    assert trained(spec, splits)[1].as_record() == found.as_record()
    assert found.as_record()["fused"] is False
    assert f"has no attribute '{PRIVATE[optimizer]}'" in found.as_record()["reason"]
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_fused_kernel_that_computes_something_else_is_not_used(tiny, splits, monkeypatch, optimizer):
    spec = spec_of(tiny, optimizer)
    expected, _ = trained(spec, splits)
    kernels.update_fault.cache_clear()
    real = getattr(torch, PRIVATE[optimizer])
    monkeypatch.setattr(torch, PRIVATE[optimizer], lambda *given, **named: real(*given, **named | {"weight_decay": 0}))
    weights, found = trained(spec, splits)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)
    assert found.ways["fused"].startswith("parameters are ")


def test_kernels_are_asked_once_per_process_and_device(tiny, splits, monkeypatch):
    asked, real = [], kernels.judged
    monkeypatch.setattr(kernels, "judged", lambda *given: (asked.append(0), real(*given))[1])
    for optimizer in ("sgd", "sgd", "adamw", "adamw"):
        trained(spec_of(tiny, optimizer), splits)
    assert len(asked) == 3  # two updates and the backward pass


@pytest.mark.parametrize("fault", ["missing", "silent"])
def test_without_the_engines_own_call_the_public_backward_trains_the_same_bytes(tiny, splits, monkeypatch, fault):
    expected, _ = trained(spec_of(tiny), splits)
    kernels.backward_fault.cache_clear()

    def faulty(logits, gradient):
        if fault == "missing":
            raise AttributeError("no attribute 'run_backward'")

    monkeypatch.setattr(kernels, "engine_backward", faulty)
    weights, found = trained(spec_of(tiny), splits)
    assert torch.equal(weights, expected)
    assert found.as_record()["engine"] is False


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_with_the_public_optimiser_can_be_checked_too(tiny, splits, monkeypatch, optimizer):
    """Its state is made at the first step, and put back like any other."""
    monkeypatch.delattr(torch, PRIVATE[optimizer])
    expected, _ = trained(spec_of(tiny, optimizer), splits)
    for capture in (doubled, agreeing):
        monkeypatch.setattr(captured, "cuda_graph", capture)
        weights, found = trained(spec_of(tiny, optimizer), splits, StepPlan(captured=True))
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)
        assert (found.ways["captured"] is None) is (capture is agreeing)


# --- the comparison -------------------------------------------------------------------------


def judge(fast, plain, value=0.0):
    """What is said of two ways of changing one number, and the number that stays."""
    held = torch.tensor([value], dtype=torch.float32)
    state = State([], lambda: {"numbers": [held]}, CPU)
    return judged(lambda: lambda: fast(held), lambda: plain(held), state, EXACT), float(held)


@pytest.mark.parametrize(
    ("fast", "agrees"),
    [(1.0, True), (1.009, True), (0.991, True), (1.02, False), (0.0, False), (float("nan"), False), (2.0, False)],
)
def test_the_tolerance_is_a_part_of_what_the_plain_step_changes(fast, agrees):
    reason, left = judge(lambda held: held.add_(fast), lambda held: held.add_(1.0))
    assert (reason is None) is agrees
    assert left == 1.0


@pytest.mark.parametrize("end", [float("inf"), float("nan")])
def test_ways_that_diverge_alike_agree(end):
    assert judge(lambda held: held.fill_(end), lambda held: held.fill_(end))[0] is None


def test_a_step_that_changes_nothing_agrees_with_itself_alone():
    assert judge(lambda held: None, lambda held: None)[0] is None
    assert judge(lambda held: held.add_(0.5), lambda held: None)[0].startswith("numbers are 0.5 apart")


def test_an_interruption_is_no_reason():
    def interrupted(held):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(interrupted, lambda held: None)
