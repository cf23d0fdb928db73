"""Checks of who can change the files that decide what leaves the site: settings, authority, keys, state folder.

A person who can write `site.yaml` lifts every limit. A person who can write a folder replaces the files in it, whatever
their own permissions are, so the folders above count as well.
"""

import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from client.keys import SiteKeys
from memamba_core.config.site import SiteConfig

from .finding import Finding, error, ok

__all__ = ["check_permissions"]

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
    files = {"site.yaml": site_yaml.absolute()}
    if config.coordinator is not None:
        keys = SiteKeys(config.coordinator.keys)
        files |= {"the CA file": config.coordinator.ca, "the keys folder": keys.folder}
        files |= {"the node key": keys.private, "the public key": keys.public, "the runtime secret": keys.secret}
    if config.state is not None:
        files["the state folder"] = config.state
    present = {name: path for name, path in files.items() if os.path.lexists(path)}
    findings = 0
    for name, path in present.items():
        for target in dict.fromkeys((path, path.resolve())):
            if text := _writers(target):
                findings += 1
                yield error(CHECK, f"{target} ({name}) can be changed by {text}", _remedy(target))
    for folder in dict.fromkeys(parent for path in present.values() for parent in _parents(path)):
        if text := _writers(folder, sticky_protects=True):
            below = next(name for name, path in present.items() if folder in _parents(path))
            findings += 1
            yield error(CHECK, f"{folder}: {text} can replace what lies in it, and so {below}", _remedy(folder))
    if config.state is not None and config.state.is_dir():
        loose = list(_loose_entries(config.state))
        for path, text in loose[:_NAMED]:
            findings += 1
            yield error(CHECK, f"{path} (in the state folder) can be changed by {text}", _remedy(path))
        if len(loose) > _NAMED:
            remedy = f"chmod -R go-w {shlex.quote(str(config.state))}"
            yield error(CHECK, f"{len(loose) - _NAMED} more entries of the state folder like these", remedy)
    if not findings:
        yield ok(CHECK, f"only their owners can change {', '.join(present)}")


def _parents(path: Path) -> list[Path]:
    """Return the folders above a path, nearest first: of the path as given and of its target if it is a link."""
    return list(dict.fromkeys((*path.absolute().parents, *path.resolve().parents)))


def _loose_entries(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the entries below a folder that others can change, with a description of the others."""
    for root, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(root) / name
            if text := _writers(path):
                yield path, text


def _writers(path: Path, *, sticky_protects: bool = False) -> str:
    """Name those besides the owner who can write to a path; empty if there are none."""
    try:
        status = path.lstat()
    except OSError:  # a file that this account cannot see is checked where it is used
        return ""
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode) or (sticky_protects and mode & stat.S_ISVTX):
        return ""  # the permissions of a link are those of its target
    if mode & stat.S_IWOTH:
        return f"every user of this machine (mode {mode:o})"
    if mode & stat.S_IWGRP and not _is_private_group(status.st_gid, status.st_uid):
        return f"the group {_group_name(status.st_gid)} (mode {mode:o})"
    return ""


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


def _remedy(path: Path) -> str:
    return f"chmod go-w {shlex.quote(str(path))}, and consider who may have changed it"
