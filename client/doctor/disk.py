"""Checks of the space for the state folder: bytes, inodes and quotas.

A site whose disk is full writes no egress log, so nothing leaves it, and loses its rounds.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from memamba_core.config.site import SiteConfig

from .finding import Finding, error, ok, warning

__all__ = ["bytes_of_a_run", "check_space"]

_GB = 1e9
_BYTES_PER_WEIGHT = 4
_COPIES = 3
"""Models of a run on disk at once: the final model or last answer, the one that replaces it, the one of another run."""
_OTHER_BYTES = 100_000_000
"""Settings, agreement, sums, egress log, private log and ledger, with room to spare."""
_RUNS_AHEAD = 3
_FILES = 200
"""Files of a run, with room to spare."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def bytes_of_a_run(config: SiteConfig) -> int:
    """Return the bytes that a run may need on the state volume: models of the allowed size, and logs."""
    return _COPIES * _BYTES_PER_WEIGHT * config.limits.max_parameters + _OTHER_BYTES


def check_space(config: SiteConfig, folder: Path) -> Iterator[Finding]:
    """Check that a run finds space for its files. Space for a file of that size is reserved and released.

    Args:
        config: names the state folder, and limits the size of a model.
        folder: the state folder, or the folder in which it will be made.
    """
    needed = bytes_of_a_run(config)
    because = f"a run may need {needed / _GB:.1f} GB (limits.max_parameters is {config.limits.max_parameters:,d})"
    remedy = f"free space on the volume of {config.state}, or lower limits.max_parameters"
    volume = os.statvfs(folder)
    free = volume.f_bavail * volume.f_frsize
    if free < needed:
        yield error("disk", f"{free / _GB:.1f} GB are free for {config.state}; {because}", remedy)
        return
    if volume.f_files and volume.f_favail < _FILES:  # some file systems count no inodes and report 0 of 0
        text = f"{volume.f_favail} more files (inodes) fit on the volume of {config.state}; a run may need {_FILES}"
        yield error("disk", text, "delete files on this volume")
        return
    try:
        _reserve(folder, needed)
    except OSError as failure:
        if failure.errno not in _FULL:
            text = f"{config.state}: a file could not be written ({failure.strerror})"
            yield error("disk", text, "check the volume and its mount options")
            return
        text = f"{config.state}: this account cannot write {needed / _GB:.1f} GB ({failure.strerror}); {because}"
        yield error("disk", text, f"{remedy}; or raise this account's quota or file size limit")
        return
    if free < _RUNS_AHEAD * needed:
        text = f"{free / _GB:.1f} GB are free for {config.state}; {because}, and each run keeps its final model"
        yield warning("disk", text, f"free at least {_RUNS_AHEAD * needed / _GB:.1f} GB")
    else:
        yield ok("disk", f"{free / _GB:.0f} GB are free; {because}")


def _reserve(folder: Path, size: int) -> None:
    """Reserve space for a file without a name, where the system can, and release it. Quotas show in no other way.

    Raises:
        OSError: there is no space, or the account may not use so much.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:  # macOS
            return
        except OSError as failure:
            if failure.errno not in (errno.ENOTSUP, errno.EINVAL):
                raise
