"""Flags that follow from annotated fields: text in, values or every fault at once out.

    parser = Parser(prog="...", description="...")
    parser.add(TrialSpec, "recipe", only=("epochs", "batch_size"))      one flag a field
    reader = parser.read()                                              text, from the flags and from --config
    reader.given(TrialSpec)                                             the values of what was given
    reader.refuse()                                                     ends the command when there are faults

argparse only splits the command line into text. A field's annotation (`sdd_core.fields`) says what the text
means, what is allowed, and what --help and --schema say of it. Without a flag the namespace holds None.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar, get_args

import yaml
from typing_extensions import Doc

from sdd_core import recipes, registry
from sdd_core.fields import Count, Field, Flag, Pairs, SpecError, Words, did_you_mean, fields_of
from sdd_core.registry import MODELS
from sdd_core.spec import DATA_FIELDS, FIELDS, TrialSpec, fields_that_are
from sdd_core.store import Store

T = TypeVar("T")

_NOT_OF_A_RUN: Final = ("config", "schema", "plan")


class Parser(argparse.ArgumentParser):
    """An argument parser whose user errors are one message without a usage dump, exit status 2."""

    def __init__(self, *, prog: str, description: str, epilog: str = "", only_in_file: Mapping[str, str] = {}) -> None:
        """`only_in_file` are what --config may hold and no flag can, each with what it is."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.fields: dict[str, Field] = {}
        self.several: set[str] = set()
        self.only_in_file = dict(only_in_file)

    def add(
        self,
        kind: type,
        title: str,
        about: str | None = None,
        *,
        only: Collection[str] | None = None,
        leave_out: Collection[str] = (),
        several: Collection[str] = (),
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Add one flag for each field of a dataclass, in a group of --help.

        Fields in `several` take several values. `defaults` are shown instead of the fields' own.
        """
        wanted = [
            field
            for name, field in fields_of(kind).items()
            if (only is None or name in only) and name not in leave_out and not field.nested
        ]
        found = [group for group in self._action_groups if group.title == title]
        group = found[0] if found else self.add_argument_group(title, about)
        for field in wanted:
            name, many = dest_of(field), field.name in several
            self.fields[name] = field
            self.several |= {name} if many else set()
            default = (defaults or {}).get(field.name, field.default)
            options: dict[str, Any] = {"dest": name, "default": None, "help": _help(field, default)}
            if field.type is bool:
                options |= {"action": "store_const", "const": "yes"}
            else:
                options |= {"metavar": field.flag.metavar or _metavar(field), "nargs": _nargs(field, many)}
                options |= {"action": "extend"} if field.flag.repeat else {}
            group.add_argument(f"--{name.replace('_', '-')}", **options)

    def error(self, message: str) -> NoReturn:
        self.refuse([message])

    def refuse(self, faults: Sequence[str]) -> NoReturn:
        """Say everything that is wrong, in one message, and exit with status 2."""
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = "".join(f"  - {fault}\n" for fault in faults)
        sys.stderr.write(f"{self.prog}: {count}, nothing was run\n{lines}Try {self.prog} --help.\n")
        raise SystemExit(2)

    def read(self, arguments: Sequence[str] | None = None) -> Reader:
        """The text of the flags and of the file that --config names; faults for what is not known."""
        group = self.add_argument_group("files")
        group.add_argument("--config", metavar="FILE", help="take flags from this YAML or TOML file too; flags win")
        group.add_argument("--schema", action="store_true", help="print that file's JSON schema, for editors, and exit")
        self.add(Files, "files")
        namespace, unknown = self.parse_known_args(arguments)
        flags = [flag for action in self._actions for flag in action.option_strings]
        faults = []
        for word in unknown:
            hint = did_you_mean(word.split("=")[0], flags) if word.startswith("-") else ""
            faults.append(f"{word}: unknown flag" + (f" ({hint})" if hint else ""))
        for name in self.only_in_file:
            setattr(namespace, name, None)
        if namespace.config is not None:
            try:
                self._take(_load(namespace.config), namespace)
            except SpecError as error:
                faults += [f"--config {namespace.config}: {fault}" for fault in error.faults]
        reader = Reader(self, namespace, faults)
        reader.collect(registry.load, reader.read(Files).plugin)  # before a word that it registers is looked up
        if namespace.schema:
            reader.refuse()
            print(json.dumps(self._schema(), indent=2, ensure_ascii=False))
            raise SystemExit(0)
        return reader

    def _take(self, file: Mapping[str, Any], namespace: argparse.Namespace) -> None:
        """Put what a file holds where no flag was given. Raises `SpecError` for names that are not known."""
        actions = {a.dest: a for a in self._actions if a.option_strings and a.dest not in ("help", "config", "schema")}
        faults = []
        for key, value in file.items():
            name = str(key).replace("-", "_")
            if name in self.only_in_file:
                setattr(namespace, name, value)
            elif name not in actions:
                hint = did_you_mean(name, [*actions, *self.only_in_file])
                faults.append(f"{key}: unknown name" + (f"; {hint}" if hint else ""))
            elif getattr(namespace, name) is None and value not in (None, "", "null", "~"):
                if isinstance(value, dict):
                    value = [f"{inner}={_joined(given)}" for inner, given in value.items()]
                many = actions[name].nargs not in (None, 0)
                if isinstance(value, list) and not many:
                    faults.append(f"{key} {value!r}: takes one value")
                    continue
                setattr(namespace, name, [value] if many and not isinstance(value, list) else value)
        if faults:
            raise SpecError(faults)

    def _schema(self) -> dict[str, Any]:
        """The JSON schema of what --config may hold."""
        properties: dict[str, Any] = {}
        for name, field in self.fields.items():
            value = field.schema()
            value = {"anyOf": [value, {"type": "array", "items": value}]} if name in self.several else value
            if field.many:  # one value needs no list, and NAME=VALUE pairs may be a mapping
                value = {"anyOf": [value, {"type": ["string", "number", "object"]}]}
            properties[name.replace("_", "-")] = value | {"description": field.help}
        properties |= {name: {"description": text} for name, text in self.only_in_file.items()}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": f"What --config of {self.prog} may hold",
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
        }


class Reader:
    """What a command was given, as text, and every fault found in it so far."""

    def __init__(self, parser: Parser, namespace: argparse.Namespace, faults: list[str]) -> None:
        self.parser, self.namespace, self.faults = parser, namespace, faults

    def text(self, name: str) -> Any:
        """A flag's text, or texts; None when it was not given."""
        return getattr(self.namespace, name, None)

    def given(self, kind: type) -> dict[str, Any]:
        """The values of the fields that were given, without those that have a fault.

        A field that takes several values here has a tuple of them.
        """
        values = {}
        for name, field in fields_of(kind).items():
            text = self.text(dest_of(field))
            if text is None or field.nested or dest_of(field) not in self.parser.fields:
                continue
            if dest_of(field) in self.parser.several:
                values[name] = tuple(self.collect(field.read, one, dest_of(field)) for one in text)
                if None in values[name]:
                    del values[name]
            else:
                value = self.collect(field.read, text, dest_of(field))
                if value is not None:
                    values[name] = value
        return values

    def read(self, kind: type[T]) -> T:
        """A dataclass of options; what has a fault has its default."""
        return kind(**self.given(kind))

    def collect(self, make: Any, *arguments: Any, **named: Any) -> Any:
        """What a function gives; None, and its faults kept, when it raises `SpecError`."""
        try:
            return make(*arguments, **named)
        except SpecError as error:
            self.faults += error.faults
            return None

    def refuse_repeated(self, name: str, values: Sequence[Any], what: str) -> None:
        """Keep a fault when two of the values are the same."""
        if len(set(values)) < len(values):
            self.faults.append(f"{name} {' '.join(map(str, values))}: must be different {what}")

    def refuse(self) -> None:
        """End the command when there are faults."""
        if self.faults:
            self.parser.refuse(list(dict.fromkeys(self.faults)))


def reproducing(namespace: argparse.Namespace) -> str:
    """The YAML file that does the same with --config: everything that was given, by a flag or a file."""
    given = {
        name if isinstance(value, dict) else name.replace("_", "-"): value
        for name, value in vars(namespace).items()
        if value is not None and name not in _NOT_OF_A_RUN
    }
    return yaml.dump(given, Dumper=_Plain, sort_keys=False, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Writes text as it is, 0.10 and not '0.10': it is read as text too."""

    yaml_implicit_resolvers: Mapping[str, Any] = {}  # type: ignore[assignment]


def _load(path: str) -> dict[str, Any]:
    """What a YAML or TOML file holds, with every value as text."""
    try:
        content = Path(path).read_text(encoding="utf-8")
        file = (
            tomllib.loads(content, parse_float=str) if path.endswith(".toml") else yaml.load(content, yaml.BaseLoader)
        )
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([f"cannot be read ({error})"]) from None
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise SpecError([f"not valid: {' '.join(str(error).split())}"]) from None
    if not isinstance(file, dict):
        raise SpecError(["must hold names and their values"])
    return {str(key): _as_text(value) for key, value in file.items()}


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _joined(value: Any) -> str:
    """A list as a flag has it: V1,V2, and what is a list itself with spaces."""
    inner = (
        [" ".join(item) if isinstance(item, list) else item for item in value] if isinstance(value, list) else [value]
    )
    return ",".join(map(str, inner))


def dest_of(field: Field) -> str:
    """The name of a field's flag, with underscores."""
    return field.flag.name or field.name


def _help(field: Field, default: Any) -> str:
    """What a field is, what it allows and what happens without the flag."""
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    shown = f"{shown:g}" if isinstance(shown, float) else shown
    ends = field.flag.default or ("" if shown in (None, "", False) else str(shown))
    parts = [field.help, field.allowed if field.type is not bool else ""]
    return (", ".join(filter(None, parts)) + (f" [{ends}]" if ends else "")).replace("%", "%%")


def _metavar(field: Field) -> str:
    if field.pairs:
        return "NAME=VALUE"
    return "NAME" if field.words is not None else {int: "N", float: "X"}.get(field.type, "NAME")


def _nargs(field: Field, several: bool) -> str | int | None:
    if not field.many:
        return "+" if several else None
    items = get_args(field.bare)
    return "+" if len(items) == 2 and items[1] is Ellipsis else len(items)


@dataclass(frozen=True, kw_only=True)
class Files:
    """What of a user's own is taken beside what is built in."""

    plugin: Annotated[
        tuple[str, ...],
        Flag(metavar="FILE", repeat=True),
        Doc("Python files or modules that register models, data sets, criteria and so on; see docs/own.md"),
    ] = ()


# --- what several commands take ---------------------------------------------------------------


AlsoRead = Annotated[
    tuple[str, ...],
    Flag(metavar="PLACE", repeat=True),
    Doc("other stores whose levels are used as if they were here; nothing is written there"),
]


@dataclass(frozen=True, kw_only=True)
class Here:
    """What every command that trains is told of this machine. Nothing of it can influence a result."""

    store: Annotated[str | None, Flag(metavar="PLACE", default="./store"), Doc("folder or URL of the store")] = None
    also_read: AlsoRead = ()
    data_dir: Annotated[
        str | None,
        Flag(metavar="DIR", default="SDD_DATA or ~/.cache/sdd/data"),
        Doc("where downloaded data sets lie"),
    ] = None
    keep: Annotated[
        Literal["dense_best_last", "all"], Flag("keep_weights"), Doc("the levels whose weights the store keeps")
    ] = "dense_best_last"
    threads: Annotated[Count, Doc("CPU threads of a trial's arithmetic")] = 1
    environment: Annotated[
        Literal["any", "same"],
        Doc(
            "same: levels that another kind of device, minor version of torch or number of CPU threads has made are"
            " trained anew here; any: they are used, and an answer that mixes them says so"
        ),
    ] = "any"


def open_store(
    url: str,
    also_read: Sequence[str] = (),
    *,
    read_only: bool = False,
    there: bool = False,
    environment: str | None = None,
) -> Store:
    """A store that can be written to, unless it is `read_only`, and whose upstream stores can be read.

    With `there` it must have levels already. Raises `SpecError` with every fault.
    """
    try:
        store = Store(url, read_only=read_only, also_read=also_read, environment=environment)
    except ValueError as error:
        raise SpecError([str(error)]) from None
    own = (None if read_only else store.fault(), store.unreadable() if there else None)
    faults = [fault for fault in (*own, *store.upstream_faults()) if fault is not None]
    if faults:
        raise SpecError(faults)
    return store


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Whose level a student learns from: a trial of its own recipe, on its student's data."""

    teacher: Annotated[
        str | None,
        Flag(metavar="LEVEL"),
        Doc("whom to distil from: dense, pruned (its best level) or a level's number"),
    ] = None
    teacher_model: Annotated[
        str | None, Words(MODELS), Flag(default="the student's"), Doc("the teacher's architecture")
    ] = None
    teacher_model_options: Annotated[Pairs, Doc("its size")] = ()
    teacher_with: Annotated[
        tuple[str, ...],
        Flag(metavar="FIELD=VALUE", default="its own recipe's"),
        Doc("other fields of the teacher's trial, for example weight_decay=0.0178 seed=1"),
    ] = ()


_ABOUT: Final = {
    "setting": "What is trained. The names of data set and model pick a recipe.",
    "recipe": "How each level is trained and pruned. What is not given is the recipe's; in [] digits'.",
    "approach": "Distillation (Eq. 1). Without a teacher the trial is vanilla.",
    "trial": "One trial of the setting. What is not given is the recipe's; in [] digits'.",
}


def add_spec(parser: Parser, *, leave_out: Collection[str] = (), several: Collection[str] = ()) -> None:
    """Add a flag for every field of a trial but those left out, and for its teacher."""
    recipe = recipes.digits_lenet()
    shown = {name: getattr(recipe, name) for name in FIELDS} | {"model_options": None, "seed": None}
    for title, about in _ABOUT.items():
        only = [name for name in fields_that_are(title) if name not in leave_out]
        if title == "approach" and "teacher" not in leave_out:
            parser.add(Teacher, title, about, several=several)
        if only:
            parser.add(TrialSpec, title, about, only=only, several=several, defaults=shown)


def read_spec(reader: Reader) -> TrialSpec | None:
    """The trial that the flags describe; None, with every fault kept, when they describe none."""
    before = len(reader.faults)
    given, teacher = reader.given(TrialSpec), read_teacher(reader)
    spec = reader.collect(recipes.make, given, reader.text("teacher"), teacher)
    return spec if len(reader.faults) == before else None


def read_teacher(reader: Reader, asked: Iterable[str] | None = None) -> dict[str, Any]:
    """The fields that the flags say of the teacher's trial. Without a teacher that is asked for there are none."""
    faults, reader.faults = reader.faults, []
    given = reader.given(Teacher)
    fields = {name: given[f"teacher_{name}"] for name in ("model", "model_options") if f"teacher_{name}" in given}
    for text in given.get("teacher_with", ()):
        name, _, value = text.partition("=")
        if name not in FIELDS or name in (*DATA_FIELDS, "model", "model_options", "teacher", "alpha", "temperature"):
            allowed = "allowed are FIELD=VALUE of a recipe's fields, seed and target_sparsity"
            reader.faults.append(f"teacher_with {text!r}: {allowed}")
        else:
            found = reader.collect(FIELDS[name].read, value.split(",") if FIELDS[name].many else value)
            fields |= {name: found} if found is not None else {}
    reader.faults = faults + [f"teacher: {fault}" for fault in reader.faults]
    if (reader.text("teacher") if asked is None else asked) is None:
        flags = [name for name in fields_of(Teacher) if name != "teacher" and reader.text(name) is not None]
        reader.faults += [f"--{name.replace('_', '-')}: only with --teacher" for name in flags]
    return fields
