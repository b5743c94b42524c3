"""Parts of `benchmark.py data`."""
