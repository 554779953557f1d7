"""The flags of the joint search over λ, α and τ: text in, checked options or every fault at once out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from typing_extensions import Doc

from sdd_core.fields import Count
from sdd_core.flags import Parser, add_spec, read_spec
from sdd_core.spec import TrialSpec, setting_id
from sweeps.flags import Common, add_common_flags, read_common
from sweeps.kinds.joint.plan import JointSettings
from sweeps.kinds.joint.study import Axes
from sweeps.kinds.lambda_opt.bisection import grid
from sweeps.kinds.lambda_opt.flags import Search, optuna_url, read_search

ALPHAS: Final = tuple(k / 20 for k in range(1, 21))
TEMPERATURES: Final = tuple(grid(1, 20, 4))
"""What the search takes α and τ from."""

DESCRIPTION = """\
Search the L2 penalty λ and distillation's α and τ together, for the most accurate and the sparsest student.

Optuna proposes points; of those whose curves have no dip, the answer holds the ones than which no other is
both more accurate and sparser. Every finished level goes into the store at once: run the same command again
to resume, and nothing finished is trained twice.
"""
EXAMPLES = """\
examples:
  python sweeps/joint.py --teacher dense                    24 points of λ, α and τ
  python sweeps/joint.py --teacher pruned --points 60 --weight-decay-range 1e-4 0.03
  python sweeps/joint.py --teacher dense --plan             what it would cost; nothing runs

exit status: 0 an answer or a plan, 1 trials failed, 2 bad input, 3 stopped by a budget, 130 interrupted
"""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """How much is searched."""

    points: Annotated[Count, Doc("points of λ, α and τ to try")] = 24


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's checked input."""

    common: Common
    settings: JointSettings
    optuna: str


def make_parser() -> Parser:
    """The command's flags and help."""
    parser = Parser(prog="joint.py", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add(Joint, "search")
    parser.add(Search, "search")
    add_spec(parser, leave_out=("weight_decay", "seed", "alpha", "temperature"))
    add_common_flags(parser)
    return parser


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags; refuses bad input with every fault in one message and exit status 2."""
    reader = make_parser().read(arguments)
    budget, search, given = reader.read(Joint).points, reader.read(Search), read_spec(reader)
    spec = given or TrialSpec()
    common = read_common(reader, f"joint-{setting_id(spec)}")
    found = read_search(reader, search, common, spec)
    if given is not None and not spec.distilled:
        reader.faults.append("teacher: is needed; without one there is no alpha and temperature (--teacher dense)")
    reader.refuse()
    axes = Axes(weight_decay=found.points, alpha=ALPHAS, temperature=TEMPERATURES)
    settings = JointSettings(
        base=found.base,
        axes=axes,
        budget=budget,
        seeds=found.seeds,
        rule=found.rule,
        reading=common.reading,
        width=found.width,
    )
    return Options(common=common, settings=settings, optuna=optuna_url(search))
