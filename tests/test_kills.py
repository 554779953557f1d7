"""A process killed at a named point between the bytes of a level's weights and its record, and run again.

Each process is forked from one that has imported torch already, runs the tiny trial and sends itself SIGKILL at
its third level: no handler runs, nothing is tidied up. What has its name then is whole.
"""

import hashlib
import itertools
import multiprocessing
import os
import signal
from collections import Counter

import pytest

from sdd_core import trajectory
from sdd_core.blobs import LocalBlobs, open_blobs
from sdd_core.spec import level_keys
from sdd_core.store import Store, determined

LEVEL = 2
# (what is being written, the moment of it, how many levels then have weights, how many have records)
POINTS = [
    ("weights", "written aside", 2, 2),
    ("weights", "flushed", 2, 2),
    ("weights", "named", 3, 2),
    ("levels", "written aside", 3, 2),
    ("levels", "flushed", 3, 2),
    ("levels", "named", 3, 3),
]


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(spec, url, folder, moment):
    """Run a trial, and kill this process at a moment of the third file that is written in a folder."""
    seen, create = Counter(), LocalBlobs.create

    def watched(self, name, content):
        where = name.split("/")[0]
        seen[where] += 1
        now = where == folder and seen[where] == LEVEL + 1
        if now and moment == "written aside":
            os.fsync = die
        if now and moment == "flushed":
            os.link = die
        made = create(self, name, content)
        if now and moment == "named":
            die()
        return made

    LocalBlobs.create = watched
    trajectory.run(spec, Store(url), keep="all", device="cpu", energy=False)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    return trajectory.run(tiny(), Store(str(tmp_path_factory.mktemp("undisturbed"))), keep="all")


@pytest.mark.parametrize(("folder", "moment", "weights", "levels"), POINTS)
def test_killed_there_and_run_again(tiny, store, undisturbed, processes, folder, moment, weights, levels):
    doomed = processes.Process(target=run_until, args=(tiny(), store.url, folder, moment))
    doomed.start()
    doomed.join(60)
    assert doomed.exitcode == -signal.SIGKILL, "the point was not reached"
    there = open_blobs(store.url)
    held = there.names("weights")
    assert [hashlib.sha256(there.read(name)).hexdigest() in name for name in held] == [True] * weights
    keys = set(itertools.islice(level_keys(tiny()), levels))
    assert {name.split("/")[-1].removesuffix(".json") for name in there.names("levels")} == keys
    trained = []
    curve = trajectory.run(tiny(), store, keep="all", on_level=lambda record, new: trained.append(new))
    assert trained == [level >= levels for level in range(5)]
    assert [determined(record) for record in curve] == [determined(record) for record in undisturbed]
    assert there.names("damaged") == []
