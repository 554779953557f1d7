"""The science of sparse double descent: one trial's trajectory, without any sweep machinery."""
