"""The joint search over λ, α and τ, on invented curves: what Optuna is told, what is planned, what is found."""

import io
import itertools
import random

import optuna
import pytest
from rich.console import Console

from sdd_core import recipes
from sdd_core.curve import GiveUp
from sdd_core.reading import Reading
from sdd_core.spec import TeacherRef
from sdd_core.store import Store
from sweeps.kinds.joint.plan import JointSettings
from sweeps.kinds.joint.report import report
from sweeps.kinds.joint.study import OBJECTIVES, Axes, JointStudy, Point, Told
from sweeps.kinds.study import StudyInDatabase
from tests.fakes import fake_levels

TEACHER = recipes.digits_lenet().replace(target_sparsity=0.67, weight_decay=0.01)
BASE = recipes.digits_lenet().replace(
    target_sparsity=0.67, alpha=0.8, teacher=TeacherRef(trial=TEACHER, level="dense")
)  # curves of 6 levels
AXES = Axes(weight_decay=(1e-4, 1e-3, 1e-2), alpha=(0.25, 0.5, 0.75, 1.0), temperature=(1.0, 4.0, 10.0))
GRID = [Point(*values) for values in itertools.product(AXES.weight_decay, AXES.alpha, AXES.temperature)]
VANILLA = [0.8, 0.6, 0.5, 0.7, 0.7, 0.3]


def world(spec):
    """More alpha removes the dip; a low temperature is better when dense, a high one when sparse."""
    if not spec.distilled:
        return VANILLA
    depth = 0.2 * (1 - spec.alpha) ** 2
    dense = 0.9 - 0.01 * spec.temperature + spec.weight_decay
    late = 0.8 + 0.005 * spec.temperature
    return [dense, dense - depth - 0.01, dense - 0.02, late, late - 0.05, 0.3]


class Search:
    """A search that is played step by step, with the study that shows it."""

    def __init__(self, settings, store, study):
        self.settings, self.store, self.study = settings, store, study

    def plan(self):
        self.step = self.settings.step(self.store)
        if self.study is not None:
            self.study.show(self.step.asked)
        return list(self.step.tasks)

    @property
    def found(self):
        return self.settings.step(self.store).answer

    @property
    def verdicts(self):
        return self.found.verdicts

    @property
    def front(self):
        return list(self.found.front)

    def outlook(self):
        return self.settings.outlook(self.store)

    def report(self):
        return report(self.store, self.settings, self.found, "some-sweep")


def make_search(store, budget=12, seeds=(0,), width=2, storage=None, axes=AXES):
    settings = JointSettings(
        base=BASE, axes=axes, budget=budget, seeds=seeds, rule=GiveUp(tolerance=0.035), reading=Reading(), width=width
    )
    study = storage and StudyInDatabase(storage, "joint", ["maximize"] * len(OBJECTIVES), axes.ranges())
    return Search(settings, store, study)


def drive(search, rng=None, stop_after=None):
    """Play the driver: run planned tasks one at a time, in any order; returns which points were planned."""
    ran = []
    while tasks := search.plan():
        task = rng.choice(tasks) if rng else tasks[0]
        assert fake_levels(search.store, task.spec, world(task.spec), give_up=task.give_up) > 0
        ran.append(task.spec)
        if stop_after is not None and len(ran) == stop_after:
            break
    return ran


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "store"))
    fake_levels(store, TEACHER, [0.9])
    return store


def test_the_vanilla_student_runs_first_and_to_its_end(store):
    search = make_search(store, seeds=(0, 1, 2))
    tasks = search.plan()
    assert [(task.spec.distilled, task.give_up, task.spec.seed) for task in tasks] == [
        (False, None, s) for s in (0, 1, 2)
    ]
    assert {task.spec.data_seed for task in tasks} == {0}


def test_it_asks_for_as_many_points_as_it_may_and_each_once(store):
    search = make_search(store, budget=12)
    drive(search)
    assert len(search.verdicts) == 12
    assert set(search.verdicts) <= set(GRID)
    assert search.plan() == []
    assert len(search.step.trials) == 13


def test_a_grid_smaller_than_the_budget_is_searched_whole(store):
    search = make_search(store, budget=100)
    drive(search)
    assert set(search.verdicts) == set(GRID)
    assert search.step.left >= 0


def test_the_front_holds_the_clean_points_that_none_dominates(store):
    search = make_search(store, budget=100)
    drive(search)
    clean = [point for point, verdict in search.verdicts.items() if verdict == "clean"]
    assert clean
    assert len(clean) < len(GRID)

    def worth(point):
        best = Reading().summary(search.store.curve(search.settings.trials(point)[0])).best
        return best.accuracy, best.sparsity

    def dominated(point):
        return any(
            worth(other) != worth(point) and all(a >= b for a, b in zip(worth(other), worth(point), strict=True))
            for other in clean
        )

    assert set(search.front) == {point for point in clean if not dominated(point)}
    assert [worth(point)[0] for point in search.front] == sorted((worth(p)[0] for p in search.front), reverse=True)


