"""A student under several approaches to distillation, beside the vanilla one."""
