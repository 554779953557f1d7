"""Reading cluster YAMLs, and attaching to a real two-node Ray cluster on this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.cluster_utils import Cluster

from cluster import connect
from cluster.connect import ClusterError, ClusterSettings
from sdd_core.spec import SpecError

ROOT = Path(__file__).resolve().parent.parent
LOCAL = {"cluster_name": "c", "provider": {"type": "local", "head_ip": "10.0.0.5", "worker_ips": []}}


def write(folder: Path, config: Any, **sdd: Any) -> str:
    path = folder / "cluster.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config | {"metadata": {"sdd": sdd}}))
    return str(path)


def faults(path: str) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        connect.read(path)
    return caught.value.faults


# --- reading --------------------------------------------------------------------------------


def test_read_gives_the_settings_and_the_head(tmp_path: Path) -> None:
    path = write(tmp_path, LOCAL, store="/s", mlflow_tracking_uri="http://h:5000", cpus_per_trial=4, gpus_per_trial=0.5)
    assert connect.read(path) == ClusterSettings(
        path=path,
        name="c",
        head_address="10.0.0.5:6379",
        store="/s",
        mlflow_tracking_uri="http://h:5000",
        cpus_per_trial=4,
        gpus_per_trial=0.5,
    )


def test_read_without_settings_gives_defaults(tmp_path: Path) -> None:
    settings = connect.read(write(tmp_path, yaml.safe_dump(LOCAL)))
    assert (settings.store, settings.mlflow_tracking_uri) == (None, None)
    assert (settings.cpus_per_trial, settings.gpus_per_trial) == (1, None)


def test_the_port_is_that_of_the_start_command_and_a_cloud_head_is_asked_for(tmp_path: Path) -> None:
    start = {"head_start_ray_commands": ["ray stop", "ulimit -n 9; ray start --head --port=7001"]}
    assert connect.read(write(tmp_path, LOCAL | start)).head_address == "10.0.0.5:7001"
    settings = connect.read(write(tmp_path, {"cluster_name": "c", "provider": {"type": "aws"}} | start))
    assert (settings.head_address, settings.head_port) == (None, 7001)


@pytest.mark.parametrize(
    ("sdd", "said"),
    [
        ({"store": "store"}, "metadata.sdd.store 'store': must be an absolute path or a URL"),
        ({"store": "~/store"}, "must be an absolute path"),
        ({"store": "file://store/x"}, "must be an absolute path"),
        ({"store": "s3://"}, "must be an absolute path"),
        ({"store": 3}, "metadata.sdd.store 3: must be text"),
        ({"mlflow_tracking_uri": "sqlite:///mlflow.db"}, "must be absolute"),
        ({"mlflow_tracking_uri": "sqlite://"}, "must be absolute"),
        ({"mlflow_tracking_uri": "mlruns"}, "must be a server"),
        ({"mlflow_tracking_uri": "file:///mlruns"}, "must be a server"),
        ({"cpus_per_trial": 0}, "metadata.sdd.cpus_per_trial 0: must be a whole number from 1"),
        ({"cpus_per_trial": True}, "must be a whole number from 1"),
        ({"gpus_per_trial": -1}, "metadata.sdd.gpus_per_trial -1: must be 0, a fraction"),
        ({"gpus_per_trial": 1.5}, "must be 0, a fraction"),
        ({"gpus_per_trial": float("nan")}, "must be 0, a fraction"),
        ({"cpu_per_trial": 2}, "cpu_per_trial: unknown (did you mean cpus_per_trial?); allowed are store, mlflow"),
    ],
)
def test_bad_settings(tmp_path: Path, sdd: dict[str, Any], said: str) -> None:
    (fault,) = faults(write(tmp_path, LOCAL, **sdd))
    assert said in fault


@pytest.mark.parametrize(
    "sdd",
    [
        {"store": "s3://bucket/store"},
        {"store": "file:///shared/store"},
        {"mlflow_tracking_uri": "sqlite:////shared/mlflow.db"},
        {"mlflow_tracking_uri": "postgresql+psycopg2://u@h/db"},
        {"gpus_per_trial": 2},
        {"gpus_per_trial": 2.0},
    ],
)
def test_good_settings(tmp_path: Path, sdd: dict[str, Any]) -> None:
    connect.read(write(tmp_path, LOCAL, **sdd))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "not valid YAML"),
        ("", "must hold a Ray cluster configuration"),
        ("- 1", "must hold a Ray cluster configuration"),
        ("cluster_name: c", "provider None: is needed, as Ray's cluster launcher defines it"),
        ("cluster_name: c\nprovider: {type: aws}\nsdd: {}", "belong under metadata: sdd:"),
        ("cluster_name: c\nprovider: {type: aws}\nmetadata: {ssd: {}}", "metadata.ssd: unknown (did you mean sdd?)"),
        ("cluster_name: c\nprovider: {type: aws}\nmetadata: {sdd: 3}", "metadata.sdd 3: must be a mapping"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, said: str) -> None:
    (fault,) = faults(write(tmp_path, text))
    assert said in fault


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    config = {"cluster_name": 3, "provider": {"type": "local"}, "store": "red"}
    assert len(faults(write(tmp_path, config, store="x", cpus_per_trial=0, shop=1))) == 5


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "there is no such file" in faults(str(tmp_path / "none.yaml"))[0]
    assert "cannot be read" in faults(str(tmp_path))[0]
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in faults(str(tmp_path / "binary.yaml"))[0]


def test_the_example_is_what_ray_itself_accepts() -> None:
    path = ROOT / "cluster" / "gpu.yaml"
    settings = connect.read(str(path))
    assert (settings.head_address, settings.cpus_per_trial, settings.gpus_per_trial) == ("10.0.0.2:6379", 4, 1)
    validate_config(prepare_config(yaml.safe_load(path.read_text())))


def test_the_slurm_job_writes_a_valid_cluster_file(tmp_path: Path) -> None:
    programs = {
        "scontrol": "echo node1",
        "srun": 'case "$*" in *hostname*) echo 10.1.2.3;; *) echo "$@";; esac',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
    ran = subprocess.run(
        ["bash", str(ROOT / "cluster" / "slurm.sh"), "sweeps/lambda_opt.py", "--seeds", "3"],
        cwd=tmp_path,
        env={"PATH": path, **job},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert "--address 10.1.2.3:20077 --min-nodes 2" in ran.stdout
    assert ran.stdout.strip().endswith("-- python sweeps/lambda_opt.py --seeds 3 --cluster slurm-77.yaml")
    settings = connect.read(str(tmp_path / "slurm-77.yaml"))
    assert (settings.head_address, settings.store) == ("10.1.2.3:20077", f"{tmp_path}/store")


# --- what fits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "gpus", "wide", "runs"),
    [
        (1, 0, 12, True),
        (4, 0, 3, True),
        (5, 0, 1, True),
        (9, 0, 1, False),  # 12 in sum, but no node has 9
        (1, 1, 2, True),
        (1, 0.5, 4, True),
        (1, 0.4, 4, True),  # two a GPU: a fraction is not put together from two GPUs
        (2, 0.1, 4, True),
        (1, 2, 1, True),
        (1, 3, 1, False),
        (8, 2, 1, True),
        (4.5, 0, 1, True),
    ],
)
def test_width_and_request(monkeypatch: pytest.MonkeyPatch, cpus: float, gpus: float, wide: int, runs: bool) -> None:
    nodes = [
        {"NodeManagerAddress": "a", "Resources": {"CPU": 4.0}},
        {"NodeManagerAddress": "b", "Resources": {"CPU": 8.0, "GPU": 2.0}},
        {"NodeManagerAddress": "head", "Resources": {}},
    ]
    monkeypatch.setattr(connect, "_alive", lambda: nodes)
    assert connect.width(cpus, gpus) == wide
    assert (connect.check_request(cpus, gpus) == []) is runs


# --- finding the head -----------------------------------------------------------------------


def settings_for(address: str | None, **changes: Any) -> ClusterSettings:
    base = {"path": "c.yaml", "name": "c", "head_address": address, "store": None, "mlflow_tracking_uri": None}
    return ClusterSettings(**(base | changes))


def test_an_unreachable_head_is_told_quickly() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"no answer from its head at 127\.0\.0\.1.*`ray up c\.yaml`.*ray exec c"):
        connect.connect(settings_for(address))
    assert time.monotonic() - started < 2 * connect.REACH_SECONDS
    assert not ray.is_initialized()


def test_on_the_head_of_a_cloud_cluster_the_head_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ray_bootstrap_config.yaml").write_text("cluster_name: c\n")
    here = ray.util.get_node_ip_address()
    assert connect._find_head(settings_for(None, head_port=7001)) == f"{here}:7001"


def test_elsewhere_ray_is_asked_for_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ray_bootstrap_config.yaml").write_text("cluster_name: another\n")
    path = write(tmp_path, {"cluster_name": "sdd-test-none", "provider": LOCAL["provider"]})
    with pytest.raises(ClusterError, match=r"get-head-ip .* found no head"):
        connect._find_head(settings_for(None, path=path, name="sdd-test-none"))


def test_own_addresses_are_known() -> None:
    assert connect._is_here("127.0.0.1")
    assert not connect._is_here("198.51.100.7")


def test_the_printed_command_runs_this_one_in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{ROOT}/sweeps/lambda_opt.py", "--cluster", "c.yaml"])
    told = connect.run_inside(settings_for("h:1", project="~/sdd-sweep"))
    assert told.endswith("ray exec c.yaml 'cd ~/sdd-sweep && python sweeps/lambda_opt.py --cluster c.yaml'")


# --- a real cluster -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterSettings]:
    """A head and a worker with one CPU each, asking for a token, and the settings that point at them."""
    ray.shutdown()
    connect.start_local(cpus=1)  # also switches tokens on and makes one, as it does for users
    assert ray.cluster_resources()["CPU"] == 1
    ray.shutdown()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        host, port = nodes.address.rsplit(":", 1)
        config = LOCAL | {
            "provider": {"type": "local", "head_ip": host, "worker_ips": [host]},
            "head_start_ray_commands": [f"ray start --head --port={port}"],
        }
        yield connect.read(write(tmp_path_factory.mktemp("cluster"), config))
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="module")
def attached(two_nodes: ClusterSettings) -> Iterator[ClusterSettings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDD_DATA", "/given/to/the/driver")  # the nodes were started with another
        connect.connect(two_nodes)
    yield two_nodes
    ray.shutdown()


def test_a_machine_that_is_no_node_is_told_the_command(
    two_nodes: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_is_here", lambda address: False)
    with pytest.raises(ClusterError, match=r"this machine is none of them; run it on the head with: ray exec "):
        connect.connect(two_nodes)
    assert not ray.is_initialized()


@pytest.mark.parametrize(("mode", "said"), [("disabled", "refused the token"), ("token", "there is no token here")])
def test_a_missing_token_is_explained(two_nodes: ClusterSettings, tmp_path: Path, mode: str, said: str) -> None:
    code = "import sys; from cluster import connect; connect.connect(connect.read(sys.argv[1]))"
    ran = subprocess.run(
        [sys.executable, "-c", code, two_nodes.path],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RAY_AUTH_MODE": mode},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    last = ran.stderr.strip().splitlines()[-1]
    assert said in last
    assert "ray get-auth-token --generate" in last


def test_width_and_requests_on_a_cluster(attached: ClusterSettings) -> None:
    assert connect.width(1, 0) == 2
    assert connect.check_request(1, 0) == []
    assert not connect.have_gpus()
    (cpus,) = connect.check_request(5, 0)
    (gpus,) = connect.check_request(1, 1)
    assert "5 CPUs and 0 GPUs per trial: no node can ever run that" in cpus
    assert gpus.count(": 1 CPU, 0 GPU") == 2


def test_every_node_reads_a_shared_store(attached: ClusterSettings, tmp_path: Path) -> None:
    assert connect.check_nodes(str(tmp_path / "store")) == []
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


def test_each_node_that_cannot_read_the_store_is_named(attached: ClusterSettings, tmp_path: Path) -> None:
    here = ray.util.get_node_ip_address()
    alone = f"store 'memory://sdd-probe': node {here} does not see there what this process wrote"
    assert connect.check_nodes("memory://sdd-probe") == [alone, alone]
    other = str(tmp_path / "other")
    misses = f"store {str(tmp_path)!r}: node {here} misses what is also read: store {other!r}: there is no store"
    assert [fault.startswith(misses) for fault in connect.check_nodes(str(tmp_path), [other])] == [True, True]
    late = f"node {here} did not answer within 0 s"
    assert [late in fault for fault in connect.check_nodes(str(tmp_path), timeout=0)] == [True, True]
    (tmp_path / "file").touch()
    (fault,) = connect.check_nodes(str(tmp_path / "file" / "store"))
    assert "cannot be written to from here" in fault


def test_nodes_run_the_uploaded_code_and_read_the_drivers_data_directory(attached: ClusterSettings) -> None:
    def where() -> tuple[str, str | None, str]:
        import sdd_core
        from sdd_core.data.sources import data_dir

        return sdd_core.__file__, os.environ.get("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"), str(data_dir())

    path, setting, data = ray.get(ray.remote(where).remote())
    assert not path.startswith(str(ROOT))
    assert (setting, data) == ("1", "/given/to/the/driver")


# --- a whole sweep ----------------------------------------------------------------------------


def sweep(two_nodes: ClusterSettings, folder: Path, store: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a search in miniature (one seed, five levels, two lambdas and more) as a driver inside the cluster."""
    config = yaml.safe_load(Path(two_nodes.path).read_text())
    path = write(folder, config, store=store, mlflow_tracking_uri=f"sqlite:///{folder}/mlflow.db")
    tiny = ("--epochs", "1", "--target-sparsity", "0.5", "--model-options", "hidden1=32", "hidden2=16")
    return subprocess.run(
        [
            *(sys.executable, str(ROOT / "sweeps" / "lambda_opt.py"), "--cluster", path),
            *(*tiny, "--seeds", "1", "--points-per-decade", "1", *arguments),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_whole_search_runs_on_the_cluster_and_again_trains_nothing(
    two_nodes: ClusterSettings, tmp_path: Path
) -> None:
    store = tmp_path / "shared"
    ran = sweep(two_nodes, tmp_path, str(store))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "levels trained now" in ran.stdout
    assert "0 levels trained now" not in ran.stdout
    records = [json.loads(path.read_text()) for path in (store / "levels").rglob("*.json")]
    assert len(records) >= 15
    assert len({record["measured"]["process"] for record in records}) >= 2
    again = sweep(two_nodes, tmp_path, str(store))
    assert "\n  0 levels trained now" in again.stdout


@pytest.mark.parametrize(
    ("store", "arguments", "said"),
    [
        ("memory://driver-only", (), "does not see there what this process wrote"),
        ("/shared", ("--store", "./here"), "store './here': with --cluster it must be an absolute path or a URL"),
        ("FOLDER/store", ("--cpus-per-trial", "5"), "no node can ever run that"),
    ],
)
def test_a_cluster_that_cannot_run_the_sweep_is_said_before_anything_is_scheduled(
    two_nodes: ClusterSettings, tmp_path: Path, store: str, arguments: tuple[str, ...], said: str
) -> None:
    ran = sweep(two_nodes, tmp_path, store.replace("FOLDER", str(tmp_path)), *arguments)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
