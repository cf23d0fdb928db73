"""Flower's Grid over simulated sites, in this process or in worker processes."""
