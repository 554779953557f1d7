"""The command as its users run it: bad input, the whole search in miniature, kills, Ctrl-C, JSON, MLflow."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sdd_core.store import Store, determined
from sweeps import lambda_opt

ROOT = Path(__file__).resolve().parent.parent
# The default search in miniature: one seed, a coarse grid, few epochs, a small network, 12 levels.
MINI = [
    *("--epochs", "8", "--target-sparsity", "0.9", "--model-options", "hidden1=100", "hidden2=30"),
    *("--seeds", "1", "--points-per-decade", "1", "--tolerance", "0.05"),
]


def command(folder, *arguments):
    script = str(ROOT / "sweeps" / "lambda_opt.py")
    return [sys.executable, script, *MINI, "--json", str(folder / "answer.json"), *arguments]


def environment():
    return {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"COLUMNS": "100"}


def run(folder, *arguments, timeout=240):
    return subprocess.run(
        command(folder, *arguments),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def levels_in(folder):
    return len(list((folder / "store" / "levels").rglob("*.json")))


def all_curves(folder):
    store = Store(str(folder / "store"))
    return {spec.trial_id: [determined(record) for record in store.curve(spec)] for spec in store.trials()}


def sweep_metrics(folder):
    """The figures of the sweep's parent run in MLflow."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    return parent.data.metrics


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "faults"),
    [
        (["--weight-decay-range", "0.1", "0.001"], ["weight_decay_range 0.1 0.001: must be two numbers"]),
        (["--weight-decay-range", "0.1", "zebra"], ["weight_decay_range 'zebra': must be a number"]),
        (["--label-noise", "1.5"], ["label_noise 1.5: must be in [0, 1]"]),
        (["--label-noise", "nan"], ["label_noise nan: must be a finite number in [0, 1]"]),
        (["--dataset", "imagenet"], ["dataset 'imagenet': allowed are digits"]),
        (["--dataset", "digits", "--model", "resnet18"], ["does not run yet; what runs: digits with lenet"]),
        (["--store", "/dev/null/store"], ["store '/dev/null/store': cannot be written to"]),
        (["--store", "nowhere://x"], ["store 'nowhere://x'"]),
        (["--seeds", "2"], ["seeds 2: must be an odd number"]),
        (["--seeds", "1", "2", "2"], ["seeds 1 2 2: must be an odd number of different seeds"]),
        (["--seeds", "0"], ["seeds 0: must be an odd number"]),
        (["--epochs", "0"], ["epochs 0: must be a whole number from 1"]),
        (["--epoch", "3"], ["--epoch: unknown flag (did you mean --epochs?)"]),
        (["--tolerance", "nan"], ["tolerance nan: must be a finite number at least 0"]),
        (["--tolerance", "-1"], ["tolerance -1.0: must be at least 0"]),
        (["--shape", "hump"], ["shape 'hump': allowed are dip, rebound"]),
        (["--patience", "0", "--min-drop", "-1"], ["patience 0", "min_drop -1.0"]),
        (["--criterion", "gradients"], ["criterion 'gradients': allowed are", "did you mean gradient?"]),
        (["--json", "/nowhere/a.json"], ["json '/nowhere/a.json': there is no folder"]),
        (["--cluster", "/nowhere.yaml"], ["/nowhere.yaml"]),
        (["--sweep", "a/b"], ["sweep 'a/b'"]),
        (["--validation-fraction", "0.001"], ["validation_fraction 0.001: leaves no image of 1438 to validate on"]),
        (["--device-rate", "0"], ["device_rate 0.0: must be above 0"]),
        (["--device-rate", "3", "1"], ["device_rate 3 1: must be one number, or the slowest and the fastest"]),
        (["--device-rate", "1", "2", "3"], ["device_rate 1 2 3: must be one number"]),
        (["--device-watts", "5"], ["device_watts 5.0: only with --device-rate"]),
        (["--carbon-intensity", "-1"], ["carbon_intensity -1.0: must be at least 0"]),
        (["--budget-pflop", "0", "--budget-gco2", "x"], ["budget_pflop 0.0: must be above 0", "budget_gco2 'x'"]),
        (["--json", "-"], ["json '-': only a plan goes to standard output"]),
        (["--plan", "--dataset", "digits", "--label-noise", "2"], ["label_noise 2.0"]),
        (["--workers", "0"], ["workers 0: must be a whole number from 1"]),
        (["--alpha", "0.5"], ["alpha 0.5: needs a teacher"]),
        (["--teacher", "best"], ["teacher: teacher level 'best': allowed are dense, pruned and numbers from 0"]),
        (["--teacher", "-1"], ["teacher level '-1'"]),
        (["--teacher", "29"], ["teacher's level 29: its trajectory ends at level 28"]),
        (["--teacher", "dense", "--alpha", "1.5"], ["alpha 1.5: must be in [0, 1]"]),
        (["--teacher", "dense", "--temperature", "0"], ["temperature 0.0: must be above 0"]),
        (["--teacher", "dense", "--teacher-with", "label_noise=0"], ["teacher_with 'label_noise=0': allowed are"]),
        (["--teacher", "dense", "--teacher-with", "epoch=3"], ["teacher_with 'epoch=3': allowed are"]),
        (
            ["--teacher", "dense", "--teacher-model", "vit", "--teacher-with", "epochs=0", "weight_decay=x"],
            ["teacher: dataset 'digits' with model 'vit'", "epochs 0", "weight_decay 'x': must be a number"],
        ),
        (["--teacher-with", "seed=1"], ["--teacher-with: only with --teacher"]),
        (["--label-noise", "0.2", "2"], ["1 fault", "label_noise 2.0: must be in [0, 1]"]),
        (
            ["--noise-kind", "symmetric", "human", "--noisy-labels", "worse"],
            ["noise_kind=symmetric: noisy_labels 'worse': only with", "noise_kind=human: noisy_labels 'worse': digits"],
        ),
        (
            ["--label-noise", "2", "--weight-decay-range", "1", "0", "--dataset", "x", "--store", "/dev/null/s"],
            ["4 faults", "label_noise 2.0", "weight_decay_range 1 0", "dataset 'x'", "store '/dev/null/s'"],
        ),
    ],
)
def test_bad_input_is_one_message_with_every_fault(arguments, faults, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        lambda_opt.main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert all(fault in said for fault in faults), said
    assert "Traceback" not in said
    assert not (tmp_path / "store" / "levels").exists()
    assert not list(tmp_path.glob("*.db"))


def test_a_budget_of_co2_without_an_energy_figure_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        lambda_opt.main([*MINI, "--budget-gco2", "5", "--device-rate", "0.01"])
    assert stop.value.code == 2
    assert "budget_gco2: no energy figure can be had here" in capsys.readouterr().err
    assert not (tmp_path / "store" / "levels").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        lambda_opt.main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    for word in ("--label-noise", "--weight-decay-range", "--store", "examples:", "resume", "exit status"):
        assert word in said


# --- the whole search, in miniature -------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_answer(undisturbed):
    folder, said = undisturbed
    form = json.loads((folder / "answer.json").read_text())
    assert form["schema"] == 1
    (setting,) = form["settings"]
    assert setting["reason"] in ("found", "no_dip_at_base", "none_dip_free", "all_collapsed")
    assert (setting["shape"], setting["decided_on"], setting["tolerance"]) == ("dip", "validation", 0.05)
    known = {trial["weight_decay"] for trial in setting["trials"]}
    assert setting["lambda_opt"] is None or setting["lambda_opt"] in known
    assert setting["bracket"][1] == setting["lambda_opt"]
    assert setting["test_dip"]["base"] >= 0
    store = Store(str(folder / "store"))
    for trial in setting["trials"]:
        (spec,) = [spec for spec in store.trials(setting["sweep"]) if spec.trial_id == trial["trial_id"]]
        levels = store.curve(spec)
        best = max(levels, key=lambda r: (r.val_accuracy, r.level))
        assert trial["levels"] == len(levels)
        assert trial["stopped_early"] == (len(levels) < 12)
        assert trial["best_val_accuracy"] == best.val_accuracy
        assert trial["test_accuracy_at_best"] == best.test_accuracy
        assert trial["sparsity_at_best"] == best.sparsity
        assert trial["pflop"] == pytest.approx(sum(r.pflop for r in levels))
        assert (trial["dip"] > 0.05) == (trial["verdict"] == "dips")
    assert "λ_opt" in said
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in said
    (picture,) = (folder / "results").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture.relative_to(folder)) in said


