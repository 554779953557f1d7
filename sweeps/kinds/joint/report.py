"""The answer of a joint search over λ, α and τ: for machines, for people, for MLflow and for the picture."""

from __future__ import annotations

import statistics
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from analysis.pictures.joint import Place
from sdd_core import spec
from sdd_core.reading import trial_json
from sdd_core.spec import TrialSpec
from sweeps.kinds.joint.plan import JointSearch
from sweeps.kinds.joint.study import OBJECTIVES, Point

JSON_SCHEMA: Final = 1
VANILLA: Final = "vanilla"


class JointAnswer:
    """What a finished joint search found; built from the store alone. The search's `plan` must have returned []."""

    def __init__(self, search: JointSearch, sweep: str) -> None:
        self.search, self.sweep = search, sweep
        self.settings, self.rule, self.reading = search.settings, search.settings.rule, search.reading

    # --- for machines ---------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """The answer, schema 1 (README: Distillation)."""
        base = self.settings.base
        assert base.teacher is not None
        points = [self._figures(self.settings.trials(point)) | self._judged(point) for point in self.search.verdicts]
        verdicts = [verdict for of_point in self._trial_verdicts() for verdict in of_point]
        return {
            "schema": JSON_SCHEMA,
            "sweep": self.sweep,
            "setting": spec.setting(base.replace(teacher=None, alpha=0.0)),
            "teacher": {"trial": spec.to_json(base.teacher.trial), "level": base.teacher.level},
            "objectives": list(OBJECTIVES),
            "axes": {name: list(values) for name, values in vars(self.settings.axes).items()},
            "tolerance": self.rule.tolerance,
            "shape": self.rule.shape,
            "decided_on": base.decided_on,
            "deciding_labels": self.rule.labels,
            "vanilla": self._figures(self.settings.vanilla()) | {"weight_decay": base.weight_decay},
            "points": points,
            "trials": [
                {"verdict": verdict}
                | trial_json(trial, levels, self.reading)
                | {"alpha": trial.alpha if trial.distilled else 0.0, "temperature": trial.temperature}
                for (trial, levels), verdict in zip(self.search.trials(), verdicts, strict=True)
            ],
        }

    def _trial_verdicts(self) -> list[list[str | None]]:
        """Per point, the vanilla student first, its trials' verdicts in the seeds' order."""
        points = [self.settings.vanilla(), *(self.settings.trials(point) for point in self.search.verdicts)]
        return [list(self.search.judge.trial_verdicts(trials)) for trials in points]

    def _judged(self, point: Point) -> dict[str, Any]:
        return point._asdict() | {"verdict": self.search.verdicts[point], "front": point in self.search.front}

    def _figures(self, trials: list[TrialSpec]) -> dict[str, Any]:
        """The median dip and the means over a point's seeds."""
        found = [self.reading.summary(levels) for _, levels in self.search.judge.curves(trials)]
        return {
            "trial_ids": [trial.trial_id for trial in trials],
            "median_dip": self.search.judge.median_depth(trials),
            "best_accuracy": statistics.fmean(summary.best.accuracy for summary in found),
            "test_accuracy_at_best": statistics.fmean(summary.best.test_accuracy for summary in found),
            "sparsity_at_best": statistics.fmean(summary.best.sparsity for summary in found),
            "levels": statistics.fmean(summary.levels for summary in found),
            "pflop": statistics.fmean(summary.pflop for summary in found),
        }

    # --- for MLflow and the picture -------------------------------------------------------

    def sweep_figures(self) -> tuple[dict[str, float], dict[str, str]]:
        """Metrics and tags of the sweep's parent run: the front's most accurate point."""
        form = self.as_json()
        metrics = {"tolerance": float(form["tolerance"]), "points": float(len(form["points"]))}
        metrics["clean_points"] = float(sum(point["verdict"] == "clean" for point in form["points"]))
        best = next((point for point in form["points"] if self.search.front[:1] == [self._point(point)]), None)
        if best is not None:
            names = (
                "weight_decay",
                "alpha",
                "temperature",
                "best_accuracy",
                "test_accuracy_at_best",
                "sparsity_at_best",
            )
            metrics |= {f"front_{name}": float(best[name]) for name in names}
        tags = {name: str(form[name]) for name in ("shape", "decided_on", "deciding_labels")}
        return metrics, tags

    def places(self) -> tuple[Place, list[Place]]:
        """Where the picture shows the vanilla student, and each point in the order asked."""
        form = self.as_json()

        def place(figures: dict[str, Any], label: str, kind: str) -> Place:
            return Place(
                figures["sparsity_at_best"], figures["best_accuracy"], figures["test_accuracy_at_best"], label, kind
            )

        points = [
            place(point, _named(self._point(point)), "front" if point["front"] else str(point["verdict"]))
            for point in form["points"]
        ]
        return place(form["vanilla"], VANILLA, "vanilla"), points

    @staticmethod
    def _point(form: dict[str, Any]) -> Point:
        return Point(*(form[name] for name in Point._fields))

    # --- for people -----------------------------------------------------------------------

    def print(self, console: Console) -> None:
        """The front on one screen, the vanilla student above it."""
        form = self.as_json()
        counts = {word: sum(p["verdict"] == word for p in form["points"]) for word in ("clean", "dips", "collapsed")}
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        tolerance = f"tolerance {100 * self.rule.tolerance:.1f} points"
        if self.search.front:
            count = f"{len(self.search.front)} of {len(form['points'])} points"
            head = f"{count} are the best trade-offs without a {self.rule.shape}"
        else:
            head = f"no point is without a {self.rule.shape}"
        console.print(f"[bold]{head}[/bold]", highlight=False, soft_wrap=True)
        console.print(f"  {told} ({tolerance})", highlight=False, soft_wrap=True)
        console.print(self._table(form))
        seeds = f"{len(self.settings.seeds)} seeds" if len(self.settings.seeds) > 1 else "1 seed"
        console.print(
            f"  {seeds} a point: median {self.rule.shape}, means of the rest. Decided on {form['decided_on']}; test is "
            "only reported.\n  PFLOP by the paper's convention, without the teacher. Vanilla is the student alone.",
            highlight=False,
            soft_wrap=True,
            style="dim",
        )

    def _table(self, form: dict[str, Any]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 1))
        decided = "test" if form["decided_on"] == "test" else "val."
        for title in ("", "λ", "α", "τ", f"{self.rule.shape} %", f"best {decided} %", "test %", "sparsity %", "PFLOP"):
            table.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
        table.add_row(VANILLA, f"{form['vanilla']['weight_decay']:g}", "-", "-", *_cells(form["vanilla"]))
        points = {self._point(point): point for point in form["points"]}
        shown = self.search.front or sorted(points, key=lambda point: float(points[point]["median_dip"]))[:3]
        for point in shown:
            word = "trade-off" if self.search.front else f"of the smallest {self.rule.shape}s"
            numbers = (f"{point.weight_decay:g}", f"{point.alpha:g}", f"{point.temperature:g}")
            table.add_row(word, *numbers, *_cells(points[point]))
        return table


def _named(point: Point) -> str:
    return f"λ={point.weight_decay:g} α={point.alpha:g} τ={point.temperature:g}"


def _cells(figures: dict[str, Any]) -> list[str]:
    names = ("median_dip", "best_accuracy", "test_accuracy_at_best", "sparsity_at_best")
    return [*(f"{100 * figures[name]:.1f}" for name in names), f"{figures['pflop']:.2e}"]
