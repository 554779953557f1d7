"""How trials, arms, settings and teachers are called."""

import pytest

from sdd_core import words
from sdd_core.spec import TeacherRef, TrialSpec, setting_id

BASE = TrialSpec(label_noise=0.5, model_options=(("hidden1", 32), ("hidden2", 16)))


def taught(level, **changes):
    return BASE.replace(teacher=TeacherRef(trial=BASE, level=level), alpha=0.5, temperature=4.0, **changes)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (BASE.replace(weight_decay=0.01, seed=3), "λ=0.01 seed=3"),
        (BASE.replace(weight_decay=0.0), "λ=0 seed=0"),
        (taught("dense", weight_decay=0.01), "λ=0.01 α=0.5 τ=4 dense lenet seed=0"),
        (taught(3, weight_decay=0.01, seed=1), "λ=0.01 α=0.5 τ=4 level 3 lenet seed=1"),
        (taught("dense", weight_decay=0.01).replace(alpha=0.0), "λ=0.01 seed=0"),
    ],
)
def test_a_trial_has_the_name_of_its_arm_and_its_seed(spec, name):
    assert words.trial_name(spec) == name
    assert words.arm_name(spec.replace(seed=8)) == name.rsplit(" seed=", 1)[0]


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        (BASE, "lenet on digits, ε=50 %"),
        (BASE.replace(noise_kind="asymmetric"), "lenet on digits, ε=50 % asymmetric"),
        (BASE.replace(protocol="paper"), "lenet on digits, ε=50 % [paper's protocol: decided on test]"),
        (taught("pruned"), "lenet on digits, ε=50 %, distilled from pruned lenet (α=0.5, τ=4)"),
        (taught(2), "lenet on digits, ε=50 %, distilled from level 2 of lenet (α=0.5, τ=4)"),
    ],
)
def test_a_setting_in_words(spec, label):
    assert words.setting_label(spec) == label


def test_settings_of_one_label_say_what_tells_them_apart():
    small = BASE.replace(model_options=(("hidden1", 8), ("hidden2", 8)), epochs=7)
    other = BASE.replace(weight_decay=0.1, seed=5)  # of the first one's setting
    assert words.setting_labels([BASE, small, other]) == {
        setting_id(BASE): f"lenet on digits, ε=50 %, epochs={BASE.epochs}, model_options=hidden1=32 hidden2=16",
        setting_id(small): "lenet on digits, ε=50 %, epochs=7, model_options=hidden1=8 hidden2=8",
    }


def test_teachers_and_networks():
    assert words.network_name(BASE) == "lenet hidden1=32 hidden2=16"
    with pytest.raises(ValueError, match="has no teacher"):
        words.teacher_label(BASE)


@pytest.mark.parametrize(
    ("ends", "form", "said"),
    [
        ({"low": 3, "high": 3}, "{:.0f}", "3"),
        ({"low": 0, "high": 7}, "{:.0f}", "0 – 7"),  # noqa: RUF001
        ({"low": 0.00123, "high": 0.00124}, None, "0.0012"),
        ({"low": 0.000083, "high": 1449}, None, "8.3e-05 – 1,400"),  # noqa: RUF001
        (None, None, "-"),
    ],
)
def test_ranges_in_words(ends, form, said):
    assert words.span(ends, form) == said
