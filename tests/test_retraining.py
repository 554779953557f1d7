"""What follows a pruning, on real digits: starting weights, schedules, and snapshots of early epochs."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from sdd_core import cost, models, training, trajectory
from sdd_core.blobs import open_blobs
from sdd_core.data import splits as data
from sdd_core.registry import MODELS
from sdd_core.spec import level_key, snapshot_key
from sdd_core.store import Store, determined
from sdd_core.training import pruning, retraining

POLICIES = {
    "rewind_lr": {},
    "finetune": {},
    "from_scratch": {},
    "rewind_weights": {"rewind_epoch": 2},
    "rewind_weights to the start": {"rewind_epoch": 0},
}
ARRAYS = {"1.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
OTHER = {"1.weight": np.zeros((2, 3), np.float32)}


class Interruption(Exception):
    """What ends a run in these tests."""


@pytest.fixture(scope="module")
def policy_spec(tiny):
    """Three levels of four epochs, the schedule 0.1, 0.1, 0.01, 0.001."""

    def make(policy, **changes):
        return tiny(epochs=4, target_sparsity=0.35, retraining=policy.split()[0], **POLICIES[policy], **changes)

    return make


@pytest.fixture(scope="module")
def undisturbed(policy_spec, tmp_path_factory):
    """Per policy: the store and the curve of its trial, each in a store of its own, all weights kept."""
    found = {}
    for policy in POLICIES:
        store = Store(str(tmp_path_factory.mktemp("undisturbed")))
        found[policy] = store, trajectory.run(policy_spec(policy), store, keep="all")
    return found


def facts(curve):
    return [determined(record) for record in curve]


def run(spec, store, **options):
    trained = []
    curve = trajectory.run(spec, store, on_level=lambda record, new: trained.append(new), **options)
    return curve, trained


def model_of(arrays):
    return {name.removeprefix("model."): array for name, array in arrays.items() if name.startswith("model.")}


def masks_of(arrays):
    weights = model_of(arrays)
    return {
        name.removeprefix("mask."): np.unpackbits(bits, count=weights[name.removeprefix("mask.")].size)
        .reshape(weights[name.removeprefix("mask.")].shape)
        .astype(bool)
        for name, bits in arrays.items()
        if name.startswith("mask.")
    }


def snapshot_name(spec):
    key = snapshot_key(level_key(spec, 0, None), spec.rewind_epoch)
    return f"snapshots/{key[:2]}/{key}.json"


def snapshot_of(store, spec):
    return Store(store.url).snapshot(snapshot_key(level_key(spec, 0, None), spec.rewind_epoch))


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def starts(monkeypatch):
    """What every training of the test started from: (level, tensors, masks, schedule)."""
    seen, train = [], training.train

    def look(model, masks, split, spec, level, schedule, *options, **named):
        tensors = {name: value.numpy().copy() for name, value in model.state_dict().items()}
        seen.append((level, tensors, {name: mask.numpy().copy() for name, mask in masks.items()}, list(schedule)))
        train(model, masks, split, spec, level, schedule, *options, **named)

    monkeypatch.setattr(training, "train", look)
    return seen


# --- the policies ---------------------------------------------------------------------------


def test_where_each_policy_starts():
    assert {name: policy.start for name, policy in retraining.POLICIES.items()} == {
        "rewind_lr": "kept",
        "finetune": "kept",
        "from_scratch": "initial",
        "rewind_weights": "rewound",
    }


FULL = [(0, 0.1), (1, 0.1), (2, 0.01), (3, 0.001)]


@pytest.mark.parametrize(
    ("policy", "changes", "expected"),
    [
        ("rewind_lr", {}, FULL),
        ("from_scratch", {}, FULL),
        ("finetune", {}, [(0, 0.001), (1, 0.001), (2, 0.001), (3, 0.001)]),
        ("finetune", {"lr_schedule": "constant"}, [(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.1)]),
        ("finetune", {"lr_schedule": "cosine", "epochs": 2}, [(0, 0.05), (1, 0.05)]),
        ("rewind_weights", {}, FULL[2:]),
        ("rewind_weights", {"rewind_epoch": 3}, FULL[3:]),
        ("rewind_weights to the start", {}, FULL),
    ],
)
def test_the_epochs_and_learning_rates_of_a_level(policy_spec, policy, changes, expected):
    spec = policy_spec(policy).replace(**changes)
    whole = training.full_schedule(spec)
    assert retraining.schedule(spec, 0) == whole
    for level in (1, 5):
        found = retraining.schedule(spec, level)
        assert [epoch for epoch, _ in found] == [epoch for epoch, _ in expected]
        assert [rate for _, rate in found] == pytest.approx([rate for _, rate in expected], rel=1e-12)
    assert min(rate for _, rate in whole) == whole[-1][1]


def test_a_schedule_is_what_is_trained(tiny):
    """The rate and the epoch's batches are both those of the schedule, against a loop written out."""
    spec = tiny(momentum=0.0, weight_decay=0.0, batch_size=2000)
    split = data.load(spec, torch.device("cpu")).train
    model, plain = (models.build(spec, (1, 8, 8), 10) for _ in range(2))
    seen = []
    training.train(model, pruning.dense_masks(model), split, spec, 1, [(5, 0.3), (6, 0.02)], seen.append)
    assert seen == [5, 6]
    for rate in (0.3, 0.02):
        loss = nn.functional.cross_entropy(plain(split.inputs(slice(None))), split.labels)
        parameters = list(plain.parameters())
        with torch.no_grad():
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter -= rate * gradient
    for value, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_a_level_starts_from(policy_spec, undisturbed, store, starts, policy):
    """Masked: the weights of the level before, new ones, or those of the early epoch."""
    spec = policy_spec(policy)
    held, curve = undisturbed[policy]
    assert facts(run(spec, store)[0]) == facts(curve)
    assert [level for level, *_ in starts] == [0, 1, 2]
    initial = starts[0][1]
    for level, tensors, masks, _ in starts[1:]:
        source = {
            "rewind_lr": lambda level=level: model_of(held.weights(curve[level - 1])),
            "finetune": lambda level=level: model_of(held.weights(curve[level - 1])),
            "from_scratch": lambda level=level: {
                name: value.numpy() for name, value in models.build(spec, (1, 8, 8), 10, level).state_dict().items()
            },
            "rewind_weights": lambda: snapshot_of(store, spec),
            "rewind_weights to the start": lambda: initial,
        }[policy]()
        assert same(tensors, {n: v * masks[n] if n in masks else v for n, v in source.items()})
        assert all(np.array_equal(masks[n], m) for n, m in masks_of(held.weights(curve[level])).items())


