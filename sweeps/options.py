"""The flags of the search for lambda_opt: text in, checked options or every fault at once out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdd_core import data, trajectory
from sdd_core.cli import Parser, add_data_dir_flag, add_spec_flags, parse_value, read_spec, set_data_dir
from sdd_core.curve import GiveUp, default_tolerance
from sdd_core.spec import SpecError, TrialSpec, setting_id
from sdd_core.store import Store
from sweeps.answer import Reading
from sweeps.lambda_search import SearchSettings
from sweeps.section import grid

if TYPE_CHECKING:
    from cluster.connect import ClusterSettings

DESCRIPTION = """\
Find λ_opt: the smallest L2 penalty λ whose accuracy-over-sparsity curve has no dip.

Prunes and retrains whole trajectories with Ray Tune, lets Optuna ask for the next λ, records every
curve in MLflow, and answers with its evidence. Every finished level goes into the store at once:
run the same command again to resume, and nothing finished is trained twice.
"""
EXAMPLES = """\
examples:
  python sweeps/lambda_opt.py                               the embedded default, a few minutes on 2 cores
  python sweeps/lambda_opt.py --label-noise 0.2 --seeds 1   less noise, a quick look with one seed
  python sweeps/lambda_opt.py --weight-decay-range 1e-4 0.03 --points-per-decade 8
  python sweeps/lambda_opt.py --json answer.json            the answer for machines
  python sweeps/lambda_opt.py --cluster cluster/gpu.yaml    the same on a Ray cluster

exit status: 0 an answer (also "there is no λ_opt"), 1 trials failed, 2 bad input, 130 interrupted
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's checked input."""

    search: SearchSettings
    sweep: str
    store: Store
    reading: Reading
    mlflow: str
    optuna: str
    keep: str
    threads: int
    cpus: float
    gpus: float | None
    """None: one where the nodes have GPUs and the model gains from one."""
    workers: int | None
    json: Path | None
    picture: Path
    cluster: ClusterSettings | None


def make_parser() -> Parser:
    """The command's flags and help."""
    parser = Parser(prog="lambda_opt.py", description=DESCRIPTION, epilog=EXAMPLES)
    add_spec_flags(parser, leave_out=("weight_decay", "seed"))
    group = parser.add_argument_group("search")
    add = group.add_argument
    add(
        "--weight-decay-range",
        metavar=("LOW", "HIGH"),
        nargs=2,
        help="λs to search; LOW is the base λ [recipe's, and 1000 times it]",
    )
    add("--points-per-decade", metavar="N", default="4", help="how fine the grid of λs is [4]")
    add("--lambdas-at-once", metavar="N", default="2", help="λs asked for in one wave: more for many workers [2]")
    add(
        "--seeds", metavar="N", nargs="+", default=["3"], help="seeds a λ: how many, or two and more by number; odd [3]"
    )
    add("--shape", metavar="NAME", default="dip", help="what must vanish: dip or rebound [dip]")
    add("--tolerance", metavar="X", help="largest dip that counts as none, a fraction [max(0.02, 0.6/√n)]")
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
    add("--optuna", metavar="URL", help="Optuna storage [./optuna.db]")
    add("--sweep", metavar="NAME", help="name of the sweep [lambda_opt- and a hash of the setting]")
    add("--json", metavar="FILE", help="write the answer for machines here")
    add("--picture", metavar="FILE", help="where the picture of all curves goes [results/SWEEP.png]")
    add("--keep-weights", metavar="WHICH", default="dense_best_last", help="dense_best_last or all")
    group = parser.add_argument_group("workers")
    add = group.add_argument
    add("--cluster", metavar="YAML", help="run on this Ray cluster, from one of its machines")
    add("--cpus-per-trial", metavar="X", help="[1, or the cluster file's]")
    add(
        "--gpus-per-trial",
        metavar="X",
        help="may be a fraction [the cluster file's, or 1 where there are GPUs; lenet 0]",
    )
    add("--threads", metavar="N", default="1", help="CPU threads of a trial's arithmetic [1]")
    add("--workers", metavar="N", help="trials at once [as many as fit]")
    return parser


