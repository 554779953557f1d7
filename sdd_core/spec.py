"""What a trial is: its fields, which values are allowed, and the keys that its levels get.

A trial is setting + approach + lambda + seeds + target sparsity. `TrialSpec` holds every field of
every experiment of the paper. Two identities are derived from it, both hashes over canonical JSON:

* `trial_id`: all fields that can influence the trajectory, without `target_sparsity`;
* `level_key`: all fields that can influence one level, the key of the level before it and the key
  of its teacher's level, and nothing else, so that trials share every level they have in common.

A field that cannot influence a result under the other fields' values (a momentum under AdamW, the
kind of noise at noise 0, alpha without a teacher) is left out of both.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

# Part of every key. Raise it with any change of code that changes what a level's result is.
SCHEMA: Final = 2

ModelOptions = Mapping[str, int | float | str]

# Options of each model with their defaults: a model's size is part of the setting.
MODEL_OPTIONS: Final[dict[str, dict[str, int | float | str]]] = {
    "lenet": {"hidden1": 300, "hidden2": 100},
    "resnet18": {"width": 64, "stem": "no_pool"},
    "vgg": {"gamma": 5, "delta": 5},
    "vit": {"patch": 4, "width": 512, "depth": 6, "heads": 8, "mlp": 512, "dropout": 0.1},
}
# Highest value of an option whose meaning is easily mistaken: VGG's gamma is an exponent.
_OPTION_LIMITS: Final = {("vgg", "gamma"): (12, "the first block is 2**gamma wide; the paper's width 32 is gamma 5")}


class DatasetShape(NamedTuple):
    """What is known of a data set without its files."""

    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    classes: int
    train_images: int
    """Before any validation split."""
    test_images: int


DATASET_SHAPES: Final = {
    "digits": DatasetShape((1, 8, 8), 10, 1_438, 359),
    "mnist": DatasetShape((1, 28, 28), 10, 60_000, 10_000),
    "fashion_mnist": DatasetShape((1, 28, 28), 10, 60_000, 10_000),
    "cifar10": DatasetShape((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": DatasetShape((3, 32, 32), 100, 50_000, 10_000),
}
HUMAN_LABEL_SETS: Final = {
    "cifar10": ("aggre", "random1", "random2", "random3", "worse"),
    "cifar100": ("noisy",),
}
# The fields that decide which images are trained on, with which labels: a teacher and its student share them.
DATA_FIELDS: Final = (
    *("dataset", "label_noise", "noise_kind", "noisy_labels"),
    *("validation_fraction", "protocol", "data_seed"),
)
# The words that each field may hold.
CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "dataset": ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100"),
    "noise_kind": ("symmetric", "asymmetric", "pair_flip", "human"),
    "model": tuple(MODEL_OPTIONS),
    "augmentation": ("none", "flip_crop"),
    "protocol": ("validation", "paper"),
    "optimizer": ("sgd", "adamw"),
    "lr_schedule": ("steps", "cosine", "constant"),
    "precision": ("float32", "tf32", "bfloat16"),
    "criterion": ("global_magnitude", "layer_magnitude", "random", "gradient"),
    "retraining": ("rewind_lr", "rewind_weights", "finetune", "from_scratch"),
}


class SpecError(ValueError):
    """Bad input. `faults` holds one sentence per fault, each with the value and what is allowed."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[str, ...]]]:
        return SpecError, (self.faults,)


