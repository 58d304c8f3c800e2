"""Measurements of speed and skill; each module runs by itself, ``python -m benchmarks.NAME``."""
