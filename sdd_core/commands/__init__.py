"""What `python -m sdd_core [trajectory|verify]`, `-m sdd_core.cost` and `-m sdd_core.download` run."""
