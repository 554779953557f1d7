"""Optuna's part in the joint search over λ, α and τ: a constrained study with two objectives.

TPE proposes points of a grid, so that searches share levels. The study lives in memory and is played
again from its beginning, with one seed: what is asked next depends on the arguments and on what was
told, never on order, time or number of workers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import Trial, TrialState

from sweeps.kinds.study import log_range

OBJECTIVES: Final = ("best_accuracy", "sparsity_at_best")
_SEED: Final = 0
_REPEATS: Final = 20
"""Proposals in a row of points that are known already, after which the first unknown one is taken."""


class Point(NamedTuple):
    """What is searched for, in the spec's words."""

    weight_decay: float
    alpha: float
    temperature: float


class Told(NamedTuple):
    """What Optuna is told of a point: means over its seeds, and its constraints, clean when all are <= 0."""

    accuracy: float
    sparsity: float
    constraints: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Axes:
    """The rising values that each field may take; points are their combinations."""

    weight_decay: tuple[float, ...]
    alpha: tuple[float, ...]
    temperature: tuple[float, ...]

    def point(self, indices: Mapping[str, int]) -> Point:
        """The point with these indices of its fields' values."""
        return Point(*(getattr(self, name)[indices[name]] for name in Point._fields))

    def ranges(self) -> dict[str, FloatDistribution]:
        """What a study shows as the range of each field."""
        found = {name: log_range(getattr(self, name)[0], getattr(self, name)[-1]) for name in Point._fields}
        return found | {"alpha": FloatDistribution(self.alpha[0], self.alpha[-1])}

    def grid(self) -> Iterator[tuple[dict[str, int], Point]]:
        """Every point with its indices."""
        for index in itertools.product(*(range(len(getattr(self, name))) for name in Point._fields)):
            indices = dict(zip(Point._fields, index, strict=True))
            yield indices, self.point(indices)


class JointStudy:
    """The study of one joint search, in memory and played from its beginning."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        sampler = optuna.samplers.TPESampler(multivariate=True, seed=_SEED)
        self._study = optuna.create_study(sampler=sampler, directions=["maximize"] * len(OBJECTIVES))
        self._asked: list[tuple[Trial, Point]] = []

    def ask(self, count: int, known: Mapping[Point, Told]) -> list[Point]:
        """At most `count` new points; [] when the grid is exhausted. Optuna is told `known` ones again at once."""
        wave: list[Point] = []
        repeats = 0
        while len(wave) < count:
            if repeats == _REPEATS and not self._enqueue_unknown({*known, *wave}):
                break
            trial = self._study.ask()
            point = self.axes.point({name: self._suggest(trial, name) for name in Point._fields})
            if point in known:
                self._tell(trial, known[point])
            else:
                self._asked.append((trial, point))
            new = point not in known and point not in wave
            wave += [point] if new else []
            repeats = 0 if new else repeats + 1
        return wave

    def _enqueue_unknown(self, known: set[Point]) -> bool:
        """Have the first point of the grid that is not known proposed next; False when there is none."""
        unknown = next((indices for indices, point in self.axes.grid() if point not in known), None)
        if unknown is not None:
            self._study.enqueue_trial(unknown)
        return unknown is not None

    def _suggest(self, trial: Trial, name: str) -> int:
        return trial.suggest_int(name, 0, len(getattr(self.axes, name)) - 1)

    def tell(self, told: Mapping[Point, Told]) -> None:
        """Report the points of a wave."""
        for trial, point in self._asked:
            self._tell(trial, told[point])
        self._asked = []

    def _tell(self, trial: Trial, told: Told) -> None:
        for name, value in told.constraints:
            trial.set_constraint(name, value)
        self._study.tell(trial, [told.accuracy, told.sparsity])

    def front(self) -> list[Point]:
        """The feasible points that no other feasible one dominates, the most accurate first."""
        if not any(self._feasible(trial) for trial in self._study.get_trials(deepcopy=False)):
            return []  # Optuna would name the least infeasible
        best = {
            self.axes.point(trial.params): trial.values for trial in self._study.best_trials if self._feasible(trial)
        }
        return sorted(best, key=lambda point: (-best[point][0], -best[point][1], point))

    @staticmethod
    def _feasible(trial: optuna.trial.FrozenTrial) -> bool:
        return trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values())