@pytest.mark.parametrize("policy", POLICIES)
def test_a_removed_weight_is_exactly_zero_under_every_policy(undisturbed, policy):
    store, curve = undisturbed[policy]
    for record in curve:
        arrays = store.weights(record)
        for name, mask in masks_of(arrays).items():
            assert (model_of(arrays)[name][~mask] == 0).all()
            assert (model_of(arrays)[name][mask] != 0).mean() > 0.99


def test_the_policies_share_level_0_and_nothing_else(policy_spec, undisturbed, store):
    """Whether a snapshot is taken changes no byte of level 0, nor who trained it a byte of the others."""
    names = ["rewind_lr", *(policy for policy in POLICIES if policy != "rewind_lr")]
    curves = []
    for i, policy in enumerate(names):
        curve, trained = run(policy_spec(policy), Store(store.url))
        assert trained == [i == 0, True, True]
        assert facts(curve) == facts(undisturbed[policy][1])
        curves.append(curve)
    assert len({curve[0].key for curve in curves}) == len({curve[0].weights for curve in curves}) == 1
    for level in (1, 2):
        assert len({curve[level].key for curve in curves}) == len({curve[level].weights for curve in curves}) == 5


def test_initial_weights_differ_by_seed_and_level(tiny):
    def first(seed, level):
        return models.build(tiny(seed=seed), (1, 8, 8), 10, level)[1].weight[0, :5].tolist()

    assert first(0, 0) == models.build(tiny(seed=0), (1, 8, 8), 10)[1].weight[0, :5].tolist()
    drawn = [tuple(first(seed, level)) for seed in (0, 1) for level in range(3)]
    assert len(set(drawn)) == 6
    assert tuple(first(1, 2)) == drawn[-1]


def test_a_level_costs_the_epochs_that_it_trains(undisturbed):
    epochs = {policy: [4, 4, 4] for policy in POLICIES} | {"rewind_weights": [4, 2, 2]}
    for policy, (_, curve) in undisturbed.items():
        assert [r.pflop for r in curve] == [cost.training_pflop(2720, 1151, n) for n in epochs[policy]]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_buffers_of_norm_layers_follow_the_weights(policy_spec, tmp_path, starts, policy, monkeypatch):
    class Normed(MODELS["lenet"]):
        def build(self, image_shape, classes):
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))

    monkeypatch.setitem(MODELS, "lenet", Normed)
    spec, store = policy_spec(policy), Store(str(tmp_path / "a"))
    curve, _ = run(spec, store, keep="all")
    steps = 9  # 1,151 images in batches of 128, the last smaller
    counted = {"rewind_lr": 4 * steps, "finetune": 4 * steps, "rewind_weights": 2 * steps}.get(policy, 0)
    tensors = starts[1][1]
    assert tensors["2.num_batches_tracked"] == counted
    assert (tensors["2.running_mean"] == 0).all() == (counted == 0)
    if policy in ("rewind_lr", "finetune"):
        assert np.array_equal(tensors["2.running_var"], store.weights(curve[0])["model.2.running_var"])
    if policy == "rewind_weights":  # and so after a reading from the store
        assert np.array_equal(tensors["2.running_var"], snapshot_of(store, spec)["2.running_var"])
        other = Store(str(tmp_path / "b"))
        run(spec.replace(target_sparsity=0), other)
        assert facts(run(spec, Store(other.url))[0]) == facts(curve)


