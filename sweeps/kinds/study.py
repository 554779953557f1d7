"""A study in Optuna's database that shows what a search asks for: a view of the store, rewritten by the next run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import Trial, TrialState

from sweeps.sweep import Asked

logger = logging.getLogger(__name__)
_TRIALS = "trial_ids"
Direction = Literal["minimize", "maximize"]

optuna.logging.set_verbosity(optuna.logging.ERROR)


class StudyInDatabase:
    """One Optuna trial is one point of the search; its attributes name the trials of its seeds.

    A database that cannot be written to costs the view and never the search: `warning` then says so.
    """

    def __init__(
        self, storage: str, name: str, directions: Sequence[Direction], ranges: Mapping[str, FloatDistribution]
    ) -> None:
        self.storage, self.name, self.directions, self.ranges = storage, name, list(directions), ranges
        self.warning = ""

    def show(self, asked: Sequence[Asked]) -> None:
        """Make the study hold these points, each once: running until it has a verdict, then complete."""
        if self.warning:  # one failure is said once, and not waited for at every step
            return
        try:
            self._show(asked)
        except Exception as error:  # whatever a database does, the search goes on
            text = str(error).splitlines()[0] if str(error) else "no message"
            self.warning = (
                f"the Optuna study could not be written to {self.storage} ({type(error).__name__}: {text}); "
                "the next run writes it from the store"
            )
            logger.warning(self.warning)

    def _show(self, asked: Sequence[Asked]) -> None:
        study = optuna.create_study(
            storage=self.storage, study_name=self.name, directions=self.directions, load_if_exists=True
        )
        held = {tuple(trial.user_attrs.get(_TRIALS, ())): trial for trial in study.get_trials(deepcopy=False)}
        for point in asked:
            ids = tuple(spec.trial_id for spec in point.trials)
            known = held.get(ids)
            if known is None:
                study.add_trial(self._frozen(point, ids))
            elif known.state == TrialState.RUNNING and point.verdict is not None:
                trial = Trial(study, known._trial_id)
                for name, value in point.constraints.items():
                    trial.set_constraint(name, value)
                trial.set_user_attr("verdict", point.verdict)
                study.tell(known.number, list(point.objectives))

    def _frozen(self, point: Asked, ids: tuple[str, ...]) -> optuna.trial.FrozenTrial:
        known = point.verdict is not None
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if known else TrialState.RUNNING,
            params=dict(point.values),
            distributions=dict(self.ranges),
            values=list(point.objectives) if known else None,
            constraints=dict(point.constraints) if known else None,
            user_attrs={_TRIALS: list(ids)} | ({"verdict": point.verdict} if known else {}),
        )


def log_range(low: float, high: float) -> FloatDistribution:
    """The range of a parameter, searched on a log scale where it has one."""
    return FloatDistribution(low, high, log=0 < low < high)
