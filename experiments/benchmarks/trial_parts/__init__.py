"""The parts of `python experiments/benchmark.py trials`."""
