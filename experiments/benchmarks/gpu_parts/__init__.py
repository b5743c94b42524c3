"""Parts of `benchmark.py gpu`."""
