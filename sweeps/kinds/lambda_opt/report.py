"""The report of a search for λ_opt: what was found in each setting, with its evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from analysis.pictures.curves import plot_curves
from analysis.pictures.settings import Panel, plot_settings
from analysis.report import TrialResult, mean, median, titled
from analysis.terminal import note, percent, plain_table, points, say, say_headline, show_table
from sdd_core import spec, words
from sdd_core.curve import UNUSABLE, GiveUp, Summary, Verdict
from sdd_core.reading import Reading
from sdd_core.spec import TrialSpec
from sdd_core.store import Store
from sweeps.kinds.arms import divergence
from sweeps.kinds.judge import Judge
from sweeps.kinds.lambda_opt.bisection import Reason
from sweeps.kinds.lambda_opt.plan import Found, SearchSettings
from sweeps.sweep import Step

JSON_SCHEMA: Final = 1
_ABOVE: Final[dict[Verdict, str]] = {
    "clean": "is clean too",
    "dips": "dips",
    "collapsed": "has collapsed",
    "diverged": "has diverged",
}


@dataclass(frozen=True, kw_only=True)
class LambdaResult:
    """One λ that was tried."""

    weight_decay: float
    verdict: Verdict
    median_dip: float
    """Of the shape that had to vanish, over seeds; a lower bound where a trial was given up."""
    test_dip: float
    """The same on the test split, which decided nothing."""
    trials: tuple[TrialResult, ...]


@dataclass(frozen=True, kw_only=True)
class SettingResult:
    """What a search found in one setting."""

    base: TrialSpec
    """The base λ's first trial."""
    rule: GiveUp
    seeds: int
    range: tuple[float, float]
    reason: Reason
    lambda_opt: float | None
    below: float | None
    """The largest λ below λ_opt that dips, if any."""
    least_bad: float | None
    """The λ that is named when there is no λ_opt."""
    unconfirmed: tuple[float, ...]
    """Clean λs that were not announced because the next λ above them dips."""
    lambdas: tuple[LambdaResult, ...]
    """Those that were tried, rising; the first is the base λ."""

    def at(self, weight_decay: float | None) -> LambdaResult | None:
        """The λ tried that equals `weight_decay`."""
        return next((tried for tried in self.lambdas if tried.weight_decay == weight_decay), None)

    @property
    def named(self) -> LambdaResult:
        """The λ that is compared with the base: λ_opt, or the least bad; the base itself when it diverged."""
        return self.at(self.lambda_opt) or self.at(self.least_bad) or self.lambdas[0]

    @property
    def label(self) -> str:
        """The setting in words."""
        return words.setting_label(self.base)

    def as_json(self, sweep: str) -> dict[str, Any]:
        """The setting's entry in the answer for machines."""
        optimum = self.at(self.lambda_opt)
        return {
            "setting_id": spec.setting_id(self.base),
            "setting": spec.setting(self.base),
            "sweep": sweep,
            "lambda_opt": self.lambda_opt,
            "reason": self.reason,
            "bracket": [self.below, self.lambda_opt],
            "base": self.lambdas[0].weight_decay,
            "least_bad": self.least_bad,
            "range": list(self.range),
            "tolerance": self.rule.tolerance,
            "shape": self.rule.shape,
            "decided_on": self.base.decided_on,
            "deciding_labels": self.rule.labels,
            "test_dip": {
                "base": self.lambdas[0].test_dip,
                "lambda_opt": None if optimum is None else optimum.test_dip,
            },
            "lambdas": [
                {"weight_decay": tried.weight_decay, "verdict": tried.verdict, "median_dip": tried.median_dip}
                for tried in self.lambdas
            ],
            "trials": [
                result.as_json() | {"verdict": result.verdict} for tried in self.lambdas for result in tried.trials
            ],
        }


def _setting_result(store: Store, settings: SearchSettings, found: Found, reading: Reading) -> SettingResult:
    """The result of one search; `found` is its plan's answer."""

    def value(point: int | None) -> float | None:
        return None if point is None else settings.points[point]

    judge = Judge(store, settings.rule, settings.trials(settings.points[0]))
    test = (lambda s: s.test_dip) if settings.rule.shape == "dip" else (lambda s: s.test_rebound)
    tried = []
    for point in sorted(found.verdicts):
        trials = settings.trials(settings.points[point])
        results = judge.results(trials, reading)
        tried.append(
            LambdaResult(
                weight_decay=settings.points[point],
                verdict=found.verdicts[point],
                median_dip=judge.median_depth(trials),
                test_dip=median(results, test),
                trials=results,
            )
        )
    return SettingResult(
        base=tried[0].trials[0].spec,
        rule=settings.rule,
        seeds=len(settings.seeds),
        range=(settings.points[0], settings.points[-1]),
        reason=found.answer.reason,
        lambda_opt=value(found.answer.optimum),
        below=value(found.answer.below),
        least_bad=value(found.least_bad),
        unconfirmed=tuple(settings.points[p] for p in found.answer.unconfirmed),
        lambdas=tuple(tried),
    )


