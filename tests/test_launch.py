"""How a call of an entry script ends, on outcomes that no driver had to make."""

import os
from dataclasses import dataclass

import pytest
from rich.console import Console

from analysis.report import read
from sdd_core import recipes
from sdd_core.energy import WORLD_INTENSITY
from sdd_core.reading import Reading
from sdd_core.spec import TeacherRef
from sweeps import lambda_opt
from sweeps.kinds.grid.plan import Grid
from sweeps.kinds.lambda_opt.flags import read_options
from sweeps.run import launch
from sweeps.run.outcome import Budget, Outcome
from sweeps.sweep import Arm, Sweep
from tests.fakes import fake_levels

BASE = recipes.digits_lenet().replace(target_sparsity=0.67)  # 6 levels
CURVE = [0.9, 0.91, 0.88, 0.87, 0.7, 0.5]
TEACHER = BASE.replace(weight_decay=0.5)
STUDENTS = tuple(BASE.replace(alpha=alpha, teacher=TeacherRef(trial=TEACHER, level="pruned")) for alpha in (0.5, 0.8))


@dataclass(frozen=True)
class Said:
    """A report that says which trials it speaks of."""

    results: tuple

    def as_json(self):
        return {"trials": len(self.results)}

    def show(self, console):
        console.print(f"a report of {len(self.results)} trials")

    def draw(self, path):
        path.write_bytes(b"")

    def figures(self):
        return {}, {}


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A sweep of one trial, or of those given, whose driver makes so many levels of the first and ends like this."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch.Tracker, "start", lambda self: None)

    def make(levels, specs=(BASE,), *, partial=False, **outcome):
        sweep = Sweep(
            script="test.py",
            heading="heading",
            plans=(Grid(arms=tuple(Arm(trials=(spec,)) for spec in specs)),),
            specs=specs,
            report=lambda store, steps: Said(read(store, [s for s in specs if store.curve(s)], Reading())),
            tolerance=0.035,
            partial=partial,
        )
        common = read_options(["--device-rate", "1"]).common
        made = launch.Running(common, sweep, Console(width=200))

        def drive():
            fake_levels(common.store, specs[0] if not specs[0].distilled else TEACHER, CURVE[:levels])
            return Outcome(**outcome)

        monkeypatch.setattr(made, "_drive", drive)
        return made

    return make


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        ({"interrupted": True}, 130, ["interrupted: 2 finished levels are kept"]),
        ({"failures": {"abc": "a fault"}}, 1, ["failed trials: 1: 2 finished", "trial abc: a fault"]),
        (
            {"exhausted": "the budget is used up"},
            3,
            ["the budget is used up: 2 finished", "left undone: 4 levels of 1 trials, 2.1e-05 PFLOP"],
        ),
        (
            {"exhausted": "the budget is used up", "failures": {"abc": "a fault"}},
            1,
            ["failed trials: 1", "left undone"],
        ),
        ({"exhausted": "the budget is used up", "interrupted": True}, 130, ["interrupted: 2", "left undone"]),
        (
            {"failures": {"abc": "x"}, "held_back": {"def": "abc"}},
            1,
            ["trial def: held back by its teacher, trial abc"],
        ),
    ],
)
def test_an_unfinished_run_says_what_is_kept_and_what_is_left(running, capsys, outcome, status, words):
    assert running(2, **outcome).run() == status
    said = capsys.readouterr().out
    assert all(word in said for word in (*words, "run the same command again")), said
    assert "a report of" not in said


def test_a_run_that_something_else_has_ended_has_no_answer_either(running, capsys):
    """Whatever stopped it, and whatever the driver believes: the store says that a level is missing."""
    assert running(5).run() == 1
    said = capsys.readouterr().out
    assert "stopped before its end: 5 finished levels are kept" in said
    assert "a report of" not in said


def test_the_levels_of_a_teacher_are_kept_too_and_shared_ones_are_counted_once(running, capsys):
    """Ctrl-C while students still wait for their teacher."""
    running(3, STUDENTS, interrupted=True).run()
    assert "interrupted: 3 finished levels are kept" in capsys.readouterr().out


