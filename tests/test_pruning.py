"""Pruning: exactly k weights, ties by index, and a removed weight never comes back."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdd_core import data, models, pruning, training, trajectory
from sdd_core.spec import last_level, prune_count


def masks_like(weights):
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def prune(weights, masks, fraction=0.2):
    return pruning.prune(weights, masks, fraction, "global_magnitude")


def flat(masks):
    return np.concatenate([mask.numpy().ravel() for mask in masks.values()])


@st.composite
def networks(draw):
    """Weights of a few layers, with heavy ties, and masks that have lost some of them."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4))
    count = sum(a * b for a, b in shapes)
    values = draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
    kept = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    weights, masks, start = {}, {}, 0
    for i, (a, b) in enumerate(shapes):
        stop = start + a * b
        masks[f"{i}.weight"] = torch.tensor(kept[start:stop]).view(a, b)
        weights[f"{i}.weight"] = torch.tensor(values[start:stop], dtype=torch.float32).view(a, b)
        start = stop
    pruning.apply_masks(weights, masks)
    return weights, masks


@settings(max_examples=200, deadline=None)
@given(network=networks(), fraction=st.floats(0.01, 0.99))
def test_exactly_k_of_the_smallest_are_removed_ties_by_index(network, fraction):
    weights, masks = network
    before = flat(masks).copy()
    after = flat(prune(weights, masks, fraction))
    np.testing.assert_array_equal(flat(masks), before)  # the old masks are left alone
    magnitude = np.concatenate([w.numpy().ravel() for w in weights.values()])
    alive = [i for i in range(len(before)) if before[i]]
    doomed = sorted(alive, key=lambda i: (abs(magnitude[i]), i))[: prune_count(len(alive), fraction)]
    expected = before.copy()
    expected[doomed] = False
    np.testing.assert_array_equal(after, expected)


def test_equal_weights_lose_exactly_a_fifth_from_the_front():
    weights = {"0.weight": torch.ones(10, 10), "1.weight": -torch.ones(5, 10)}
    after = flat(prune(weights, masks_like(weights)))
    assert after.tolist() == [False] * 30 + [True] * 120


def test_zeros_that_survived_are_not_mistaken_for_removed_weights():
    weights = {"0.weight": torch.zeros(1, 10)}
    masks = {"0.weight": torch.tensor([[False] * 4 + [True] * 6])}
    after = flat(prune(weights, masks, 0.5))
    assert after.tolist() == [False] * 7 + [True] * 3


def test_the_ranking_is_over_all_layers_together():
    weights = {"0.weight": torch.full((2, 5), 0.1), "1.weight": torch.full((2, 5), 0.2)}
    after = prune(weights, masks_like(weights), 0.5)
    assert not after["0.weight"].any()
    assert after["1.weight"].all()
    assert pruning.emptied_layers(after) == ("0",)


def test_a_negative_weight_is_as_large_as_its_magnitude():
    weights = {"0.weight": torch.tensor([[-3.0, 1.0, 2.0, -0.5]])}
    assert flat(prune(weights, masks_like(weights), 0.5)).tolist() == [True, False, True, False]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), fraction=st.sampled_from([0.1, 0.2, 0.5]))
def test_masks_only_shrink_and_sparsity_follows_the_formula(seed, fraction):
    generator = torch.Generator().manual_seed(seed)
    weights = {f"{i}.weight": torch.randn(20, 10, generator=generator) for i in range(3)}
    masks, left = masks_like(weights), 600
    for _ in range(8):
        after = prune(weights, masks, fraction)
        left -= prune_count(left, fraction)
        assert pruning.remaining(after) == left
        assert not any(bool((after[name] & ~masks[name]).any()) for name in masks)
        masks = after
        pruning.apply_masks(weights, masks)


def test_what_is_prunable_is_conv_and_linear_weights_in_the_models_order():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3))
    weights = pruning.prunable_weights(model)
    assert list(weights) == ["0.weight", "3.weight"]
    assert weights["3.weight"] is model[3].weight
    masks = pruning.dense_masks(model)
    assert pruning.prunable(masks) == pruning.remaining(masks) == 18 + 24
    assert pruning.emptied_layers(masks) == ()


