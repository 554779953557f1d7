"""Algorithm 1 of the paper: train, then prune and train again until the target sparsity.

Every level is read from the store when it is there and committed to it when it was trained, so a
trajectory that is interrupted anywhere goes on from its last finished level.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import nn

from sdd_core import cost, models, training
from sdd_core.curve import GiveUp, best_level
from sdd_core.data import splits as data
from sdd_core.energy import Meter, nothing
from sdd_core.record import LevelRecord
from sdd_core.spec import SpecError, TrialSpec, level_key, snapshot_key, stream
from sdd_core.store import Arrays, Store, is_complete
from sdd_core.training import pruning, retraining, steps

Keep = Literal["dense_best_last", "all"]
KEEP: Final = ("dense_best_last", "all")
OnLevel = Callable[[LevelRecord, bool], None]


def faults(spec: TrialSpec, device_type: str = "cpu", capability: tuple[int, int] | None = None) -> list[str]:
    """Why a trial cannot run on a kind of device although its fields are valid.

    Its model's faults, its data's, its arithmetic's, whether they fit together, and its teacher's.
    """
    found = [*models.faults(spec), *data.faults(spec), *steps.faults(spec, device_type, capability)]
    found = found or models.faults(spec, data.train_size(spec))
    if not found and spec.distilled and spec.teacher is not None:
        teacher = spec.teacher.trial
        found = [f"teacher's {fault}" for fault in faults(teacher, device_type, capability)]
        if not found and isinstance(spec.teacher.level, int):
            last = cost.estimate(teacher)["trainings"] - 1
            if spec.teacher.level > last:
                end = f"its trajectory ends at level {last}, target_sparsity {teacher.target_sparsity!r}"
                found = [f"teacher's level {spec.teacher.level}: {end}"]
    return found


@dataclass
class _State:
    """The network after a level: weights and masks on the training device."""

    level: int
    model: nn.Module
    masks: pruning.Masks


def run(
    spec: TrialSpec,
    store: Store,
    *,
    give_up: GiveUp | None = None,
    last_level: int | None = None,
    keep: Keep = "dense_best_last",
    device: str | None = None,
    threads: int = 1,
    on_level: OnLevel | None = None,
    energy: bool = True,
    gpu_share: float = 1.0,
) -> list[LevelRecord]:
    """Run one trial to its target sparsity, or until `give_up` knows its verdict. Returns its curve.

    With `last_level` it ends at that level and has its weights then: what a student needs of a teacher.
    A teacher of the trial that is missing in the store is run first, as far as it is needed.
    `on_level(record, trained)` is called after each level of the trial, read or trained. `device` is a torch
    device, by default the first GPU where there is one. `threads` is set for this process: the same
    spec, versions and thread count give the same bytes on a CPU. `keep` says which levels' weights
    stay: all, or those of the dense, the best and the last level. `energy` is whether to measure it,
    and `gpu_share` the part of the GPU that is this trial's for that. Raises `SpecError` for what does not run.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wrong = faults(spec, place.type, steps.capability(place))
    if wrong:
        raise SpecError(wrong)
    if keep not in KEEP or threads < 1:
        raise ValueError(f"`keep in {KEEP}` and `threads >= 1` must hold, but got {keep!r} and {threads!r}")
    torch.set_num_threads(threads)
    # Strong decay drives weights into the denormal range, where a CPU is many times slower.
    torch.set_flush_denormal(True)
    meter = Meter(threads=threads, gpu=steps.gpu_uuid(place), gpu_share=gpu_share) if energy else None
    try:
        return _Runner(spec, store, keep, place, meter).run(give_up, last_level, on_level)
    finally:  # it is a state of the whole thread, and other code's arithmetic is not ours to change
        torch.set_flush_denormal(False)
        if meter is not None:
            meter.close()


