"""A blocking socket, as the network stream that the core library reads and writes.

It knows whether anything was sent or received since the request began, which decides whether the request may be
repeated on another connection. Nothing interrupts a thread, so no step waits longer than the current deadline allows:
a peer that sends one byte now and then would else begin each timeout anew.
"""

from __future__ import annotations

import select
import socket
import ssl
from typing import Any

from resilience import deadline


class SyncStream:
    """One connected socket. `core` is the core library, whose exceptions are raised."""

    def __init__(self, core: Any, raw: socket.socket) -> None:
        self._core = core
        self._socket = raw
        self.sent = False
        self.received = False

    def begin(self) -> None:
        """A new request: nothing was sent or received for it yet."""
        self.sent = self.received = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Up to `max_bytes` bytes; none at the end. Waits for at most `timeout` seconds."""
        try:
            self._socket.settimeout(_within_the_deadline(timeout))
            data = self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise self._core.ReadTimeout(str(error)) from error
        except OSError as error:
            raise self._core.ReadError(str(error)) from error
        if data:
            self.received = True
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send `buffer`. Waits for at most `timeout` seconds each time the peer does not take more of it."""
        left = memoryview(buffer)
        try:
            while left:
                self._socket.settimeout(_within_the_deadline(timeout))
                count = self._socket.send(left)
                self.sent = True
                left = left[count:]
        except TimeoutError as error:
            self.sent = True  # some of it may have gone out
            raise self._core.WriteTimeout(str(error)) from error
        except OSError as error:
            raise self._core.WriteError(str(error)) from error

    def close(self) -> None:
        """Close the socket at once."""
        self._socket.close()

    def interrupt(self) -> None:
        """End the connection under another thread that may be reading: it wakes up, and closes the socket itself.

        Closing it here would not wake that thread, and its descriptor could become that of another connection.
        """
        try:
            # Not the method of an encrypted socket, which would let that thread go on reading without decryption.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            pass  # closed already, or about to be encrypted

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> SyncStream:
        """Begin to encrypt; the stream stays the same."""
        plain = self._socket
        try:
            plain.settimeout(_within_the_deadline(timeout))
            self._socket = ssl_context.wrap_socket(plain, server_hostname=server_hostname)
        except BaseException as error:
            plain.close()
            if isinstance(error, TimeoutError):
                raise self._core.ConnectTimeout("the TLS handshake took too long") from error
            if isinstance(error, OSError):  # ssl.SSLError is one
                raise self._core.ConnectError(str(error)) from error
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        """What is known about `ssl_object`, `client_addr`, `server_addr`, `socket`, `is_readable`; None otherwise."""
        raw = self._socket
        if info == "is_readable":
            return readable(raw)
        if info == "ssl_object":
            return raw if isinstance(raw, ssl.SSLSocket) else None
        if info == "client_addr":
            return raw.getsockname()
        if info == "server_addr":
            return raw.getpeername()
        return raw if info == "socket" else None


def connect(
    core: Any,
    host: str,
    port: int,
    *,
    uds: str | None,
    local_address: str | None,
    options: tuple[Any, ...],
    timeout: float | None,
) -> SyncStream:
    """A connected stream, over TCP or to a Unix socket. Raises the `ConnectError` or `ConnectTimeout` of `core`."""
    raw: socket.socket | None = None
    try:
        if uds is None:
            raw = _connected(host, port, local_address, timeout)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            raw.settimeout(_within_the_deadline(timeout))
            raw.connect(uds)
        for option in options:
            raw.setsockopt(*option)
    except BaseException as error:
        if raw is not None:
            raw.close()
        if isinstance(error, TimeoutError):
            raise core.ConnectTimeout(str(error)) from error
        if isinstance(error, (OSError, UnicodeError)):  # a host name can be too long to be encoded
            raise core.ConnectError(str(error)) from error
        raise
    return SyncStream(core, raw)


def _connected(host: str, port: int, local_address: str | None, timeout: float | None) -> socket.socket:
    """A socket to the first address that answers: `timeout` is for each of them, the deadline for all together.

    `socket.create_connection` would not look at the deadline in between.
    """
    first: OSError | None = None
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            raw = socket.socket(family, kind, protocol)
            try:
                raw.settimeout(_within_the_deadline(timeout))
                if local_address is not None:
                    raw.bind((local_address, 0))
                raw.connect(address)
            except BaseException as error:
                raw.close()
                if not isinstance(error, OSError):
                    raise
                first = first or error
            else:
                return raw
        raise first or OSError(f"{host} has no address")
    finally:
        del first  # its traceback holds this frame


def _within_the_deadline(timeout: float | None) -> float | None:
    """`timeout`, or the seconds that are left if these are fewer. A TimeoutError if none are."""
    left = deadline.remaining()
    if left is None or (timeout is not None and timeout <= left):
        return timeout
    if left <= 0.0:
        raise TimeoutError("the deadline has passed")
    return left


def readable(raw: Any) -> bool:
    """Whether there is something to read, or the end, or an error. Between two requests each means the end."""
    descriptor = raw.fileno()
    if descriptor < 0:
        return True
    if not hasattr(select, "poll"):  # on Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
