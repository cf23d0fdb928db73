"""Figures of an output folder, drawn from its predictions and summary."""
