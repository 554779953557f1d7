"""The report of a grid: a row an arm, whatever was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from analysis.pictures.grid import Cell, plot_grid
from analysis.report import TrialResult, titled
from analysis.terminal import count, note, percent, plain_table, points, say_headline, show_table, with_deviation
from sdd_core.curve import default_tolerance
from sdd_core.reading import Reading
from sdd_core.spec import TrialSpec
from sdd_core.store import Store, is_complete
from sdd_core.words import SIGNS, cell_name
from sweeps.kinds import arms
from sweeps.kinds.arms import ArmResult, divergence
from sweeps.kinds.figures import MODES
from sweeps.kinds.grid.plan import Grid

JSON_SCHEMA: Final = 1


@dataclass(frozen=True, kw_only=True)
class GridReport:
    """The arms of a grid whose trials have all run to their end, and what is missing."""

    sweep: str
    title: str
    reading: Reading
    tolerance: float | None
    """The largest dip that counts as none; None: each arm's own, by the size of its split that decides."""
    axes: Mapping[str, Sequence[Any]]
    arms: tuple[ArmResult, ...]
    teachers: tuple[TrialResult, ...]
    unfinished: tuple[tuple[Mapping[str, Any], tuple[TrialSpec, ...]], ...]
    """The fields of each arm that is not whole, with its trials that are short of their end."""

    @property
    def results(self) -> list[TrialResult]:
        return arms.each_once(self.teachers, self.arms)

    @property
    def best(self) -> ArmResult | None:
        """The arm whose best levels have the highest mean deciding accuracy (ties: the sparser)."""
        return max(self.arms, key=ArmResult.rank, default=None)

    def limit(self, arm: ArmResult) -> float:
        """The largest dip of an arm that counts as none."""
        dense = arm.trials[0].curve[0]
        return default_tolerance(dense.val_size or dense.test_size) if self.tolerance is None else self.tolerance

    def clean(self) -> list[ArmResult]:
        """The arms whose median dip counts as none."""
        return [arm for arm in self.arms if arm.is_clean(self.limit(arm))]

    # --- outputs --------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": JSON_SCHEMA,
            "sweep": self.sweep,
            "axes": {name: list(values) for name, values in self.axes.items()},
            "deciding_labels": self.reading.labels,
            "carbon_intensity": self.reading.intensity,
            "arms": [_arm_json(arm, self.limit(arm)) for arm in self.arms],
            "unfinished": [
                {"fields": dict(fields), "trial_ids": [spec.trial_id for spec in trials]}
                for fields, trials in self.unfinished
            ],
        }

    def figures(self) -> tuple[dict[str, float], dict[str, str]]:
        metrics: dict[str, float] = {"arms": len(self.arms), "clean_arms": len(self.clean())}
        tags = {"deciding_labels": self.reading.labels, "axes": ", ".join(self.axes)}
        if self.best is not None:
            row = self.best.row("run_to_end")
            metrics |= {f"best_{n}": getattr(row, n) for n in ("dip", "test_dip", "test_accuracy", "sparsity", "pflop")}
            tags["best"] = cell_name(self.best.fields)
        return metrics, tags

    def draw(self, path: Path) -> None:
        cells = [Cell(fields=arm.fields, curves=[result.curve for result in arm.trials]) for arm in self.arms]
        limit = max(map(self.limit, self.arms))
        plot_grid(path, titled(self.title, self.results), cells, self.axes, reading=self.reading, tolerance=limit)

    def show(self, console: Console) -> None:
        say_headline(console, headline(self))
        if self.arms:
            show_table(console, _table(self))
            for line in _conventions(self):
                note(console, line)


def _arm_json(arm: ArmResult, limit: float) -> dict[str, Any]:
    row = arm.row_json("run_to_end")
    for name in (*arm.fields, "mode"):
        row.pop(name, None)
    stop = arm.row_json("early_stopping")
    names = ("accuracy", "test_accuracy", "test_accuracy_std", "sparsity", "levels", "pflop", "pflop_full", "co2_g")
    return {"fields": dict(arm.fields), "tolerance": limit} | row | {
        "early_stop": {name: stop[name] for name in names},
        "trials": [{k: v for k, v in form.items() if k not in arm.fields} for form in arm.trials_json()],
    }  # fmt: skip


