"""Proxy bypass for connections between programs of one machine or one internal network."""

import os

__all__ = ["bypass_proxy"]


def bypass_proxy(*hosts: str) -> None:
    """Exclude these hosts from the proxy, for this process and its children.

    Two variables control that. Most programs read `no_proxy`, and `NO_PROXY` only if `no_proxy` is not set. So both
    variables get the same hosts, together with the hosts that either had before.
    """
    before = [host.strip() for name in ("no_proxy", "NO_PROXY") for host in os.environ.get(name, "").split(",")]
    spared = dict.fromkeys(filter(None, (*before, *hosts)))  # in order, each once
    text = "*" if "*" in spared else ",".join(spared)  # alone, because `*` between other names has no effect
    os.environ.update(no_proxy=text, NO_PROXY=text)
