"""How a call is timed: warm-up, samples, and the speed of the core meanwhile."""
