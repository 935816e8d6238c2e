"""The pooled transport for httpx2."""

from __future__ import annotations

from types import CoroutineType
from typing import Any, ClassVar

import httpcore2
import httpx2
from resilience_http._binding import Binding
from resilience_http._pooled import Pooled


class PooledTransport(Pooled, httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Kept connections, fast and safe to cancel: `httpx2.AsyncClient(transport=PooledTransport())`.

    One object serves `httpx2.Client` (from any number of threads) and `httpx2.AsyncClient` (from one event loop), each
    with a pool of its own. At most `max_connections` sockets are open in each (None: no limit) and `max_per_host` to
    one host; idle ones are closed after `keepalive_expiry` seconds (None: never). A `httpx2.Limits` may say the same.
    A request for which none is free waits in order, for as long as its pool timeout and the current deadline allow,
    with at most `max_queue` others; then it raises `httpx2.PoolTimeout`. `retries` is how often a failed connect is
    tried again. A connection that the server has closed in between is replaced; a request that met such a one
    half-way is sent again if that cannot do harm. The client's own `verify`, `cert`, `limits`, `proxy` and so on
    are ignored by httpx2 when a transport is given, so they are parameters here, with the meaning they have there.

    In a thread every step, whatever its timeout, ends at the current deadline (`resilience.Timeout`); a task is
    cancelled then. `close()` wakes the threads that are still reading.

    HTTP/2 and proxies (given, or found in the environment with `trust_env`) go through the library's own transport.
    Its HTTP/2 connections are safe for the tasks of a loop but not for threads: two that send at the same time may take
    the same stream, and their requests end in a `RemoteProtocolError`. With `http2`, give each thread a client.
    Raises the exceptions of httpx2; a wrong argument is a `TypeError` or `ValueError` at once.
    """

    binding: ClassVar[Binding] = Binding.of(httpx2, httpcore2)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; its response has to be closed."""
        response: httpx2.Response = self._send(request)
        return response

    # Not `async def`: that would be one more coroutine for every request to go through.
    def handle_async_request(self, request: httpx2.Request) -> CoroutineType[Any, Any, httpx2.Response]:
        """Send one request; its response has to be closed."""
        sending: CoroutineType[Any, Any, httpx2.Response] = self._asend(request)
        return sending
