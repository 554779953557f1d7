"""The search as the driver sees it, on invented curves: what it plans, when it ends, what it answers."""

import itertools
import random

import optuna
import pytest

from sdd_core import recipes
from sdd_core.curve import GiveUp
from sdd_core.reading import Reading
from sdd_core.store import Store
from sweeps.kinds.judge import Judge
from sweeps.kinds.lambda_opt.bisection import grid
from sweeps.kinds.lambda_opt.plan import SearchSettings
from sweeps.kinds.lambda_opt.report import headline, report
from sweeps.kinds.lambda_opt.study import PARAMETER, SectionSampler
from sweeps.kinds.study import StudyInDatabase, log_range
from tests.fakes import fake_levels

# target sparsity 0.67 is 5 prunings: curves of 6 levels
BASE = recipes.digits_lenet().replace(target_sparsity=0.67)
DIPS = [0.8, 0.6, 0.5, 0.7, 0.7, 0.3]
DEEPER = [0.8, 0.6, 0.3, 0.5, 0.7, 0.3]
CLEAN = [0.9, 0.89, 0.88, 0.87, 0.7, 0.5]
DEAD = [0.1] * 6
MAKE = {"d": DIPS, "D": DEEPER, "c": CLEAN, "x": DEAD}


def settings_for(truth, seeds=(0, 1, 2), width=2):
    points = tuple(grid(1e-4, 1e-4 * 10 ** ((len(truth) - 1) / 4), 4))
    assert len(points) == len(truth)
    return SearchSettings(base=BASE, points=points, seeds=seeds, rule=GiveUp(tolerance=0.035), width=width)


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
    def answer(self):
        return self.found.answer

    @property
    def verdicts(self):
        return self.found.verdicts

    @property
    def asked(self):
        return [self.settings.points.index(point.values[PARAMETER]) for point in self.settings.step(self.store).asked]

    def at(self, point):
        return self.settings.trials(self.settings.points[point])

    def judge(self):
        return Judge(self.store, self.settings.rule, self.at(0))

    def curves(self, point):
        return self.judge().curves(self.at(point))

    def median_depth(self, point):
        return self.judge().median_depth(self.at(point))

    def outlook(self):
        return self.settings.outlook(self.store)

    def report(self):
        return report(self.store, [self.settings], [self.settings.step(self.store)], "s", Reading())


def make_search(store, settings, storage=None):
    study = None
    if storage is not None:
        ranges = {PARAMETER: log_range(settings.points[0], settings.points[-1])}
        study = StudyInDatabase(storage, "test", ["minimize"], ranges)
    return Search(settings, store, study)


def form_of(search):
    (form,) = search.report().as_json()["settings"]
    return form


def lines_of(search):
    return headline(search.report().settings[0])


def drive(search, world, rng=None, stop_after=None):
    """Play the driver: run planned tasks one at a time, in any order, until the plan is empty."""
    ran = 0
    while tasks := search.plan():
        task = rng.choice(tasks) if rng else tasks[0]
        point = search.settings.points.index(task.spec.weight_decay)
        assert fake_levels(search.store, task.spec, world(point, task.spec.seed), give_up=task.give_up) > 0
        ran += 1
        if ran == stop_after:
            return ran
    return ran


def by_letter(truth):
    return lambda point, seed: MAKE[truth[point]]


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("truth", "reason", "optimum", "bracket"),
    [
        ("dddddddddcccx", "found", 9, [8, 9]),
        ("dcccccccccccc", "found", 1, [0, 1]),
        ("ddddddddddddc", "found", 12, [11, 12]),
        ("ccccccccccccc", "no_dip_at_base", 0, [None, 0]),
        ("ddddddddddddd", "none_dip_free", None, [12, None]),
        ("ddddddddxxxxx", "all_collapsed", None, [7, None]),
        ("dddddddcxxxxx", "found", 7, [6, 7]),
    ],
)
def test_every_shape_of_outcome(store, truth, reason, optimum, bracket):
    search = make_search(store, settings_for(truth))
    drive(search, by_letter(truth))
    form = form_of(search)
    points = search.settings.points
    assert form["reason"] == reason
    assert form["lambda_opt"] == (None if optimum is None else points[optimum])
    assert form["bracket"] == [None if p is None else points[p] for p in bracket]
    assert lines_of(search)


