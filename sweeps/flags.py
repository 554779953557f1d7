"""The flags that every entry script has: text in, checked values or every fault at once out.

An entry script adds its own flags beside them, reads all with one `Reader`, and refuses with what
that has collected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typing_extensions import Doc

from sdd_core import flags, machine, trajectory
from sdd_core.data.sources import set_data_dir
from sdd_core.fields import Count, Flag, Natural, NotNegative, Positive, SpecError
from sdd_core.flags import Here, Parser, Reader, open_store
from sdd_core.reading import Reading
from sdd_core.registry import MODELS
from sdd_core.spec import TrialSpec
from sdd_core.store import Store

if TYPE_CHECKING:
    from cluster.connect import ClusterSettings


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where what a sweep says goes."""

    mlflow: Annotated[
        str | None, Flag(metavar="URI", default="MLFLOW_TRACKING_URI or ./mlflow.db"), Doc("MLflow tracking URI")
    ] = None
    sweep: Annotated[
        str | None, Flag(default="the script's name and a hash of its settings"), Doc("name of the sweep")
    ] = None
    json: Annotated[
        str | None, Flag(metavar="FILE"), Doc("write the answer, or the plan, for machines here (a plan also to -)")
    ] = None
    picture: Annotated[
        str | None, Flag(metavar="FILE", default="results/SWEEP.png"), Doc("where the picture of all curves goes")
    ] = None
    check_answer: Annotated[
        str | None,
        Flag(metavar="FILE"),
        Doc("decide again from the store's records, run and write nothing, and compare with the answer in this file"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CostOptions:
    """What every entry script is told of costs: what to say of them, and where to stop."""

    plan: Annotated[bool, Doc("say what would run and what it would cost; run and write nothing")] = False
    rate: Annotated[
        tuple[Positive, ...] | None,
        Flag("device_rate", default="timed on this machine for some seconds"),
        Doc("pace of one trial in real TFLOP/s, or its slowest and fastest"),
    ] = None
    watts: Annotated[
        Positive | None,
        Flag("device_watts"),
        Doc("power of the device that --device-rate is stated for, as a trial's share"),
    ] = None
    budget_pflop: Annotated[
        Positive | None, Doc("stop when the levels of this run have cost so much by the paper's convention")
    ] = None
    budget_gco2: Annotated[Positive | None, Doc("stop when the levels of this run have cost so many grams of CO2e")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class Workers:
    """What runs the trials."""

    cluster: Annotated[str | None, Flag(metavar="YAML"), Doc("run on this Ray cluster, from one of its machines")] = (
        None
    )
    cpus_per_trial: Annotated[Positive | None, Flag(default="1, or the cluster file's"), Doc("a trial's CPUs")] = None
    gpus_per_trial: Annotated[
        NotNegative | None,
        Flag(default="the cluster file's, or 1 where there are GPUs and the model gains from one"),
        Doc("a trial's GPUs, may be a fraction"),
    ] = None
    workers: Annotated[Count | None, Flag(default="as many as fit"), Doc("trials at once")] = None


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
    check: Mapping[str, Any] | None
    """An answer to compare with what the store's records say."""
    cost: CostOptions
    keep: str
    threads: int
    cpus: float
    gpus: float | None
    """None: one where the nodes have GPUs and the model gains from one."""
    workers: int | None
    cluster: ClusterSettings | None
    config: str = ""
    """The YAML file that does the same with --config."""


def add_common_flags(parser: Parser) -> None:
    """Add the flags that `read_common` reads."""
    parser.add(Reading, "reading", "How curves are read; it changes nothing that is trained.")
    parser.add(Here, "where", only=("store", "also_read", "data_dir", "keep"))
    parser.add(Where, "where")
    parser.add(CostOptions, "cost", "What it will cost, and where to stop. README: What it will cost.")
    parser.add(Workers, "workers")
    parser.add(Here, "workers", only=("threads", "environment"))


def read_common(reader: Reader, sweep: str) -> Common:
    """The common flags' values; `sweep` is the name when none was given.

    With faults in the reader they are the nearest ones without: callers go on checking, then refuse.
    """
    here, where, work = reader.read(Here), reader.read(Where), reader.read(Workers)
    cost = _read_cost(reader)
    set_data_dir(here.data_dir)
    cluster = reader.collect(_read_cluster, work.cluster)
    mlflow = where.mlflow or (cluster.mlflow_tracking_uri if cluster else None)
    mlflow = mlflow or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"
    sweep = where.sweep or sweep
    if "/" in sweep or sweep.startswith("."):
        reader.faults.append(f"sweep {sweep!r}: must not hold / nor begin with a dot")
    url = here.store or (cluster.store if cluster and cluster.store else "./store")
    cpus, gpus = work.cpus_per_trial, work.gpus_per_trial
    gpus = gpus if gpus is not None else cluster.gpus_per_trial if cluster else None
    environment = reader.collect(_environment, gpus, here.threads) if here.environment == "same" else None
    store = reader.collect(
        _open_store,
        url,
        here.also_read,
        planned=cost.plan or where.check_answer is not None,
        shared=work.cluster is not None,
        environment=environment,
    )
    return Common(
        sweep=sweep,
        store=store or Store("./store", read_only=True),
        mlflow=mlflow,
        reading=reader.read(Reading),
        json=reader.collect(_json_place, where.json, cost.plan) if where.json is not None else None,
        picture=Path(where.picture or Path("results") / f"{sweep}.png").absolute(),
        check=reader.collect(_answer, where.check_answer) if where.check_answer is not None else None,
        cost=cost,
        keep=here.keep,
        threads=here.threads,
        cpus=cpus if cpus is not None else cluster.cpus_per_trial if cluster else 1,
        gpus=gpus,
        workers=work.workers,
        cluster=cluster,
        config=flags.reproducing(reader.namespace),
    )


def _json_place(given: str, planned: bool) -> Path:
    """Where the answer for machines goes."""
    if given == "-":
        if not planned:
            raise SpecError(["json '-': only a plan goes to standard output; give a file"])
        return Path(given)
    path = Path(given).absolute()
    if not path.parent.is_dir():
        raise SpecError([f"json {given!r}: there is no folder {path.parent}"])
    return path


def _answer(given: str) -> dict[str, Any]:
    """The answer in a file."""
    try:
        form = json.loads(Path(given).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError([f"check_answer {given!r}: holds no answer that can be read ({error})"]) from None
    if not isinstance(form, dict):
        raise SpecError([f"check_answer {given!r}: holds no answer of a sweep"])
    return form


def _read_cost(reader: Reader) -> CostOptions:
    cost, rates = reader.read(CostOptions), reader.text("device_rate") or []
    if cost.rate is not None and (len(cost.rate) > 2 or cost.rate[0] > cost.rate[-1]):
        fault = f"device_rate {' '.join(rates)}: must be one number, or the slowest and the fastest"
        reader.faults.append(fault)
    if cost.watts is not None and not rates:
        fault = f"device_watts {cost.watts!r}: only with --device-rate; this machine's power is looked up"
        reader.faults.append(fault)
    return replace(cost, rate=(cost.rate[0], cost.rate[-1])) if cost.rate else cost


def read_seeds(reader: Reader, given: tuple[int, ...] | None, *, odd: bool = False) -> tuple[int, ...]:
    """The seeds that `--seeds` names: how many, or two and more by number; by default 3."""
    values = given if given is not None else (3,)
    seeds = tuple(range(values[0])) if len(values) == 1 else values
    shown = f"seeds {' '.join(map(str, values))}"
    if odd and (len(seeds) % 2 == 0 or len(set(seeds)) < len(seeds)):
        fault = f"{shown}: must be an odd number of different seeds, so that no λ ends in a tie"
        reader.faults.append(fault)
    elif not seeds:
        reader.faults.append(f"{shown}: must be at least 1, or two and more seeds by number")
    else:
        reader.refuse_repeated("seeds", seeds, "seeds")
    return seeds or (0,)


Seeds = Annotated[tuple[Natural, ...] | None, Flag(metavar="N", default="3")]


def trial_faults(spec: TrialSpec, common: Common) -> list[str]:
    """Why a trial cannot run with these options although its fields are valid."""
    on_gpu = common.gpus if common.gpus is not None else gains_from_gpu(spec)
    return trajectory.faults(spec, "cuda" if on_gpu else "cpu")


def gains_from_gpu(spec: TrialSpec) -> bool:
    """Whether a trial asks for a GPU by default."""
    return MODELS[spec.model].gains_from_gpu


def _read_cluster(path: str | None) -> ClusterSettings | None:
    if path is None:
        return None
    from cluster import connect

    return connect.read(path)


def _environment(gpus: float | None, threads: int) -> str:
    """The environment class of the workers, which have this process's torch or say that they have another."""
    if gpus is None:
        raise SpecError(
            ["environment 'same': only with --gpus-per-trial, which says what the trials run on; 0 is a CPU"]
        )
    return machine.environment("cuda" if gpus else "cpu", threads)


def _open_store(url: str, also_read: Sequence[str], *, planned: bool, shared: bool, environment: str | None) -> Store:
    """The store, checked to be writable unless it is only planned for, and those that it also reads.

    A relative folder is meant from here, so a cluster cannot have one.
    """
    set_by = [(url, "--store, or store under metadata: sdd: of the cluster file")]
    set_by += [(other, "--also-read") for other in also_read]
    faults = [
        f"store {place!r}: with --cluster it must be an absolute path or a URL that every node sees ({flag})"
        for place, flag in set_by
        if shared and "://" not in place and not Path(place).is_absolute()
    ]
    if faults:
        raise SpecError(faults)
    return open_store(
        _absolute(url), [_absolute(other) for other in also_read], read_only=planned, environment=environment
    )


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())
