"""The report of a distillation sweep: every approach beside the vanilla student, as in the paper's Table 2."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from analysis.pictures import distill
from analysis.report import TrialResult, titled
from analysis.terminal import count, note, percent, points, say_headline, show_table, with_deviation
from sdd_core import ledger, spec, words
from sdd_core.energy import grams
from sdd_core.reading import Reading
from sdd_core.record import LevelRecord
from sdd_core.store import Store
from sweeps.kinds import arms
from sweeps.kinds.arms import ArmResult, divergence
from sweeps.kinds.distill.plan import VANILLA, Approach, DistillSettings
from sweeps.kinds.figures import MODES, Row

JSON_SCHEMA: Final = 1
_OF_A_LEVEL: Final = ("level", "key", "sparsity", "val_accuracy", "test_accuracy")


@dataclass(frozen=True, kw_only=True)
class DistillReport:
    """What a finished sweep shows. Every student has run to its end."""

    sweep: str
    reading: Reading
    tolerance: float
    """The largest dip that counts as none; it changes what is said, not what is trained."""
    settings: DistillSettings
    teacher: TrialResult | None
    """With the levels that students needed; None when all students are vanilla."""
    approaches: dict[Approach, ArmResult]
    """The vanilla student first."""

    @property
    def vanilla(self) -> ArmResult:
        """The student without a teacher."""
        return self.approaches[VANILLA]

    @property
    def distilled(self) -> dict[Approach, ArmResult]:
        """The approaches with a teacher."""
        return {approach: arm for approach, arm in self.approaches.items() if approach != VANILLA}

    def rows(self) -> list[tuple[Approach, Row]]:
        """The table's rows. The paper counts a distilled run to its best level, and the vanilla one to its end."""
        return [
            (approach, arm.row(mode))
            for approach, arm in self.approaches.items()
            for mode in MODES
            if mode != "to_best" or approach != VANILLA
        ]

    @cached_property
    def best(self) -> Approach | None:
        """The approach with a teacher whose best levels have the highest mean deciding accuracy (ties: the sparser)."""
        return max(self.distilled, key=lambda approach: self.approaches[approach].rank(), default=None)

    @property
    def learnt_from(self) -> dict[str | int | None, LevelRecord]:
        """The teacher's levels that students learn from, by their names in the approaches."""
        found = {approach.level: arm.learnt_from for approach, arm in self.distilled.items()}
        return {level: record for level, record in found.items() if record is not None}

    @property
    def results(self) -> list[TrialResult]:
        return arms.each_once([self.teacher] if self.teacher is not None else [], list(self.approaches.values()))

    # --- outputs --------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        student = self.settings.student
        setting = {
            "setting_id": spec.setting_id(student),
            "setting": spec.setting(student),
            "sweep": self.sweep,
            "weight_decay": student.weight_decay,
            "seeds": list(self.settings.seeds),
            "data_seed": student.data_seed,
            "decided_on": student.decided_on,
            "deciding_labels": self.reading.labels,
            "tolerance": self.tolerance,
            "carbon_intensity": self.reading.intensity,
            "teacher": self._teacher_json(),
            "best": None if self.best is None else self.best.as_json(),
            "summary": [self.approaches[approach].row_json(row.mode) for approach, row in self.rows()],
            "trials": [form for arm in self.approaches.values() for form in arm.trials_json()],
        }
        return {"schema": JSON_SCHEMA, "settings": [setting]}

    def _teacher_json(self) -> dict[str, Any] | None:
        if self.teacher is None:
            return None
        paid = ledger.costs(self.teacher.curve)
        return {
            "trial_id": self.teacher.spec.trial_id,
            "spec": spec.to_json(self.teacher.spec),
            "levels_trained": len(self.teacher.curve),
            **{name: getattr(paid, name) for name in ("pflop", "energy_kwh", "energy_source", "energy_note")},
            "co2_g": grams(paid.energy_kwh, self.reading.intensity),
            "levels": [
                {"teacher": level} | {name: getattr(record, name) for name in _OF_A_LEVEL}
                for level, record in self.learnt_from.items()
            ],
        }

    def figures(self) -> tuple[dict[str, float], dict[str, str]]:
        student, named = self.settings.student, {"vanilla": self.vanilla}
        tags = {"decided_on": student.decided_on, "deciding_labels": self.reading.labels}
        tags["setting_id"] = spec.setting_id(student)
        if self.best is not None:
            named["best"] = self.approaches[self.best]
            tags["best"] = str(self.best)
        metrics = {"tolerance": self.tolerance}
        for prefix, arm in named.items():
            row = arm.row("run_to_end")
            for name in ("dip", "test_dip", "test_accuracy", "sparsity", "pflop", "pflop_full", "co2_g", "co2_g_full"):
                if getattr(row, name) is not None:
                    metrics[f"{prefix}_{name}"] = getattr(row, name)
        return metrics, tags

    def draw(self, path: Path) -> None:
        student = self.settings.student
        distill.plot_distillation(
            path,
            titled(f"{words.setting_label(student)}, λ={student.weight_decay:g}", self.results),
            [result.trial for arm in self.approaches.values() for result in arm.trials],
            teacher=None if self.teacher is None else self.teacher.trial,
            reading=self.reading,
        )

    def show(self, console: Console) -> None:
        say_headline(console, headline(self))
        show_table(console, _table(self))
        for line in _conventions(self):
            note(console, line)


