"""One train() and one evaluate(), against loops written out plainly."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sdd_core import models, training
from sdd_core.data import augmentation
from sdd_core.data import splits as data
from sdd_core.spec import TeacherRef, TrialSpec, stream
from sdd_core.training import pruning, steps

CPU = torch.device("cpu")
CONSTANT = {"lr_schedule": "constant"}


@pytest.fixture(scope="module")
def splits(tiny):
    return data.load(tiny(), CPU)


def pruned_model(spec, splits, fraction=0.5):
    """The trial's initial model with half of its weights removed, and the masks."""
    model = models.build(spec, splits.image_shape, splits.classes)
    weights = pruning.prunable_weights(model)
    masks = pruning.dense_masks(model)
    if fraction > 0:
        masks = pruning.prune(weights, masks, fraction, "global_magnitude")
        pruning.apply_masks(weights, masks)
    return model, masks


def reference_train(
    model, masks, split, spec, level, rates, loss=lambda logits, labels, _: F.cross_entropy(logits, labels)
):
    """A training as anybody would write it: one image batch at a time, plain SGD, masks multiplied in."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1.0, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=False, foreach=False
    )
    for epoch, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        drawn = stream("augmentation", spec.seed, level, epoch)
        augment = augmentation.augmenter(spec.augmentation, len(split), CPU, drawn)
        images = split.images if augment is None else augment(split.images, torch.arange(len(split)))
        inputs = ((images.double() / 16 - 0.3049) / 0.3757).float()
        generator = torch.Generator().manual_seed(stream("order", spec.seed, level, epoch))
        order = torch.randperm(len(split), generator=generator).tolist()
        for start in range(0, len(order), spec.batch_size):
            index = order[start : start + spec.batch_size]
            optimizer.zero_grad()
            loss(model(inputs[index]), split.labels[index], inputs[index]).backward()
            optimizer.step()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if name in masks:
                        parameter *= masks[name]


@pytest.mark.parametrize(
    ("fields", "level", "fraction", "rates", "tolerance"),
    [
        (CONSTANT, 0, 0.0, [0.1], 1e-5),
        (CONSTANT, 3, 0.5, [0.1], 1e-5),
        (CONSTANT | {"weight_decay": 0.05, "batch_size": 100, "seed": 4}, 1, 0.8, [0.1], 1e-5),
        (CONSTANT | {"momentum": 0.0, "weight_decay": 0.0, "batch_size": 2000}, 2, 0.5, [0.1], 1e-5),
        ({"epochs": 4, "learning_rate": 0.05}, 1, 0.5, [0.05, 0.05, 0.005, 0.0005], 1e-4),
        ({"epochs": 2, "lr_schedule": "cosine"}, 1, 0.5, [0.1, 0.05], 1e-4),
    ],
)
def test_train_is_the_plain_loop(tiny, splits, fields, level, fraction, rates, tolerance):
    spec = tiny(**fields)
    model, masks = pruned_model(spec, splits, fraction)
    expected, _ = pruned_model(spec, splits, fraction)
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    training.train(model, masks, splits.train, spec, level)
    reference_train(expected, masks, splits.train, spec, level, rates)
    for (name, value), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
        assert not torch.allclose(value, initial[name], rtol=0, atol=10 * tolerance), f"{name} was not trained"


def flat(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def trained(spec, splits, level=0):
    model, masks = pruned_model(spec, splits)
    training.train(model, masks, splits.train, spec, level)
    return flat(model)


def test_the_same_seed_gives_the_same_bytes_whatever_ran_before(tiny, splits):
    first = trained(tiny(epochs=2), splits)
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(trained(tiny(epochs=2), splits), first)


def test_levels_and_seeds_draw_different_batches(tiny, splits):
    spec = tiny()
    model_of = {level: trained(spec, splits, level) for level in range(3)}
    assert not torch.equal(model_of[0], model_of[1])
    assert not torch.equal(model_of[1], model_of[2])
    assert len({stream("order", seed, k, e) for seed in range(3) for k in range(3) for e in range(3)}) == 27


@pytest.mark.parametrize("level", [0, 2])
def test_augmentation_is_drawn_from_the_seed_the_level_and_the_epoch(tiny, splits, level):
    spec = tiny(epochs=2, augmentation="flip_crop", seed=3)
    model, masks = pruned_model(spec, splits)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    training.train(model, masks, splits.train, spec, level)
    expected = []
    for epoch in range(2):
        order = torch.Generator().manual_seed(stream("order", 3, level, epoch))
        index = torch.randperm(len(splits.train), generator=order)
        drawn = stream("augmentation", 3, level, epoch)
        augment = augmentation.augmenter("flip_crop", len(splits.train), CPU, drawn)
        expected.append(splits.train.normalise(augment(splits.train.images[index], index)))
    assert torch.equal(torch.cat(seen), torch.cat(expected))


def test_the_global_random_state_is_left_alone(tiny, splits):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained(tiny(), splits)
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_drawn_from_the_seed_the_level_and_the_epoch(tiny, splits):
    def run(level, seed, epochs=1):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
        spec = tiny(seed=seed, data_seed=0, epochs=epochs, batch_size=2000, learning_rate=0.1)
        seen = []
        model[2].register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0] == 0).sum(dim=1)))
        torch.manual_seed(torch.seed())  # whatever the process had drawn before
        training.train(model, pruning.dense_masks(model), splits.train, spec, level)
        return [sorted(counts.tolist()) for counts in seen]

    assert run(0, 0) == run(0, 0)
    assert run(0, 0) != run(1, 0)
    assert run(0, 0) != run(0, 1)
    first, second = run(0, 0, epochs=2)
    assert first != second


# --- distillation ---------------------------------------------------------------------------


def distilled(spec, alpha=0.8, temperature=4.0, **changes):
    """The trial with a teacher; which it is, is not training's to know."""
    return spec.replace(teacher=TeacherRef(trial=spec, level=0), alpha=alpha, temperature=temperature, **changes)


