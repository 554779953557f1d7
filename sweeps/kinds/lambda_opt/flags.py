"""The flags of the search for lambda_opt: text in, checked options or every fault at once out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdd_core.curve import GiveUp, default_tolerance
from sdd_core.data import splits
from sdd_core.flags import Parser, add_spec_flags, parse_value, read_spec
from sdd_core.reading import Reading
from sdd_core.spec import TrialSpec, setting_id
from sweeps.flags import Common, Reader, add_common_flags, read_common, trial_faults
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
    add_spec_flags(parser, leave_out=("weight_decay", "seed"))
    add = parser.add_argument_group("search").add_argument
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
        "--joint",
        metavar="N",
        help="with --teacher: search λ, α and τ together over N points, for the most accurate and the sparsest "
        "without a dip",
    )
    add("--optuna", metavar="URL", help="Optuna storage [./optuna.db]")
    add_common_flags(parser, "lambda_opt- and a hash of the setting")
    return parser


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags; refuses bad input with every fault in one message and exit status 2."""
    parser = make_parser()
    namespace, faults = parser.parse_collecting(arguments)
    reader = Reader(namespace)
    spec, spec_faults = read_spec(namespace)
    common = read_common(reader, f"{'joint' if namespace.joint else 'lambda_opt'}-{setting_id(spec)}")
    data_faults = trial_faults(spec, common) if not spec_faults else []
    size = splits.deciding_size(spec) if not (spec_faults or data_faults) else 1
    low, high = _range(reader, spec)
    points = tuple(grid(low, high, reader.number("points_per_decade", "int", 1, "a whole number from 1", 4)))
    tolerance = reader.number("tolerance", "float", 0, "a number from 0")
    rule = GiveUp(
        tolerance=default_tolerance(size) if tolerance is None else tolerance,
        shape=reader.word("shape", ("dip", "rebound")),
        labels=common.reading.labels,
    )
    settings = SearchSettings(
        base=spec.replace(weight_decay=low),
        points=points,
        seeds=_seeds(reader),
        # All students share one teacher, which shares their data.
        data_seed=spec.data_seed if namespace.data_seed is not None or spec.distilled else None,
        rule=rule,
        width=reader.number("lambdas_at_once", "int", 1, "a whole number from 1", 2),
    )
    joint = _joint(reader, settings, common.reading)
    faults += spec_faults + data_faults + reader.faults
    if faults:
        parser.refuse(faults)
    optuna = namespace.optuna or f"sqlite:///{Path('optuna.db').absolute()}"
    return Options(common=common, search=settings, joint=joint, optuna=optuna)


def _joint(reader: Reader, search: SearchSettings, reading: Reading) -> JointSettings | None:
    """The joint search that is asked for, over the λs of the search for λ_opt."""
    budget = reader.number("joint", "int", 1, "a whole number from 1")
    if budget is None:
        return None
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


def _seeds(reader: Reader) -> tuple[int, ...]:
    values = reader.numbers("seeds", "int", 0, "a whole number from 0")
    seeds = tuple(range(values[0])) if len(values) == 1 else tuple(values)
    given = reader.namespace.seeds
    if len(values) == len(given) and (len(seeds) % 2 == 0 or len(set(seeds)) < len(seeds)):
        reader.faults.append(
            f"seeds {' '.join(given)}: must be an odd number of different seeds, so that no λ ends in a tie"
        )
    return seeds or (0,)


def _range(reader: Reader, spec: TrialSpec) -> tuple[float, float]:
    given = reader.namespace.weight_decay_range
    if given is None:
        return spec.weight_decay, 1000 * spec.weight_decay
    parsed = [parse_value("weight_decay_range", text, "float") for text in given]
    faults = [fault for _, fault in parsed if fault]
    low, high = (value for value, _ in parsed)
    if not faults and not 0 <= low < high < float("inf"):
        faults = [f"weight_decay_range {low:g} {high:g}: must be two numbers with 0 <= LOW < HIGH"]
    reader.faults += faults
    return (low, high) if not faults else (spec.weight_decay, 1000 * spec.weight_decay)
