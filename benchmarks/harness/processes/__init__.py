"""Which process measures what: the plan of a run, measuring processes, their isolation, and their records."""
