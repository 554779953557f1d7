"""Files that hold the answer of a sweep: written whole or not at all, and compared with another making of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

PROVENANCE: Final = ("environments", "levels_from")
"""Keys of an answer that say where its levels come from, which nothing decides."""
_MISSING: Final = "nothing"


def write(path: Path, form: Mapping[str, Any]) -> None:
    """Write an answer to a file, whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(form, indent=2, ensure_ascii=False) + "\n")
    aside.replace(path)


def differences(held: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Where two answers differ, each place with both values. Sums may differ in their last digits."""
    return _differences(_plain(held), _plain(now), "answer")


def _plain(form: Mapping[str, Any]) -> Any:
    """An answer as JSON has it, without its provenance."""
    return json.loads(json.dumps({name: value for name, value in form.items() if name not in PROVENANCE}))


def _differences(held: Any, now: Any, place: str) -> list[str]:
    if isinstance(held, dict) and isinstance(now, dict):
        names = dict.fromkeys((*held, *now))
        pairs = [(held.get(name, _MISSING), now.get(name, _MISSING), f"{place}.{name}") for name in names]
    elif isinstance(held, list) and isinstance(now, list) and len(held) == len(now):
        pairs = [(one, other, f"{place}[{i}]") for i, (one, other) in enumerate(zip(held, now, strict=True))]
    elif held == now or _close(held, now):
        return []
    else:
        return [f"{place}: {held!r} in the file, {now!r} by the records"]
    return [line for one, other, where in pairs for line in _differences(one, other, where)]


def _close(held: Any, now: Any) -> bool:
    floats = isinstance(held, float) and isinstance(now, float)
    return floats and math.isclose(held, now, rel_tol=1e-9, abs_tol=1e-12)
