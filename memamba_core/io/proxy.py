"""Past the proxy: where programs of one machine, or of one internal network, speak to each other."""

import os

__all__ = ["bypass_proxy"]


def bypass_proxy(*hosts: str) -> None:
    """Connections of this process and its children to these hosts go through no proxy.

    There are two variables for that. Most programs read `no_proxy` and, only where it is not set, `NO_PROXY`; so both
    get the same hosts, with those that were in either.
    """
    before = [host.strip() for name in ("no_proxy", "NO_PROXY") for host in os.environ.get(name, "").split(",")]
    spared = dict.fromkeys(filter(None, (*before, *hosts)))  # in order, each once
    text = "*" if "*" in spared else ",".join(spared)  # everywhere: beside other names it would mean nothing
    os.environ.update(no_proxy=text, NO_PROXY=text)
