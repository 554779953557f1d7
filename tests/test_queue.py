"""Which trial a free worker takes next: the queue's rules, on plans that are lists and trials that train nothing."""

import dataclasses
import uuid
from collections import Counter
from contextlib import contextmanager
from itertools import islice, pairwise

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdd_core import recipes
from sdd_core.curve import GiveUp
from sdd_core.ledger import costs
from sdd_core.spec import TeacherRef
from sdd_core.store import Store, is_complete
from sweeps.run.outcome import Budget, Outcome
from sweeps.run.queue import METRICS, RUNS, Queue
from sweeps.sweep import Step, Task
from tests.fakes import fake_record

TINY = recipes.digits_lenet().replace(target_sparsity=0.45)  # 4 levels: 0, 0.2, 0.36, 0.488
A, B, C, D = (TINY.replace(weight_decay=value) for value in (0.1, 0.2, 0.3, 0.4))
A_FURTHER = A.replace(target_sparsity=0.55)  # the same trial, 5 levels
A_FASTER = A.replace(prune_fraction=0.4)  # shares the dense level alone; 3 levels
NAMES = {A: "A", B: "B", C: "C", D: "D", A_FURTHER: "A+", A_FASTER: "A*"}


def taught(level, teacher=A, **changes):
    return TINY.replace(weight_decay=0.9, teacher=TeacherRef(trial=teacher, level=level), **({"alpha": 0.5} | changes))


class Rounds:
    """A plan of rounds: it asks for what is unfinished of its first round that is not finished yet."""

    def __init__(self, *rounds, left=0):
        self.rounds = [[task if isinstance(task, Task) else Task(task) for task in tasks] for tasks in rounds]
        self.left, self.steps = left, []

    def step(self, store):
        unfinished = [[task for task in tasks if not is_finished(store, task)] for tasks in self.rounds]
        tasks = tuple(next(filter(None, unfinished), ()))
        self.steps.append(tasks)
        return Step(tasks=tasks, trials=(), left=self.left, answer=None if tasks else "done")


def is_finished(store, task):
    curve = store.curve(task.spec)
    if task.last_level is not None and len(curve) > task.last_level:
        return True
    return is_complete(curve, task.spec) or (task.give_up is not None and task.give_up.applies(curve))


class Work:
    """A task on a worker: each call of `advance` reads or trains one level and tells the queue."""

    def __init__(self, store, queue, task):
        self.store, self.queue, self.task, self.curve = store, queue, task, []
        self.keys = store.level_keys(task.spec)
        queue.started(task)

    def next_missing(self):
        """The key of the level that the worker trains next."""
        return self.store.next_key(self.task.spec)

    def advance(self, accuracy=0.9):
        """Whether the trial has now come to its end."""
        key, level = next(self.keys), len(self.curve)
        record = self.store.record(key)
        trained = record is None
        if record is None:
            record, _ = self.store.commit(fake_record(self.task.spec, level, accuracy, key=key), {})
        self.curve.append(record)
        report = {"key": key, "level": level, "levels": 4, "sparsity": record.sparsity, "accuracy": accuracy}
        report |= {"seconds": 0.1, "trained": trained, "costs": vars(costs([record])) | {"pflop": 1.0}}
        self.queue.level_finished(self.task, report)
        rule, last = self.task.give_up, self.task.last_level
        given_up = rule is not None and rule.applies(self.curve)
        return given_up or level == last or is_complete(self.curve, self.task.spec)

    def finish(self):
        while not self.advance():
            pass
        self.queue.ended(self.task)


@contextmanager
def in_memory():
    """A store that is forgotten afterwards."""
    name = uuid.uuid4().hex
    yield Store(f"memory://{name}/store")
    files = fsspec.filesystem("memory")
    if files.exists(f"/{name}"):
        files.rm(f"/{name}", recursive=True)


@pytest.fixture
def store():
    with in_memory() as store:
        yield store


