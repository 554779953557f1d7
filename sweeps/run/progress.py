"""Live progress of a sweep on the terminal: a table where there is one, lines where there is none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sdd_core.spec import TrialSpec
from sdd_core.words import trial_name
from sweeps.sweep import Task

_LINE_EVERY = 10.0  # seconds between status lines where the output is no terminal
_RECENT = 50  # trained levels whose mean time is the pace


@dataclass
class _Row:
    task: Task
    level: int = -1
    levels: int = 0
    sparsity: float = 0.0
    accuracy: float | None = None


@dataclass
class Progress:
    """A listener of the driver. A context manager: the live display goes when it is left."""

    console: Console
    width: int
    """Trials at once."""
    split: str = "validation"
    name: Callable[[TrialSpec], str] = trial_name
    """What a trial is called."""
    done: int = 0
    _rows: dict[str, _Row] = field(default_factory=dict)
    _waiting: int = 0
    _left: int = 0
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _levels: int = 29
    _began: float = field(default_factory=time.monotonic)
    _last_line: float = field(default_factory=time.monotonic)
    _live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self._live = Live(console=self.console, get_renderable=self._table, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    # --- what the driver says -------------------------------------------------------------

    def planned(self, waiting: int, left: int) -> None:
        self._waiting, self._left = waiting, left

    def started(self, task: Task) -> None:
        self._rows.setdefault(task.spec.trial_id, _Row(task))

    def level_finished(self, task: Task, metrics: dict[str, float], trained: bool) -> None:
        row = self._rows.setdefault(task.spec.trial_id, _Row(task))
        row.level, row.levels = int(metrics["level"]), int(metrics["levels"])
        row.sparsity, row.accuracy = metrics["sparsity"], metrics["accuracy"]
        self._levels = row.levels
        if trained:
            self._seconds.append(metrics["seconds"])
        if self._live is None and time.monotonic() - self._last_line >= _LINE_EVERY:
            self._last_line = time.monotonic()
            running = "; ".join(self._words(row) for row in self._rows.values())
            self.console.print(f"{self._state()} | {running}", soft_wrap=True, highlight=False)

    def ended(self, task: Task, by_budget: bool) -> None:
        row = self._rows.pop(task.spec.trial_id, None)
        self.done += 1
        if row is not None:
            whole = row.level + 1 >= row.levels
            why = "the budget is used up" if by_budget else "its verdict is known"
            how = "run to its end" if whole else f"{'stopped' if by_budget else 'given up'} at level {row.level}: {why}"
            self.console.print(f"  done  {self._words(row)}  {how}", soft_wrap=True, highlight=False)

    def warned(self, task: Task, warning: str) -> None:
        self.console.print(f"  {self.name(task.spec)}: {warning}", style="yellow", soft_wrap=True, highlight=False)

    def failed(self, task: Task, reason: str) -> None:
        self._rows.pop(task.spec.trial_id, None)
        self.console.print(f"  failed  {self.name(task.spec)}: {reason}", style="red", soft_wrap=True, highlight=False)

    # --- what it shows --------------------------------------------------------------------

    def seconds_left(self) -> float | None:
        """An upper guess: every trial to its end, at the pace so far; None before the first level."""
        if not self._seconds:
            return None
        running = sum(self._levels - 1 - row.level for row in self._rows.values())
        waiting = self._levels * (self._waiting + self._left)
        return (running + waiting) * sum(self._seconds) / len(self._seconds) / max(1, self.width)

    def _state(self) -> str:
        left = self.seconds_left()
        guess = "time left not known yet" if left is None else f"at most {_clock(left)} left"
        return (
            f"[{_clock(time.monotonic() - self._began)}] {self.done} done, {len(self._rows)} running, "
            f"{self._waiting} waiting, {guess}"
        )

    def _words(self, row: _Row) -> str:
        if row.accuracy is None:
            return f"{self.name(row.task.spec)} starting"
        return (
            f"{self.name(row.task.spec)} level {row.level}/{row.levels - 1} sparsity {100 * row.sparsity:.1f} % "
            f"{self.split} {100 * row.accuracy:.1f} %"
        )

    def _table(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for title in ("trial", "level", "", "sparsity", f"{self.split} accuracy"):
            table.add_column(title, justify="left" if title in ("trial", "") else "right")
        for row in list(self._rows.values()):
            table.add_row(
                self.name(row.task.spec),
                f"{row.level}/{row.levels - 1}" if row.levels else "starting",
                ProgressBar(total=max(1, row.levels), completed=row.level + 1, width=24),
                f"{100 * row.sparsity:.1f} %",
                "-" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
            )
        return Group(table, Text(self._state()))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
