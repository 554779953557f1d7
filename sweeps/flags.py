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
from typing import TYPE_CHECKING, Any, Final

from sdd_core import energy, trajectory
from sdd_core.flags import Parser, add_data_dir_flag, parse_value, set_data_dir
from sdd_core.reading import Reading
from sdd_core.registry import MODELS
from sdd_core.spec import SpecError, TrialSpec
from sdd_core.store import Store

if TYPE_CHECKING:
    from cluster.connect import ClusterSettings


_TINY: Final = 1e-12  # the smallest number that is "above 0"


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """What every entry script is told of costs: what to say of them, and where to stop."""

    plan: bool
    """Say what would run and what it would cost, and run nothing."""
    rate: tuple[float, float] | None
    """Stated pace of a trial's device in real TFLOP/s, slowest and fastest; None: timed on this machine."""
    watts: float | None
    """Power of the device that `rate` is stated for."""
    budget_pflop: float | None
    """By the paper's convention, for the levels that this run trains; None: no limit."""
    budget_gco2: float | None


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every entry script is told: where a sweep lies, what runs it, how its curves are read."""

    sweep: str
    store: Store
    mlflow: str
    reading: Reading
    json: Path | None
    """`-` is standard output, with a plan alone."""
    picture: Path
    cost: CostOptions
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
    add("--json", metavar="FILE", help="write the answer, or the plan, for machines here (a plan also to -)")
    add("--picture", metavar="FILE", help="where the picture of all curves goes [results/SWEEP.png]")
    add("--keep-weights", metavar="WHICH", default="dense_best_last", help="dense_best_last or all")
    add = parser.add_argument_group(
        "cost", "What it will cost, and where to stop. README: What it will cost."
    ).add_argument
    add("--plan", action="store_true", help="say what would run and what it would cost; run and write nothing")
    add(
        "--device-rate",
        metavar="X",
        nargs="+",
        help="pace of one trial in real TFLOP/s, or its slowest and fastest [timed on this machine for some seconds]",
    )
    add("--device-watts", metavar="X", help="power of the device that --device-rate is stated for, as a trial's share")
    add("--carbon-intensity", metavar="X", help=f"of the electricity, in gCO2e/kWh [{energy.WORLD_INTENSITY:g}: world]")
    add("--budget-pflop", metavar="X", help="stop when the levels of this run have cost so much (paper's convention)")
    add("--budget-gco2", metavar="X", help="stop when the levels of this run have cost so many grams of CO2e")
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

    def numbers(self, name: str, kind: str, low: float, what: str) -> list[Any]:
        """The good ones of a flag's numbers, from `low` on; [] when it was not given."""
        values = []
        for text in getattr(self.namespace, name) or []:
            value, fault = parse_value(name, text, kind)
            if fault is None and not low <= value < float("inf"):
                fault = f"{name} {value!r}: must be {what}"
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
    picture = Path(namespace.picture) if namespace.picture else Path("results") / f"{sweep}.png"
    return Common(
        sweep=sweep,
        store=_open_store(namespace.store or (cluster.store if cluster and cluster.store else "./store"), reader),
        mlflow=mlflow,
        reading=Reading(
            labels=reader.word("deciding_labels", ("clean", "noisy")),
            patience=reader.number("patience", "int", 1, "a whole number from 1", 3),
            min_drop=reader.number("min_drop", "float", 0, "a number from 0", 0.02),
            intensity=reader.number("carbon_intensity", "float", 0, "a number from 0", energy.WORLD_INTENSITY),
        ),
        json=_read_json(reader),
        picture=picture.absolute(),
        cost=_read_cost(reader),
        keep=reader.word("keep_weights", trajectory.KEEP),
        threads=reader.number("threads", "int", 1, "a whole number from 1", 1),
        cpus=reader.number("cpus_per_trial", "float", 0.01, "above 0", cluster.cpus_per_trial if cluster else 1),
        gpus=reader.number("gpus_per_trial", "float", 0, "at least 0", cluster.gpus_per_trial if cluster else None),
        workers=reader.number("workers", "int", 1, "a whole number from 1"),
        cluster=cluster,
    )


def _read_json(reader: Reader) -> Path | None:
    """Where the answer for machines goes."""
    given = reader.text("json")
    if given is None:
        return None
    if given == "-":
        if not reader.namespace.plan:
            reader.faults.append("json '-': only a plan goes to standard output; give a file")
        return Path(given)
    path = Path(given).absolute()
    if not path.parent.is_dir():
        reader.faults.append(f"json {given!r}: there is no folder {path.parent}")
    return path


def _read_cost(reader: Reader) -> CostOptions:
    rates = reader.numbers("device_rate", "float", _TINY, "above 0")
    given = reader.namespace.device_rate or []
    if len(given) > 2 or (len(rates) == 2 and rates[0] > rates[1]):
        reader.faults.append(f"device_rate {' '.join(given)}: must be one number, or the slowest and the fastest")
    watts = reader.number("device_watts", "float", _TINY, "above 0")
    if watts is not None and not given:
        reader.faults.append(f"device_watts {watts!r}: only with --device-rate; this machine's power is looked up")
    return CostOptions(
        plan=reader.namespace.plan,
        rate=(rates[0], rates[-1]) if rates else None,
        watts=watts,
        budget_pflop=reader.number("budget_pflop", "float", _TINY, "above 0"),
        budget_gco2=reader.number("budget_gco2", "float", _TINY, "above 0"),
    )


def trial_faults(spec: TrialSpec, common: Common) -> list[str]:
    """Why a trial cannot run with these options although its fields are valid."""
    on_gpu = common.gpus if common.gpus is not None else gains_from_gpu(spec)
    return trajectory.faults(spec, "cuda" if on_gpu else "cpu")


def gains_from_gpu(spec: TrialSpec) -> bool:
    """Whether a trial asks for a GPU by default."""
    return MODELS[spec.model].gains_from_gpu


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
    """The store, checked to be writable unless it is only planned for.

    A relative folder is meant from here, so a cluster cannot have one.
    """
    planned: bool = reader.namespace.plan
    if reader.namespace.cluster is not None and "://" not in url and not Path(url).is_absolute():
        reader.faults.append(
            f"store {url!r}: with --cluster it must be an absolute path or a URL that every node sees"
            " (--store, or store under metadata: sdd: of the cluster file)"
        )
        return Store(url)
    try:
        store = Store(url if "://" in url else str(Path(url).expanduser().absolute()), read_only=planned)
    except ValueError as error:
        reader.faults.append(str(error))
        return Store("./store")
    fault = None if planned else store.fault()
    if fault:
        reader.faults.append(fault)
    return store
