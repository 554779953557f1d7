"""The checked input of the joint search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.flags import Common
from sweeps.kinds.joint.plan import JointSettings
from sweeps.kinds.lambda_opt import flags


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's checked input."""

    common: Common
    settings: JointSettings
    optuna: str


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags."""
    options = flags.read_options(arguments)
    assert options.joint is not None
    return Options(common=options.common, settings=options.joint, optuna=options.optuna)
