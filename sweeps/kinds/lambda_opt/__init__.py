"""The search for λ_opt, the smallest L2 penalty whose curve has no dip."""
