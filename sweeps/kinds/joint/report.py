"""The report of a joint search over λ, α and τ: every point that was tried, and the front."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from analysis.pictures.joint import Place, plot_joint
from analysis.report import TrialResult, mean, titled
from analysis.terminal import note, points, say
from sdd_core import spec, words
from sdd_core.curve import Verdict
from sdd_core.store import Store
from sweeps.kinds.joint.plan import Found, JointSettings
from sweeps.kinds.joint.study import OBJECTIVES, Point
from sweeps.kinds.judge import Judge

JSON_SCHEMA: Final = 1
VANILLA: Final = "vanilla"


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """A point (λ, α, τ), or the vanilla student, over its seeds: the median dip and means of the rest."""

    point: Point | None
    """None for the vanilla student."""
    verdict: Verdict | None
    front: bool
    trials: tuple[TrialResult, ...]
    median_dip: float
    best_accuracy: float
    """Of the best levels, on the split that decides."""
    test_accuracy_at_best: float
    sparsity_at_best: float
    levels: float
    pflop: float

    def as_json(self) -> dict[str, Any]:
        """The figures as answers name them."""
        names = ("median_dip", "best_accuracy", "test_accuracy_at_best", "sparsity_at_best", "levels", "pflop")
        form = {"trial_ids": [result.spec.trial_id for result in self.trials]}
        form |= {name: getattr(self, name) for name in names}
        if self.point is not None:
            form |= self.point._asdict() | {"verdict": self.verdict, "front": self.front}
        return form

    @property
    def place(self) -> Place:
        """Where the picture shows it."""
        kind = "front" if self.front else VANILLA if self.point is None else str(self.verdict)
        label = VANILLA
        if self.point is not None:
            label = f"λ={self.point.weight_decay:g} α={self.point.alpha:g} τ={self.point.temperature:g}"
        return Place(self.sparsity_at_best, self.best_accuracy, self.test_accuracy_at_best, label, kind)


def _point_result(judge: Judge, settings: JointSettings, point: Point | None, found: Found) -> PointResult:
    trials = settings.vanilla() if point is None else settings.trials(point)
    results = judge.results(trials, settings.reading)
    return PointResult(
        point=point,
        verdict=None if point is None else found.verdicts[point],
        front=point in found.front,
        trials=results,
        median_dip=judge.median_depth(trials),
        best_accuracy=mean(results, lambda s: s.best.accuracy),
        test_accuracy_at_best=mean(results, lambda s: s.best.test_accuracy),
        sparsity_at_best=mean(results, lambda s: s.best.sparsity),
        levels=mean(results, lambda s: s.levels),
        pflop=mean(results, lambda s: s.pflop),
    )


@dataclass(frozen=True, kw_only=True)
class JointReport:
    """What a finished joint search found."""

    sweep: str
    settings: JointSettings
    vanilla: PointResult
    points: tuple[PointResult, ...]
    """In the order asked."""
    front: tuple[PointResult, ...]
    """The most accurate first."""

    @property
    def results(self) -> list[TrialResult]:
        found = {r.spec.trial_id: r for arm in (self.vanilla, *self.points) for r in arm.trials}
        return list(found.values())

    def as_json(self) -> dict[str, Any]:
        base, rule = self.settings.base, self.settings.rule
        assert base.teacher is not None
        return {
            "schema": JSON_SCHEMA,
            "sweep": self.sweep,
            "setting": spec.setting(base.replace(teacher=None, alpha=0.0)),
            "teacher": {"trial": spec.to_json(base.teacher.trial), "level": base.teacher.level},
            "objectives": list(OBJECTIVES),
            "axes": {name: list(values) for name, values in vars(self.settings.axes).items()},
            "tolerance": rule.tolerance,
            "shape": rule.shape,
            "decided_on": base.decided_on,
            "deciding_labels": rule.labels,
            "vanilla": self.vanilla.as_json() | {"weight_decay": base.weight_decay},
            "points": [point.as_json() for point in self.points],
            "trials": [
                {"verdict": result.verdict}
                | result.as_json()
                | {
                    "alpha": result.spec.alpha if result.spec.distilled else 0.0,
                    "temperature": result.spec.temperature,
                }
                for arm in (self.vanilla, *self.points)
                for result in arm.trials
            ],
        }

    def figures(self) -> tuple[dict[str, float], dict[str, str]]:
        base, rule = self.settings.base, self.settings.rule
        metrics = {"tolerance": rule.tolerance, "points": float(len(self.points))}
        metrics["clean_points"] = float(sum(point.verdict == "clean" for point in self.points))
        if self.front:
            form = self.front[0].as_json()
            names = (*Point._fields, "best_accuracy", "test_accuracy_at_best", "sparsity_at_best")
            metrics |= {f"front_{name}": float(form[name]) for name in names}
        tags = {"shape": rule.shape, "decided_on": base.decided_on, "deciding_labels": rule.labels}
        return metrics, tags

    def draw(self, path: Path) -> None:
        base = self.settings.base
        label = words.setting_label(base.replace(teacher=None, alpha=0.0))
        title = f"{label}: distilled from {words.teacher_label(base)}"
        places = [point.place for point in self.points]
        plot_joint(path, titled(title, self.results), self.vanilla.place, places, decided_on=base.decided_on)

    def show(self, console: Console) -> None:
        rule, seeds = self.settings.rule, len(self.settings.seeds)
        head = f"no point is without a {rule.shape}"
        if self.front:
            count = f"{len(self.front)} of {len(self.points)} points"
            head = f"{count} are the best trade-offs without a {rule.shape}"
        say(console, head, style="bold")
        words = ("clean", "dips", "collapsed", "diverged")
        found = {word: sum(point.verdict == word for point in self.points) for word in words}
        counts = ", ".join(f"{number} {word}" for word, number in found.items() if number or word != "diverged")
        say(console, f"  {counts} (tolerance {points(rule.tolerance)})")
        console.print(_table(self))
        note(
            console,
            f"{f'{seeds} seeds' if seeds > 1 else '1 seed'} a point: median {rule.shape}, means of the rest. "
            f"Decided on {self.settings.base.decided_on}; test is only reported.",
        )
        note(console, "PFLOP by the paper's convention, without the teacher. Vanilla is the student alone.")


def report(store: Store, settings: JointSettings, found: Found, sweep: str) -> JointReport:
    """The report of a search whose plan has answered `found`."""
    judge = settings.judge(store)
    results = {point: _point_result(judge, settings, point, found) for point in found.verdicts}
    return JointReport(
        sweep=sweep,
        settings=settings,
        vanilla=_point_result(judge, settings, None, found),
        points=tuple(results.values()),
        front=tuple(results[point] for point in found.front),
    )


def _table(report: JointReport) -> Table:
    """The front, or the points of the smallest dips, below the vanilla student."""
    base, rule = report.settings.base, report.settings.rule
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 1))
    decided = "test" if base.decided_on == "test" else "val."
    for title in ("", "λ", "α", "τ", f"{rule.shape} %", f"best {decided} %", "test %", "sparsity %", "PFLOP"):
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
    table.add_row(VANILLA, f"{base.weight_decay:g}", "-", "-", *_cells(report.vanilla))
    word = "trade-off" if report.front else f"of the smallest {rule.shape}s"
    for result in report.front or sorted(report.points, key=lambda point: point.median_dip)[:3]:
        assert result.point is not None
        table.add_row(word, *(f"{value:g}" for value in result.point), *_cells(result))
    return table


def _cells(result: PointResult) -> list[str]:
    fractions = (result.median_dip, result.best_accuracy, result.test_accuracy_at_best, result.sparsity_at_best)
    return [*(f"{100 * value:.1f}" for value in fractions), f"{result.pflop:.2e}"]
