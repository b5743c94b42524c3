"""Encoders: where they come from, their hidden states, their heads, how they are sharded, how much memory they take."""
