"""Operations of a model and PFLOPs by the convention of the paper's tables."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from sdd_core import cost, models, recipes
from sdd_core.commands import cost as command
from sdd_core.data import splits as data
from sdd_core.reading import Reading
from sdd_core.registry import DATASETS
from sdd_core.spec import TeacherRef, TrialSpec, last_level
from sdd_core.training import pruning


def test_lenet_on_mnist():
    model = models.build(TrialSpec(dataset="mnist", model="lenet"), (1, 28, 28), 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 266_610
    assert cost.operations(model, (1, 28, 28)).paper == 784 * 300 + 300 * 100 + 100 * 10


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
    assert cost.operations(model, shape).paper == expected


def test_nested_and_shared_layers_are_counted_once_a_call():
    shared = nn.Linear(4, 4)
    assert cost.operations(nn.Sequential(nn.Flatten(), shared, nn.Sequential(shared)), (1, 2, 2)).paper == 32


def test_counting_leaves_no_trace():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for mode in (True, False):
        model.train(mode)
        rng = torch.get_rng_state()
        cost.operations(model, (1, 4, 4))
        assert model.training is mode
        assert torch.equal(torch.get_rng_state(), rng)
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_hooks_are_removed_when_the_model_fails():
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError):
        cost.operations(model, (1, 2, 2))
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


# --- real operations ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "shape", "forward", "backward"),
    [
        # The first layer needs no gradient for its input: one product backward, not two.
        ([nn.Flatten(), nn.Linear(12, 5)], (3, 2, 2), 120, 120),
        ([nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2)], (3, 2, 2), 120 + 20, 120 + 40),
        ([nn.Conv2d(3, 8, 3, padding=1)], (3, 6, 6), 2 * 7776, 2 * 7776),
        ([nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)], (1, 4, 4), 144 + 40, 144 + 80),
        ([nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1)], (1, 4, 4), 144 + 8, 144 + 8),
    ],
)
def test_real_operations_by_layer(layers, shape, forward, backward):
    found = cost.operations(nn.Sequential(*layers), shape)
    assert (found.forward, found.training) == (forward, forward + backward)


@pytest.mark.parametrize("recipe", recipes.RECIPES.values())
def test_real_operations_are_about_twice_the_papers(recipe):
    """Exactly twice, but for the first layer, norms and pooling: by less than they are."""
    answer = cost.estimate(recipe())
    kinds = answer["operations_by_kind"]
    products = sum(kinds.get(kind, 0) for kind in ("Linear", "Conv2d", "AttentionProducts"))
    single = answer["operations_per_image"] - products
    assert answer["real_operations_per_image"]["forward"] == 2 * products + single
    limit = 0.3 if recipe().model == "lenet" else 0.02  # LeNet's first layer is most of it
    assert 2 * (1 - limit) < answer["pflop_real_per_training"] / answer["pflop_per_training"] <= 2


def count_by_torch(run):
    """Real operations of products, as PyTorch's own counter finds them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("recipe", "options"),
    [(recipes.mnist_lenet, {}), (recipes.cifar10_vgg, {"gamma": 3}), (recipes.cifar10_resnet18, {"width": 8})],
)
def test_products_agree_with_an_independent_count(recipe, options):
    spec = recipe().replace(model_options=tuple(options.items()))
    shape = DATASETS[spec.dataset]
    model = models.build(spec, shape.image_shape, shape.classes).eval()
    image = torch.zeros(1, *shape.image_shape)
    calls = [call for call in cost.operations(model, shape.image_shape).calls if call.weight is not None]
    assert count_by_torch(lambda: model(image)) == sum(call.forward for call in calls)
    both = count_by_torch(lambda: model(image).sum().backward())
    assert both == sum(call.forward + call.backward for call in calls)


# --- with the surviving weights alone -------------------------------------------------------


@pytest.mark.parametrize("recipe", [recipes.digits_lenet, recipes.cifar10_vgg, recipes.cifar10_vit])
def test_dense_masks_cost_what_a_dense_network_does(recipe):
    spec = recipe()
    shape = DATASETS[spec.dataset]
    model = models.build(spec, shape.image_shape, shape.classes)
    found = cost.operations(model, shape.image_shape)
    masks = pruning.dense_masks(model)
    assert found.sparse(masks) == found.paper
    for mask in masks.values():
        mask.zero_()
    weightless = ("LayerNorm", "BatchNorm2d", "AdaptiveAvgPool2d", "AttentionProducts")
    assert found.sparse(masks) == sum(found.by_kind().get(kind, 0) for kind in weightless)


def test_a_surviving_weight_counts_once_for_each_output_position():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1, stride=2), nn.Flatten(), nn.Linear(8, 3)
    )
    masks = {name: torch.zeros_like(mask) for name, mask in pruning.dense_masks(model).items()}
    for name, left in (("0.weight", 4), ("2.weight", 3), ("4.weight", 7)):
        masks[name].view(-1)[:left] = True
    assert cost.operations(model, (1, 4, 4)).sparse(masks) == 4 * 16 + 5 * 32 + 3 * 4 + 7


# --- levels ---------------------------------------------------------------------------------

