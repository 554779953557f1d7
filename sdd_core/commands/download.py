"""Fetch published data sets into the data directory, on request only: `python -m sdd_core.download cifar10`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sdd_core.data import sources
from sdd_core.flags import Here, Parser
from sdd_core.registry import DATASETS

DESCRIPTION = """\
Fetch data sets through torchvision into the data directory, and check every file.

What is there and whole is not fetched again. The human labels of CIFAR-10N and CIFAR-100N are not
fetched: put CIFAR-10_human.pt and CIFAR-100_human.pt into the data directory yourself.
"""
_SETS: Final = {name: known for name, known in DATASETS.items() if known.torchvision is not None}


def fetch(name: str, root: Path, published: Any = None) -> None:
    """Make a data set whole in `root`. Raises `sources.DataError` when what came is not the published set.

    `published` is the torchvision data set that downloads, by default the one of that name. Raises
    OSError or RuntimeError when a download fails.
    """
    known = _SETS[name]
    read = known.read
    if published is None:
        from torchvision import datasets

        published = getattr(datasets, known.torchvision or "")
    try:
        read(root)
    except sources.DataError:
        root.mkdir(parents=True, exist_ok=True)
        published(root, train=True, download=True)
        read(root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="python -m sdd_core.download", description=DESCRIPTION)
    parser.add_argument("names", metavar="NAME", nargs="+", help=f"any of {', '.join(_SETS)}")
    parser.add(Here, "where", only=("data_dir",))
    reader = parser.read(arguments)
    names: list[str] = reader.namespace.names
    reader.faults += [f"{name!r}: allowed are {', '.join(_SETS)}" for name in names if name not in _SETS]
    reader.refuse()
    sources.set_data_dir(reader.read(Here).data_dir)
    root, failed = sources.data_dir(), False
    for name in names:
        try:
            fetch(name, root)
        except (OSError, RuntimeError, sources.DataError) as error:
            failed = True
            print(f"{name}: not fetched ({error})", file=sys.stderr)
        else:
            print(f"{name}: whole, in {root}")
    return int(failed)