class Bench:
    """A queue of plans, and workers that do what a test says."""

    def __init__(self, store, *plans, **how):
        self.store, self.outcome, self.work = store, Outcome(), {}
        self.queue = Queue(plans, store, outcome=self.outcome, **how)

    def take(self):
        """The name of the trial that starts now; None when none does."""
        task = self.queue.take()
        if task is None:
            return None
        name = self.name(task)
        self.work[name] = Work(self.store, self.queue, task)
        return name

    def take_all(self):
        """The names of all that a free worker could start now."""
        return list(iter(self.take, None))

    def name(self, task):
        name = NAMES.get(task.spec, f"{task.spec.teacher.level} {task.spec.seed}" if task.spec.teacher else "?")
        return name + ("" if task.last_level is None else f" to {task.last_level}")

    def finish(self, *names):
        for name in names:
            self.work.pop(name).finish()

    def fail(self, name):
        self.queue.failed(self.work.pop(name).task, "broken")

    def run(self):
        """Run everything one after another; returns the names in the order in which they have started."""
        names = []
        while (name := self.take()) is not None:
            names.append(name)
            self.finish(name)
        assert self.queue.over
        return names


# --- plans ----------------------------------------------------------------------------------


def test_tasks_start_in_the_order_of_their_step(store):
    bench = Bench(store, Rounds([C, A, B]))
    assert bench.take_all() == ["C", "A", "B"]


def test_plans_take_turns(store):
    bench = Bench(store, Rounds([A, B]), Rounds([C, D]))
    assert bench.take_all() == ["A", "C", "B", "D"]


def test_a_plan_is_asked_again_when_all_tasks_of_its_step_have_ended(store):
    plan = Rounds([A, B], [C])
    bench = Bench(store, plan)
    assert bench.take_all() == ["A", "B"]
    bench.finish("A")
    assert (bench.take_all(), len(plan.steps), bench.queue.over) == ([], 1, False)
    bench.finish("B")
    assert (bench.take_all(), len(plan.steps)) == (["C"], 2)
    bench.finish("C")
    assert (bench.take_all(), plan.steps[-1], bench.queue.over) == ([], (), True)


def test_a_plan_that_waits_for_its_last_trial_does_not_hold_up_another(store):
    bench = Bench(store, Rounds([A], [C]), Rounds([B], [D]))
    assert bench.take_all() == ["A", "B"]
    bench.finish("B")
    assert bench.take_all() == ["D"]
    bench.finish("A")
    assert bench.take_all() == ["C"]


def test_a_trial_that_two_plans_ask_for_runs_once_and_both_hear_of_its_end(store):
    bench = Bench(store, Rounds([A], [B]), Rounds([A], [C]))
    assert bench.take_all() == ["A"]
    bench.finish("A")
    assert bench.take_all() == ["B", "C"]


def test_plans_with_nothing_to_do_are_over_at_once(store):
    bench = Bench(store, Rounds(), Rounds([]))
    assert not bench.queue.over
    assert bench.take() is None
    assert bench.queue.over
    assert Bench(store).queue.over


def test_listeners_are_told_how_many_wait_and_when_it_changes(store):
    told = []

    class Listener:
        def planned(self, waiting, left):
            told.append((waiting, left))

        started = level_finished = ended = failed = lambda self, *args, **kwargs: None

    first = Rounds([A, B], left=3)
    bench = Bench(store, first, Rounds([C], left=2), listeners=[Listener()])
    bench.take()
    bench.take()
    bench.take()
    assert bench.take() is None
    assert told == [(2, 5), (1, 5), (0, 5)]
    first.left = 0
    bench.finish("A", "B", "C")
    assert bench.take() is None
    assert told[3:] == [(0, 0)]


def test_a_warning_is_told_with_its_level_when_that_was_trained_and_not_when_it_was_read(store):
    told = []

    class Listener:
        def warned(self, task, warning):
            told.append((NAMES[task.spec], warning))

        planned = started = level_finished = ended = failed = lambda self, *args, **kwargs: None

    bench = Bench(store, Rounds([A, B]), listeners=[Listener()])
    report = {"key": "k", "level": 1, "levels": 4, "sparsity": 0.2, "accuracy": 0.5, "seconds": 0.1}
    report |= {"costs": vars(costs([])), "warning": "it rises"}
    for trained in (True, False):
        task = bench.queue.take()
        bench.queue.level_finished(task, report | {"trained": trained})
    assert told == [("A", "it rises")]


# --- levels that trials share ---------------------------------------------------------------


@pytest.mark.parametrize("second", [A_FURTHER, A.replace(teacher=TeacherRef(trial=B, level=0), alpha=0.0)])
def test_trials_with_the_same_levels_run_one_after_another(store, second):
    """Another target sparsity, or a teacher that teaches nothing."""
    bench = Bench(store, Rounds([A, second, B]))
    assert bench.take_all() == ["A", "B"]
    assert not bench.work["A"].advance()
    assert bench.take_all() == []
    bench.finish("A")
    assert [task.spec for task in iter(bench.queue.take, None)] == [second]


