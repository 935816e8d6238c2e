"""The ASGI interface as types: what a server, a middleware and an application call each other with.

https://asgi.readthedocs.io/en/latest/specs/www.html, version 3 of the protocol.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Frameworks type scope and messages each in a way of its own, so this says no more than that it is called and awaited.
ASGIApp = Callable[..., Awaitable[None]]
RawHeaders = Iterable[tuple[bytes, bytes]]


def ends_response(kind: str, message: Message, trailers: bool) -> bool:
    """Whether a message of an extension ends the response, which was announced with `trailers` or without."""
    if kind == "http.response.trailers":
        return not message.get("more_trailers")
    if kind in ("http.response.pathsend", "http.response.zerocopysend"):
        return not message.get("more_body") and not trailers
    return False


def header_values(scope: Scope, name: bytes) -> list[str]:
    """The values of all headers called `name` (lower case), in order; bytes are read as Latin-1, which never fails."""
    return [value.decode("latin-1") for header, value in scope.get("headers", ()) if header.lower() == name]
