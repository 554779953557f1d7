"""Attach a sweep to Ray: on this machine, or as a driver inside a Ray cluster.

    python sweeps/lambda_opt.py --cluster cluster/gpu.yaml

The YAML is Ray's own cluster-launcher file; this project's settings stand in it under `metadata: sdd:`.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray
import yaml
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sdd_core.data.sources import DATA_DIR_VARIABLE
from sdd_core.spec import SpecError
from sdd_core.store import Store

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGES: Final = ("sdd_core", "sweeps", "cluster", "analysis")
RAY_PORT: Final = 6379
REACH_SECONDS: Final = 3.0
HEAD_IP_SECONDS: Final = 30.0
TOKEN_HELP: Final = (
    "every node and this process need the same token: `ray get-auth-token --generate` on one, copy its "
    "~/.ray/auth_token to all (or set RAY_AUTH_TOKEN), and set RAY_AUTH_MODE=token on all"
)
# What MLflow 3 can write to; a folder is refused by MLflow itself.
_TRACKERS: Final = ("http", "https", "postgresql", "mysql", "mssql", "sqlite", "databricks")
_QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial that asks for no GPU sees none
}


class ClusterError(RuntimeError):
    """Why the cluster cannot be used from here, as a sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """What a sweep needs to know of a cluster-launcher YAML."""

    path: str
    """The YAML's path."""

    name: str
    """Its `cluster_name`."""

    head_address: str | None
    """`host:port` of the head when the YAML tells it; else `connect` finds out."""

    head_port: int = RAY_PORT
    """The port that the head is started with."""

    store: str | None
    """Absolute path or URL of the store, the same on every node."""

    mlflow_tracking_uri: str | None
    """Where the driver writes runs to."""

    project: str | None = None
    """Folder of this project on the head, for the command that is printed to users outside."""

    cpus_per_trial: int = 1
    """CPUs that each trial reserves."""

    gpus_per_trial: float | None = None
    """GPUs that each trial reserves: 0, a fraction of one, or a whole number; None when the file leaves it open."""


KEYS: Final = ("store", "mlflow_tracking_uri", "project", "cpus_per_trial", "gpus_per_trial")


# --- reading the YAML -----------------------------------------------------------------------


def read(path: str) -> ClusterSettings:
    """Read and check a cluster-launcher YAML; raises `SpecError` naming every fault at once."""
    config = _load(path)
    faults = [*_ray_faults(config), *_setting_faults(config)]
    if faults:
        raise SpecError([f"{path}: {fault}" for fault in faults])
    given: dict[str, Any] = {key: value for key, value in _own(config).items() if value is not None}
    port = _head_port(config)
    head = config["provider"].get("head_ip")
    return ClusterSettings(
        path=path,
        name=config["cluster_name"],
        head_address=f"{head}:{port}" if head else None,
        head_port=port,
        **({"store": None, "mlflow_tracking_uri": None} | given),
    )


