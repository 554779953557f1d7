"""What a trial is: its fields, which values are allowed, and the keys that its levels get.

A trial is setting + approach + lambda + seeds + target sparsity. `TrialSpec` holds every field of
every experiment of the paper, each in one line: its type, its range or words, its place in the keys, and
what it is. Two identities are derived from it, both hashes over canonical JSON:

* `trial_id`: all fields that can influence the trajectory, without `target_sparsity`;
* `level_key`: all fields that can influence one level, the key of the level before it and the key
  of its teacher's level, and nothing else, so that trials share every level they have in common.

A field that cannot influence a result under the other fields' values (a momentum under AdamW, the
kind of noise at noise 0, alpha without a teacher) is left out of both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from annotated_types import Interval, Predicate
from typing_extensions import Doc

from sdd_core import registry
from sdd_core.fields import (
    BelowOne,
    Count,
    Field,
    Flag,
    Inside,
    Must,
    Natural,
    NotNegative,
    Pairs,
    Positive,
    Share,
    Words,
    fields_of,
)
from sdd_core.fields import SpecError as SpecError

# Part of every key. Raise it with any change of code that changes what a level's result is.
SCHEMA: Final = 2
DEFAULT_ALPHA: Final = 0.8
"""Of a trial that names a teacher and no alpha: the published code's default, as is the temperature of 10."""


@dataclass(frozen=True)
class Key:
    """Marks a field's place in the keys, and so what it is a part of."""

    level: Literal["dense", "pruned", "distilled"] | None
    """It influences every level; levels after level 0; distilled levels. None: it decides only how many there are."""
    of: Literal["setting", "recipe", "approach", "trial"]
    """What it is a part of. The trials of a setting and approach differ in the fields of `trial`."""
    when: Callable[[TrialSpec], bool] = lambda trial: True
    """Whether it can influence anything under the other fields' values."""
    data: bool = False
    """It decides which images are trained on, with which labels: a teacher and its student share it."""


def _has_human_labels(trial: TrialSpec) -> bool:
    return trial.noise_kind == "human"


def _is_flipped(trial: TrialSpec) -> bool:
    return trial.noise_kind != "human" and trial.label_noise > 0


def _is_noisy(trial: TrialSpec) -> bool:
    return _has_human_labels(trial) or _is_flipped(trial)


def _holds_out(trial: TrialSpec) -> bool:
    return trial.protocol == "validation"


def _is_smaller(trial: TrialSpec) -> bool:
    return trial.train_images is not None


def _draws_data(trial: TrialSpec) -> bool:
    return _holds_out(trial) or _is_flipped(trial) or _is_smaller(trial)


def _uses_sgd(trial: TrialSpec) -> bool:
    return trial.optimizer == "sgd"


def _has_steps(trial: TrialSpec) -> bool:
    return trial.lr_schedule == "steps"


def _decays(trial: TrialSpec) -> bool:
    return _has_steps(trial) and bool(trial.lr_milestones)


def _rewinds(trial: TrialSpec) -> bool:
    return trial.retraining == "rewind_weights"


