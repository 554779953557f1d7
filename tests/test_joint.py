"""`lambda_opt.py` for a distilled student, as its users run it: λ alone, and λ, α and τ together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from sdd_core.store import Store, is_complete

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    *("--epochs", "2", "--target-sparsity", "0.5", "--model-options", "hidden1=32", "hidden2=16"),
    *("--seeds", "1", "--points-per-decade", "1", "--tolerance", "0.05"),
    *("--teacher", "dense", "--teacher-model-options", "hidden1=64", "hidden2=16", "--teacher-with", "epochs=3"),
]


def run(folder, *arguments, script="joint.py"):
    return subprocess.run(
        [sys.executable, str(ROOT / "sweeps" / script), *TINY, "--json", "answer.json", *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A joint search over four points, and one over λ alone with the same store."""
    folder = tmp_path_factory.mktemp("joint")
    joint = run(folder, "--points", "4")
    assert joint.returncode == 0, joint.stdout + joint.stderr
    form = json.loads((folder / "answer.json").read_text())
    return folder, joint.stdout, form


def test_the_joint_answer(searched):
    folder, said, form = searched
    assert (form["schema"], form["objectives"]) == (1, ["best_accuracy", "sparsity_at_best"])
    assert len(form["points"]) == 4
    assert len({(p["weight_decay"], p["alpha"], p["temperature"]) for p in form["points"]}) == 4
    store = Store(str(folder / "store"))
    specs = {spec.trial_id: spec for spec in store.trials()}
    for point in form["points"]:
        (trial,) = point["trial_ids"]
        assert (specs[trial].weight_decay, specs[trial].alpha) == (point["weight_decay"], point["alpha"])
        assert is_complete(store.curve(specs[trial]), specs[trial]) or point["verdict"] == "dips"
    (vanilla,) = form["vanilla"]["trial_ids"]
    assert is_complete(store.curve(specs[vanilla]), specs[vanilla])
    assert "points are the best trade-offs" in said or "no point is without a dip" in said
    assert list((folder / "results").glob("joint-*.png"))


def test_all_points_share_one_teacher_of_one_level(searched):
    folder, _, _ = searched
    store = Store(str(folder / "store"))
    distilled = [spec for spec in store.trials() if spec.distilled]
    assert len(distilled) == 4
    assert len({store.teacher(spec).key for spec in distilled}) == 1
    (teacher,) = {spec.teacher.trial for spec in distilled}
    assert dict(teacher.model_options)["hidden1"] == 64
    assert len(store.curve(teacher)) == 1


def test_optuna_keeps_the_points_and_mlflow_the_trials(searched):
    folder, _, form = searched
    (name,) = optuna.get_all_study_names(storage=f"sqlite:///{folder}/optuna.db")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")
    assert len(study.get_trials()) == 4
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("sdd").experiment_id])
    by_trial = {r.data.tags["sdd.trial_id"]: r for r in runs if "sdd.trial_id" in r.data.tags}
    for point in form["points"]:
        params = by_trial[point["trial_ids"][0]].data.params
        assert float(params["alpha"]) == point["alpha"]
        assert params["teacher.level"] == "dense"


def test_again_nothing_is_trained(searched):
    folder, _, form = searched
    again = run(folder, "--points", "4")
    assert again.returncode == 0
    assert "0 levels trained now" in again.stdout
    assert "starting Ray" not in again.stdout
    repeated = json.loads((folder / "answer.json").read_text())
    assert (repeated["points"], repeated["vanilla"]) == (form["points"], form["vanilla"])


def test_lambda_opt_of_a_distilled_student(searched):
    folder, _, _ = searched
    done = run(folder, "--alpha", "0.5", script="lambda_opt.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "distilled from dense lenet (α=0.5, τ=10)" in done.stdout
    (setting,) = json.loads((folder / "answer.json").read_text())["settings"]
    assert setting["setting"]["alpha"] == 0.5
    assert {trial["data_seed"] for trial in setting["trials"]} == {0}