def report(store: Store, settings: DistillSettings, sweep: str, reading: Reading, tolerance: float) -> DistillReport:
    """The report of a sweep whose students have all run to their end."""
    grid, approaches = settings.plan(), settings.approaches
    results = arms.arm_results(store, grid.arms, reading, [str(approach) for approach in approaches])
    teachers = arms.teachers(store, grid.trials(), reading)
    return DistillReport(
        sweep=sweep,
        reading=reading,
        tolerance=tolerance,
        settings=settings,
        teacher=teachers[0] if teachers else None,
        approaches=dict(zip(approaches, results, strict=True)),
    )


# --- on the terminal ------------------------------------------------------------------------


def headline(report: DistillReport) -> list[str]:
    """What the sweep shows, in words."""
    student, vanilla = report.settings.student, report.vanilla.row("run_to_end")
    limit = points(report.tolerance)
    lines = [f"vanilla: a dip of {points(vanilla.dip)} on {student.decided_on}"]
    if report.vanilla.diverged:
        lines[0] = "vanilla: diverged"
    elif vanilla.dip <= report.tolerance:
        lines[0] = f"vanilla: no dip beyond {limit} on {student.decided_on}, nothing needs avoiding"
    if report.best is not None:
        best = report.approaches[report.best].row("run_to_end")
        clean = sum(arm.is_clean(report.tolerance) for arm in report.distilled.values())
        lines[0] += f"; distilled: none beyond {limit} for {clean} of {count(len(report.distilled), 'approach')}"
    if report.best is not None and not report.approaches[report.best].diverged:
        lines.append(
            f"best on {student.decided_on}: {report.best}: dip {points(best.dip)}, "
            f"test accuracy {percent(best.test_accuracy)} at {percent(best.sparsity)} sparsity"
            f" (vanilla {percent(vanilla.test_accuracy)} at {percent(vanilla.sparsity)})"
        )
    lines += [
        f"diverged: {approach}: {divergence(arm.trials)}" for approach, arm in report.approaches.items() if arm.diverged
    ]
    lines += _teacher_lines(report)
    if student.protocol == "paper":
        lines.append("PAPER PROTOCOL: trained on all images and decided on the test split")
    return lines


def _teacher_lines(report: DistillReport) -> list[str]:
    if report.teacher is None:
        return []
    trial = report.teacher.spec
    means = ", ".join(
        f"{reference if isinstance(reference, str) else 'asked for'}: level {record.level} "
        f"({percent(record.sparsity)} sparse, test {percent(record.test_accuracy)})"
        for reference, record in report.learnt_from.items()
    )
    levels = count(len(report.teacher.curve), "level")
    lines = [f"teacher: {words.network_name(trial)}, λ = {trial.weight_decay:g}, {levels}; {means}"]
    known = [record.key for record in report.learnt_from.values()]
    if len(set(known)) < len(known):
        lines.append("two references mean the same level of the teacher, so their students are the same")
    if trial.trial_id in {result.spec.trial_id for result in report.vanilla.trials}:
        lines.append("the teacher is one of the vanilla students too")
    return lines


def _table(report: DistillReport) -> Table:
    """A row an approach and mode."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    split = "test" if report.settings.student.protocol == "paper" else "val"
    for title in ("teacher", "α", "τ", ""):
        table.add_column(title, no_wrap=True)
    rows = report.rows()
    carbon = ["gCO2e"] if any(row.co2_g_full is not None for _, row in rows) else []
    for title in (f"dip {split}/test", "test %", "sparsity %", "levels", "PFLOP", "+ teacher", *carbon):
        table.add_column(title, justify="right", no_wrap=True)
    largest = max(row.pflop for _, row in rows)
    previous = None
    for approach, row in rows:
        first = approach != previous
        previous = approach
        table.add_row(
            *(_named(approach) if first else ("", "", "")),
            MODES[row.mode],
            _dips(report.approaches[approach], row) if first else "",
            with_deviation(row.test_accuracy, row.test_accuracy_std),
            f"{100 * row.sparsity:.1f}",
            f"{row.levels:.1f}",
            *(f"{pflop:.2f}" if largest >= 10 else f"{pflop:.2e}" for pflop in (row.pflop, row.pflop_full)),
            *(["-" if row.co2_g_full is None else f"{row.co2_g_full:.2g}"] if carbon else []),
        )
    return table


def _dips(arm: ArmResult, row: Row) -> str:
    return "diverged" if arm.diverged else f"{100 * row.dip:.1f} / {100 * row.test_dip:.1f}"


def _named(approach: Approach) -> tuple[str, str, str]:
    """An approach in three cells: teacher, α, τ."""
    if approach.level is None or approach.temperature is None:
        return "vanilla", "", ""
    return words.level_name(approach.level), f"{approach.alpha:g}", f"{approach.temperature:g}"


def _conventions(report: DistillReport) -> list[str]:
    """How the table is to be read."""
    seeds, student, reading = len(report.settings.seeds), report.settings.student, report.reading
    over = "1 seed: no deviation." if seeds == 1 else f"{seeds} seeds: median dip, means ± sample std of the rest."
    labels = "" if reading.labels == "clean" or student.protocol == "paper" else " (noisy labels)"
    test = "which is therefore optimistic" if student.protocol == "paper" else "test is only reported"
    lines = [
        f"{over} Levels are chosen on {student.decided_on}{labels}; {test}.",
        "Run to the end and to its best level take the best level, and pay for all levels or up to it; early "
        f"stopping (patience {reading.patience}, drop over {100 * reading.min_drop:g} points) pays up to "
        "where it ends.",
        "PFLOP of one student's trainings by the paper's convention, its teacher left out, as the paper does.",
    ]
    if report.best is not None:
        lines.append(
            "+ teacher: with the teacher's forward passes, and its trainings: each level's is shared equally by "
            f"those of the {seeds * len(report.distilled)} students here that need it."
        )
    return [*lines, arms.energy_line([row for _, row in report.rows()], reading, distilled=report.best is not None)]
