"""The flags of the search for lambda_opt: text in, checked options or every fault at once out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from typing_extensions import Doc

from sdd_core.curve import GiveUp, default_tolerance
from sdd_core.data import splits
from sdd_core.fields import Count, Flag, NotNegative
from sdd_core.flags import Parser, Reader, add_spec, read_spec
from sdd_core.reading import Reading
from sdd_core.spec import TrialSpec, setting_id
from sweeps.flags import Common, Seeds, add_common_flags, read_common, read_seeds, trial_faults
from sweeps.kinds.joint.plan import JointSettings
from sweeps.kinds.joint.study import Axes
from sweeps.kinds.lambda_opt.bisection import grid
from sweeps.kinds.lambda_opt.plan import SearchSettings

ALPHAS: Final = tuple(k / 20 for k in range(1, 21))
TEMPERATURES: Final = tuple(grid(1, 20, 4))
"""What a joint search takes α and τ from."""

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
  python sweeps/lambda_opt.py --teacher dense --joint 24    λ, α and τ together
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
    joint: Annotated[
        Count | None,
        Doc(
            "with --teacher: search λ, α and τ together over N points, for the most accurate and the sparsest "
            "without a dip"
        ),
    ] = None
    optuna: Annotated[str | None, Flag(metavar="URL", default="./optuna.db"), Doc("Optuna storage")] = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's checked input."""

    common: Common
    search: SearchSettings
    joint: JointSettings | None
    """Of the joint search over λ, α and τ, when it is asked for."""
    optuna: str

    @property
    def searches(self) -> tuple[SearchSettings, ...]:
        return (self.search,)


def make_parser() -> Parser:
    """The command's flags and help."""
    parser = Parser(prog="lambda_opt.py", description=DESCRIPTION, epilog=EXAMPLES)
    add_spec(parser, leave_out=("weight_decay", "seed"))
    parser.add(Search, "search")
    add_common_flags(parser)
    return parser


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags; refuses bad input with every fault in one message and exit status 2."""
    reader = make_parser().read(arguments)
    given, search = read_spec(reader), reader.read(Search)
    spec = given or TrialSpec()
    common = read_common(reader, f"{'joint' if search.joint else 'lambda_opt'}-{setting_id(spec)}")
    data_faults = trial_faults(spec, common) if given else []
    reader.faults += data_faults
    low, high = _range(reader, search, spec)
    tolerance = search.tolerance
    if tolerance is None:
        tolerance = default_tolerance(splits.deciding_size(spec) if not data_faults else 1)
    settings = SearchSettings(
        base=spec.replace(weight_decay=low),
        points=tuple(grid(low, high, search.points_per_decade)),
        seeds=read_seeds(reader, search.seeds, odd=True),
        # All students share one teacher, which shares their data.
        data_seed=spec.data_seed if reader.text("data_seed") is not None or spec.distilled else None,
        rule=GiveUp(tolerance=tolerance, shape=search.shape, labels=common.reading.labels),
        width=search.lambdas_at_once,
    )
    joint = _joint(reader, search.joint, settings, common.reading) if search.joint is not None else None
    reader.refuse()
    optuna = search.optuna or f"sqlite:///{Path('optuna.db').absolute()}"
    return Options(common=common, search=settings, joint=joint, optuna=optuna)


def _joint(reader: Reader, budget: int, search: SearchSettings, reading: Reading) -> JointSettings:
    """The joint search that is asked for, over the λs of the search for λ_opt."""
    if not search.base.distilled:
        reader.faults.append(f"joint {budget}: needs --teacher; without one there is no alpha and temperature")
    for name in ("alpha", "temperature"):
        if reader.text(name) is not None:
            reader.faults.append(f"{name} {reader.text(name)}: is searched with --joint; leave it out")
    axes = Axes(weight_decay=search.points, alpha=ALPHAS, temperature=TEMPERATURES)
    return JointSettings(
        base=search.base,
        axes=axes,
        budget=budget,
        seeds=search.seeds,
        rule=search.rule,
        reading=reading,
        width=search.width,
    )


def _range(reader: Reader, search: Search, spec: TrialSpec) -> tuple[float, float]:
    otherwise = spec.weight_decay or 1e-4, 1000 * (spec.weight_decay or 1e-4)
    low, high = search.weight_decay_range or (spec.weight_decay, 1000 * spec.weight_decay)
    if not low < high:
        reader.faults.append(f"weight_decay_range {low:g} {high:g}: must be two numbers with 0 <= LOW < HIGH")
        return otherwise
    return low, high
