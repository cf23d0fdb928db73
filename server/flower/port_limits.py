"""Limits of the open port: numbers, bounded groups of connections, and the pace at which connections are admitted.

Two kinds of connection are counted apart. An *unknown* one belongs to the address it comes from, until an enrolled key
has signed a request on it; a *known* one belongs to that key. So a hospital network whose sites share one address is
bounded per site, and a stranger cannot use up the share of a site.
"""

import ipaddress
import resource
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Groups", "Limits", "Pace", "address_group", "raise_file_limit"]

_RESERVED_FILES = 256  # database, log, listener on loopback, own clients, threads
_MANY_FILES = 65_536
_FORGET_ABOVE = 4096  # buckets of addresses; a full one is no different from a forgotten one

Member = TypeVar("Member", bound=Hashable)
Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """Limits of the open port. Times are in seconds.

    Attributes:
        unknown: connections of unknown callers, in all. One in TLS takes 0.1 to 0.4 MB.
        unknown_per_address: of these, from one address (IPv6: from one /64).
        known: connections of enrolled keys, in all.
        known_per_key: of these, of one key. A SuperNode uses up to 4.
        new_per_second: new connections from one address, in the long run.
        new_at_once: and at once.
        all_new_per_second: new connections from all addresses together; the rare ones of each address count apart.
        all_new_at_once: and at once.
        rare_new_per_second: rare connections of one address, in the long run. A connector tries every ten seconds.
        rare_new_at_once: and at once.
        familiar_new_per_second: new connections from an address from which an enrolled key has spoken during this run;
            these do not count among all. A whole hospital network may have one address.
        familiar_new_at_once: and at once.
        large_bodies_per_key: bodies of more than `small_body` bytes that are read at once for one key; others wait. A
            SuperNode sends two at once.
        small_body: bytes of a body that is always read, for example of a heartbeat.
        header_bytes: largest request line and header together.
        hello_s: time until the first byte of a connection.
        handshake_s: time from the first byte until the end of the TLS handshake.
        header_s: time for the header of the first request, and of each later one.
        stall_s: longest time without a byte of a body, or of an answer that a client does not read.
        idle_s: time between two requests. Longer than the 5 s after which a SuperNode closes an idle connection itself.
        answer_s: time to read the answer and close, for a connection that the coordinator has finished with.
    """

    unknown: int = 128
    unknown_per_address: int = 64
    known: int = 4096
    known_per_key: int = 64
    new_per_second: float = 20.0
    new_at_once: float = 100.0
    all_new_per_second: float = 100.0
    all_new_at_once: float = 300.0
    rare_new_per_second: float = 0.2
    rare_new_at_once: float = 4.0
    familiar_new_per_second: float = 100.0
    familiar_new_at_once: float = 500.0
    large_bodies_per_key: int = 8
    small_body: int = 65_536
    header_bytes: int = 16_384
    hello_s: float = 10.0
    handshake_s: float = 10.0
    header_s: float = 10.0
    stall_s: float = 60.0
    idle_s: float = 20.0
    answer_s: float = 5.0

    @classmethod
    def for_files(cls, files: int) -> "Limits":
        """Return limits that leave files for everything else in the process.

        Args:
            files: number of files that the process may have open.
        """
        free = max(files - _RESERVED_FILES, 32)
        unknown = min(cls.unknown, free // 4)
        return cls(unknown=unknown, unknown_per_address=max(unknown // 2, 1), known=min(cls.known, free - unknown))


def raise_file_limit() -> int:
    """Raise the number of files that this process may have open as far as it can; return the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MANY_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def address_group(host: str) -> str:
    """Return the address that a limit per address counts: an IPv4 address, or the /64 of an IPv6 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Groups(Generic[Member, Group]):
    """Members in groups, bounded in all and per group; adding a member may push out another.

    In a full group the oldest member goes. When all groups together are full, the oldest member of the largest group
    goes: a group that holds little is never pushed out by one that holds more.

    Args:
        total: most members.
        per_group: most members of one group.
        spared: groups that lose a member only if no other group has one.
    """

    def __init__(self, total: int, per_group: int, spared: Callable[[Group], bool] = lambda _: False) -> None:
        self._total, self._per_group, self._spared = total, per_group, spared
        self._groups: dict[Group, OrderedDict[Member, None]] = {}
        self._group_of: dict[Member, Group] = {}

    def __len__(self) -> int:
        return len(self._group_of)

    def size(self, group: Group) -> int:
        """Return the number of members of a group."""
        return len(self._groups.get(group, ()))

    def add(self, member: Member, group: Group) -> Member | None:
        """Add a member; return the member that has to go, already removed, or None."""
        self.remove(member)
        victim: Member | None = None
        if self.size(group) >= self._per_group:
            victim = next(iter(self._groups[group]))
        elif len(self) >= self._total:
            largest = max(self._groups, key=lambda g: (not self._spared(g), self.size(g)))
            victim = next(iter(self._groups[largest]))
        if victim is not None:
            self.remove(victim)
        self._groups.setdefault(group, OrderedDict())[member] = None
        self._group_of[member] = group
        return victim

    def touch(self, member: Member) -> None:
        """Make a member the youngest of its group."""
        self._groups[self._group_of[member]].move_to_end(member)

    def remove(self, member: Member) -> None:
        """Remove a member, if it is one."""
        group = self._group_of.pop(member, None)
        if group is not None:
            del self._groups[group][member]
            if not self._groups[group]:
                del self._groups[group]


class Pace(Generic[Group]):
    """Token buckets: `burst` events at once, and `rate` a second in the long run, for each group.

    Args:
        rate: events a second.
        burst: events at once.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._buckets: OrderedDict[Group, tuple[float, float]] = OrderedDict()

    def allow(self, group: Group, now: float) -> bool:
        """Take a token of a group, if there is one.

        Args:
            group: whose bucket it is.
            now: time in seconds, never decreasing.
        """
        tokens, before = self._buckets.pop(group, (self._burst, now))
        tokens = min(self._burst, tokens + (now - before) * self._rate)
        allowed = tokens >= 1
        self._buckets[group] = (tokens - allowed, now)
        if len(self._buckets) > _FORGET_ABOVE:
            self._buckets.popitem(last=False)
        return allowed