@dataclass(frozen=True, kw_only=True)
class TeacherRef:
    """A level of another trial, to distil from (paper, Sec. 5)."""

    trial: TrialSpec
    """The teacher's own trial."""

    level: str | int
    """`"dense"` (level 0), `"pruned"` (best validation accuracy, ties to the sparser), or a number."""

    def __post_init__(self) -> None:
        if not (self.level in ("dense", "pruned") or (_is_int(self.level) and int(self.level) >= 0)):
            raise SpecError([f"teacher level {self.level!r}: allowed are dense, pruned and numbers from 0"])

    def levels_needed(self, whole: int) -> int:
        """How many of its trial's `whole` levels have to be trained: all for `pruned`, whose best is known last."""
        if self.level == "pruned":
            return whole
        return 1 if self.level == "dense" else int(self.level) + 1


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One trial. Construct with keywords; raises `SpecError` naming every fault at once."""

    dataset: str = "digits"
    """Data set."""

    label_noise: float = 0.0
    """Fraction of training labels flipped to another class, in [0, 1] (epsilon)."""

    noise_kind: str = "symmetric"
    """How the flipped labels' new classes are drawn."""

    noisy_labels: str | None = None
    """Human label set (CIFAR-10N / CIFAR-100N); only with noise_kind=human."""

    validation_fraction: float = 0.2
    """Share of the training images held out for decisions, in (0, 1)."""

    augmentation: str = "none"
    """Image augmentation, fresh per image and epoch."""

    protocol: str = "validation"
    """`validation`: decide on a held-out split. `paper`: train on all images, decide on test."""

    model: str = "lenet"
    """Architecture."""

    model_options: tuple[tuple[str, int | float | str], ...] = ()
    """The model's size as (name, value) pairs; what is not named takes the model's default."""

    optimizer: str = "sgd"
    """Optimiser; fresh at every level."""

    learning_rate: float = 0.1
    """Initial learning rate, above 0."""

    momentum: float = 0.9
    """SGD momentum, in [0, 1)."""

    lr_schedule: str = "steps"
    """Learning-rate schedule, restarted at every level."""

    lr_milestones: tuple[float, ...] = (0.5, 0.75)
    """Where the `steps` schedule decays, as fractions of `epochs`, rising, in (0, 1)."""

    lr_decay: float = 0.1
    """Factor at each milestone, in (0, 1]."""

    epochs: int = 30
    """Epochs per level, at least 1."""

    batch_size: int = 128
    """Images per step, at least 1."""

    precision: str = "float32"
    """Arithmetic of the training step."""

    criterion: str = "global_magnitude"
    """Which weights are pruned."""

    prune_fraction: float = 0.2
    """Share of the remaining weights pruned at each level, in (0, 1) (zeta_iter)."""

    retraining: str = "rewind_lr"
    """What follows a pruning: `rewind_lr` keeps the weights and restarts the schedule (the paper's),
    `finetune` keeps them and trains at the schedule's last rate, `from_scratch` draws new ones,
    `rewind_weights` goes back to those of an early epoch and trains from there on."""

    rewind_epoch: int | None = None
    """Epochs of level 0 that the weights rewound to have been trained, in [0, epochs); 0 are the initial
    weights. Only with retraining=rewind_weights."""

    weight_decay: float = 1e-4
    """L2 penalty, at least 0 (lambda)."""

    alpha: float = 0.0
    """Weight of the distillation term of Eq. 1, in [0, 1]; 0 is the vanilla trial."""

    temperature: float = 10.0
    """Distillation temperature, above 0 (tau)."""

    teacher: TeacherRef | None = None
    """Whom to distil from; none for a vanilla trial."""

    seed: int = 0
    """Draws initial weights, batch order, augmentation and dropout."""

    data_seed: int | None = None
    """Draws the validation split and the label noise; `seed` when not given."""

    target_sparsity: float = 0.998
    """The trajectory ends at the first level at least this sparse, in [0, 1) (zeta_end)."""

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise SpecError(faults)
        if self.data_seed is None:
            object.__setattr__(self, "data_seed", self.seed)
        options = MODEL_OPTIONS[self.model] | dict(self.model_options)
        object.__setattr__(self, "model_options", tuple(sorted(options.items())))
        object.__setattr__(self, "lr_milestones", tuple(self.lr_milestones))

    def replace(self, **changes: Any) -> TrialSpec:
        """A copy with `changes`, checked like any other. Give `data_seed` when you change `seed`."""
        return dataclasses.replace(self, **changes)

    @property
    def trial_id(self) -> str:
        """First 12 hex digits of the hash of the canonical form without the target sparsity."""
        return _hash(canonical(self))[:12]

    @property
    def options(self) -> dict[str, int | float | str]:
        """The model's options, complete."""
        return dict(self.model_options)

    @property
    def distilled(self) -> bool:
        """Whether a teacher influences the trial: with alpha 0 it is the vanilla trial, and has its levels."""
        return self.teacher is not None and self.alpha > 0

    @property
    def decided_on(self) -> str:
        """Which split decisions read: `test` under the paper's protocol."""
        return "test" if self.protocol == "paper" else "validation"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


