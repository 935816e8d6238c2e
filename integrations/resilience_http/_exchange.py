"""What the two colours of a pool share: preparing a request, giving a place back, and when a request is repeated."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from resilience import deadline

from ._connections import LEASED, Connections, ConnectionStatistics, Place, Waiter
from ._options import Options
from .methods import IDEMPOTENT_METHODS

_DEFAULT_PORTS = {b"http": 80, b"https": 443, b"ws": 80, b"wss": 443}
SECURE = frozenset({b"https", b"wss"})


class Pool:
    """The connections of one colour, and what is done with them outside the lock. Nothing here waits."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.binding = options.binding
        core = self.core = options.binding.core
        self.connections = Connections(
            options.max_connections,
            per_host=options.max_per_host,
            max_idle=options.max_idle,
            keepalive_expiry=options.keepalive_expiry,
            max_queue=options.max_queue,
            clock=options.clock,
        )
        # What a server that closes a kept connection just as it is used again looks like.
        self._disconnects = (core.NetworkError, core.RemoteProtocolError, core.ConnectionNotAvailable)

    def statistics(self) -> ConnectionStatistics:
        """The connections at this moment."""
        return self.connections.statistics()

    def release(self, place: Place, reusable: bool) -> None:
        """Give the place back and close what has to be closed."""
        self.connections.release(place, reusable)
        if self.connections.doomed:
            self.tidy()

    def tidy(self) -> None:
        """Close what was doomed. Any holder of a place calls this after each step, outside the lock."""
        doomed, closed = self.connections.doomed, self.connections.closed
        while doomed:
            try:
                place = doomed.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                if place.stream is not None:
                    place.stream.close()
            finally:
                closed(place)

    def forget(self) -> None:
        """Close everything, whoever uses it. Those that wait are told so."""
        for place in self.connections.abandon():
            if place.stream is None:
                continue
            if place.state is LEASED:
                place.stream.interrupt()  # its request closes it, as soon as it notices
            else:
                place.stream.close()

    def prepared(self, request: Any) -> tuple[Any, Hashable]:
        """The request for the core library, and what its connection has to be good for."""
        if not isinstance(request, self.binding.client.Request):
            kind = type(request)
            raise TypeError(
                f"this transport is for clients of {self.binding.name}, not for a {kind.__module__} request"
            )
        url, core = request.url, self.core
        scheme, host, port = url.raw_scheme, url.raw_host, url.port
        default = _DEFAULT_PORTS.get(scheme)
        if default is None or not host:
            raise self.binding.client.UnsupportedProtocol(
                f"the URL must start with http:// or https:// and name a host: {url}", request=request
            )
        prepared = core.Request(
            method=request.method,
            url=core.URL(scheme=scheme, host=host, port=port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        # A certificate was checked against one name; a request that asks for another must not meet it.
        return prepared, (scheme, host, port or default, request.extensions.get("sni_hostname"))

    def connected(self, place: Place, prepared: Any, kind: Any) -> Any:
        """Make a connection of that kind on the stream of the place."""
        connection = place.connection = kind(prepared.url.origin, place.stream)
        self.connections.opened += 1
        if place.generation != self.connections.generation:
            raise self.core.ConnectError("the transport was closed")
        return connection

    def reusable(self, place: Place) -> bool:
        """Whether the connection of a response that was closed can serve another request."""
        return place.connection.is_idle() and not surplus(place.connection)

    def disconnect(self, place: Place) -> None:
        """Close the socket of a place that is to get another one."""
        place.stream.close()
        place.connection = place.stream = None

    def may_repeat(self, request: Any, place: Place, error: Exception) -> bool:
        """Whether a request that failed on a kept connection may be sent again on a fresh one (RFC 9112, 9.3.1).

        It must have failed before any byte of a response. Either nothing was sent, or the method is idempotent and
        the body can be sent a second time.
        """
        stream = place.stream
        if stream.received or not isinstance(error, self._disconnects):
            return False
        return not stream.sent or (
            request.method in IDEMPOTENT_METHODS and isinstance(request.stream, self.binding.client.ByteStream)
        )

    def patience(self, request: Any) -> float | None:
        """How long to wait for a place, in seconds: the pool timeout of the request, but not beyond the deadline."""
        timeout: float | None = request.extensions.get("timeout", {}).get("pool")
        left = deadline.remaining()
        if timeout is None or (left is not None and left < timeout):
            return left
        return timeout

    def granted(self, waiter: Waiter, granted: bool, request: Any) -> Place:
        """What the waiter waited for; PoolTimeout if that was in vain."""
        place = waiter.place if granted else self.connections.withdraw(waiter)
        waiter.granted = False  # taken: a wake-up that comes after our loop has closed gives nothing back
        if place is not None and place.generation != self.connections.generation:
            self.release(place, False)
            place = None
        if place is None:
            raise self.in_vain("the transport was closed" if granted else "no connection became free in time", request)
        return place

    def in_vain(self, why: str, request: Any) -> Exception:
        """The error of a request that gets no connection."""
        error: Exception = self.binding.client.PoolTimeout(f"{why}: {self}", request=request)
        return error

    def explain(self, cancellation: BaseException, reason: Exception) -> None:
        """Note on a cancellation by a deadline of ours what it has cut short, for whoever has to judge it."""
        if deadline.cancelled_by_deadline():
            cancellation.__cause__ = reason

    def translate(self, error: BaseException, request: Any) -> None:
        """Raise the client library's exception for one of the core's. Any other is the caller's to raise again."""
        translated = self.binding.translated(error, request)
        if translated is not None:
            try:
                raise translated from error
            finally:
                del translated, error  # the traceback of an exception must not lead back to it

    def __str__(self) -> str:
        now = self.statistics()
        limit = "" if now.max_connections is None else f" of {now.max_connections}"
        return f"{now.in_use}{limit} connections in use, {now.idle} idle, {now.waiting} requests waiting"


def surplus(connection: Any) -> bool:
    """Whether the server has sent more than the response: it would be taken for the beginning of the next one.

    The core library does not look, and what it has received but not used is private to it. This is the only private
    name that is relied on; without it the check is left out, and a test says so.
    """
    state = getattr(connection, "_h11_state", None)
    return state is not None and bool(state.trailing_data[0])


def delays(retries: int) -> Iterator[float]:
    """Seconds before each further attempt to connect: 0, 0.5, 1, 2, … as the core library does it."""
    for retry in range(retries):
        yield 0.0 if retry == 0 else 0.25 * 2.0**retry