@dataclass(frozen=True, kw_only=True)
class LambdaReport:
    """The report of the searches of one sweep, one a setting."""

    sweep: str
    reading: Reading
    settings: tuple[SettingResult, ...]

    @property
    def results(self) -> list[TrialResult]:
        found = {
            result.spec.trial_id: result
            for setting in self.settings
            for tried in setting.lambdas
            for result in tried.trials
        }
        return list(found.values())

    def as_json(self) -> dict[str, Any]:
        return {"schema": JSON_SCHEMA, "settings": [setting.as_json(self.sweep) for setting in self.settings]}

    def figures(self) -> tuple[dict[str, float], dict[str, str]]:
        if len(self.settings) > 1:
            found = [setting.lambda_opt for setting in self.settings]
            return {"settings": len(found), "settings_with_lambda_opt": sum(value is not None for value in found)}, {}
        form = self.as_json()["settings"][0]
        metrics = {name: form[name] for name in ("lambda_opt", "least_bad", "tolerance") if form[name] is not None}
        metrics |= {f"test_dip_{name}": value for name, value in form["test_dip"].items() if value is not None}
        tags = {name: str(form[name]) for name in ("reason", "shape", "decided_on", "deciding_labels", "setting_id")}
        return metrics, tags

    def draw(self, path: Path) -> None:
        if len(self.settings) > 1:
            plot_settings(path, [self._panel(setting) for setting in self.settings], self.reading)
            return
        (setting,) = self.settings
        plot_curves(
            path,
            titled(setting.label, self.results),
            [result.trial for result in self.results],
            base=setting.lambdas[0].weight_decay,
            optimum=setting.lambda_opt,
            tolerance=setting.rule.tolerance,
            shape=setting.rule.shape,
            reading=self.reading,
        )

    @staticmethod
    def _panel(setting: SettingResult) -> Panel:
        chosen = setting.at(setting.lambda_opt)
        return Panel(
            label=setting.label,
            base=setting.lambdas[0].weight_decay,
            lambda_opt=setting.lambda_opt,
            base_curves=[result.curve for result in setting.lambdas[0].trials],
            curves=[] if chosen is None else [result.curve for result in chosen.trials],
        )

    def show(self, console: Console) -> None:
        if len(self.settings) == 1:
            say_headline(console, headline(self.settings[0]))
            if self.settings[0].reason == "base_diverged":
                return
            console.print(_table(self.settings[0]))
        else:
            _show_settings(console, self.settings)
        _show_reading(console, self.settings[0], self.reading)


def report(store: Store, searches: Sequence[SearchSettings], steps: Sequence[Step], sweep: str, reading: Reading
           ) -> LambdaReport:  # fmt: skip
    """The report of finished searches; `steps` are the last ones of their plans."""
    return LambdaReport(
        sweep=sweep,
        reading=reading,
        settings=tuple(
            _setting_result(store, settings, step.answer, reading)
            for settings, step in zip(searches, steps, strict=True)
        ),
    )


# --- on the terminal ------------------------------------------------------------------------


def headline(setting: SettingResult) -> list[str]:
    """What was found in a setting, in words; every outcome gets an honest sentence."""
    shape, (low, high) = setting.rule.shape, setting.range
    tolerance = f"tolerance {points(setting.rule.tolerance)}"
    if setting.reason == "found":
        lines = [
            f"λ_opt = {setting.lambda_opt:g}",
            f"the smallest λ without a {shape} ({tolerance}){_neighbours(setting)}",
        ]
    elif setting.reason == "no_dip_at_base":
        lines = [f"λ_opt = {low:g}, the base λ: no {shape} there ({tolerance}), nothing needs avoiding"]
    elif setting.reason == "base_diverged":
        why = divergence(setting.lambdas[0].trials)
        lines = [f"no λ_opt: the base λ = {low:g} diverged, so nothing can be compared with it", why]
    else:
        why = (
            f"no λ in [{low:g}, {high:g}] is without a {shape} ({tolerance})"
            if setting.reason == "none_dip_free"
            else f"every λ without a {shape} in [{low:g}, {high:g}] {_unusable(setting)} ({tolerance})"
        )
        lines = [
            f"no λ_opt: {why}",
            f"least bad: λ = {setting.least_bad:g} with a {shape} of {points(setting.named.median_dip)}",
        ]
        if setting.unconfirmed:
            others = ", ".join(f"{value:g}" for value in setting.unconfirmed)
            lines.append(f"not announced, because the next λ above has a {shape} again: λ = {others}")
    if setting.base.protocol == "paper":
        lines.append("PAPER PROTOCOL: trained on all images and decided on the test split")
    if setting.reason != "base_diverged" and _base_never_learned(setting):
        lines.append(f"warning: the base λ = {low:g} never left chance, so its curve says nothing")
    return lines


