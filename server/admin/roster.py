"""Roster of the sites that may take part, by name and public key: `roster.yaml`, the only such list.

A roster is frozen: each change makes a new one, which `FederationFolder.change_roster` writes.
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
# The sites of this federation. Written by `flower-server enroll` and `remove`; `flower-server roster` shows it.
"""


class EnrolledSite(Settings):
    """Site that may take part."""

    name: SiteName
    public_key: str
    """Public key in OpenSSH form, without comment (`memamba_core.io.node_key.normalise_public_key`)."""
    enrolled: AwareDatetime
    """Time at which the site joined."""
    key_since: AwareDatetime
    """Time at which this key was enrolled; later than `enrolled` if the key replaced another one."""

    @model_validator(mode="after")
    def _is_a_key(self) -> Self:
        # Checks the whole site, not the field: pydantic would show the field's value, which may be a private key.
        if normalise_public_key(self.public_key.encode(), "public_key") != self.public_key:
            raise ValueError(
                "public_key does not have the form that `flower-server enroll` writes. Enroll the key file instead"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, to be compared by telephone with the output of `flower-client keygen`."""
        return fingerprint(self.public_key)

    @property
    def public_key_pem(self) -> bytes:
        """Public key in the PEM form that Flower's SuperLink reads."""
        return public_key_pem(self.public_key)


class Roster(Settings):
    """Enrolled sites, in alphabetical order."""

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
                raise ValueError(f"{site.name} is listed twice. Remove one entry")
            if other is not None:
                raise ValueError(f"{site.name} and {other} differ in capital letters only. Choose another name")
            names[site.name.lower()] = site.name
            if site.public_key in keys:
                raise ValueError(
                    f"{keys[site.public_key]} and {site.name} have the same key {site.fingerprint}; expected one key "
                    "per site. Make a new key with `flower-client keygen`"
                )
            keys[site.public_key] = site.name
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names in alphabetical order."""
        return tuple(site.name for site in self.sites)

    def get(self, name: str) -> EnrolledSite:
        """Return the site of this name.

        Raises:
            ConfigError: the site is not enrolled.
        """
        for site in self.sites:
            if site.name == name:
                return site
        raise ConfigError(f"{name} is not enrolled; enrolled are: {', '.join(self.names) or 'none'}")

    def enroll(self, name: str, public_key: str, now: dt.datetime) -> "Roster":
        """Add a site.

        Args:
            name: name in its `site.yaml`.
            public_key: public key in normalised form.
            now: present time, with time zone.

        Raises:
            ConfigError: the name or the key is taken, or the name is not a valid site name.
        """
        if name in self.names:
            known = self.get(name)
            if known.public_key == public_key:
                raise ConfigError(f"{name} is enrolled already, with this key {known.fingerprint}; nothing was changed")
            raise ConfigError(
                f"{name} is enrolled already, with key {known.fingerprint}. If the site made a new key, confirm its "
                "fingerprint by telephone and add --replace"
            )
        site = {"name": name, "public_key": public_key, "enrolled": now, "key_since": now}
        return Roster.parse({"sites": (*self.sites, site)}, f"enroll {name}")

    def replace_key(self, name: str, public_key: str, now: dt.datetime) -> "Roster":
        """Replace the key of a site; from the next run on its old key is refused.

        Raises:
            ConfigError: the site is not enrolled, has this key already, or the key belongs to another site.
        """
        known = self.get(name)
        if known.public_key == public_key:
            raise ConfigError(f"{name} has this key {known.fingerprint} already; nothing was replaced")
        changed = {**known.model_dump(), "public_key": public_key, "key_since": now}
        return Roster.parse({"sites": (*self._without(name), changed)}, f"replace the key of {name}")

    def remove(self, name: str) -> "Roster":
        """Remove a site.

        Raises:
            ConfigError: the site is not enrolled.
        """
        return Roster(sites=self._without(self.get(name).name))

    def _without(self, name: str) -> tuple[EnrolledSite, ...]:
        return tuple(site for site in self.sites if site.name != name)


def load_roster(path: Path) -> Roster:
    """Read a `roster.yaml`.

    Raises:
        ConfigError: the file is absent, is not YAML, or is not a roster.
    """
    return Roster.parse(read_yaml(path, "a roster.yaml, as `flower-server init` and `enroll` write it"), str(path))


def save_roster(roster: Roster, path: Path) -> None:
    """Write a `roster.yaml`, atomically."""
    text = yaml.safe_dump(roster.model_dump(mode="json"), sort_keys=False, width=1000)
    with write_atomically(path) as partial:
        partial.write_text(_HEADER + text, encoding="utf-8")
