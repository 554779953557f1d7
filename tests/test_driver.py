"""The driver on a real local Ray: retries, shared levels, failures that hold nothing back."""

import itertools
import os
import signal
import threading

import pytest

from sdd_core import cost, recipes, trajectory
from sdd_core.blobs import open_blobs
from sdd_core.curve import best_level
from sdd_core.spec import TeacherRef, level_keys
from sdd_core.store import Store, determined, is_complete
from sweeps.kinds.grid.plan import Grid
from sweeps.run.outcome import Budget
from sweeps.sweep import Arm

TINY = recipes.digits_lenet().replace(
    epochs=1, model_options=(("hidden1", 32), ("hidden2", 16)), target_sparsity=0.5
)  # curves of 5 levels


@pytest.fixture(scope="module", autouse=True)
def local_ray(tmp_path_factory):
    """Ray on this machine, started by a process that was given a data directory; which that is."""
    ray = pytest.importorskip("ray")
    from cluster import connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDD_DATA", str(tmp_path_factory.mktemp("given")))
        connect.start_local(2)
        yield os.environ["SDD_DATA"]
    ray.shutdown()


def fixed(specs):
    """A plan that wants some trials run to their end."""
    return Grid(arms=tuple(Arm(trials=(spec,)) for spec in specs))


class Diary:
    """A listener that writes down what it is told."""

    def __init__(self):
        self.lines = []

    def planned(self, waiting, left):
        self.lines.append(("planned", waiting))

    def started(self, task):
        self.lines.append(("started", task.spec.trial_id))

    def level_finished(self, task, metrics, trained):
        self.lines.append(("level", task.spec.trial_id, int(metrics["level"]), trained))

    def ended(self, task, by_budget):
        self.lines.append(("stopped" if by_budget else "ended", task.spec.trial_id))

    def failed(self, task, reason):
        self.lines.append(("failed", task.spec.trial_id))


def drive(store, specs, listener=None, width=2, budget=None, keep="dense_best_last"):
    from sweeps.run import ray_driver

    return ray_driver.run(
        [fixed(specs)],
        store,
        resources=ray_driver.Resources(cpus=1, gpus=0, width=width, threads=1),
        keep=keep,
        labels="clean",
        listeners=[listener or Diary()],
        budget=budget,
    )


def test_workers_read_the_levels_of_upstream(tmp_path):
    upstream, spec = Store(str(tmp_path / "up")), TINY.replace(weight_decay=0.02)
    trajectory.run(spec.replace(target_sparsity=0.3), upstream)
    before = open_blobs(upstream.url).names("")
    store = Store(str(tmp_path / "store"), also_read=[upstream.url])
    assert drive(store, [spec]).spent.levels == 2
    assert store.origins(record.key for record in store.curve(spec)) == {upstream.url: 3}
    assert open_blobs(upstream.url).names("") == before


def test_trials_run_to_their_end_and_a_second_run_has_nothing_to_do(tmp_path):
    store, diary = Store(str(tmp_path / "store")), Diary()
    specs = [TINY.replace(weight_decay=value) for value in (1e-4, 1e-2, 0.0)]
    outcome = drive(store, specs, diary)
    assert (outcome.failures, outcome.interrupted, outcome.spent.levels) == ({}, False, 15)
    assert [len(store.curve(spec)) for spec in specs] == [5, 5, 5]
    levels = [line for line in diary.lines if line[0] == "level"]
    assert sorted(levels) == sorted(("level", s.trial_id, k, True) for s in specs for k in range(5))
    assert fixed(specs).step(Store(store.url)).tasks == ()


@pytest.mark.parametrize(("keep", "kept"), [("all", {0, 1, 2, 3, 4}), ("dense_best_last", None)])
def test_workers_keep_the_weights_that_they_are_told_to(tmp_path, keep, kept):
    store = Store(str(tmp_path / "store"))
    drive(store, [TINY], keep=keep)
    curve = store.curve(TINY)
    kept = kept or {0, best_level([record.val_accuracy for record in curve]), 4}
    assert {record.level for record in curve if store.has_weights(record)} == kept


def test_workers_read_the_data_directory_that_the_driver_was_given(local_ray):
    import ray

    def place():
        from sdd_core.data.sources import data_dir

        return str(data_dir())

    assert ray.get(ray.remote(place).remote()) == local_ray


def test_a_worker_of_another_environment_than_the_sweep_asks_for_says_so(tmp_path):
    store = Store(str(tmp_path / "store"), environment="cpu, torch 9.9, 1 thread")
    outcome = drive(store, [TINY])
    assert "the sweep asks for (cpu, torch 9.9, 1 thread)" in outcome.failures[TINY.trial_id]
    assert store.curve(TINY) == []


def test_a_level_that_two_trials_share_is_trained_once(tmp_path):
    """Trials that prune at another pace share the dense level; one that prunes further shares them all."""
    store, diary = Store(str(tmp_path / "store")), Diary()
    specs = [TINY, TINY.replace(prune_fraction=0.4), TINY.replace(target_sparsity=0.7)]
    assert specs[0].trial_id == specs[2].trial_id
    outcome = drive(store, specs, diary, width=3)
    assert [len(store.curve(spec)) for spec in specs] == [5, 3, 7]
    keys = {key for spec, n in zip(specs, (5, 3, 7), strict=True) for key in itertools.islice(level_keys(spec), n)}
    assert outcome.spent.levels == len(keys) == 9
    assert len(list((tmp_path / "store" / "levels").rglob("*.json"))) == len(keys)


