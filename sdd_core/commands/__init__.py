"""What `python -m sdd_core`, `python -m sdd_core.cost` and `python -m sdd_core.download` run."""
