"""What this machine can do, as a bug report should hold it: `python -m sdd_core doctor`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from typing_extensions import Doc

from sdd_core.data.sources import data_dir, set_data_dir
from sdd_core.fields import Flag
from sdd_core.flags import Here, Parser

DESCRIPTION = """\
Say what this machine can do: versions, devices, the steps of training on each, energy, data sets, the store.

A tiny network is really trained on every device in every precision. On a GPU the captured step, the layout
and the fused kernels are compared with plain ones. Takes some seconds. Put what it prints into a bug report.
Exit status 1 when something that should work does not, or does not agree.
"""
EXAMPLES = """\
examples:
  python -m sdd_core doctor
  python -m sdd_core doctor --data-dir DIR --store ./store
  python -m sdd_core doctor --json -        the same for machines
"""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is looked at beside the machine, and how it is said."""

    store: Annotated[str | None, Flag(metavar="PLACE", default="not tried"), Doc("try to write to this store")] = None
    json: Annotated[str | None, Flag(metavar="FILE"), Doc("write it as JSON; - for standard output")] = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="python -m sdd_core doctor", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add(Here, "where", only=("data_dir",))
    parser.add(Asked, "what")
    reader = parser.read(arguments)
    here, asked = reader.read(Here), reader.read(Asked)
    if asked.json not in (None, "-") and not Path(asked.json).absolute().parent.is_dir():
        reader.faults.append(f"json {asked.json!r}: there is no folder {Path(asked.json).parent}")
    reader.refuse()
    set_data_dir(here.data_dir)
    found = look(asked.store)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if asked.json == "-":
        print(text)
    else:
        print("\n".join(lines(found)))
    if asked.json not in (None, "-"):
        Path(asked.json).write_text(text + "\n", encoding="utf-8")
    return int(bool(found["wrong"]))


def look(store: str | None = None) -> dict[str, Any]:
    """Everything that is found, as plain values; `wrong` names what should work and does not."""
    from sdd_core import checkup  # after the flags are read: torch takes seconds, and --help does not need it

    devices = []
    for device in checkup.devices():
        print(f"trying {device} ...", file=sys.stderr, flush=True)
        checks = [asdict(check) for check in checkup.step_checks(device)]
        devices.append(checkup.described(device) | {"steps": checks, "energy": checkup.energy(device)})
    place = None if store is None else {"url": store, "fault": _store_fault(store)}
    wrong = [
        f"{device['device']}, {_name(check)}: {_said_of(check)}"
        for device in devices
        for check in device["steps"]
        if check["wrong"]
    ]
    return {
        "schema": 1,
        "versions": checkup.versions(),
        "machine": checkup.this_machine(),
        "devices": devices,
        "data_dir": str(data_dir()),
        "data_sets": checkup.data_sets(),
        "store": place,
        "wrong": wrong + ([place["fault"]] if place is not None and place["fault"] is not None else []),
    }


def _store_fault(url: str) -> str | None:
    from sdd_core.store import Store

    try:
        return Store(url).fault()
    except ValueError as error:
        return str(error)


# --- in words -------------------------------------------------------------------------------


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What was found, for people."""
    yield "versions"
    for name, version in found["versions"].items():
        yield f"  {name:16s}{version or '-'}"
    held = found["machine"]
    yield "machine"
    yield f"  {'system':16s}{held['system']}"
    yield f"  {'CPU':16s}{held['cpu']}"
    yield f"  {'cores':16s}{held['cores']}, {held['usable_cores'] or 'unknown'} of them for this process"
    yield f"  {'memory':16s}{_gib(held['memory'])}"
    for device in found["devices"]:
        yield from _device_lines(device)
    yield f"data sets in {found['data_dir']}"
    for name, fault in found["data_sets"].items():
        yield f"  {name:16s}{'whole' if fault is None else fault.removeprefix(f'dataset {name!r}: ')}"
    if found["store"] is not None:
        yield f"store {found['store']['url']}"
        yield f"  {'writing':16s}{found['store']['fault'] or 'works'}"
    yield "all that should work here does" if not found["wrong"] else "what should work here and does not"
    yield from (f"  {fault}" for fault in found["wrong"])


def _device_lines(device: dict[str, Any]) -> Iterator[str]:
    on_gpu = device["capability"] is not None
    yield f"{device['device']}: {device['name']}"
    if on_gpu:
        yield f"  {'memory':16s}{_gib(device['free'])} of {_gib(device['memory'])} free"
        yield f"  {'capability':16s}{device['capability']}"
    for check in device["steps"]:
        yield f"  {_name(check):16s}{_said_of(check)}"
    if not on_gpu:
        yield f"  {'capture':16s}nothing is captured here: only a GPU has CUDA graphs"
    used = device["energy"]
    yield f"  {'energy':16s}{used['source']}: {used['method'] or used['reason']}"


def _name(check: dict[str, Any]) -> str:
    return f"{check['precision']} {check['optimizer']}"


_WAYS = {
    "captured": "captured step",
    "channels_last": "channels-last",
    "fused": "fused update",
    "engine": "engine's backward",
}


def _said_of(check: dict[str, Any]) -> str:
    if not check["runs"]:
        return f"does not run: {check['reason']}"
    said = [
        f"{_WAYS.get(way, way)} {'agrees' if against is None else f'IS NOT USED ({against})'}"
        for way, against in check["ways"].items()
    ]
    return "runs; " + ", ".join(said)


def _gib(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**30:.1f} GiB"
