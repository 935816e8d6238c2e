"""Rows for the resilient transport on a transport that does nothing.

The standard pipeline is what is measured: total timeout, retry with budget, breaker, bulkhead and attempt timeout for
one known origin, and the headers that travel along. Costs are above the bare null transport. The same layers around its
method, as a `Pipeline` of the core, show what of that is HTTP: a key for the origin, its entry, and the headers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from resilience import Bulkhead, CircuitBreaker, Pipeline, Retry, RetryBudget, Timeout

from .measure import BARE, OURS, Case, Colour, Row

URL = "https://api.example.com/things"
CEILING = 12.0
"""Microseconds that the standard pipeline may add to a request."""


def null_transport(library: Any, body: bool) -> Any:
    """A transport of a library that answers at once: with one ready response, or with one whose body is to be read."""
    ready = library.Response(200)

    class Null(library.AsyncBaseTransport, library.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            return library.Response(200, stream=library.ByteStream(b"x")) if body else ready

        async def handle_async_request(self, request: Any) -> Any:
            return library.Response(200, stream=library.ByteStream(b"x")) if body else ready

    return Null()


def build(name: str, body: bool) -> Callable[[Colour], list[Case]]:
    def cases(colour: Colour) -> list[Case]:
        library, package = importlib.import_module(name), importlib.import_module(f"resilience_{name}")
        null = null_transport(library, body)
        settings: dict[str, dict[str, Any]] = {
            OURS: {},
            "without headers": {"propagate": False},
            "without timeouts": {"propagate": False, "timeout": None, "attempt_timeout": None},
        }
        request = library.Client().build_request("GET", URL)
        guarded = {what: package.ResilientTransport(null, **options) for what, options in settings.items()}
        contestants = {BARE: null, **guarded}
        cases = [Case(what, _call(colour, transport, request, body)) for what, transport in contestants.items()]
        return [*cases, Case("layers of the core", _call(colour, _Layered(colour, null), request, body))]

    return cases


class _Layered:
    """The null transport's method under the layers of the core, without anything that is about HTTP."""

    def __init__(self, colour: Colour, null: Any) -> None:
        layers = Pipeline(
            Timeout(30.0),
            Retry(OSError, budget=RetryBudget()),
            CircuitBreaker(),
            Bulkhead(100, max_queue=1000),
            Timeout(10.0),
        )
        name = "handle_request" if colour == "sync" else "handle_async_request"
        setattr(self, name, layers(getattr(null, name)))


def _call(colour: Colour, transport: Any, request: Any, body: bool) -> Callable[[], Any]:
    if colour == "sync":
        return lambda: transport.handle_request(request).read()

    async def call() -> Any:
        response = await transport.handle_async_request(request)
        return await response.aread() if body else response

    return call


ROWS = (
    *(
        Row("transport", f"{name}, null transport", build(name, body=False), ceiling=CEILING)
        for name in ("httpx", "httpx2")
    ),
    *(Row("transport", f"{name}, null transport, body read", build(name, body=True)) for name in ("httpx", "httpx2")),
)
