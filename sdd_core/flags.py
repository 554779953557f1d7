"""Flags that carry the fields' names: raw text in, a spec or every fault at once out."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from sdd_core import recipes
from sdd_core.data.sources import DATA_DIR_VARIABLE
from sdd_core.spec import DATA_FIELDS, DEFAULT_ALPHA, FIELDS, SpecError, TeacherRef, TrialSpec

_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "setting": ("label_noise", "noise_kind", "noisy_labels", "model_options"),
    "recipe": (
        *("validation_fraction", "protocol", "augmentation", "optimizer", "learning_rate", "momentum"),
        *("lr_schedule", "lr_milestones", "lr_decay", "epochs", "batch_size", "precision", "criterion"),
        *("prune_fraction", "retraining", "rewind_epoch"),
    ),
    "approach": ("alpha", "temperature"),
    "trial": ("weight_decay", "seed", "data_seed", "target_sparsity"),
}
_ABOUT: Final = {
    "recipe": "How each level is trained and pruned.",
    "approach": "Distillation (Eq. 1). Without a teacher the trial is vanilla.",
    "trial": "One trial of the setting.",
}


def _option(text: str) -> tuple[str, int | float | str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(text)
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


# How a field's text becomes a value, by the field's annotation; and what to call such a value.
_PARSERS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "str": (str, "a word"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "floats": (float, "numbers"),
    "pairs": (_option, "NAME=VALUE"),
}


def describe_range(name: str) -> str:
    """The numbers that a field allows, in words."""
    return FIELDS[name].range


def value_fault(name: str, value: object) -> str | None:
    """What is wrong with one field's value taken alone, or None."""
    return next(iter(FIELDS[name].faults(value)), None)


def _kind(name: str) -> str:
    field = FIELDS[name]
    return "pairs" if field.pairs else "floats" if field.many else {int: "int", float: "float"}.get(field.type, "str")