def _load(path: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError([f"--cluster {path!r}: there is no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([f"--cluster {path!r}: cannot be read ({error})"]) from None
    except yaml.YAMLError as error:
        raise SpecError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(config, dict):
        raise SpecError([f"{path}: must hold a Ray cluster configuration (cluster_name, provider, ...)"])
    return config


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping under `metadata: sdd:`; {} when there is none or it is malformed."""
    metadata = config.get("metadata")
    sdd = metadata.get("sdd") if isinstance(metadata, dict) else None
    return sdd if isinstance(sdd, dict) else {}


def _did_you_mean(word: object, known: Iterator[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _ray_faults(config: Mapping[str, Any]) -> Iterator[str]:
    """What is missing of Ray's part for joining the cluster. `ray up` checks the rest."""
    for key, kind in (("cluster_name", str), ("provider", dict)):
        if not isinstance(config.get(key), kind):
            yield f"{key} {config.get(key)!r}: is needed, as Ray's cluster launcher defines it"
    for key in ("sdd", *KEYS):
        if key in config:
            yield f"{key}: this project's settings belong under metadata: sdd:"


def _setting_faults(config: Mapping[str, Any]) -> Iterator[str]:
    metadata = config.get("metadata")
    if not isinstance(metadata, dict):
        return
    if "sdd" not in metadata:
        for key in metadata:
            if difflib.get_close_matches(str(key), ["sdd"], cutoff=0.6):
                yield f"metadata.{key}: unknown (did you mean sdd?)"
        return
    if not isinstance(metadata["sdd"], dict | None):
        yield f"metadata.sdd {metadata['sdd']!r}: must be a mapping of {', '.join(KEYS)}"
        return
    for key, value in _own(config).items():
        if key not in KEYS:
            yield f"metadata.sdd.{key}: unknown{_did_you_mean(key, KEYS)}; allowed are {', '.join(KEYS)}"
        elif value is not None:
            rule = _value_rule(key, value)
            if rule:
                yield f"metadata.sdd.{key} {value!r}: {rule}"


def _value_rule(key: str, value: object) -> str | None:
    """The rule that a setting's value breaks, or None."""
    if key == "cpus_per_trial":
        return None if type(value) is int and value >= 1 else "must be a whole number from 1"
    if key == "gpus_per_trial":
        return None if _is_gpu_count(value) else "must be 0, a fraction of one GPU, or a whole number of GPUs"
    if not (isinstance(value, str) and value.strip()):
        return "must be text"
    if key == "store":
        scheme, is_url, rest = value.partition("://")
        place = rest if scheme in ("file", "local") else f"/{rest}"
        if not (len(place) > 1 and place[0] == "/" if is_url else Path(value).is_absolute()):
            return "must be an absolute path or a URL (/shared/sdd/store, s3://bucket/store) that every node sees"
    if key == "mlflow_tracking_uri":
        return _tracker_rule(value)
    return None


def _is_gpu_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return 0 <= value <= 1 or (value > 1 and value == int(value))


def _tracker_rule(uri: str) -> str | None:
    scheme = uri.split(":", 1)[0].split("+", 1)[0]
    if uri == "databricks":
        return None
    if ":" not in uri or scheme not in _TRACKERS:
        return "must be a server (http://10.0.0.2:5000) or a database (postgresql://..., sqlite:////absolute/mlflow.db)"
    if scheme == "sqlite" and not uri.split(":", 1)[1].startswith("////"):
        return "must be absolute: sqlite: and four slashes, sqlite:////absolute/mlflow.db"
    return None


def _head_port(config: Mapping[str, Any]) -> int:
    for command in config.get("head_start_ray_commands") or ():
        found = re.search(r"--port[= ](\d+)", command)
        if found and "ray start" in command:
            return int(found[1])
    return RAY_PORT


# --- attaching ------------------------------------------------------------------------------


def start_local(cpus: int | None = None) -> None:
    """Start Ray on this machine for this process; its own count of CPUs when `cpus` is not given."""
    _be_quiet()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in paths:  # workers must import the project wherever the command was run from
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, paths)])
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def connect(settings: ClusterSettings) -> None:
    """Attach this process to the cluster as its driver.

    Raises `ClusterError` when the head cannot be found or reached, the token does not fit, or this
    machine is not one of the cluster's nodes.
    """
    _be_quiet()
    address = _reachable(settings, settings.head_address or _find_head(settings))
    _use_token(settings)
    nodes = _alive_addresses(settings, address)
    if not any(_is_here(node) for node in nodes):
        raise ClusterError(
            f"cluster {settings.name!r} runs on {', '.join(nodes)}, and this machine is none of them; "
            f"{run_inside(settings)}"
        )
    with tempfile.TemporaryDirectory(prefix="sdd-code-") as folder:
        try:
            ray.init(
                address=address,
                runtime_env={"working_dir": _copy_code(Path(folder)), "env_vars": _QUIET | _data_dir()},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # whatever Ray says, the user reads one sentence
            raise ClusterError(f"cluster {settings.name!r} at {address}: Ray does not attach ({error})") from error


def run_inside(settings: ClusterSettings) -> str:
    """The advice for a user whose machine is not a node: the command that runs this one on the head."""
    command = shlex.join(["python", *(argument.removeprefix(f"{ROOT}/") for argument in sys.argv)])
    if settings.project:
        command = f"cd {settings.project} && {command}"
    return f"run it on the head with: ray exec {shlex.quote(settings.path)} {shlex.quote(command)}"


def _data_dir() -> dict[str, str]:
    """The data directory that this process was given, which every node must then have at the same place."""
    return {name: os.environ[name] for name in [DATA_DIR_VARIABLE] if name in os.environ}


def _be_quiet() -> None:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"ray(\.|$)")


