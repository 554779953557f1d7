"""The paper's settings and the small embedded one, as named functions that return a whole spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sdd_core.spec import TrialSpec


def digits_lenet() -> TrialSpec:
    """The embedded default: scikit-learn's digits, half of the labels noisy, LeNet-300-100.

    Sparse double descent is plain to see at the base lambda of 1e-4. One trajectory of 29 levels is
    about 20 s on one core.
    """
    return TrialSpec(dataset="digits", label_noise=0.5, model="lenet", epochs=30, weight_decay=1e-4)


# (data set, model) -> the recipe a user gets who names the two
RECIPES: Final[dict[tuple[str, str], Callable[[], TrialSpec]]] = {("digits", "lenet"): digits_lenet}


def for_setting(dataset: str, model: str) -> TrialSpec | None:
    """The recipe of a data set and a model, or None when there is none."""
    recipe = RECIPES.get((dataset, model))
    return recipe() if recipe is not None else None
