"""Kernels written by hand for CPU cores, where a small model's calls cost as much as its products."""
