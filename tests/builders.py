"""Level records that were never trained: a network of 1,000 weights, and figures that a test can tell apart."""

from sdd_core.record import LevelRecord

PRUNABLE = 1000


def level_record(level=0, **changes):
    """A level's record. Give what matters to the test; accuracies and losses of the splits differ from each other."""
    left = round(PRUNABLE * 0.8**level)
    values = {
        "key": f"{level:064x}",
        "level": level,
        "sparsity": 1 - 0.8**level,
        "remaining": left,
        "prunable": PRUNABLE,
        "emptied_layers": (),
        "train_accuracy": 0.5,
        "train_loss": 1.0,
        "val_accuracy": 0.8,
        "val_loss": 0.9,
        "val_noisy_accuracy": 0.4,
        "val_noisy_loss": 1.9,
        "test_accuracy": 0.7,
        "test_loss": 1.1,
        "label_noise": 0.5,
        "train_size": 1151,
        "val_size": 287,
        "test_size": 359,
        "chance": 0.1,
        "pflop": 0.25,
        "pflop_teacher": 0.0,
        "pflop_real": 0.5,
        "pflop_real_teacher": 0.0,
        "pflop_real_evaluation": 0.0625,
        "sparse_multiply_adds": left,
        "parent": None,
        "teacher": None,
        "weights": None,
        "measured": {"seconds": 1.5, "energy": used(0.5)},
    }
    return LevelRecord(**(values | changes))


def used(kwh):
    """An energy as a record holds it."""
    return {"kwh": kwh, "source": "estimated", "reason": None}


AGAINST = {"train_accuracy": 0.75, "val_noisy_accuracy": 0.5, "test_accuracy": 1.0}
"""Accuracies of a fake record that do not decide, as parts of what the deciding one lacks to 1."""


def fake_record(spec, level, accuracy, *, key=None, test=None, teacher=None, kwh=None):
    """A level's record as `spec` would have it; `accuracy` is the one that decides.

    The other accuracies run against it: where one is best the others are worst, so whoever reads the wrong one
    decides otherwise.
    """
    remaining = PRUNABLE
    for _ in range(level):
        remaining -= round(spec.prune_fraction * remaining)
    changes = {
        "sparsity": 1 - remaining / PRUNABLE,
        "remaining": remaining,
        "sparse_multiply_adds": remaining,
        "val_accuracy": accuracy,
        **{name: round(part * (1 - accuracy), 9) for name, part in AGAINST.items()},
        **dict.fromkeys(("train_loss", "val_loss", "val_noisy_loss", "test_loss"), 1.0),
        **({} if test is None else {"test_accuracy": test}),
        "train_size": 1000,
        "test_size": 300,
        "label_noise": spec.label_noise,
        "teacher": teacher,
        # A cheap network: what a sweep costs is told apart from what `level_record` costs.
        "pflop": 0.001,
        "pflop_real": 0.002,
        "pflop_real_evaluation": 0.0001,
        "measured": {"seconds": 0.1, "finished_at": 1.0} | ({} if kwh is None else {"energy": used(kwh)}),
    }
    if spec.protocol == "paper":
        changes |= dict.fromkeys(("val_accuracy", "val_loss", "val_noisy_accuracy", "val_noisy_loss")) | {"val_size": 0}
        changes |= {"test_accuracy": accuracy if test is None else test}
    return level_record(level, **({} if key is None else {"key": key}), **changes)