def test_what_it_cost_is_compared_with_what_was_predicted(undisturbed):
    folder, said = undisturbed
    costs = sweep_metrics(folder)
    (setting,) = json.loads((folder / "answer.json").read_text())["settings"]
    trained = levels_in(folder)
    for name in ("levels", "pflop", "pflop_real_all"):
        assert costs[f"run_{name}_predicted_low"] <= costs[f"run_{name}"] <= costs[f"run_{name}_predicted_high"]
    assert costs["run_levels"] == trained
    assert costs["run_pflop"] == pytest.approx(sum(trial["pflop"] for trial in setting["trials"]))
    assert costs["run_device_seconds_predicted_low"] > 0
    left_out = sum(12 - trial["levels"] for trial in setting["trials"])
    assert [costs[f"saved_{why}_levels"] for why in ("shared", "given_up")] == [0, left_out]
    assert "\n  predicted  " in said
    assert f"\n  measured   {trained} levels, " in said


def test_a_plan_writes_and_runs_nothing(undisturbed, tmp_path, monkeypatch, capsys):
    """Neither where nothing is, nor beside a finished sweep."""
    import ray

    folder, _ = undisturbed
    for place in (tmp_path, folder):
        monkeypatch.chdir(place)
        before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
        assert (
            lambda_opt.main([*MINI, "--plan", "--device-rate", "0.01", "0.02", "--device-watts", "50", "--json", "-"])
            == 0
        )
        assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
        assert not ray.is_initialized()
        form = json.loads(capsys.readouterr().out)["plan"]
        trained = form["levels_in_store"]["high"]
        if place == tmp_path:
            # The base's 12 levels and two more lambdas given up at once; all four lambdas to their ends.
            assert (form["levels"], trained) == ({"low": 18, "high": 48}, 0)
            assert form["co2_g"]["high"] > form["co2_g"]["low"] > 0
        else:
            assert (form["levels"], trained) == ({"low": 0, "high": 0}, levels_in(folder))


