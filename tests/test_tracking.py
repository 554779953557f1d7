"""MLflow is made equal to the store, whatever happens to either: real MLflow, real tiny trajectories."""

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from sdd_core import curve as curves
from sdd_core import recipes, trajectory
from sdd_core import record as records
from sdd_core.spec import setting_id, to_json
from sdd_core.store import Store
from sweeps.tracking import content, mirror, sqlite_file, tracker
from sweeps.tracking.mirror import TrialFinal
from sweeps.tracking.tracker import Tracker
from tests.fakes import fake_levels

ROOT = Path(__file__).resolve().parent.parent
SWEEP = "toy λ's sweep"  # with what must be quoted


def tiny(**changes):
    base = recipes.digits_lenet().replace(
        epochs=1, model_options=(("hidden1", 16), ("hidden2", 8)), target_sparsity=0.5, weight_decay=0.0178
    )
    return base.replace(**changes)


@pytest.fixture(scope="module", autouse=True)
def _quiet_mlflow():
    """MLflow reads how loud it is when it is imported, which another file's tests may have done before."""
    logger = logging.getLogger("mlflow")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with two finished trials, and their specs."""
    store = Store(str(tmp_path_factory.mktemp("trained") / "store"))
    specs = [tiny(), tiny(weight_decay=0.0, seed=1, data_seed=0)]
    for spec in specs:
        trajectory.run(spec, store, device="cpu")
    return store, specs


@pytest.fixture(scope="module")
def fresh_database(tmp_path_factory):
    """An MLflow database with tables and nothing in it: making one takes seconds."""
    path = tmp_path_factory.mktemp("fresh") / "mlflow.db"
    for name, value in mirror.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(tmp_path, fresh_database):
    folder = tmp_path / "a folder"
    folder.mkdir()
    return Path(shutil.copy(fresh_database, folder / "mlflow.db"))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(tracker, "PAUSE_S", 0.05)
    monkeypatch.setattr(tracker, "FINISHING_PAUSE_S", 0.2)
    monkeypatch.setattr(sqlite_file, "LOCK_WAIT_S", 0.2)


def finals_of(store, specs, finished=True):
    return {
        spec.trial_id: TrialFinal(
            spec=spec,
            metrics={"dip": curves.shape_of(store.curve(spec)), "best_val_accuracy": 0.5, "valley": math.inf},
            tags={"verdict": "clean"},
            finished=finished,
        )
        for spec in specs
    }


def start(uri, store):
    tracker = Tracker(uri, store, SWEEP, script="toy.py", tolerance=0.02)
    tracker.start()
    return tracker


def sync(uri, store, specs, *, timeout=60.0, finished=True, artifacts=()):
    """One driver's life: start, report every trial, finish."""
    tracker = start(uri, store)
    tracker.update(specs)
    return tracker.finish(
        finals_of(store, specs, finished), {"lambda_opt": 0.0178}, {"answer": "found"}, artifacts, timeout
    )


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


def counts(database):
    """Rows of each table that the tracker writes."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        tables = ("metrics", "params", "tags", "runs", "experiments")
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def levels_there(database):
    """Rows of the marker, over all runs; 0 when there is nothing yet."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*) FROM metrics WHERE key = 'level'").fetchone()[0]


def runs_of(uri):
    """The runs of the sweep as an MLflow user finds them: parent, {trial_id: run}, client."""
    from mlflow import MlflowClient

    file = sqlite_file.file_of(uri)
    if file is not None:
        sqlite_file.forget_deleted(uri, file)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("sdd")
    found = client.search_runs([experiment.experiment_id], f'tags."sdd.sweep" = "{SWEEP}"')
    (parent,) = [run for run in found if run.data.tags["sdd.kind"] == "sweep"]
    trials = [run for run in found if run.data.tags["sdd.kind"] == "trial"]
    assert len({run.data.tags["sdd.trial_id"] for run in trials}) == len(trials)
    return parent, {run.data.tags["sdd.trial_id"]: run for run in trials}, client


