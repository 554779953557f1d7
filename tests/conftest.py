"""Shared fixtures: the small real experiment, a store, and hand-made records."""

import sys
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # `pytest` alone, without `python -m`, does not put the repository there
    sys.path.insert(0, str(ROOT))

from sdd_core import recipes  # noqa: E402
from sdd_core.energy import Meter  # noqa: E402
from sdd_core.store import Store  # noqa: E402
from tests.builders import level_record  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _no_data_sets(tmp_path_factory):
    """Neither the tests nor the workers they start see data sets that lie on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDD_DATA", str(tmp_path_factory.mktemp("no-data")))
        yield


@pytest.fixture(scope="session", autouse=True)
def start_meter():
    """No trial in the tests' process starts a meter, which would be a third of a tiny one. Gives the real start."""
    start = Meter.start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meter, "start", lambda self: None)
        yield start


@pytest.fixture(scope="session")
def tiny():
    """The small real experiment: five levels of a tiny LeNet on the real digits, a tenth of a second.

    With this seed the best level up to 80 % sparsity is not that of the noisy labels or of the test split.
    """

    def make(**changes):
        base = recipes.digits_lenet().replace(
            epochs=1, model_options=(("hidden1", 32), ("hidden2", 16)), target_sparsity=0.5, seed=20, data_seed=0
        )
        return base.replace(**changes)

    return make


@pytest.fixture
def store(tmp_path):
    """An empty store on disk."""
    return Store(str(tmp_path / "store"))


@pytest.fixture(params=["disk", "memory"])
def any_store(request, tmp_path):
    """An empty store on disk, and one on an object store."""
    return Store(str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid.uuid4().hex}/store")


@pytest.fixture(scope="session")
def make_record():
    """A hand-made level record; give what matters to the test."""
    return level_record
