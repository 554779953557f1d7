"""Algorithm 1 on the real digits: interrupted, continued, shared and given up."""

import dataclasses
import itertools
import math

import pytest
import torch

from sdd_core import cost, machine, training, trajectory
from sdd_core.curve import GiveUp, best_level, shape_of
from sdd_core.data import splits
from sdd_core.spec import SpecError, last_level, level_keys
from sdd_core.store import Store, determined
from sdd_core.training import pruning
from sdd_core.trajectory import make_level
from sdd_core.trajectory.level import early_weights
from sdd_core.trajectory.state import from_arrays, new_model, to_arrays


class Interruption(Exception):
    """What ends a run in these tests."""


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    """The curve of the tiny trial up to 80 % sparsity, nothing having gone wrong."""
    return trajectory.run(tiny(target_sparsity=0.8), Store(str(tmp_path_factory.mktemp("undisturbed"))))


def facts(curve):
    return [determined(record) for record in curve]


def run(spec, store, **options):
    """A run's curve, and for each level whether it was trained."""
    trained = []
    curve = trajectory.run(spec, store, on_level=lambda record, new: trained.append(new), **options)
    return curve, trained


def interrupt_after(spec, store, level, **options):
    def stop(record, trained):
        if record.level == level:
            raise Interruption

    with pytest.raises(Interruption):
        trajectory.run(spec, store, on_level=stop, **options)


# --- one run --------------------------------------------------------------------------------


def test_the_curve_ends_at_the_first_level_at_its_target(tiny, undisturbed):
    spec = tiny(target_sparsity=0.8)
    assert [record.level for record in undisturbed] == list(range(last_level(2720, 0.2, 0.8) + 1))
    assert undisturbed[-1].sparsity >= 0.8 > undisturbed[-2].sparsity
    assert [r.key for r in undisturbed] == list(itertools.islice(level_keys(spec), len(undisturbed)))


def test_what_a_record_says(undisturbed):
    for record in undisturbed:
        assert (record.train_size, record.val_size, record.test_size) == (1151, 287, 359)
        assert record.prunable == 2720
        assert record.sparsity == (2720 - record.remaining) / 2720
        assert record.label_noise == round(0.5 * 1151) / 1151
        assert record.chance == pytest.approx(0.1, abs=0.02)
        assert record.pflop == cost.training_pflop(2720, 1151, 1)
        assert record.teacher is None
        for name in ("train", "val", "val_noisy", "test"):
            assert 0 <= getattr(record, f"{name}_accuracy") <= 1
            assert 0 < getattr(record, f"{name}_loss") < math.inf
        assert record.measured["seconds"] > 0
        assert record.measured["threads"] == 1
        assert record.measured["device"].startswith("cpu")
        assert record.measured["energy"]["source"] in ("measured", "estimated", "none")
    assert undisturbed[0].parent is None
    for before, after in itertools.pairwise(undisturbed):
        assert after.parent == {"key": before.key, "weights": before.weights}
    assert len({record.weights for record in undisturbed}) == len(undisturbed)


def test_a_real_training_learns(tiny, store):
    (dense,) = trajectory.run(tiny(label_noise=0, epochs=15, target_sparsity=0), store)
    assert dense.test_accuracy > 0.9
    assert dense.val_accuracy > 0.9
    assert dense.train_accuracy > 0.95
    assert dense.val_noisy_accuracy == dense.val_accuracy
    assert dense.sparsity == 0


def test_noisy_labels_lower_the_accuracy_on_them_and_not_on_the_clean_ones(tiny, store):
    (dense,) = trajectory.run(tiny(label_noise=0.5, epochs=15, target_sparsity=0), store)
    assert dense.val_accuracy > dense.val_noisy_accuracy + 0.15
    assert dense.test_accuracy > dense.val_noisy_accuracy + 0.15


