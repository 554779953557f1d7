"""One level of Algorithm 1, made from the level before it."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from torch import Tensor, nn

from sdd_core import cost, machine, models, training, words
from sdd_core.data.splits import Data
from sdd_core.energy import Meter, nothing
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec, level_key, stream
from sdd_core.store import Arrays
from sdd_core.training import pruning, retraining
from sdd_core.training.agreement import Found
from sdd_core.trajectory.state import State, model_arrays, model_tensors, new_model

logger = logging.getLogger(__name__)
_LOOKED_AT: Final = 2048  # training images that tell after the first epoch whether a network learns at all
_RISEN: Final = 1.1  # times a uniform guess's loss; at its start a network is at about 1


class Level(NamedTuple):
    """A finished level: the network after it, and its record."""

    state: State
    record: LevelRecord


def make_level(
    spec: TrialSpec,
    level: int,
    before: Level | None,
    teacher: Level | None,
    data: Data,
    *,
    early: Arrays | None = None,
    meter: Meter | None = None,
) -> Level:
    """One level of a trial: prune the network of the level before, train what is left, evaluate it.

    `before` is the level before, None exactly at level 0, and is left as it was. `teacher` is the level that
    the trial is distilled from, None exactly for a vanilla trial. `early` are the weights of level 0 after
    `rewind_epoch` epochs, for a pruned level that starts from them again. `meter` measures the energy. The
    record does not name its weights yet: their checksum is the store's to fill in.
    """
    if meter is not None:
        meter.start()
    began = time.monotonic()
    state = train_level(spec, level, before.state if before else None, teacher, data, early)
    results = _scores(state.model, data) | _sparsity(state.masks) | _costs(spec, state, data)
    ended = time.monotonic()  # the evaluation has waited for the device
    energy = nothing("measuring is switched off") if meter is None else meter.energy(began, ended)
    parent, taught_by = before.record if before else None, teacher.record.key if teacher else None
    measured = machine.circumstances(data.train.images.device) | {"seconds": ended - began, "energy": energy}
    record = LevelRecord(
        key=level_key(spec, level, parent.key if parent else None, taught_by),
        level=level,
        parent={"key": parent.key, "weights": str(parent.weights)} if parent else None,
        teacher=taught_by,
        weights=None,
        measured=measured | state.notes,
        diverged_after=state.diverged_after,
        **results,
    )
    return Level(state, record)


# --- the network ----------------------------------------------------------------------------


def train_level(
    spec: TrialSpec, level: int, before: State | None, teacher: Level | None, data: Data, early: Arrays | None = None
) -> State:
    """The network of a level, from that of the level before; the arguments are those of `make_level`."""
    schedule = retraining.schedule(spec, level)
    if before is None:
        return _train_dense(spec, teacher, data, schedule)
    model = copy.deepcopy(before.model)
    weights = pruning.prunable_weights(model)
    evidence = pruning.Evidence(
        seed=stream("prune", spec.seed, level), gradients=lambda: training.gradients(model, data.train)
    )
    masks = pruning.prune(weights, before.masks, spec.prune_fraction, spec.criterion, evidence)
    start = _starting_weights(spec, level, data, early)
    if start is not None:
        model.load_state_dict(start)
    pruning.apply_masks(weights, masks)
    found = Found()
    diverged_after = training.train(
        model, masks, data.train, spec, level, schedule, teacher=_network(teacher), found=found
    )
    return State(level, model, masks, diverged_after=diverged_after, notes=_notes(found))


def early_weights(spec: TrialSpec, teacher: Level | None, data: Data) -> Arrays:
    """The weights of level 0 after `rewind_epoch` epochs, by training it as far as that."""
    early = _train_dense(spec, teacher, data, retraining.schedule(spec, 0)[: spec.rewind_epoch]).early
    assert early is not None, f"level 0 does not pass the end of epoch {spec.rewind_epoch}"
    return early


def _train_dense(spec: TrialSpec, teacher: Level | None, data: Data, schedule: training.Schedule) -> State:
    """Level 0 after the epochs of `schedule`, with a copy of the weights that it passes at the rewind epoch."""
    model = new_model(spec, data)
    masks = pruning.dense_masks(model)
    early: Arrays = {}
    warned: dict[str, str] = {}

    def after_epoch(epoch: int) -> None:
        if epoch == 0:
            warned.update(_rises(spec, model, data))
        if epoch + 1 == spec.rewind_epoch:
            early.update(model_arrays(model))

    found = Found()
    diverged_after = training.train(
        model, masks, data.train, spec, 0, schedule, after_epoch, teacher=_network(teacher), found=found
    )
    return State(0, model, masks, early or None, diverged_after, _notes(found) | warned)


def _notes(found: Found) -> dict[str, Any]:
    """What a record says of how the steps ran, if there is anything to say."""
    step = found.as_record()
    return {} if step is None else {"step": step}


def _rises(spec: TrialSpec, model: nn.Module, data: Data) -> dict[str, str]:
    """A `warning` when a model after its first epoch is worse than one that has not looked at the images; else nothing.

    It is said in the process that trains, at once: the whole trajectory may take days. A student that follows its
    teacher may be sure of labels that are noisy, so of a distilled one the loss says nothing.
    """
    if spec.distilled:
        return {}
    some = data.train.first(_LOOKED_AT)
    loss = training.evaluate(model, some, {"train": some.labels})["train"].loss
    model.train()
    uniform = math.log(data.classes)
    if loss <= _RISEN * uniform:
        return {}
    found = (
        f"after its first epoch the training loss is {loss:.3g}, above the {uniform:.3g} of a uniform guess: "
        f"learning_rate {spec.learning_rate:g} may be too large"
    )
    logger.warning("%s: %s", words.trial_name(spec), found)
    return {"warning": found}


def _network(level: Level | None) -> nn.Module | None:
    return level.state.model if level is not None else None


def _starting_weights(spec: TrialSpec, level: int, data: Data, early: Arrays | None) -> Mapping[str, Tensor] | None:
    """The weights that a pruned level starts from by its retraining policy; None for those of the level before."""
    start = retraining.POLICIES[spec.retraining].start
    if start == "kept":
        return None
    if start == "rewound" and spec.rewind_epoch != 0:
        assert early is not None, "a level that rewinds needs the early weights"
        return model_tensors(early)
    drawn_for = level if start == "initial" else 0
    return models.build(spec, data.image_shape, data.classes, drawn_for).state_dict()


# --- the record -----------------------------------------------------------------------------


def _scores(model: nn.Module, data: Data) -> dict[str, float | None]:
    """Accuracy and loss on each split, as a record's fields; None where there is no validation split."""
    train = training.evaluate(model, data.train, {"train": data.train.labels})
    test = training.evaluate(model, data.test, {"test": data.test.clean_labels})
    val: dict[str, training.Scores] = {}
    if data.val is not None:
        val = training.evaluate(model, data.val, {"val": data.val.clean_labels, "val_noisy": data.val.labels})
    found = train | test | val
    return {
        f"{name}_{figure}": getattr(found.get(name), figure, None)
        for name in ("train", "val", "val_noisy", "test")
        for figure in ("accuracy", "loss")
    }


def _sparsity(masks: pruning.Masks) -> dict[str, Any]:
    """How many weights are left, as a record's fields."""
    left, total = pruning.remaining(masks), pruning.prunable(masks)
    return {
        "sparsity": (total - left) / total,
        "remaining": left,
        "prunable": total,
        "emptied_layers": pruning.emptied_layers(masks),
    }


def _costs(spec: TrialSpec, state: State, data: Data) -> dict[str, Any]:
    """What the data are and what the level cost, as a record's fields."""
    sizes = cost.Sizes(train=len(data.train), val=len(data.val) if data.val is not None else 0, test=len(data.test))
    return {
        "label_noise": data.train.noise_rate,
        "train_size": sizes.train,
        "val_size": sizes.val,
        "test_size": sizes.test,
        "chance": (data.val or data.test).chance,
        **vars(cost.level_cost(spec, state.level, sizes, state.masks, epochs=state.diverged_after)),
    }
