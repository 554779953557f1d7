"""The paper's settings and the small embedded one, as named functions that return a whole spec.

Costs are per training, by the paper's convention, on all training images; a trajectory to 99.8 %
sparsity is 29 trainings. `python -m sdd_core.cost` computes them. The recipes of the paper's settings
start at 10 % label noise, the lowest of its three (10, 20 and 50 %, Sec. 3), and hold a validation
split out; `protocol="paper"` trains on all images as its authors did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sdd_core.registry import DATASETS, MODELS
from sdd_core.spec import DATA_FIELDS, DEFAULT_ALPHA, FIELDS, SpecError, TeacherRef, TrialSpec


def digits_lenet() -> TrialSpec:
    """The embedded default: scikit-learn's digits, half of the labels noisy, LeNet-300-100.

    Sparse double descent is plain to see at the base lambda of 1e-4. One trajectory of 29 levels is
    about 20 s on one core.
    """
    return TrialSpec(dataset="digits", label_noise=0.5, model="lenet", epochs=30, weight_decay=1e-4)


def _lenet(dataset: str) -> TrialSpec:
    return TrialSpec(dataset=dataset, label_noise=0.1, model="lenet", epochs=30, weight_decay=1e-4)


def mnist_lenet() -> TrialSpec:
    """LeNet-300-100 on MNIST: 0.00143748 PFLOP.

    The paper names the setting (Sec. 4: there, L2 regularisation removes the dip) without its
    hyperparameters. Our choice: the SGD recipe of Sec. 3 in 30 epochs, as on digits.
    """
    return _lenet("mnist")


def fashion_mnist_lenet() -> TrialSpec:
    """LeNet-300-100 on Fashion-MNIST: 0.00143748 PFLOP. Not in the paper; `mnist_lenet` on its drop-in replacement."""
    return _lenet("fashion_mnist")


def _cifar_sgd(dataset: str, model: str) -> TrialSpec:
    """Sec. 3: SGD at 0.1 with momentum 0.9, 160 epochs of batches of 128, a tenth of the rate at 80 and at 120."""
    return TrialSpec(
        dataset=dataset,
        label_noise=0.1,
        augmentation="flip_crop",
        model=model,
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.9,
        lr_schedule="steps",
        lr_milestones=(0.5, 0.75),
        lr_decay=0.1,
        epochs=160,
        batch_size=128,
        weight_decay=1e-4,
    )


def cifar10_resnet18() -> TrialSpec:
    """ResNet-18 on CIFAR-10 (Sec. 3, Fig. 2a): 13.40407 PFLOP; 3.388858 with model option stem=pool."""
    return _cifar_sgd("cifar10", "resnet18")


def cifar100_resnet18() -> TrialSpec:
    """ResNet-18 on CIFAR-100 (Sec. 3, Fig. 2b): 13.40518 PFLOP; 3.389964 with model option stem=pool."""
    return _cifar_sgd("cifar100", "resnet18")


def cifar10_vgg() -> TrialSpec:
    """VGG-like(5, 5) on CIFAR-10, the student of Sec. 5 (Fig. 5, Table 2): 1.627951 PFLOP.

    Its learning rate is 1e-4, not the 0.1 of Sec. 3: at that the loss leaves float32, here and in plain torch alike,
    because the 7x7 pooling shows the head each of 512 normalised features 49 times. benchmarks/README.md has the first
    epochs at seven rates; 1e-4 is the largest at which the loss never rose clearly above a uniform guess's.
    `--learning-rate 0.1` is the paper's.
    """
    return _cifar_sgd("cifar10", "vgg").replace(learning_rate=1e-4)


def cifar100_vgg() -> TrialSpec:
    """VGG-like(5, 5) on CIFAR-100 (Sec. 5): 1.682141 PFLOP; its learning rate is that of `cifar10_vgg`."""
    return _cifar_sgd("cifar100", "vgg").replace(learning_rate=1e-4)


def _cifar_vit(dataset: str) -> TrialSpec:
    """Sec. 3, but AdamW in place of SGD: at a rate of 1e-4 and lambda 0.03 the authors' code and curves are AdamW's."""
    return TrialSpec(
        dataset=dataset,
        label_noise=0.1,
        augmentation="flip_crop",
        model="vit",
        optimizer="adamw",
        learning_rate=1e-4,
        lr_schedule="cosine",
        epochs=200,
        batch_size=512,
        weight_decay=0.03,
    )


def cifar10_vit() -> TrialSpec:
    """ViT on CIFAR-10 (Sec. 3, Fig. 2c, Table 1): 19.28858 PFLOP."""
    return _cifar_vit("cifar10")


def cifar100_vit() -> TrialSpec:
    """ViT on CIFAR-100 (Sec. 3, Fig. 2d): 19.28996 PFLOP."""
    return _cifar_vit("cifar100")


# (data set, model) -> the recipe a user gets who names the two
RECIPES: Final[dict[tuple[str, str], Callable[[], TrialSpec]]] = {
    ("digits", "lenet"): digits_lenet,
    ("mnist", "lenet"): mnist_lenet,
    ("fashion_mnist", "lenet"): fashion_mnist_lenet,
    ("cifar10", "resnet18"): cifar10_resnet18,
    ("cifar10", "vgg"): cifar10_vgg,
    ("cifar10", "vit"): cifar10_vit,
    ("cifar100", "resnet18"): cifar100_resnet18,
    ("cifar100", "vgg"): cifar100_vgg,
    ("cifar100", "vit"): cifar100_vit,
}


def for_setting(dataset: str, model: str) -> TrialSpec | None:
    """The recipe of a data set and a model, or None when there is none.

    A plugin's data set or model has the plain defaults where the plugin gives no recipe.
    """
    recipe = RECIPES.get((dataset, model))
    if (
        recipe is None
        and dataset in DATASETS
        and model in MODELS
        and (dataset in DATASETS.sources or model in MODELS.sources)
    ):
        return TrialSpec(dataset=dataset, model=model)
    return recipe() if recipe is not None else None


def make(
    fields: Mapping[str, Any], level: str | int | None = None, teacher: Mapping[str, Any] | None = None
) -> TrialSpec:
    """The trial of a data set's and a model's recipe with these fields. Raises `SpecError` with every fault.

    With a level it is distilled from that of another trial, which has the recipe of its own model, the fields in
    `teacher`, and its student's data.
    """
    values = dict(fields)
    recipe = _recipe(values.pop("dataset", "digits"), values.pop("model", "lenet"))
    if "seed" in values:
        values.setdefault("data_seed", None)
    if level is None:
        return recipe.replace(**values)
    alpha = values.pop("alpha", DEFAULT_ALPHA)
    student = recipe.replace(**values)
    shared = {name: getattr(student, name) for name in DATA_FIELDS}
    try:
        own = {"model": student.model} | dict(teacher or {})
        trial = _recipe(student.dataset, own.pop("model")).replace(**own | shared)
        reference = TeacherRef(trial=trial, level=int(level) if str(level).isdecimal() else level)
    except SpecError as error:
        raise SpecError([f"teacher: {fault}" for fault in error.faults]) from None
    return student.replace(teacher=reference, alpha=alpha)


def _recipe(dataset: str, model: str) -> TrialSpec:
    recipe = for_setting(dataset, model)
    if recipe is None:
        faults = FIELDS["dataset"].faults(dataset) + FIELDS["model"].faults(model)
        what_runs = ", ".join(f"{dataset} with {model}" for dataset, model in RECIPES)
        missing = f"dataset {dataset!r} with model {model!r}: does not run yet; what runs: {what_runs}"
        raise SpecError(faults or [missing])
    return recipe