def _unusable(setting: SettingResult) -> str:
    """What became of the λs whose networks cannot be used."""
    found = {tried.verdict for tried in setting.lambdas}
    return " or ".join(verdict for verdict in UNUSABLE if verdict in found)


def _neighbours(setting: SettingResult) -> str:
    """What the nearest λs that were tried say of λ_opt."""
    assert setting.lambda_opt is not None
    said = [] if setting.below is None else [f"λ = {setting.below:g} below it still dips"]
    above = [tried for tried in setting.lambdas if tried.weight_decay > setting.lambda_opt]
    if above:
        said.append(f"λ = {above[0].weight_decay:g} above it {_ABOVE[above[0].verdict]}")
    return f": {', '.join(said)}" if said else ""


def _base_never_learned(setting: SettingResult) -> bool:
    return all(
        max(record.deciding_accuracy(setting.rule.labels) for record in result.curve) <= 1.1 * result.curve[0].chance
        for result in setting.lambdas[0].trials
    )


def _table(setting: SettingResult) -> Table:
    """The base λ beside λ_opt (or the least bad), a quantity a row."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 2))
    table.add_column("")
    named = "λ_opt" if setting.lambda_opt is not None else "least bad λ"
    columns = [_column(setting, setting.lambdas[0])]
    table.add_column(f"base λ = {setting.lambdas[0].weight_decay:g}", justify="right", no_wrap=True)
    if setting.named != setting.lambdas[0]:
        table.add_column(f"{named} = {setting.named.weight_decay:g}", justify="right", no_wrap=True)
        columns.append(_column(setting, setting.named))
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _column(setting: SettingResult, tried: LambdaResult) -> dict[str, str]:
    def over_seeds(get: Callable[[Summary], float]) -> float:
        return mean(tried.trials, get)

    def paid(levels: float, pflop: float) -> str:
        return f"{levels:.1f} / {pflop:.2e}"

    return {
        f"{setting.rule.shape} on {setting.base.decided_on} / test": (
            f"{100 * tried.median_dip:.1f} / {100 * tried.test_dip:.1f} points"
        ),
        "best test accuracy": percent(over_seeds(lambda f: f.best.test_accuracy)),
        "  at sparsity": percent(over_seeds(lambda f: f.best.sparsity)),
        "  for levels / PFLOP": paid(over_seeds(lambda f: f.levels), over_seeds(lambda f: f.pflop)),
        "early stopping finds test accuracy": percent(over_seeds(lambda f: f.early_stop.test_accuracy)),
        "  at sparsity ": percent(over_seeds(lambda f: f.early_stop.sparsity)),
        "  ending at level": f"{over_seeds(lambda f: f.early_stop.levels - 1):.1f}",
        "  for levels / PFLOP ": paid(
            over_seeds(lambda f: f.early_stop.levels), over_seeds(lambda f: f.early_stop.pflop)
        ),
    }


def _show_settings(console: Console, results: Sequence[SettingResult]) -> None:
    """A row a setting, then what needs a sentence of its own."""
    found = sum(setting.lambda_opt is not None for setting in results)
    say(console, f"λ_opt of {found} of {len(results)} settings", style="bold")
    table = plain_table("setting", "λ_opt", "bracket", "dip at base", "at λ_opt", "test % at base", "at λ_opt")
    for setting in results:
        base, chosen = setting.lambdas[0], setting.at(setting.lambda_opt)
        below = "-" if setting.below is None else f"{setting.below:g}"
        table.add_row(
            setting.label,
            "none" if chosen is None else f"{chosen.weight_decay:g}",
            "-" if chosen is None else f"({below}, {chosen.weight_decay:g}]",
            f"{100 * base.median_dip:.1f}",
            "-" if chosen is None else f"{100 * chosen.median_dip:.1f}",
            f"{100 * mean(base.trials, lambda f: f.best.test_accuracy):.1f}",
            "-" if chosen is None else f"{100 * mean(chosen.trials, lambda f: f.best.test_accuracy):.1f}",
        )
    show_table(console, table)
    for setting in results:
        if setting.reason != "found" or len(headline(setting)) > 2:
            say(console, f"  {setting.label}: {'; '.join(headline(setting))}")


def _show_reading(console: Console, setting: SettingResult, reading: Reading) -> None:
    seeds = f"{setting.seeds} seeds" if setting.seeds > 1 else "1 seed"
    by_test = setting.base.decided_on == "test"
    labels = "" if setting.rule.labels == "clean" or by_test else f" ({setting.rule.labels} labels)"
    test = "its figures are therefore optimistic" if by_test else "test is only reported"
    note(
        console,
        f"{seeds} a λ: median {setting.rule.shape}, means of the rest. Decided on {setting.base.decided_on}{labels}; "
        f"{test}. Early stopping: patience {reading.patience}, "
        f"drop over {100 * reading.min_drop:g} points.",
    )