def test_trials_that_share_their_dense_level_wait_until_it_is_finished(store):
    others = [A.replace(prune_fraction=value) for value in (0.3, 0.5)]
    bench = Bench(store, Rounds([A, A_FASTER, *others, B]))
    assert bench.take_all() == ["A", "B"]
    bench.work["A"].advance()
    assert [task.spec for task in iter(bench.queue.take, None)] == [A_FASTER, *others]


def test_a_dense_level_that_is_there_makes_nobody_wait(store):
    Bench(store, Rounds([Task(A, None, 0)])).run()
    assert Bench(store, Rounds([A, A_FASTER])).take_all() == ["A", "A*"]


def test_when_the_first_fails_one_other_trains_the_dense_level_and_the_rest_go_on_waiting(store):
    others = [A.replace(prune_fraction=value) for value in (0.3, 0.5)]
    bench = Bench(store, Rounds([A, A_FASTER, *others]))
    assert bench.take_all() == ["A"]
    bench.fail("A")
    assert bench.take_all() == ["A*"]
    bench.work["A*"].advance()
    assert [task.spec for task in iter(bench.queue.take, None)] == others


# --- teachers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "first", "of_teacher"), [("dense", "A to 0", 1), (2, "A to 2", 3), ("pruned", "A", 4)]
)
def test_a_teacher_runs_once_before_all_and_as_far_as_it_is_needed(store, level, first, of_teacher):
    students = [taught(level, seed=seed, data_seed=0) for seed in (0, 1)]
    bench = Bench(store, Rounds([B, *students]))
    assert bench.take_all() == [first, "B"]
    bench.finish(first)
    assert len(store.curve(A)) == of_teacher
    assert bench.take_all() == [f"{level} 0", f"{level} 1"]


def test_students_start_as_soon_as_a_longer_run_of_their_teachers_trial_has_made_its_level(store):
    bench = Bench(store, Rounds([A]), Rounds([B], [taught("dense"), taught("pruned")]))
    assert bench.take_all() == ["A", "B"]
    bench.finish("B")
    assert bench.take_all() == []
    bench.work["A"].advance()
    assert bench.take_all() == ["dense 0"]
    bench.finish("A", "dense 0")
    assert bench.take_all() == ["pruned 0"]
    bench.finish("pruned 0")
    assert (bench.take(), bench.queue.over) == (None, True)


def test_a_trial_that_becomes_a_teacher_comes_before_the_other_tasks(store):
    bench = Bench(store, Rounds([B, C, A]), Rounds([D], [taught("pruned")]))
    assert (bench.take(), bench.take()) == ("B", "D")
    bench.finish("D")
    assert bench.take_all() == ["A", "C"]


def test_a_chain_of_teachers_runs_from_its_beginning(store):
    middle = taught("dense")
    student = taught("pruned", middle, alpha=0.2)
    bench = Bench(store, Rounds([taught(0, middle, alpha=0.3), student]))
    assert bench.run() == ["A to 0", "dense 0 to 0", "dense 0", "0 0", "pruned 0"]


def test_a_teacher_that_has_run_and_is_not_there_does_not_run_again(store):
    """A GPU does not make dropped weights again byte for byte; then the student makes them for itself."""
    student = taught("pruned")
    Bench(store, Rounds([A])).run()
    store.drop_weights(store.teacher(student))
    level = store.teacher(student).level
    bench = Bench(store, Rounds([student]))
    assert bench.take_all() == [f"A to {level}"]
    bench.queue.ended(bench.work.pop(f"A to {level}").task)
    assert bench.take_all() == ["pruned 0"]


def test_a_failed_teacher_holds_back_its_students_and_nobody_else(store):
    students = [taught("dense"), taught("pruned"), taught("dense", B)]
    plan = Rounds([*students, C])
    bench = Bench(store, plan)
    assert bench.take_all() == ["A to 0", "B to 0", "C"]
    bench.fail("A to 0")
    bench.finish("B to 0", "C")
    assert bench.run() == ["dense 0"]
    assert bench.outcome.failures == {A.trial_id: "broken"}
    assert bench.outcome.held_back == {spec.trial_id: A.trial_id for spec in students[:2]}


