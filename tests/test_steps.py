"""How a step runs: the plan of each device and precision, and steps that are captured and replayed."""

import pytest
import torch
from torch import nn

from sdd_core import models, training
from sdd_core.data import splits as data
from sdd_core.spec import SpecError, TeacherRef, TrialSpec
from sdd_core.training import captured, kernels, pruning, steps
from sdd_core.training.agreement import Found
from sdd_core.training.steps import StepPlan

CPU = torch.device("cpu")
BF16 = torch.bfloat16
DENSE = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
CONV = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))


@pytest.fixture(scope="module")
def splits(tiny):
    return data.load(tiny(), CPU)


@pytest.mark.parametrize(
    ("device", "capability", "model", "precision", "plan"),
    [
        ("cpu", None, DENSE, "float32", StepPlan()),
        ("cpu", None, CONV, "float32", StepPlan()),
        ("cpu", None, CONV, "bfloat16", StepPlan(autocast=BF16)),
        ("mps", None, CONV, "float32", StepPlan()),
        ("cuda", (8, 0), DENSE, "float32", StepPlan(captured=True)),
        ("cuda", (8, 0), DENSE, "tf32", StepPlan(captured=True, tf32=True)),
        ("cuda", (9, 0), DENSE, "bfloat16", StepPlan(captured=True, autocast=BF16)),
        ("cuda", (9, 0), CONV, "float32", StepPlan(captured=True, cudnn_benchmark=True)),
        ("cuda", (8, 6), CONV, "tf32", StepPlan(captured=True, cudnn_benchmark=True, tf32=True, channels_last=True)),
        (
            *("cuda", (9, 0), CONV, "bfloat16"),
            StepPlan(captured=True, cudnn_benchmark=True, autocast=BF16, channels_last=True),
        ),
        ("cuda", (6, 1), CONV, "bfloat16", StepPlan(captured=True, cudnn_benchmark=True, autocast=BF16)),
    ],
)
def test_step_plan(device, capability, model, precision, plan):
    assert steps.step_plan(device, capability, model, TrialSpec(precision=precision)) == plan


@pytest.mark.parametrize(
    ("device", "capability", "words"),
    [("cpu", None, "not cpu"), ("mps", None, "not mps"), ("cuda", (7, 5), "not cuda of capability 7.5")],
)
def test_tf32_is_refused_where_there_is_none(device, capability, words):
    spec = TrialSpec(precision="tf32")
    (fault,) = steps.faults(spec, device, capability)
    assert fault.startswith("precision 'tf32'")
    assert words in fault
    with pytest.raises(SpecError, match="precision 'tf32'"):
        steps.step_plan(device, capability, DENSE, spec)
    assert steps.faults(spec.replace(precision="bfloat16"), device, capability) == []


def test_training_in_tf32_on_a_cpu_is_refused(tiny, splits):
    spec = tiny(precision="tf32")
    model = models.build(spec, splits.image_shape, splits.classes)
    with pytest.raises(SpecError, match="float32 runs everywhere"):
        training.train(model, pruning.dense_masks(model), splits.train, spec, 0)


@pytest.mark.parametrize(("tf32", "word"), [(False, "ieee"), (True, "tf32")])
def test_the_switches_are_set_and_put_back(tf32, word):
    switches = [
        (torch.backends.cuda.matmul, "fp32_precision"),
        (torch.backends.cudnn.conv, "fp32_precision"),
        (torch.backends.cudnn, "benchmark"),
    ]
    before = [getattr(place, name) for place, name in switches]
    with steps.arithmetic(StepPlan(tf32=tf32, cudnn_benchmark=True)):
        assert [getattr(place, name) for place, name in switches] == [word, word, True]
    assert [getattr(place, name) for place, name in switches] == before


def trained(spec, splits, model=None, plan=None, teacher=None):
    torch.manual_seed(3)
    model = model() if model else models.build(spec, splits.image_shape, splits.classes)
    weights, masks = pruning.prunable_weights(model), pruning.dense_masks(model)
    masks = pruning.prune(weights, masks, 0.5, "global_magnitude")
    pruning.apply_masks(weights, masks)
    training.train(model, masks, splits.train, spec, 1, plan=plan, teacher=teacher)
    assert all(bool((weight[~masks[name]] == 0).all()) for name, weight in weights.items())
    return model


