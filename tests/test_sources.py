"""Published data sets from files: small ones in every layout, and the real ones where SDD_TEST_DATA names them."""

import gzip
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

import sdd_core.__main__
from sdd_core.commands import download
from sdd_core.data import sources
from sdd_core.data.noise import SUPERCLASSES
from sdd_core.data.sources import DataError, File
from sdd_core.registry import DATASETS

REAL = os.environ.get("SDD_TEST_DATA")


def needs_real(*files):
    """Skip unless the real files are there; they are not downloaded for a test."""
    missing = [file for file in files if REAL is None or not (Path(REAL) / file).exists()]
    reason = "SDD_TEST_DATA is not set" if REAL is None else f"SDD_TEST_DATA lacks {', '.join(missing)}"
    return pytest.mark.skipif(bool(missing), reason=reason)


def md5(content):
    return hashlib.md5(content).hexdigest()


def checksums(contents):
    """The table that the real files have, for small ones."""
    return {name: File(len(content), md5(content)) for name, content in contents.items()}


def write(folder, contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def pixels(n, seed, channels=3, size=32):
    return np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8)


def records(*columns):
    """Records of CIFAR's binary version: label bytes, then an image's bytes channel by channel."""
    return np.concatenate([c.reshape(len(c), -1).astype(np.uint8) for c in columns], axis=1).tobytes()


def small_cifar10():
    images = pixels(60, seed=1)
    labels = np.arange(60) % 10
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    parts = [slice(10 * i, 10 * (i + 1)) for i in range(6)]
    return images, labels, {n: records(labels[p], images[p]) for n, p in zip(names, parts, strict=True)}


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def small_mnist():
    images, labels = pixels(30, seed=2, channels=1, size=28)[:, 0], np.arange(30) % 10
    contents = {
        "train-images-idx3-ubyte": idx(images[:20]),
        "train-labels-idx1-ubyte": idx(labels[:20]),
        "t10k-images-idx3-ubyte": idx(images[20:]),
        "t10k-labels-idx1-ubyte": idx(labels[20:]),
    }
    return images, labels, contents


# --- CIFAR ----------------------------------------------------------------------------------


def check(published, images, labels, train):
    """Images and labels in their order, of the types that the project works with, free to be shared with torch."""
    np.testing.assert_array_equal(published.train_images, images[:train])
    np.testing.assert_array_equal(published.test_images, images[train:])
    np.testing.assert_array_equal(published.train_labels, labels[:train])
    np.testing.assert_array_equal(published.test_labels, labels[train:])
    for array in published:
        assert array.flags.c_contiguous
        assert array.flags.writeable
    assert published.train_images.dtype == published.test_images.dtype == np.uint8
    assert published.train_labels.dtype == published.test_labels.dtype == np.int64


def test_cifar10_from_the_binary_version(tmp_path):
    images, labels, contents = small_cifar10()
    write(tmp_path / "cifar-10-batches-bin", contents)
    check(sources.cifar10(tmp_path, checksums(contents)), images, labels, train=50)


def small_cifar100():
    images, fine = pixels(40, seed=3), np.arange(40) % 100
    coarse = np.array(SUPERCLASSES)[fine]
    contents = {
        "train.bin": records(coarse[:30], fine[:30], images[:30]),
        "test.bin": records(coarse[30:], fine[30:], images[30:]),
    }
    return images, fine, contents


def test_cifar100_from_the_binary_version_has_the_fine_labels(tmp_path):
    images, fine, contents = small_cifar100()
    write(tmp_path / "cifar-100-binary", contents)
    check(sources.cifar100(tmp_path, checksums(contents)), images, fine, train=30)


def python_version(folder, train, test):
    """A torchvision data set that reads small files, as its CIFAR10 and CIFAR100 read the real ones."""
    names = pickle.dumps({"label_names": ["x"] * 10})
    (folder / "batches.meta").write_bytes(names)

    class Small(datasets.CIFAR10):
        base_folder = folder.name
        train_list = [[n, md5((folder / n).read_bytes())] for n in train]  # noqa: RUF012
        test_list = [[n, md5((folder / n).read_bytes())] for n in test]  # noqa: RUF012
        meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(names)}  # noqa: RUF012

    return Small


