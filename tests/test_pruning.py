"""Pruning: exactly k weights, ties by index, and a removed weight never comes back."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sdd_core import models, training, trajectory
from sdd_core.data import splits as data
from sdd_core.registry import CRITERIA as REGISTERED
from sdd_core.spec import last_level, prune_count
from sdd_core.store import Store, determined
from sdd_core.training import pruning
from sdd_core.trajectory import make_level


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


# --- every criterion ------------------------------------------------------------------------

CRITERIA = ["global_magnitude", "layer_magnitude", "random", "gradient"]


def evidence(weights, seed=0):
    """A seed, and gradients with ties and zeros of their own."""
    return pruning.Evidence(seed=seed, gradients=lambda: {name: (w - 1).round() for name, w in weights.items()})


def plain_scores(criterion, weights, seed=0):
    """Every criterion's scores as a list, written out."""
    values = np.concatenate([w.numpy().ravel() for w in weights.values()])
    if criterion == "random":
        return torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).tolist()
    return list(np.abs(values * (values - 1)) if criterion == "gradient" else np.abs(values))


def test_every_criterion_of_a_spec_is_there():
    assert list(REGISTERED) == CRITERIA


@pytest.mark.parametrize("criterion", CRITERIA)
@settings(max_examples=60, deadline=None)
@given(network=networks(), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_every_criterion_removes_exactly_k_of_the_smallest_scores_ties_by_index(criterion, network, fraction, seed):
    weights, masks = network
    before = flat(masks).copy()
    after = flat(pruning.prune(weights, masks, fraction, criterion, evidence(weights, seed)))
    np.testing.assert_array_equal(flat(masks), before)
    scores = plain_scores(criterion, weights, seed)
    sizes = [mask.numel() for mask in masks.values()]
    groups = sizes if criterion == "layer_magnitude" else [sum(sizes)]
    ends = list(itertools.accumulate(groups))
    alive = [[i for i in range(end - size, end) if before[i]] for size, end in zip(groups, ends, strict=True)]
    counts = pruning.shares([len(part) for part in alive], fraction)
    expected = before.copy()
    for part, count in zip(alive, counts, strict=True):
        expected[sorted(part, key=lambda i: (scores[i], i))[:count]] = False
    np.testing.assert_array_equal(after, expected)
    assert before.sum() - after.sum() == prune_count(int(before.sum()), fraction)
    assert not (after & ~before).any()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_has_the_same_sparsities_and_masks_that_only_shrink(criterion):
    generator = torch.Generator().manual_seed(3)
    weights = {f"{i}.weight": torch.randn(n, 7, generator=generator) for i, n in enumerate((30, 1, 11))}
    masks, left = masks_like(weights), 42 * 7
    for level in range(1, 15):
        after = pruning.prune(weights, masks, 0.2, criterion, evidence(weights, level))
        left -= prune_count(left, 0.2)
        assert pruning.remaining(after) == left
        assert not any(bool((after[name] & ~masks[name]).any()) for name in masks)
        masks = after
        pruning.apply_masks(weights, masks)


@pytest.mark.parametrize(
    ("left", "fraction", "expected"),
    [
        ([100, 50, 10], 0.2, [20, 10, 2]),
        ([7, 12, 3], 0.2, [1, 2, 1]),  # 1.4, 2.4, 0.6: 4 in all
        ([12, 7, 7, 2], 0.2, [3, 2, 1, 0]),  # 2.4, 1.4, 1.4, 0.4: 6 in all, all rests equal: the earlier layers
        ([3, 3, 3], 0.5, [2, 1, 1]),  # round(4.5) is 4
        ([1, 1, 1, 1, 1], 0.2, [1, 0, 0, 0, 0]),
        ([0, 5, 0], 0.9, [0, 4, 0]),
        ([2], 0.2, [0]),
        ([], 0.2, []),
    ],
)
def test_what_each_layer_loses(left, fraction, expected):
    assert pruning.shares(left, fraction) == expected


@settings(max_examples=200, deadline=None)
@given(left=st.lists(st.integers(0, 10**7), min_size=1, max_size=20), fraction=st.floats(0.001, 0.999))
def test_the_shares_add_up_and_none_is_a_whole_weight_off(left, fraction):
    counts = pruning.shares(left, fraction)
    assert sum(counts) == prune_count(sum(left), fraction)
    for count, size in zip(counts, left, strict=True):
        assert 0 <= count <= size
        assert abs(count - fraction * size) < 1 + 1e-6


def test_the_layers_are_ranked_each_for_itself():
    weights = {"0.weight": torch.full((2, 5), 0.1), "1.weight": torch.full((2, 5), 0.2)}
    after = pruning.prune(weights, masks_like(weights), 0.5, "layer_magnitude")
    assert flat(after).tolist() == ([False] * 5 + [True] * 5) * 2


def test_random_pruning_is_uniform_over_what_remains():
    weights = {"0.weight": torch.randn(4, 5), "1.weight": torch.randn(20, 1)}
    masks = {"0.weight": torch.ones(4, 5, dtype=torch.bool), "1.weight": torch.ones(20, 1, dtype=torch.bool)}
    masks["0.weight"][0] = False
    survived = np.zeros(40)
    for seed in range(2000):
        survived += flat(pruning.prune(weights, masks, 0.4, "random", pruning.Evidence(seed=seed)))
    assert (survived[:5] == 0).all()
    # 21 of 35 remain: 1,200 of 2,000 times, standard deviation 22
    assert (np.abs(survived[5:] - 1200) < 5 * 22).all()
    once, again, other = (
        flat(pruning.prune(weights, masks, 0.4, "random", pruning.Evidence(seed=seed))) for seed in (7, 7, 8)
    )
    assert (once == again).all()
    assert (once != other).any()


def test_a_weight_without_a_gradient_goes_first_and_one_that_is_not_a_number_last():
    weights = {"0.weight": torch.tensor([[9.0, 1.0, -2.0, float("nan"), 3.0]])}
    gradients = {"0.weight": torch.tensor([[0.0, 3.0, -1.0, 1.0, -0.1]])}
    given = pruning.Evidence(gradients=lambda: gradients)
    order = [
        flat(pruning.prune(weights, masks_like(weights), k / 5, "gradient", given)).tolist().count(True)
        for k in range(1, 5)
    ]
    assert order == [4, 3, 2, 1]
    after = flat(pruning.prune(weights, masks_like(weights), 0.8, "gradient", given))
    assert after.tolist() == [False, False, False, True, False]
    assert flat(pruning.prune(weights, masks_like(weights), 0.4, "gradient", given)).tolist() == [
        *(False, True, True, True, False)
    ]


def test_the_gradients_are_those_of_the_mean_loss_over_the_noisy_training_split(tiny):
    """Against back-propagation written out in double precision, two layers, dropout and a norm layer between."""
    split = data.load(tiny(), torch.device("cpu")).train
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 10))
    )
    model[2].running_mean += 0.3
    model.train()
    state = torch.get_rng_state()
    found = training.gradients(model, split)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())

    w1, b1, w2, b2 = (p.detach().double().numpy() for p in (*model[1].parameters(), *model[5].parameters()))
    x = ((split.images.double().numpy() / 16 - 0.3049) / 0.3757).reshape(len(split), 64)
    scale = 1 / np.sqrt(1 + 1e-5)
    normed = (x @ w1.T + b1 - 0.3) * scale
    hidden = np.maximum(normed, 0)
    odds = np.exp(hidden @ w2.T + b2)
    error = odds / odds.sum(axis=1, keepdims=True)
    error[np.arange(len(split)), split.labels.numpy()] -= 1
    error /= len(split)
    assert (split.labels != split.clean_labels).any()
    expected = {"5.weight": error.T @ hidden, "1.weight": ((error @ w2) * (normed > 0) * scale).T @ x}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name].numpy(), gradient, rtol=0, atol=1e-6 * np.abs(gradient).max() * 10)

    weights = pruning.prunable_weights(model)
    after = flat(
        pruning.prune(weights, masks_like(weights), 0.3, "gradient", pruning.Evidence(gradients=lambda: found))
    )
    score = np.concatenate([np.abs(w * expected[n]).ravel() for n, w in (("1.weight", w1), ("5.weight", w2))])
    cut = np.sort(score)[prune_count(len(score), 0.3)]
    clear = np.abs(score - cut) > 1e-4 * cut  # in double precision a near tie may fall the other way
    np.testing.assert_array_equal(after[clear], (score > cut)[clear])