class _Runner:
    """One trial in this process. The data and the networks are made when a level has to be trained."""

    def __init__(
        self,
        spec: TrialSpec,
        store: Store,
        keep: Keep,
        device: torch.device,
        meter: Meter | None = None,
        splits: data.Data | None = None,
    ) -> None:
        self.spec, self.store, self.keep, self.device, self.meter = spec, store, keep, device, meter
        self.curve: list[LevelRecord] = []
        self.state: _State | None = None
        self.teacher: LevelRecord | None = None
        self._teacher_network: nn.Module | None = None
        self._data = splits
        self._early: Arrays | None = None

    def run(
        self, give_up: GiveUp | None = None, last_level: int | None = None, on_level: OnLevel | None = None
    ) -> list[LevelRecord]:
        self._have_teacher()
        while not is_complete(self.curve, self.spec) and (last_level is None or len(self.curve) <= last_level):
            level = len(self.curve)
            key = self._key(level)
            record = self.store.record(key)
            trained = record is None
            if record is None:
                record = self._train_and_commit(level, key)
            self.curve.append(record)
            if trained:
                self._drop_unneeded_weights()
            if on_level is not None:
                on_level(record, trained)
            if give_up is not None and give_up.applies(self.curve):
                break
        if last_level is not None and not self.store.has_weights(self.curve[-1]):
            self._state_after(len(self.curve) - 1)
        return self.curve

    def _key(self, level: int) -> str:
        """The key of a level whose predecessors are in `curve`."""
        parent = self.curve[level - 1].key if level > 0 else None
        return level_key(self.spec, level, parent, self.teacher.key if self.teacher is not None else None)

    # --- the teacher ----------------------------------------------------------------------

    def _have_teacher(self) -> None:
        """Find the level that the trial is distilled from, running what of its teachers is missing."""
        tried = set()
        while (need := self.store.teacher_needed(self.spec)) is not None and need not in tried:
            tried.add(need)  # on a GPU weights are not made again byte for byte, and so not kept
            self._other(need.trial, self._data).run(last_level=need.last_level)
        self.teacher = self.store.teacher(self.spec)

    def _other(self, spec: TrialSpec, splits: data.Data | None) -> _Runner:
        return _Runner(spec, self.store, self.keep, self.device, self.meter, splits)

    def _teacher(self) -> nn.Module | None:
        """The network that the trial is distilled from, on the training device; None for a vanilla trial."""
        if self.teacher is None or self.spec.teacher is None:
            return None
        if self._teacher_network is None:
            # Teacher and student agree in every data field, so they share the splits.
            other = self._other(self.spec.teacher.trial, self.data)
            other._have_teacher()
            other.curve = self.store.curve(other.spec)[: self.teacher.level + 1]
            self._teacher_network = other._state_after(self.teacher.level).model
        return self._teacher_network

    # --- a level --------------------------------------------------------------------------

    @property
    def data(self) -> data.Data:
        if self._data is None:
            self._data = data.load(self.spec, self.device)
        return self._data

    def _train_and_commit(self, level: int, key: str) -> LevelRecord:
        self._teacher()  # made again, if it has to be, outside this level's time
        if self.meter is not None:
            self.meter.start()
        began = time.monotonic()
        state = self._train(level)
        record = self._evaluate(state, key)
        ended = time.monotonic()  # evaluation has waited for the device
        record.measured["seconds"] = ended - began
        used = self.meter.energy(began, ended) if self.meter is not None else nothing("measuring is switched off")
        record.measured["energy"] = used
        winner, same_weights = self.store.commit(record, _to_arrays(state))
        # A writer that came first is the one to go on from.
        self.state = state if same_weights else None
        return winner

    def _train(self, level: int) -> _State:
        """Make the network of a level from that of the level before: prune, then train."""
        schedule = retraining.schedule(self.spec, level)
        if level == 0:
            return self._train_dense(schedule)
        state = self._state_after(level - 1)
        # The network of the level before is trained on in place: from here on it is this level's.
        self.state = None
        weights = pruning.prunable_weights(state.model)
        evidence = pruning.Evidence(
            seed=stream("prune", self.spec.seed, level),
            gradients=lambda: training.gradients(state.model, self.data.train),
        )
        masks = pruning.prune(weights, state.masks, self.spec.prune_fraction, self.spec.criterion, evidence)
        start = retraining.POLICIES[self.spec.retraining].start
        if start != "kept":
            state.model.load_state_dict(self._initial(level) if start == "initial" else self._rewound())
        pruning.apply_masks(weights, masks)
        state.level, state.masks = level, masks
        training.train(state.model, masks, self.data.train, self.spec, level, schedule, teacher=self._teacher())
        return state

    def _train_dense(self, schedule: training.Schedule) -> _State:
        """Train level 0 for the epochs of `schedule`, keeping a snapshot when it passes the rewind epoch."""
        model = models.build(self.spec, self.data.image_shape, self.data.classes).to(self.device)
        state = _State(0, model, pruning.dense_masks(model))

        def keep_early(epoch: int) -> None:
            if epoch + 1 == self.spec.rewind_epoch:
                key = snapshot_key(self._key(0), epoch + 1)
                self._early = self.store.commit_snapshot(key, epoch + 1, _model_arrays(model))

        teacher = self._teacher()
        training.train(model, state.masks, self.data.train, self.spec, 0, schedule, keep_early, teacher=teacher)
        return state

    def _initial(self, level: int) -> dict[str, torch.Tensor]:
        """The initial weights that a level draws."""
        model = models.build(self.spec, self.data.image_shape, self.data.classes, level)
        return dict(model.state_dict())

    def _rewound(self) -> dict[str, torch.Tensor]:
        """The weights of level 0 after `rewind_epoch` epochs: from memory, from the store, or made again.

        They are made again by training level 0 up to that epoch, which on a CPU gives the same bytes.
        """
        epoch = self.spec.rewind_epoch
        assert epoch is not None
        if epoch == 0:
            return self._initial(0)
        if self._early is None:
            self._early = self.store.snapshot(snapshot_key(self._key(0), epoch))
        if self._early is None:
            self._train_dense(retraining.schedule(self.spec, 0)[:epoch])
        assert self._early is not None
        return {name: torch.from_numpy(array) for name, array in self._early.items()}

    def _state_after(self, level: int) -> _State:
        """The network after a finished level: from memory, from the store, or made again.

        Weights that were not kept, or are damaged, are trained again from the nearest ancestor that
        has them. On a CPU that gives the same bytes, which are then kept again until they are replaced.
        """
        if self.state is not None and self.state.level == level:
            return self.state
        record = self.curve[level]
        arrays = self.store.weights(record)
        if arrays is not None:
            model = models.build(self.spec, self.data.image_shape, self.data.classes).to(self.device)
            return _from_arrays(arrays, model, level)
        state = self._train(level)
        self.store.restore_weights(record, _to_arrays(state))
        return state

    def _evaluate(self, state: _State, key: str) -> LevelRecord:
        """The record of a trained level, without its weights' checksum."""
        splits = self.data
        train = training.evaluate(state.model, splits.train, {"used": splits.train.labels})["used"]
        test = training.evaluate(state.model, splits.test, {"clean": splits.test.clean_labels})["clean"]
        val: dict[str, training.Scores] = {}
        if splits.val is not None:
            labelings = {"clean": splits.val.clean_labels, "noisy": splits.val.labels}
            val = training.evaluate(state.model, splits.val, labelings)
        left, total = pruning.remaining(state.masks), pruning.prunable(state.masks)
        parent = self.curve[state.level - 1] if state.level > 0 else None
        sizes = cost.Sizes(
            train=len(splits.train), val=len(splits.val) if splits.val is not None else 0, test=len(splits.test)
        )
        return LevelRecord(
            key=key,
            level=state.level,
            sparsity=(total - left) / total,
            remaining=left,
            prunable=total,
            emptied_layers=pruning.emptied_layers(state.masks),
            train_accuracy=train.accuracy,
            train_loss=train.loss,
            val_accuracy=val["clean"].accuracy if val else None,
            val_loss=val["clean"].loss if val else None,
            val_noisy_accuracy=val["noisy"].accuracy if val else None,
            val_noisy_loss=val["noisy"].loss if val else None,
            test_accuracy=test.accuracy,
            test_loss=test.loss,
            label_noise=splits.train.noise_rate,
            train_size=sizes.train,
            val_size=sizes.val,
            test_size=sizes.test,
            chance=(splits.val or splits.test).chance,
            **vars(cost.level_cost(self.spec, state.level, sizes, state.masks)),
            parent={"key": parent.key, "weights": str(parent.weights)} if parent is not None else None,
            teacher=self.teacher.key if self.teacher is not None else None,
            weights=None,
            measured=_circumstances(self.device),
        )

    def _drop_unneeded_weights(self) -> None:
        """Keep the weights of the dense, the best and the last level; the level just finished is the last."""
        if self.keep == "all":
            return
        best = best_level([record.deciding_accuracy() for record in self.curve])
        last = len(self.curve) - 1
        for record in self.curve[1:last]:
            if record.level != best and self.store.has_weights(record):
                self.store.drop_weights(record)


