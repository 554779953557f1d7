"""The flags of a grid over any fields of a trial: text in, checked arms or every fault at once out.

A cell is the values of one combination by the names of their axes: a field of a trial, `model_options.NAME`,
`teacher` for the level to learn from, `teacher.FIELD` for a field of the teacher's own trial.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from typing_extensions import Doc

from sdd_core import recipes
from sdd_core.fields import Flag, NotNegative, SpecError, did_you_mean, plain
from sdd_core.flags import Parser, Reader, add_spec, read_teacher
from sdd_core.spec import DATA_FIELDS, FIELDS, TrialSpec, digest, setting
from sweeps.flags import Common, Seeds, add_common_flags, read_common, read_seeds, trial_faults
from sweeps.sweep import Arm

DESCRIPTION = """\
Run every combination of the values of any fields, and compare the curves.

Each data set and model takes its recipe, then what the other flags fix, then the values of its cell. Every
finished level goes into the store at once: run the same command again to resume, and nothing finished is
trained twice. Cells that come to the same trial are run once. Where a cell has a teacher, all trials share one
data seed, and so each teacher is trained once.
"""
EXAMPLES = """\
examples:
  python sweeps/ablation.py --vary label_noise=0.2,0.5 --vary weight_decay=1e-4,1e-2 --vary teacher=none,dense
  python sweeps/ablation.py --vary criterion=global_magnitude,random --vary model_options.hidden1=100,300 --seeds 1
  python sweeps/ablation.py --vary teacher=dense,pruned,3 --vary teacher.weight_decay=1e-4,0.0178 --alpha 0.5
  python sweeps/ablation.py --config grid.yaml --plan       what it would cost; nothing runs

a whole grid.yaml, with what no flag can say:
  epochs: 30                                  # any flag, by its name
  seeds: 3
  vary:                                       # every combination of these
    label_noise: [0.2, 0.5]
    weight_decay: [1e-4, 1e-2]
  zip:                                        # lists that advance together
    - {optimizer: [sgd, adamw], learning_rate: [0.1, 0.001]}
  exclude:                                    # cells that match are left out
    - {label_noise: 0.5, optimizer: adamw}
  arms:                                       # cells of their own, with a name
    taught: {teacher: dense, alpha: 0.5, teacher.weight_decay: 0.0178}

exit status: 0 an answer or a plan, 1 trials failed, 2 bad input, 3 stopped by a budget, 130 interrupted
"""
ONLY_IN_FILE: Final = {
    "arms": "named cells beside the grid: a name -> its fields' values",
    "zip": "axes that are no product: a list of mappings whose lists advance together",
    "exclude": "cells that are left out: a list of mappings from fields to a value or a list of values",
}

Cell = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is varied, and how often."""

    vary: Annotated[
        tuple[str, ...],
        Flag(metavar="FIELD=V1,V2,...", repeat=True),
        Doc("values of a field, model_options.NAME, teacher (none, dense, pruned, a number) or teacher.FIELD"),
    ] = ()
    seeds: Annotated[Seeds, Doc("seeds a cell: how many, or two and more by number")] = None
    tolerance: Annotated[
        NotNegative | None, Flag(default="max(0.02, 0.6/√n)"), Doc("largest dip that counts as none, a fraction")
    ] = None


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """What a grid compares."""

    axes: dict[str, tuple[Any, ...]]
    """The values of each axis, in the order in which they were named."""
    arms: tuple[Arm, ...]
    """One a cell, the product first; an arm's `fields` are its values by axis, and its name as `arm` if it has one."""
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's checked input."""

    common: Common
    settings: GridSettings
    tolerance: float | None
    """The largest dip that counts as none; None: each arm's own by the size of its validation split."""


def make_parser() -> Parser:
    """The command's flags and help."""
    parser = Parser(prog="ablation.py", description=DESCRIPTION, epilog=EXAMPLES, only_in_file=ONLY_IN_FILE)
    parser.add(Grid, "grid")
    add_spec(parser, leave_out=("seed",))
    add_common_flags(parser)
    return parser


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """The checked flags; refuses bad input with every fault in one message and exit status 2."""
    reader = make_parser().read(arguments)
    grid = reader.read(Grid)
    seeds = read_seeds(reader, grid.seeds)
    axes, cells = _cells(reader, grid.vary)
    fixed, level = reader.given(TrialSpec), reader.text("teacher")
    # A teacher may be named by an axis instead of by the flag.
    asked = ["axis"] if any("teacher" in cell for _, cell in cells) else level
    teacher = read_teacher(reader, asked)
    made: dict[tuple[str, float], tuple[str | None, Cell, TrialSpec]] = {}
    for name, cell in cells:
        try:
            trial = trial_of(cell, fixed, level, teacher)
        except SpecError as error:
            reader.faults += [f"{_shown(name, cell)}: {fault}" for fault in error.faults]
        else:
            made.setdefault((trial.trial_id, trial.target_sparsity), (name, cell, trial))
    settings = GridSettings(axes=axes, arms=tuple(_arms(axes, made.values(), seeds, fixed)), seeds=seeds)
    kinds = [[setting(arm.trials[0]), arm.trials[0].weight_decay] for arm in settings.arms]
    common = read_common(reader, f"ablation-{digest(kinds)}")
    for name, cell, trial in made.values():
        reader.faults += [f"{_shown(name, cell)}: {fault}" for fault in trial_faults(trial, common)]
    if not made and not reader.faults:
        reader.faults.append("exclude: leaves no cell")
    reader.refuse()
    return Options(common=common, settings=settings, tolerance=grid.tolerance)


