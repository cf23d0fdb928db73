"""Generated cohorts with planted risk, of which the best reachable C-index is known."""
