"""Teachers: which level a reference means, trained once and first, and what a distilled trial makes of it."""

import itertools

import pytest

from sdd_core import trajectory
from sdd_core.spec import SpecError, TeacherRef, level_keys
from sdd_core.store import Need, Store, determined, is_complete
from tests.fakes import fake_levels


@pytest.fixture
def taught(tiny):
    """A tiny trial that is distilled from a level of the trial of another lambda."""

    def make(level, teacher=None, **changes):
        reference = TeacherRef(trial=teacher or tiny(weight_decay=0.01), level=level)
        return tiny(teacher=reference, **({"alpha": 0.5} | changes))

    return make


# --- which level a reference means ----------------------------------------------------------

RISING, FALLING = [0.5, 0.6, 0.7, 0.8, 0.9], [0.9, 0.8, 0.7, 0.6, 0.5]
# (levels of the teacher that are there, the level asked for, the level that it means or None)
MEANT = [
    ([], "dense", None),
    ([], "pruned", None),
    ([0.5], "dense", 0),
    ([0.5], 0, 0),
    ([0.5], 1, None),
    (RISING[:4], "pruned", None),  # the best is only known at the end
    (RISING, "pruned", 4),
    (FALLING, "pruned", 0),
    ([0.5, 0.9, 0.7, 0.9, 0.5], "pruned", 3),  # of equals the sparser
    (RISING, 2, 2),
]


@pytest.mark.parametrize(("accuracies", "level", "meant"), MEANT)
def test_which_level_a_reference_means(store, taught, accuracies, level, meant):
    student = taught(level)
    teacher = student.teacher.trial
    fake_levels(store, teacher, accuracies)
    if meant is None:
        assert store.teacher(student) is None
        assert (store.curve(student), store.next_key(student)) == ([], None)
    else:
        key = next(itertools.islice(level_keys(teacher), meant, None))
        assert store.teacher(student).key == key
        assert store.next_key(student) == next(level_keys(student, key))


def test_the_best_level_is_the_one_of_the_clean_validation_labels(store, taught):
    """Not of test labels, and not of a level past the teacher's own target."""
    student = taught("pruned", taught("dense").teacher.trial.replace(target_sparsity=0.3))
    longer = student.teacher.trial.replace(target_sparsity=0.5)
    fake_levels(store, longer, [0.7, 0.8, 0.6, 0.6, 0.9])
    assert store.teacher(student).level == 1


def test_a_vanilla_trial_has_no_teacher(store, tiny, taught):
    for spec in (tiny(), taught("dense", alpha=0)):
        assert store.teacher(spec) is None
        assert store.teacher_needed(spec) is None
        assert store.next_key(spec) == next(level_keys(tiny()))


# --- what has to be run first ---------------------------------------------------------------


@pytest.mark.parametrize(("level", "last"), [("dense", 0), (2, 2), ("pruned", None)])
def test_only_the_levels_that_are_needed_are_run(store, taught, level, last):
    student = taught(level)
    assert store.teacher_needed(student) == Need(student.teacher.trial, last)
    fake_levels(store, student.teacher.trial, RISING)
    assert store.teacher_needed(student) is None


def test_lost_weights_of_a_teacher_are_needed_again(store, taught):
    student = taught("pruned")
    fake_levels(store, student.teacher.trial, [0.5, 0.6, 0.9, 0.5, 0.4])
    store.drop_weights(store.teacher(student))
    assert store.teacher_needed(student) == Need(student.teacher.trial, 2)


def test_of_a_chain_of_teachers_the_first_is_needed_first(store, taught):
    first = taught("dense")
    second = taught("dense", first, alpha=0.2)
    assert store.teacher_needed(second) == Need(first.teacher.trial, 0)
    fake_levels(store, first.teacher.trial, [0.5])
    assert store.teacher_needed(second) == Need(first, 0)


# --- real trajectories ----------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A store, and how many levels lie in it."""
    store = Store(str(tmp_path / "store"))
    return store, lambda: len(list((tmp_path / "store" / "levels").rglob("*.json")))


@pytest.mark.parametrize(("level", "of_teacher"), [("dense", 1), (2, 3), ("pruned", 5)])
def test_a_student_and_as_much_of_its_teacher_as_it_needs(disk, taught, level, of_teacher):
    store, levels = disk
    student = taught(level)
    curve = trajectory.run(student, store)
    teacher = store.teacher(student)
    assert is_complete(curve, student)
    assert {record.teacher for record in curve} == {teacher.key}
    assert len(store.curve(student.teacher.trial)) == of_teacher
    assert levels() == of_teacher + len(curve)
    assert store.has_weights(teacher)
    assert [r.key for r in curve] == list(itertools.islice(level_keys(student, teacher.key), len(curve)))


