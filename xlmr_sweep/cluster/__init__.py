"""Everything that knows Ray, but for the instruction job itself: connecting, placing, running, watching."""