SIZES = cost.Sizes(train=100, val=20, test=30)
LENET, FORWARD, TRAINING = 2720, 5440, 3 * 5440 - 4096  # the tiny one: 64 -> 32 -> 16 -> 10, first layer 64 * 32


def test_a_vanilla_level(tiny):
    expected = cost.LevelCost(
        pflop=3 * LENET * 100 * 4 / 1e15,
        pflop_teacher=0.0,
        pflop_real=TRAINING * 100 * 4 / 1e15,
        pflop_real_teacher=0.0,
        pflop_real_evaluation=FORWARD * 150 / 1e15,
        sparse_multiply_adds=LENET,
    )
    for level in (0, 3):
        assert cost.level_cost(tiny(epochs=4), level, SIZES) == expected


@pytest.mark.parametrize(
    ("changes", "level", "passes"),
    [
        ({}, 0, 4),
        ({"criterion": "gradient"}, 0, 4),
        ({"criterion": "gradient"}, 1, 5),  # one more pass over the training images, to score the weights
        ({"retraining": "rewind_weights", "rewind_epoch": 1}, 0, 4),
        ({"retraining": "rewind_weights", "rewind_epoch": 1}, 2, 3),
        ({"retraining": "rewind_weights", "rewind_epoch": 0}, 2, 4),
    ],
)
def test_passes_over_the_training_images(tiny, changes, level, passes):
    found = cost.level_cost(tiny(epochs=4, **changes), level, SIZES)
    assert found.pflop_real == pytest.approx(TRAINING * 100 * passes / 1e15, rel=1e-12)
    scored = changes.get("criterion") == "gradient" and level > 0  # which the paper's convention leaves out
    assert found.pflop == pytest.approx(3 * LENET * 100 * (passes - scored) / 1e15, rel=1e-12)


@pytest.mark.parametrize(
    ("augmentation", "alpha", "passes"),
    [("flip_crop", 0.8, 4), ("none", 0.8, 1), ("flip_crop", 1.0, 4), ("flip_crop", 0.0, 0), ("none", 0.0, 0)],
)
def test_a_teachers_forward_passes(tiny, augmentation, alpha, passes):
    teacher = tiny(model_options=(("hidden1", 20), ("hidden2", 10)))
    spec = tiny(epochs=4, augmentation=augmentation, teacher=TeacherRef(trial=teacher, level="dense"), alpha=alpha)
    vanilla = cost.level_cost(tiny(epochs=4, augmentation=augmentation), 1, SIZES)
    seen = (64 * 20 + 20 * 10 + 10 * 10) * 100 * passes / 1e15
    expected = dataclasses.replace(vanilla, pflop_teacher=seen, pflop_real_teacher=2 * seen)
    assert cost.level_cost(spec, 1, SIZES) == expected


@pytest.mark.parametrize("protocol", ["validation", "paper"])
def test_nominal_sizes_are_the_splits_but_for_rounding(tiny, protocol):
    spec = tiny(protocol=protocol)
    splits = data.load(spec, torch.device("cpu"))
    sizes = cost.nominal_sizes(spec)
    assert sizes.train + sizes.val == len(splits.train) + (0 if splits.val is None else len(splits.val))
    assert sizes.test == len(splits.test)
    assert abs(sizes.train - len(splits.train)) <= 5
    assert (sizes.val == 0) == (protocol == "paper")


# --- the paper's tables ---------------------------------------------------------------------

VIT = recipes.cifar10_vit().replace(protocol="paper")
VGG = recipes.cifar10_vgg().replace(protocol="paper", label_noise=0.2)
RESNET = recipes.cifar10_resnet18().replace(protocol="paper", label_noise=0.2)
DISTILLED = VGG.replace(teacher=TeacherRef(trial=RESNET, level="dense"), alpha=0.8)


def curve_of(spec, make_record, accuracies):
    """The records of a trial whose levels have these test accuracies: everything that costs comes from its spec."""
    sizes = cost.nominal_sizes(spec)
    return [
        make_record(level, test_accuracy=accuracy, val_accuracy=None, **vars(cost.level_cost(spec, level, sizes)))
        for level, accuracy in enumerate(accuracies)
    ]


def rises_until(best, levels):
    """A curve whose best level is `best`, and that then falls by 3 points a level."""
    return [0.5 + 0.001 * i if i <= best else 0.5 + 0.001 * best - 0.03 * (i - best) for i in range(levels)]