def flat(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_bfloat16_trains_the_same_bytes_twice_and_not_those_of_float32(tiny, splits):
    spec = tiny(precision="bfloat16", epochs=3)
    model = trained(spec, splits)
    assert torch.equal(flat(model), flat(trained(spec, splits)))
    exact = trained(spec.replace(precision="float32"), splits)
    assert not torch.equal(flat(model), flat(exact))
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    of = [training.evaluate(m, splits.test, {"clean": splits.test.labels})["clean"] for m in (model, exact)]
    assert of[0].accuracy == pytest.approx(of[1].accuracy, abs=0.05)


def test_channels_last_changes_no_result_and_leaves_no_layout_behind(tiny, splits):
    def net():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))

    plain = trained(tiny(), splits, net)
    other = trained(tiny(), splits, net, StepPlan(channels_last=True))
    torch.testing.assert_close(flat(other), flat(plain), rtol=0, atol=1e-5)
    assert all(value.is_contiguous() for value in other.state_dict().values())


@pytest.fixture
def stand_in(monkeypatch):
    """A CUDA graph, stood in for by a function; counts of captures and replays."""
    counts = {"captures": 0, "replays": 0}

    def capture(step):
        counts["captures"] += 1

        def replay():
            counts["replays"] += 1
            step()

        return replay

    monkeypatch.setattr(captured, "cuda_graph", capture)
    return counts


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_captured_steps_are_the_same_training(tiny, splits, stand_in, optimizer):
    """Replayed for full batches, with each epoch's learning rate."""
    rate = 0.1 if optimizer == "sgd" else 1e-3
    spec = tiny(epochs=4, optimizer=optimizer, learning_rate=rate, batch_size=200)  # 5 full batches and one of 151
    expected = trained(spec, splits)
    model = trained(spec, splits, plan=StepPlan(captured=True))
    assert stand_in == {"captures": 1, "replays": 4 * 5 - 3}
    torch.testing.assert_close(flat(model), flat(expected), rtol=0, atol=1e-6)
    constant = trained(spec.replace(lr_schedule="constant"), splits, plan=StepPlan(captured=True))
    assert not torch.allclose(flat(constant), flat(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("augmentation", ["none", "flip_crop"])
def test_captured_steps_distil_alike(tiny, splits, stand_in, augmentation):
    """What the teacher says of a batch reaches the replay with it, or is computed within."""
    base = tiny(epochs=2, batch_size=200, augmentation=augmentation)
    spec = base.replace(teacher=TeacherRef(trial=base, level=0), alpha=0.8, temperature=4.0)
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))
    expected = trained(spec, splits, teacher=teacher)
    model = trained(spec, splits, plan=StepPlan(captured=True), teacher=teacher)
    assert stand_in == {"captures": 1, "replays": 2 * 5 - 3}
    torch.testing.assert_close(flat(model), flat(expected), rtol=0, atol=1e-6)
    assert not torch.allclose(flat(model), flat(trained(base, splits)), rtol=0, atol=1e-3)


def test_a_convolving_teacher_decides_the_layout_too():
    spec = TrialSpec(precision="bfloat16")
    both = nn.ModuleList([DENSE, CONV])
    assert steps.step_plan("cuda", (9, 0), both, spec) == steps.step_plan("cuda", (9, 0), CONV, spec)


def test_a_captured_rate_is_changed_in_place(tiny):
    optimizer = training.make_optimizer(tiny(), DENSE)
    steps.make_step(DENSE, optimizer, [], StepPlan(captured=True), tiny())
    (group,) = optimizer.param_groups
    held = group["lr"]
    steps.set_rate(optimizer, 0.25)
    assert group["lr"] is held
    assert float(held) == 0.25


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_fused_update_is_the_optimizers_own_step(optimizer, momentum):
    spec = TrialSpec(optimizer=optimizer, momentum=momentum, learning_rate=0.01, weight_decay=0.1)
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    found = Found()
    update = kernels.make_update(training.make_optimizer(spec, ours), found)
    reference = training.make_optimizer(spec, theirs)
    assert found.ways == {"fused": None}
    for turn in range(4):
        for model in (ours, theirs):
            model(torch.full((2, 5), 0.5 + turn)).square().sum().backward()
        update()
        reference.step()
        reference.zero_grad()
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
        assert ours.weight.grad is None


def test_no_call_is_queued_for_a_gpu_that_is_not_in_use(tiny, splits):
    if torch.cuda.is_initialized():
        pytest.skip("CUDA is in use")
    model = models.build(tiny(), splits.image_shape, splits.classes)
    queued = len(torch.cuda._queued_calls)
    training.train(model, pruning.dense_masks(model), splits.train, tiny(epochs=3), 0)
    assert len(torch.cuda._queued_calls) == queued
