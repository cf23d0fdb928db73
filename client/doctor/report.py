"""`flower-client doctor`: check settings, data, machine and network of a site before a run.

The report is for the site's own screen: it may name files, columns and slides, and is written to no log.
"""

import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.keys import SiteKeys
from memamba_core.config.site import SiteConfig, load_site_config
from memamba_core.errors import MemambaError, TamperedLogError
from memamba_core.privacy.egress import EgressLog

from .disk import check_space
from .finding import Finding, Level, error, ok, warning
from .network import check_network
from .permissions import check_permissions
from .policy import check_policy

__all__ = ["Part", "examine", "print_report"]

Part = Literal["data", "network"]

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}


def examine(site_yaml: Path, part: Part | None = None) -> Iterator[Finding]:
    """Check a site, one finding at a time.

    Args:
        site_yaml: settings of the site.
        part: data (with device and state folder) or network (with key) only; None for both.
    """
    try:
        config = load_site_config(site_yaml)
    except MemambaError as failure:
        yield error("settings", str(failure), "correct the file; docs/reference/site_yaml.md describes every setting")
        return
    yield ok("settings", f"{site_yaml.name} of {config.name}")
    yield from check_permissions(site_yaml, config)
    if part != "network":
        yield from check_policy(config)
        yield from _state(config)
        yield from _data(config)
    if part != "data":
        yield from _network(config)


def print_report(findings: Iterable[Finding], console: Console | None = None) -> bool:
    """Print findings as they arrive, then a summary: in columns on a terminal, elsewhere one line per text.

    Returns:
        True if no finding is an error.
    """
    console = console or Console(highlight=False)
    counts = dict.fromkeys(Level, 0)
    for finding in findings:
        counts[finding.level] += 1
        rows = [(finding.level.value, finding.check, finding.text)]
        if finding.remedy:
            rows.append(("", "", f"-> {finding.remedy}"))
        if console.is_terminal:
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(width=7, style=_COLOURS[finding.level])
            grid.add_column(width=14)
            grid.add_column(overflow="fold")  # a fingerprint is one long word, and must be shown in full
            for level, check, text in rows:
                grid.add_row(level, check, Text(text))  # no markup: rich would replace `:AB:` by an emoji
            console.print(grid)
        else:
            for level, check, text in rows:
                console.print(Text(f"{level:7}  {check:14}  {text}"), soft_wrap=True)
    errors, warnings = (_number(counts[level], level.value) for level in (Level.ERROR, Level.WARNING))
    console.print(f"{errors}, {warnings}: not ready" if counts[Level.ERROR] else f"ready to run; {warnings}")
    return not counts[Level.ERROR]


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _state(config: SiteConfig) -> Iterator[Finding]:
    """Check the state folder, the only writable one, and the egress log in it."""
    folder = config.state
    if folder is None:
        yield error(
            "state", "site.yaml names no state folder", "add `state: state`: the egress log is written to this folder"
        )
        return
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        yield error(
            "state",
            f"{folder} cannot be written by user {os.getuid()}",
            "change the folder's owner, or state in site.yaml",
        )
        return
    if folder.exists() and (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
        yield warning("state", f"{folder}: other users can read it (mode {mode:o})", f"chmod 700 {folder}")
    else:
        yield ok("state", f"{folder} is writable")
    yield from check_space(config, parent)
    try:
        lines = len(EgressLog(folder).read())
    except TamperedLogError as failure:
        yield error("egress log", str(failure), "restore the log from a backup; until then nothing leaves this site")
    else:
        yield ok("egress log", f"complete, {lines} lines")


def _data(config: SiteConfig) -> Iterator[Finding]:
    import torch

    from client.site import open_site

    from .data import check_data

    if config.device.startswith("cuda") and not torch.cuda.is_available():
        yield error(
            "device", f"device is {config.device}, but torch finds no GPU", "set device: auto, or repair the driver"
        )
        return
    yield ok("device", f"{config.device}: {_device_name(config.device)}; {config.threads} threads of {os.cpu_count()}")
    torch.set_num_threads(config.threads)
    with _quiet(logging.getLogger("memamba_core")):
        try:
            site = open_site(config)
        except MemambaError as failure:
            yield error(
                "tables",
                str(failure),
                "do what the message says; row 1 is the first below the header (docs/reference/data.md: messages)",
            )
            return
        yield from check_data(site)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Silence a logger below errors: the findings report the same."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _device_name(device: str) -> str:
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(None if device == "auto" else torch.device(device)))
    return "the CPU"


def _network(config: SiteConfig) -> Iterator[Finding]:
    if config.coordinator is None:
        yield error(
            "coordinator",
            "site.yaml has no section coordinator",
            "copy it from the coordinator's kit (address, ca, keys)",
        )
        return
    yield from check_network(config.coordinator, SiteKeys(config.coordinator.keys))