def test_without_a_clean_point_there_is_no_front(store):
    search = make_search(store, budget=6, axes=Axes((1e-4,), (0.01, 0.02, 0.03), (1.0, 4.0)))
    drive(search)
    assert set(search.verdicts.values()) == {"dips"}
    assert search.front == []
    screen = Console(file=io.StringIO(), width=110)
    search.report().show(screen)
    assert "no point is without a dip" in screen.file.getvalue()


def test_what_it_asks_depends_on_verdicts_alone(tmp_path):
    """Not on the order in which trials finish, nor on whether it was killed in between."""
    asked = []
    for seed in range(3):
        store = Store(str(tmp_path / str(seed)))
        fake_levels(store, TEACHER, [0.9])
        rng = random.Random(seed)
        if seed == 2:
            drive(make_search(store, budget=6, seeds=(0, 1, 2)), rng, stop_after=7)
        search = make_search(store, budget=6, seeds=(0, 1, 2))
        drive(search, rng)
        asked.append((list(search.verdicts), search.front))
    assert asked[0] == asked[1] == asked[2]


def test_what_it_can_still_come_to_closes_in_on_what_it_came_to(store):
    """Fewest and most levels bracket the levels of the ending, at every moment of the search."""
    search = make_search(store, budget=6, seeds=(0, 1, 2))
    spans = [search.outlook()]
    for _ in range(100):
        drive(search, random.Random(1), stop_after=4)
        spans.append(search.outlook())
        if not search.plan():
            break
    levels = sum(len(store.curve(spec)) for spec in search.step.trials)
    assert sum(spans[-1].fewest.values()) == sum(spans[-1].most.values()) == levels
    assert all(sum(span.fewest.values()) <= levels <= sum(span.most.values()) for span in spans)
    assert len(spans[0].most) == 3 * (6 + 1)
    assert sum(spans[0].fewest.values()) < levels < sum(spans[0].most.values())


def test_the_kept_study_is_a_view_of_the_search(store, tmp_path):
    storage = f"sqlite:///{tmp_path}/optuna.db"
    search = make_search(store, storage=storage)
    drive(search)
    drive(make_search(store, storage=storage))  # adds nothing
    study = optuna.load_study(study_name="joint", storage=storage)
    held = {Point(*(trial.params[name] for name in Point._fields)): trial for trial in study.get_trials()}
    assert len(study.get_trials()) == len(held) == 12
    assert set(held) == set(search.verdicts)
    for point, trial in held.items():
        assert (search.verdicts[point] == "clean") == all(value <= 0 for value in trial.constraints.values())
        assert trial.user_attrs["trial_ids"] == [spec.trial_id for spec in search.settings.trials(point)]
    front = {Point(*(trial.params[name] for name in Point._fields)) for trial in study.best_trials}
    assert front == set(search.front)


def test_a_database_that_cannot_be_written_costs_no_answer(store):
    search = make_search(store, storage="sqlite:////nowhere/optuna.db")
    drive(search)
    assert search.front
    assert "could not be written to sqlite:////nowhere" in search.study.warning


def test_optuna_learns_where_the_clean_points_are():
    """With 12 proposals more, it proposes clean points more often than the grid has them."""
    axes = Axes(
        tuple(10.0**k for k in range(-5, 0)), tuple(k / 20 for k in range(1, 21)), tuple(map(float, range(1, 8)))
    )
    study, told = JointStudy(axes), {}
    for _ in range(30):
        wave = study.ask(2, told)
        for point in wave:
            told[point] = Told(point.alpha, point.temperature, (("dip", 0.8 - point.alpha),))
        study.tell({point: told[point] for point in wave})
    clean = [point.alpha >= 0.8 for point in told]
    assert len(told) == 60
    assert sum(clean[20:]) > 2 * len(clean[20:]) * 0.25


def test_the_answer_and_its_picture(store, tmp_path):
    search = make_search(store, budget=20, seeds=(0, 1, 2))
    drive(search)
    answer = search.report()
    form = answer.as_json()
    assert (form["schema"], form["sweep"], form["teacher"]["level"]) == (1, "some-sweep", "dense")
    assert len(form["points"]) == 20
    assert len(form["trials"]) == 63
    assert [point["front"] for point in form["points"]].count(True) == len(search.front)
    assert {trial["alpha"] for trial in form["trials"][:3]} == {0.0}
    by_id = {trial["trial_id"]: trial for trial in form["trials"]}
    for point in form["points"]:
        assert {by_id[trial_id]["verdict"] for trial_id in point["trial_ids"]} == {point["verdict"]}
    metrics, _ = answer.figures()
    best = search.front[0]
    assert (metrics["front_weight_decay"], metrics["front_alpha"]) == (best.weight_decay, best.alpha)
    screen = Console(file=io.StringIO(), width=110)
    answer.show(screen)
    assert f"{len(search.front)} of 20 points are the best trade-offs without a dip" in screen.file.getvalue()
    assert max(map(len, screen.file.getvalue().splitlines())) <= 120
    assert "…" not in screen.file.getvalue()
    answer.draw(tmp_path / "joint.png")
    assert (tmp_path / "joint.png").read_bytes().startswith(b"\x89PNG")
