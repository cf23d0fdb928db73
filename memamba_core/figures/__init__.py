"""Figures that a simulation and a deployment share, and their common style."""
