"""The resilient transport for httpx2."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, ClassVar

import httpcore2
import httpx2
from resilience_http._binding import Binding
from resilience_http._dialect import Dialect
from resilience_http._resilient import Resilient
from resilience_http._response import Held

from ._errors import ERRORS
from ._pooled import PooledTransport


class _Held(Held, httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A response's body that gives back what its attempt holds when it is closed."""


class ResilientTransport(Resilient, httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Every request under the toolkit's layers: `httpx2.AsyncClient(transport=ResilientTransport())`.

    One object serves `httpx2.Client` and `httpx2.AsyncClient`. From the outside in:

    * a total `timeout` (seconds, None: no limit) for one request, its retries and the body of its response. A redirect
      and each step of an authentication are requests of their own. A task is cut off at once, and so is
      a thread that waits for its connection. But there the resolution of names is not covered, and an `inner` that does
      not ask for the deadline, and proxies and HTTP/2, are only cut off by their read timeout or between two chunks.
      `extensions={"resilience": {"timeout": None}}` frees a long stream; the client's own read timeout then bounds
      each of its pauses;
    * `retry`, with a `budget` that all requests share: errors of the transport and the statuses 408, 429, 500, 502, 503
      and 504, `Retry-After` honoured. Only what may be sent twice is: idempotent methods, requests with an
      `Idempotency-Key` or `extensions={"resilience": {"idempotent": True}}`, and whatever provably never reached the
      server; and only if its body can be read again (multipart forms up to `replay_limit` bytes). When the attempts are
      used up, the last response is returned or the last error raised. A number is how many attempts there are, the
      first included (3 unless told). A `Retry` of your own decides about errors; what it leaves open (`retry_if`,
      `retry_after`, `budget`) is filled in as above;
    * a circuit breaker for each origin (scheme, host and port), made by `breaker(origin)`. Errors of the transport and
      5xx are failures; 4xx, a full pool and mistakes of the caller are not;
    * `rate_limiter`, whose `key` and `cost` are called with the request;
    * a bulkhead for each origin, made by `bulkhead(origin)`; standard are 100 requests and a queue of 1000. A slot is
      taken until the response is closed;
    * an `attempt_timeout` (seconds) up to the headers of each response: sending a large body has to fit in as well. The
      timeouts of the client are cut to what is left of both, and for the body of the response to what is left of the
      total; one that has been cut and is reached is a `HTTPCallTimeoutError`.

    At most `max_hosts` origins are remembered. With `propagate` the correlation id, the bound trace context, the
    remaining time and the number of the attempt travel as headers, unless the request has them. `inner` is the
    transport that sends; if it is None, a `PooledTransport` is made with `verify`, `cert`, `http2`, `limits`, `proxy`,
    `trust_env`, `local_address`, `uds` and `socket_options`, because a client ignores its own beside `transport=`.
    What patches httpx2's own transport does not see that one. In tests with such a mock library, and under a global
    instrumentation of OpenTelemetry (which then records a span for each attempt), let `inner` be a
    `httpx2.HTTPTransport()` or `httpx2.AsyncHTTPTransport()`; or mock with `httpx2.MockTransport(…)`, and instrument
    the client.

    `extensions={"resilience": {…}}` changes `timeout`, `attempt_timeout`, `retry` (False, or a number of attempts),
    `idempotent` and `propagate` for one request.

    Raises the exceptions of httpx2. Those of the toolkit are both: `HTTPCircuitOpenError`, `HTTPBulkheadFullError`,
    `HTTPRateLimitExceededError` and so on are `httpx2.TransportError`s too, `HTTPCallTimeoutError` and
    `HTTPDeadlineExceededError` are `httpx2.TimeoutException`s. A wrong setting is a `TypeError` or
    `ValueError` at once.
    """

    dialect: ClassVar[Dialect] = Dialect.of(Binding.of(httpx2, httpcore2), ERRORS)
    held: ClassVar[type[Held]] = _Held
    pooled: ClassVar[type[PooledTransport]] = PooledTransport

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request under all layers."""
        response: httpx2.Response = self._send(request)
        return response

    # Not `async def`: that would be one more coroutine for every request to go through.
    def handle_async_request(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, request: httpx2.Request
    ) -> Coroutine[Any, Any, httpx2.Response]:
        """Send one request under all layers."""
        return self._asend(request)