def test_base_and_lambda_opt_run_to_their_end_and_others_are_given_up(store):
    truth = "ddddccccccccc"

    def world(point, seed):  # one seed of lambda_opt dips: outvoted, but run to its end too
        return DIPS if point == 4 and seed == 2 else MAKE[truth[point]]

    search = make_search(store, settings_for(truth))
    drive(search, world)
    assert search.answer.optimum == 4
    lengths = {p: [len(levels) for _, levels in search.curves(p)] for p in search.asked}
    assert lengths.pop(0) == [6, 6, 6]
    assert lengths.pop(4) == [6, 6, 6]
    for point, found in lengths.items():
        assert found == ([4, 4, 4] if truth[point] == "d" else [6, 6, 6])
    trials = form_of(search)["trials"]
    assert {t["stopped_early"] for t in trials if t["levels"] == 4} == {True}
    assert {t["stopped_early"] for t in trials if t["levels"] == 6} == {False}


def test_the_least_bad_is_run_until_its_dip_is_a_true_one(store):
    """Given up, every lambda shows a bound of 20 points; the true dips differ."""
    deep = {p: [0.8, 0.6, 0.7, 0.2 + 0.01 * p, 0.75, 0.3] for p in range(13)}
    deep[6] = [0.8, 0.6, 0.7, 0.65, 0.6, 0.3]
    search = make_search(store, settings_for("d" * 13))
    drive(search, lambda point, seed: deep[point])
    assert search.answer.reason == "none_dip_free"
    depth = {p: search.median_depth(p) for p in search.asked}
    whole = {p for p in search.asked if all(len(levels) == 6 for _, levels in search.curves(p))}
    assert search.found.least_bad in whole
    assert depth[search.found.least_bad] == min(depth.values()) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("three", "verdict"),
    [("ddc", "dips"), ("dcc", "clean"), ("cxx", "collapsed"), ("dcx", "clean"), ("ddx", "dips"), ("dxx", "collapsed")],
)
def test_a_lambda_follows_the_majority_of_its_seeds(store, three, verdict):
    def world(point, seed):
        return MAKE[three[seed]] if point == 1 else DIPS

    search = make_search(store, settings_for("dd"))
    drive(search, world)
    assert search.verdicts[1] == verdict


def test_what_is_asked_does_not_depend_on_order_or_interruption(tmp_path):
    truth = "dddddddddcccx"

    def world(point, seed):
        return MAKE["c" if truth[point] == "d" and seed == point % 3 else truth[point]]

    answers = []
    for attempt in range(6):
        rng = random.Random(attempt)
        store = Store(str(tmp_path / f"store{attempt}"))
        for _ in itertools.count():  # killed again and again after a few trials, each time with a fresh process
            search = make_search(Store(store.url), settings_for(truth))
            stop_after = rng.randint(1, 6) if attempt else None
            if drive(search, world, rng, stop_after) != stop_after:
                break
        form = search.report().as_json()
        answers.append((sorted(search.asked), form))
    assert all(answer == answers[0] for answer in answers)


def test_a_narrower_range_shares_levels_with_a_wider_one(store):
    truth = "dddddddddcccx"
    wide = make_search(store, settings_for(truth))
    first = drive(wide, by_letter(truth))
    narrow = settings_for(truth)
    narrow = SearchSettings(base=BASE, points=narrow.points[:12], seeds=narrow.seeds, rule=narrow.rule)
    assert drive(make_search(store, narrow), by_letter(truth)) < first


def test_curves_decide_under_the_paper_protocol_on_test(store):
    settings = settings_for("ddccc")
    paper = SearchSettings(
        base=BASE.replace(protocol="paper"), points=settings.points, seeds=(0,), rule=settings.rule, width=2
    )
    search = make_search(store, paper)
    drive(search, by_letter("ddccc"))
    form = form_of(search)
    assert (form["decided_on"], form["lambda_opt"]) == ("test", settings.points[2])
    assert {t["best_val_accuracy"] for t in form["trials"]} == {None}
    assert any("PAPER PROTOCOL" in line for line in lines_of(search))


def test_a_base_that_never_learned_is_told(store):
    search = make_search(store, settings_for("xx"))
    drive(search, by_letter("xx"))
    assert any("never left chance" in line for line in lines_of(search))