def report(store: Store, grid: Grid, sweep: str, title: str, reading: Reading, tolerance: float | None
           ) -> GridReport:  # fmt: skip
    """The report of the arms that are whole; the others are named as unfinished."""
    short = [tuple(s for s in arm.trials if not is_complete(store.curve(s), s)) for arm in grid.arms]
    whole = [arm for arm, missing in zip(grid.arms, short, strict=True) if not missing]
    results = arms.arm_results(store, whole, reading, [cell_name(arm.fields) for arm in whole])
    teachers = arms.teachers(store, [spec for arm in whole for spec in arm.trials], reading)
    return GridReport(
        sweep=sweep,
        title=title,
        reading=reading,
        tolerance=tolerance,
        axes=grid.axes,
        arms=results,
        teachers=tuple(teachers),
        unfinished=tuple((arm.fields, missing) for arm, missing in zip(grid.arms, short, strict=True) if missing),
    )


# --- on the terminal ------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A field's value in a cell."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def headline(report: GridReport) -> list[str]:
    """What the grid shows, in words."""
    limits = sorted({report.limit(arm) for arm in report.arms})
    limit = " to ".join(dict.fromkeys(points(value) for value in (limits[:1] + limits[-1:])))
    whole = f"{count(len(report.arms), 'arm')} of {len(report.arms) + len(report.unfinished)}"
    lines = [f"{whole}: {len(report.clean())} without a dip beyond {limit}" if limits else whole]
    if report.best is not None:
        row, spec = report.best.row("run_to_end"), report.best.trials[0].spec
        lines.append(
            f"best on {spec.decided_on}: {cell_name(report.best.fields)}: test accuracy {percent(row.test_accuracy)} "
            f"at {percent(row.sparsity)} sparsity, dip {points(row.dip)}"
        )
    if any(arm.trials[0].spec.protocol == "paper" for arm in report.arms):
        lines.append("PAPER PROTOCOL in some arms: trained on all images and decided on the test split")
    lines += [f"diverged: {cell_name(arm.fields)}: {divergence(arm.trials)}" for arm in report.arms if arm.diverged]
    lines += [
        f"unfinished: {cell_name(fields)} ({count(len(trials), 'trial')})" for fields, trials in report.unfinished
    ]
    return lines


def _table(report: GridReport) -> Table:
    """A row an arm: what was varied, then its best levels and what early stopping finds."""
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.fields))
    titles = [SIGNS.get(name, name) for name in names]
    distilled = ["+ teacher"] if any(arm.distilled for arm in report.arms) else []
    table = plain_table(
        titles[0] if titles else "",
        *titles[1:],
        *("dip dec./test", "test %", "at sparsity %", "early stop %", "at sparsity %", "levels", "PFLOP", *distilled),
    )
    for arm in report.arms:
        row, stop = arm.row("run_to_end"), arm.row("early_stopping")
        table.add_row(
            *([shown(arm.fields.get(name)) if name in arm.fields else "" for name in names] or ["the only arm"]),
            "diverged" if arm.diverged else f"{100 * row.dip:.1f} / {100 * row.test_dip:.1f}",
            with_deviation(row.test_accuracy, row.test_accuracy_std),
            f"{100 * row.sparsity:.1f}",
            with_deviation(stop.test_accuracy, stop.test_accuracy_std),
            f"{100 * stop.sparsity:.1f}",
            f"{row.levels:.1f}",
            f"{row.pflop:.2e}",
            *([f"{row.pflop_full:.2e}"] if distilled else []),
        )
    return table


def _conventions(report: GridReport) -> list[str]:
    """How the table is to be read."""
    seeds, reading = len(report.arms[0].trials), report.reading
    over = "1 seed an arm: no deviation." if seeds == 1 else f"{seeds} seeds an arm: median dip, means ± sample std."
    lines = [
        f"{over} Each arm's best level is chosen on the split that decides; test is only reported.",
        f"Early stopping: patience {reading.patience}, drop over {100 * reading.min_drop:g} points. "
        "Levels and PFLOP (the paper's convention) are those of one seed run to its end.",
    ]
    distilled = any(arm.distilled for arm in report.arms)
    if distilled:
        lines.append(
            "+ teacher: with the teacher's forward passes, and its trainings, each level's shared by those who need it."
        )
    rows = [arm.row(mode) for arm in report.arms for mode in MODES]
    return [*lines, arms.energy_line(rows, reading, distilled=distilled)]
