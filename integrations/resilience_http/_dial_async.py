"""From the name of a host to a connected stream of an event loop.

A host with several addresses is tried one address after the other, the next beside the last if that takes long (Happy
Eyeballs, RFC 8305). Every socket has an owner at every moment: the event loop's own version of this loses one when it
is cancelled in the moment of success.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import Any

from ._stream_async import AsyncStream

_PATIENCE_WITH_AN_ADDRESS = 0.25  # seconds until the next one is tried as well (RFC 8305, section 5)

Address = tuple[int, Any]  # the family of a socket, and what to connect it to


async def connect(
    core: Any,
    host: str,
    port: int,
    *,
    uds: str | None,
    local_address: str | None,
    options: tuple[Any, ...],
    timeout: float | None,
) -> AsyncStream:
    """A connected stream, over TCP or to a Unix socket. Raises the `ConnectError` or `ConnectTimeout` of `core`."""
    loop = asyncio.get_running_loop()
    stream = AsyncStream(core)
    try:
        async with asyncio.timeout(timeout):
            addresses = await _resolve(loop, host, port) if uds is None else [(int(socket.AF_UNIX), uds)]
            if len(addresses) == 1:
                raw = await _attempt(loop, addresses[0], local_address)
            else:
                raw = await _race(loop, addresses, local_address)
            try:
                for option in options:
                    raw.setsockopt(*option)
            except BaseException:
                raw.close()
                raise
            await loop.create_connection(lambda: stream, sock=raw)
    except BaseException as error:
        stream.close()
        if isinstance(error, TimeoutError):
            raise core.ConnectTimeout(str(error) or "connecting took too long") from error
        if isinstance(error, (OSError, UnicodeError)):  # a host name can be too long to be encoded
            raise core.ConnectError(str(error)) from error
        raise
    return stream


async def _resolve(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Address]:
    """The addresses of a host, families in turns; without a detour for what is an address already."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[int, list[Address]] = {}
    for family, _, _, _, address in found:
        families.setdefault(int(family), []).append((int(family), address))
    return [address for turn in itertools.zip_longest(*families.values()) for address in turn if address is not None]


async def _attempt(loop: asyncio.AbstractEventLoop, address: Address, local_address: str | None) -> socket.socket:
    family, target = address
    # The event loop switches Nagle's algorithm off only where the protocol is spelt out.
    raw = socket.socket(family, socket.SOCK_STREAM, 0 if family == socket.AF_UNIX else socket.IPPROTO_TCP)
    try:
        raw.setblocking(False)
        if local_address is not None and family != socket.AF_UNIX:
            raw.bind((local_address, 0))
        await loop.sock_connect(raw, target)
    except BaseException:
        raw.close()
        raise
    return raw


async def _race(loop: asyncio.AbstractEventLoop, addresses: list[Address], local_address: str | None) -> socket.socket:
    attempts: list[asyncio.Task[socket.socket]] = []
    pending: set[asyncio.Task[socket.socket]] = set()
    left = iter(addresses)
    winner: asyncio.Task[socket.socket] | None = None
    try:
        while True:
            address = next(left, None)
            if address is not None:
                attempts.append(loop.create_task(_attempt(loop, address, local_address)))
                pending.add(attempts[-1])
            elif not pending:
                raise OSError("; ".join(dict.fromkeys(str(attempt.exception()) for attempt in attempts)))
            patience = None if address is None else _PATIENCE_WITH_AN_ADDRESS
            done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            winner = next((attempt for attempt in done if attempt.exception() is None), None)
            if winner is not None:
                return winner.result()
    finally:
        for attempt in attempts:
            if attempt is not winner:
                attempt.cancel()
                attempt.add_done_callback(_close)


def _close(attempt: asyncio.Task[socket.socket]) -> None:
    """Nobody waits for this attempt any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