def test_the_papers_protocol_has_no_validation(tiny, store):
    (dense,) = trajectory.run(tiny(protocol="paper", target_sparsity=0), store)
    assert (dense.val_accuracy, dense.val_loss, dense.val_noisy_accuracy, dense.val_size) == (None, None, None, 0)
    assert dense.train_size == 1438
    assert dense.deciding_accuracy() == dense.test_accuracy


def test_every_random_choice_comes_from_the_spec(tiny, undisturbed, store):
    torch.manual_seed(1234)
    before, denormal, threads = torch.get_rng_state(), torch.tensor(1e-40), torch.get_num_threads()
    curve, _ = run(tiny(target_sparsity=0.8), store)
    assert facts(curve) == facts(undisturbed)
    assert torch.equal(torch.get_rng_state(), before)
    assert (float(denormal * 1) != 0, torch.get_num_threads()) == (True, threads)  # other code's arithmetic, too


@pytest.mark.parametrize("changes", [{"seed": 1, "data_seed": 0}, {"data_seed": 1}])
def test_the_seeds_matter(tiny, undisturbed, store, changes):
    (dense,) = trajectory.run(tiny(target_sparsity=0, **changes), store)
    assert dense.weights != undisturbed[0].weights
    assert dense.train_loss != undisturbed[0].train_loss


def test_what_does_not_run_is_refused_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(SpecError, match="tf32"):
        trajectory.run(tiny(precision="tf32"), Store(str(tmp_path / "s")), device="cpu")
    assert not (tmp_path / "s").exists()


# --- again, interrupted, longer -------------------------------------------------------------


def test_a_second_run_trains_nothing(tiny, any_store):
    first, trained = run(tiny(), any_store)
    assert trained == [True] * 5
    second, trained = run(tiny(), Store(any_store.url))
    assert trained == [False] * 5
    assert second == first  # what was measured too: it was read


@pytest.mark.parametrize("keep", ["dense_best_last", "all"])
@pytest.mark.parametrize("level", range(4))
def test_interrupted_after_a_level_and_continued_is_the_undisturbed_run(tiny, store, undisturbed, level, keep):
    interrupt_after(tiny(), store, level, keep=keep)
    curve, trained = run(tiny(), Store(store.url), keep=keep)
    assert facts(curve) == facts(undisturbed[:5])
    assert trained == [k > level for k in range(5)]


def test_interrupted_after_every_level_on_an_object_store(tiny, any_store, undisturbed):
    spec = tiny(target_sparsity=0.8)
    for level in range(len(undisturbed)):
        interrupt_after(spec, Store(any_store.url), level)
    curve, trained = run(spec, Store(any_store.url))
    assert facts(curve) == facts(undisturbed)
    assert not any(trained)


@pytest.mark.parametrize("level", [0, 2])
def test_killed_between_a_levels_weights_and_its_record(tiny, store, undisturbed, level, monkeypatch):
    create = Store._create

    def die(self, name, form):
        if form.get("level") == level:
            raise Interruption
        return create(self, name, form)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_create", die)
        with pytest.raises(Interruption):
            trajectory.run(tiny(), store)
    curve, trained = run(tiny(), Store(store.url))
    assert facts(curve) == facts(undisturbed[:5])
    assert trained == [k >= level for k in range(5)]


def test_killed_in_the_middle_of_a_training(tiny, store, undisturbed, monkeypatch):
    train = training.train

    def die(model, masks, split, spec, level, *options, **named):
        train(model, masks, split, spec, level, *options, **named)
        if level == 3:
            raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", die)
        with pytest.raises(Interruption):
            trajectory.run(tiny(), store)
    curve, trained = run(tiny(), Store(store.url))
    assert facts(curve) == facts(undisturbed[:5])
    assert trained == [False] * 3 + [True] * 2


def test_a_longer_target_only_adds_levels(tiny, store, undisturbed):
    short, _ = run(tiny(), store)
    longer, trained = run(tiny(target_sparsity=0.8), Store(store.url))
    assert longer[:5] == short
    assert trained == [level >= 5 for level in range(len(undisturbed))]
    assert facts(longer) == facts(undisturbed)
    again, trained = run(tiny(), Store(store.url))
    assert again == short  # and the shorter one still ends where it did
    assert not any(trained)


