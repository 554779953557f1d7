"""Operations of a model and PFLOPs by the convention of the paper's tables."""

import json
import math

import pytest
import torch
from torch import nn

from sdd_core import cost, models, recipes
from sdd_core.spec import DATASET_SHAPES, TrialSpec


def test_lenet_on_mnist():
    model = models.build(TrialSpec(dataset="mnist", model="lenet"), (1, 28, 28), 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 266_610
    assert cost.operations_per_image(model, (1, 28, 28)) == 784 * 300 + 300 * 100 + 100 * 10


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),
    [
        ([nn.Flatten(), nn.Linear(12, 5)], (3, 2, 2), 12 * 5),
        ([nn.Conv2d(3, 8, 3, padding=1)], (3, 6, 6), 3 * 9 * 8 * 36),
        ([nn.Conv2d(3, 8, 3, stride=2, padding=1)], (3, 6, 6), 3 * 9 * 8 * 9),
        ([nn.Conv2d(4, 8, 3, groups=2)], (4, 3, 3), 2 * 9 * 8),
        ([nn.BatchNorm2d(3)], (3, 6, 6), 5 * 108),
        ([nn.Flatten(2), nn.LayerNorm(36)], (3, 6, 6), 5 * 108),
        ([nn.AdaptiveAvgPool2d(1)], (3, 6, 6), 108),
        ([nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Softmax(1)], (3, 6, 6), 0),
        ([nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)], (1, 4, 4), 72 + 40 + 24),
    ],
)
def test_operations_by_layer(layers, shape, expected):
    model = nn.Sequential(*layers, nn.Identity())
    if not list(model.parameters()):
        model.register_parameter("unused", nn.Parameter(torch.zeros(1)))  # says which device to count on
    assert cost.operations_per_image(model, shape) == expected


def test_nested_and_shared_layers_are_counted_once_a_call():
    shared = nn.Linear(4, 4)
    assert cost.operations_per_image(nn.Sequential(nn.Flatten(), shared, nn.Sequential(shared)), (1, 2, 2)) == 32


def test_counting_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for mode in (True, False):
        model.train(mode)
        rng = torch.get_rng_state()
        cost.operations_per_image(model, (1, 4, 4))
        assert model.training is mode
        assert torch.equal(torch.get_rng_state(), rng)
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_hooks_are_removed_when_the_model_fails():
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError):
        cost.operations_per_image(model, (1, 2, 2))
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("operations", "images", "epochs", "expected"),
    [
        (642_952_704, 50_000, 200, 19.28858112),  # ViT on CIFAR-10, the paper's Table 1
        (67_831_296, 50_000, 160, 1.627951104),  # VGG-like(5, 5) on CIFAR-10, Table 2
        (0, 50_000, 160, 0.0),
        (1000, 100, 10, 3e-9),
    ],
)
def test_training_pflop(operations, images, epochs, expected):
    assert cost.training_pflop(operations, images, epochs) == pytest.approx(expected, rel=1e-12)


def test_the_papers_tables():
    vit, vgg = cost.training_pflop(642_952_704, 50_000, 200), cost.training_pflop(67_831_296, 50_000, 160)
    assert [round(n * vit, 2) for n in (15, 10)] == [289.33, 192.89]
    assert math.isclose(23 * vit, 443.68, rel_tol=1e-4)  # printed a hair higher than its own formula
    assert [round(n * vgg, 2) for n in (30, 3)] == [48.84, 4.88]
    assert math.isclose(22 * vgg, 35.82, rel_tol=1e-3)


