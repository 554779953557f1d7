"""Published data sets as files in the data directory: read, checked, never fetched unasked.

Nothing in here executes what a file holds, but for torchvision's CIFAR files, which torchvision
unpickles after it has compared their md5. Shapes: N images of (C, H, W) pixels.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import itertools
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdd_core.data.noise import SUPERCLASSES

DATA_DIR_VARIABLE: Final = "SDD_DATA"

Labels = NDArray[np.int64]


def data_dir() -> Path:
    """Where data sets lie: the environment's SDD_DATA, or ~/.cache/sdd/data."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or "~/.cache/sdd/data").expanduser()


def set_data_dir(directory: str | None) -> None:
    """Put the data directory into the environment, absolute, so that worker processes find it too."""
    given = directory or os.environ.get(DATA_DIR_VARIABLE)
    if given:
        os.environ[DATA_DIR_VARIABLE] = str(Path(given).expanduser().absolute())


class DataError(ValueError):
    """Files that are missing, damaged or do not fit; `faults` holds one sentence per fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


class Published(NamedTuple):
    """Arrays of a data set in its published order: uint8 images (N, C, H, W), int64 labels (N,)."""

    train_images: NDArray[np.uint8]
    train_labels: Labels
    test_images: NDArray[np.uint8]
    test_labels: Labels


@dataclass(frozen=True)
class File:
    """What a published file must be."""

    size: int
    """Bytes, uncompressed."""
    md5: str | None = None
    """None where none was published for the file itself; then the size and the labels are checked."""


Files = Mapping[str, File]  # name in the data set's folder -> what it must be; training files first, in order

# Checked against the real files; the publisher's page gives only the archive's md5.
CIFAR10_BINARY: Final[Files] = {
    "data_batch_1.bin": File(30_730_000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
    "data_batch_2.bin": File(30_730_000, "5ea93a67294ea407fff1d09f752e9692"),
    "data_batch_3.bin": File(30_730_000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
    "data_batch_4.bin": File(30_730_000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
    "data_batch_5.bin": File(30_730_000, "53f37980c15c3d472c316c40844f3f0d"),
    "test_batch.bin": File(30_730_000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
}
# No md5 of these two files is known for sure: their sizes are checked, and that every image's two labels agree.
CIFAR100_BINARY: Final[Files] = {"train.bin": File(153_700_000), "test.bin": File(30_740_000)}
# Checked against the real files.
MNIST_RAW: Final[Files] = {
    "train-images-idx3-ubyte": File(47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": File(60_008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": File(7_840_016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": File(10_008, "27ae3e4e09519cfbb04c329615203637"),
}
# As several public readers of the uncompressed files give them.
FASHION_MNIST_RAW: Final[Files] = {
    "train-images-idx3-ubyte": File(47_040_016, "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte": File(60_008, "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte": File(7_840_016, "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte": File(10_008, "15d484375f8d13e6eb1aabb0c3f46965"),
}


def mnist(root: Path, files: Files = MNIST_RAW) -> Published:
    """MNIST from torchvision's raw layout, compressed (.gz) or not. Raises `DataError`."""
    return _idx_set("mnist", root, "MNIST/raw", files)


def fashion_mnist(root: Path, files: Files = FASHION_MNIST_RAW) -> Published:
    """Fashion-MNIST from torchvision's raw layout, compressed (.gz) or not. Raises `DataError`."""
    return _idx_set("fashion_mnist", root, "FashionMNIST/raw", files)


def cifar10(root: Path, files: Files = CIFAR10_BINARY, python_version: Any = None) -> Published:
    """CIFAR-10 from the official binary version or torchvision's files. Raises `DataError`.

    `python_version` is the torchvision data set that reads the latter, by default its CIFAR10.
    """
    folders = ("cifar-10-batches-bin", "cifar-10-batches-py")
    return _cifar("cifar10", root, folders, files, python_version, classes=10)


def cifar100(root: Path, files: Files = CIFAR100_BINARY, python_version: Any = None) -> Published:
    """CIFAR-100 (the 100 fine classes), like `cifar10`."""
    folders = ("cifar-100-binary", "cifar-100-python")
    return _cifar("cifar100", root, folders, files, python_version, classes=100)


