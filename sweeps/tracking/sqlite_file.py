"""SQLite files under MLflow: whether one is locked, and a URI under which MLflow opens it afresh."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

LOCK_WAIT_S = 1.0
"""How long a round waits for a locked SQLite file; opening one, MLflow waits for about 150 s."""

# MLflow keeps one store per URI for the life of the process, with open connections: it would go on
# writing into a database file that was deleted, and would never make the tables of its successor.
# Another spelling of the path (/a/./mlflow.db) is another URI to MLflow and the same file.
_spellings: dict[Path, tuple[tuple[int, int] | None, int]] = {}


def file_of(uri: str) -> Path | None:
    """The absolute path of a SQLite URI's database; None for servers, other databases and memory."""
    if not uri.startswith("sqlite:///"):
        return None
    path = uri.removeprefix("sqlite:///").split("?")[0]
    return Path(path).absolute() if path and path != ":memory:" else None


def identity_of(file: Path) -> tuple[int, int] | None:
    """What tells a file from one that was deleted and made again; None when there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def uri_of(file: Path) -> str:
    """The database's URI in a spelling under which MLflow knows this file and no earlier one."""
    identity = identity_of(file)
    held, count = _spellings.get(file, (identity, 0))
    if held != identity:
        count += 1
    _spellings[file] = (identity, count)
    return f"sqlite:///{file.parent}{'/.' * count}/{file.name}"


def remember(file: Path) -> tuple[int, int] | None:
    """Note the identity of a file that MLflow has just opened and perhaps made."""
    identity = identity_of(file)
    _spellings[file] = (identity, _spellings[file][1])
    return identity


def raise_when_locked(file: Path) -> None:
    """Raise `sqlite3.OperationalError` when another process holds the database for longer than LOCK_WAIT_S."""
    if not file.exists():
        return
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_WAIT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
