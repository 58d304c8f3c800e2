"""Architectures compared with each other, on the benchmarks of their field and under one stated budget."""