def test_a_teacher_changes_what_its_student_learns(store, tiny, taught):
    vanilla = trajectory.run(tiny(), store)
    losses = {
        (level, alpha, tau): [record.train_loss for record in trajectory.run(spec, store)]
        for level, alpha, tau in itertools.product(("dense", "pruned"), (0.2, 1), (2, 10))
        for spec in [taught(level, alpha=alpha, temperature=tau)]
    }
    losses["vanilla"] = [record.train_loss for record in vanilla]
    assert len({tuple(loss) for loss in losses.values()}) == len(losses)


def test_alpha_0_is_the_vanilla_trial_and_shares_its_levels(disk, tiny, taught):
    store, levels = disk
    curve = trajectory.run(tiny(), store)
    assert trajectory.run(taught("dense", alpha=0), store) == curve
    assert levels() == len(curve)
    assert store.curve(taught("dense").teacher.trial) == []


def test_all_students_share_one_teacher(disk, taught):
    store, levels = disk
    first = trajectory.run(taught("dense"), store)
    second = trajectory.run(taught("dense", seed=1, data_seed=0, temperature=4), store)
    assert {r.teacher for r in first} == {r.teacher for r in second}
    assert levels() == 1 + len(first) + len(second)


def test_dense_and_level_0_are_the_same_levels(disk, taught):
    store, levels = disk
    curve = trajectory.run(taught("dense"), store)
    assert taught(0).trial_id != taught("dense").trial_id
    assert trajectory.run(taught(0), store) == curve
    assert levels() == 1 + len(curve)


def test_a_student_is_a_pure_function_of_its_teachers_level(tiny, taught, tmp_path):
    """Interrupted or not, and with the teacher's weights lost in between, the same curve."""
    student = taught(2)
    calm = trajectory.run(student, Store(str(tmp_path / "calm")))
    store = Store(str(tmp_path / "store"))

    class Interruption(Exception):
        pass

    def stop(record, trained):
        if record.level == 1:
            raise Interruption

    with pytest.raises(Interruption):
        trajectory.run(student, store, on_level=stop)
    again = Store(store.url)
    trajectory.run(student.teacher.trial, again)  # goes on to its end, and drops the weights of its level 2
    best = max(again.curve(student.teacher.trial), key=lambda record: (record.deciding_accuracy(), record.level)).level
    assert again.has_weights(again.teacher(student)) == (best == 2)
    again.drop_weights(again.teacher(student))
    curve = trajectory.run(student, again)
    assert [determined(record) for record in curve] == [determined(record) for record in calm]
    assert again.has_weights(again.teacher(student))


def test_a_chain_of_teachers_is_run_from_its_beginning(disk, taught):
    store, levels = disk
    first = taught("dense")
    second = taught("dense", first, alpha=0.2)
    curve = trajectory.run(second, store)
    assert levels() == 1 + 1 + len(curve)
    assert store.record(curve[0].teacher).teacher == store.teacher(first).key


def test_rewound_weights_of_a_distilled_trial_are_its_own(store, tiny, taught):
    rewound = {"retraining": "rewind_weights", "rewind_epoch": 1, "epochs": 2}
    alone = trajectory.run(tiny(**rewound), store)
    curve = trajectory.run(taught("dense", **rewound), store)
    assert len(curve) == len(alone)
    assert all(a.train_loss != b.train_loss for a, b in zip(curve, alone, strict=True))


def test_a_convolutional_student_learns_from_a_lenet(store, tiny, taught):
    """A teacher may have another architecture, optimiser and augmentation than its student."""
    vgg = {"model": "vgg", "model_options": (("gamma", 1), ("delta", 1)), "target_sparsity": 0.2, "batch_size": 512}
    curve = trajectory.run(taught("dense", **vgg, augmentation="flip_crop"), store)
    assert len(curve) == 2


# --- what is refused ------------------------------------------------------------------------


def test_a_level_past_the_teachers_end_is_refused(taught):
    assert trajectory.faults(taught(4)) == []
    (fault,) = trajectory.faults(taught(5))
    assert fault == "teacher's level 5: its trajectory ends at level 4, target_sparsity 0.5"


def test_what_a_teacher_cannot_run_on_is_its_students_fault(store, tiny, taught):
    student = taught("dense", tiny(precision="tf32"))
    with pytest.raises(SpecError, match="teacher's precision 'tf32'"):
        trajectory.run(student, store, device="cpu")