@pytest.mark.parametrize(
    ("spec", "sparsity", "printed", "what"),
    [
        # Run to the end of a curve that has this sparsity.
        (VIT, 0.9926, 443.68, "whole"),
        (VGG, 0.9984, 48.84, "whole"),
        (DISTILLED, 0.9908, 35.82, "whole"),  # 22 trainings, though it prints the sparsity of the 23rd
        # Ended by early stopping at the level of this sparsity.
        (VIT, 0.9560, 289.33, "early stop"),
        (VIT, 0.8658, 192.89, "early stop"),
        (VGG, 0.3600, 4.88, "early stop"),
    ],
)
def test_the_papers_tables(make_record, spec, sparsity, printed, what):
    """Tables 1 and 2: within 0.02 %, or half a unit of the last printed digit."""
    tolerance = max(0.0002 * printed, 0.005)
    ended = last_level(cost.estimate(spec)["prunable"], 0.2, sparsity - 5e-5)
    if what == "whole":
        figures = Reading().summary(curve_of(spec, make_record, rises_until(ended, ended + 1)))
        assert figures.pflop == pytest.approx(printed, abs=tolerance)
        assert figures.best.pflop == figures.pflop
        return
    patience = min(3, ended)  # Table 2's stop after three trainings leaves no room for three levels below the best
    figures = Reading(patience=patience).summary(curve_of(spec, make_record, rises_until(ended - patience, 30)))
    assert figures.early_stop_triggered
    assert figures.early_stop.levels == ended + 1
    assert figures.early_stop.pflop == pytest.approx(printed, abs=tolerance)


def test_with_its_teacher_the_distilled_run_of_table_2_costs_more_than_the_vanilla_one(make_record):
    vanilla = Reading().summary(curve_of(VGG, make_record, rises_until(29, 30)))
    distilled = curve_of(DISTILLED, make_record, rises_until(21, 22))
    passes = sum(record.pflop_teacher for record in distilled)
    assert passes == pytest.approx(22 * 558_502_912 * 160 * 50_000 / 1e15, rel=1e-12)
    assert passes == pytest.approx(98.30, abs=0.005)
    assert sum(record.pflop for record in distilled) + passes == pytest.approx(134.11, abs=0.005)
    assert vanilla.pflop == pytest.approx(48.84, abs=0.005)


# --- whole trials ---------------------------------------------------------------------------


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
        cost.operations(nn.Sequential(*layers), (1, 2, 2))


def test_a_module_may_count_its_own():
    class Outer(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :, None] * x.flatten(1)[:, None, :]

        def operations(self, inputs, output):
            return output.numel()

    model = nn.Sequential(nn.Conv2d(1, 1, 1), Outer())
    assert cost.operations(model, (1, 2, 2)).by_kind() == {"Conv2d": 4, "Outer": 16}


# --- the command ----------------------------------------------------------------------------


def run(capsys, *arguments):
    assert command.main(arguments) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_papers_figure(capsys):
    text = run(capsys, "--model", "vit", "--dataset", "cifar10", "--epochs", "200")
    assert "9,523,722 parameters, 9,466,880 prunable" in text
    assert "a training is 200 epochs x 50,000 images; a trajectory is 29 trainings" in text
    assert "642,952,704 operations an image" in text
    assert "19.28858 PFLOP a training, 559.3689 a trajectory" in text
    assert "38.48572 PFLOP a training" in text


def test_the_command_in_json(capsys):
    arguments = ("--model", "vgg", "--dataset", "cifar10", "--epochs", "16", "--images", "5000", "--json")
    answer = json.loads(run(capsys, *arguments))
    assert (answer["epochs"], answer["train_images"], answer["model_options"]) == (16, 5000, {"gamma": 5, "delta": 5})
    assert answer["pflop_per_training"] == pytest.approx(1.627951104 / 100, rel=1e-12)


@pytest.mark.parametrize(("model", "epochs", "pflop"), [("vit", 200, 19.28858), ("vgg", 160, 1.627951)])
def test_the_papers_figures_in_json(capsys, model, epochs, pflop):
    answer = json.loads(run(capsys, "--model", model, "--dataset", "cifar10", "--epochs", str(epochs), "--json"))
    assert float(f"{answer['pflop_per_training']:.7g}") == pflop


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
def test_every_training_image_counts_whatever_the_protocol(capsys, dataset):
    answers = [
        run(capsys, "--dataset", dataset, "--json", "--protocol", protocol) for protocol in ("validation", "paper")
    ]
    assert answers[0] == answers[1]
    assert json.loads(answers[0])["train_images"] == DATASETS[dataset].train_images


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (["--dataset", "cifar10", "--model", "vit", "--model-options", "patch=5"], ["patch=5 does not tile 32x32"]),
        (["--images", "0"], ["images 0: must be a whole number from 1"]),
        (["--images", "many", "--epochs", "0"], ["images 'many': must be a whole number", "epochs 0"]),
        (["--train-images", "2000"], ["train_images 2000: there are 1438 to train on"]),
        (["--dataset", "imagenet", "--epoch=3"], ["dataset 'imagenet'", "--epoch=3: unknown flag"]),
        (["--dataset", "digits", "--model", "vgg"], ["dataset 'digits' with model 'vgg'"]),
    ],
)
def test_the_command_refuses_all_faults_at_once(capsys, arguments, faults):
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert f"{len(faults)} fault" in message
    for fault in faults:
        assert fault in message


def test_a_part_of_the_training_images_costs_its_share():
    spec = TrialSpec(train_images=100)
    assert cost.nominal_sizes(spec) == cost.Sizes(train=100, val=288, test=359)
    whole, part = cost.estimate(TrialSpec()), cost.estimate(spec)
    assert part["train_images"] == 100
    assert part["pflop_per_training"] == pytest.approx(whole["pflop_per_training"] * 100 / 1438)
