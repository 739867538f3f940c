"""Answer only to the names that a server is known by.

A page of a stranger can point a name of its own at 127.0.0.1 (DNS rebinding); its
requests then come from the visitor's browser, but with that name in the Host header.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

_ANY_ADDRESS = {"0.0.0.0", "::", ""}
_OWN_NAMES = ("localhost", "127.0.0.1", "::1")


def default_hosts(host: str) -> tuple[str, ...]:
    """Return the names of a server that listens on an address.

    Args:
        host: The address or name it listens on. A server that listens on all addresses
            has any address for a name, since only names can be rebound.
    """
    own = "address" if host in _ANY_ADDRESS else host.lower()
    return (own, *_OWN_NAMES)


def is_allowed(header: str, hosts: Collection[str]) -> bool:
    """Tell whether a Host header names this server.

    Args:
        header: With or without a port.
        hosts: Names in lower case; "*" is any, "*.example.org" all below that,
            "address" any that is no name but an IP address.
    """
    if "*" in hosts:
        return True
    name = _without_port(header.strip().lower())
    if not name:
        return False
    if name in hosts:
        return True
    if "address" in hosts and _is_address(name):
        return True
    below = [host[1:] for host in hosts if host.startswith("*.")]
    return any(name.endswith(end) for end in below)


# An IPv6 address in brackets or a name, and a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.%]+)\]|([^\[\]:@/]+))(?::\d*)?", re.ASCII)


def _without_port(header: str) -> str:
    """Return the name in a Host header; empty if it is none."""
    found = _HOST.fullmatch(header)
    if not found:
        return ""
    return found[1] or found[2].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