class Parser(argparse.ArgumentParser):
    """An argument parser whose user errors are one message without a usage dump, exit status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.refuse([message])

    def refuse(self, faults: Sequence[str]) -> NoReturn:
        """Say everything that is wrong, in one message, and exit with status 2."""
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = "".join(f"  - {fault}\n" for fault in faults)
        sys.stderr.write(f"{self.prog}: {count}, nothing was run\n{lines}Try {self.prog} --help.\n")
        raise SystemExit(2)

    def parse_collecting(self, arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
        """The known flags, and one fault for each unknown one, with the flag it may have meant."""
        namespace, unknown = self.parse_known_args(arguments)
        known = [flag for action in self._actions for flag in action.option_strings]
        faults = []
        for word in unknown:
            close = difflib.get_close_matches(word.split("=")[0], known, n=1) if word.startswith("-") else []
            faults.append(f"{word}: unknown flag" + (f" (did you mean {close[0]}?)" if close else ""))
        return namespace, faults


_HELP: Final = {
    "label_noise": "share of training labels flipped to another class (epsilon)",
    "noise_kind": "how their new classes are drawn",
    "noisy_labels": "human label set, with noise_kind human",
    "model_options": "the model's size, for example hidden1=100 hidden2=30",
    "validation_fraction": "share of training images held out for decisions",
    "protocol": "validation decides on held-out images; paper trains on all and decides on test",
    "augmentation": "image augmentation",
    "optimizer": "optimiser, fresh at each level",
    "learning_rate": "initial learning rate",
    "momentum": "of SGD",
    "lr_schedule": "restarted at each level",
    "lr_milestones": "where steps decays, as rising fractions of the epochs, for example 0.5 0.75",
    "lr_decay": "factor at each milestone",
    "epochs": "epochs a level",
    "batch_size": "images a step",
    "precision": "arithmetic of the training step",
    "criterion": "which weights are pruned",
    "prune_fraction": "share of the remaining weights pruned at each level (zeta_iter)",
    "retraining": (
        "what follows a pruning: rewind_lr keeps the weights and restarts the schedule, finetune keeps them and "
        "trains at its last rate, from_scratch draws new ones, rewind_weights goes back to an early epoch"
    ),
    "rewind_epoch": "epochs that the weights rewound to were trained, below epochs; with retraining rewind_weights",
    "alpha": f"weight of the distillation term; {DEFAULT_ALPHA:g} where only a teacher is given",
    "temperature": "distillation temperature (tau)",
    "weight_decay": "L2 penalty (lambda)",
    "seed": "draws weights, batch order, augmentation, dropout",
    "data_seed": "draws validation split and label noise; the trial's seed when not given",
    "target_sparsity": "the trajectory ends at the first level at least this sparse (zeta_end)",
}


def _help(name: str) -> str:
    """What a field is, what it allows and the embedded default."""
    allowed = describe_range(name)
    if name in FIELDS and FIELDS[name].words is not None:
        allowed = "one of " + ", ".join(FIELDS[name].words or ())
    default = getattr(recipes.digits_lenet(), name)
    shown = " ".join(map(str, default)) if name == "lr_milestones" else default
    ends = "" if shown is None or name in ("model_options", "data_seed", "seed") else f" [{shown}]"
    return f"{_HELP[name]}{', ' + allowed if allowed else ''}{ends}"


def add_spec_flags(parser: argparse.ArgumentParser, leave_out: Collection[str] = ()) -> None:
    """Add a flag for every field of a trial but those left out; no value means the recipe's."""
    group = parser.add_argument_group("setting", "What is trained. Together the two names pick a recipe.")
    for name, default in (("dataset", "digits"), ("model", "lenet")):
        group.add_argument(
            f"--{name}",
            metavar="NAME",
            default=default,
            help=f"one of {', '.join(FIELDS[name].words or ())} [{default}]",
        )
    for title, names in _GROUPS.items():
        wanted = [name for name in names if name not in leave_out]
        teacher = title == "approach" and "teacher" not in leave_out
        if title != "setting" and (wanted or teacher):
            group = parser.add_argument_group(
                title, _ABOUT[title] + " What is not given is the recipe's; in [] digits'."
            )
        if teacher:
            group.add_argument(
                "--teacher",
                metavar="LEVEL",
                help="whom to distil from: dense, pruned (its best level) or a level's number",
            )
            add_teacher_flags(group)
        for name in wanted:
            _add_flag(group, name)


def add_teacher_flags(group: Any) -> None:
    """Add the flags that say whose level it is: a trial of its own recipe, on its student's data."""
    add = group.add_argument
    add("--teacher-model", metavar="NAME", help="the teacher's architecture [the student's]")
    add("--teacher-model-options", metavar="NAME=VALUE", nargs="+", help="its size")
    add(
        "--teacher-with",
        metavar="FIELD=VALUE",
        nargs="+",
        help="other fields of the teacher's trial, for example weight_decay=0.0178 seed=1 [its own recipe's]",
    )


def add_data_dir_flag(group: Any) -> None:
    """Add the flag that says where published data sets lie: no field, since it cannot influence a result."""
    group.add_argument(
        "--data-dir", metavar="DIR", help="where downloaded data sets lie [SDD_DATA or ~/.cache/sdd/data]"
    )


def set_data_dir(namespace: argparse.Namespace) -> None:
    """Put the data directory into the environment, absolute, so that worker processes find it too."""
    given = namespace.data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if given:
        os.environ[DATA_DIR_VARIABLE] = str(Path(given).expanduser().absolute())


def _add_flag(group: Any, name: str) -> None:
    many = _many(name)
    metavar = "NAME=VALUE" if name == "model_options" else "X" if describe_range(name) or many else "NAME"
    group.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, nargs="+" if many else None, help=_help(name))


def parse_value(name: str, text: str, kind: str) -> tuple[Any, str | None]:
    """A value of the annotated kind from its text, and a fault (with None as value) when it is not one."""
    parse, called = _PARSERS[kind]
    try:
        return parse(text), None
    except ValueError:
        return None, f"{name} {text!r}: must be {called}"


