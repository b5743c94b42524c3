"""What starts next, where, and what happens after a failure. Pure: imports neither ray nor torch."""
