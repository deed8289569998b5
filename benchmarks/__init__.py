"""Measurements: paired, alternating, medians with spread. ``python -m benchmarks``."""
