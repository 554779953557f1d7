"""Fields whose annotation says everything about them: type, range or words, and help. pydantic checks them.

    epochs: Annotated[int, Ge(1), Doc("epochs a level")] = 30

`fields_of` gives the fields of a dataclass that is written so. The words of a field are those of a `Literal`
or the names of a registry (`Words`). Whatever is wrong with a value is said here, in one sentence that names
the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import Doc

M = TypeVar("M")

_CONFIG: Final = ConfigDict(strict=True, allow_inf_nan=False)
# What the annotations of this project are made of.
Share = Annotated[float, Interval(ge=0, le=1)]
Inside = Annotated[float, Interval(gt=0, lt=1)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Pairs = tuple[tuple[str, int | float | str], ...]
"""Names with values; on the command line NAME=VALUE."""


class SpecError(ValueError):
    """Bad input. `faults` holds one sentence per fault, each with the value and what is allowed."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[str, ...]]]:
        return SpecError, (self.faults,)


@dataclass(frozen=True, eq=False)
class Words:
    """Marks a word as one of these, as they are when a value is checked: a registry can grow."""

    known: Collection[str]
    also: tuple[str, ...] = ()

    def __iter__(self) -> Any:
        return iter((*self.known, *self.also))

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "enum": list(self)}

    def _check(self, word: str) -> str:
        if word not in self.known and word not in self.also:
            raise PydanticCustomError("literal_error", "unknown word")
        return word


@dataclass(frozen=True)
class Must:
    """Marks what a value must do, in words, where its type and range do not say it."""

    sentence: str


@dataclass(frozen=True)
class Because:
    """Marks why a limit is where it is, for those who come upon it."""

    reason: str