def test_a_plan_on_the_terminal_and_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert lambda_opt.main([*MINI, "--plan", "--device-rate", "0.01", "--json", "plan.json"]) == 0
    said = capsys.readouterr().out
    assert "PLAN: nothing is run" in said
    assert "no power is known (--device-watts was not given)" in said
    assert json.loads(Path("plan.json").read_text())["plan"]["consumers"][0]["name"] == "λ=0.0001"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_budget_ends_a_run_and_the_same_command_goes_on(undisturbed, tmp_path):
    folder, _ = undisturbed
    done = run(tmp_path, "--budget-pflop", "1e-6")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "the budget of 1e-06 PFLOP is used up: " in done.stdout
    assert "\n  left undone: " in done.stdout
    assert not (tmp_path / "answer.json").exists()
    finished = levels_in(tmp_path)
    assert 4 <= finished <= 6  # 2.7e-07 each, two at once
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"\n  {levels_in(folder) - finished} levels trained now" in done.stdout
    assert f"not trained: {finished} levels" in done.stdout
    assert all_curves(tmp_path) == all_curves(folder)
    assert (tmp_path / "answer.json").read_text() == (folder / "answer.json").read_text()


def test_mlflow_holds_the_sweep_and_its_trials(undisturbed):
    from mlflow.tracking import MlflowClient

    folder, _ = undisturbed
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    (parent,) = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    store = Store(str(folder / "store"))
    specs = {spec.trial_id: spec for spec in store.trials()}
    assert len(children) == len(specs)
    for child in children:
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        levels = store.curve(specs[child.data.tags["sdd.trial_id"]])
        history = client.get_metric_history(child.info.run_id, "val_accuracy")
        assert [(m.step, m.value) for m in history] == [(r.level, r.val_accuracy) for r in levels]
    assert [a.path for a in client.list_artifacts(parent.info.run_id)]


def test_the_same_command_again_trains_nothing(undisturbed):
    folder, _ = undisturbed
    before, answer = levels_in(folder), (folder / "answer.json").read_text()
    done = run(folder)
    assert done.returncode == 0
    assert "\n  0 levels trained now" in done.stdout
    assert levels_in(folder) == before
    assert (folder / "answer.json").read_text() == answer
    assert sweep_metrics(folder)["saved_found_levels"] == before


def kill(driver, everything):
    """SIGKILL to the driver, or to it and every process it has started."""
    victims = [psutil.Process(driver.pid), *(psutil.Process(driver.pid).children(recursive=True) if everything else [])]
    for victim in victims:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
    driver.wait()


# Taken along as a plugin: the worker whose third level has its weights waits there, before its record.
WAIT = """
import pathlib, time
from sdd_core.store import Store
create = Store._create
def wait(self, name, form):
    if form.get("level") == 2:
        pathlib.Path({mark!r}).touch()
        time.sleep(600)
    return create(self, name, form)
Store._create = wait
"""


def killed(folder, when, *arguments, everything):
    """A driver that is killed at a point of its run."""
    with subprocess.Popen(
        command(folder, *arguments), cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as driver:
        while not when():
            assert driver.poll() is None, "the point was not reached"
            time.sleep(0.01)
        kill(driver, everything)


def test_killed_twice_and_run_again(undisturbed, tmp_path):
    """Everything, between a level's weights and its record; then the driver alone, whose workers are left behind."""
    mark, plugin = tmp_path / "between", tmp_path / "wait.py"
    plugin.write_text(WAIT.format(mark=str(mark)))
    killed(tmp_path, mark.exists, "--plugin", str(plugin), everything=True)
    before = levels_in(tmp_path)
    assert 2 <= before <= 4  # two trials at once, each short of its third level
    killed(tmp_path, lambda: levels_in(tmp_path) > before, everything=False)
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder, _ = undisturbed
    assert all_curves(tmp_path) == all_curves(folder)
    assert (tmp_path / "answer.json").read_text() == (folder / "answer.json").read_text()


def test_ctrl_c_says_what_is_kept_and_how_to_go_on(tmp_path):
    with subprocess.Popen(
        command(tmp_path), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        while driver.poll() is None and levels_in(tmp_path) < 3:
            time.sleep(0.01)
        driver.send_signal(signal.SIGINT)
        said, _ = driver.communicate(timeout=90)
    assert driver.returncode == 130, said
    assert "finished levels are kept in" in said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert not (tmp_path / "answer.json").exists()