# --- the paper's models ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "model", "options", "kinds", "pflop"),
    [
        ("mnist", "lenet", {}, {"Linear": 266_200}, 0.00143748),
        (
            *("cifar10", "vit", {}),
            {"Linear": 614_994_944, "AttentionProducts": 25_958_400, "LayerNorm": 1_999_360},
            19.28858112,
        ),
        (
            *("cifar10", "vgg", {}),
            {"Conv2d": 66_945_024, "BatchNorm2d": 634_880, "AdaptiveAvgPool2d": 512, "Linear": 250_880},
            1.627951104,
        ),
        (
            *("cifar10", "resnet18", {}),
            {"Conv2d": 555_417_600, "BatchNorm2d": 3_072_000, "AdaptiveAvgPool2d": 8_192, "Linear": 5_120},
            13.404069888,
        ),
        (
            *("cifar10", "resnet18", {"stem": "pool"}),
            {"Conv2d": 140_181_504, "BatchNorm2d": 1_013_760, "AdaptiveAvgPool2d": 2_048, "Linear": 5_120},
            3.388858368,
        ),
    ],
)
def test_golden_operations(dataset, model, options, kinds, pflop):
    spec = recipes.RECIPES[dataset, model]().replace(model_options=tuple(options.items()))
    answer = cost.estimate(spec)
    assert answer["operations_by_kind"] == kinds
    assert answer["operations_per_image"] == sum(kinds.values())
    assert answer["pflop_per_training"] == pytest.approx(pflop, rel=1e-12)
    assert answer["trainings"] == 29
    assert answer["pflop_per_trajectory"] == pytest.approx(29 * pflop, rel=1e-12)


def test_the_papers_products_per_image_are_these_models():
    assert cost.estimate(recipes.cifar10_vit())["operations_per_image"] == 642_952_704
    assert cost.estimate(recipes.cifar10_vgg())["operations_per_image"] == 67_831_296


def test_rewinding_to_an_early_epoch_saves_its_epochs_at_every_pruned_level():
    spec = recipes.mnist_lenet().replace(retraining="rewind_weights", rewind_epoch=10)
    assert cost.estimate(spec)["pflop_per_trajectory"] == pytest.approx(0.00143748 * (1 + 28 * 20 / 30), rel=1e-12)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv1d(3, 4, 1)],
        [nn.MultiheadAttention(4, 2)],
        [nn.Linear(4, 4), nn.Bilinear(4, 4, 4)],
    ],
)
def test_a_layer_that_is_not_counted_is_not_passed_over_in_silence(layers):
    with pytest.raises(TypeError, match=type(layers[-1]).__name__):
        cost.operations_per_image(nn.Sequential(*layers), (1, 2, 2))


def test_a_module_may_count_its_own():
    class Outer(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :, None] * x.flatten(1)[:, None, :]

        def operations(self, inputs, output):
            return output.numel()

    model = nn.Sequential(nn.Conv2d(1, 1, 1), Outer())
    assert cost.operations_by_kind(model, (1, 2, 2)) == {"Conv2d": 4, "Outer": 16}


# --- the command ----------------------------------------------------------------------------


def run(capsys, *arguments):
    assert cost.main(arguments) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_papers_figure(capsys):
    text = run(capsys, "--model", "vit", "--dataset", "cifar10", "--epochs", "200")
    assert "9,523,722 parameters, 9,466,880 prunable" in text
    assert "642,952,704 operations an image" in text
    assert "19.28858 PFLOP a training of 200 epochs x 50,000 images" in text


def test_the_command_in_json(capsys):
    arguments = ("--model", "vgg", "--dataset", "cifar10", "--epochs", "16", "--images", "5000", "--json")
    answer = json.loads(run(capsys, *arguments))
    assert (answer["epochs"], answer["train_images"], answer["model_options"]) == (16, 5000, {"gamma": 5, "delta": 5})
    assert answer["pflop_per_training"] == pytest.approx(1.627951104 / 100, rel=1e-12)


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_every_training_image_counts_whatever_the_protocol(capsys, dataset):
    answers = [
        run(capsys, "--dataset", dataset, "--json", "--protocol", protocol) for protocol in ("validation", "paper")
    ]
    assert answers[0] == answers[1]
    assert json.loads(answers[0])["train_images"] == DATASET_SHAPES[dataset].train_images


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (["--dataset", "cifar10", "--model", "vit", "--model-options", "patch=5"], ["patch=5 does not tile 32x32"]),
        (["--images", "0"], ["images 0: must be a whole number from 1"]),
        (["--images", "many", "--epochs", "0"], ["images 'many': must be a whole number", "epochs 0"]),
        (["--dataset", "imagenet", "--epoch=3"], ["dataset 'imagenet'", "--epoch=3: unknown flag"]),
        (["--dataset", "digits", "--model", "vgg"], ["dataset 'digits' with model 'vgg'"]),
    ],
)
def test_the_command_refuses_all_faults_at_once(capsys, arguments, faults):
    with pytest.raises(SystemExit) as caught:
        cost.main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert f"{len(faults)} fault" in message
    for fault in faults:
        assert fault in message
