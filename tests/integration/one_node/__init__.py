"""Tests that share a Ray of one node."""