def assert_equal_to_store(uri, store, specs, status="FINISHED"):
    parent, trials, client = runs_of(uri)
    assert trials.keys() == {spec.trial_id for spec in specs}
    for spec in specs:
        run, curve = trials[spec.trial_id], store.curve(spec)
        assert (run.info.status, parent.info.status) == (status, status)
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        for name in ("sparsity", "train_loss", "val_accuracy", "val_noisy_accuracy", "test_accuracy", *records.PFLOPS):
            rows = [(row.step, row.value, row.timestamp) for row in client.get_metric_history(run.info.run_id, name)]
            assert sorted(rows) == [
                (record.level, getattr(record, name), round(1000 * record.measured["finished_at"])) for record in curve
            ]
        for shape in ("dip", "rebound"):
            history = client.get_metric_history(run.info.run_id, shape)
            assert {row.step: row.value for row in history} == {
                record.level: curves.shape_of(curve[: record.level + 1], shape) for record in curve
            }
    return parent, trials, client


# --- a level's figures ----------------------------------------------------------------------


def test_energies_and_totals_are_there_where_they_are_known(make_record):
    def level(number, kwh):
        used = {"kwh": kwh, "source": "none" if kwh is None else "estimated", "reason": None if kwh else "hung"}
        return make_record(number, measured={"seconds": 2.0, "energy": used})

    curve = [level(0, 0.5), level(1, 0.25), level(2, None), level(3, 0.25)]
    names = ("energy_kwh", "co2_g", "energy_kwh_total", "co2_g_total", "seconds_total", "pflop_real_total")
    rows = content.level_figures(tiny(), curve)
    assert [tuple(row.get(name) for name in names) for row in rows] == [
        (0.5, 222.5, 0.5, 222.5, 2.0, 0.5),
        (0.25, 111.25, 0.75, 333.75, 4.0, 1.0),
        (None, None, None, None, 6.0, 1.5),
        (0.25, 111.25, None, None, 8.0, 2.0),
    ]
    assert all(row.keys() <= set(content.LEVEL_METRICS) for row in rows)
    assert {list(row)[-1] for row in rows} == {content.MARKER}
    assert content.energy_tag(curve[:2]) == "estimated; CO2 at 445 g/kWh"
    assert content.energy_tag(curve) == "none; 1 of 4 levels: hung"


# --- one SQLite file ------------------------------------------------------------------------