def normed(seed=0, dropout=0.3):
    """A network with running statistics and dropout, of another architecture than the trial's."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Dropout(dropout), nn.Linear(36, 10)),
    )


@pytest.mark.parametrize("augmentation_name", ["none", "flip_crop"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.8, 10.0), (0.3, 2.0), (1.0, 4.0)])
def test_a_distilled_training_is_the_plain_loop_with_equation_1(tiny, splits, alpha, temperature, augmentation_name):
    spec = distilled(tiny(**CONSTANT), alpha, temperature, augmentation=augmentation_name)
    model, masks = pruned_model(spec, splits)
    expected, _ = pruned_model(spec, splits)
    teacher = normed()
    training.train(model, masks, splits.train, spec, 1, teacher=teacher)
    teacher.eval()

    def equation_1(logits, labels, inputs):
        with torch.no_grad():
            soft = F.softmax(teacher(inputs) / temperature, dim=1)
        divergence = F.kl_div(F.log_softmax(logits / temperature, dim=1), soft, reduction="batchmean")
        return (1 - alpha) * F.cross_entropy(logits, labels) + alpha * temperature**2 * divergence

    reference_train(expected, masks, splits.train, spec, 1, [0.1], equation_1)
    vanilla, _ = pruned_model(spec, splits)
    training.train(vanilla, masks, splits.train, spec.replace(teacher=None, alpha=0.0), 1)
    torch.testing.assert_close(flat(model), flat(expected), rtol=0, atol=1e-5)
    assert not torch.allclose(flat(model), flat(vanilla), rtol=0, atol=1e-3)


@pytest.mark.parametrize("augmentation_name", ["none", "flip_crop"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_teacher_is_left_as_it_was_and_the_same_bytes_come_twice(tiny, splits, precision, augmentation_name):
    spec = distilled(tiny(epochs=2, precision=precision), augmentation=augmentation_name)
    teacher = normed()
    teacher[4].eval()  # its other modules stay in training mode
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    modes = [module.training for module in teacher.modules()]
    results = []
    for plan in (None, None, steps.StepPlan(autocast=torch.bfloat16, channels_last=True)):
        model, masks = pruned_model(spec, splits)
        training.train(model, masks, splits.train, spec, 0, plan=plan, teacher=teacher)
        results.append(flat(model))
        assert [module.training for module in teacher.modules()] == modes
        for name, value in teacher.state_dict().items():
            assert torch.equal(value, before[name]), name
            assert value.is_contiguous()
        assert all(parameter.grad is None for parameter in teacher.parameters())
    assert torch.equal(results[0], results[1])


def test_a_teacher_is_asked_once_for_a_whole_training_where_nothing_is_augmented(tiny, splits):
    asked = {}
    for name in ("none", "flip_crop"):
        spec = distilled(tiny(epochs=3), augmentation=name)
        model, masks = pruned_model(spec, splits)
        teacher, seen = normed(), []
        teacher.register_forward_hook(lambda module, inputs, logits, seen=seen: seen.append((module.training, logits)))
        training.train(model, masks, splits.train, spec, 0, teacher=teacher)
        assert not any(mode or logits.requires_grad for mode, logits in seen)
        asked[name] = sum(len(logits) for _, logits in seen)
    assert asked == {"none": 1151, "flip_crop": 3 * 1151}


def test_a_teacher_sees_the_very_batch_that_its_student_sees(tiny, splits):
    spec = distilled(tiny(), augmentation="flip_crop")
    model, masks = pruned_model(spec, splits)
    teacher, seen = normed(), {"teacher": [], "student": []}
    teacher.register_forward_pre_hook(lambda _, inputs: seen["teacher"].append(inputs[0].clone()))
    model.register_forward_pre_hook(lambda _, inputs: seen["student"].append(inputs[0].clone()))
    training.train(model, masks, splits.train, spec, 0, teacher=teacher)
    assert torch.equal(torch.cat(seen["teacher"]), torch.cat(seen["student"]))


def test_alpha_0_trains_the_bytes_of_the_vanilla_trial(tiny, splits):
    spec = tiny()
    assert torch.equal(trained(distilled(spec, alpha=0.0), splits), trained(spec, splits))


@pytest.mark.parametrize(("alpha", "teacher", "words"), [(0.8, None, "no teacher"), (0.0, normed, "a teacher")])
def test_a_teacher_is_given_exactly_to_a_distilled_trial(tiny, splits, alpha, teacher, words):
    spec = distilled(tiny(), alpha=alpha)
    model, masks = pruned_model(spec, splits)
    with pytest.raises(ValueError, match=f"{words} for a trial with alpha {alpha}"):
        training.train(model, masks, splits.train, spec, 0, teacher=teacher and teacher())


# --- optimisers and schedules ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"lr_schedule": "constant", "epochs": 3}, [0.1, 0.1, 0.1]),
        ({"epochs": 4}, [0.1, 0.1, 0.01, 0.001]),
        ({"epochs": 8}, [0.1] * 4 + [0.01] * 2 + [0.001] * 2),
        ({"epochs": 6}, [0.1] * 3 + [0.01] * 2 + [0.001]),
        ({"epochs": 1}, [0.1]),  # an epoch decays when it begins at or after the milestone
        ({"epochs": 4, "lr_milestones": ()}, [0.1] * 4),
        ({"epochs": 4, "lr_milestones": (0.25,), "lr_decay": 0.5}, [0.1, 0.05, 0.05, 0.05]),
        ({"lr_schedule": "cosine", "epochs": 4}, [0.1, 0.0853553, 0.05, 0.0146447]),
        ({"lr_schedule": "cosine", "epochs": 1}, [0.1]),
    ],
)
def test_learning_rate(fields, expected):
    spec = TrialSpec(learning_rate=0.1, **fields)
    assert [training.learning_rate(spec, epoch) for epoch in range(spec.epochs)] == pytest.approx(expected, abs=1e-7)


def test_the_papers_schedule_decays_at_epochs_80_and_120_of_160():
    spec = TrialSpec(epochs=160)
    rates = [training.learning_rate(spec, epoch) for epoch in range(160)]
    assert rates == pytest.approx([0.1] * 80 + [0.01] * 40 + [0.001] * 40)


def test_optimizers_decay_every_parameter(tiny, splits):
    model, _ = pruned_model(tiny(), splits)
    sgd = training.make_optimizer(tiny(weight_decay=0.3, momentum=0.7, learning_rate=0.2), model)
    adamw = training.make_optimizer(tiny(weight_decay=0.3, optimizer="adamw", learning_rate=0.2), model)
    assert type(sgd) is torch.optim.SGD
    assert type(adamw) is torch.optim.AdamW
    for optimizer in (sgd, adamw):
        (group,) = optimizer.param_groups
        assert len(group["params"]) == 6
        assert (group["lr"], group["weight_decay"]) == (0.2, 0.3)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.7, False)


# --- evaluation -----------------------------------------------------------------------------


class Fixed(nn.Module):
    """A model whose logits were written down beforehand, one row per image."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.at = logits, 0

    def forward(self, inputs):
        part = self.logits[self.at : self.at + len(inputs)]
        self.at += len(inputs)
        return part


