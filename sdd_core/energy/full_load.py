"""Known devices, and the power that they draw at full load: it is what an estimate without a sample takes."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_STATED: Final = {"cpu": "SDD_CPU_WATTS", "gpu": "SDD_GPU_WATTS"}
_CPUINFO: Final = Path("/proc/cpuinfo")


def known(kind: str) -> dict[str, Any]:
    """A device's name, and its power at full load where that is known: fields of `figures.Device`."""
    variable = _STATED[kind]
    cpuinfo = _CPUINFO.read_text() if kind == "cpu" and _CPUINFO.exists() else ""
    facts: dict[str, Any] = {"watts_from": f"its power at full load is not known ({variable} may say it)"}
    if kind == "cpu":
        facts["name"] = cpu_name(cpuinfo)
    stated = os.environ.get(variable)
    if stated is not None:
        try:
            watts = float(stated)
        except ValueError:
            watts = math.nan
        if not (math.isfinite(watts) and watts > 0):
            return facts | {"watts_from": f"{variable} {stated!r} must be a number above 0"}
        return facts | {"watts": watts, "watts_from": variable}
    tdp = cpu_watts(cpuinfo, cpu_table()) if kind == "cpu" else None
    return facts if tdp is None else facts | {"watts": tdp, "watts_from": "carbontracker's TDP"}


def cpu_name(cpuinfo: str) -> str:
    """The CPU's name in the text of /proc/cpuinfo, as tables write it; the platform's where it has none."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    name = found.group(1) if found else platform.processor() or platform.machine()
    for noise in (r"\((R|TM|r|tm)\)", r"@.*$", r"\bCPU\b", r"\b\d+-Core Processor\b", r"\bProcessor\b", r"^\d+th Gen "):
        name = re.sub(noise, " ", name)
    return " ".join(name.split())


def cpu_watts(cpuinfo: str, table: Sequence[tuple[str, float]]) -> float | None:
    """TDP of all CPU packages of a machine in W.

    None for a name that is not in the table, and in a virtual machine, which has a part of a package.
    """
    virtual = re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None
    watts = dict(table).get(cpu_name(cpuinfo))
    if watts is None or virtual:
        return None
    packages = set(re.findall(r"^physical id\s*:\s*(\d+)$", cpuinfo, re.MULTILINE))
    return watts * max(1, len(packages))


def cpu_table() -> list[tuple[str, float]]:
    """The CPUs in carbontracker's table, as (name, TDP in W); empty where carbontracker is not installed."""
    found = importlib.util.find_spec("carbontracker")
    places = found.submodule_search_locations if found is not None else None
    rows: list[tuple[str, float]] = []
    for place in places or []:
        for line in (Path(place) / "data" / "cpu_power.csv").read_text().splitlines()[1:]:
            name, _, watts = line.rpartition(",")
            with contextlib.suppress(ValueError):  # a few are ranges
                rows.append((name.strip('"'), float(watts)))
    return rows