def trial_of(cell: Cell, fixed: Cell, level: str | int | None = None, teacher: Cell | None = None) -> TrialSpec:
    """The trial of a cell: its recipe, what is fixed, then the cell's own values. Raises `SpecError`."""
    fields, own = dict(fixed), dict(teacher or {})
    for name, value in cell.items():
        if name == "teacher":
            level = value
        elif name.startswith("teacher."):
            _put(own, name.removeprefix("teacher."), value)
        else:
            _put(fields, name, value)
    return recipes.make(fields, level, own)


def value_of(trial: TrialSpec, axis: str) -> Any:
    """A trial's value on an axis; None where it has no such field."""
    if axis == "teacher":
        return trial.teacher.level if trial.teacher is not None else None
    if axis.startswith("teacher."):
        return value_of(trial.teacher.trial, axis.removeprefix("teacher.")) if trial.teacher is not None else None
    if axis.startswith("model_options."):
        return trial.options.get(axis.removeprefix("model_options."))
    return trial.options if axis == "model_options" else getattr(trial, axis)


def _put(fields: Cell, name: str, value: Any) -> None:
    if name.startswith("model_options."):
        changed = dict(fields.get("model_options", ())) | {name.removeprefix("model_options."): value}
        fields["model_options"] = tuple(changed.items())
    else:
        fields[name] = value


def _arms(
    axes: Mapping[str, Any], made: Iterable[tuple[str | None, Cell, TrialSpec]], seeds: Sequence[int], fixed: Cell
) -> Iterator[Arm]:
    made = list(made)
    shared = any(trial.distilled for _, _, trial in made)
    for name, cell, trial in made:
        given = shared or "data_seed" in fixed or "data_seed" in cell
        fields = {axis: value_of(trial, axis) for axis in axes} | ({"arm": name} if name is not None else {})
        yield Arm(
            fields=fields,
            trials=tuple(trial.replace(seed=seed, data_seed=trial.data_seed if given else seed) for seed in seeds),
        )


def _shown(name: str | None, cell: Cell) -> str:
    said = " ".join(f"{axis}={'none' if value is None else value}" for axis, value in cell.items())
    return f"arm {name}" if name is not None else said or "the only cell"


# --- cells from text --------------------------------------------------------------------------


def _cells(reader: Reader, vary: Sequence[str]) -> tuple[dict[str, tuple[Any, ...]], list[tuple[str | None, Cell]]]:
    """The axes with their values, and every cell with its name if it has one; faults go to the reader."""
    axes: dict[str, tuple[Any, ...]] = {}
    groups: list[list[Cell]] = []
    for text in vary:
        name, _, values = text.partition("=")
        _add_axes(reader, axes, groups, {name: values.split(",") if values else []}, "vary")
    for columns in _listed(reader, "zip"):
        if len({len(values) for values in columns.values() if isinstance(values, list)}) != 1:
            reader.faults.append(f"zip {columns}: must be lists of one length")
        else:
            _add_axes(reader, axes, groups, columns, "zip")
    cells = [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*groups)]
    for excluded in _listed(reader, "exclude"):
        rows = {name: values if isinstance(values, list) else [values] for name, values in excluded.items()}
        wanted = {name: [_value(reader, name, text, "exclude") for text in texts] for name, texts in rows.items()}
        cells = [cell for cell in cells if not all(cell.get(name) in values for name, values in wanted.items())]
    named: list[tuple[str | None, Cell]] = []
    arms = reader.text("arms") or {}
    if not isinstance(arms, dict) or not all(isinstance(fields, dict) for fields in arms.values()):
        reader.faults.append(f"arms {arms!r}: must be names with their fields' values")
        arms = {}
    for arm, fields in arms.items():
        named.append((arm, {name: _value(reader, name, text, f"arm {arm}") for name, text in fields.items()}))
    return axes, [(None, cell) for cell in cells if cell or not named] + named


def _add_axes(
    reader: Reader, axes: dict[str, tuple[Any, ...]], groups: list[list[Cell]], columns: Mapping[str, Any], where: str
) -> None:
    """Add axes whose values advance together."""
    found = {}
    for name, texts in columns.items():
        if name in axes:
            reader.faults.append(f"{where} {name}: is an axis already")
        elif not texts:
            reader.faults.append(f"{where} {name!r}: must be FIELD=V1,V2,...")
        else:
            before = len(reader.faults)
            values = tuple(_value(reader, name, text, where) for text in texts)
            if len(reader.faults) == before:
                found[name] = values
    axes |= found
    if found:
        rows = zip(*found.values(), strict=True)
        groups.append([dict(zip(found, row, strict=True)) for row in rows])


def _value(reader: Reader, axis: str, text: str | list[str], where: str) -> Any:
    """The value that a text means on an axis; None with a fault kept when it means none."""
    name = axis.removeprefix("teacher.")
    if name.startswith("model_options.") and isinstance(text, str):
        return plain(text)
    if axis == "teacher":
        return None if text == "none" else int(text) if isinstance(text, str) and text.isdecimal() else text
    field = FIELDS.get(name)
    if axis != name and name in DATA_FIELDS:
        reader.faults.append(f"{where} {axis}: a teacher has its student's data")
        return None
    if field is None or field.nested or axis == "seed":
        hint = "give --seeds" if axis == "seed" else did_you_mean(axis, FIELDS)
        reader.faults.append(f"{where} {axis}: is no field that can be varied{f'; {hint}' if hint else ''}")
        return None
    if text in ("none", "null", "") and field.optional:
        return None
    return reader.collect(field.read, text.split() if field.many and isinstance(text, str) else text, axis)


def _listed(reader: Reader, name: str) -> list[dict[str, Any]]:
    """A list of mappings that only a file can hold."""
    given = reader.text(name) or []
    if isinstance(given, list) and all(isinstance(one, dict) for one in given):
        return given
    reader.faults.append(f"{name} {given!r}: must be a list of mappings")
    return []
