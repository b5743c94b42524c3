"""Tests that share a Ray of two nodes."""