def write_python_version(root, key="labels"):
    images, labels, _ = small_cifar10()
    folder = root / ("cifar-10-batches-py" if key == "labels" else "cifar-100-python")
    folder.mkdir()
    for name, part in (("one", slice(0, 25)), ("two", slice(25, 50)), ("test", slice(50, 60))):
        entry = {"data": images[part].reshape(-1, 3072), key: labels[part].tolist()}
        (folder / name).write_bytes(pickle.dumps(entry))
    return images, labels, python_version(folder, ["one", "two"], ["test"])


def test_cifar10_from_torchvisions_files(tmp_path):
    images, labels, reader = write_python_version(tmp_path)
    check(sources.cifar10(tmp_path, python_version=reader), images, labels, train=50)


def test_cifar100_from_torchvisions_files(tmp_path):
    images, labels, reader = write_python_version(tmp_path, "fine_labels")
    check(sources.cifar100(tmp_path, python_version=reader), images, labels, train=50)


def test_torchvisions_files_are_refused_before_they_are_unpickled_when_damaged(tmp_path):
    _, _, reader = write_python_version(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "two").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(DataError, match=r"cifar-10-batches-py is incomplete or damaged.*delete it and get it"):
        sources.cifar10(tmp_path, python_version=reader)


def test_torchvisions_files_serve_when_the_binary_version_is_incomplete(tmp_path):
    images, labels, reader = write_python_version(tmp_path)
    _, _, contents = small_cifar10()
    write(tmp_path / "cifar-10-batches-bin", {"test_batch.bin": contents["test_batch.bin"]})
    check(sources.cifar10(tmp_path, checksums(contents), reader), images, labels, train=50)


def test_labels_that_no_image_can_have_are_damage_where_there_is_no_checksum(tmp_path):
    _, _, contents = small_cifar100()
    wrong = bytearray(contents["train.bin"])
    wrong[0] ^= 1  # another superclass
    contents["train.bin"] = bytes(wrong)
    write(tmp_path / "cifar-100-binary", contents)
    with pytest.raises(DataError, match=r"train\.bin is damaged: it holds labels that are none of the data set's"):
        sources.cifar100(tmp_path, {name: File(len(content)) for name, content in contents.items()})


# --- MNIST ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "folder"), [(sources.mnist, "MNIST/raw"), (sources.fashion_mnist, "FashionMNIST/raw")]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_from_torchvisions_raw_layout(tmp_path, read, folder, compressed):
    images, labels, contents = small_mnist()
    stored = {f"{n}.gz": gzip.compress(c) for n, c in contents.items()} if compressed else contents
    write(tmp_path / folder, stored)
    check(read(tmp_path, checksums(contents)), images[:, None], labels, train=20)


def test_a_damaged_gz_is_named(tmp_path):
    _, _, contents = small_mnist()
    stored = {f"{n}.gz": gzip.compress(c) for n, c in contents.items()}
    stored["t10k-labels-idx1-ubyte.gz"] = stored["t10k-labels-idx1-ubyte.gz"][:-9]
    stored["train-labels-idx1-ubyte.gz"] = b"no gzip"
    write(tmp_path / "MNIST/raw", stored)
    with pytest.raises(DataError) as caught:
        sources.mnist(tmp_path, checksums(contents))
    assert [fault for fault in caught.value.faults if "cannot be read" in fault] == list(caught.value.faults)
    assert len(caught.value.faults) == 2


# --- what is missing or damaged -------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:-1] + bytes([c[-1] ^ 1])], ids=["size", "md5"])
def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, damage):
    _, _, contents = small_cifar10()
    write(tmp_path / "cifar-10-batches-bin", contents | {"data_batch_3.bin": damage(contents["data_batch_3.bin"])})
    with pytest.raises(DataError) as caught:
        sources.cifar10(tmp_path, checksums(contents))
    (fault,) = caught.value.faults
    for word in ("dataset 'cifar10'", "data_batch_3.bin is not the published file", "expected", "delete it and get it"):
        assert word in fault