def test_a_used_up_budget_ends_each_trial_with_its_level_and_the_next_run_goes_on(tmp_path):
    store, calm, diary = Store(str(tmp_path / "store")), Store(str(tmp_path / "calm")), Diary()
    specs = [TINY.replace(weight_decay=value) for value in (1e-4, 1e-3, 1e-2)]
    level = cost.level_cost(TINY, 0, cost.Sizes(train=1151, val=287, test=359))
    first = drive(store, specs, diary, budget=Budget(pflop=2.5 * level.pflop, intensity=0.0))
    assert first.exhausted == f"the budget of {2.5 * level.pflop:g} PFLOP is used up"
    assert first.failures == {}
    assert 3 <= first.spent.levels <= 4  # two at once: the other one was in its level
    assert first.spent.pflop == pytest.approx(first.spent.levels * level.pflop)
    assert first.spent.costs.pflop_real_all == pytest.approx(
        first.spent.levels * (level.pflop_real + level.pflop_real_evaluation)
    )
    finished = sum(len(store.curve(spec)) for spec in specs)
    assert finished == first.spent.levels == sum(line[0] == "level" for line in diary.lines)
    assert {line[0] for line in diary.lines} == {"planned", "started", "level", "stopped"}
    second = drive(store, specs)
    assert second.exhausted is None
    assert first.spent.keys.isdisjoint(second.spent.keys)
    assert first.spent.levels + second.spent.levels == 15
    drive(calm, specs)
    for spec in specs:
        assert [determined(r) for r in store.curve(spec)] == [determined(r) for r in calm.curve(spec)]


def test_a_failing_trial_is_named_and_the_others_go_on(tmp_path):
    store, diary = Store(str(tmp_path / "store")), Diary()
    bad = TINY.replace(dataset="cifar100")  # known, but refused by the worker
    outcome = drive(store, [bad, TINY], diary)
    assert is_complete(store.curve(TINY), TINY)
    assert list(outcome.failures) == [bad.trial_id]
    assert "cifar100" in outcome.failures[bad.trial_id]
    assert ("failed", bad.trial_id) in diary.lines


def taught(level, teacher=None, **changes):
    teacher = teacher or TINY.replace(weight_decay=0.01)
    return TINY.replace(teacher=TeacherRef(trial=teacher, level=level), **({"alpha": 0.5} | changes))


def test_a_teacher_is_trained_once_however_many_students_wait(tmp_path):
    """Four students of two levels of one teacher, handed out before anything is there."""
    store, diary = Store(str(tmp_path / "store")), Diary()
    students = [taught(level, seed=seed, data_seed=0) for level in ("pruned", "dense") for seed in (0, 1)]
    teacher = students[0].teacher.trial
    outcome = drive(store, students, diary, width=4)
    assert (outcome.failures, outcome.held_back) == ({}, {})
    assert all(is_complete(store.curve(spec), spec) for spec in (*students, teacher))
    # Where the pruned teacher's best level is its dense one, its students are those of the dense one.
    keys = {record.key for spec in (*students, teacher) for record in store.curve(spec)}
    assert outcome.spent.levels == len(keys) == len(list((tmp_path / "store" / "levels").rglob("*.json")))
    first_of = {spec.trial_id: diary.lines.index(("started", spec.trial_id)) for spec in (*students, teacher)}
    assert min(first_of, key=first_of.get) == teacher.trial_id


def test_a_dense_teacher_is_one_level(tmp_path):
    store = Store(str(tmp_path / "store"))
    student = taught("dense")
    outcome = drive(store, [student])
    assert len(store.curve(student.teacher.trial)) == 1
    assert outcome.spent.levels == 1 + len(store.curve(student))


def test_a_failing_teacher_names_the_students_it_holds_back_and_the_others_go_on(tmp_path):
    store, diary = Store(str(tmp_path / "store")), Diary()
    bad = TINY.replace(dataset="cifar100")  # known, but refused by the worker
    held = [
        bad.replace(teacher=TeacherRef(trial=bad, level="dense"), alpha=alpha, weight_decay=0.01) for alpha in (0.5, 1)
    ]
    outcome = drive(store, [*held, TINY, taught("dense")], diary)
    assert list(outcome.failures) == [bad.trial_id]
    assert outcome.held_back == {spec.trial_id: bad.trial_id for spec in held}
    assert is_complete(store.curve(TINY), TINY)
    assert is_complete(store.curve(taught("dense")), taught("dense"))


def test_a_killed_worker_is_replaced_and_the_curve_is_the_undisturbed_one(tmp_path):
    """The first worker kills itself after level 1, as the memory killer would."""
    spec = TINY.replace(epochs=3, target_sparsity=0.8)
    store, calm = Store(str(tmp_path / "store")), Store(str(tmp_path / "calm"))
    killed = threading.Event()

    class Killer(Diary):
        def level_finished(self, task, metrics, trained):
            super().level_finished(task, metrics, trained)
            if metrics["level"] == 1 and not killed.is_set():
                killed.set()
                os.kill(Store(store.url).curve(task.spec)[-1].measured["process"], signal.SIGKILL)

    outcome = drive(store, [spec], Killer())
    assert killed.is_set()
    assert outcome.failures == {}
    drive(calm, [spec])
    assert [determined(r) for r in store.curve(spec)] == [determined(r) for r in calm.curve(spec)]


def test_an_interrupt_ends_the_sweep_and_keeps_what_is_finished(tmp_path):
    store = Store(str(tmp_path / "store"))
    specs = [TINY.replace(weight_decay=value, target_sparsity=0.998) for value in (1e-4, 1e-3, 1e-2)]

    class Impatient(Diary):
        def level_finished(self, task, metrics, trained):
            if metrics["level"] == 2:
                os.kill(os.getpid(), signal.SIGINT)

    outcome = drive(store, specs, Impatient())
    assert outcome.interrupted
    assert 3 <= len(list((tmp_path / "store" / "levels").rglob("*.json"))) < 87
    assert fixed(specs).step(store).tasks
