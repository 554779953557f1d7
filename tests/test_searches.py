"""`lambda_opt.py` over several settings, and the flags of the joint search."""

import pytest

from sweeps.kinds.joint.flags import read_options as joint
from sweeps.kinds.lambda_opt.flags import read_options


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "fields", "found"),
    [
        ([], ["label_noise"], [(0.5,)]),
        (["--label-noise", "0.1", "0.2"], ["label_noise"], [(0.1,), (0.2,)]),
        (["--label-noise", "0.1", "0.10"], ["label_noise"], [(0.1,)]),
        (
            ["--label-noise", "0.1", "0.2", "--noise-kind", "symmetric", "pair_flip"],
            ["label_noise", "noise_kind"],
            [(0.1, "symmetric"), (0.1, "pair_flip"), (0.2, "symmetric"), (0.2, "pair_flip")],
        ),
        (["--teacher", "dense", "--alpha", "0.5", "1"], ["alpha", "temperature"], [(0.5, 10), (1, 10)]),
    ],
)
def test_there_is_one_search_for_every_combination(arguments, fields, found):
    searches = read_options(["--plan", *arguments]).searches
    assert sorted(tuple(getattr(search.base, name) for name in fields) for search in searches) == sorted(found)


def test_one_setting_has_the_name_that_it_had_and_several_have_another():
    one = read_options(["--plan", "--label-noise", "0.2"]).common.sweep
    assert one == read_options(["--plan", "--label-noise", "0.2", "--seeds", "1"]).common.sweep
    both = read_options(["--plan", "--label-noise", "0.1", "0.2"]).common.sweep
    assert both == read_options(["--plan", "--label-noise", "0.2", "0.1"]).common.sweep
    assert both != one


def test_the_joint_search_is_over_the_lambdas_of_the_search_for_lambda_opt():
    options = joint(["--plan", "--teacher", "dense", "--points", "5"])
    assert options.settings.budget == 5
    assert options.settings.axes.weight_decay == read_options(["--plan"]).search.points
    assert options.common.sweep.startswith("joint-")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--deciding-labels", "noisy"], {"labels": "noisy"}),
        (["--shape", "rebound", "--tolerance", "0.125"], {"shape": "rebound", "tolerance": 0.125, "labels": "clean"}),
    ],
)
def test_the_rule_that_gives_up_and_judges_is_the_flags(arguments, expected):
    """Of both searches; and what decides is what a curve is read by."""
    found, both = read_options(["--plan", *arguments]), joint(["--plan", "--teacher", "dense", *arguments])
    for rule, reading in ((found.search.rule, found.common.reading), (both.settings.rule, both.settings.reading)):
        assert {name: getattr(rule, name) for name in expected} == expected
        assert reading.labels == rule.labels


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "teacher: is needed"),
        (["--teacher", "dense", "--points", "0"], "points 0: must be a whole number from 1"),
        (["--teacher", "dense", "--alpha", "0.5"], "--alpha: unknown flag"),
    ],
)
def test_what_the_joint_search_refuses(arguments, fault, capsys):
    with pytest.raises(SystemExit):
        joint(["--plan", *arguments])
    assert fault in capsys.readouterr().err
