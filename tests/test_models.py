"""The architectures: golden counts, what is pruned, references from torchvision, real miniatures."""

import itertools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet18 as torchvision_resnet18

from sdd_core import cost, models, trajectory
from sdd_core.data import splits as data
from sdd_core.models.vit_network import Attention, AttentionProducts, Network
from sdd_core.registry import DATASETS, MODELS
from sdd_core.spec import SpecError, TrialSpec
from sdd_core.store import Store, determined
from sdd_core.training import pruning

MINIATURES = {
    "lenet": (("hidden1", 16), ("hidden2", 8)),
    "resnet18": (("width", 4),),
    "vgg": (("gamma", 2), ("delta", 2)),
    "vit": (("patch", 4), ("width", 32), ("depth", 2), ("heads", 2), ("mlp", 32)),
}


def build(model, dataset="cifar10", seed=0, **options):
    shape = DATASETS[dataset]
    spec = TrialSpec(dataset=dataset, model=model, model_options=tuple(options.items()), seed=seed)
    return models.build(spec, shape.image_shape, shape.classes)


def miniature(model, dataset="digits", seed=0):
    return build(model, dataset, seed, **dict(MINIATURES[model]))


# --- definitions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "dataset", "options", "parameters", "prunable"),
    [
        ("lenet", "mnist", {}, 266_610, 266_200),
        ("lenet", "fashion_mnist", {}, 266_610, 266_200),
        ("resnet18", "cifar10", {}, 11_173_962, 11_164_352),
        ("resnet18", "cifar10", {"stem": "pool"}, 11_173_962, 11_164_352),
        ("resnet18", "cifar100", {}, 11_220_132, 11_210_432),
        ("vgg", "cifar10", {}, 4_967_082, 4_961_120),
        ("vgg", "cifar100", {}, 7_225_092, 7_219_040),
        ("vit", "cifar10", {}, 9_523_722, 9_466_880),
        ("vit", "cifar100", {}, 9_569_892, 9_512_960),
    ],
)
def test_golden_sizes(model, dataset, options, parameters, prunable):
    net = build(model, dataset, **options)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert pruning.prunable(pruning.dense_masks(net)) == prunable
    assert net(torch.zeros(2, *DATASETS[dataset].image_shape)).shape == (2, DATASETS[dataset].classes)


def test_every_model_that_may_be_named_can_be_built_and_runs():
    assert set(MINIATURES) == set(MODELS)
    assert {name: model.gains_from_gpu for name, model in MODELS.items()} == {
        "lenet": False,
        "resnet18": True,
        "vgg": True,
        "vit": True,
    }


def test_what_is_known_of_digits_without_reading_it_is_true():
    raw, known = data.raw_data("digits"), DATASETS["digits"]
    assert (raw.image_shape, raw.classes) == (known.image_shape, known.classes)
    assert (len(raw.train_labels), len(raw.test_labels)) == (known.train_images, known.test_images)