def _to_arrays(state: _State) -> Arrays:
    """A state as named arrays: the model's tensors, and each mask packed eight weights to a byte."""
    arrays: Arrays = {f"model.{name}": tensor.cpu().numpy() for name, tensor in state.model.state_dict().items()}
    arrays |= {f"mask.{name}": np.packbits(mask.cpu().numpy()) for name, mask in state.masks.items()}
    return arrays


def _model_arrays(model: nn.Module) -> Arrays:
    """A copy of the model's tensors, parameters and buffers, which training on does not change."""
    return {name: tensor.cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def _from_arrays(arrays: Arrays, model: nn.Module, level: int) -> _State:
    model.load_state_dict(
        {name.removeprefix("model."): torch.from_numpy(a) for name, a in arrays.items() if name.startswith("model.")}
    )
    masks = {}
    for name, weight in pruning.prunable_weights(model).items():
        bits = np.unpackbits(arrays[f"mask.{name}"], count=weight.numel()).astype(np.bool_)
        masks[name] = torch.from_numpy(bits).view(weight.shape).to(weight.device)
    return _State(level, model, masks)


def _circumstances(device: torch.device) -> dict[str, Any]:
    """What a record says beside its result: where, when and with what it was made."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "process": os.getpid(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "finished_at": time.time(),
    }
