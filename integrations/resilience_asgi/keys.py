"""Whose limit a request counts against: ready key functions for `RateLimiter(key=…)` and `Keyed(key=…)`.

    RateLimiter(100, 60.0, key=client_address(trusted_proxies=["10.0.0.0/8"]))
    RateLimiter(10, key=header_key("X-API-Key"))
    Keyed(lambda path: CircuitBreaker(path), key=path_key(segments=1))

They take an ASGI scope, or anything that has one as `.scope`, as the requests of Starlette, FastAPI and Litestar do, so
the same function serves middleware, dependencies and decorated endpoints. An endpoint needs a parameter for the request
then; it may have any name and any place. Several make a key of their own::

    address, path = client_address(), path_key()
    RateLimiter(5, key=lambda scope: (address(scope), path(scope)))
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network
from typing import Any

from resilience import _arguments

from .correlation import field_name
from .forwarded import Address, address_of, client_behind, forwarded, networks, x_forwarded_for
from .paths import path_inside
from .protocol import Scope, header_values

Key = Callable[..., Any]

_HEADERS = {"x-forwarded-for": x_forwarded_for, "forwarded": forwarded}
_REQUEST = ("headers", "url")  # properties of the requests of every framework
_LONGEST_KEY = 256  # characters that are kept as they are
UNKNOWN = "unknown"
"""The key of all requests whose address nobody knows: those over a Unix socket, say."""


def client_address(
    trusted_proxies: Iterable[str] = (), *, header: str = "X-Forwarded-For", ipv6_prefix: int = 64
) -> Key:
    """The address of the client, as text.

    Without `trusted_proxies` (addresses and networks) that is the peer of the connection, whatever headers say. Else it
    is the right-most address in `header` ("X-Forwarded-For" or "Forwarded") that is none of them; a peer without an
    address, as on a Unix socket, counts as a proxy of ours then. Addresses of IPv6 are grouped by their network of
    `ipv6_prefix` bits, because one subscriber has a /64 at least; 128 tells them all apart.

    A malformed header never lets a client choose its key: the last proxy that is known counts instead.
    A server that replaces the peer by what a header says must do so for proxies alone: with
    `uvicorn --forwarded-allow-ips='*'` every client chooses its address, before anything here can look at it.
    """
    trusted = networks("trusted_proxies", trusted_proxies)
    given: Any = header
    if not isinstance(given, str) or given.lower() not in _HEADERS:
        raise ValueError(f'header must be "X-Forwarded-For" or "Forwarded", not {_arguments.shown(header)}')
    prefix = _arguments.count("ipv6_prefix", ipv6_prefix)
    if prefix > 128:
        raise ValueError(f"ipv6_prefix must be a whole number from 1 to 128, not {_arguments.shown(ipv6_prefix)}")
    name, entries = header.lower().encode("ascii"), _HEADERS[header.lower()]

    @lru_cache(maxsize=4096)
    def is_trusted(address: Address) -> bool:
        return any(address in network for network in trusted)

    @lru_cache(maxsize=4096)
    def peer_key(host: str) -> str:
        address = address_of(host)
        return UNKNOWN if address is None else text_of(address)

    def text_of(address: Address) -> str:
        if isinstance(address, IPv4Address) or prefix == 128:
            return str(address)
        return str(IPv6Network((address, prefix), strict=False))

    def peer(*of: Any, **named: Any) -> str:
        client = (of[0] if of and type(of[0]) is dict else scope_of(of, named)).get("client")
        return peer_key(client[0]) if client and isinstance(client[0], str) else UNKNOWN

    def behind_proxies(*of: Any, **named: Any) -> str:
        scope = scope_of(of, named)
        client = scope.get("client")
        host = client[0] if client else None
        address = address_of(host) if isinstance(host, str) else None
        hops = entries(header_values(scope, name))
        if address is None:  # a Unix socket: only a proxy of ours can reach it
            address = address_of(next(hops, ""))
            if address is None:
                return UNKNOWN
        return text_of(client_behind(address, hops, is_trusted))

    return behind_proxies if trusted else peer


def header_key(name: str, *, missing: str | None = "anonymous") -> Key:
    """The value of the header `name`; `missing` for requests without one, which then share a limit (None: are exempt).

    A client can put into a header what it likes: use one that something in front has checked. Long values are hashed.
    """
    wanted = field_name("name", name)
    default = _arguments.text("missing", missing)

    def key(*of: Any, **named: Any) -> str | None:
        values = header_values(scope_of(of, named), wanted)
        return bounded(", ".join(values)) if values else default

    return key


def path_key(segments: int | None = None) -> Key:
    """The path of the request: all of it, or its first `segments`: ``"/items/7"`` with 1 is ``"/items"``.

    Clients choose paths, so for limits take few segments, or a Rule for each path that is served.
    """
    count = None if segments is None else _arguments.count("segments", segments)

    def key(*of: Any, **named: Any) -> str:
        scope = scope_of(of, named)
        path = path_inside(scope, scope.get("app_root_path"))
        return bounded(path if count is None else "/".join(path.split("/", count + 1)[: count + 1]))

    return key


def scope_of(of: tuple[Any, ...], named: Mapping[str, Any]) -> Scope:
    """The ASGI scope among the arguments of a call: the first one is or has it, or a request among the others has."""
    first = of[0] if of else None
    scope: Any = first if type(first) is dict else getattr(first, "scope", first)
    if not hasattr(scope, "get"):
        for value in (*of[1:], *named.values()):
            # Nothing but a request, by its class: other arguments can be what a client has sent.
            if all(hasattr(type(value), attribute) for attribute in _REQUEST) and hasattr(value, "scope"):
                scope = value.scope
                break
        else:
            given = ", ".join(map(_arguments.shown, (*of, *named.values()))) or "nothing"
            raise TypeError(f"this key needs an ASGI scope or a request that has one, not {given}")
    found: Scope = scope
    return found


def bounded(text: str) -> str:
    """`text`, or a digest of it if it is long: keys are kept, and clients must not choose their size."""
    if len(text) <= _LONGEST_KEY:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
