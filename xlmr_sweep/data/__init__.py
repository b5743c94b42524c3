"""Examples of the tasks, the instruction mixture, and the offline demo world."""
