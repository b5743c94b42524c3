"""Encoders: where they come from, their hidden states, their heads, and how they are sharded."""