def test_evaluate_is_the_plain_mean(tiny, splits):
    model, _ = pruned_model(tiny(), splits, 0.0)
    val = splits.val
    scores = training.evaluate(model, val, {"clean": val.clean_labels, "noisy": val.labels})
    with torch.no_grad():
        logits = model((val.images.float() / 16 - 0.3049) / 0.3757)
    for name, labels in (("clean", val.clean_labels), ("noisy", val.labels)):
        assert scores[name].accuracy == int((logits.argmax(1) == labels).sum()) / 287
        assert scores[name].loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert scores["clean"] != scores["noisy"]


def test_evaluate_counts_every_image_of_a_split_larger_than_its_batch(splits):
    n = 5000
    labels = torch.arange(n) % 10
    split = dataclasses.replace(
        splits.test, images=torch.zeros(n, 1, 8, 8, dtype=torch.uint8), labels=labels, clean_labels=labels
    )
    logits = F.one_hot(labels, 10).float()
    logits[::4] = logits[::4].roll(1, dims=1)
    assert training.evaluate(Fixed(logits), split, {"clean": labels})["clean"].accuracy == 0.75


def test_a_diverged_model_has_an_infinite_loss_and_no_luck(splits):
    labels = torch.zeros(359, dtype=torch.int64)  # argmax of a NaN row is 0: right by accident
    logits = torch.full((359, 10), math.nan)
    scores = training.evaluate(Fixed(logits), splits.test, {"clean": labels})["clean"]
    assert (scores.accuracy, scores.loss) == (0.0, math.inf)


def test_one_bad_row_is_one_wrong_answer(splits):
    labels = splits.test.labels
    logits = F.one_hot(labels, 10).float()
    logits[7, 3] = math.nan
    scores = training.evaluate(Fixed(logits), splits.test, {"clean": labels})["clean"]
    assert (scores.accuracy, scores.loss) == (358 / 359, math.inf)


def test_evaluation_switches_dropout_off_and_training_on(tiny, splits):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    labelings = {"clean": splits.test.labels}
    assert training.evaluate(model, splits.test, labelings) == training.evaluate(model, splits.test, labelings)
    modes = []
    model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    training.train(model, pruning.dense_masks(model), splits.train, tiny(), 0)
    assert modes
    assert all(modes)