def test_a_budget_that_is_used_up_with_the_last_level_ends_nothing(running, capsys):
    assert running(6, exhausted="the budget is used up").run() == 0
    assert "a report of 1 trials" in capsys.readouterr().out


@pytest.mark.parametrize(("partial", "shown"), [(True, True), (False, False)])
def test_arms_that_stand_alone_are_reported_although_others_failed(running, capsys, partial, shown):
    other = BASE.replace(weight_decay=0.01)
    made = running(6, (BASE, other), partial=partial, failures={other.trial_id: "a fault"})
    assert made.run() == 1
    said = capsys.readouterr().out
    assert ("a report of 1 trials" in said) == shown
    assert f"trial {other.trial_id} (λ=0.01 seed=0): a fault" in said


def test_without_a_finished_arm_there_is_no_report(running, capsys):
    assert running(0, partial=True, failures={BASE.trial_id: "a fault"}).run() == 1
    said = capsys.readouterr().out
    assert "a report of" not in said
    assert "failed trials: 1: 0 finished levels are kept" in said


def test_what_a_run_will_cost_is_predicted_before_it(running):
    made = running(6)
    made.run()
    assert (made.predicted.low.levels, made.predicted.high.levels) == (6, 6)
    again = running(6)
    again.run()  # there is nothing to run any more
    assert again.predicted is None


@pytest.mark.parametrize(("levels", "finished"), [(2, [False, False]), (6, [True, False])])
def test_what_an_interrupt_has_left_undone_is_not_finished_in_mlflow(running, monkeypatch, levels, finished):
    other = BASE.replace(weight_decay=0.01)
    made, told = running(levels, (BASE, other), interrupted=True), []
    monkeypatch.setattr(made.tracker, "finish", lambda finals, *rest, **how: told.append(finals))
    made.run()
    (finals,) = told
    assert [finals[spec.trial_id].finished for spec in (BASE, other)] == finished


def test_a_teacher_of_unfinished_students_is_not_finished_either(running, monkeypatch):
    made, told = running(3, STUDENTS, interrupted=True), []
    monkeypatch.setattr(made.tracker, "finish", lambda finals, *rest, **how: told.append(finals))
    made.run()
    assert {final.spec: final.finished for final in told[0].values()} == dict.fromkeys((TEACHER, *STUDENTS), False)


# --- what the driver is given ---------------------------------------------------------------


@pytest.fixture
def driven(tmp_path, monkeypatch):
    """What a call with these flags gives to the driver and to its workers' environment; no Ray is started."""
    from cluster import connect
    from sweeps.run import ray_driver

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDD_DATA", str(tmp_path / "environment"))
    for name, answer in {"start_local": None, "have_gpus": False, "check_request": [], "width": 4}.items():
        monkeypatch.setattr(connect, name, lambda *given, answer=answer: answer)
    monkeypatch.setattr(ray_driver, "run", lambda plans, store, **given: given | vars(given["resources"]))

    def drive(*arguments):
        made = launch.Running(*lambda_opt.sweep(read_options(["--device-rate", "1", *arguments])), Console())
        return made._drive() | {"data": os.path.relpath(os.environ["SDD_DATA"])}

    return drive


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], {"keep": "dense_best_last", "labels": "clean", "budget": Budget(intensity=WORLD_INTENSITY)}),
        ([], {"data": "environment", "width": 4, "threads": 1, "cpus": 1, "gpus": 0.0}),
        (["--keep-weights", "all"], {"keep": "all"}),
        (["--data-dir", "given"], {"data": "given"}),
        (["--deciding-labels", "noisy"], {"labels": "noisy"}),
        (["--budget-gco2", "5", "--carbon-intensity", "20"], {"budget": Budget(gco2=5.0, intensity=20.0)}),
        (["--budget-pflop", "5"], {"budget": Budget(pflop=5.0, intensity=WORLD_INTENSITY)}),
        (["--workers", "3", "--threads", "2", "--cpus-per-trial", "1.5"], {"width": 3, "threads": 2, "cpus": 1.5}),
    ],
)
def test_what_the_flags_say_reaches_the_driver(driven, arguments, given):
    found = driven(*arguments)
    assert {name: found[name] for name in given} == given
