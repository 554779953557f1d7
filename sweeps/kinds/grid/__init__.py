"""A grid: every combination of the values of any fields of a trial."""
