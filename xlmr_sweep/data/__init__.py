"""Examples and instructions, from their source to token ids."""