# --- files ----------------------------------------------------------------------------------


def _how_to_get(name: str, root: Path) -> str:
    return f"get it with: python -m sdd_core.download {name} --data-dir {root}"


def _read(
    name: str, root: Path, folder: str, files: Files, take: Callable[[Path, bytes], None], or_else: str = ""
) -> None:
    """Give each file's uncompressed content to `take`, one after another: no two are held at once.

    Raises `DataError` naming every file that is missing or damaged, by what `take` raises too.
    """
    missing: list[str] = []
    damaged: list[str] = []
    for file, expected in files.items():
        try:
            content = _content(root / folder / file)
        except FileNotFoundError:
            missing.append(file)
            continue
        except (OSError, EOFError, zlib.error) as error:
            damaged.append(f"dataset {name!r}: {root / folder / file} cannot be read ({error})")
            continue
        fault = _damage(content, expected)
        if fault:
            damaged.append(
                f"dataset {name!r}: {root / folder / file} is not the published file ({fault}); delete it and "
                + _how_to_get(name, root)
            )
            continue
        try:
            take(root / folder / file, content)
        except DataError as error:
            damaged += error.faults
    faults = list(damaged)
    if missing:
        lacking = f"{root / folder} lacks {', '.join(missing)}{or_else}"
        faults.insert(0, f"dataset {name!r}: {lacking}; {_how_to_get(name, root)}")
    if faults:
        raise DataError(faults)


def _content(path: Path) -> bytes:
    """A file's bytes, or those of its .gz beside it, uncompressed."""
    if path.exists():
        return path.read_bytes()
    return gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())


def _damage(content: bytes, expected: File) -> str | None:
    if len(content) != expected.size:
        return f"{len(content)} bytes, expected {expected.size}"
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if expected.md5 is not None and found != expected.md5:
        return f"md5 {found}, expected {expected.md5}"
    return None


def _idx_set(name: str, root: Path, folder: str, files: Files) -> Published:
    arrays: dict[str, NDArray[np.uint8]] = {}

    def take(path: Path, content: bytes) -> None:
        arrays[path.name] = _idx(content)

    _read(name, root, folder, files, take)
    train_images, train_labels, test_images, test_labels = (arrays[file] for file in files)
    return Published(
        train_images[:, None], train_labels.astype(np.int64), test_images[:, None], test_labels.astype(np.int64)
    )


def _idx(content: bytes) -> NDArray[np.uint8]:
    """An array in MNIST's format: two zeros, a type (8: uint8), the dimensions, their sizes, the values."""
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(tuple(map(int, shape))).copy()


# --- CIFAR ----------------------------------------------------------------------------------

_PIXELS: Final = 3 * 32 * 32