def test_a_failed_teacher_holds_back_students_that_are_asked_for_later(store):
    bench = Bench(store, Rounds([A]), Rounds([B], [taught("dense")]))
    assert bench.take_all() == ["A", "B"]
    bench.fail("A")
    bench.finish("B")
    assert bench.run() == []
    assert bench.outcome.held_back == {taught("dense").trial_id: A.trial_id}


@pytest.mark.parametrize("known", [True, False])
def test_a_teacher_that_diverges_holds_back_its_students_and_nobody_else(known, store):
    """Whether it diverged in an earlier run or does so now."""
    students = [taught("dense"), taught("pruned"), taught("dense", B)]
    record = fake_record(A, 0, 0.0, key=next(store.level_keys(A)))
    diverged = dataclasses.replace(record, diverged_after=1)
    if known:
        store.commit(diverged, {})
    bench = Bench(store, Rounds([*students, C]))
    assert bench.take_all() == (["B to 0", "C"] if known else ["A to 0", "B to 0", "C"])
    if not known:
        store.commit(diverged, {})
        bench.queue.ended(bench.work.pop("A to 0").task)
    bench.finish("B to 0", "C")
    assert bench.run() == ["dense 0"]
    assert list(bench.outcome.failures) == [A.trial_id]
    assert bench.outcome.diverged == {A.trial_id}
    assert "diverged at level 0" in bench.outcome.failures[A.trial_id]
    assert bench.outcome.held_back == {spec.trial_id: A.trial_id for spec in students[:2]}


def test_of_a_chain_of_teachers_the_one_that_diverged_is_named(store):
    middle = taught("dense")
    student = taught("dense", middle, alpha=0.2)
    record = fake_record(A, 0, 0.0, key=next(store.level_keys(A)))
    store.commit(dataclasses.replace(record, diverged_after=1), {})
    bench = Bench(store, Rounds([student]))
    assert bench.run() == []
    assert list(bench.outcome.failures) == [A.trial_id]
    assert bench.outcome.held_back == {student.trial_id: A.trial_id}


# --- failures, the end ----------------------------------------------------------------------


def test_a_failed_trial_is_not_started_again_by_whomever_it_is_asked_for(store):
    plans = Rounds([A, B], [C]), Rounds([Task(A, GiveUp(tolerance=0.02))]), Rounds([D], [A_FURTHER])
    bench = Bench(store, *plans)
    assert bench.take_all() == ["A", "D", "B"]
    bench.fail("A")
    bench.finish("B", "D")
    assert (bench.take(), bench.queue.over) == (None, True)
    assert [len(plan.steps) for plan in plans] == [2, 2, 2]
    assert list(bench.outcome.failures) == [A.trial_id]


def test_a_trial_that_ends_and_is_still_asked_for_is_a_failure_in_the_end(store):
    plan = Rounds([A, B])
    bench = Bench(store, plan)
    for turn in range(RUNS):
        assert bench.take_all() == (["A", "B"] if turn == 0 else ["A"])
        bench.queue.ended(bench.work["A"].task)
        if turn == 0:
            bench.finish("B")
    assert (bench.take(), bench.queue.over) == (None, True)
    assert bench.outcome.failures == {A.trial_id: f"it has ended {RUNS} times, and is asked for again"}


@pytest.mark.parametrize("how", ["interrupted", "exhausted"])
def test_after_an_interrupt_or_with_the_budget_used_up_nothing_starts(store, how):
    plan = Rounds([A, B], [C])
    bench = Bench(store, plan, budget=Budget(pflop=2.0, intensity=0.0))
    assert bench.take() == "A"
    if how == "interrupted":
        bench.outcome.interrupted = True
    else:
        bench.work["A"].advance()
        assert bench.outcome.exhausted is None
        bench.work["A"].advance()
        assert bench.outcome.exhausted == "the budget of 2 PFLOP is used up"
    assert bench.queue.over
    assert bench.take() is None
    bench.finish("A")
    assert (bench.take(), len(plan.steps), bench.outcome.failures) == (None, 1, {})


# --- all of it at once ----------------------------------------------------------------------

VANILLA = [A, B, A_FURTHER, A_FASTER, B.replace(prune_fraction=0.3)]
STUDENTS = [taught(level, teacher) for level in ("dense", 0, 1, "pruned") for teacher in (A, B, A_FASTER)]
CHAINED = [taught(level, teacher, alpha=0.2) for level in ("dense", "pruned") for teacher in STUDENTS[::4]]
TASKS = [*(Task(spec) for spec in (*VANILLA, *STUDENTS, *CHAINED)), Task(A, GiveUp(tolerance=0.1)), Task(B, None, 1)]


