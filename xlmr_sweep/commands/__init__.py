"""What the user types, and what the terminal shows."""
