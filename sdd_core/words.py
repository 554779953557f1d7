"""How trials, arms, settings and teachers are called, and ranges said, wherever people read of them. Pure.

A trial is named within its sweep, where its setting is known: "λ=0.01 α=0.5 τ=10 dense lenet seed=0". An arm has
the name of its trials without the seed. A setting's label stands alone: "lenet on digits, ε=50 %".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sdd_core.spec import TrialSpec, setting_id

# Fields of a spec that fit a cell as they are.
_PLAIN_FIELDS: Final = tuple(
    field.name
    for field in dataclasses.fields(TrialSpec)
    if field.name not in ("model_options", "lr_milestones", "teacher")
)
WITHIN_A_SETTING: Final = ("weight_decay", "seed", "data_seed", "target_sparsity")
"""The fields in which trials of one setting and approach may differ."""


def trial_name(spec: TrialSpec) -> str:
    """What a trial is called within its sweep."""
    return f"{arm_name(spec)} seed={spec.seed}"


def arm_name(spec: TrialSpec) -> str:
    """What the trials that differ from this one in their seeds alone are called within their sweep."""
    approach = ""
    if spec.distilled and spec.teacher is not None:
        teacher = f"{level_name(spec.teacher.level)} {spec.teacher.trial.model}"
        approach = f" α={spec.alpha:g} τ={spec.temperature:g} {teacher}"
    return f"λ={spec.weight_decay:g}{approach}"


def level_name(level: str | int) -> str:
    """A teacher's level as a reference means it: "dense", "pruned", "level 3"."""
    return f"level {level}" if isinstance(level, int) else level


def network_name(spec: TrialSpec) -> str:
    """A trial's network with its options: "lenet hidden1=300 hidden2=100"."""
    return f"{spec.model} {_options(spec)}"


def teacher_label(spec: TrialSpec) -> str:
    """What a trial is distilled from: "dense lenet", "level 3 of lenet"; raises ValueError when it has no teacher."""
    if spec.teacher is None:
        raise ValueError(f"trial {spec.trial_id} has no teacher")
    of = " of" if isinstance(spec.teacher.level, int) else ""
    return f"{level_name(spec.teacher.level)}{of} {spec.teacher.trial.model}"


def environments_text(levels: Mapping[str, int]) -> str:
    """How many levels were made in which environment: "12 levels of (cpu, torch 2.15, 1 thread) and 3 of (...)"."""
    parts = [f"{count} of ({environment})" for environment, count in levels.items()]
    return " and ".join(parts).replace(" of", " levels of", 1)


def setting_label(spec: TrialSpec) -> str:
    """A setting and approach in words: "lenet on digits, ε=50 %", with what is out of the ordinary."""
    if spec.noise_kind == "human":
        noise = f"human labels {spec.noisy_labels}"
    else:
        kind = f" {spec.noise_kind}" if spec.noise_kind != "symmetric" and spec.label_noise > 0 else ""
        noise = f"ε={100 * spec.label_noise:g} %{kind}"
    label = f"{spec.model} on {spec.dataset}, {noise}"
    if spec.distilled:
        label += f", distilled from {teacher_label(spec)} (α={spec.alpha:g}, τ={spec.temperature:g})"
    if spec.protocol == "paper":
        label += " [paper's protocol: decided on test]"
    return label


def setting_labels(specs: Sequence[TrialSpec]) -> dict[str, str]:
    """A label for the setting of each spec, by setting id; settings of one label get what tells them apart."""
    twins: dict[str, dict[str, dict[str, Any]]] = {}
    for spec in specs:
        twins.setdefault(setting_label(spec), {})[setting_id(spec)] = cells(spec)
    labels: dict[str, str] = {}
    for label, rows in twins.items():
        apart = [
            name
            for name in CELLS
            if name not in ("trial_id", "setting_id", *WITHIN_A_SETTING)
            and len({row[name] for row in rows.values()}) > 1
        ]
        for key, row in rows.items():
            labels[key] = ", ".join([label, *(f"{name}={row[name]}" for name in apart)])
    return labels


def cells(spec: TrialSpec) -> dict[str, Any]:
    """Every field of a trial, its ids and what decides, each as a value that fits one cell of a table."""
    teacher = spec.teacher
    return {
        "trial_id": spec.trial_id,
        "setting_id": setting_id(spec),
        **{name: getattr(spec, name) for name in _PLAIN_FIELDS},
        "model_options": _options(spec),
        "lr_milestones": " ".join(f"{milestone:g}" for milestone in spec.lr_milestones),
        "teacher": None if teacher is None else teacher.trial.trial_id,
        "teacher_level": None if teacher is None else str(teacher.level),
        "decided_on": spec.decided_on,
    }


def _options(spec: TrialSpec) -> str:
    return " ".join(f"{name}={value}" for name, value in spec.model_options)


CELLS: Final = tuple(cells(TrialSpec()))
"""The names of `cells`, in their order."""


SIGNS: Final = {"label_noise": "ε", "weight_decay": "λ", "alpha": "α", "temperature": "τ"}
"""The paper's signs of fields; the others are named in words."""


def field_text(name: str, value: Any) -> str:
    """A field and its value as the pictures write it: "ε = 50 %", "prune fraction = 0.2"; of an arm its name."""
    if name == "arm":
        return str(value)
    if isinstance(value, Mapping):
        value = " ".join(f"{key}={part}" for key, part in value.items())
    elif isinstance(value, float):
        value = f"{100 * value:.3g} %" if name == "label_noise" else f"{value:.4g}"
    word = SIGNS.get(name, name.removeprefix("model_options.").replace("_", " "))
    return f"{word} = {'none' if value is None else value}"


def cell_name(fields: Mapping[str, Any]) -> str:
    """A cell of a grid by its fields' values: "ε = 50 %, λ = 0.0178, teacher = dense"."""
    return ", ".join(field_text(name, value) for name, value in fields.items()) or "the only arm"


def origin_lines(origins: Mapping[str, int], total: int) -> list[str]:
    """How many of some levels each upstream store gave, in words; [] where no such store is read."""
    return [f"{count} of the {total} levels were read from {url}" for url, count in origins.items()]


# --- ranges ---------------------------------------------------------------------------------


def span(ends: Mapping[str, float] | None, form: str | None = None) -> str:
    """A range (`low`, `high`) in words: one number where both ends are alike, a dash where there is none.

    Without a `form` of its own a number has two significant digits.
    """
    if ends is None:
        return "-"
    low, high = (two_digits(ends[end]) if form is None else form.format(ends[end]) for end in ("low", "high"))
    return low if low == high else f"{low} – {high}"  # noqa: RUF001


def two_digits(value: float) -> str:
    """1,400 and 0.0045 as they are; an exponent only where there would be many zeros."""
    return f"{float(f'{value:.2g}'):,g}"
