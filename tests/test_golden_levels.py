"""Trainings whose results are pinned: a change of code that changes what is trained has to raise `SCHEMA`.

Level keys hold the spec and `SCHEMA`, not the code. So each case here trains two levels of a tiny network, one
for every model, criterion, policy, optimiser, schedule, augmentation, kind of noise and way to distil, and compares
them with `golden/levels.json`. When they differ and they are meant to, raise `SCHEMA` in sdd_core/spec.py, then
write the file anew with SDD_GOLDEN=write.

The bytes of a training depend on the CPU and on the libraries, so what is compared is two sums of every tensor,
which must agree to `TOLERANCE` of its norm, and the accuracies, to one image in fifty. A change smaller than that
passes, as any platform's rounding does.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sdd_core import machine, recipes
from sdd_core.data import splits
from sdd_core.registry import AUGMENTATIONS, CRITERIA, MODELS, NOISE_KINDS, POLICIES
from sdd_core.spec import SCHEMA, TeacherRef
from sdd_core.trajectory import make_level
from sdd_core.trajectory.level import early_weights

GOLDEN = Path(__file__).parent / "golden" / "levels.json"
TOLERANCE = 1e-3
CPU = torch.device("cpu")
SMALL = {
    "lenet": (("hidden1", 32), ("hidden2", 16)),
    "resnet18": (("width", 4),),
    "vgg": (("delta", 3), ("gamma", 2)),
    "vit": (("depth", 1), ("heads", 2), ("mlp", 16), ("width", 16)),
}
DIGITS = recipes.digits_lenet().replace(epochs=2, model_options=SMALL["lenet"], train_images=256)


def on_images(model, **changes):
    return recipes.make({"dataset": "cifar10", "model": model} | {"epochs": 2, "batch_size": 32}).replace(
        model_options=SMALL[model], **({"learning_rate": 0.01} if model != "vit" else {}) | changes
    )


CASES = {
    **{f"model {name}": DIGITS if name == "lenet" else on_images(name) for name in ("lenet", "resnet18", "vgg", "vit")},
    **{f"criterion {name}": DIGITS.replace(criterion=name) for name in CRITERIA},
    **{
        f"policy {name}": DIGITS.replace(retraining=name, rewind_epoch=1 if name == "rewind_weights" else None)
        for name in POLICIES
    },
    "optimizer sgd": DIGITS.replace(optimizer="sgd", learning_rate=0.1, momentum=0.9),
    "optimizer adamw": DIGITS.replace(optimizer="adamw", learning_rate=1e-3, weight_decay=0.1),
    "schedule cosine": DIGITS.replace(lr_schedule="cosine"),
    "schedule steps": DIGITS.replace(lr_schedule="steps"),
    **{f"augmentation {name}": on_images("resnet18", augmentation=name) for name in AUGMENTATIONS},
    **{f"noise {name}": DIGITS.replace(noise_kind=name, label_noise=0.3) for name in NOISE_KINDS},
    "paper protocol": DIGITS.replace(protocol="paper"),
    "distilled": DIGITS.replace(teacher=TeacherRef(trial=DIGITS.replace(seed=1), level="dense"), alpha=0.5),
    "distilled, augmented": on_images("resnet18").replace(
        teacher=TeacherRef(trial=on_images("vgg"), level="dense"), alpha=0.8
    ),
}


def made_up_images():
    """96 images of CIFAR-10's shape, and 32 to validate and to test on, that every machine draws alike."""
    draw = np.random.Generator(np.random.PCG64(0))

    def split(count):
        labels = torch.from_numpy(draw.integers(0, 10, count))
        images = torch.from_numpy(draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8))
        scale, shift = torch.full((1, 3, 1, 1), 1 / 64), torch.full((1, 3, 1, 1), -2.0)
        return splits.Split(images, labels, labels, scale, shift)

    return splits.Data(split(96), split(32), split(32), 10, (3, 32, 32))


