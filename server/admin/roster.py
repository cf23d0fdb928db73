"""Who may take part: hospitals by name and public key, in `roster.yaml`. The only list of it.

A new roster is made for each change (settings are frozen); `FederationFolder.change_roster` writes it.
"""

import datetime as dt
from pathlib import Path
from typing import Self

import yaml
from pydantic import AwareDatetime, field_validator, model_validator

from memamba_core.config.base import Settings, read_yaml
from memamba_core.config.site import SiteName
from memamba_core.errors import ConfigError
from memamba_core.io.atomic import write_atomically
from memamba_core.io.node_key import fingerprint, normalise_public_key, public_key_pem

__all__ = ["EnrolledSite", "Roster", "load_roster", "save_roster"]

_HEADER = """\
# The hospitals of this federation. Written by `flower-server enroll` and `remove`; `flower-server roster` shows it.
"""


class EnrolledSite(Settings):
    """A hospital that may take part."""

    name: SiteName
    public_key: str
    """OpenSSH form, without comment (`memamba_core.io.node_key.normalise_public_key`)."""
    enrolled: AwareDatetime
    """When the hospital joined."""
    key_since: AwareDatetime
    """When this key was given: later than `enrolled` if it replaced another one."""

    @model_validator(mode="after")
    def _is_a_key(self) -> Self:
        # Of the whole site, not of the field: pydantic would show the value, and it may be a private key.
        if normalise_public_key(self.public_key.encode(), "public_key") != self.public_key:
            raise ValueError("public_key is not as `flower-server enroll` writes it; enroll the file instead")
        return self

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, to be compared by voice with what `flower-client keygen` showed."""
        return fingerprint(self.public_key)

    @property
    def public_key_pem(self) -> bytes:
        """As Flower's SuperLink wants it."""
        return public_key_pem(self.public_key)


class Roster(Settings):
    """The hospitals, in order of their names."""

    sites: tuple[EnrolledSite, ...] = ()

    @field_validator("sites")
    @classmethod
    def _in_order(cls, sites: tuple[EnrolledSite, ...]) -> tuple[EnrolledSite, ...]:
        return tuple(sorted(sites, key=lambda site: site.name))

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names: dict[str, str] = {}
        keys: dict[str, str] = {}
        for site in self.sites:
            if (other := names.get(site.name.lower())) == site.name:
                raise ValueError(f"{site.name} is there twice")
            if other is not None:
                raise ValueError(f"{site.name} and {other} differ in capital letters only; choose another name")
            names[site.name.lower()] = site.name
            if site.public_key in keys:
                raise ValueError(
                    f"{keys[site.public_key]} and {site.name} would have the same key {site.fingerprint}; every "
                    "hospital needs a key of its own"
                )
            keys[site.public_key] = site.name
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """In alphabetical order."""
        return tuple(site.name for site in self.sites)

    def get(self, name: str) -> EnrolledSite:
        """The hospital of that name.

        Raises:
            ConfigError: it is not enrolled.
        """
        for site in self.sites:
            if site.name == name:
                return site
        raise ConfigError(f"{name} is not enrolled; enrolled are: {', '.join(self.names) or 'none'}")

    def enroll(self, name: str, public_key: str, now: dt.datetime) -> "Roster":
        """Add a hospital.

        Args:
            name: as its `site.yaml` says.
            public_key: normalised.
            now: with time zone.

        Raises:
            ConfigError: the name or the key is taken, or the name cannot be one.
        """
        if name in self.names:
            known = self.get(name)
            if known.public_key == public_key:
                raise ConfigError(f"{name} is enrolled already, with this key {known.fingerprint}; nothing to do")
            raise ConfigError(
                f"{name} is enrolled already, with key {known.fingerprint}; if the hospital made a new key, confirm "
                "its fingerprint by telephone and give --replace"
            )
        site = {"name": name, "public_key": public_key, "enrolled": now, "key_since": now}
        return Roster.parse({"sites": (*self.sites, site)}, f"enroll {name}")

    def replace_key(self, name: str, public_key: str, now: dt.datetime) -> "Roster":
        """Give a hospital another key; the one before is worth nothing from the next run on.

        Raises:
            ConfigError: the hospital is not enrolled, has this key, or the key is another hospital's.
        """
        known = self.get(name)
        if known.public_key == public_key:
            raise ConfigError(f"{name} has this key {known.fingerprint} already; nothing to replace")
        changed = {**known.model_dump(), "public_key": public_key, "key_since": now}
        return Roster.parse({"sites": (*self._without(name), changed)}, f"replace the key of {name}")

    def remove(self, name: str) -> "Roster":
        """Take a hospital off the list.

        Raises:
            ConfigError: it is not enrolled.
        """
        return Roster(sites=self._without(self.get(name).name))

    def _without(self, name: str) -> tuple[EnrolledSite, ...]:
        return tuple(site for site in self.sites if site.name != name)


def load_roster(path: Path) -> Roster:
    """Read a `roster.yaml`.

    Raises:
        ConfigError: the file is absent, is not YAML, or is no roster.
    """
    return Roster.parse(read_yaml(path, "a roster.yaml, as `flower-server init` and `enroll` write it"), str(path))


def save_roster(roster: Roster, path: Path) -> None:
    """Write a `roster.yaml`, atomically."""
    text = yaml.safe_dump(roster.model_dump(mode="json"), sort_keys=False, width=1000)
    with write_atomically(path) as partial:
        partial.write_text(_HEADER + text, encoding="utf-8")