@dataclass(frozen=True)
class Flag:
    """Marks how a field looks on the command line where that does not follow from its name and type."""

    name: str | None = None
    """The flag's name; dashes stand for underscores."""
    metavar: str | tuple[str, ...] | None = None
    default: str | None = None
    """What happens without the flag, in words, where the field's default does not say it."""
    repeat: bool = False
    """The flag may be given again, and adds to what it was given before."""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """The known word that was probably meant, or ""."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


class Field:
    """One field of a dataclass, read off its annotation."""

    def __init__(self, name: str, annotation: Any, default: Any = None) -> None:
        self.name, self.default, self.annotation = name, default, annotation
        self.metadata = _metadata(annotation)
        self.optional = get_origin(annotation) is Annotated and types.NoneType in get_args(get_args(annotation)[0])
        self.help = next((found.documentation for found in self.metadata if isinstance(found, Doc)), "")
        self.flag = self.marked(Flag) or Flag()
        self.bare = _bare(annotation)
        self.many = get_origin(self.bare) is tuple
        self.pairs = self.bare == Pairs
        item = get_args(self.bare)[0] if self.many else annotation
        self.type = _bare(item)
        self._limits = _metadata(item)
        literal = get_args(self.type) if get_origin(self.type) is Literal else None
        self.words: Iterable[str] | None = literal or next((m for m in self._limits if isinstance(m, Words)), None)
        self._must, self._because = self.marked(Must), self.marked(Because)

    def marked(self, kind: type[M]) -> M | None:
        """The field's marker of a kind."""
        return next((found for found in self.metadata if isinstance(found, kind)), None)

    @property
    def nested(self) -> bool:
        """Whether it holds another such dataclass, which checks itself."""
        return isinstance(self.type, type) and dataclasses.is_dataclass(self.type)

    @functools.cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """pydantic's, which takes a value as it is and turns nothing into anything else."""
        return TypeAdapter(Any) if self.nested else TypeAdapter(self.annotation, config=_CONFIG)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of its values."""
        if self.pairs:
            return {"type": "object", "additionalProperties": {"type": ["number", "string"]}}
        return self.adapter.json_schema()

    @functools.cached_property
    def _check(self) -> Callable[[object], Any]:
        check: Callable[[object], Any] = self.adapter.validator.validate_python
        return check

    @functools.cached_property
    def _parser(self) -> TypeAdapter[Any]:
        return TypeAdapter(str if get_origin(self.type) is Literal else self.type)

    @functools.cached_property
    def range(self) -> str:
        """The numbers that are allowed, in words ("in [0, 1]"); "" where there is no limit."""
        low, high, low_ok, high_ok = -math.inf, math.inf, True, True
        for limit in (part for found in self._limits for part in (found if isinstance(found, Interval) else [found])):
            if isinstance(limit, Ge | Gt):
                low, low_ok = (limit.ge, True) if isinstance(limit, Ge) else (limit.gt, False)  # type: ignore[assignment]
            elif isinstance(limit, Le | Lt):
                high, high_ok = (limit.le, True) if isinstance(limit, Le) else (limit.lt, False)  # type: ignore[assignment]
        if self.type is int:
            return f"a whole number from {low:g}" + (f" to {high:g}" if high < math.inf else "")
        if self.type is not float or low == -math.inf:
            return ""
        if high == math.inf:
            return f"at least {low:g}" if low_ok else f"above {low:g}"
        return f"in {'[' if low_ok else '('}{low:g}, {high:g}{']' if high_ok else ')'}"

    @property
    def allowed(self) -> str:
        """What is allowed, as help says it."""
        return f"one of {', '.join(self.words)}" if self.words is not None else self.range

    def faults(self, value: object, before: str | None = None) -> list[str]:
        """What is wrong with a value taken alone; `before` stands before it in the sentences."""
        before = f"{self.name} " if before is None else before
        try:
            self._check(value)
        except ValidationError as error:
            if self._must is not None:
                return [f"{before}{list(value) if isinstance(value, tuple) else value!r}: {self._must.sentence}"]
            return [self._sentence(before, part["input"], part["type"]) for part in error.errors()]
        return []

    def _sentence(self, before: str, value: object, error: str) -> str:
        if self.words is not None:
            hint = did_you_mean(value, self.words)
            return f"{before}{value!r}: allowed are {', '.join(self.words)}{f'; {hint}' if hint else ''}"
        beyond = "than" in error  # pydantic's names of errors: greater_than, less_than_equal and so on
        finite = "" if beyond or self.type is not float else "a finite number "
        why = f" ({self._because.reason})" if self._because is not None else ""
        return f"{before}{value!r}: must be {finite}{self.range}".rstrip() + why

    def read(self, text: str | Sequence[str], name: str | None = None) -> Any:
        """The value that is written as this text, or as these. Raises `SpecError` with every fault."""
        name = name or self.name
        values, faults = [], []
        for one in [text] if isinstance(text, str) else text:
            try:
                values.append(_pair(one) if self.pairs else self._parser.validate_strings(one))
            except ValueError:
                faults.append(f"{name} {one!r}: must be {self._called}")
        value = tuple(values) if self.many else values[0] if values else None
        faults = faults or self.faults(value, f"{name} ")
        if faults:
            raise SpecError(faults)
        return value

    @property
    def _called(self) -> str:
        if self.pairs:
            return "NAME=VALUE"
        return f"a number {self.range}".rstrip() if self.type is float else self.range or "yes or no"


def _metadata(annotation: Any) -> list[Any]:
    """What an annotation says beside the type, inside `X | None` too."""
    if get_origin(annotation) is Annotated:
        base, *found = get_args(annotation)
        return _metadata(base) + found
    if get_origin(annotation) in (Union, types.UnionType):
        return [found for part in get_args(annotation) for found in _metadata(part)]
    return []


def _bare(annotation: Any) -> Any:
    """The type alone, without what is said beside it and without None."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        return _bare(parts[0]) if len(parts) == 1 else annotation
    return annotation


def _pair(text: str) -> tuple[str, int | float | str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(text)
    return name, plain(value)


def plain(text: str) -> int | float | str:
    """A whole number, a number or a word, whatever the text can be read as first."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@functools.cache
def fields_of(kind: type) -> dict[str, Field]:
    """The fields of a dataclass, by name."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        field.name: Field(
            field.name, hints[field.name], None if field.default is dataclasses.MISSING else field.default
        )
        for field in dataclasses.fields(kind)
    }