# --- the same bytes, whatever happens -------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_a_real_trajectory_of_every_policy_twice_gives_the_same_bytes(policy_spec, undisturbed, store, policy):
    torch.manual_seed(5)  # whatever the process has drawn
    curve, trained = run(policy_spec(policy), store)
    assert trained == [True] * 3
    assert facts(curve) == facts(undisturbed[policy][1])


def leave(blobs, names):
    pass


def delete(blobs, names):
    for name in names:
        blobs.delete(name)


def damage(blobs, names):
    for name in names:
        content = blobs.read(name)
        blobs.delete(name)
        assert blobs.create(name, content[: len(content) // 2])


def disturb_record(how):
    return lambda blobs, spec, checksum: how(blobs, [snapshot_name(spec)])


def disturb_weights(how):
    return lambda blobs, spec, checksum: how(blobs, [f"weights/{checksum[:2]}/{checksum}.safetensors"])


def disturb_both(how):
    return lambda *given: (disturb_record(how)(*given), disturb_weights(how)(*given))


DISTURBANCES = {
    "nothing": disturb_both(leave),
    "record deleted": disturb_record(delete),
    "weights deleted": disturb_weights(delete),
    "both deleted": disturb_both(delete),
    "record damaged": disturb_record(damage),
    "weights damaged": disturb_weights(damage),
    "both damaged": disturb_both(damage),
}


def interrupt_after(spec, store, level):
    def stop(record, trained):
        if record.level == level:
            raise Interruption

    with pytest.raises(Interruption):
        trajectory.run(spec, store, on_level=stop)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("level", [0, 1])
def test_interrupted_after_a_level_and_continued_is_the_undisturbed_run(policy_spec, undisturbed, store, policy, level):
    spec = policy_spec(policy)
    interrupt_after(spec, store, level)
    curve, trained = run(spec, Store(store.url))
    assert facts(curve) == facts(undisturbed[policy][1])
    assert trained == [k > level for k in range(3)]


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("what", DISTURBANCES)
def test_a_snapshot_that_is_lost_or_damaged_is_made_again(policy_spec, undisturbed, any_store, what, level, starts):
    spec = policy_spec("rewind_weights")
    interrupt_after(spec, any_store, level)
    blobs = open_blobs(any_store.url)
    expected = blobs.read(snapshot_name(spec))
    checksum = json.loads(expected)["weights"]
    DISTURBANCES[what](blobs, spec, checksum)
    starts.clear()
    curve, trained = run(spec, Store(any_store.url))
    assert facts(curve) == facts(undisturbed["rewind_weights"][1])
    assert trained == [k > level for k in range(3)]
    assert blobs.read(snapshot_name(spec)) == expected
    assert same(snapshot_of(any_store, spec), snapshot_of(undisturbed["rewind_weights"][0], spec))
    # Level 0 is trained again only where that is needed, and only as far.
    again = [[epoch for epoch, _ in schedule] for level, *_, schedule in starts if level == 0]
    assert again == ([] if what == "nothing" else [[0, 1]])


def test_a_snapshot_is_taken_once_whatever_happens_to_level_0(policy_spec, undisturbed, store):
    """Made as level 0 trains, and left alone when level 0's own weights have to be made again."""
    spec = policy_spec("rewind_weights")
    interrupt_after(spec, store, 0)
    blobs = open_blobs(store.url)
    before = blobs.names("snapshots")
    assert before == [snapshot_name(spec)]
    store.drop_weights(store.curve(spec)[0])
    curve, _ = run(spec, Store(store.url))
    assert facts(curve) == facts(undisturbed["rewind_weights"][1])
    assert blobs.names("snapshots") == before
    assert blobs.names("damaged") == []


def test_only_rewinding_to_a_trained_epoch_takes_a_snapshot(undisturbed):
    taken = {policy: len(open_blobs(store.url).names("snapshots")) for policy, (store, _) in undisturbed.items()}
    assert taken == {policy: int(policy == "rewind_weights") for policy in POLICIES}


def test_killed_in_the_middle_of_level_0_after_its_snapshot(policy_spec, undisturbed, store, monkeypatch):
    spec, create = policy_spec("rewind_weights"), Store._create

    def die(self, name, form):
        if name.startswith("levels/"):
            raise Interruption
        return create(self, name, form)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_create", die)
        with pytest.raises(Interruption):
            trajectory.run(spec, store)
    assert open_blobs(store.url).exists(snapshot_name(spec))
    curve, trained = run(spec, Store(store.url))
    assert trained == [True] * 3
    assert facts(curve) == facts(undisturbed["rewind_weights"][1])


# --- keys and the store ---------------------------------------------------------------------


def test_a_snapshots_key_is_its_level_0_and_its_epoch(policy_spec):
    spec = policy_spec("rewind_weights")

    def key(other, epoch):
        return snapshot_key(level_key(other, 0, None), epoch)

    assert key(spec, 2) == key(spec.replace(criterion="random", prune_fraction=0.5, target_sparsity=0.9), 2)
    others = [key(spec, 1), key(spec.replace(weight_decay=0.1), 2), key(spec.replace(epochs=5), 2)]
    assert len({key(spec, 2), level_key(spec, 0, None), *others}) == 5
    assert snapshot_key("ab" * 32, 3) == "29f78a5582de820d7656c42565a7bd45550cd909758ab965c0e3351e293d6690"


def test_a_snapshot_is_read_back(any_store):
    assert any_store.snapshot("k1") is None
    assert same(any_store.commit_snapshot("k1", 2, ARRAYS), ARRAYS)
    assert same(Store(any_store.url).snapshot("k1"), ARRAYS)
    assert same(any_store.commit_snapshot("k1", 2, ARRAYS), ARRAYS)
    assert any_store.snapshot("k2") is None


def test_a_second_writer_gets_the_winners_snapshot(any_store):
    any_store.commit_snapshot("k1", 2, ARRAYS)
    files = open_blobs(any_store.url).names("")
    assert same(Store(any_store.url).commit_snapshot("k1", 2, OTHER), ARRAYS)
    assert open_blobs(any_store.url).names("") == files


def test_lost_weights_of_a_snapshot_are_not_replaced_by_others(any_store):
    """As on a GPU, where weights made again need not be the same bytes."""
    any_store.commit_snapshot("k1", 2, ARRAYS)
    (name,) = open_blobs(any_store.url).names("weights")
    open_blobs(any_store.url).delete(name)
    assert same(any_store.commit_snapshot("k1", 2, OTHER), OTHER)
    assert any_store.snapshot("k1") is None
    assert same(any_store.commit_snapshot("k1", 2, ARRAYS), ARRAYS)
    assert same(any_store.snapshot("k1"), ARRAYS)


def test_a_rival_between_the_reading_and_the_writing_wins(any_store):
    create = any_store._create

    def late(name, form):
        Store(any_store.url).commit_snapshot("k1", 2, OTHER)
        return create(name, form)

    any_store._create = late
    assert same(any_store.commit_snapshot("k1", 2, ARRAYS), OTHER)


def test_damage_to_a_snapshot_is_set_aside(any_store):
    any_store.commit_snapshot("k1", 2, ARRAYS)
    blobs = open_blobs(any_store.url)
    damage(blobs, blobs.names("weights"))
    assert any_store.snapshot("k1") is None
    assert len(blobs.names("damaged")) == 1
    assert blobs.names("weights") == []


def test_levels_go_on_from_the_snapshot_that_counts(policy_spec, undisturbed, store):
    """Another writer's weights of that epoch, as on a GPU: all levels rewind to the same ones."""
    spec = policy_spec("rewind_weights")
    key = snapshot_key(level_key(spec, 0, None), 2)
    other = {name: array + 0.01 for name, array in snapshot_of(undisturbed["rewind_weights"][0], spec).items()}
    store.commit_snapshot(key, 2, other)
    curve, _ = run(spec, store)
    assert determined(curve[0]) == determined(undisturbed["rewind_weights"][1][0])
    assert curve[1].weights != undisturbed["rewind_weights"][1][1].weights
    assert same(snapshot_of(store, spec), other)


def test_a_snapshot_that_cannot_be_kept_still_serves_this_run(policy_spec, undisturbed, store):
    """Its record names other bytes, which are lost: each run makes its own again."""
    spec = policy_spec("rewind_weights")
    store.commit_snapshot(snapshot_key(level_key(spec, 0, None), 2), 2, OTHER)
    blobs = open_blobs(store.url)
    delete(blobs, blobs.names("weights"))
    curve, _ = run(spec, store)
    assert facts(curve) == facts(undisturbed["rewind_weights"][1])
    assert snapshot_of(store, spec) is None