def test_a_rival_that_came_first_is_gone_on_from(tiny, any_store, undisturbed):
    """Another writer commits every level while this one trains it: the winner's records count."""
    spec = tiny()
    rival = Store(any_store.url)
    commit = any_store.commit

    def late(record, arrays):
        rival.commit(dataclasses.replace(record, measured={"host": "rival", "seconds": 0.0}), arrays)
        return commit(record, arrays)

    any_store.commit = late
    curve, _ = run(spec, any_store)
    assert facts(curve) == facts(undisturbed[:5])
    assert all(record.measured["host"] == "rival" for record in curve)


def test_a_rival_with_other_weights_is_gone_on_from_too(tiny, store, tmp_path):
    """As on a GPU, where the same experiment has not the same bytes."""
    other, _ = run(tiny(seed=7, data_seed=0), Store(str(tmp_path / "other")), keep="all")
    arrays = Store(str(tmp_path / "other")).weights(other[0])
    commit = store.commit

    def late(record, own):
        if record.level == 0:
            Store(store.url).commit(dataclasses.replace(record, test_accuracy=0.123), arrays)
        return commit(record, own)

    store.commit = late
    curve, _ = run(tiny(), store)
    assert curve[0].test_accuracy == 0.123
    assert curve[0].weights == other[0].weights
    assert curve[1].parent == {"key": curve[0].key, "weights": other[0].weights}
    clean, _ = run(tiny(), Store(str(tmp_path / "clean")))
    assert curve[1].weights != clean[1].weights  # trained from the winner's weights


def test_pruned_weights_are_zero_before_the_first_step_of_their_level(tiny, store, undisturbed, monkeypatch):
    train, seen = training.train, []

    def look(model, masks, split, spec, level, *options, **named):
        weights = pruning.prunable_weights(model)
        seen.append(
            [int((weight != 0).sum() - (masks[name] & (weight != 0)).sum()) for name, weight in weights.items()]
        )
        train(model, masks, split, spec, level, *options, **named)

    monkeypatch.setattr(training, "train", look)
    curve, _ = run(tiny(), store)
    assert seen == [[0, 0, 0]] * 5
    assert facts(curve) == facts(undisturbed[:5])


# --- weights that stay ----------------------------------------------------------------------


def kept(store, curve):
    return {record.level for record in curve if store.has_weights(record)}


def test_weights_of_the_dense_the_best_and_the_last_level_stay(tiny, any_store):
    curve, _ = run(tiny(target_sparsity=0.8), any_store)
    best = best_level([record.deciding_accuracy() for record in curve])
    assert kept(any_store, curve) == {0, best, len(curve) - 1}
    others = {
        best_level([getattr(record, name) for record in curve]) for name in ("val_noisy_accuracy", "test_accuracy")
    }
    apart = {0, best, len(curve) - 1}.isdisjoint(others) and 0 < best < len(curve) - 1
    assert apart, "pick a setting whose best levels are in the middle, and other ones on the other splits"


def test_weights_stay_right_at_every_moment(tiny, store):
    seen = []

    def look(record, trained):
        seen.append(record)
        best = best_level([r.deciding_accuracy() for r in seen])
        assert kept(store, seen) == {0, best, record.level}

    trajectory.run(tiny(target_sparsity=0.8), store, on_level=look)


def test_all_weights_stay_when_asked(tiny, store):
    curve, _ = run(tiny(), store, keep="all")
    assert kept(store, curve) == set(range(5))


# --- giving up ------------------------------------------------------------------------------


