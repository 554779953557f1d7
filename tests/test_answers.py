"""An answer: decided again from the store's records, and where its levels come from."""

import json
import shutil

import pytest

from sdd_core.record import LevelRecord
from sdd_core.store import Store
from sweeps.run.answers import differences
from tests.golden_world import fill
from tests.test_golden import BASE, FOUR, SMALL, here, run  # noqa: F401 (a fixture)

CPU, GPU = "cpu, torch 2.15, 1 thread", "cuda, torch 2.11"
SEARCH = (*SMALL, "--points-per-decade", "1", "--store", "store")


@pytest.mark.parametrize(
    ("held", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 0.1 + 0.2}, {"a": 0.3}, []),
        ({"a": 1.0}, {"a": 1.1}, ["answer.a: 1.0 in the file, 1.1 by the records"]),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": 2}]}, ["answer.a[1].b: None in the file, 2 by the records"]),
        ({"a": [1]}, {"a": [1, 2]}, ["answer.a: [1] in the file, [1, 2] by the records"]),
        ({"a": 1}, {}, ["answer.a: 1 in the file, 'nothing' by the records"]),
        ({"environments": {"cpu": 3}}, {"levels_from": {"x": 1}}, []),
    ],
)
def test_where_answers_differ(held, now, found):
    assert differences(held, now) == found


@pytest.fixture
def answered(here):  # noqa: F811
    """A finished search with its answer."""
    store = Store("store")
    for value, kinds in zip(FOUR, ("ddd", "DDD", "ccc", "xxx"), strict=True):
        for seed, kind in enumerate(kinds):
            fill(store, BASE.replace(weight_decay=value, seed=seed, data_seed=seed), kind)
    assert run("lambda_opt.py", *SEARCH, "--json", "answer.json").status == 0
    return here


def listing(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def test_an_answer_that_the_records_give_is_right_and_nothing_is_written(answered):
    before = listing(answered)
    said = run("lambda_opt.py", *SEARCH, "--check-answer", "answer.json")
    assert (said.status, said.out.splitlines()[-1]) == (0, "CHECK: the answer is what the records say")
    assert listing(answered) == before


def test_another_lambda_is_named_with_both_values(answered):
    form = json.loads((answered / "answer.json").read_text())
    form["settings"][0]["lambda_opt"] = 0.001
    (answered / "answer.json").write_text(json.dumps(form))
    said = run("lambda_opt.py", *SEARCH, "--check-answer", "answer.json")
    assert said.status == 1
    assert "answer.settings[0].lambda_opt: 0.001 in the file, 0.01 by the records" in said.out


def test_a_store_without_a_trial_cannot_give_the_answer(answered):
    shutil.rmtree(answered / "store" / "levels")
    said = run("lambda_opt.py", *SEARCH, "--check-answer", "answer.json")
    assert said.status == 1
    assert "the store cannot give this answer: " in said.out


@pytest.mark.parametrize("content", [None, "not json", "[1, 2]"])
def test_a_file_without_an_answer_is_refused(content, here):  # noqa: F811
    if content is not None:
        (here / "answer.json").write_text(content)
    said = run("lambda_opt.py", *SEARCH, "--check-answer", "answer.json")
    assert said.status == 2
    assert "check_answer 'answer.json': holds no answer" in said.err


def test_an_answer_that_mixes_classes_says_so_wherever_it_is_shown(here, monkeypatch):  # noqa: F811
    here_and_there = property(lambda record: CPU if record.level < 3 else GPU)
    monkeypatch.setattr(LevelRecord, "environment", here_and_there)
    titles = []
    monkeypatch.setattr(
        "sweeps.kinds.lambda_opt.report.plot_curves", lambda path, title, *_, **__: titles.append(title)
    )
    store = Store("store")
    for value, kind in zip(FOUR, "cccc", strict=True):
        fill(store, BASE.replace(weight_decay=value), kind, sweep="mixed")
    said = run("lambda_opt.py", *SEARCH, "--seeds", "1", "--json", "answer.json").out
    levels = json.loads((here / "answer.json").read_text())["environments"]
    assert levels[GPU] > levels[CPU] > 0
    assert f"MIXED ENVIRONMENTS: {levels[CPU]} levels of ({CPU})" in said
    assert [title.endswith(" (levels of 2 environments)") for title in titles] == [True]
    assert f"MIXED ENVIRONMENTS: 12 levels of ({CPU})" in run("tradeoff.py", "--store", "store").out
