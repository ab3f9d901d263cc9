"""Benchmarks; run from the repository root, ``python benchmarks/NAME.py``."""
