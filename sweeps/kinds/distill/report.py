"""The answer of a distillation sweep: as JSON for machines, as a table for people, as figures for MLflow."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from sdd_core import ledger, spec, words
from sdd_core.energy import grams
from sdd_core.reading import Reading, trial_json, trial_metrics
from sdd_core.record import LevelRecord
from sdd_core.spec import TrialSpec
from sweeps.kinds.distill import figures
from sweeps.kinds.distill.figures import MODES, Mode, Row, Shared, costs, shared_levels
from sweeps.kinds.distill.plan import VANILLA, Approach, DistillSweep

JSON_SCHEMA: Final = 1
WIDTH: Final = 110


class DistillAnswer:
    """What a finished sweep shows; built from the store alone. Every student must have run to its end."""

    def __init__(self, sweep: DistillSweep, name: str, reading: Reading, tolerance: float) -> None:
        self.sweep, self.name, self.reading, self.tolerance = sweep, name, reading, tolerance
        self.settings = sweep.settings
        self.student = self.settings.student

    # --- figures --------------------------------------------------------------------------

    @property
    def distilled(self) -> list[Approach]:
        """The approaches with a teacher."""
        return [approach for approach in self.settings.approaches if approach != VANILLA]

    @cached_property
    def shared(self) -> dict[str, Shared]:
        """Each distilled student's part of the teacher's trainings."""
        teacher = self.sweep.teacher()
        if teacher is None:
            return {}
        _, levels = teacher
        needed = {
            trial.trial_id: trial.teacher.levels_needed(len(levels))
            for approach in self.distilled
            for trial in self.settings.trials(approach)
            if trial.teacher is not None
        }
        return shared_levels(levels, needed)

    def row(self, approach: Approach, mode: Mode) -> Row:
        """An approach in one mode, over its seeds."""
        return figures.row(approach, mode, self.sweep.curves(approach), self.reading, self.shared)

    @cached_property
    def rows(self) -> list[Row]:
        """The table's rows. The paper counts a distilled run to its best level, and the vanilla one to its end."""
        modes = {VANILLA: [mode for mode in MODES if mode != "to_best"]}
        return [
            self.row(approach, mode) for approach in self.settings.approaches for mode in modes.get(approach, MODES)
        ]

    @cached_property
    def best(self) -> Row | None:
        """The approach with a teacher whose best levels have the highest mean deciding accuracy (ties: the sparser)."""
        rows = [self.row(approach, "run_to_end") for approach in self.distilled]
        # Rounded, so that means of one value do not differ in their last bit.
        return max(rows, key=lambda row: (round(row.accuracy, 12), round(row.sparsity, 12)), default=None)

    def learnt_from(self, approach: Approach) -> LevelRecord | None:
        """The teacher's level that an approach learns from; None for the vanilla student."""
        return self.sweep.learnt_from(approach)

    # --- for machines ---------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """The answer, schema 1 (README: what `distill.py --json` writes)."""
        setting = {
            "setting_id": spec.setting_id(self.student),
            "setting": spec.setting(self.student),
            "sweep": self.name,
            "weight_decay": self.student.weight_decay,
            "seeds": list(self.settings.seeds),
            "data_seed": self.student.data_seed,
            "decided_on": self.student.decided_on,
            "deciding_labels": self.reading.labels,
            "tolerance": self.tolerance,
            "carbon_intensity": self.reading.intensity,
            "teacher": self._teacher_json(),
            "best": None if self.best is None else _approach_json(self.best.approach),
            "summary": [self._row_json(row) for row in self.rows],
            "trials": [
                self._trial_json(approach, trial, levels)
                for approach in self.settings.approaches
                for trial, levels in self.sweep.curves(approach)
            ],
        }
        return {"schema": JSON_SCHEMA, "settings": [setting]}

    def _teacher_json(self) -> dict[str, Any] | None:
        held = self.sweep.teacher()
        if held is None:
            return None
        trial, levels = held
        references = {approach.level: self.learnt_from(approach) for approach in self.distilled}
        paid = ledger.costs(levels)
        return {
            "trial_id": trial.trial_id,
            "spec": spec.to_json(trial),
            "levels_trained": len(levels),
            **{name: getattr(paid, name) for name in ("pflop", "energy_kwh", "energy_source", "energy_note")},
            "co2_g": grams(paid.energy_kwh, self.reading.intensity),
            "levels": [
                {
                    "teacher": reference,
                    "level": record.level,
                    "key": record.key,
                    "sparsity": record.sparsity,
                    "val_accuracy": record.val_accuracy,
                    "test_accuracy": record.test_accuracy,
                }
                for reference, record in references.items()
                if record is not None
            ],
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        figures = {name: value for name, value in asdict(row).items() if name not in ("approach", "trial_ids")}
        setting_id = spec.setting_id(self.settings.trials(row.approach)[0])
        return _approach_json(row.approach) | {"setting_id": setting_id} | figures | {"trial_ids": list(row.trial_ids)}

    def _trial_json(self, approach: Approach, trial: TrialSpec, levels: list[LevelRecord]) -> dict[str, Any]:
        learnt_from, shared = self.learnt_from(approach), self.shared.get(trial.trial_id, ())
        return (
            trial_json(trial, levels, self.reading)
            | _approach_json(approach)
            | {
                "teacher_level": None if learnt_from is None else learnt_from.level,
                "teacher_key": None if learnt_from is None else learnt_from.key,
                "pflop_teacher_share": sum(record.pflop / students for record, students in shared),
                "costs": {mode: asdict(cost) for mode, cost in costs(levels, self.reading, shared).items()},
            }
        )

    # --- for MLflow -----------------------------------------------------------------------

    def trial_figures(
        self, approach: Approach, trial: TrialSpec, levels: list[LevelRecord]
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Final metrics and tags of a student's run."""
        metrics = trial_metrics(trial, levels, self.reading)
        prefixes: dict[Mode, str] = {"run_to_end": "", "to_best": "to_best_", "early_stopping": "early_stop_"}
        for mode, cost in costs(levels, self.reading, self.shared.get(trial.trial_id, ())).items():
            metrics |= {
                prefixes[mode] + name: float(value)
                for name, value in asdict(cost).items()
                if isinstance(value, int | float)
            }
        learnt_from = self.learnt_from(approach)
        tags = {"approach": str(approach)}
        if learnt_from is not None:
            tags |= {"teacher_level": str(learnt_from.level), "teacher_key": learnt_from.key}
        return metrics, tags

    def sweep_figures(self) -> tuple[dict[str, float], dict[str, str]]:
        """Metrics and tags of the sweep's parent run: the vanilla student beside the best approach."""
        named = {"vanilla": self.row(VANILLA, "run_to_end")}
        tags = {"decided_on": self.student.decided_on, "deciding_labels": self.reading.labels}
        tags["setting_id"] = spec.setting_id(self.student)
        if self.best is not None:
            named["best"] = self.best
            tags["best"] = str(self.best.approach)
        metrics = {"tolerance": self.tolerance}
        for prefix, row in named.items():
            for name in ("dip", "test_dip", "test_accuracy", "sparsity", "pflop", "pflop_full", "co2_g", "co2_g_full"):
                if getattr(row, name) is not None:
                    metrics[f"{prefix}_{name}"] = getattr(row, name)
        return metrics, tags

    # --- for people -----------------------------------------------------------------------

    def headline(self) -> list[str]:
        """What the sweep shows, in words."""
        vanilla = self.row(VANILLA, "run_to_end")
        points = f"{100 * self.tolerance:.1f} points"
        lines = [f"vanilla: a dip of {100 * vanilla.dip:.1f} points on {self.student.decided_on}"]
        if vanilla.dip <= self.tolerance:
            lines[0] = f"vanilla: no dip beyond {points} on {self.student.decided_on}, nothing needs avoiding"
        if self.best is not None:
            clean = sum(self.row(approach, "run_to_end").dip <= self.tolerance for approach in self.distilled)
            lines[0] += f"; distilled: none beyond {points} for {clean} of {_count(len(self.distilled), 'approach')}"
            lines.append(
                f"best on {self.student.decided_on}: {self.best.approach}: dip {100 * self.best.dip:.1f} points, "
                f"test accuracy {_percent(self.best.test_accuracy)} at {_percent(self.best.sparsity)} sparsity"
                f" (vanilla {_percent(vanilla.test_accuracy)} at {_percent(vanilla.sparsity)})"
            )
        lines += self._teacher_lines()
        if self.student.protocol == "paper":
            lines.append("PAPER PROTOCOL: trained on all images and decided on the test split")
        return lines

    def _teacher_lines(self) -> list[str]:
        held = self.sweep.teacher()
        if held is None:
            return []
        trial, levels = held
        references = {approach.level: self.learnt_from(approach) for approach in self.distilled}
        means = ", ".join(
            f"{reference if isinstance(reference, str) else 'asked for'}: level {record.level} "
            f"({_percent(record.sparsity)} sparse, test {_percent(record.test_accuracy)})"
            for reference, record in references.items()
            if record is not None
        )
        network, trained = words.network_name(trial), _count(len(levels), "level")
        lines = [f"teacher: {network}, λ = {trial.weight_decay:g}, {trained}; {means}"]
        known = [record.key for record in references.values() if record is not None]
        if len(set(known)) < len(known):
            lines.append("one level is meant twice, so its students are the same")
        if trial.trial_id in {vanilla.trial_id for vanilla in self.settings.trials(VANILLA)}:
            lines.append("the teacher is one of the vanilla students too")
        return lines

    def print(self, console: Console) -> None:
        """The answer on one screen, without the paths, which the caller knows."""
        head, *rest = self.headline()
        console.print(f"[bold]{head}[/bold]", highlight=False, soft_wrap=True)
        for line in rest:
            console.print(f"  {line}", highlight=False, soft_wrap=True)
        # A narrower terminal breaks its lines, which reads better than figures that are cut off.
        Console(file=console.file, width=WIDTH, highlight=False).print(self._table())
        for line in self._conventions():
            console.print(f"  {line}", highlight=False, soft_wrap=True, style="dim")

    def _table(self) -> Table:
        """A row an approach and mode, in the manner of the paper's Table 2; at most `WIDTH` columns wide."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        split = "test" if self.student.protocol == "paper" else "val"
        for title in ("teacher", "α", "τ", ""):
            table.add_column(title, no_wrap=True)
        carbon = ["gCO2e"] if self._energy_known else []
        for title in (f"dip {split}/test", "test %", "sparsity %", "levels", "PFLOP", "+ teacher", *carbon):
            table.add_column(title, justify="right", no_wrap=True)
        largest = max(row.pflop for row in self.rows)
        previous = None
        for row in self.rows:
            first = row.approach != previous
            previous = row.approach
            table.add_row(
                *(_named(row.approach) if first else ("", "", "")),
                MODES[row.mode],
                f"{100 * row.dip:.1f} / {100 * row.test_dip:.1f}" if first else "",
                _with_deviation(row.test_accuracy, row.test_accuracy_std),
                f"{100 * row.sparsity:.1f}",
                f"{row.levels:.1f}",
                *(f"{pflop:.2f}" if largest >= 10 else f"{pflop:.2e}" for pflop in (row.pflop, row.pflop_full)),
                *(["-" if row.co2_g_full is None else f"{row.co2_g_full:.2g}"] if carbon else []),
            )
        return table

    def _conventions(self) -> list[str]:
        """How the table is to be read."""
        seeds = len(self.settings.seeds)
        over = "1 seed: no deviation." if seeds == 1 else f"{seeds} seeds: median dip, means ± sample std of the rest."
        labels = "" if self.reading.labels == "clean" or self.student.protocol == "paper" else " (noisy labels)"
        test = "which is therefore optimistic" if self.student.protocol == "paper" else "test is only reported"
        lines = [
            f"{over} Levels are chosen on {self.student.decided_on}{labels}; {test}.",
            "Run to the end and to its best level take the best level, and pay for all levels or up to it; early "
            f"stopping (patience {self.reading.patience}, drop over {100 * self.reading.min_drop:g} points) pays up to "
            "where it ends.",
            "PFLOP of one student's trainings by the paper's convention, its teacher left out, as the paper does.",
        ]
        if self.best is not None:
            lines.append(
                "+ teacher: with the teacher's forward passes, and its trainings: each level's is shared equally by "
                f"those of the {seeds * len(self.distilled)} students here that need it."
            )
        return [*lines, self._energy_line()]

    def _energy_line(self) -> str:
        """What the table's CO2 is, and where it comes from."""
        note = next((row.energy_note for row in self.rows if row.energy_note is not None), None)
        if not self._energy_known:
            return f"No energy and no CO2: {note}."
        of = "gCO2e: of the levels as they ran"
        if self.best is not None:
            of += ", the teacher's forward passes in it, and that part of the teacher's trainings"
        sources = " and ".join(sorted({row.energy_source for row in self.rows}))
        return f"{of}; {sources}, at {self.reading.intensity:g} g/kWh{f' ({note})' if note else ''}."

    @property
    def _energy_known(self) -> bool:
        return any(row.co2_g_full is not None for row in self.rows)


def _approach_json(approach: Approach) -> dict[str, Any]:
    return {"teacher": approach.level, "alpha": approach.alpha, "temperature": approach.temperature}


def _named(approach: Approach) -> tuple[str, str, str]:
    """An approach in three cells: teacher, alpha, tau."""
    if approach.level is None or approach.temperature is None:
        return "vanilla", "", ""
    return words.level_name(approach.level), f"{approach.alpha:g}", f"{approach.temperature:g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _with_deviation(mean: float, deviation: float | None) -> str:
    text = f"{100 * mean:.1f}"
    return text if deviation is None else f"{text} ± {100 * deviation:.1f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith('ch') else 's'}"