# field -> (low, high, low is allowed, high is allowed)
_RANGES: Final[dict[str, tuple[float, float, bool, bool]]] = {
    "label_noise": (0, 1, True, True),
    "validation_fraction": (0, 1, False, False),
    "learning_rate": (0, math.inf, False, False),
    "momentum": (0, 1, True, False),
    "lr_decay": (0, 1, False, True),
    "prune_fraction": (0, 1, False, False),
    "weight_decay": (0, math.inf, True, False),
    "alpha": (0, 1, True, True),
    "temperature": (0, math.inf, False, False),
    "target_sparsity": (0, 1, True, False),
}
_MINIMUM: Final = {"epochs": 1, "batch_size": 1, "seed": 0, "data_seed": 0, "rewind_epoch": 0}
_OPTIONAL: Final = ("data_seed", "rewind_epoch")  # whole numbers that may be None


def describe_range(name: str) -> str:
    """The values that a numeric field allows, in words ("in [0, 1]"), or "" when it is not numeric."""
    if name in _MINIMUM:
        return f"a whole number from {_MINIMUM[name]}"
    if name not in _RANGES:
        return ""
    low, high, low_ok, high_ok = _RANGES[name]
    if high == math.inf:
        return f"at least {low:g}" if low_ok else f"above {low:g}"
    return f"in {'[' if low_ok else '('}{low:g}, {high:g}{']' if high_ok else ')'}"