# --- on real levels -------------------------------------------------------------------------


def test_the_gradients_of_a_level_are_those_of_the_training_split(tiny):
    """The masks of a level are those that the split's own gradients give; the other splits would give others."""
    spec = tiny(criterion="gradient")
    splits = data.load(spec, torch.device("cpu"))
    dense = make_level(spec, 0, None, None, splits)
    found = make_level(spec, 1, dense, None, splits).state.masks
    weights = pruning.prunable_weights(dense.state.model)

    def masks_by(split):
        read = training.gradients(dense.state.model, split)
        evidence = pruning.Evidence(gradients=lambda: read)
        return pruning.prune(weights, dense.state.masks, spec.prune_fraction, "gradient", evidence)

    same = {
        name: all(torch.equal(mask, found[layer]) for layer, mask in masks_by(getattr(splits, name)).items())
        for name in ("train", "val", "test")
    }
    assert same == {"train": True, "val": False, "test": False}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_removed_weight_is_exactly_zero_although_the_training_diverged(tiny, optimizer):
    """What is infinite or no number survives a multiplication by 0."""
    spec = tiny(epochs=2, learning_rate=1e30, optimizer=optimizer)
    splits = data.load(spec, torch.device("cpu"))
    model = models.build(spec, splits.image_shape, splits.classes)
    weights = pruning.prunable_weights(model)
    masks = prune(weights, pruning.dense_masks(model), 0.5)
    pruning.apply_masks(weights, masks)
    training.train(model, masks, splits.train, spec, 1)
    assert not all(bool(weight.isfinite().all()) for weight in weights.values()), "pick a setting that diverges"
    assert all(bool((weights[name][~mask] == 0).all()) for name, mask in masks.items())


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


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_real_trajectory_of_every_criterion_twice_gives_the_same_bytes(tiny, tmp_path, criterion):
    spec = tiny(criterion=criterion, target_sparsity=0.35)
    first = trajectory.run(spec, Store(str(tmp_path / "a")))
    torch.manual_seed(5)  # whatever the process has drawn
    second = trajectory.run(spec, Store(str(tmp_path / "b")))
    assert [determined(record) for record in second] == [determined(record) for record in first]
    assert [record.remaining for record in first] == [2720, 2176, 1741]


def test_trials_that_differ_in_the_criterion_share_level_0_and_nothing_else(tiny, store):
    curves = []
    for i, criterion in enumerate(CRITERIA):
        trained = []
        spec = tiny(criterion=criterion, target_sparsity=0.35)
        curves.append(trajectory.run(spec, store, on_level=lambda record, new, trained=trained: trained.append(new)))
        assert trained == [i == 0, True, True]
    assert len({curve[0].key for curve in curves}) == 1
    for level in (1, 2):
        assert len({curve[level].key for curve in curves}) == len({curve[level].weights for curve in curves}) == 4


def test_random_pruning_draws_anew_at_each_level_and_for_each_seed(tiny, store, monkeypatch):
    prune, seeds = pruning.prune, []

    def look(weights, masks, fraction, criterion, given):
        seeds.append(given.seed)
        return prune(weights, masks, fraction, criterion, given)

    monkeypatch.setattr(pruning, "prune", look)
    for seed in (0, 1):
        trajectory.run(tiny(criterion="random", seed=seed, data_seed=0, target_sparsity=0.35), store)
    assert len(seeds) == len(set(seeds)) == 4
