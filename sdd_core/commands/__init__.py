"""What `python -m sdd_core` runs: a trajectory, or `doctor`, `cost` and `download`, which are modules, too."""