def test_runs_equal_the_store_and_a_second_sync_adds_nothing(tmp_path, trained, caplog, capfd):
    store, specs = trained
    uri = f"sqlite:///{tmp_path}/new folder/mlflow.db"  # nothing there yet
    report = tmp_path / "report.md"
    report.write_text("# Report\n")
    assert sync(uri, store, specs, artifacts=[report]) is None
    parent, trials, client = assert_equal_to_store(uri, store, specs)

    assert parent.info.run_name == SWEEP
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"lambda_opt": 0.0178}
    assert parent.data.tags["answer"] == "found"
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.md"]
    assert (tmp_path / "new folder" / "mlartifacts").is_dir()

    spec = specs[0]
    run, curve = trials[spec.trial_id], store.curve(spec)
    assert run.info.run_name == "λ=0.0178 seed=0"
    assert run.info.end_time == round(1000 * curve[-1].measured["finished_at"])
    assert run.info.start_time < run.info.end_time
    tags = run.data.tags
    assert tags["sdd.setting_id"] == setting_id(spec)
    assert (tags["sdd.decided_on"], tags["sdd.deciding_labels"], tags["sdd.tolerance"]) == (
        "validation",
        "clean",
        "0.02",
    )
    assert (tags["verdict"], tags["sdd.script"]) == ("clean", "toy.py")
    assert {"sdd.version.python", "sdd.version.torch", "sdd.version.mlflow"} <= tags.keys()
    assert tags["sdd.not_finite.final"] == "valley=inf"
    assert "valley" not in run.data.metrics
    assert run.data.metrics["best_val_accuracy"] == 0.5
    assert run.data.metrics["pflop_total"] == pytest.approx(sum(record.pflop for record in curve))
    assert run.data.metrics["seconds_total"] == pytest.approx(sum(record.measured["seconds"] for record in curve))
    assert not {"energy_kwh", "co2_g", "energy_kwh_total"} & run.data.metrics.keys()
    assert tags["sdd.energy"].startswith(f"none; {len(curve)} of {len(curve)} levels: CPU: no sample yet")
    assert run.data.metrics["weight_decay"] == 0.0178
    params = run.data.params
    assert {name.split(".")[0] for name in params} == to_json(spec).keys()
    assert (params["weight_decay"], params["model_options.hidden1"], params["teacher"]) == ("0.0178", "16", "none")

    before = counts(tmp_path / "new folder" / "mlflow.db")
    assert sync(uri, store, specs, artifacts=[report]) is None
    assert counts(tmp_path / "new folder" / "mlflow.db") == before
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_no_request_of_a_long_curve_splits_a_level(database, store, monkeypatch):
    """MLflow's client cuts what is longer than 1000 metrics where it will; 90 levels have 2700."""
    from mlflow import MlflowClient

    real, sizes = MlflowClient.log_batch, []

    def log_batch(self, run_id, metrics=(), **rest):
        sizes.append(len(metrics))
        return real(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    long = tiny(prune_fraction=0.05, target_sparsity=0.99)
    assert fake_levels(store, long, [0.5 + 0.001 * level for level in range(100)]) > 80
    assert sync(f"sqlite:///{database}", store, [long]) is None
    assert_equal_to_store(f"sqlite:///{database}", store, [long])
    assert sum(sizes) > 2000
    assert max(sizes) <= 1000


def test_a_curve_that_grows_gets_only_its_new_levels(database, trained, monkeypatch):
    store, specs = trained
    uri, whole = f"sqlite:///{database}", specs[0]
    short = whole.replace(target_sparsity=0.3)
    first = [record.level for record in store.curve(short)]
    assert len(first) < len(store.curve(whole))
    assert sync(uri, store, [short], finished=False) is None
    assert_equal_to_store(uri, store, [short], status="KILLED")

    logged = []
    from mlflow import MlflowClient

    real = MlflowClient.log_batch

    def log_batch(self, run_id, metrics=(), **rest):
        logged.extend(metric.step for metric in metrics if metric.key == "level")
        return real(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    tracker = start(uri, store)
    tracker.update([whole])
    wait_until(lambda: levels_there(database) == len(store.curve(whole)))
    assert runs_of(uri)[1][whole.trial_id].info.status == "RUNNING"
    assert tracker.finish(finals_of(store, [whole]), {}, {}, []) is None
    assert logged == [record.level for record in store.curve(whole)][len(first) :]
    run = assert_equal_to_store(uri, store, [whole])[1][whole.trial_id]
    assert run.data.params["target_sparsity"] == "0.3"  # MLflow's params cannot change
    assert run.data.tags["sdd.target_sparsity"] == "0.5"


def test_a_sweep_is_finished_when_all_of_its_trials_are(database, trained):
    """An interrupted one is killed, as the trials are that it has left undone."""
    store, specs = trained
    uri = f"sqlite:///{database}"
    done, left = specs
    interrupted = finals_of(store, [done]) | finals_of(store, [left], finished=False)
    gone_on = finals_of(store, specs)
    for finals, statuses in ((interrupted, ["FINISHED", "KILLED", "KILLED"]), (gone_on, ["FINISHED"] * 3)):
        assert start(uri, store).finish(finals, {}, {}, []) is None
        parent, trials, _ = runs_of(uri)
        found = [trials[spec.trial_id].info.status for spec in specs]
        assert [*found, parent.info.status] == statuses


def test_a_deleted_database_is_rebuilt(database, trained):
    store, specs = trained
    uri = f"sqlite:///{database}"
    assert sync(uri, store, specs) is None
    tracker = start(uri, store)
    wait_until(lambda: tracker._mirror._connection is not None)
    tracker.update(specs)
    database.unlink()  # under a running driver
    shutil.rmtree(database.with_name("mlartifacts"), ignore_errors=True)
    assert tracker.finish(finals_of(store, specs), {"lambda_opt": 0.0178}, {}, []) is None
    assert_equal_to_store(uri, store, specs)


@pytest.mark.parametrize("whole_batches", [0, 1, 3])
def test_what_a_crashed_driver_left_is_completed(database, trained, monkeypatch, whole_batches):
    store, specs = trained
    uri, spec = f"sqlite:///{database}", specs[0]
    from mlflow import MlflowClient

    real, batches = MlflowClient.log_batch, []

    def log_batch(self, run_id, metrics=(), **rest):
        if metrics:
            batches.append(len(metrics))
            if len(batches) > whole_batches:
                raise OSError("the driver died")
        return real(self, run_id, metrics=metrics, **rest)

    with monkeypatch.context() as crashing:
        crashing.setattr(mirror, "LEVELS_PER_BATCH", 1)
        crashing.setattr(MlflowClient, "log_batch", log_batch)
        tracker = start(uri, store)
        tracker.update([spec])
        wait_until(lambda: len(batches) > whole_batches)
        answer = tracker.finish({}, {}, {}, [], timeout=0.0)
        assert "1 of 0 trials" in answer or "the sweep's own figures" in answer
        tracker._thread.join(10)
    assert levels_there(database) == whole_batches
    left = runs_of(uri)[1][spec.trial_id].info
    assert left.status == "RUNNING"
    assert sync(uri, store, [spec]) is None
    assert assert_equal_to_store(uri, store, [spec])[1][spec.trial_id].info.run_id == left.run_id
    assert levels_there(database) == len(store.curve(spec))


def test_of_several_runs_the_oldest_counts(database, trained):
    store, specs = trained
    uri, spec = f"sqlite:///{database}", specs[0]
    assert sync(uri, store, [spec]) is None
    _, trials, client = runs_of(uri)
    run = trials[spec.trial_id]
    client.create_run(run.info.experiment_id, tags=run.data.tags)
    before = counts(database)["metrics"]
    assert sync(uri, store, [spec]) is None
    assert counts(database)["metrics"] == before


def test_other_deciding_labels_relabel_the_shapes(database, trained):
    store, specs = trained
    uri, spec = f"sqlite:///{database}", specs[0]
    assert sync(uri, store, [spec]) is None
    before = counts(database)["metrics"]
    for _ in range(2):
        tracker = Tracker(uri, store, SWEEP, script="toy.py", labels="noisy")
        tracker.start()
        tracker.update([spec])
        assert tracker.finish({}, {}, {}, []) is None
    curve = store.curve(spec)
    run = runs_of(uri)[1][spec.trial_id]
    assert run.data.metrics["rebound"] == curves.shape_of(curve, "rebound", "noisy")
    assert run.data.tags["sdd.deciding_labels"] == "noisy"
    assert counts(database)["metrics"] == before + 2 * len(curve)


def test_infinite_figures_are_left_out_and_named(trained):
    store, specs = trained
    spec, curve = specs[0], store.curve(specs[0])
    broken = [replace(record, train_loss=math.inf, val_loss=None) for record in curve]
    (figures, *_) = content.level_figures(spec, broken)
    assert "val_loss" not in figures
    assert figures["train_loss"] == math.inf  # left out when written

    class Client:
        def __init__(self):
            self.metrics, self.tags = [], {}

        def log_batch(self, run_id, metrics, params, tags, synchronous):
            self.metrics += metrics
            self.tags |= {tag.key: tag.value for tag in tags}

    client, run = Client(), mirror._Run("id", "RUNNING", None, {}, {}, {})
    mirror.Mirror("", store, SWEEP, "toy.py", "clean", None)._sync_levels(client, run, spec, broken)
    assert all(math.isfinite(metric.value) for metric in client.metrics)
    assert client.tags["sdd.not_finite"] == f"train_loss=inf at {[record.level for record in curve]}"
    assert client.metrics[-1].key == "level"  # last: it says that its level is there


# --- MLflow missing, down, slow, locked -----------------------------------------------------


def test_a_locked_database_costs_nothing(database, trained, caplog):
    store, specs = trained
    uri = f"sqlite:///{database}"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        answer = sync(uri, store, specs, timeout=2.0)
        assert time.monotonic() - began < 4
        assert "lacks 2 of 2 trials" in answer
        assert "locked" in answer
        assert "running the same command again" in answer
        waiting = start(uri, store)
        waiting.update(specs)
        time.sleep(0.5)
    assert waiting.finish(finals_of(store, specs), {}, {}, []) is None  # a lock that goes away is not the end
    assert_equal_to_store(uri, store, specs)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2  # once for each tracker


def test_a_missing_mlflow_is_said_at_once(tmp_path, trained, monkeypatch):
    store, specs = trained
    monkeypatch.setitem(sys.modules, "mlflow", None)
    began = time.monotonic()
    answer = sync(f"sqlite:///{tmp_path}/mlflow.db", store, specs)
    assert time.monotonic() - began < 5
    assert "mlflow" in answer
    assert "2 of 2 trials" in answer


def test_a_tracker_that_was_not_started_says_so(trained):
    store, _ = trained
    answer = Tracker("sqlite:///nowhere/mlflow.db", store, SWEEP, script="toy.py").finish({}, {}, {}, [])
    assert "not started" in answer


def test_a_fault_of_one_trial_leaves_the_others_alone(database, trained):
    store, specs = trained
    uri = f"sqlite:///{database}"
    finals = finals_of(store, specs)
    bad = replace(finals[specs[0].trial_id], metrics={"not a name: λ?": 1.0})
    tracker = start(uri, store)
    answer = tracker.finish(finals | {specs[0].trial_id: bad}, {}, {}, [], timeout=3.0)
    assert "1 of 2 trials" in answer
    tracker._thread.join(10)
    assert runs_of(uri)[1][specs[1].trial_id].info.status == "FINISHED"


def test_passwords_are_not_shown(trained):
    store, _ = trained
    tracker = Tracker("http://me:secret@127.0.0.1:1", store, SWEEP, script="toy.py")
    tracker._note_failure(OSError("API request to http://me:secret@127.0.0.1:1/api failed"))
    answer = tracker.finish({}, {}, {}, [])
    assert "secret" not in answer
    assert "http://127.0.0.1:1" in answer


@pytest.fixture
def deaf_server():
    """A socket that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_process_ends_in_time_although_a_request_hangs(deaf_server, tmp_path):
    """`update` and `finish` return, and the interpreter ends, while a request waits for ten minutes."""
    script = f"""
import time
from sdd_core import recipes
from sdd_core.store import Store
from sweeps.tracking.mirror import TrialFinal
from sweeps.tracking.tracker import Tracker
spec = recipes.digits_lenet()
tracker = Tracker({deaf_server!r}, Store({str(tmp_path)!r}), "sweep", script="toy.py")
began = time.monotonic()
tracker.start()
tracker.update([spec])
assert time.monotonic() - began < 1, "update waits"
time.sleep(8)  # the import of mlflow
final = TrialFinal(spec=spec, metrics={{}}, tags={{}}, finished=True)
began = time.monotonic()
print(tracker.finish({{spec.trial_id: final}}, {{}}, {{}}, [], timeout=1.0))
assert time.monotonic() - began < 2, "finish waits"
"""
    began = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "600"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
    assert "not done within 1 s" in answer.stdout
    assert time.monotonic() - began < 30


# --- a real server --------------------------------------------------------------------------


@contextlib.contextmanager
def mlflow_server(port, folder):
    """A real tracking server on loopback, stopped by its own process group."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + 90
        while True:
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < end, "the MLflow server did not answer"
            time.sleep(0.3)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(15)
        log.close()


def test_a_server_that_is_down_is_filled_in_when_it_is_up(tmp_path, trained, fresh_database, caplog, capfd):
    store, specs = trained
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    answer = sync(uri, store, specs, timeout=3.0)
    assert time.monotonic() - began < 5
    assert "lacks 2 of 2 trials" in answer
    assert [record.levelno for record in caplog.records] == [logging.WARNING]

    patient = start(uri, store)  # a driver that lives through the outage
    patient.update(specs[:1])
    report = tmp_path / "report.md"
    report.write_text("# Report\n")
    shutil.copy(fresh_database, tmp_path / "server.db")
    with mlflow_server(port, tmp_path):
        assert patient.finish(finals_of(store, specs[:1]), {}, {}, []) is None
        for _ in range(2):
            assert sync(uri, store, specs, artifacts=[report]) is None
            parent, _, client = assert_equal_to_store(uri, store, specs)
        rows = counts(tmp_path / "server.db")
        assert sync(uri, store, specs) is None
        assert counts(tmp_path / "server.db") == rows
        assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["report.md"]
    assert capfd.readouterr() == ("", "")
