"""Settings of the coordinator: `coordinator.yaml` (addresses and ports), and the settings of one run."""

import ipaddress
import re
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from memamba_core.config.base import Settings, read_yaml
from memamba_core.config.site import Name, SiteName
from memamba_core.errors import ConfigError

__all__ = ["APPROVAL_WAIT_S", "CoordinatorConfig", "RunName", "RunSettings", "check_address", "load_coordinator_config"]

RunName = Name
"""Name of a run and of its folder: letters, digits, `-`, `_`, `.`."""

APPROVAL_WAIT_S = 86_400.0
"""Longest wait for the operators of the sites, unless the run says otherwise: a day, so that each has office hours."""

_LABEL = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


def check_address(address: str) -> str:
    """Check and normalise a host name or an IP address, as it may stand in a certificate.

    Returns:
        The host name in small letters, or the IP address in its usual form.

    Raises:
        ValueError: the address is neither; the text names the received and the expected form.
    """
    if "://" in address or "/" in address:
        raise ValueError(f"got {address!r}: wanted a bare host name or IP address, without https:// or a path")
    try:
        number = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    else:
        if number.is_unspecified or number.is_multicast:
            raise ValueError(f"got {address}, to which no site can connect; expected the address that sites use")
        return str(number)
    if ":" in address:
        raise ValueError(f"got {address!r}: wanted a host name or IP address alone; the port is a setting of its own")
    if not address.isascii():
        raise ValueError(f"got {address!r}: write the name as DNS knows it (letters a-z, xn--...)")
    if len(address) > 253 or not _HOST_NAME.fullmatch(address) or address.rpartition(".")[2].isdigit():
        raise ValueError(f"got {address!r}: neither a host name (letters, digits, `-`, `.`) nor an IP address")
    return address.lower()


class CoordinatorConfig(Settings):
    """Addresses and ports of the coordinator, for its sites and its own programs."""

    addresses: tuple[str, ...]
    """Host names and IP addresses by which sites reach the coordinator, all of them in the server certificate; the
    first is written into kits. After a change: `flower-server renew`."""
    port: int = Field(8443, ge=1, le=65535)
    """TCP port that sites connect to, on the firewall or on the machine itself."""
    listen_host: str = _EVERYWHERE[0]
    """Address of this machine to listen on: all by default, `127.0.0.1` behind a proxy."""
    listen_port: int | None = Field(None, ge=1, le=65535)
    """TCP port to listen on, if a firewall or a container maps `port` to another one. None: the same as `port`."""
    loopback_port: int = Field(18000, ge=1, le=65535)
    """TCP port on 127.0.0.1 for the SuperLink's other interfaces. They have no authentication of their own: never map
    this port."""

    @field_validator("addresses")
    @classmethod
    def _usable(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        if not addresses:
            raise ValueError("addresses is empty; expected at least one host name or IP address for sites")
        checked = tuple(check_address(address) for address in addresses)
        if len(set(checked)) < len(checked):
            raise ValueError(f"one address is given twice: {', '.join(checked)}")
        return checked

    @field_validator("listen_host")
    @classmethod
    def _number(cls, host: str) -> str:
        try:
            return str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError("wanted an IP address of this machine, 0.0.0.0 or :: for all") from None

    @model_validator(mode="after")
    def _two_listeners(self) -> Self:
        on_loopback = self.listen_host in (*_EVERYWHERE, "127.0.0.1", "::1")
        if on_loopback and self.public_listener[1] == self.loopback_port:
            raise ValueError(f"loopback_port={self.loopback_port} is also the port for sites; choose another one")
        return self

    @property
    def public_listener(self) -> tuple[str, int]:
        """Host and port on which the coordinator listens for sites."""
        return self.listen_host, self.port if self.listen_port is None else self.listen_port

    def address_for_sites(self, host: str | None = None) -> str:
        """`host:port` as a site.yaml names it.

        Args:
            host: one of `addresses`; None: the first.

        Raises:
            ConfigError: `host` is not one of `addresses`, so the certificate does not name it.
        """
        try:
            chosen = self.addresses[0] if host is None else check_address(host)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if chosen not in self.addresses:
            raise ConfigError(
                f"got address {chosen}, which is not in the server certificate; there are {', '.join(self.addresses)} "
                "(another one: add it to addresses in coordinator.yaml, then `flower-server renew`)"
            )
        return f"[{chosen}]:{self.port}" if ":" in chosen else f"{chosen}:{self.port}"


class RunSettings(Settings):
    """Settings of one `flower-server run` that do not belong to the experiment, in the same `key=value` form."""

    name: RunName | None = None
    """Name of the new folder in `runs/`; None: made from date and time."""
    resume: RunName | None = None
    """Name of an interrupted run to continue."""
    sites: tuple[SiteName, ...] | None = None
    """Sites that receive requests, as in `sites=st-elsewhere,county`; None: all of the roster."""
    min_sites: int | None = Field(None, ge=1)
    """Fewest connected sites at the end of the wait to begin without the others; None: all are needed. The fewest
    replies of a round are another setting: `federation.min_results`."""
    wait_s: float = Field(600.0, gt=0)
    """Longest wait for the sites to connect, in seconds."""
    approval_wait_s: float = Field(APPROVAL_WAIT_S, ge=0, le=30 * 86_400)
    """Longest wait for the sites' operators to approve the run, in seconds; all sites wait at the same time. A site
    that has not approved it by then does not take part."""
    return_wait_s: float = Field(900.0, ge=0)
    """Longest wait of a round for a site that is away (cut off, suspended, restarted), in seconds. A round waits only
    for sites that it needs, and continues at once without any other. Pauses of the coordinator, and the wait itself, do
    not count towards `federation.round_timeout_s`."""
    fold: int = Field(-1, ge=-1)
    """Test fold, for sites whose site.yaml names folds; -1 trains on every patient and tests on none."""
    signatures: Path | None = None
    """CSV of gene groups (a column per group, its symbols below), for `agreement.gene_groups=signatures`."""

    @model_validator(mode="after")
    def _one_run(self) -> Self:
        if self.resume is not None and (self.name is not None or self.fold != -1 or self.signatures is not None):
            raise ValueError("resume takes name, fold and signatures from the interrupted run; leave them out")
        if self.sites is not None:
            if not self.sites or len(set(self.sites)) < len(self.sites):
                raise ValueError(f"sites is {','.join(self.sites) or 'empty'}; expected names of sites, each once")
            if self.min_sites is not None and self.min_sites > len(self.sites):
                raise ValueError(f"min_sites={self.min_sites}, but only {len(self.sites)} sites are named")
        return self


def load_coordinator_config(path: Path) -> CoordinatorConfig:
    """Read a `coordinator.yaml`.

    Raises:
        ConfigError: the file is absent, is not YAML, or holds something that `CoordinatorConfig` does not allow.
    """
    return CoordinatorConfig.parse(read_yaml(path, "a coordinator.yaml, as `flower-server init` writes it"), str(path))