def test_every_missing_and_every_damaged_file_is_named_at_once(tmp_path):
    _, _, contents = small_cifar10()
    there = {n: c for n, c in contents.items() if n not in ("data_batch_1.bin", "test_batch.bin")}
    write(tmp_path / "cifar-10-batches-bin", there | {"data_batch_2.bin": b"", "data_batch_4.bin": b"x"})
    with pytest.raises(DataError) as caught:
        sources.cifar10(tmp_path, checksums(contents))
    missing, *damaged = caught.value.faults
    assert "lacks data_batch_1.bin, test_batch.bin" in missing
    assert f"python -m sdd_core.download cifar10 --data-dir {tmp_path}" in missing
    assert ["data_batch_2.bin" in damaged[0], "data_batch_4.bin" in damaged[1], len(damaged)] == [True, True, 2]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_the_published_sizes_and_checksums_are_what_is_checked_by_default(tmp_path, name):
    tables = {
        "mnist": (small_mnist()[2], "MNIST/raw"),
        "fashion_mnist": (small_mnist()[2], "FashionMNIST/raw"),
        "cifar10": (small_cifar10()[2], "cifar-10-batches-bin"),
        "cifar100": (small_cifar100()[2], "cifar-100-binary"),
    }
    contents, folder = tables[name]
    write(tmp_path / folder, contents)
    with pytest.raises(DataError) as caught:
        getattr(sources, name)(tmp_path)
    assert len(caught.value.faults) == len(contents)


def test_the_data_directory_is_the_environments(monkeypatch, tmp_path):
    monkeypatch.setenv("SDD_DATA", str(tmp_path))
    assert sources.data_dir() == tmp_path
    for unset in (monkeypatch.delenv, lambda name: monkeypatch.setenv(name, "")):
        unset("SDD_DATA")
        assert sources.data_dir() == Path.home() / ".cache/sdd/data"


def test_the_flag_sets_the_data_directory_for_worker_processes_too(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDD_DATA", "from/environment")
    for arguments, place in (([], "from/environment"), (["--data-dir", "given"], "given")):
        with pytest.raises(SystemExit):
            sdd_core.__main__.main(["--epochs", "0", *arguments])
        assert os.environ["SDD_DATA"] == str(tmp_path / place)
    assert "epochs 0" in capsys.readouterr().err


# --- human labels ---------------------------------------------------------------------------


def human_file(root, clean, **changes):
    keys = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")
    torch.save({"clean_label": clean} | dict.fromkeys(keys, (clean + 1) % 10) | changes, root / "CIFAR-10_human.pt")


CLEAN = np.arange(50) % 10


@pytest.mark.parametrize("name", DATASETS["cifar10"].human_labels)
def test_every_human_label_set_is_read_by_its_name(tmp_path, name):
    key = {"aggre": "aggre_label", "worse": "worse_label"}.get(name, f"random_label{name[-1]}")
    human_file(tmp_path, CLEAN, **{key: (CLEAN + 2) % 10})
    np.testing.assert_array_equal(sources.human_labels(tmp_path, "cifar10", name, CLEAN), (CLEAN + 2) % 10)


def test_the_label_sets_of_the_spec_are_those_that_can_be_read():
    assert {dataset: tuple(names) for dataset, (_, names) in sources.HUMAN_FILES.items()} == {
        name: known.human_labels for name, known in DATASETS.items() if known.human_labels
    }


def test_missing_human_labels_say_where_they_are_published(tmp_path):
    with pytest.raises(DataError, match=r"noisy_labels 'worse': .*CIFAR-10_human\.pt is not there.*cifar-10-100n"):
        sources.human_labels(tmp_path, "cifar10", "worse", None)


def test_human_labels_of_other_images_are_refused(tmp_path):
    human_file(tmp_path, CLEAN)
    with pytest.raises(DataError, match="was not made for these images: its clean labels are not those of cifar10"):
        sources.human_labels(tmp_path, "cifar10", "worse", CLEAN[::-1])
    with pytest.raises(DataError, match="was not made for these images"):
        sources.human_labels(tmp_path, "cifar10", "worse", CLEAN[:-1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"worse_label": CLEAN[:-1]}, "does not hold clean_label and worse_label of one length"),
        ({"worse_label": "none"}, "does not hold clean_label and worse_label of one length"),
        ({"worse_label": CLEAN + 1}, "labels in worse_label that are none of cifar10's"),
        ({"worse_label": CLEAN - 1}, "labels in worse_label that are none of cifar10's"),
    ],
)
def test_human_labels_that_make_no_sense_are_refused(tmp_path, changes, words):
    human_file(tmp_path, CLEAN, **changes)
    with pytest.raises(DataError, match=words):
        sources.human_labels(tmp_path, "cifar10", "worse", CLEAN)