def test_options_and_rules_of_models_are_read_without_torch():
    code = (
        "import sys; from sdd_core import models, registry, spec;"
        "[models.faults(spec.TrialSpec(model=name)) for name in registry.MODELS]; print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


PRUNED_OF_THE_VIT = [
    "embed.weight",
    *(f"blocks.0.{layer}.weight" for layer in ("attention.qkv", "attention.out", "mlp.0", "mlp.3")),
    *(f"blocks.1.{layer}.weight" for layer in ("attention.qkv", "attention.out", "mlp.0", "mlp.3")),
    "head.weight",
]


def test_what_is_pruned_of_the_vit():
    assert list(pruning.prunable_weights(miniature("vit"))) == PRUNED_OF_THE_VIT


@pytest.mark.parametrize(("model", "layers"), [("lenet", 3), ("resnet18", 21), ("vgg", 5), ("vit", 10)])
def test_what_is_pruned_is_the_weight_of_every_convolution_and_linear_layer(model, layers):
    """Those are the tensors of two or more dimensions, but for the ViT's class token and positions."""
    net = miniature(model)
    pruned = pruning.prunable_weights(net)
    assert len(pruned) == layers
    kept = {name for name, value in net.named_parameters() if name not in pruned and value.ndim > 1}
    assert kept == ({"class_token", "position"} if model == "vit" else set())
    assert all(weight is net.get_parameter(name) for name, weight in pruned.items())


@pytest.mark.parametrize("stem", ["no_pool", "pool"])
def test_resnet18_is_torchvisions_with_another_stem(stem):
    own, other = build("resnet18", stem=stem), torchvision_resnet18(num_classes=10)
    other.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    if stem == "no_pool":
        other.maxpool = nn.Identity()
    values = list(own.state_dict().values())
    other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(own.train()(images), other.train()(images))


def test_the_layers_of_vgg_in_their_order():
    net = build("vgg")
    half = ["Conv2d", "ReLU", "BatchNorm2d"]
    for number, width in enumerate([32, 64, 128, 256, 512], start=1):
        block = net.get_submodule(f"block{number}")
        assert [type(layer).__name__ for layer in block] == [*half, *half, "MaxPool2d"]
        assert all(c.out_channels == width and c.bias is not None for c in block if isinstance(c, nn.Conv2d))


def test_attention_is_multi_head_attention():
    torch.manual_seed(0)
    own, other = Attention(12, heads=3, dropout=0.1).eval(), nn.MultiheadAttention(12, 3, batch_first=True).eval()
    with torch.no_grad():
        other.in_proj_weight.copy_(own.qkv.weight)
        other.out_proj.load_state_dict(own.out.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(own(x), other(x, x, x, need_weights=False)[0])


def test_attention_itself_has_no_dropout():
    torch.manual_seed(0)
    products = AttentionProducts().train()
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(products(x, x, x), products(x, x, x))
    torch.testing.assert_close(products(x, x, x), ((x @ x.mT) / 2).softmax(-1) @ x)


def test_the_vit_sees_patches():
    """A patch's token is a linear function of its own pixels; the class token sees every patch."""
    net = miniature("vit", "cifar10").eval()
    seen = []
    net.embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.arange(3 * 32 * 32.0).view(1, 3, 32, 32) / 3072
    net(images)
    tokens = seen[0].view(8, 8, 48)
    for row, column in [(0, 0), (0, 7), (5, 2)]:
        patch = images[0, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(tokens[row, column], patch.flatten())
    for changed in (0, 31):
        other = images.clone()
        other[..., changed, changed] += 1
        assert not torch.allclose(net(other), net(images))


def test_the_vit_is_seeded_noise_in_training_and_fixed_in_evaluation():
    net, images = miniature("vit"), torch.ones(2, 1, 8, 8)
    assert not torch.equal(net.train()(images), net(images))
    assert torch.equal(net.eval()(images), net(images))
    still = build("vit", "digits", **(dict(MINIATURES["vit"]) | {"dropout": 0.0})).train()
    assert torch.equal(still(images), still(images))
    assert isinstance(net, Network)


# --- initial weights ------------------------------------------------------------------------


@pytest.mark.parametrize("model", MINIATURES)
def test_the_same_seed_gives_the_same_bytes_whatever_was_drawn_before(model):
    def content(net):
        return [value.numpy().tobytes() for value in net.state_dict().values()]

    torch.manual_seed(5)
    first = content(miniature(model))
    before = torch.get_rng_state()
    torch.rand(3)
    assert content(miniature(model)) == first
    assert content(miniature(model, seed=1)) != first
    torch.manual_seed(5)
    miniature(model)
    assert torch.equal(torch.get_rng_state(), before)


# --- what cannot be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "model", "options", "batch_size", "words"),
    [
        ("digits", "vgg", {}, 128, "delta=5 halves 8x8 images away; delta must be from 1 to 3"),
        ("mnist", "vgg", {}, 128, "delta=5 halves 28x28 images away; delta must be from 1 to 4"),
        ("cifar10", "vgg", {"delta": 6}, 128, "delta must be from 1 to 5"),
        ("cifar10", "vgg", {}, 1, None),
        ("digits", "vgg", {"delta": 3}, 1, None),
        ("mnist", "vit", {}, 128, None),
        ("mnist", "vit", {"patch": 5}, 128, "patch=5 does not tile 28x28 images; what does: 1, 2, 4, 7, 14, 28"),
        ("digits", "vit", {"patch": 8}, 128, None),
        ("digits", "vit", {"patch": 16}, 128, "patch=16 does not tile 8x8 images; what does: 1, 2, 4, 8"),
        ("digits", "resnet18", {}, 128, None),
        ("digits", "resnet18", {}, 1, "batch norm needs two images"),
        ("digits", "resnet18", {}, 479, "batch norm needs two images"),  # 1438 = 3 * 479 + 1
        ("cifar10", "resnet18", {}, 1, None),
        ("cifar10", "resnet18", {"stem": "pool"}, 1, None),
        ("digits", "lenet", {}, 1, None),
    ],
)
def test_a_model_that_cannot_take_the_images_is_refused(dataset, model, options, batch_size, words):
    spec = TrialSpec(dataset=dataset, model=model, model_options=tuple(options.items()), batch_size=batch_size)
    faults = models.faults(spec, DATASETS[dataset].train_images)
    if words is None:
        assert faults == []
        if dataset == "digits":  # and what is not refused does train
            shape = DATASETS[dataset]
            models.build(spec, shape.image_shape, 10).train()(torch.zeros(batch_size, *shape.image_shape))
    else:
        assert len(faults) == 1
        assert words in faults[0]
        assert f"model {model!r} with dataset {dataset!r}" in faults[0]


def test_a_last_batch_of_one_is_found_in_what_is_trained_on():
    spec = TrialSpec(model="resnet18", model_options=MINIATURES["resnet18"], batch_size=50)  # 1151 = 23 * 50 + 1
    assert models.faults(spec) == []
    assert len(models.faults(spec, data.train_size(spec))) == 1
    assert models.faults(spec, data.train_size(spec.replace(protocol="paper"))) == []


def test_a_trajectory_refuses_before_anything_is_written(tmp_path):
    with pytest.raises(SpecError, match="delta must be from 1 to 3"):
        trajectory.run(TrialSpec(model="vgg"), Store(str(tmp_path / "s")))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("vit", {"heads": 7}, ["model_options heads=7: must divide width (512)"]),
        ("vit", {"width": 30, "heads": 4}, ["model_options heads=4: must divide width (30)"]),
        (
            "vit",
            {"heads": 7, "patch": 0},
            ["heads=7: must divide width (512)", "patch=0: must be a whole number from 1"],
        ),
        ("vit", {"heads": 7, "width": 0}, ["width=0: must be a whole number from 1"]),
        ("vit", {"heads": 0}, ["model_options heads=0: must be a whole number from 1"]),
        ("vit", {"heads": 2.5}, ["model_options heads=2.5: must be a whole number from 1"]),
        (
            "vgg",
            {"gamma": 32},
            ["gamma=32: must be a whole number from 1 to 12 (the first block is 2**gamma wide; the paper's"],
        ),
        ("resnet18", {"width": 0, "stem": "big"}, ["width=0: must be a whole number from 1", "no_pool, pool"]),
    ],
)
def test_options_that_contradict_each_other_are_refused(model, options, words):
    with pytest.raises(SpecError) as caught:
        TrialSpec(model=model, model_options=tuple(options.items()))
    for word in words:
        assert word in str(caught.value)
    assert len(caught.value.faults) == len(words)


