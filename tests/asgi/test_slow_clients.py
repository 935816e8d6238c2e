"""A client that keeps the application waiting until its time is up says nothing about the application.

A few stalled uploads, or a few downloads that nobody read, opened the circuit of a healthy service for everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from resilience_asgi import ResilienceMiddleware
from resilience_asgi.protocol import ASGIApp, Message, Receive, Scope, Send
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resilience import CallTimeoutError, CircuitBreaker, Timeout
from resilience.testing import ManualClock, run

from .wire import Connection

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
PART: Message = {"type": "http.response.body", "body": b"part", "more_body": True}


class Stalling(Connection):
    """A client that sends one part of its body, and does not read more than the head of the response."""

    async def receive(self) -> Message:
        message = await super().receive()
        if message["type"] == "http.request" and self.received > 1:
            await asyncio.sleep(3600.0)
        return message

    async def send(self, message: Message) -> None:
        await super().send(message)
        if message.get("more_body"):
            await asyncio.sleep(3600.0)


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


async def awaiting_the_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def working(scope: Scope, receive: Receive, send: Send) -> None:
    """Leave the asking for a part to another task."""
    await receive()
    asking = asyncio.ensure_future(receive())
    try:
        await asyncio.sleep(60.0)
    finally:
        asking.cancel()


def through_starlette() -> ASGIApp:
    async def upload(request: Request) -> Response:
        return Response(await request.body())

    async def through(request: Request, call_next: Callable[[Request], Any]) -> Any:
        return await call_next(request)

    routes = [Route("/", upload, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=through)])


def failures(make: Callable[..., Connection], app: ASGIApp, clock: ManualClock, **more: Any) -> tuple[Connection, int]:
    plain, judging = CircuitBreaker("plain"), CircuitBreaker("judging", failure_if=lambda outcome: True)
    connection = make(ResilienceMiddleware(app, layers=[plain, judging], **more), method="POST", body=[b"a", b"b"])
    try:
        run(connection.serve(), clock)
    except CallTimeoutError:
        assert connection.sent
    assert plain.statistics().calls == plain.statistics().failures == judging.statistics().failures
    return connection, plain.statistics().failures


@pytest.mark.parametrize("app", [reading, through_starlette()])
@pytest.mark.parametrize("watch_after", [None, 0.0, 0.5, 60.0])
def test_an_upload_that_stalls_is_no_failure(clock: ManualClock, app: ASGIApp, watch_after: float | None) -> None:
    connection, failed = failures(Stalling, app, clock, timeout=2.0, watch_after=watch_after)
    assert (connection.status, failed) == (504, 0)


@pytest.mark.parametrize("watch_after", [None, 0.5])
def test_an_application_that_has_the_body_and_waits_for_a_disconnect_has_taken_too_long(
    clock: ManualClock, watch_after: float | None
) -> None:
    connection, failed = failures(Connection, awaiting_the_disconnect, clock, timeout=2.0, watch_after=watch_after)
    assert (connection.status, failed) == (504, 1)


def test_an_application_that_works_while_a_part_is_asked_for_has_taken_too_long(clock: ManualClock) -> None:
    connection, failed = failures(Stalling, working, clock, timeout=2.0)
    assert (connection.status, failed) == (504, 1)


@pytest.mark.parametrize("stalls", [True, False])
def test_a_download_that_nobody_reads_is_no_failure(clock: ManualClock, stalls: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(PART)
        await asyncio.sleep(3600.0)

    connection, failed = failures(Stalling if stalls else Connection, app, clock, body_timeout=2.0)
    assert connection.sent == [START, PART]
    assert failed == (0 if stalls else 1)


def test_the_end_of_a_download_that_nobody_reads_is_no_failure(clock: ManualClock) -> None:
    class Deaf(Connection):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message["type"] == "http.response.body":
                await asyncio.sleep(3600.0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send({**PART, "more_body": False})

    connection, failed = failures(Deaf, app, clock, body_timeout=2.0)
    assert (connection.status, failed) == (200, 0)


@pytest.mark.parametrize("limit", [asyncio.timeout, lambda seconds: Timeout(seconds).guard()])
def test_an_application_that_looked_for_the_body_in_vain_before_it_got_stuck_has_taken_too_long(
    clock: ManualClock, limit: Callable[[float], Any]
) -> None:
    """A look at `request.is_disconnected()` is cancelled at once, and says nothing about what ends the request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(TimeoutError):
            async with limit(0.25):
                while True:
                    await receive()
        await asyncio.sleep(60.0)

    connection, failed = failures(Stalling, app, clock, timeout=2.0)
    assert (connection.status, failed) == (504, 1)


async def fails_beside_its_writer(send: Send) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.5)
        raise ValueError("app")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())
        await send(PART)


async def fails_after_giving_up_a_part(send: Send) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await send(PART)
    raise ValueError("app")


async def fails_after_its_own_time_for_a_part(send: Send) -> None:
    with pytest.raises(CallTimeoutError):
        async with Timeout(0.5).guard():
            await send(PART)
    raise ValueError("app")


@pytest.mark.parametrize(
    "fail", [fails_beside_its_writer, fails_after_giving_up_a_part, fails_after_its_own_time_for_a_part]
)
def test_an_application_that_fails_while_a_part_is_not_read_has_failed(
    clock: ManualClock, fail: Callable[[Send], Any]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await fail(send)

    breaker = CircuitBreaker("app")
    connection = Stalling(ResilienceMiddleware(app, layers=[breaker], body_timeout=60.0))
    with pytest.raises((ValueError, ExceptionGroup)):
        run(connection.serve(), clock)
    assert (breaker.statistics().calls, breaker.statistics().failures) == (1, 1)
