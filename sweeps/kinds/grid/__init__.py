"""A grid: every arm runs to its end, whatever the others show."""
