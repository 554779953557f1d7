"""What `python -m sdd_core [trajectory|verify|doctor|cost|download]`, `-m sdd_core.cost` and `.download` run."""