class _Reader:
    """Turns the flags' text into values, collecting every fault."""

    def __init__(self, namespace: argparse.Namespace) -> None:
        self.namespace, self.faults = namespace, list[str]()

    def text(self, name: str) -> str | None:
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
        text = self.text(name)
        if text not in allowed:
            self.faults.append(f"{name} {text!r}: allowed are {', '.join(allowed)}")
        return text

    def seeds(self) -> tuple[int, ...]:
        values = []
        for text in self.namespace.seeds:
            value, fault = parse_value("seeds", text, "int")
            if fault is None and value < 0:
                fault = f"seeds {value}: must be at least 0"
            if fault:
                self.faults.append(fault)
            else:
                values.append(value)
        seeds = tuple(range(values[0])) if len(values) == 1 else tuple(values)
        if len(values) == len(self.namespace.seeds) and (len(seeds) % 2 == 0 or len(set(seeds)) < len(seeds)):
            given = " ".join(self.namespace.seeds)
            self.faults.append(f"seeds {given}: must be an odd number of different seeds, so that no λ ends in a tie")
        return seeds or (0,)

    def range(self, spec: TrialSpec) -> tuple[float, float]:
        given = self.namespace.weight_decay_range
        if given is None:
            return spec.weight_decay, 1000 * spec.weight_decay
        parsed = [parse_value("weight_decay_range", text, "float") for text in given]
        faults = [fault for _, fault in parsed if fault]
        low, high = (value for value, _ in parsed)
        if not faults and not 0 <= low < high < float("inf"):
            faults = [f"weight_decay_range {low:g} {high:g}: must be two numbers with 0 <= LOW < HIGH"]
        self.faults += faults
        return (low, high) if not faults else (spec.weight_decay, 1000 * spec.weight_decay)


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags; refuses bad input with every fault in one message and exit status 2."""
    parser = make_parser()
    namespace, faults = parser.parse_collecting(arguments)
    reader = _Reader(namespace)
    set_data_dir(namespace)
    spec, spec_faults = read_spec(namespace)
    cluster = _read_cluster(namespace.cluster, reader)
    gpus = reader.number("gpus_per_trial", "float", 0, "at least 0", cluster.gpus_per_trial if cluster else None)
    on_gpu = gpus if gpus is not None else gains_from_gpu(spec)
    data_faults = trajectory.faults(spec, "cuda" if on_gpu else "cpu") if not spec_faults else []
    size = data.deciding_size(spec) if not (spec_faults or data_faults) else 1
    low, high = reader.range(spec)
    points = tuple(grid(low, high, reader.number("points_per_decade", "int", 1, "a whole number from 1", 4)))
    tolerance = reader.number("tolerance", "float", 0, "a number from 0")
    rule = GiveUp(
        tolerance=default_tolerance(size) if tolerance is None else tolerance,
        shape=reader.word("shape", ("dip", "rebound")),
        labels=reader.word("deciding_labels", ("clean", "noisy")),
    )
    width = reader.number("lambdas_at_once", "int", 1, "a whole number from 1", 2)
    settings = SearchSettings(
        base=spec.replace(weight_decay=low),
        points=points,
        seeds=reader.seeds(),
        data_seed=spec.data_seed if namespace.data_seed is not None else None,
        rule=rule,
        width=width,
    )
    reading = Reading(
        patience=reader.number("patience", "int", 1, "a whole number from 1", 3),
        min_drop=reader.number("min_drop", "float", 0, "a number from 0", 0.02),
    )
    store = _open_store(namespace.store or (cluster.store if cluster and cluster.store else "./store"), reader)
    mlflow = namespace.mlflow or (cluster.mlflow_tracking_uri if cluster else None)
    mlflow = mlflow or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"
    sweep = namespace.sweep or f"lambda_opt-{setting_id(settings.base)}"
    if "/" in sweep or sweep.startswith("."):
        reader.faults.append(f"sweep {sweep!r}: must not hold / nor begin with a dot")
    keep = reader.word("keep_weights", trajectory.KEEP)
    threads = reader.number("threads", "int", 1, "a whole number from 1", 1)
    workers = reader.number("workers", "int", 1, "a whole number from 1")
    cpus = reader.number("cpus_per_trial", "float", 0.01, "above 0", cluster.cpus_per_trial if cluster else 1)
    json_file = Path(namespace.json).absolute() if namespace.json else None
    if json_file is not None and not json_file.parent.is_dir():
        reader.faults.append(f"json {namespace.json!r}: there is no folder {json_file.parent}")
    faults += spec_faults + data_faults + reader.faults
    if faults or store is None:
        parser.refuse(faults)
    return Options(
        search=settings,
        sweep=sweep,
        store=store,
        reading=reading,
        mlflow=mlflow,
        optuna=namespace.optuna or f"sqlite:///{Path('optuna.db').absolute()}",
        keep=keep,
        threads=threads,
        cpus=cpus,
        gpus=gpus,
        workers=workers,
        json=json_file,
        picture=Path(namespace.picture).absolute()
        if namespace.picture
        else Path("results").absolute() / f"{sweep}.png",
        cluster=cluster,
    )


def gains_from_gpu(spec: TrialSpec) -> bool:
    """Whether a trial asks for a GPU by default. A LeNet's steps are too small for one: a core does as well."""
    return spec.model != "lenet"


def _read_cluster(path: str | None, reader: _Reader) -> ClusterSettings | None:
    if path is None:
        return None
    from cluster import connect

    try:
        return connect.read(path)
    except SpecError as error:
        reader.faults += error.faults
        return None


def _open_store(url: str, reader: _Reader) -> Store | None:
    """The store, when it can be written to. A relative folder is meant from here, so a cluster cannot have one."""
    if reader.namespace.cluster is not None and "://" not in url and not Path(url).is_absolute():
        reader.faults.append(
            f"store {url!r}: with --cluster it must be an absolute path or a URL that every node sees"
            " (--store, or store under metadata: sdd: of the cluster file)"
        )
        return None
    try:
        store = Store(url if "://" in url else str(Path(url).expanduser().absolute()))
    except ValueError as error:
        reader.faults.append(str(error))
        return None
    fault = store.fault()
    if fault:
        reader.faults.append(fault)
        return None
    return store
