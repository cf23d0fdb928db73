"""Checks of who can change the files that decide what leaves the site: settings, authority, keys, state folder.

A person who can write `site.yaml` lifts every limit. A person who can write a folder replaces the files in it, whatever
their own permissions are, so the folders above count as well.
"""

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from client.keys import SiteKeys
from memamba_core.config.site import SiteConfig
from memamba_core.errors import ConfigError

from .finding import Finding, error, ok

__all__ = ["check_permissions", "refuse_open_files"]

CHECK = "permissions"
_NAMED = 3


def check_permissions(site_yaml: Path, config: SiteConfig) -> Iterator[Finding]:
    """Check that only the owner can change the files that the site trusts. Files that are absent are left out.

    Write permission of a group counts as that of others, unless the group is the owner's private one. A folder with
    the sticky bit (`/tmp`) is no danger: in it, only owners can replace their files.

    Args:
        site_yaml: settings of the site.
        config: the same, read.
    """
    present = _trusted_files(site_yaml, config)
    findings = 0
    for problem in _problems(present, config.state):
        findings += 1
        yield error(CHECK, problem.text, problem.remedy)
    if not findings:
        yield ok(CHECK, f"only their owners can change {', '.join(present)}")


def refuse_open_files(site_yaml: Path, config: SiteConfig) -> list[str]:
    """Check the same before the client starts, so that it does not follow settings that anyone may have written.

    Returns:
        One sentence per finding that is no reason to stop: a group can change the file.

    Raises:
        ConfigError: every user of this machine can change one of the files, or replace it.
    """
    problems = list(_problems(_trusted_files(site_yaml, config), config.state))
    for problem in problems:
        if problem.by_everyone:
            raise ConfigError(f"{problem.text}; expected only its owner. {problem.remedy}")
    return [f"{problem.text}: {problem.remedy}" for problem in problems]


@dataclass(frozen=True)
class _Problem:
    text: str
    remedy: str
    by_everyone: bool


def _trusted_files(site_yaml: Path, config: SiteConfig) -> dict[str, Path]:
    """Return the files and folders that the site trusts and that are present, by name."""
    files = {"site.yaml": site_yaml.absolute()}
    if config.coordinator is not None:
        keys = SiteKeys(config.coordinator.keys)
        files |= {"the CA file": config.coordinator.ca, "the keys folder": keys.folder}
        files |= {"the node key": keys.private, "the public key": keys.public, "the runtime secret": keys.secret}
    if config.state is not None:
        files["the state folder"] = config.state
    return {name: path for name, path in files.items() if os.path.lexists(path)}


def _problems(present: Mapping[str, Path], state: Path | None) -> Iterator[_Problem]:
    for name, path in present.items():
        for target in dict.fromkeys((path, path.resolve())):
            if writers := _writers(target):
                yield writers.problem(f"{target} ({name}) can be changed by {writers}", target)
    for folder in dict.fromkeys(parent for path in present.values() for parent in _parents(path)):
        if writers := _writers(folder, sticky_protects=True):
            below = next(name for name, path in present.items() if folder in _parents(path))
            yield writers.problem(f"{folder}: {writers} can replace what lies in it, and so {below}", folder)
    if state is not None and state.is_dir():
        loose = list(_loose_entries(state))
        for path, writers in loose[:_NAMED]:
            yield writers.problem(f"{path} (in the state folder) can be changed by {writers}", path)
        if more := loose[_NAMED:]:
            remedy = f"chmod -R go-w {shlex.quote(str(state))}"
            everyone = any(writers.everyone for _, writers in more)
            yield _Problem(f"{len(more)} more entries of the state folder like these", remedy, everyone)


def _parents(path: Path) -> list[Path]:
    """Return the folders above a path, nearest first: of the path as given and of its target if it is a link."""
    return list(dict.fromkeys((*path.absolute().parents, *path.resolve().parents)))


def _loose_entries(folder: Path) -> Iterator[tuple[Path, "_Writers"]]:
    """Yield the entries below a folder that others can change, with a description of the others."""
    for root, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(root) / name
            if writers := _writers(path):
                yield path, writers


@dataclass(frozen=True)
class _Writers:
    """Those besides the owner who can write to a path."""

    name: str
    everyone: bool

    def __str__(self) -> str:
        return self.name

    def problem(self, text: str, path: Path) -> _Problem:
        remedy = f"chmod go-w {shlex.quote(str(path))}, and consider who may have changed it"
        return _Problem(text, remedy, self.everyone)


def _writers(path: Path, *, sticky_protects: bool = False) -> _Writers | None:
    """Name those besides the owner who can write to a path; None if there are none."""
    try:
        status = path.lstat()
    except OSError:  # a file that this account cannot see is checked where it is used
        return None
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode) or (sticky_protects and mode & stat.S_ISVTX):
        return None  # the permissions of a link are those of its target
    if mode & stat.S_IWOTH:
        return _Writers(f"every user of this machine (mode {mode:o})", everyone=True)
    if mode & stat.S_IWGRP and not _is_private_group(status.st_gid, status.st_uid):
        return _Writers(f"the group {_group_name(status.st_gid)} (mode {mode:o})", everyone=False)
    return None


def _is_private_group(gid: int, uid: int) -> bool:
    """Return True for the group that a system makes for one user: it has the user's name and no other member."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(uid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and user.pw_gid == gid and set(group.gr_mem) <= {user.pw_name}


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
