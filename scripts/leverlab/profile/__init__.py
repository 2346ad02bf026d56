"""Twins: servers run again under a profiler, the kernels that ran, and what they say of a lever's mechanism (docs/profiles.md)."""
