"""Runs a paper-sized study of instruction-tuned encoder models on a Ray cluster."""

__version__ = "0.1.0"
