"""A grid as a plan: every trial of every arm, each to its target sparsity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdd_core.cost import whole_levels
from sdd_core.spec import TrialSpec
from sdd_core.store import Store, is_complete
from sweeps.sweep import Arm, Outlook, Step, Task


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The plan of a sweep whose trials are all known before it runs. Its answer is its arms."""

    arms: tuple[Arm, ...]
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """The values of each field that varies, in order; without them the arms start as they are listed."""

    def trials(self) -> tuple[TrialSpec, ...]:
        """Every trial once, in the order in which they start.

        The first seed of every arm comes before the second of any, and among arms the coarse grid comes before
        the fine one, so that an early picture shows the whole range.
        """
        arms = sorted(self.arms, key=self._depth)
        seeds = max((len(arm.trials) for arm in arms), default=0)
        turns = (arm.trials[seed] for seed in range(seeds) for arm in arms if seed < len(arm.trials))
        return tuple(dict.fromkeys(turns))

    def _depth(self, arm: Arm) -> int:
        """In which round of halving the axes an arm's place is reached; its finest axis counts."""
        depths = (
            halving_depth(list(values).index(arm.fields[name]), len(values))
            for name, values in self.axes.items()
            if name in arm.fields and arm.fields[name] in values
        )
        return max(depths, default=0)

    def step(self, store: Store) -> Step:
        """The trials that have not run to their end."""
        trials = self.trials()
        tasks = tuple(Task(spec) for spec in trials if not is_complete(store.curve(spec), spec))
        return Step(tasks=tasks, trials=trials, answer=None if tasks else self.arms)

    def outlook(self, store: Store) -> Outlook:
        """Every trial to its end: fewest and most levels are the same."""
        whole = {spec: whole_levels(spec, store.curve(spec)) for spec in self.trials()}
        return Outlook(fewest=whole, most=whole, trials={spec: (n, n) for spec, n in whole.items()})


def halving_depth(index: int, size: int) -> int:
    """The round in which a place of an axis is reached: its two ends first, then the middle, then the quarters."""
    low, high, depth = 0, size - 1, 0
    while index not in (low, high):
        depth += 1
        middle = (low + high) // 2
        if index == middle:
            break
        low, high = (low, middle) if index < middle else (middle, high)
    return depth
