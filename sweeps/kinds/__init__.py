"""The kinds of sweeps: what each runs next, and what it reports."""
