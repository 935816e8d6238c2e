"""Rows for ASGI middleware around an application that answers at once, called in this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asgi_correlation_id
import slowapi
from resilience_asgi import CorrelationMiddleware, ResilienceMiddleware, client_address
from slowapi.middleware import SlowAPIASGIMiddleware
from slowapi.util import get_remote_address
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from resilience import Bulkhead, RateLimiter

from .measure import BARE, OURS, Bar, Case, Colour, Row

UNLIMITED = 10**9
LIMIT = "1000000/second"  # what slowapi takes for about that
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"2")],
}
END = {"type": "http.response.body", "body": b"ok"}
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"wrk/4.1"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Two messages, as every response has."""
    await send(dict(START))
    await send(END)


async def receive() -> dict[str, Any]:
    """The end of a body that is empty."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    """Where the messages go."""


def protection() -> dict[str, Any]:
    """The usual settings of a service."""
    return {"layers": [RateLimiter(UNLIMITED, key=client_address()), Bulkhead(100)], "timeout": 10.0}


def guarded() -> Any:
    """The usual protection of a service, as one would write it."""
    return CorrelationMiddleware(ResilienceMiddleware(application, **protection()))


def requests(app: Any, *headers: tuple[bytes, bytes], framework: Any = None) -> Callable[[], Awaitable[Any]]:
    """A call of `app` with a scope of its own, as servers make one for each request."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "root_path": "",
        "query_string": b"",
        "client": ("203.0.113.7", 50000),
        "server": ("127.0.0.1", 8000),
        **({} if framework is None else {"app": framework}),
    }
    given = [*HEADERS, *headers]

    def call() -> Awaitable[Any]:
        result: Awaitable[Any] = app({**scope, "headers": [*given]}, receive, send)
        return result

    return call


def _correlation(*headers: tuple[bytes, bytes]) -> Callable[[Colour], list[Case]]:
    def build(_: Colour) -> list[Case]:
        return [
            Case(BARE, requests(application, *headers)),
            Case(OURS, requests(CorrelationMiddleware(application), *headers)),
            Case("asgi-correlation-id", requests(asgi_correlation_id.CorrelationIdMiddleware(application), *headers)),
        ]

    return build


def stack(_: Colour) -> list[Case]:
    framework = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))])
    framework.state.limiter = slowapi.Limiter(key_func=get_remote_address, default_limits=[LIMIT])
    limiter = ResilienceMiddleware(application, layers=[RateLimiter(UNLIMITED, key=client_address())])
    return [
        Case(BARE, requests(application, framework=framework)),
        Case(OURS, requests(guarded(), framework=framework)),
        Case("slowapi", requests(SlowAPIASGIMiddleware(application), framework=framework)),
        Case("ours, the limiter alone", requests(limiter, framework=framework)),
    ]


def refused(_: Colour) -> list[Case]:
    framework = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok"))])
    framework.state.limiter = slowapi.Limiter(key_func=get_remote_address, default_limits=["1/day"])
    layers = [RateLimiter(1, 86_400.0, key=client_address()), Bulkhead(100)]
    ours = CorrelationMiddleware(ResilienceMiddleware(application, layers=layers, timeout=10.0))
    return [
        Case(BARE, requests(application, framework=framework)),
        Case(OURS, requests(ours, framework=framework)),
        Case("slowapi", requests(SlowAPIASGIMiddleware(application), framework=framework)),
    ]


GROUP = "ASGI middleware"
ROWS = (
    Row(GROUP, "correlation id, made", _correlation(), (Bar("asgi-correlation-id", 0.6),), ("async",)),
    Row(
        GROUP,
        "correlation id, given",
        _correlation((b"x-request-id", b"4a8f4c5be1f04a6d9b4a0e5f6f3b2a10")),
        (Bar("asgi-correlation-id", 0.6),),
        ("async",),
    ),
    Row(
        GROUP,
        "limit by client, bulkhead, timeout, correlation",
        stack,
        (Bar("slowapi", 0.35),),
        ("async",),
        note="all of ours together against slowapi's ASGI middleware, which is a rate limit alone",
    ),
    Row(
        GROUP,
        "refused request, 429",
        refused,
        (Bar("slowapi", 0.5),),
        ("async",),
        note="the same layers with the limit used up: what overload consists of",
    ),
)
