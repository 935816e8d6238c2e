"""Who sent a request through proxies: `X-Forwarded-For` and `Forwarded` (RFC 7239), read from the right.

::

    X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2          connection from 10.0.0.1
                     forged   client       our proxies ───────────────┘

Every proxy appends the address it saw, so only what our own proxies wrote can be believed: from the right, the first
address that is not a trusted proxy is the client. What a client puts in front never counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from resilience import _arguments

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MOST_HOPS = 32
"""Proxies that are followed; nobody has more, so what is further left was not written by them."""

_LONGEST_HOP = 64  # characters of an address with brackets, port and quotes
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ELEMENT = re.compile(rf"((?:[^\",]|{_QUOTED})*)(?:,|$)", re.DOTALL)
_PAIR = re.compile(rf"[ \t]*([^=;,\"\s]+)=({_QUOTED}|[^;,\"\s]*)[ \t]*(?:;|$)", re.DOTALL)


def address_of(text: str) -> Address | None:
    """An address, with or without port and brackets; None if it is none. IPv4 in IPv6 becomes IPv4."""
    text = text.strip(" \t")
    return parsed(text) if len(text) <= _LONGEST_HOP else None


@lru_cache(maxsize=4096)
def parsed(text: str) -> Address | None:
    """`address_of` for a text of bounded length, so that what is remembered is bounded too."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def networks(name: str, values: object) -> tuple[Network, ...]:
    """Addresses and networks such as `"10.0.0.0/8"`, checked."""
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise TypeError(f"{name} must be a collection of addresses and networks, not {_arguments.shown(values)}")
    found: list[Network] = []
    for value in values:
        if not isinstance(value, (str, IPv4Address, IPv6Address, IPv4Network, IPv6Network)):
            raise TypeError(f"{name} must hold addresses and networks, not {_arguments.shown(value)}")
        try:
            found.append(ip_network(value))
        except ValueError as error:
            raise ValueError(
                f"{name} must hold addresses and networks such as '10.0.0.0/8', not {_arguments.shown(value)}"
            ) from error
    return tuple(found)


def client_behind(peer: Address, hops: Iterable[str], trusted: Callable[[Address], bool]) -> Address:
    """The right-most address that is not trusted, beginning with the `peer` of the connection.

    `hops` are the entries of the header from right to left. One that is no address ends the search: the proxy that
    reported it is then the best that is known.
    """
    client = peer
    for number, hop in enumerate(hops):
        if number == MOST_HOPS or not trusted(client):
            break
        address = address_of(hop)
        if address is None:
            break
        client = address
    return client


def x_forwarded_for(values: list[str]) -> Iterator[str]:
    """The entries of all `X-Forwarded-For` headers, from right to left, without splitting what nobody looks at."""
    for value in reversed(values):
        rest, comma = value, ","
        while comma:
            rest, comma, last = rest.rpartition(",")
            yield last


def forwarded(values: list[str]) -> Iterator[str]:
    """The `for` parameters of all `Forwarded` headers, from right to left; "" for an element that has not just one.

    Quotes can hold commas, so this is read from the left; a header in which they do not match has no elements.
    """
    for value in reversed(values):
        elements, place = [], 0
        while place < len(value):
            found = _ELEMENT.match(value, place)
            if found is None:
                yield ""
                return
            elements.append(found[1])
            place = found.end()
        yield from map(_for, reversed(elements))


def _for(element: str) -> str:
    place, found = 0, []
    while place < len(element):
        pair = _PAIR.match(element, place)
        if pair is None:
            return ""
        if pair[1].lower() == "for":
            found.append(pair[2].strip('"'))
        place = pair.end()
    return found[0] if len(found) == 1 else ""
