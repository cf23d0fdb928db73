"""Generated cohorts with planted risk and a known best reachable C-index."""
