"""A socket of an event loop, as the network stream that the core library reads and writes.

Closing it is one synchronous step, so that a cancelled request leaks nothing, and it knows whether anything was sent or
received since the request began, which decides whether the request may be repeated on another connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

from ._stream_sync import readable

_MOST_BUFFERED = 1 << 18  # bytes that were received but not read; beyond that the transport is paused


class AsyncStream(asyncio.Protocol):
    """One connected socket. `core` is the core library, whose exceptions are raised."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False  # reading
        self._ended = False  # the peer has said that nothing more will come
        self._closed = False  # by us
        self._lost = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._full = False  # the transport asks to stop writing
        self.sent = False
        self.received = False

    def begin(self) -> None:
        """A new request: nothing was sent or received for it yet."""
        self.sent = self.received = False

    # -- the network stream --------------------------------------------------------------------------------------------

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Up to `max_bytes` bytes; none at the end. Waits for at most `timeout` seconds."""
        if not self._chunks:
            if not (self._ended or self._lost):
                self._reader = reader = self._loop.create_future()
                try:
                    await self._wait(reader, timeout, self._core.ReadTimeout)
                finally:
                    self._reader = None
            if not self._chunks:
                if self._error is not None:
                    raise self._core.ReadError(str(self._error)) from self._error
                if self._closed:
                    raise self._core.ReadError("the connection was closed on this side")
                return b""
        self.received = True
        chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self._buffered -= len(chunk)
        if self._paused and self._buffered <= _MOST_BUFFERED // 2:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send `buffer`. Waits for at most `timeout` seconds while the peer does not take it."""
        if not buffer:
            return
        if self._lost or self._transport.is_closing() or (self._ended and not self.sent):
            raise self._core.WriteError("the connection was closed")
        self.sent = True
        self._transport.write(buffer)
        while self._full:
            self._writer = writer = self._loop.create_future()
            try:
                await self._wait(writer, timeout, self._core.WriteTimeout)
            finally:
                self._writer = None
            if self._lost:
                raise self._core.WriteError(str(self._error or "the connection was closed")) from self._error

    async def _wait(self, future: asyncio.Future[None], timeout: float | None, kind: Callable[[], Exception]) -> None:
        if timeout is None:
            await future
            return
        timer = self._loop.call_later(timeout, _expire, future, kind)
        try:
            await future
        finally:
            timer.cancel()

    async def aclose(self) -> None:
        """Close the socket; there is nothing to wait for."""
        self.close()

    def close(self) -> None:
        """Close the socket at once, dropping what was not sent yet."""
        self._closed = True
        if self._transport is not None:
            try:
                self._transport.abort()
            except RuntimeError:  # the loop is closed, and it alone can close the socket; so at least tell the peer
                self._shut()

    interrupt = close  # whoever waits for it is woken

    def _shut(self) -> None:
        raw = self._transport.get_extra_info("socket")
        try:
            raw.shutdown(socket.SHUT_RDWR)
        except (AttributeError, OSError):
            pass  # closed already

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncStream:
        """Begin to encrypt; the stream stays the same."""
        plain = self._transport
        try:
            async with asyncio.timeout(timeout):
                # The limit of the loop itself is out of the way, because it would be a ConnectionAbortedError.
                self._transport = await self._loop.start_tls(
                    plain, self, ssl_context, server_hostname=server_hostname, ssl_handshake_timeout=_handshake(timeout)
                )
        except BaseException as error:
            plain.abort()
            if isinstance(error, TimeoutError):
                raise self._core.ConnectTimeout("the TLS handshake took too long") from error
            if isinstance(error, OSError):  # ssl.SSLError is one; that of a closed connection says nothing
                raise self._core.ConnectError(str(error) or "closed during the TLS handshake") from error
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        """What is known about `ssl_object`, `client_addr`, `server_addr`, `socket`, `is_readable`; None otherwise."""
        if info == "is_readable":
            if self._chunks or self._ended or self._lost or self._transport.is_closing():
                return True
            raw = self._transport.get_extra_info("socket")
            return raw is None or readable(raw)
        name = {
            "ssl_object": "ssl_object",
            "client_addr": "sockname",
            "server_addr": "peername",
            "socket": "socket",
        }.get(info)
        return None if name is None else self._transport.get_extra_info(name)

    # -- the protocol --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        if self._buffered > _MOST_BUFFERED and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        _finish(self._reader)

    def eof_received(self) -> bool:
        self._ended = True
        _finish(self._reader)
        # A plain socket stays open for what is still to be sent: a server may answer early and half-close.
        return self._transport.get_extra_info("ssl_object") is None

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _finish(self._writer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._error = exc
        self._full = False
        _finish(self._reader)
        _finish(self._writer)


def _finish(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _expire(future: asyncio.Future[None], kind: Callable[[], Exception]) -> None:
    if not future.done():
        future.set_exception(kind())


def _handshake(timeout: float | None) -> float:
    return 86_400.0 if timeout is None else 2.0 * timeout + 1.0
