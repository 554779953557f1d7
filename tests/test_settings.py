"""λ_opt of many settings in one command: one search a setting, one table, one picture, one JSON."""

import io
import json

import pytest
from rich.console import Console

from sdd_core.curve import GiveUp
from sdd_core.reading import Reading
from sweeps import lambda_opt
from sweeps.kinds.lambda_opt.bisection import grid
from sweeps.kinds.lambda_opt.flags import read_options
from sweeps.kinds.lambda_opt.plan import SearchSettings
from sweeps.kinds.lambda_opt.report import report
from tests.fakes import fake_levels
from tests.test_lambda_search import BASE, MAKE

TRUTHS = {0.1: "dcccc", 0.2: "dddcc", 0.5: "ddddd"}


@pytest.fixture
def found(store):
    points = tuple(grid(1e-4, 1e-3, 4))
    searches = [
        SearchSettings(
            base=BASE.replace(label_noise=noise), points=points, seeds=(0, 1, 2), rule=GiveUp(tolerance=0.035)
        )
        for noise in TRUTHS
    ]
    for search, truth in zip(searches, TRUTHS.values(), strict=True):
        while tasks := search.step(store).tasks:
            for task in tasks:
                letter = truth[points.index(task.spec.weight_decay)]
                fake_levels(store, task.spec, MAKE[letter], give_up=task.give_up)
    steps = [search.step(store) for search in searches]
    return points, report(store, searches, steps, "s", Reading())


def test_each_setting_has_its_entry(found):
    points, made = found
    form = made.as_json()
    assert [entry["setting"]["label_noise"] for entry in form["settings"]] == list(TRUTHS)
    assert [entry["lambda_opt"] for entry in form["settings"]] == [points[1], points[3], None]
    assert [entry["bracket"] for entry in form["settings"]] == [
        [points[0], points[1]],
        [points[2], points[3]],
        [points[4], None],
    ]


def test_the_table_has_a_row_a_setting_and_a_sentence_where_there_is_none(found):
    _, made = found
    out = io.StringIO()
    made.show(Console(file=out, width=60))
    said = out.getvalue()
    assert "λ_opt of 2 of 3 settings" in said
    assert "lenet on digits, ε=50 %: no λ_opt" in said
    assert "…" not in said
    assert made.figures()[0] == {"settings": 3, "settings_with_lambda_opt": 2}


def test_one_picture_of_all_settings(found, tmp_path):
    _, made = found
    made.draw(tmp_path / "settings.png")
    assert (tmp_path / "settings.png").read_bytes().startswith(b"\x89PNG")


def test_the_searches_share_the_workers_and_one_sweep(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = read_options(["--label-noise", "0.1", "0.5", "--seeds", "1"])
    common, sweep = lambda_opt.sweep(options)
    assert len(sweep.plans) == len(sweep.studies) == 2
    first, second = (plan.step(common.store).tasks for plan in sweep.plans)
    assert {task.spec.label_noise for task in first} == {0.1}
    assert {task.spec.label_noise for task in second} == {0.5}
    assert sweep.name(first[0].spec).startswith("lenet on digits, ε=10 %, λ=")
    plan = ["--plan", "--device-rate", "1", "--json", "-", "--seeds", "1", "--label-noise"]
    levels = []
    for noises in (["0.1"], ["0.5"], ["0.1", "0.5"]):
        assert lambda_opt.main([*plan, *noises]) == 0
        levels.append(json.loads(capsys.readouterr().out)["plan"]["levels"])
    assert {end: levels[0][end] + levels[1][end] for end in ("low", "high")} == levels[2]