def _rises(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def _names_a_level(level: str | int) -> bool:
    return level in ("dense", "pruned") if isinstance(level, str) else level >= 0


_RISING: Final = Must("must rise within (0, 1), as fractions of the epochs")
_SETTING: Final = Key("dense", "setting")
_RECIPE: Final = Key("dense", "recipe")
_PRUNING: Final = Key("pruned", "recipe")
_APPROACH: Final = Key("distilled", "approach")
_TRIAL: Final = Key("dense", "trial")
# Help that is too long for its field's line.
_NOISE: Final = "how the flipped labels' new classes are drawn; human: people's labels"
_IMAGES: Final = "how many images are trained on, the same share of each class"
_PROTOCOL: Final = "validation decides on held-out images; paper trains on all and decides on test"
_MILESTONES: Final = "where the schedule steps decays, as rising fractions of the epochs"
_RETRAINING: Final = (
    "what follows a pruning: rewind_lr keeps the weights and restarts the schedule, finetune keeps them and "
    "trains at its last rate, from_scratch draws new ones, rewind_weights goes back to an early epoch"
)
_REWIND: Final = "epochs that the weights rewound to were trained, below epochs; with retraining rewind_weights"
_ALPHA: Final = "weight of the distillation term of Eq. 1; 0 is the vanilla trial"
_DATA_SEED: Final = "draws validation split, label noise and the images of train_images"
_TARGET: Final = "the trajectory ends at the first level at least this sparse (zeta_end)"
_LEVEL: Final = "allowed are dense, pruned and numbers from 0"


@dataclass(frozen=True, kw_only=True)
class TeacherRef:
    """A level of another trial, to distil from (paper, Sec. 5)."""

    trial: TrialSpec
    """The teacher's own trial."""

    level: Annotated[str | int, Predicate(_names_a_level), Must(_LEVEL)]
    """`"dense"` (level 0), `"pruned"` (best validation accuracy, ties to the sparser), or a number."""

    def __post_init__(self) -> None:
        faults = fields_of(TeacherRef)["level"].faults(self.level, "teacher level ")
        if faults:
            raise SpecError(faults)

    def levels_needed(self, whole: int) -> int:
        """How many of its trial's `whole` levels have to be trained: all for `pruned`, whose best is known last."""
        if self.level == "pruned":
            return whole
        return 1 if self.level == "dense" else int(self.level) + 1


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One trial. Construct with keywords; raises `SpecError` naming every fault at once."""

    dataset: Annotated[str, Words(registry.DATASETS), Key("dense", "setting", data=True), Doc("data set")] = "digits"
    label_noise: Annotated[
        Share, Key("dense", "setting", _is_flipped, data=True), Doc("share of training labels flipped (epsilon)")
    ] = 0.0
    noise_kind: Annotated[
        str, Words(registry.NOISE_KINDS, also=("human",)), Key("dense", "setting", _is_noisy, data=True), Doc(_NOISE)
    ] = "symmetric"
    noisy_labels: Annotated[
        str | None, Key("dense", "setting", _has_human_labels, data=True), Doc("human label set, with noise_kind human")
    ] = None
    validation_fraction: Annotated[
        Inside, Key("dense", "recipe", _holds_out, data=True), Doc("share of training images held out for decisions")
    ] = 0.2
    train_images: Annotated[
        Count | None, Key("dense", "recipe", _is_smaller, data=True), Flag(default="all not held out"), Doc(_IMAGES)
    ] = None
    augmentation: Annotated[str, Words(registry.AUGMENTATIONS), _RECIPE, Doc("fresh per image and epoch")] = "none"
    protocol: Annotated[Literal["validation", "paper"], Key("dense", "recipe", data=True), Doc(_PROTOCOL)] = (
        "validation"
    )
    model: Annotated[str, Words(registry.MODELS), _SETTING, Doc("architecture")] = "lenet"
    model_options: Annotated[Pairs, _SETTING, Doc("the model's size, for example hidden1=100 hidden2=30")] = ()
    optimizer: Annotated[Literal["sgd", "adamw"], _RECIPE, Doc("optimiser, fresh at each level")] = "sgd"
    learning_rate: Annotated[
        Positive, _RECIPE, Doc("initial learning rate; the vgg's is 1e-4, since at the paper's 0.1 it diverges")
    ] = 0.1
    momentum: Annotated[BelowOne, Key("dense", "recipe", _uses_sgd), Doc("of SGD")] = 0.9
    lr_schedule: Annotated[Literal["steps", "cosine", "constant"], _RECIPE, Doc("restarted at each level")] = "steps"
    lr_milestones: Annotated[
        tuple[Inside, ...], Predicate(_rises), _RISING, Key("dense", "recipe", _has_steps), Doc(_MILESTONES)
    ] = (0.5, 0.75)
    lr_decay: Annotated[float, Interval(gt=0, le=1), Key("dense", "recipe", _decays), Doc("at each milestone")] = 0.1
    epochs: Annotated[Count, _RECIPE, Doc("epochs a level")] = 30
    batch_size: Annotated[Count, _RECIPE, Doc("images a step")] = 128
    precision: Annotated[Literal["float32", "tf32", "bfloat16"], _RECIPE, Doc("of the training step")] = "float32"
    criterion: Annotated[str, Words(registry.CRITERIA), _PRUNING, Doc("which weights go")] = "global_magnitude"
    prune_fraction: Annotated[Inside, _PRUNING, Doc("share of the remaining weights pruned a level (zeta_iter)")] = 0.2
    retraining: Annotated[str, Words(registry.POLICIES), _PRUNING, Doc(_RETRAINING)] = "rewind_lr"
    rewind_epoch: Annotated[Natural | None, Key("pruned", "recipe", _rewinds), Doc(_REWIND)] = None
    weight_decay: Annotated[NotNegative, _TRIAL, Doc("L2 penalty (lambda)")] = 1e-4
    alpha: Annotated[Share, _APPROACH, Flag(default=f"{DEFAULT_ALPHA:g} with a teacher"), Doc(_ALPHA)] = 0.0
    temperature: Annotated[Positive, _APPROACH, Doc("distillation temperature (tau)")] = 10.0
    teacher: Annotated[TeacherRef | None, Doc("whom to distil from; none for a vanilla trial")] = None
    seed: Annotated[Natural, _TRIAL, Doc("draws initial weights, batch order, augmentation and dropout")] = 0
    data_seed: Annotated[
        Natural | None, Key("dense", "trial", _draws_data, data=True), Flag(default="the seed"), Doc(_DATA_SEED)
    ] = None
    target_sparsity: Annotated[BelowOne, Key(None, "trial"), Doc(_TARGET)] = 0.998

    def __post_init__(self) -> None:
        if isinstance(self.lr_milestones, list):
            object.__setattr__(self, "lr_milestones", tuple(self.lr_milestones))
        faults = list(_faults(self))
        if faults:
            raise SpecError(faults)
        if self.data_seed is None:
            object.__setattr__(self, "data_seed", self.seed)
        defaults = {name: option.default for name, option in model_options(self.model).items()}
        object.__setattr__(self, "model_options", tuple(sorted((defaults | dict(self.model_options)).items())))

    def __hash__(self) -> int:
        return int(self.trial_id, 16)  # the same in every process, unlike that of a tuple of words

    def replace(self, **changes: Any) -> TrialSpec:
        """A copy with `changes`, checked like any other. Give `data_seed` when you change `seed`."""
        return dataclasses.replace(self, **changes)

    @functools.cached_property
    def trial_id(self) -> str:
        """First 12 hex digits of the hash of the canonical form without the target sparsity."""
        return digest(canonical(self))

    @property
    def options(self) -> dict[str, Any]:
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


FIELDS: Final = fields_of(TrialSpec)
FIELD_NAMES: Final = frozenset(FIELDS)
_KEYS: Final = {name: key for name, field in FIELDS.items() if (key := field.marked(Key)) is not None}
_REGISTRIES: Final = {
    name: field.words.known
    for name, field in FIELDS.items()
    if isinstance(field.words, Words) and isinstance(field.words.known, registry.Registry)
}
DATA_FIELDS: Final = tuple(name for name, key in _KEYS.items() if key.data)


def fields_that_are(part: str) -> tuple[str, ...]:
    """The fields that are part of a `setting`, `recipe`, `approach` or `trial`."""
    return tuple(name for name, key in _KEYS.items() if key.of == part)


# --- what is refused ------------------------------------------------------------------------


def model_options(model: str) -> dict[str, Field]:
    """The options of a model that is registered, by name."""
    kind: Any = registry.MODELS[model]
    return fields_of(kind)


def _faults(spec: TrialSpec) -> Iterator[str]:
    """Every fault of a spec: of each field alone, then of fields that contradict each other."""
    bad = set()
    for name, field in FIELDS.items():
        faults = field.faults(getattr(spec, name))
        if faults:
            bad.add(name)
            yield from faults
    if not bad & {"model", "model_options"}:
        yield from _option_faults(spec)
    yield from _label_faults(spec)
    if spec.retraining == "rewind_weights":
        if not bad & {"epochs", "rewind_epoch"} and (spec.rewind_epoch is None or spec.rewind_epoch >= spec.epochs):
            yield f"rewind_epoch {spec.rewind_epoch!r}: must be in [0, epochs), here [0, {spec.epochs})"
    elif spec.rewind_epoch is not None:
        yield f"rewind_epoch {spec.rewind_epoch!r}: only with retraining rewind_weights"
    if spec.teacher is None and "alpha" not in bad and spec.alpha > 0:
        yield f"alpha {spec.alpha!r}: needs a teacher; without one it must be 0"
    elif spec.teacher is not None:
        yield from _disagreements(spec, spec.teacher.trial)


def _label_faults(spec: TrialSpec) -> Iterator[str]:
    """People's labels and what they fix."""
    if spec.noise_kind == "human":
        human = registry.DATASETS[spec.dataset].human_labels if spec.dataset in registry.DATASETS else ()
        if spec.noisy_labels not in human:
            yield f"noisy_labels {spec.noisy_labels!r}: {spec.dataset} has {', '.join(human) or 'no human labels'}"
        if spec.label_noise != 0:
            yield f"label_noise {spec.label_noise!r}: with noise_kind human the label set fixes the noise; give 0"
    elif spec.noisy_labels is not None:
        yield f"noisy_labels {spec.noisy_labels!r}: only with noise_kind human"


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


def _option_faults(spec: TrialSpec) -> Iterator[str]:
    """The model's options: each alone, then what its file says of them together."""
    known, values = model_options(spec.model), spec.options
    for name, value in spec.model_options:
        if name in known:
            faults = known[name].faults(value, f"model_options {name}=")
        else:
            faults = [f"model_options {name}={value!r}: {spec.model} has {', '.join(known)}"]
        if faults:
            values.pop(name, None)
            values |= {name: None} if name in known else {}
        yield from faults
    # A rule over an option that is wrong by itself cannot be judged; the others can.
    with contextlib.suppress(TypeError):
        for why in registry.MODELS[spec.model](**values).contradictions():
            yield f"model_options {why}"


# --- canonical form -------------------------------------------------------------------------


def _influences(spec: TrialSpec, level: Literal["dense", "pruned", "distilled"]) -> dict[str, Any]:
    """The fields that can influence such a level, with their values, and nothing of the level before it.

    What a plugin registered is named by its source too.
    """
    form = {name: getattr(spec, name) for name, key in _KEYS.items() if key.level == level and key.when(spec)}
    if "model_options" in form:
        form["model_options"] = spec.options
    for name, known in _REGISTRIES.items():
        if name in form and (source := known.sources.get(form[name])) is not None:
            form[f"{name}_source"] = source
    return form


def canonical(spec: TrialSpec) -> dict[str, Any]:
    """The canonical form of a trial, without its target sparsity: what `trial_id` hashes."""
    form = {"schema": SCHEMA} | _influences(spec, "dense") | _influences(spec, "pruned")
    if spec.distilled and spec.teacher is not None:
        teacher: dict[str, Any] = {"trial": canonical(spec.teacher.trial), "level": spec.teacher.level}
        if spec.teacher.level == "pruned":  # how far the teacher is pruned decides which level is its best
            teacher["target_sparsity"] = spec.teacher.trial.target_sparsity
        form |= _influences(spec, "distilled") | {"teacher": teacher}
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


def digest(value: object) -> str:
    """The first 12 hex digits of the hash of a value of JSON, which name it."""
    return _hash(value)[:12]


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
        return _hash({"schema": SCHEMA, "level": level, "parent": parent} | _influences(spec, "pruned"))
    form = {"schema": SCHEMA, "level": 0} | _influences(spec, "dense")
    if teacher is not None:
        form |= _influences(spec, "distilled") | {"teacher": teacher}
    return _hash(form)


def environment_key(key: str, environment: str) -> str:
    """Key of a level that is trained again in an environment class, because its own key holds another class's."""
    return _hash({"schema": SCHEMA, "level": key, "environment": environment})


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
    form = {name: value for name, value in canonical(spec).items() if name not in fields_that_are("trial")}
    if "teacher" in form:  # its data seed is its student's
        trial = {name: value for name, value in form["teacher"]["trial"].items() if name != "data_seed"}
        form["teacher"] = form["teacher"] | {"trial": trial}
    return form


def setting_id(spec: TrialSpec) -> str:
    """First 12 hex digits of the hash of `setting`."""
    return digest(setting(spec))


def to_json(spec: TrialSpec) -> dict[str, Any]:
    """Every field of a spec as plain JSON values; `from_json` gives the spec back."""
    form = dataclasses.asdict(spec)
    form["model_options"] = spec.options
    form["lr_milestones"] = list(spec.lr_milestones)
    if spec.train_images is None:
        del form["train_images"]  # so that a trial has the form that it had before there was this field
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
