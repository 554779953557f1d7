"""Algorithm 1 of the paper: train, then prune and train again until the target sparsity.

Every level is read from the store when it is there and committed to it when it was trained, so a
trajectory that is interrupted anywhere goes on from its last finished level.

    algorithm   the loop over the levels of a trial: read or make, commit, go on
    level       one level, made from the level before it
    networks    the networks of finished levels: in memory, in the store, or trained again
    state       the network after a level: its weights and masks, and how the store holds them
    remake      a finished level trained again, and compared with what was kept
    checks      why a trial cannot run on a device
"""

from sdd_core.trajectory.algorithm import KEEP, Keep, OnLevel, run
from sdd_core.trajectory.checks import faults
from sdd_core.trajectory.level import Level, make_level
from sdd_core.trajectory.state import State

__all__ = ["KEEP", "Keep", "Level", "OnLevel", "State", "faults", "make_level", "run"]
