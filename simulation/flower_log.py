"""Flower's own log, which has a line for every aggregation of every parameter group."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_flower_log"]


@contextmanager
def quiet_flower_log() -> Iterator[None]:
    """Show errors of Flower only, within the block. Flower sets its level on import, so import it before."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