# --- Optuna's side ------------------------------------------------------------------------


def load(storage):
    return optuna.load_study(study_name="test", storage=storage)


def test_the_study_names_each_lambda_once_with_its_verdict_as_constraint(store, tmp_path):
    storage, truth = f"sqlite:///{tmp_path}/optuna.db", "dddddddddcccx"
    search = make_search(store, settings_for(truth), storage)
    drive(search, by_letter(truth))
    study = load(storage)
    told = {trial.params["weight_decay"]: trial for trial in study.trials}
    assert len(told) == len(study.trials) == len(search.asked)
    for point in search.asked:
        trial = told[search.settings.points[point]]
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert trial.user_attrs["verdict"] == search.verdicts[point]
        assert trial.user_attrs["trial_ids"] == [spec.trial_id for spec, _ in search.curves(point)]
        assert all(value <= 0 for value in trial.constraints.values()) == (search.verdicts[point] == "clean")
    assert study.best_trial.params["weight_decay"] == search.settings.points[search.answer.optimum]

    before = [trial.number for trial in study.trials]
    again = make_search(Store(store.url), settings_for(truth), storage)
    assert again.plan() == []
    assert [trial.number for trial in load(storage).trials] == before


def test_a_killed_search_asks_the_same_trials_again(store, tmp_path):
    storage, truth = f"sqlite:///{tmp_path}/optuna.db", "dddddddddcccx"
    drive(make_search(store, settings_for(truth), storage), by_letter(truth), stop_after=2)
    running = [t for t in load(storage).trials if t.state == optuna.trial.TrialState.RUNNING]
    assert len(running) == 3
    search = make_search(Store(store.url), settings_for(truth), storage)
    drive(search, by_letter(truth))
    trials = load(storage).trials
    assert {t.state for t in trials} == {optuna.trial.TrialState.COMPLETE}
    assert len(trials) == len(search.asked)


def test_the_study_is_a_view_that_can_be_deleted(store, tmp_path):
    truth = "dddddddddcccx"
    first = make_search(store, settings_for(truth), f"sqlite:///{tmp_path}/one.db")
    drive(first, by_letter(truth))
    second = make_search(Store(store.url), settings_for(truth), f"sqlite:///{tmp_path}/two.db")
    assert second.plan() == []
    rows = [
        sorted((t.params["weight_decay"], t.user_attrs["verdict"]) for t in load(f"sqlite:///{tmp_path}/{n}.db").trials)
        for n in ("one", "two")
    ]
    assert rows[0] == rows[1]


def test_other_seeds_are_another_optuna_trial(store, tmp_path):
    storage, truth = f"sqlite:///{tmp_path}/optuna.db", "ddccc"
    drive(make_search(store, settings_for(truth, seeds=(0,)), storage), by_letter(truth))
    first = len(load(storage).trials)
    search = make_search(store, settings_for(truth, seeds=(0, 1, 2)), storage)
    drive(search, by_letter(truth))
    assert len(load(storage).trials) == first + len(search.asked)


def test_a_storage_that_cannot_be_used_costs_the_record_and_not_the_search(store):
    search = make_search(store, settings_for("ddccc"), "sqlite:////dev/null/optuna.db")
    drive(search, by_letter("ddccc"))
    assert search.answer.optimum == 2
    assert "could not be written" in search.study.warning


def test_the_sampler_finds_a_threshold_in_an_ordinary_study():
    """SectionSampler is a sampler like any other: a toy objective, driven by Optuna's own loop."""
    points = grid(1e-4, 0.1, 4)
    sampler = SectionSampler(points)

    def objective(trial):
        value = trial.suggest_float("weight_decay", points[0], points[-1], log=True)
        trial.set_user_attr("verdict", "clean" if value >= 0.01 else "dips")
        return value

    def stop_when_found(study, trial):
        if not hasattr(sampler.decision(study), "points"):
            study.stop()

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=50, callbacks=[stop_when_found])
    assert points[sampler.decision(study).optimum] == 0.01
    assert len(study.trials) <= 8
    with pytest.raises(RuntimeError, match="nothing to sample"):
        study.ask(fixed_distributions={"weight_decay": study.trials[0].distributions["weight_decay"]})
