"""The answer of a search for lambda_opt: as JSON for machines, as one screen for people, as figures for MLflow."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sdd_core import spec
from sdd_core.curve import Summary
from sdd_core.reading import Reading, trial_json
from sdd_core.spec import TrialSpec
from sweeps.kinds.lambda_opt.plan import LambdaSearch

JSON_SCHEMA: Final = 1


class LambdaAnswer:
    """What a finished search found; built from the store alone. The search's `plan` must have returned []."""

    def __init__(self, search: LambdaSearch, sweep: str, reading: Reading) -> None:
        assert search.answer is not None, "the search is not over"
        self.search, self.sweep, self.reading = search, sweep, reading
        self.settings, self.found = search.settings, search.answer
        self.rule = search.settings.rule
        self.named = self.found.optimum if self.found.optimum is not None else search.least_bad
        """The grid point that is compared with the base: lambda_opt, or the least bad."""

    def weight_decay(self, point: int | None) -> float | None:
        """The lambda of a grid point."""
        return None if point is None else self.settings.points[point]

    @property
    def base(self) -> TrialSpec:
        """The base lambda's first trial."""
        return self.settings.trials(self.settings.points[0])[0]

    def summaries(self, point: int) -> list[Summary]:
        """The figures of a grid point's trials."""
        return [self.reading.summary(levels) for _, levels in self.search.curves(point)]

    def test_shape(self, point: int | None) -> float | None:
        """Median over seeds of the dip (or rebound) on the test split, which decided nothing."""
        if point is None:
            return None
        which = "test_dip" if self.rule.shape == "dip" else "test_rebound"
        return statistics.median(float(getattr(summary, which)) for summary in self.summaries(point))

    # --- for machines ---------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """The answer, schema 1 (README: what `--json` writes)."""
        optimum = self.weight_decay(self.found.optimum)
        setting = {
            "setting_id": spec.setting_id(self.base),
            "setting": spec.setting(self.base),
            "sweep": self.sweep,
            "lambda_opt": optimum,
            "reason": self.found.reason,
            "bracket": [self.weight_decay(self.found.below), optimum],
            "base": self.settings.points[0],
            "least_bad": self.weight_decay(self.search.least_bad),
            "range": [self.settings.points[0], self.settings.points[-1]],
            "tolerance": self.rule.tolerance,
            "shape": self.rule.shape,
            "decided_on": self.base.decided_on,
            "deciding_labels": self.rule.labels,
            "test_dip": {"base": self.test_shape(0), "lambda_opt": self.test_shape(self.found.optimum)},
            "lambdas": [
                {
                    "weight_decay": self.settings.points[point],
                    "verdict": self.search.verdicts[point],
                    "median_dip": self.search.median_depth(point),
                }
                for point in sorted(self.search.asked)
            ],
            "trials": [
                trial_json(trial, levels, self.reading) | {"verdict": verdict}
                for point in sorted(self.search.asked)
                for (trial, levels), verdict in zip(
                    self.search.curves(point), self.search.trial_verdicts(point), strict=True
                )
            ],
        }
        return {"schema": JSON_SCHEMA, "settings": [setting]}

    # --- for MLflow -----------------------------------------------------------------------

    def sweep_figures(self) -> tuple[dict[str, float], dict[str, str]]:
        """Metrics and tags of the sweep's parent run."""
        form = self.as_json()["settings"][0]
        metrics = {name: form[name] for name in ("lambda_opt", "least_bad", "tolerance") if form[name] is not None}
        metrics |= {f"test_dip_{name}": value for name, value in form["test_dip"].items() if value is not None}
        tags = {name: str(form[name]) for name in ("reason", "shape", "decided_on", "deciding_labels", "setting_id")}
        return metrics, tags

    # --- for people -----------------------------------------------------------------------

    def headline(self) -> list[str]:
        """What was found, in words; every outcome gets an honest sentence."""
        shape, reason = self.rule.shape, self.found.reason
        base, top = self.settings.points[0], self.settings.points[-1]
        tolerance = f"tolerance {100 * self.rule.tolerance:.1f} points"
        lines = []
        if reason == "found":
            below = self.weight_decay(self.found.below)
            lines.append(f"λ_opt = {self.weight_decay(self.found.optimum):g}")
            lines.append(f"the smallest λ without a {shape} ({tolerance}); {self._bracket(below)}")
        elif reason == "no_dip_at_base":
            lines.append(f"λ_opt = {base:g}, the base λ: no {shape} there ({tolerance}), nothing needs avoiding")
        else:
            why = (
                f"no λ in [{base:g}, {top:g}] is without a {shape} ({tolerance})"
                if reason == "none_dip_free"
                else f"every λ without a {shape} in [{base:g}, {top:g}] collapsed ({tolerance})"
            )
            lines.append(f"no λ_opt: {why}")
            assert self.search.least_bad is not None
            depth = 100 * self.search.median_depth(self.search.least_bad)
            lines.append(
                f"least bad: λ = {self.weight_decay(self.search.least_bad):g} with a {shape} of {depth:.1f} points"
            )
            others = ", ".join(f"{self.settings.points[p]:g}" for p in self.found.unconfirmed)
            if others:
                lines.append(f"not announced, because the next λ above has a {shape} again: λ = {others}")
        if self.base.protocol == "paper":
            lines.append("PAPER PROTOCOL: trained on all images and decided on the test split")
        if self._base_never_learned():
            lines.append(f"warning: the base λ = {base:g} never left chance, so its curve says nothing")
        return lines

    def _bracket(self, below: float | None) -> str:
        optimum = self.weight_decay(self.found.optimum)
        assert optimum is not None
        assert self.found.optimum is not None
        tried = [p for p in sorted(self.search.asked) if p > self.found.optimum]
        confirmed = ""
        if tried:
            confirmed = f", and λ = {self.settings.points[tried[0]]:g} above it is {self.search.verdicts[tried[0]]}"
        return f"bracket ({'-' if below is None else format(below, 'g')} dips, {optimum:g} clean]{confirmed}"

    def _base_never_learned(self) -> bool:
        return all(
            max(record.deciding_accuracy(self.rule.labels) for record in levels) <= 1.1 * levels[0].chance
            for _, levels in self.search.curves(0)
        )

    def print(self, console: Console) -> None:
        """The answer on one screen, without the paths, which the caller knows."""
        head, *rest = self.headline()
        console.print(f"[bold]{head}[/bold]", highlight=False, soft_wrap=True)
        for line in rest:
            console.print(f"  {line}", highlight=False, soft_wrap=True)
        console.print(self._table())
        seeds = f"{len(self.settings.seeds)} seeds" if len(self.settings.seeds) > 1 else "1 seed"
        labels = "" if self.rule.labels == "clean" else f" ({self.rule.labels} labels)"
        console.print(
            f"  {seeds} a λ: median {self.rule.shape}, means of the rest. Decided on {self.base.decided_on}{labels}; "
            f"test is only reported. Early stopping: patience {self.reading.patience}, "
            f"drop over {100 * self.reading.min_drop:g} points.",
            highlight=False,
            soft_wrap=True,
            style="dim",
        )

    def _table(self) -> Table:
        """The base lambda beside lambda_opt (or the least bad), a quantity a row."""
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 2))
        table.add_column("")
        columns = []
        named = "λ_opt" if self.found.optimum is not None else "least bad λ"
        for word, point in {"base λ": 0, named: self.named}.items():
            if point is None or (word == named and point == 0):
                continue
            table.add_column(f"{word} = {self.settings.points[point]:g}", justify="right", no_wrap=True)
            columns.append(self._column(point))
        for name in columns[0]:
            table.add_row(name, *(column[name] for column in columns))
        return table

    def _column(self, point: int) -> dict[str, str]:
        figures = self.summaries(point)
        depth, test_depth = self.search.median_depth(point), self.test_shape(point)
        assert test_depth is not None

        def mean(get: Callable[[Summary], float]) -> float:
            return statistics.fmean(get(summary) for summary in figures)

        shape = self.rule.shape
        return {
            f"{shape} on {self.base.decided_on} / test": f"{100 * depth:.1f} / {100 * test_depth:.1f} points",
            "best test accuracy": _percent(mean(lambda f: f.best.test_accuracy)),
            "  at sparsity": _percent(mean(lambda f: f.best.sparsity)),
            "  for levels / PFLOP": f"{mean(lambda f: f.levels):.1f} / {mean(lambda f: f.pflop):.2e}",
            "early stopping finds test accuracy": _percent(mean(lambda f: f.early_stop.test_accuracy)),
            "  at sparsity ": _percent(mean(lambda f: f.early_stop.sparsity)),
            "  ending at level": f"{mean(lambda f: f.early_stop.levels - 1):.1f}",
            "  for levels / PFLOP ": (
                f"{mean(lambda f: f.early_stop.levels):.1f} / {mean(lambda f: f.early_stop.pflop):.2e}"
            ),
        }


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
