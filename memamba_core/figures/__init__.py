"""Figures of a run that a simulation and a deployment draw alike; their common look."""