# --- real miniatures ------------------------------------------------------------------------


def small(model):
    fast = {"vit": {"optimizer": "adamw", "learning_rate": 0.003}, "vgg": {"learning_rate": 0.01}}.get(model, {})
    return TrialSpec(
        model=model, model_options=MINIATURES[model], epochs=1, label_noise=0.1, target_sparsity=0.35, **fast
    )


class Interruption(Exception):
    """What ends a run in these tests."""


@pytest.mark.parametrize("model", [model for model in MINIATURES if model != "lenet"])
def test_a_trajectory_of_three_levels_is_the_same_bytes_when_it_is_interrupted_after_each(model, tmp_path):
    spec = small(model)
    whole = trajectory.run(spec, Store(str(tmp_path / "whole")))
    assert len(whole) == 3
    assert whole[-1].test_accuracy > 0.4
    assert whole[0].pflop == cost.estimate(spec, images=1151)["pflop_per_training"]
    assert whole[0].prunable == cost.estimate(spec)["prunable"]

    def stop(record, trained):
        if trained:
            raise Interruption

    for _ in whole:
        with pytest.raises(Interruption):
            trajectory.run(spec, Store(str(tmp_path / "parts")), on_level=stop)
    parts = trajectory.run(spec, Store(str(tmp_path / "parts")))
    assert [determined(record) for record in parts] == [determined(record) for record in whole]


def test_norm_statistics_go_through_the_store_and_on_to_the_next_level(tmp_path):
    store, spec = Store(str(tmp_path / "store")), small("vgg")
    curve = trajectory.run(spec, store, keep="all")
    stored = [store.weights(record) for record in curve]
    steps = math.ceil(1151 / spec.batch_size) * spec.epochs
    for level, arrays in enumerate(stored):
        counts = [array for name, array in arrays.items() if name.endswith("num_batches_tracked")]
        assert [(c.shape, c.dtype, int(c)) for c in counts] == [((), "int64", steps * (level + 1))] * 4
    for before, after in itertools.pairwise(stored):
        name = "model.block1.2.running_mean"
        assert abs(after[name] - before[name]).max() > 0


@pytest.mark.parametrize("model", MINIATURES)
def test_pruning_touches_prunable_weights_only(model):
    net = miniature(model)
    net.train()(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    weights = pruning.prunable_weights(net)
    masks = pruning.prune(weights, pruning.dense_masks(net), 0.5, "global_magnitude")
    pruning.apply_masks(weights, masks)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name] * masks[name] if name in masks else before[name]), name
    assert pruning.remaining(masks) == pruning.prunable(masks) - round(0.5 * pruning.prunable(masks))


# --- adding one -----------------------------------------------------------------------------


def test_the_readmes_example_of_a_new_model_works(tmp_path):
    """Its file and its lines are put into a copy of the package, and its command is run there."""
    root = Path(__file__).resolve().parent.parent
    section = (root / "README.md").read_text().split("## Your own model")[1].split("\n## ")[0]
    file, lines = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    shutil.copytree(root / "sdd_core", tmp_path / "sdd_core", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / file.splitlines()[0].removeprefix("# ")).write_text(file)
    for line in lines.splitlines():
        place, path = re.search(r"  # (\w+) of ([\w/.]+\.py)", line).groups()
        text = (tmp_path / path).read_text()
        (head,) = re.findall(rf"^{place}: Final.* = (?:{{|Registry\()$", text, flags=re.MULTILINE)
        (tmp_path / path).write_text(text.replace(head, f"{head}\n{line}"))
    command = re.search(r"`python -m (sdd_core --model mlp .*?)`", section)[1].split()
    result = subprocess.run(
        [sys.executable, "-m", *command, "--epochs", "1", "--target-sparsity", "0.3"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "3 levels" in result.stdout
