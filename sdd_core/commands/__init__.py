"""What `python -m sdd_core [trajectory|verify|doctor|cost|download]` runs; the last three are modules, too."""