def test_applied_masks_leave_exact_zeros_even_where_training_diverged():
    weights = {"0.weight": torch.tensor([[float("nan"), float("inf"), 1.0, 2.0]])}
    pruning.apply_masks(weights, {"0.weight": torch.tensor([[False, False, False, True]])})
    assert weights["0.weight"].tolist() == [[0.0, 0.0, 0.0, 2.0]]


# --- on real levels -------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_removed_weight_is_exactly_zero_in_every_forward_pass(tiny, optimizer):
    """Neither momentum nor a strong weight decay lets one back in, at any step of three real levels."""
    spec = tiny(epochs=3, momentum=0.95, weight_decay=0.05, optimizer=optimizer)
    spec = spec.replace(learning_rate=0.1 if optimizer == "sgd" else 1e-3)
    splits = data.load(spec, torch.device("cpu"))
    model = models.build(spec, splits.image_shape, splits.classes)
    weights, masks = pruning.prunable_weights(model), pruning.dense_masks(model)
    seen = []

    def check(module, inputs):
        seen.append(all(bool((weights[name][~mask] == 0).all()) for name, mask in masks.items()))

    model.register_forward_pre_hook(check)
    for level in range(3):
        if level > 0:
            masks = prune(weights, masks, 0.5)
            pruning.apply_masks(weights, masks)
        training.train(model, masks, splits.train, spec, level)
        assert all(bool((weights[name][~mask] == 0).all()) for name, mask in masks.items())
        assert all(bool((weights[name][mask] != 0).any()) for name, mask in masks.items())
    assert len(seen) == 3 * 3 * 9
    assert all(seen)


def test_masks_and_weights_of_a_real_trajectory(tiny, store):
    spec = tiny(weight_decay=0.01, target_sparsity=0.9)
    curve = trajectory.run(spec, store, keep="all")
    arrays = [store.weights(record) for record in curve]
    sizes = {"1": 64 * 32, "3": 32 * 16, "5": 16 * 10}
    masks = [
        {name: np.unpackbits(a[f"mask.{name}.weight"], count=n).astype(bool) for name, n in sizes.items()}
        for a in arrays
    ]
    left = 2720
    for level, (record, held) in enumerate(zip(curve, masks, strict=True)):
        assert (record.level, record.prunable, record.remaining) == (level, 2720, left)
        assert sum(int(mask.sum()) for mask in held.values()) == left
        assert record.sparsity == (2720 - left) / 2720
        for name, mask in held.items():
            assert (arrays[level][f"model.{name}.weight"].ravel()[~mask] == 0).all()
        left -= prune_count(left, 0.2)
    for before, after in itertools.pairwise(masks):
        assert not any((after[name] & ~before[name]).any() for name in sizes)


def test_an_emptied_layer_is_noted_and_the_trajectory_goes_on(tiny, store):
    """Hardly trained, the first layer keeps the smaller range that its initial weights are drawn from."""
    curve = trajectory.run(tiny(target_sparsity=0.998, learning_rate=1e-4), store)
    emptied = [record.level for record in curve if record.emptied_layers]
    assert emptied, "this setting empties the first layer: pick another if the initial weights have changed"
    assert emptied == list(range(emptied[0], len(curve)))  # it stays empty
    assert emptied[0] < len(curve) - 1
    assert set(curve[-1].emptied_layers) <= {"1", "3", "5"}
    assert curve[-1].sparsity >= 0.998


def test_a_trajectory_ends_when_nothing_is_left_to_prune(tiny, store):
    spec = tiny(model_options=(("hidden1", 1), ("hidden2", 1)), target_sparsity=0.99)
    curve = trajectory.run(spec, store)
    assert curve[-1].remaining == 2  # round(0.2 * 2) is 0
    assert curve[-1].sparsity < 0.99
    assert len(curve) == last_level(75, 0.2, 0.99) + 1
    trained = []
    trajectory.run(spec, store, on_level=lambda record, new: trained.append(new))
    assert not any(trained)
