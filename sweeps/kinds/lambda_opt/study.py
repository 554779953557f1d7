"""Optuna's part in the search for λ_opt: a sampler that proposes λs, and the study that is played from its beginning.

One Optuna trial is one λ: its value is the λ itself (to be minimised), its constraints say whether the
verdict is clean (all <= 0). The sampler reads what it needs from the study that it samples for, so it
can be used with any study whose trials carry their verdict as the user attribute `verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from sdd_core.curve import Verdict
from sweeps.kinds.lambda_opt.bisection import Answer, Ask, decide
from sweeps.kinds.study import log_range

PARAMETER: Final = "weight_decay"


class SectionSampler(optuna.samplers.BaseSampler):
    """Proposes the λs of `bisection.decide`, one a trial, from a rising grid of `points`.

    Asked for more than the wave holds, or when there is an answer already, it raises RuntimeError: there is
    nothing to sample then.
    """

    def __init__(self, points: Sequence[float], width: int = 2) -> None:
        self.points, self.width = tuple(points), width

    def decision(self, study: Study) -> Ask | Answer:
        """What the verdicts in a study ask for, or the answer that they give."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        verdicts = {self._point(trial): trial.user_attrs["verdict"] for trial in trials}
        return decide(len(self.points), verdicts, self.width)

    def _point(self, trial: FrozenTrial) -> int:
        return self.points.index(trial.params[PARAMETER])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {PARAMETER: log_range(self.points[0], self.points[-1])}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        decision = self.decision(study)
        asked = decision.points if isinstance(decision, Ask) else ()
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        pending = {self._point(other) for other in running if PARAMETER in other.params}
        point = next((p for p in asked if p not in pending), None)
        if point is None:
            raise RuntimeError(f"nothing to sample: {decision} with {sorted(pending)} pending")
        return {PARAMETER: self.points[point]}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"{param_name!r}: this search has one parameter, {PARAMETER}")


class LambdaStudy:
    """The study of one search, in memory and played from its beginning."""

    def __init__(self, points: Sequence[float], width: int) -> None:
        self._sampler = SectionSampler(points, width)
        self._study = optuna.create_study(sampler=self._sampler, direction="minimize")
        self._running: dict[int, Trial] = {}

    def ask(self) -> list[int] | Answer:
        """The grid points of the next wave, or the answer."""
        decision = self._sampler.decision(self._study)
        if isinstance(decision, Answer):
            return decision
        space: FloatDistribution = log_range(self._sampler.points[0], self._sampler.points[-1])
        for _ in decision.points:
            trial = self._study.ask({PARAMETER: space})
            self._running[self._sampler.points.index(trial.params[PARAMETER])] = trial
        return list(decision.points)

    def tell(self, point: int, verdict: Verdict, constraints: Mapping[str, float]) -> None:
        """Report a λ's verdict: feasible exactly when every constraint is <= 0."""
        trial = self._running.pop(point)
        for name, value in constraints.items():
            trial.set_constraint(name, value)
        trial.set_user_attr("verdict", verdict)
        self._study.tell(trial, self._sampler.points[point])
