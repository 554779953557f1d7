"""The joint search over λ, α and τ of a distilled student."""