def _find_head(settings: ClusterSettings) -> str:
    """The head's address when the YAML does not tell it (cloud providers)."""
    # `ray up` leaves this file on the head. There the address is this machine's own: what the provider
    # would name is often the public one, which its firewall closes to Ray's port.
    try:
        bootstrap = yaml.safe_load((Path.home() / "ray_bootstrap_config.yaml").read_text(encoding="utf-8"))
        if isinstance(bootstrap, dict) and bootstrap.get("cluster_name") == settings.name:
            return f"{_own_address()}:{settings.head_port}"
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        pass
    asked = f"`ray get-head-ip {settings.path}`"
    command = [sys.executable, "-m", "ray.scripts.scripts", "get-head-ip", settings.path]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=HEAD_IP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"cluster {settings.name!r}: {asked} did not answer in {HEAD_IP_SECONDS:g} s; {run_inside(settings)}"
        ) from None
    lines = answer.stdout.split()
    if answer.returncode != 0 or not lines:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        raise ClusterError(
            f"cluster {settings.name!r}: {asked} found no head ({said[-1].strip() if said else 'it said nothing'}); "
            f"start it with `ray up {shlex.quote(settings.path)}`, then {run_inside(settings)}"
        )
    return f"{lines[-1]}:{settings.head_port}"


def _reachable(settings: ClusterSettings, address: str) -> str:
    """The head's address as Ray understands it, once a connection to it has been made."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.gethostbyname(host)
        if found.startswith("127."):  # Ray itself takes loopback for the machine's outward address
            found = _own_address()
        socket.create_connection((found, int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"cluster {settings.name!r}: no answer from its head at {address} ({error}); "
            f"start it with `ray up {shlex.quote(settings.path)}`; from outside of its network {run_inside(settings)}"
        ) from None
    return f"{found}:{port}"


def _use_token(settings: ClusterSettings) -> None:
    """Present the token that this user has.

    `ray start --head` demands a token as soon as one exists, but `ray.init` with an address presents one
    only when told to. A cluster that demands none ignores it.
    """
    from ray._private.authentication import authentication_token_setup as tokens

    tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        tokens.ensure_token_if_auth_enabled(None, create_token_if_missing=False)
    except AuthenticationError:  # Ray's own client aborts the process instead
        raise ClusterError(
            f"cluster {settings.name!r}: RAY_AUTH_MODE=token, but there is no token here; {TOKEN_HELP}"
        ) from None


def _alive_addresses(settings: ClusterSettings, address: str) -> list[str]:
    """The addresses of all alive nodes, asked from the head before `ray.init`, which would wait for minutes."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=REACH_SECONDS * 3).values()
    except AuthenticationError:
        raise ClusterError(f"cluster {settings.name!r} at {address} refused the token: {TOKEN_HELP}") from None
    except Exception as error:  # whoever answers on that port, and however
        raise ClusterError(
            f"cluster {settings.name!r}: what answers at {address} is no Ray head of version {ray.__version__} "
            f"({type(error).__name__}: {error})"
        ) from None
    return sorted({node.node_manager_address for node in nodes if node.state == 0})


