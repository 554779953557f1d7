"""SQLite files under MLflow: whether one is locked, and whether it is still the one that MLflow has open."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

LOCK_WAIT_S = 1.0
"""How long a round waits for a locked SQLite file; opening one, MLflow waits for about 150 s."""

# The file that MLflow holds open under each URI in this process.
_opened: dict[str, tuple[int, int] | None] = {}


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


def forget_deleted(uri: str, file: Path) -> None:
    """Make MLflow open a database afresh whose file was deleted or replaced since it opened it.

    MLflow keeps one store per URI for the life of the process, with open connections: it would go on writing
    into the deleted file, and would never make the tables of its successor. There is no public way to drop one.
    """
    if _opened.get(uri) in (None, identity_of(file)):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service import utils

    utils._tracking_store_registry._get_store_with_resolved_uri.cache_clear()
    engine = SqlAlchemyStore._engine_map.pop(uri, None)
    if engine is not None:
        engine.dispose()


def remember(uri: str, file: Path) -> tuple[int, int] | None:
    """Note which file MLflow has just opened, and perhaps made."""
    _opened[uri] = identity_of(file)
    return _opened[uri]


def raise_when_locked(file: Path) -> None:
    """Raise `sqlite3.OperationalError` when another process holds the database for longer than LOCK_WAIT_S."""
    if not file.exists():
        return
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_WAIT_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
