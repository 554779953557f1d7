"""How a trial's curve is read, and the figures of a trial as every answer names them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

from typing_extensions import Doc

from sdd_core import curve
from sdd_core.curve import Summary
from sdd_core.energy import WORLD_INTENSITY
from sdd_core.fields import BelowOne, Count, Flag, NotNegative
from sdd_core.record import Curve, LevelRecord
from sdd_core.spec import TrialSpec
from sdd_core.store import Store, is_complete


class Trial(NamedTuple):
    """A trial with its curve so far."""

    spec: TrialSpec
    curve: list[LevelRecord]

    @property
    def complete(self) -> bool:
        """Whether the curve has run to its end."""
        return is_complete(self.curve, self.spec)

    @property
    def diverged(self) -> bool:
        """Whether the training of its last level diverged, which ended it."""
        return bool(self.curve) and self.curve[-1].diverged


def read_trials(store: Store, specs: Iterable[TrialSpec]) -> list[Trial]:
    """Trials with their curves so far, in the order given."""
    return [Trial(spec, store.curve(spec)) for spec in specs]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How curves are read: labels that decide, early stopping, CO2. In no key, so it can be changed afterwards."""

    labels: Annotated[Literal["clean", "noisy"], Flag("deciding_labels"), Doc("validation labels that decide")] = (
        "clean"
    )
    patience: Annotated[Count, Doc("early stopping: levels in a row below the best")] = 3
    min_drop: Annotated[BelowOne, Doc("early stopping: by more than this, a fraction")] = 0.02
    intensity: Annotated[
        NotNegative, Flag("carbon_intensity", metavar="G"), Doc("gCO2e of a kWh; the world's in 2024 by the IEA")
    ] = WORLD_INTENSITY

    def summary(self, levels: Curve) -> Summary:
        """The figures of a curve of at least one level, read this way; raises ValueError for an empty one."""
        return curve.summarise(levels, labels=self.labels, patience=self.patience, min_drop=self.min_drop)


AS_USUAL: Final = Reading()
"""How curves are read when nothing else is asked for."""