def _cifar(
    name: str, root: Path, folders: tuple[str, str], files: Files, python_version: Any, classes: int
) -> Published:
    binary, python = folders
    if (root / python).is_dir() and not all((root / binary / file).exists() for file in files):
        return _cifar_python(name, root, python, python_version)
    or_else = f" (the official binary version), and {root / python} (torchvision's files) is not there"
    ends = np.cumsum([file.size // (_heads(classes) + _PIXELS) for file in files.values()]).tolist()
    places = {file: slice(*ends_of) for file, ends_of in zip(files, itertools.pairwise([0, *ends]), strict=True)}
    images, labels = np.empty((ends[-1], 3, 32, 32), np.uint8), np.empty(ends[-1], np.int64)

    def take(path: Path, content: bytes) -> None:
        images[places[path.name]], labels[places[path.name]] = _records(name, path, content, classes)

    _read(name, root, binary, files, take, or_else)
    train = ends[-2]
    return Published(images[:train], labels[:train], images[train:], labels[train:])


def _heads(classes: int) -> int:
    """Bytes before an image's pixels: its class, and in CIFAR-100 its superclass before it."""
    return 2 if classes == 100 else 1


def _records(name: str, path: Path, content: bytes, classes: int) -> tuple[NDArray[np.uint8], Labels]:
    """Records of the binary version, the pixels (C, H, W) as a view: labels, then 3072 pixels."""
    heads = _heads(classes)
    records = np.frombuffer(content, np.uint8).reshape(-1, heads + _PIXELS)
    labels = records[:, heads - 1].astype(np.int64)
    fit = bool((labels < classes).all())
    if classes == 100:
        fit = fit and bool((np.array(SUPERCLASSES)[labels] == records[:, 0]).all())
    if not fit:
        raise DataError([f"dataset {name!r}: {path} is damaged: it holds labels that are none of the data set's"])
    return records[:, heads:].reshape(-1, 3, 32, 32), labels


def _cifar_python(name: str, root: Path, folder: str, python_version: Any) -> Published:
    """torchvision's files, read by torchvision, which compares every md5 before it unpickles."""
    if python_version is None:
        from torchvision import datasets

        python_version = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    arrays: list[Any] = []
    for train in (True, False):
        try:
            part = python_version(root, train=train, download=False)
        except RuntimeError as error:
            raise DataError(
                [
                    f"dataset {name!r}: {root / folder} is incomplete or damaged by torchvision's checksums; "
                    f"delete it and {_how_to_get(name, root)}"
                ]
            ) from error
        arrays += [np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets, dtype=np.int64)]
    return Published(*arrays)


# --- human labels ---------------------------------------------------------------------------

_HUMAN_PAGE: Final = "https://github.com/UCSC-REAL/cifar-10-100n"
# data set -> (file, label set -> its name in the file)
HUMAN_FILES: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "cifar10": (
        "CIFAR-10_human.pt",
        {
            "aggre": "aggre_label",
            "random1": "random_label1",
            "random2": "random_label2",
            "random3": "random_label3",
            "worse": "worse_label",
        },
    ),
    "cifar100": ("CIFAR-100_human.pt", {"noisy": "noisy_label"}),
}


def human_labels(root: Path, dataset: str, name: str, clean: Labels | None) -> Labels:
    """The labels that people gave the training images (CIFAR-10N and CIFAR-100N, Wei et al. 2022).

    `clean` are the data set's own training labels: a file whose clean labels are others is of other
    images or another order, and refused. None leaves that out. Raises `DataError`.
    """
    file, names = HUMAN_FILES[dataset]
    path = root / file
    fault = f"noisy_labels {name!r}: {path}"
    if not path.is_file():
        raise DataError([f"{fault} is not there; it is the label file that {_HUMAN_PAGE} publishes"])
    stored = _stored_arrays(path, fault)
    given, human = stored.get("clean_label"), stored.get(names[name])
    if given is None or human is None or given.ndim != 1 or given.shape != human.shape:
        raise DataError([f"{fault} does not hold clean_label and {names[name]} of one length"])
    if clean is not None and not np.array_equal(given, clean):
        raise DataError(
            [f"{fault} was not made for these images: its clean labels are not those of {dataset} in {root}"]
        )
    if human.dtype.kind not in "iu" or human.min() < 0 or human.max() > given.max():
        raise DataError([f"{fault} holds labels in {names[name]} that are none of {dataset}'s"])
    return human.astype(np.int64)


@functools.lru_cache(maxsize=1)
def _stored_arrays(path: Path, fault: str) -> dict[str, NDArray[Any]]:
    """The numpy arrays of a pickle, read without executing anything in it: all else in it is refused."""
    import torch

    reconstruct: Any = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    dtypes = [type(np.dtype(name)) for name in ("int64", "int32", "uint8")]
    allowed = [(reconstruct, "numpy.core.multiarray._reconstruct"), reconstruct, np.ndarray, np.dtype, *dtypes]
    try:
        with torch.serialization.safe_globals(allowed):
            stored = torch.load(path, weights_only=True)
        return {name: value for name, value in stored.items() if isinstance(value, np.ndarray)}
    except Exception as error:  # a damaged pickle can provoke anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError([f"{fault} cannot be read as plain arrays ({reason})"]) from error