class Told:
    """Which tasks have ended or failed, as a listener hears of it."""

    def __init__(self):
        self.over = []

    def ended(self, task, by_budget):
        self.over.append(task)

    def failed(self, task, reason):
        self.over.append(task)

    planned = started = level_finished = lambda self, *args: None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_plans_end_with_no_level_computed_twice_and_no_trial_run_twice(data):
    with in_memory() as store:
        run_any_plans(data.draw, store)


def run_any_plans(draw, store):
    told = Told()
    rounds = st.lists(st.lists(st.sampled_from(TASKS), min_size=1, max_size=4), min_size=1, max_size=3)
    plans = [Rounds(*drawn) for drawn in draw(st.lists(rounds, min_size=1, max_size=3), label="plans")]
    failing = draw(st.dictionaries(st.sampled_from(TASKS), st.integers(0, 2), max_size=2), label="failing")
    failing = {task.spec.trial_id: level for task, level in failing.items()}
    width = draw(st.integers(1, 4), label="width")
    choose = draw(st.randoms(use_true_random=False), label="order")
    bench = Bench(store, *plans, listeners=[told])
    running, taken, failed, trained = [], [], [], Counter()
    while True:
        while len(running) < width and (task := bench.queue.take()) is not None:
            running.append(Work(store, bench.queue, task))
            taken.append(task)
        assert bench.queue.running == len(running)
        # No two workers on one level, nor on one trial.
        keys = [work.next_missing() for work in running]
        ids = [work.task.spec.trial_id for work in running]
        assert len({key for key in keys if key is not None}) == sum(key is not None for key in keys)
        assert len(set(ids)) == len(ids)
        # Every student that runs has its teacher.
        assert all(store.teacher_needed(work.task.spec) is None for work in running)
        if not running:
            break
        work = running[choose.randrange(len(running))]
        if failing.get(work.task.spec.trial_id) == len(work.curve):
            running.remove(work)
            failed.append(work.task.spec.trial_id)
            bench.queue.failed(work.task, "broken")
        else:
            key = work.next_missing()
            is_new = key is not None and len(work.curve) == len(store.curve(work.task.spec))
            ends = work.advance(choose.choice([0.9, 0.5]))
            trained[key] += is_new
            if ends:
                running.remove(work)
                bench.queue.ended(work.task)
    assert bench.queue.over
    assert max(Counter(taken).values(), default=1) == 1
    assert max(trained.values(), default=0) <= 1
    assert list(bench.outcome.failures) == failed
    dead = bench.outcome.failures.keys() | bench.outcome.held_back.keys()
    for plan in plans:
        asked = {task for step in plan.steps for task in step}
        assert all(task in taken or task.spec.trial_id in dead for task in asked)
        assert all(task.spec.trial_id in dead for task in plan.steps[-1])  # over, or what is left cannot run
        for before, after in pairwise(plan.steps):
            assert all(task.spec.trial_id in dead for task in set(before) & set(after))


def test_no_event_looks_at_more_of_the_store_the_more_trials_there_are(store, monkeypatch):
    """One trial is started, reports a level and ends, beside ten others and beside a hundred."""
    looks, record = [], Store.record
    monkeypatch.setattr(Store, "record", lambda self, key: looks.append(key) or record(self, key))
    seen = []
    for size in (10, 100):
        plan = Rounds([TINY.replace(weight_decay=float(size + value)) for value in range(size)])
        queue = Queue([plan], store, outcome=Outcome())
        first = queue.take()
        looks.clear()
        second = queue.take()
        queue.level_finished(first, {**dict.fromkeys(METRICS, 0.0), "trained": False})
        queue.ended(second)
        seen.append((len(looks), len(plan.steps)))
    assert seen[0] == seen[1] == (1, 1)


def test_the_keys_that_tell_which_trials_share_levels_are_the_stores(store):
    """Trials with the same level 1 have the same levels after it; others have none in common but level 0."""
    for one in VANILLA:
        for other in VANILLA:
            first, second = (list(islice(store.level_keys(spec), 4)) for spec in (one, other))
            assert (first[1] == second[1]) == (first == second) == bool(set(first[1:]) & set(second[1:]))