class Harm:
    """What a hostile pickle would do when it is loaded as pickles usually are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_label_file_executes_nothing(tmp_path):
    torch.save({"clean_label": CLEAN, "worse_label": Harm(tmp_path / "harm")}, tmp_path / "CIFAR-10_human.pt")
    with pytest.raises(DataError, match="cannot be read as plain arrays"):
        sources.human_labels(tmp_path, "cifar10", "worse", CLEAN)
    assert not (tmp_path / "harm").exists()


def test_a_truncated_label_file_is_refused(tmp_path):
    human_file(tmp_path, CLEAN)
    path = tmp_path / "CIFAR-10_human.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read as plain arrays"):
        sources.human_labels(tmp_path, "cifar10", "worse", CLEAN)


# --- download -------------------------------------------------------------------------------


def test_a_failed_download_is_told_and_others_go_on(tmp_path, capsys, monkeypatch):
    fetched = []

    def fetch(name, root):
        fetched.append((name, root))
        if name == "mnist":
            raise OSError("no network")

    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setenv("SDD_DATA", "elsewhere")
    assert download.main(["mnist", "cifar10", "--data-dir", str(tmp_path)]) == 1
    assert fetched == [("mnist", tmp_path), ("cifar10", tmp_path)]
    out, err = capsys.readouterr()
    assert "cifar10: whole" in out
    assert "mnist: not fetched (no network)" in err


def test_what_comes_is_checked(tmp_path):
    def nothing(root, train, download):
        assert download

    with pytest.raises(DataError, match="lacks train-images-idx3-ubyte"):
        download.fetch("mnist", tmp_path / "new", nothing)


def test_unknown_names_are_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        download.main(["imagenet", "svhn"])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert all(word in err for word in ("'imagenet'", "'svhn'", "allowed are mnist, fashion_mnist, cifar10, cifar100"))


# --- the real thing -------------------------------------------------------------------------


@needs_real("cifar-10-batches-bin", "CIFAR-10_human.pt")
def test_the_real_cifar10_and_its_human_noise():
    published = sources.cifar10(Path(REAL))
    assert published.train_images.shape == (50_000, 3, 32, 32)
    assert published.test_images.shape == (10_000, 3, 32, 32)
    assert np.bincount(published.train_labels).tolist() == [5000] * 10
    mean = (published.train_images / np.float32(255)).mean(axis=(0, 2, 3), dtype=np.float64)
    std = [float((published.train_images[:, c] / np.float32(255)).std(dtype=np.float64)) for c in range(3)]
    np.testing.assert_allclose(mean, (0.4914, 0.4822, 0.4465), atol=5e-5)
    np.testing.assert_allclose(std, (0.2470, 0.2435, 0.2616), atol=5e-5)
    rates = {
        name: 100 * float((human != published.train_labels).mean())
        for name in DATASETS["cifar10"].human_labels
        for human in [sources.human_labels(Path(REAL), "cifar10", name, published.train_labels)]
    }
    paper = {"aggre": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64, "worse": 40.21}
    assert {name: round(rate, 2) for name, rate in rates.items()} == paper


@needs_real("CIFAR-100_human.pt")
def test_the_real_cifar100_human_noise_and_superclasses():
    path = Path(REAL) / "CIFAR-100_human.pt"
    human = sources.human_labels(Path(REAL), "cifar100", "noisy", None)
    clean = sources._stored_arrays(path, "")["clean_label"]
    assert round(100 * float((human != clean).mean()), 2) == 40.20
    assert np.bincount(clean).tolist() == [500] * 100


@needs_real("cifar-100-binary")
def test_the_real_cifar100():
    published = sources.cifar100(Path(REAL))
    assert published.train_images.shape == (50_000, 3, 32, 32)
    assert np.bincount(published.train_labels).tolist() == [500] * 100


@needs_real("MNIST/raw")
def test_the_real_mnist():
    published = sources.mnist(Path(REAL))
    assert published.train_images.shape == (60_000, 1, 28, 28)
    assert published.test_images.shape == (10_000, 1, 28, 28)
    scaled = published.train_images / np.float64(255)
    assert (round(scaled.mean(), 4), round(scaled.std(), 4)) == (0.1307, 0.3081)


@needs_real("FashionMNIST/raw")
def test_the_real_fashion_mnist():
    published = sources.fashion_mnist(Path(REAL))
    assert published.train_images.shape == (60_000, 1, 28, 28)
    scaled = published.train_images / np.float64(255)
    assert (round(scaled.mean(), 4), round(scaled.std(), 4)) == (0.2860, 0.3530)