def value_fault(name: str, value: object) -> str | None:
    """What is wrong with one field's value taken alone, or None."""
    if name in CHOICES and value not in CHOICES[name]:
        close = difflib.get_close_matches(str(value), CHOICES[name], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{name} {value!r}: allowed are {', '.join(CHOICES[name])}{hint}"
    if name in _MINIMUM and not (value is None and name in _OPTIONAL):
        whole = isinstance(value, int) and _is_int(value) and value >= _MINIMUM[name]
        return None if whole else f"{name} {value!r}: must be {describe_range(name)}"
    if name in _RANGES:
        low, high, low_ok, high_ok = _RANGES[name]
        if not (isinstance(value, int | float) and _is_number(value)):
            return f"{name} {value!r}: must be a finite number {describe_range(name)}"
        if value < low or value > high or (value == low and not low_ok) or (value == high and not high_ok):
            return f"{name} {value!r}: must be {describe_range(name)}"
    return None


def _faults(spec: TrialSpec) -> Iterator[str]:
    """Every fault of a spec: of each field alone, then of fields that contradict each other."""
    for field in dataclasses.fields(spec):
        fault = value_fault(field.name, getattr(spec, field.name))
        if fault:
            yield fault
    stones = spec.lr_milestones
    if not all(_is_number(m) and 0 < m < 1 for m in stones) or list(stones) != sorted(set(stones)):
        yield f"lr_milestones {list(stones)}: must rise within (0, 1), as fractions of the epochs"
    yield from _model_option_faults(spec)
    human = HUMAN_LABEL_SETS.get(spec.dataset, ())
    if spec.noise_kind == "human":
        if spec.noisy_labels not in human:
            yield f"noisy_labels {spec.noisy_labels!r}: {spec.dataset} has {', '.join(human) or 'no human labels'}"
        if spec.label_noise != 0:
            yield f"label_noise {spec.label_noise!r}: with noise_kind human the label set fixes the noise; give 0"
    elif spec.noisy_labels is not None:
        yield f"noisy_labels {spec.noisy_labels!r}: only with noise_kind human"
    if spec.retraining == "rewind_weights":
        whole = _is_int(spec.epochs) and _is_int(spec.rewind_epoch)
        if spec.rewind_epoch is None or (whole and spec.rewind_epoch >= spec.epochs):
            yield f"rewind_epoch {spec.rewind_epoch!r}: must be in [0, epochs), here [0, {spec.epochs})"
    elif spec.rewind_epoch is not None:
        yield f"rewind_epoch {spec.rewind_epoch!r}: only with retraining rewind_weights"
    if spec.teacher is None and _is_number(spec.alpha) and spec.alpha > 0:
        yield f"alpha {spec.alpha!r}: needs a teacher; without one it must be 0"
    elif spec.teacher is not None:
        yield from _disagreements(spec, spec.teacher.trial)


def _disagreements(spec: TrialSpec, teacher: TrialSpec) -> Iterator[str]:
    """Data fields in which a teacher differs from its student.

    It would know other classes or image sizes, or have trained on images that its student validates
    on and on other noisy labels.
    """
    for name in DATA_FIELDS:
        own, other = getattr(spec, name), getattr(teacher, name)
        if name == "data_seed" and own is None:
            own = spec.seed
        if own != other:
            yield f"teacher's {name} {other!r}: must be its student's, {own!r}"


def _model_option_faults(spec: TrialSpec) -> Iterator[str]:
    known = MODEL_OPTIONS.get(spec.model)
    if known is None:
        return
    for name, value in spec.model_options:
        if name not in known:
            yield f"model_options {name}={value!r}: {spec.model} has {', '.join(known)}"
        elif isinstance(known[name], str):
            if value not in ("no_pool", "pool"):
                yield f"model_options {name}={value!r}: allowed are no_pool, pool"
        elif isinstance(known[name], float):
            if not (isinstance(value, int | float) and _is_number(value) and 0 <= value < 1):
                yield f"model_options {name}={value!r}: must be in [0, 1)"
        elif not (isinstance(value, int) and _is_int(value) and value >= 1):
            yield f"model_options {name}={value!r}: must be a whole number from 1"
        elif (spec.model, name) in _OPTION_LIMITS:
            limit, why = _OPTION_LIMITS[spec.model, name]
            if value > limit:
                yield f"model_options {name}={value!r}: must be a whole number from 1 to {limit} ({why})"
    options = known | dict(spec.model_options)
    if spec.model == "vit" and all(_is_int(options[name]) and int(options[name]) > 0 for name in ("width", "heads")):
        width, heads = int(options["width"]), int(options["heads"])
        if width % heads != 0:
            yield f"model_options heads={heads}: must divide width ({width}) into heads of equal size"


# --- canonical form -------------------------------------------------------------------------


def _dense_fields(spec: TrialSpec) -> dict[str, Any]:
    """Every field that can influence a dense training, without the teacher."""
    fields: dict[str, Any] = {
        name: getattr(spec, name)
        for name in ("dataset", "augmentation", "protocol", "model", "optimizer", "lr_schedule", "precision")
    }
    fields["model_options"] = spec.options
    for name in ("learning_rate", "epochs", "batch_size", "weight_decay", "seed"):
        fields[name] = getattr(spec, name)
    noisy = spec.noise_kind == "human" or spec.label_noise > 0
    if noisy:
        fields["noise_kind"] = spec.noise_kind
        if spec.noise_kind == "human":
            fields["noisy_labels"] = spec.noisy_labels
        else:
            fields["label_noise"] = spec.label_noise
    if spec.protocol == "validation":
        fields["validation_fraction"] = spec.validation_fraction
    if spec.protocol == "validation" or (noisy and spec.noise_kind != "human"):
        fields["data_seed"] = spec.data_seed
    if spec.optimizer == "sgd":
        fields["momentum"] = spec.momentum
    if spec.lr_schedule == "steps":
        fields["lr_milestones"] = list(spec.lr_milestones)
        if spec.lr_milestones:
            fields["lr_decay"] = spec.lr_decay
    return fields


def _pruning_fields(spec: TrialSpec) -> dict[str, Any]:
    """Every field that can influence a pruned level beside those of the level before it."""
    fields: dict[str, Any] = {name: getattr(spec, name) for name in ("criterion", "prune_fraction", "retraining")}
    if spec.retraining == "rewind_weights":
        fields["rewind_epoch"] = spec.rewind_epoch
    return fields


def canonical(spec: TrialSpec) -> dict[str, Any]:
    """The canonical form of a trial, without its target sparsity: what `trial_id` hashes."""
    form = {"schema": SCHEMA} | _dense_fields(spec) | _pruning_fields(spec)
    if spec.distilled and spec.teacher is not None:
        teacher: dict[str, Any] = {"trial": canonical(spec.teacher.trial), "level": spec.teacher.level}
        if spec.teacher.level == "pruned":  # how far the teacher is pruned decides which level is its best
            teacher["target_sparsity"] = spec.teacher.trial.target_sparsity
        form |= {"alpha": spec.alpha, "temperature": spec.temperature, "teacher": teacher}
    return form


def canonical_json(value: object) -> str:
    """JSON with one spelling: sorted keys, no spaces, 1 and 1.0 the same, no NaN."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _hash(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def level_key(spec: TrialSpec, level: int, parent: str | None, teacher: str | None = None) -> str:
    """Key of one level: 64 hex digits (design: levels are content-addressed).

    `parent` is the key of level - 1 (None exactly at level 0); `teacher` is the key of the level
    distilled from (None exactly for a vanilla trial). A pruned level's training fields and teacher
    are in its parent's key already.
    """
    if (parent is None) != (level == 0):
        raise ValueError(f"level {level} needs {'no' if level == 0 else 'a'} parent key, but got {parent!r}")
    if (teacher is not None) != spec.distilled:
        raise ValueError(f"teacher key {teacher!r} for a trial with alpha {spec.alpha!r}")
    if level > 0:
        return _hash({"schema": SCHEMA, "level": level, "parent": parent} | _pruning_fields(spec))
    form = {"schema": SCHEMA, "level": 0} | _dense_fields(spec)
    if teacher is not None:
        form |= {"alpha": spec.alpha, "temperature": spec.temperature, "teacher": teacher}
    return _hash(form)


def snapshot_key(dense_key: str, epoch: int) -> str:
    """Key of the weights after `epoch` epochs of the level 0 that has `dense_key`: 64 hex digits."""
    return _hash({"schema": SCHEMA, "snapshot": dense_key, "epoch": epoch})


def prune_count(left: int, fraction: float) -> int:
    """How many of `left` weights one turn removes, rounded as `torch.nn.utils.prune` rounds."""
    return round(fraction * left)


def last_level(total: int, fraction: float, target_sparsity: float) -> int:
    """The level that a trajectory ends at: the first at least `target_sparsity` sparse, or the last that prunes."""
    left, level = total, 0
    # One rounding only: 1 - 800 / 1000 is less than 0.2, and would go on for a level too many.
    while (total - left) / total < target_sparsity and prune_count(left, fraction) > 0:
        left -= prune_count(left, fraction)
        level += 1
    return level


def stream(*names: str | int) -> int:
    """Seed of the named random stream, in [0, 2^63): the same names give the same numbers everywhere."""
    return int.from_bytes(hashlib.sha256(canonical_json(names).encode()).digest()[:8], "big") >> 1


def level_keys(spec: TrialSpec, teacher: str | None = None) -> Iterator[str]:
    """The keys of levels 0, 1, 2, ... without end."""
    key, level = level_key(spec, 0, None, teacher), 0
    while True:
        yield key
        level += 1
        key = level_key(spec, level, key, teacher)


def setting(spec: TrialSpec) -> dict[str, Any]:
    """What trials of one setting and approach share: no lambda, seeds or target sparsity."""
    form = {name: value for name, value in canonical(spec).items() if name not in ("weight_decay", "seed", "data_seed")}
    if "teacher" in form:  # its data seed is its student's
        trial = {name: value for name, value in form["teacher"]["trial"].items() if name != "data_seed"}
        form["teacher"] = form["teacher"] | {"trial": trial}
    return form


def setting_id(spec: TrialSpec) -> str:
    """First 12 hex digits of the hash of `setting`."""
    return _hash(setting(spec))[:12]


def to_json(spec: TrialSpec) -> dict[str, Any]:
    """Every field of a spec as plain JSON values; `from_json` gives the spec back."""
    form = dataclasses.asdict(spec)
    form["model_options"] = spec.options
    form["lr_milestones"] = list(spec.lr_milestones)
    if spec.teacher is not None:
        form["teacher"] = {"trial": to_json(spec.teacher.trial), "level": spec.teacher.level}
    return form


def from_json(form: Mapping[str, Any]) -> TrialSpec:
    """The spec that `to_json` wrote; raises `SpecError` for unknown fields and bad values.

    Also for a teacher that refers, through whatever teachers of its own, to itself.
    """
    return _from_json(form, ())


def _from_json(form: Mapping[str, Any], students: tuple[int, ...]) -> TrialSpec:
    if id(form) in students:
        raise SpecError(["teacher: refers to itself in a circle; a chain of teachers must end at one without"])
    unknown = set(form) - FIELD_NAMES
    if unknown:
        raise SpecError([f"{name}: not a field of a trial" for name in sorted(unknown)])
    values = dict(form)
    values["model_options"] = tuple(dict(form.get("model_options", {})).items())
    if "lr_milestones" in form:
        values["lr_milestones"] = tuple(form["lr_milestones"])
    if form.get("teacher") is not None:
        teacher = form["teacher"]
        values["teacher"] = TeacherRef(
            trial=_from_json(teacher["trial"], (*students, id(form))), level=teacher["level"]
        )
    return TrialSpec(**values)


FIELD_NAMES: Final = frozenset(field.name for field in dataclasses.fields(TrialSpec))
