"""How a call of an entry script ends, on outcomes that no driver had to make."""

import pytest
from rich.console import Console

from sdd_core import recipes
from sdd_core.spec import TeacherRef
from sweeps import flags
from sweeps.kinds.lambda_opt.outlook import to_the_end
from sweeps.run import launch
from sweeps.run.outcome import Outcome
from sweeps.sweep import Task
from tests.fakes import fake_levels

BASE = recipes.digits_lenet().replace(target_sparsity=0.67)  # 6 levels
CURVE = [0.9, 0.91, 0.88, 0.87, 0.7, 0.5]


class One:
    """A source of one trial."""

    def __init__(self, store):
        self.store = store

    def curve(self):
        return self.store.curve(BASE)

    def plan(self):
        return [Task(BASE, None)] if len(self.curve()) < 6 else []

    def trials_left(self):
        return 0

    def outlook(self):
        return to_the_end([(BASE, self.curve())])


@pytest.fixture
def running(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = flags.Parser(prog="test", description="")
    flags.add_common_flags(parser)
    reader = parser.read(["--device-rate", "1"])
    common = flags.read_common(reader, "test")
    made = launch.Launch(
        script="test",
        common=common,
        source=One(common.store),
        specs=[BASE],
        console=Console(width=200),
        refuse=parser.refuse,
    )
    monkeypatch.setattr(made.tracker, "start", lambda: None)
    return made


def drive(running, monkeypatch, levels, **outcome):
    """A run whose driver made so many levels and ended like this."""

    def make():
        fake_levels(running.common.store, BASE, CURVE[:levels])
        return Outcome(**outcome)

    monkeypatch.setattr(running, "_drive", make)
    running.run("heading")


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
def test_an_unfinished_run_says_what_is_kept_and_what_is_left(running, monkeypatch, capsys, outcome, status, words):
    drive(running, monkeypatch, 2, **outcome)
    assert not running.finished
    assert running.account([(BASE, running.source.curve())], {}) == status
    said = capsys.readouterr().out
    assert all(word in said for word in (*words, "run the same command again")), said


def test_the_levels_of_a_teacher_are_kept_too_and_shared_ones_are_counted_once(running, capsys):
    """Ctrl-C while students still wait for their teacher."""
    store = running.common.store
    student = BASE.replace(alpha=0.5, teacher=TeacherRef(trial=BASE.replace(weight_decay=0.5), level="pruned"))
    fake_levels(store, student.teacher.trial, CURVE[:3])
    running.outcome = Outcome(interrupted=True)
    students = [student, student.replace(alpha=0.8)]
    running.account([(spec, store.curve(spec)) for spec in students], {})
    assert "interrupted: 3 finished levels are kept" in capsys.readouterr().out


def test_a_budget_that_is_used_up_with_the_last_level_ends_nothing(running, monkeypatch):
    drive(running, monkeypatch, 6, exhausted="the budget is used up")
    assert running.finished


def test_what_a_run_will_cost_is_predicted_before_it(running, monkeypatch):
    drive(running, monkeypatch, 6)
    assert (running.predicted.fewest.levels, running.predicted.most.levels) == (6, 6)
    running.predicted = None
    running.run("heading")  # there is nothing to run any more
    assert running.predicted is None
