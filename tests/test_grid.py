"""A grid: the order in which its trials start, its report on invented curves, and the whole command in miniature."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sdd_core.reading import Reading
from sdd_core.spec import TeacherRef, TrialSpec
from sdd_core.store import Store
from sweeps.kinds.grid.plan import Grid, halving_depth
from sweeps.kinds.grid.report import report
from sweeps.sweep import Arm
from tests.fakes import fake_levels

ROOT = Path(__file__).resolve().parent.parent
BASE = TrialSpec(prune_fraction=0.3, target_sparsity=0.75, label_noise=0.5)  # five levels
DIPPING, FALLING = [0.8, 0.5, 0.4, 0.6, 0.7], [0.85, 0.9, 0.8, 0.7, 0.6]


def arm(seeds=(0, 1), **fields):
    return Arm(fields=fields, trials=tuple(BASE.replace(**fields, seed=seed, data_seed=0) for seed in seeds))


# --- the plan -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "depths"),
    [(1, [0]), (2, [0, 0]), (3, [0, 1, 0]), (5, [0, 2, 1, 2, 0]), (9, [0, 3, 2, 3, 1, 3, 2, 3, 0])],
)
def test_an_axis_is_reached_from_its_ends_inwards(size, depths):
    assert [halving_depth(index, size) for index in range(size)] == depths


def test_one_seed_of_everything_comes_first_and_coarse_before_fine():
    values = (0.0, 0.001, 0.002, 0.003, 0.004)
    grid = Grid(arms=tuple(arm(weight_decay=value) for value in values), axes={"weight_decay": values})
    order = [(trial.seed, trial.weight_decay) for trial in grid.trials()]
    turn = [0.0, 0.004, 0.002, 0.001, 0.003]
    assert order == [(seed, value) for seed in (0, 1) for value in turn]


def test_a_trial_that_two_arms_have_is_one_trial(store):
    grid = Grid(arms=(arm(alpha=0.0), arm(temperature=3.0)))  # without a teacher neither changes anything
    assert len(grid.trials()) == 2
    assert len(grid.step(store).tasks) == 2


def test_it_is_over_when_every_trial_is_at_its_end(store):
    grid = Grid(arms=(arm(weight_decay=0.0), arm(weight_decay=0.1)))
    first, *others = grid.trials()
    assert grid.outlook(store).fewest == dict.fromkeys(grid.trials(), 5)
    fake_levels(store, first, FALLING)
    assert [task.spec for task in grid.step(store).tasks] == others
    for spec in others:
        fake_levels(store, spec, FALLING)
    assert grid.step(store).tasks == ()
    assert grid.step(store).answer == grid.arms


# --- the report -----------------------------------------------------------------------------


@pytest.fixture
def made(store):
    """Two noises with and without a teacher; the last arm is short of a level on one seed."""
    arms = []
    for noise in (0.2, 0.5):
        vanilla = BASE.replace(label_noise=noise)
        teacher = TeacherRef(trial=vanilla.replace(weight_decay=0.01), level="dense")
        taught = vanilla.replace(teacher=teacher, alpha=0.5)
        fake_levels(store, teacher.trial, FALLING[:1])
        for word, spec in ((None, vanilla), ("dense", taught)):
            trials = tuple(spec.replace(seed=seed, data_seed=0) for seed in (0, 1))
            arms.append(Arm(fields={"label_noise": noise, "teacher": word}, trials=trials))
            for trial in trials:
                short = noise == 0.5 and word == "dense" and trial.seed == 1
                fake_levels(store, trial, (FALLING if word else DIPPING)[: 3 if short else 5])
    grid = Grid(arms=tuple(arms), axes={"label_noise": (0.2, 0.5), "teacher": (None, "dense")})
    return grid, report(store, grid, "a-sweep", "a title", Reading(), 0.035)


def test_an_arm_that_is_not_whole_is_named_and_the_others_are_reported(made):
    grid, found = made
    form = found.as_json()
    assert (form["schema"], form["sweep"]) == (1, "a-sweep")
    assert [one["fields"] for one in form["arms"]] == [dict(one.fields) for one in grid.arms[:3]]
    (missing,) = form["unfinished"]
    assert missing == {
        "fields": {"label_noise": 0.5, "teacher": "dense"},
        "trial_ids": [grid.arms[3].trials[1].trial_id],
    }
    for one, of in zip(form["arms"], grid.arms, strict=False):
        assert one["trial_ids"] == [trial.trial_id for trial in of.trials]
        assert one["dip"] == pytest.approx(0.0 if of.fields["teacher"] else 0.3)
        assert [trial["trial_id"] for trial in one["trials"]] == one["trial_ids"]
        assert set(one["early_stop"]) >= {"test_accuracy", "sparsity", "levels", "pflop"}
    assert json.loads(json.dumps(form)) == form


def test_the_figures_of_an_arm_are_those_of_its_trials(made):
    _, found = made
    vanilla, taught, _ = found.as_json()["arms"]
    assert vanilla["pflop"] == pytest.approx(5 * 0.001)
    # The teacher's one level is shared by two students of this noise.
    assert taught["pflop_full"] - taught["pflop"] == pytest.approx(0.001 / 2)
    assert taught["test_accuracy"] == pytest.approx(max(trial["test_accuracy_at_best"] for trial in taught["trials"]))


def test_the_screen_has_a_row_an_arm_and_cuts_no_figure(made):
    _, found = made
    out = io.StringIO()
    found.show(Console(file=out, width=60))
    said = out.getvalue()
    for text in (
        "3 arms of 4: 1 without a dip beyond 3.5 points",
        "best on validation: ε = 20 %, teacher = dense",
        "unfinished: ε = 50 %, teacher = dense (1 trial)",
    ):
        assert text in said, said
    assert "…" not in said
    assert sum(line.startswith(("0.2", "0.5")) for line in said.splitlines()) == 3


def test_every_trial_of_the_report_is_told_to_mlflow_once(made):
    grid, found = made
    ids = [result.spec.trial_id for result in found.results]
    assert len(ids) == len(set(ids))
    assert set(ids) == {t.trial_id for one in grid.arms[:3] for t in one.trials} | {
        one.trials[0].teacher.trial.trial_id for one in grid.arms[1:2]
    }
    metrics, tags = found.figures()
    assert metrics["arms"] == 3
    assert tags["best"] == "ε = 20 %, teacher = dense"


def test_its_picture(made, tmp_path):
    _, found = made
    found.draw(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


# --- the whole command, in miniature --------------------------------------------------------

COMMAND = (
    *("--vary", "label_noise=0.2,0.5", "--vary", "teacher=none,dense", "--seeds", "1", "--epochs", "1"),
    *("--target-sparsity", "0.5", "--model-options", "hidden1=32", "hidden2=16", "--json", "answer.json"),
)


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / "ablation.py"), *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    done = run(folder, *COMMAND)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_a_grid_runs_and_says_what_it_found(finished):
    folder, said = finished
    form = json.loads((folder / "answer.json").read_text())
    assert len(form["arms"]) == 4
    assert form["unfinished"] == []
    store = Store(str(folder / "store"))
    for one in form["arms"]:
        (trial_id,) = one["trial_ids"]
        (spec,) = [spec for spec in store.trials(form["sweep"]) if spec.trial_id == trial_id]
        assert spec.label_noise == one["fields"]["label_noise"]
        assert spec.distilled == (one["fields"]["teacher"] == "dense")
        assert len(store.curve(spec)) == one["levels"] == 5
    assert "4 arms of 4" in said
    assert "ε = 20 %, teacher = dense, seed 0 level 4/4" in said


def test_the_file_beside_the_picture_runs_the_same_sweep_again_and_trains_nothing(finished):
    folder, _ = finished
    (config,) = (folder / "results").glob("*.yaml")
    before = (folder / "answer.json").read_text()
    done = run(folder, "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n  0 levels trained now" in done.stdout
    assert (folder / "answer.json").read_text() == before


def test_further_seeds_are_added_to_what_is_there(finished):
    folder, _ = finished
    done = run(folder, *COMMAND, "--seeds", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n  20 levels trained now" in done.stdout  # four more students of 5 levels; their teachers are there


def test_mlflow_names_the_trials_by_what_was_varied(finished):
    from mlflow.tracking import MlflowClient

    folder, _ = finished
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    names = {run.info.run_name for run in runs}
    assert {"ε = 20 %, teacher = none, seed 0", "ε = 50 %, teacher = dense, seed 0"} <= names
    assert any(name.startswith("teacher λ=") for name in names)