def _own_address() -> str:
    """The address that Ray gives to a node on this machine."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _is_here(address: str) -> bool:
    """Whether an address is this machine's own: only such a one can be bound."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _copy_code(folder: Path) -> str:
    """The project's packages alone in a folder: what is uploaded to the nodes.

    As `working_dir` it also wins over a checkout that a node has already, which may be older.
    """
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))
    return str(folder)


# --- what the nodes have ----------------------------------------------------------------------


def _alive() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _fit(node: Mapping[str, Any], cpus: float, gpus: float) -> float:
    """How many trials fit on an empty node; infinite when a trial asks for nothing."""
    has: Mapping[str, float] = node["Resources"]
    by_cpu = math.floor(has.get("CPU", 0) / cpus + 1e-6) if cpus > 0 else math.inf
    if gpus <= 0:
        return by_cpu
    owned = has.get("GPU", 0)
    # A fraction of a GPU is never put together from two.
    by_gpu = owned * math.floor(1 / gpus + 1e-6) if gpus < 1 else math.floor(owned / gpus + 1e-6)
    return min(by_cpu, by_gpu)


def check_request(cpus: float, gpus: float) -> list[str]:
    """Faults when no alive node can ever run a trial that reserves `cpus` and `gpus`."""
    nodes = _alive()
    if any(_fit(node, cpus, gpus) >= 1 for node in nodes):
        return []
    has = "; ".join(
        f"{node['NodeManagerAddress']}: {node['Resources'].get('CPU', 0):g} CPU, "
        f"{node['Resources'].get('GPU', 0):g} GPU"
        for node in nodes
    )
    return [f"{cpus:g} CPUs and {gpus:g} GPUs per trial: no node can ever run that; the nodes have {has or 'nothing'}"]


def have_gpus() -> bool:
    """Whether any alive node has a GPU."""
    return any(node["Resources"].get("GPU", 0) > 0 for node in _alive())


def width(cpus: float, gpus: float) -> int:
    """How many trials fit at once over all alive nodes, at least 1."""
    fits = sum(_fit(node, cpus, gpus) for node in _alive())
    return max(1, int(fits)) if math.isfinite(fits) else 1


def check_nodes(store_url: str, also_read: Sequence[str] = (), timeout: float = 30.0) -> list[str]:
    """One fault for each alive node that cannot read from the store what this process wrote there.

    Or that cannot read the stores that are also read.
    """
    store = Store(store_url)
    try:
        token = store.write_probe()
    except Exception as error:  # any backend's own error is an answer here
        return [f"store {store_url!r}: cannot be written to from here ({type(error).__name__}: {error})"]
    try:
        return _probe_nodes(store_url, also_read, token, timeout)
    finally:
        store.remove_probe(token)


def _probe_nodes(store_url: str, also_read: Sequence[str], token: str, timeout: float) -> list[str]:
    def look(url: str, others: Sequence[str], probe: str) -> str | None:
        try:  # a nested function travels by value, so that a missing module is an answer like any other
            from sdd_core.store import Store

            store = Store(url, also_read=others)
            if not store.read_probe(probe):
                return "does not see there what this process wrote"
            faults = store.upstream_faults()
            return f"misses what is also read: {'; '.join(faults)}" if faults else None
        except Exception as error:  # any backend's own error is this node's answer
            return f"cannot read it ({type(error).__name__}: {error})"

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = {}
    for node in _alive():
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[task.options(scheduling_strategy=pinned).remote(store_url, also_read, token)] = node["NodeManagerAddress"]
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=timeout)
    faults = []
    for answer in answered:
        try:
            fault = ray.get(answer)
        except Exception as error:  # a node without this package, or that has died: its answer too
            fault = f"cannot run anything ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        if fault:
            faults.append(f"store {store_url!r}: node {asked[answer]} {fault}")
    for answer in silent:
        ray.cancel(answer, force=True)
        faults.append(f"store {store_url!r}: node {asked[answer]} did not answer within {timeout:g} s")
    return sorted(faults)
