"""The paper's settings: every figure of its Sec. 3 that a recipe holds, and the costs that they state."""

import inspect
import re

import pytest

from sdd_core import cost, models, recipes
from sdd_core.registry import DATASETS
from sdd_core.spec import TrialSpec

SGD = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "lr_schedule": "steps",
    "lr_milestones": (0.5, 0.75),  # epochs 80 and 120
    "lr_decay": 0.1,
    "epochs": 160,
    "batch_size": 128,
}
ADAMW = {
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "weight_decay": 0.03,
    "lr_schedule": "cosine",
    "epochs": 200,
    "batch_size": 512,
}
CIFAR = [(dataset, model) for dataset in ("cifar10", "cifar100") for model in ("resnet18", "vgg", "vit")]


def test_which_recipes_there_are():
    assert next(iter(recipes.RECIPES)) == ("digits", "lenet")
    assert set(recipes.RECIPES) == {(dataset, "lenet") for dataset in ("digits", "mnist", "fashion_mnist")} | set(CIFAR)


@pytest.mark.parametrize("setting", CIFAR)
def test_the_papers_settings(setting):
    spec = recipes.for_setting(*setting)
    values = ADAMW if setting[1] == "vit" else SGD
    if setting[1] == "vgg":  # which does not learn at the paper's
        values = values | {"learning_rate": 1e-4}
    assert {name: getattr(spec, name) for name in values} == values
    assert (spec.label_noise, spec.noise_kind, spec.augmentation) == (0.1, "symmetric", "flip_crop")


@pytest.mark.parametrize("setting", recipes.RECIPES)
def test_what_all_recipes_share(setting):
    spec = recipes.RECIPES[setting]()
    assert (spec.dataset, spec.model) == setting
    assert recipes.RECIPES[setting].__name__ == "_".join(setting)
    assert spec.options == TrialSpec(model=setting[1]).options
    assert (spec.criterion, spec.prune_fraction, spec.retraining) == ("global_magnitude", 0.2, "rewind_lr")
    assert (spec.target_sparsity, spec.protocol, spec.teacher, spec.seed) == (0.998, "validation", None, 0)
    assert models.faults(spec, DATASETS[spec.dataset].train_images) == []


def test_the_embedded_default_is_unchanged():
    assert recipes.digits_lenet() == TrialSpec(label_noise=0.5)


@pytest.mark.parametrize("setting", [setting for setting in recipes.RECIPES if setting[0] != "digits"])
def test_a_docstring_states_the_cost(setting):
    stated = re.findall(r"([\d.]+) PFLOP|; ([\d.]+) with model option", inspect.getdoc(recipes.RECIPES[setting]))
    spec = recipes.RECIPES[setting]()
    stems = ["no_pool", "pool"] if spec.model == "resnet18" else [None]
    assert len(stated) == len(stems)
    for figure, stem in zip(stated, stems, strict=True):
        changed = spec.replace(model_options=(("stem", stem),)) if stem else spec
        pflop = cost.estimate(changed)["pflop_per_training"]
        assert "".join(figure) == f"{pflop:.7g}"


@pytest.mark.parametrize(("dataset", "model"), [("digits", "vit"), ("mnist", "vgg"), ("imagenet", "lenet")])
def test_there_is_not_a_recipe_for_everything(dataset, model):
    assert recipes.for_setting(dataset, model) is None


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ({}, (0, 0)),
        ({"seed": 3}, (3, 3)),  # the data's seed follows, whatever the recipe's was
        ({"data_seed": 4}, (0, 4)),
        ({"seed": 3, "data_seed": 0}, (3, 0)),
        ({"seed": 3, "data_seed": None}, (3, 3)),
    ],
)
@pytest.mark.parametrize("level", [None, "dense"])
def test_the_data_seed_follows_the_seed_unless_it_is_given(given, seeds, level):
    made = recipes.make(given, level)
    assert (made.seed, made.data_seed) == seeds
    if level is not None:
        assert (made.teacher.trial.seed, made.teacher.trial.data_seed) == (0, seeds[1])
