"""Optuna's part: the study that a search keeps, the sampler that proposes lambdas, the constraint it reports.

One Optuna trial is one lambda: its value is the lambda itself (to be minimised), its constraints say
whether the verdict is clean (all <= 0) and its attributes name the trials of its seeds. Verdicts come
from the store and go into the study, never back: the study is a view that can be deleted and is
written again by the next run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from sdd_core.curve import Verdict
from sweeps.kinds.lambda_opt.bisection import Answer, Ask, decide

logger = logging.getLogger(__name__)

PARAMETER = "weight_decay"
_TRIALS = "trial_ids"


class SectionSampler(optuna.samplers.BaseSampler):
    """Proposes the lambdas of `section.decide`, one a trial; `pending` points are already proposed.

    `verdicts` are those known so far, by grid point. Asked for more than the wave holds, or when
    there is an answer already, it raises RuntimeError: there is nothing to sample then.
    """

    def __init__(self, points: Sequence[float], width: int = 2) -> None:
        self.points, self.width = tuple(points), width
        self.verdicts: Mapping[int, Verdict] = {}
        self.pending: set[int] = set()

    def decision(self) -> Ask | Answer:
        """What the verdicts so far ask for."""
        return decide(len(self.points), self.verdicts, self.width)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        low, high = self.points[0], self.points[-1]
        return {PARAMETER: FloatDistribution(low, high, log=low > 0)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        decision = self.decision()
        asked = decision.points if isinstance(decision, Ask) else ()
        point = next((p for p in asked if p not in self.pending), None)
        if point is None:
            raise RuntimeError(f"nothing to sample: {decision} with {sorted(self.pending)} pending")
        self.pending.add(point)
        return {PARAMETER: self.points[point]}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"{param_name!r}: this search has one parameter, {PARAMETER}")


class LambdaStudy:
    """The study of one search for lambda_opt, owned by the driver's process.

    `trial_ids(lambda)` names the seeds' trials of a lambda. A storage that cannot be used costs the
    record, not the search: the study then goes on in memory and `warning` says so.
    """

    def __init__(
        self,
        storage: str | None,
        name: str,
        points: Sequence[float],
        width: int,
        trial_ids: Callable[[float], list[str]],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.name, self.warning = name, ""
        self._sampler = SectionSampler(points, width)
        self._trial_ids = trial_ids
        self._trials: dict[int, Trial | FrozenTrial] = {}
        self._storage = storage
        try:
            self._open(RDBStorage(storage) if storage is not None else InMemoryStorage())
        except Exception as error:  # whatever a database does, the search goes on
            self._go_on_in_memory(error)

    def _open(self, storage: BaseStorage) -> None:
        self.study = optuna.create_study(
            storage=storage, study_name=self.name, sampler=self._sampler, direction="minimize", load_if_exists=True
        )
        self._trials = {}
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state == TrialState.RUNNING and _TRIALS not in frozen.user_attrs:
                self.study.tell(frozen.number, state=TrialState.FAIL)  # killed while it was being asked
                continue
            point = self._point_of(frozen)
            if point is None or frozen.state not in (TrialState.RUNNING, TrialState.COMPLETE):
                continue
            running = frozen.state == TrialState.RUNNING  # a killed driver left it: asked again, not asked twice
            self._trials[point] = Trial(self.study, frozen._trial_id) if running else frozen

    def _point_of(self, frozen: FrozenTrial) -> int | None:
        """The grid point of a trial that an earlier run asked for, when its seeds are still the same."""
        value = frozen.params.get(PARAMETER)
        if value not in self._sampler.points or frozen.user_attrs.get(_TRIALS) != self._trial_ids(value):
            return None
        return self._sampler.points.index(value)

    def _go_on_in_memory(self, error: Exception) -> None:
        self.warning = (
            f"the Optuna study could not be written to {self._storage} ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}); it goes on in memory, "
            "and the next run writes it from the store"
        )
        logger.warning(self.warning)
        self._open(InMemoryStorage())

    def next(self, verdicts: Mapping[int, Verdict]) -> list[int] | Answer:
        """The grid points that Optuna asks for given these verdicts, or the answer."""
        try:
            return self._next(verdicts)
        except optuna.exceptions.StorageInternalError as error:
            self._go_on_in_memory(error)
            return self._next(verdicts)

    def _next(self, verdicts: Mapping[int, Verdict]) -> list[int] | Answer:
        self._sampler.verdicts, self._sampler.pending = verdicts, set()
        decision = self._sampler.decision()
        if isinstance(decision, Answer):
            return decision
        self._sampler.pending = set(decision.points) & set(self._trials)
        for _ in range(len(decision.points) - len(self._sampler.pending)):
            trial = self.study.ask()
            value = trial.suggest_float(PARAMETER, self._sampler.points[0], self._sampler.points[-1], log=self._log)
            trial.set_user_attr(_TRIALS, self._trial_ids(value))
            self._trials[self._sampler.points.index(value)] = trial
        return list(decision.points)

    @property
    def _log(self) -> bool:
        return self._sampler.points[0] > 0

    def tell(self, point: int, verdict: Verdict, constraints: Mapping[str, float]) -> None:
        """Report a lambda's verdict: feasible exactly when every constraint is <= 0. Told once."""
        trial = self._trials.get(point)
        if not isinstance(trial, Trial):
            return
        try:
            for name, value in constraints.items():
                trial.set_constraint(name, value)
            trial.set_user_attr("verdict", verdict)
            self._trials[point] = self.study.tell(trial, self._sampler.points[point])
        except optuna.exceptions.StorageInternalError as error:
            self._go_on_in_memory(error)