def test_a_trial_is_given_up_at_the_first_level_that_decides_and_may_be_continued(tiny, store, undisturbed):
    tolerance = shape_of(undisturbed, "rebound") / 4
    rule = GiveUp(tolerance=tolerance, shape="rebound")
    known = [shape_of(undisturbed[: n + 1], "rebound") > tolerance for n in range(len(undisturbed))]
    end = known.index(True)
    assert 0 < end < len(undisturbed) - 1, "pick a setting whose curve rises in the middle"
    spec = tiny(target_sparsity=0.8)
    curve, trained = run(spec, store, give_up=rule)
    assert facts(curve) == facts(undisturbed[: end + 1])
    assert trained == [True] * (end + 1)
    curve, trained = run(spec, Store(store.url), give_up=rule)  # known from what is stored: nothing more is trained
    assert facts(curve) == facts(undisturbed[: end + 1])
    assert not any(trained)
    curve, trained = run(spec, Store(store.url))
    assert facts(curve) == facts(undisturbed)
    assert trained == [level > end for level in range(len(undisturbed))]


def test_a_rule_that_never_applies_changes_nothing(tiny, store, undisturbed):
    curve, _ = run(tiny(target_sparsity=0.8), store, give_up=GiveUp(tolerance=1.0))
    assert facts(curve) == facts(undisturbed)


# --- what trials share ----------------------------------------------------------------------


def test_trials_share_the_levels_that_they_have_in_common(tiny, store, tmp_path):
    first, _ = run(tiny(), store)
    other = tiny(prune_fraction=0.5, target_sparsity=0.9)
    second, trained = run(other, Store(store.url))
    assert trained == [False, True, True, True, True]
    assert second[0] == first[0]
    assert not {record.key for record in second[1:]} & {record.key for record in first}
    alone, _ = run(other, Store(str(tmp_path / "alone")))
    assert facts(second) == facts(alone)


def test_trials_that_differ_in_training_share_nothing(tiny, store):
    run(tiny(), store)
    _, trained = run(tiny(weight_decay=0.0), store)
    assert all(trained)


# --- one level as a function ----------------------------------------------------------------


def arrays_of(level):
    """A copy of a level's network as a store would hold it."""
    return {name: array.copy() for name, array in to_arrays(level.state).items()}


def same(one, other):
    return one.keys() == other.keys() and all((array == other[name]).all() for name, array in one.items())


def test_a_level_is_a_function_of_the_level_before(tiny, undisturbed):
    """The trajectory as a chain of calls without a store: called again, each makes the same, and changes nothing."""
    spec, before = tiny(), None
    data = splits.load(spec, torch.device("cpu"))
    with machine.cpu_arithmetic(threads=1):
        for level, expected in enumerate(undisturbed[:5]):
            given = {} if before is None else arrays_of(before)
            once, again = (make_level(spec, level, before, None, data) for _ in range(2))
            assert before is None or same(arrays_of(before), given)
            assert same(arrays_of(once), arrays_of(again))
            assert determined(once.record) == determined(again.record)
            assert once.record.weights is None  # their checksum is the store's to say
            before = once._replace(record=dataclasses.replace(once.record, weights=expected.weights))
            assert determined(before.record) == determined(expected)


def test_level_0_hands_on_the_weights_that_it_passes_at_the_rewind_epoch(tiny):
    spec = tiny(retraining="rewind_weights", rewind_epoch=1, epochs=2)
    data = splits.load(spec, torch.device("cpu"))
    passed, made = make_level(spec, 0, None, None, data).state.early, early_weights(spec, None, data)
    assert same(passed, made)
    assert make_level(tiny(), 0, None, None, data).state.early is None


def test_a_state_is_what_its_arrays_say(tiny):
    data = splits.load(tiny(), torch.device("cpu"))
    state = make_level(tiny(), 1, make_level(tiny(), 0, None, None, data), None, data).state
    read = from_arrays(to_arrays(state), new_model(tiny(), data), 1)
    assert read.masks.keys() == state.masks.keys()
    assert all(torch.equal(read.masks[name], mask) for name, mask in state.masks.items())
    assert all(torch.equal(read.model.state_dict()[name], value) for name, value in state.model.state_dict().items())
