"""Operations of a model and PFLOPs by the convention of the paper's tables."""

import math

import pytest
import torch
from torch import nn

from sdd_core import cost, models
from sdd_core.spec import TrialSpec


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
