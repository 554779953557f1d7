"""Named byte strings that appear whole or not at all, on a local or shared disk or an object store."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Protocol

import fsspec


class Blobs(Protocol):
    """What the store needs of a place to keep bytes. Names are relative, with `/`."""

    def read(self, name: str) -> bytes | None:
        """The bytes, or None when there are none."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a blob that is not there yet; False, leaving the old one, when it is."""

    def delete(self, name: str) -> None:
        """Remove a blob; nothing happens when there is none."""

    def exists(self, name: str) -> bool:
        """Whether the blob is there."""

    def names(self, folder: str) -> list[str]:
        """The names of all blobs under a folder, sorted; [] when there is no folder."""


class LocalBlobs:
    """A folder: each blob is written aside, flushed and linked into place, which fails if the name is taken."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> bool:
        path, aside = self.root / name, self.root / "tmp" / uuid.uuid4().hex
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: a rename is whole too, but may replace a twin
                aside.rename(path)
        finally:
            aside.unlink(missing_ok=True)
        _flush_folder(path.parent)
        return True

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def names(self, folder: str) -> list[str]:
        return sorted(p.relative_to(self.root).as_posix() for p in (self.root / folder).rglob("*") if p.is_file())


def _flush_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class ObjectBlobs:
    """An object store by its fsspec URL (s3://, gs://, memory://): one conditional put a blob."""

    def __init__(self, url: str) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(url)

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self.fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> bool:
        if self.exists(name):
            return False
        try:
            self.fs.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        return True

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(name))

    def exists(self, name: str) -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self._path(name)))

    def names(self, folder: str) -> list[str]:
        self.fs.invalidate_cache()
        start = len(self._path("").lstrip("/"))
        found = self.fs.find(self._path(folder)) if self.fs.exists(self._path(folder)) else []
        return sorted(str(path).lstrip("/")[start:] for path in found)


class ReadOnlyBlobs:
    """Blobs that are only looked at: nothing is written, and nothing is removed."""

    def __init__(self, blobs: Blobs) -> None:
        self.read, self.exists, self.names = blobs.read, blobs.exists, blobs.names

    def create(self, name: str, content: bytes) -> bool:
        return False

    def delete(self, name: str) -> None: ...


def open_blobs(url: str) -> Blobs:
    """Blobs at a path or an fsspec URL. Raises ValueError for a URL whose protocol cannot be used here."""
    path = url.removeprefix("file://")
    if "://" not in path:
        return LocalBlobs(Path(path).expanduser())
    try:
        return ObjectBlobs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"store {url!r}: {error}") from error
