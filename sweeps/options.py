"""The flags that every entry script has: text in, checked values or every fault at once out.

An entry script adds its own flags beside them, reads all with one `Reader`, and refuses with what
that has collected.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdd_core import trajectory
from sdd_core.cli import Parser, add_data_dir_flag, parse_value, set_data_dir
from sdd_core.spec import SpecError, TrialSpec
from sdd_core.store import Store
from sweeps.trial_figures import Reading

if TYPE_CHECKING:
    from cluster.connect import ClusterSettings


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every entry script is told: where a sweep lies, what runs it, how its curves are read."""

    sweep: str
    store: Store
    mlflow: str
    reading: Reading
    json: Path | None
    picture: Path
    keep: str
    threads: int
    cpus: float
    gpus: float | None
    """None: one where the nodes have GPUs and the model gains from one."""
    workers: int | None
    cluster: ClusterSettings | None


def add_common_flags(parser: Parser, sweep_default: str) -> None:
    """Add the flags that `read_common` reads; `sweep_default` says how a sweep is named by default."""
    add = parser.add_argument_group("reading", "How curves are read; it changes nothing that is trained.").add_argument
    add(
        "--deciding-labels",
        metavar="NAME",
        default="clean",
        help="validation labels that decide: clean or noisy [clean]",
    )
    add("--patience", metavar="N", default="3", help="early stopping: levels in a row below the best [3]")
    add("--min-drop", metavar="X", default="0.02", help="early stopping: by more than this [0.02]")
    group = parser.add_argument_group("where")
    add = group.add_argument
    add("--store", metavar="PLACE", help="folder or URL of the store [./store]")
    add_data_dir_flag(group)
    add("--mlflow", metavar="URI", help="MLflow tracking URI [MLFLOW_TRACKING_URI or ./mlflow.db]")
    add("--sweep", metavar="NAME", help=f"name of the sweep [{sweep_default}]")
    add("--json", metavar="FILE", help="write the answer for machines here")
    add("--picture", metavar="FILE", help="where the picture of all curves goes [results/SWEEP.png]")
    add("--keep-weights", metavar="WHICH", default="dense_best_last", help="dense_best_last or all")
    add = parser.add_argument_group("workers").add_argument
    add("--cluster", metavar="YAML", help="run on this Ray cluster, from one of its machines")
    add("--cpus-per-trial", metavar="X", help="[1, or the cluster file's]")
    add(
        "--gpus-per-trial",
        metavar="X",
        help="may be a fraction [the cluster file's, or 1 where there are GPUs; lenet 0]",
    )
    add("--threads", metavar="N", default="1", help="CPU threads of a trial's arithmetic [1]")
    add("--workers", metavar="N", help="trials at once [as many as fit]")


class Reader:
    """Turns the flags' text into values, collecting every fault."""

    def __init__(self, namespace: argparse.Namespace) -> None:
        self.namespace, self.faults = namespace, list[str]()

    def text(self, name: str) -> str | None:
        """A flag's text; None when it was not given."""
        text: str | None = getattr(self.namespace, name)
        return text

    def number(self, name: str, kind: str, low: float, what: str, default: Any = None) -> Any:
        """A number from `low` on, or the default when not given."""
        text = self.text(name)
        if text is None:
            return default
        value, fault = parse_value(name, text, kind)
        if fault is None and not low <= value < float("inf"):
            fault = f"{name} {value!r}: must be {what}"
        if fault:
            self.faults.append(fault)
            return default
        return value

    def word(self, name: str, allowed: Sequence[str]) -> Any:
        """One of the words allowed."""
        text = self.text(name)
        if text not in allowed:
            self.faults.append(f"{name} {text!r}: allowed are {', '.join(allowed)}")
        return text

    def seeds(self) -> list[int]:
        """The whole numbers that `--seeds` was given; what they stand for is the script's to say."""
        values = []
        for text in self.namespace.seeds:
            value, fault = parse_value("seeds", text, "int")
            if fault is None and value < 0:
                fault = f"seeds {value}: must be at least 0"
            if fault:
                self.faults.append(fault)
            else:
                values.append(value)
        return values


def read_common(reader: Reader, sweep: str) -> Common:
    """The common flags' values; `sweep` is the name when none was given.

    With faults in the reader they are the nearest ones without: callers go on checking, then refuse.
    """
    namespace = reader.namespace
    set_data_dir(namespace)
    cluster = _read_cluster(namespace.cluster, reader)
    mlflow = namespace.mlflow or (cluster.mlflow_tracking_uri if cluster else None)
    mlflow = mlflow or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"
    sweep = namespace.sweep or sweep
    if "/" in sweep or sweep.startswith("."):
        reader.faults.append(f"sweep {sweep!r}: must not hold / nor begin with a dot")
    json_file = Path(namespace.json).absolute() if namespace.json else None
    if json_file is not None and not json_file.parent.is_dir():
        reader.faults.append(f"json {namespace.json!r}: there is no folder {json_file.parent}")
    picture = Path(namespace.picture) if namespace.picture else Path("results") / f"{sweep}.png"
    return Common(
        sweep=sweep,
        store=_open_store(namespace.store or (cluster.store if cluster and cluster.store else "./store"), reader),
        mlflow=mlflow,
        reading=Reading(
            labels=reader.word("deciding_labels", ("clean", "noisy")),
            patience=reader.number("patience", "int", 1, "a whole number from 1", 3),
            min_drop=reader.number("min_drop", "float", 0, "a number from 0", 0.02),
        ),
        json=json_file,
        picture=picture.absolute(),
        keep=reader.word("keep_weights", trajectory.KEEP),
        threads=reader.number("threads", "int", 1, "a whole number from 1", 1),
        cpus=reader.number("cpus_per_trial", "float", 0.01, "above 0", cluster.cpus_per_trial if cluster else 1),
        gpus=reader.number("gpus_per_trial", "float", 0, "at least 0", cluster.gpus_per_trial if cluster else None),
        workers=reader.number("workers", "int", 1, "a whole number from 1"),
        cluster=cluster,
    )


def trial_faults(spec: TrialSpec, common: Common) -> list[str]:
    """Why a trial cannot run with these options although its fields are valid."""
    on_gpu = common.gpus if common.gpus is not None else gains_from_gpu(spec)
    return trajectory.faults(spec, "cuda" if on_gpu else "cpu")


def gains_from_gpu(spec: TrialSpec) -> bool:
    """Whether a trial asks for a GPU by default. A LeNet's steps are too small for one: a core does as well."""
    return spec.model != "lenet"


def _read_cluster(path: str | None, reader: Reader) -> ClusterSettings | None:
    if path is None:
        return None
    from cluster import connect

    try:
        return connect.read(path)
    except SpecError as error:
        reader.faults += error.faults
        return None


def _open_store(url: str, reader: Reader) -> Store:
    """The store, checked to be writable. A relative folder is meant from here, so a cluster cannot have one."""
    if reader.namespace.cluster is not None and "://" not in url and not Path(url).is_absolute():
        reader.faults.append(
            f"store {url!r}: with --cluster it must be an absolute path or a URL that every node sees"
            " (--store, or store under metadata: sdd: of the cluster file)"
        )
        return Store(url)
    try:
        store = Store(url if "://" in url else str(Path(url).expanduser().absolute()))
    except ValueError as error:
        reader.faults.append(str(error))
        return Store("./store")
    fault = store.fault()
    if fault:
        reader.faults.append(fault)
    return store
