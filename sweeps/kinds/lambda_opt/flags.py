"""The flags of the search for lambda_opt: text in, checked options or every fault at once out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from typing_extensions import Doc

from sdd_core import recipes
from sdd_core.curve import GiveUp, default_tolerance
from sdd_core.data import splits
from sdd_core.fields import Count, Flag, NotNegative, SpecError
from sdd_core.flags import Parser, Reader, add_spec, read_teacher
from sdd_core.spec import TrialSpec, digest, setting_id
from sweeps.flags import Common, Seeds, add_common_flags, read_common, read_seeds, trial_faults
from sweeps.kinds.lambda_opt.bisection import grid
from sweeps.kinds.lambda_opt.plan import SearchSettings

SEVERAL: Final = (
    *("dataset", "model", "label_noise", "noise_kind", "noisy_labels"),
    *("alpha", "temperature", "teacher"),
)
"""Flags that take several values: there is one search for every combination."""

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
  python sweeps/lambda_opt.py --teacher pruned --alpha 0.5  λ_opt of a student distilled from its best level
  python sweeps/lambda_opt.py --label-noise 0.1 0.2 0.5     one search a setting, all on the same workers
  python sweeps/lambda_opt.py --json answer.json            the answer for machines
  python sweeps/lambda_opt.py --plan                        what it would cost; nothing runs
  python sweeps/lambda_opt.py --budget-pflop 1e-4           stop there; run again to go on
  python sweeps/lambda_opt.py --cluster cluster/gpu.yaml    the same on a Ray cluster

exit status: 0 an answer (also "there is no λ_opt") or a plan, 1 trials failed, 2 bad input,
3 stopped by a budget, 130 interrupted
"""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How λ_opt is searched for."""

    weight_decay_range: Annotated[
        tuple[NotNegative, NotNegative] | None,
        Flag(metavar=("LOW", "HIGH"), default="the recipe's, and 1000 times it"),
        Doc("λs to search; LOW is the base λ"),
    ] = None
    points_per_decade: Annotated[Count, Doc("how fine the grid of λs is")] = 4
    lambdas_at_once: Annotated[Count, Doc("λs asked for in one wave: more for many workers")] = 2
    seeds: Annotated[Seeds, Doc("seeds a λ: how many, or two and more by number; an odd number of them")] = None
    shape: Annotated[Literal["dip", "rebound"], Doc("what must vanish")] = "dip"
    tolerance: Annotated[
        NotNegative | None, Flag(default="max(0.02, 0.6/√n)"), Doc("largest dip that counts as none, a fraction")
    ] = None
    optuna: Annotated[str | None, Flag(metavar="URL", default="./optuna.db"), Doc("Optuna storage")] = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's checked input."""

    common: Common
    searches: tuple[SearchSettings, ...]
    """One a setting and approach."""
    optuna: str

    @property
    def search(self) -> SearchSettings:
        """The first, and most often the only one."""
        return self.searches[0]


def make_parser() -> Parser:
    """The command's flags and help."""
    parser = Parser(prog="lambda_opt.py", description=DESCRIPTION, epilog=EXAMPLES)
    add_spec(parser, leave_out=("weight_decay", "seed"), several=SEVERAL)
    parser.add(Search, "search")
    add_common_flags(parser)
    return parser


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags; refuses bad input with every fault in one message and exit status 2."""
    reader = make_parser().read(arguments)
    search, specs = reader.read(Search), _specs(reader)
    known = specs or {"": TrialSpec()}
    ids = sorted({setting_id(spec) for spec in known.values()})
    common = read_common(reader, f"lambda_opt-{ids[0] if len(ids) == 1 else digest(ids)}")
    searches = [read_search(reader, search, common, spec, where) for where, spec in known.items()]
    reader.refuse()
    return Options(common=common, searches=tuple(dict.fromkeys(searches)), optuna=optuna_url(search))


def _specs(reader: Reader) -> dict[str, TrialSpec]:
    """The trial of every combination of the flags that take several values, by what tells it from the others."""
    fixed, teacher = reader.given(TrialSpec), read_teacher(reader)
    axes = {name: values for name in SEVERAL if (values := fixed.pop(name, None)) is not None}
    axes |= {"teacher": reader.text("teacher")} if reader.text("teacher") else {}
    specs = {}
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        where = " ".join(f"{name}={value}" for name, value in cell.items() if len(axes[name]) > 1)
        level = cell.pop("teacher", None)
        try:
            specs[where] = recipes.make(fixed | cell, level, teacher)
        except SpecError as error:
            reader.faults += _placed(where, error.faults)
    return specs


def _placed(where: str, faults: Iterable[str]) -> list[str]:
    """Faults with the setting that they are of, where there are several."""
    return [f"{where}: {fault}" if where else fault for fault in faults]


def read_search(reader: Reader, search: Search, common: Common, spec: TrialSpec, where: str = "") -> SearchSettings:
    """The search for the λ_opt of a trial's setting; with faults in the reader, one that is near."""
    faults = trial_faults(spec, common)
    reader.faults += _placed(where, faults)
    low, high = _range(reader, search, spec)
    tolerance = search.tolerance
    if tolerance is None:
        tolerance = default_tolerance(splits.deciding_size(spec) if not faults else 1)
    return SearchSettings(
        base=spec.replace(weight_decay=low),
        points=tuple(grid(low, high, search.points_per_decade)),
        seeds=read_seeds(reader, search.seeds, odd=True),
        # All students share one teacher, which shares their data.
        data_seed=spec.data_seed if reader.text("data_seed") is not None or spec.distilled else None,
        rule=GiveUp(tolerance=tolerance, shape=search.shape, labels=common.reading.labels),
        width=search.lambdas_at_once,
    )


def optuna_url(search: Search) -> str:
    """Where Optuna's studies are kept."""
    return search.optuna or f"sqlite:///{Path('optuna.db').absolute()}"


def _range(reader: Reader, search: Search, spec: TrialSpec) -> tuple[float, float]:
    low, high = search.weight_decay_range or (spec.weight_decay, 1000 * spec.weight_decay)
    if not low < high:
        reader.faults.append(f"weight_decay_range {low:g} {high:g}: must be two numbers with 0 <= LOW < HIGH")
        return 1e-4, 0.1  # the command is refused; with any range its other flags can be checked too
    return low, high