def two_levels(spec):
    """The dense and the first pruned level of a trial."""
    with machine.cpu_arithmetic(1):
        return _two_levels(spec)


def _two_levels(spec):
    data = made_up_images() if spec.dataset == "cifar10" else splits.load(spec, CPU)
    teacher = make_level(spec.teacher.trial, 0, None, None, data) if spec.distilled else None
    dense = make_level(spec, 0, None, teacher, data)
    early = early_weights(spec, teacher, data) if spec.rewind_epoch else None
    return dense, make_level(spec, 1, dense, teacher, data, early=early)


def digest(level):
    """Two weighted sums of every tensor with its norm, and the record's accuracies."""
    sums = {}
    for name, tensor in level.state.model.state_dict().items():
        flat = tensor.double().flatten()
        place = torch.arange(len(flat), dtype=torch.float64)
        sums[name] = [float(flat.norm()), float(flat @ torch.cos(place + 1)), float(flat @ torch.cos(place / 7 + 2))]
    scores = {name: getattr(level.record, f"{name}_accuracy") for name in ("train", "val", "val_noisy", "test")}
    return {"tensors": sums, "accuracy": scores, "remaining": level.record.remaining}


@pytest.fixture(scope="module")
def golden():
    """What the file holds; it is written first when that is asked for."""
    if os.environ.get("SDD_GOLDEN") == "write":
        levels = {name: [digest(level) for level in two_levels(spec)] for name, spec in CASES.items()}
        GOLDEN.write_text(json.dumps({"schema": SCHEMA, "levels": levels}, indent=None, sort_keys=True) + "\n")
    return json.loads(GOLDEN.read_text())


def differences(now, held):
    """What of a level is not what it was, in words."""
    found = [] if now["remaining"] == held["remaining"] else [f"{now['remaining']} weights, not {held['remaining']}"]
    for name, (norm, *sums) in held["tensors"].items():
        others = now["tensors"].get(name, [math.nan] * 3)
        if not all(abs(a - b) <= TOLERANCE * max(norm, 1e-6) for a, b in zip(others, (norm, *sums), strict=True)):
            found.append(f"{name}: {others}, not {[norm, *sums]}")
    for name, value in held["accuracy"].items():
        other = now["accuracy"][name]
        if (other is None) != (value is None) or (value is not None and abs(other - value) > 0.02):
            found.append(f"{name} accuracy {other}, not {value}")
    return found


def test_the_cases_are_of_this_schema(golden):
    assert golden["schema"] == SCHEMA, "SCHEMA was raised: write the golden levels anew with SDD_GOLDEN=write"
    assert set(golden["levels"]) == set(CASES)


def test_every_registered_part_has_a_case():
    specs = [DIGITS, *CASES.values()]
    for registry, field in (
        (MODELS, "model"),
        (CRITERIA, "criterion"),
        (POLICIES, "retraining"),
        (AUGMENTATIONS, "augmentation"),
        (NOISE_KINDS, "noise_kind"),
    ):
        own = {name for name in registry if name not in registry.sources}
        assert own <= {getattr(spec, field) for spec in specs}


@pytest.mark.parametrize("name", CASES)
def test_what_is_trained_is_what_this_schema_stands_for(name, golden):
    for level, held in zip(two_levels(CASES[name]), golden["levels"][name], strict=True):
        found = differences(digest(level), held)
        told = "this change changes what is trained: raise SCHEMA, then write the golden levels anew\n"
        assert not found, told + "\n".join(found[:5])


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"momentum": 0.8}, {"weight_decay": 1e-2}, {"learning_rate": 0.11}, {"criterion": "random"}],
)
def test_a_small_change_of_a_training_is_seen(change, golden):
    _, changed = two_levels(CASES["optimizer sgd"].replace(**change))
    assert differences(digest(changed), golden["levels"]["optimizer sgd"][1])