def read_spec(namespace: argparse.Namespace) -> tuple[TrialSpec, list[str]]:
    """The spec that the flags describe and every fault in them.

    With faults, the spec is the nearest one without: callers go on checking, then refuse.
    """
    recipe, faults = _recipe(namespace.dataset, namespace.model)
    names = [name for names in _GROUPS.values() for name in names]
    texts = {name: getattr(namespace, name, None) for name in names}
    changes, bad = _parse_fields({name: text for name, text in texts.items() if text is not None})
    faults += bad
    if "seed" in changes and "data_seed" not in changes:
        changes["data_seed"] = None
    alpha = {"alpha": changes.pop("alpha")} if "alpha" in changes else {}
    try:
        spec = recipe.replace(**changes)
    except SpecError as error:
        return recipe, faults + list(error.faults)
    # A sweep over teachers has no such flag, and reads them itself.
    teacher, bad = read_teacher(namespace, spec, namespace.teacher) if hasattr(namespace, "teacher") else (None, [])
    faults += bad
    if teacher is not None:
        alpha = {"alpha": DEFAULT_ALPHA} | alpha | {"teacher": teacher}
    try:
        return (spec.replace(**alpha) if not bad else spec), faults
    except SpecError as error:
        return spec, faults + list(error.faults)


def read_teacher(
    namespace: argparse.Namespace, student: TrialSpec, level: str | None
) -> tuple[TeacherRef | None, list[str]]:
    """The teacher that the flags name for a student, None where `level` is None, and every fault in them.

    Its trial has the recipe of its architecture and its student's data fields.
    """
    given = {name: getattr(namespace, f"teacher_{name}", None) for name in ("model", "model_options", "with")}
    if level is None:
        needless = [f"--teacher-{name.replace('_', '-')}" for name, value in given.items() if value is not None]
        return None, [f"{flag}: only with --teacher" for flag in needless]
    recipe, faults = _recipe(student.dataset, given["model"] or student.model)
    texts: dict[str, Any] = {"model_options": given["model_options"]} if given["model_options"] else {}
    for text in given["with"] or ():
        name, _, value = text.partition("=")
        if name not in FIELDS or name in (*DATA_FIELDS, "model", "model_options", "teacher", "alpha", "temperature"):
            faults.append(
                f"teacher_with {text!r}: allowed are FIELD=VALUE of a recipe's fields, seed and target_sparsity"
            )
        else:
            texts[name] = value.split(",") if _many(name) else value
    changes, bad = _parse_fields(texts)
    faults += bad
    changes |= {name: getattr(student, name) for name in DATA_FIELDS}
    try:
        trial = recipe.replace(**changes)
        return TeacherRef(trial=trial, level=int(level) if level.isdecimal() else level), [
            f"teacher: {fault}" for fault in faults
        ]
    except SpecError as error:
        return None, [f"teacher: {fault}" for fault in (*faults, *error.faults)]


def _recipe(dataset: str, model: str) -> tuple[TrialSpec, list[str]]:
    """The recipe of a data set and a model; with a fault, any recipe."""
    recipe = recipes.for_setting(dataset, model)
    if recipe is not None:
        return recipe, []
    named = [value_fault("dataset", dataset), value_fault("model", model)]
    return TrialSpec(), [fault for fault in named if fault] or [
        f"dataset {dataset!r} with model {model!r}: does not run yet; what runs: "
        + ", ".join(f"{dataset} with {model}" for dataset, model in recipes.RECIPES)
    ]


def _many(name: str) -> bool:
    return FIELDS[name].many


def _parse_fields(texts: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Fields' values from their texts (a list of texts where a field holds many), and the faults."""
    changes, faults = {}, []
    for name, text in texts.items():
        parsed = [parse_value(name, item, _kind(name)) for item in (text if _many(name) else [text])]
        bad = [fault for _, fault in parsed if fault]
        faults += bad
        if not bad:
            changes[name] = tuple(value for value, _ in parsed) if _many(name) else parsed[0][0]
    return changes, faults
