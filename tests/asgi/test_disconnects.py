"""A client that goes away takes its work with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from resilience_asgi import ResilienceMiddleware, Rule
from resilience_asgi.protocol import Message, Receive, Scope, Send
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

from resilience import (
    Bulkhead,
    CircuitBreaker,
)
from resilience.testing import ManualClock, run

from .wire import Connection, answering, respond, served

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
PART: Message = {"type": "http.response.body", "body": b"part", "more_body": True}
END: Message = {"type": "http.response.body", "body": b""}


class Hanging:
    """An application that takes a minute."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.clock.asleep(60.0)


def in_use(bulkhead: Bulkhead) -> int:
    return bulkhead.statistics().in_use


@pytest.mark.parametrize("start", [False, True])
def test_a_client_that_disconnects_cancels_the_work(clock: ManualClock, start: bool) -> None:
    cancelled: list[float] = []
    bulkhead, breaker = Bulkhead(1), CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if start:
                await send(START)
            await clock.asleep(60.0)
        except asyncio.CancelledError:
            cancelled.append(clock.now())
            raise

    connection = Connection(ResilienceMiddleware(app, layers=[breaker, bulkhead], timeout=30.0))

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(3.0, connection.disconnect)
        await connection.serve()
        return task.cancelling()

    assert run(main(), clock) == 0
    assert cancelled == [1003.0]
    assert in_use(bulkhead) == 0
    assert breaker.state.value == "closed"
    if start:
        assert connection.sent == [START]
    else:  # nobody reads it, but a middleware outside may be waiting for an answer
        assert (connection.status, connection.body, connection.complete) == (499, b"", True)


def test_a_response_that_was_begun_is_not_answered_again_when_its_client_has_gone(clock: ManualClock) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await clock.asleep(60.0)

    connection = Connection(app)

    async def main() -> None:
        asyncio.get_running_loop().call_later(3.0, connection.disconnect)
        await ResilienceMiddleware(app)(connection.scope, connection.receive, send)

    run(main(), clock)
    assert sent == [START]


def test_a_server_that_refuses_the_answer_to_a_client_that_has_gone_makes_no_error(clock: ManualClock) -> None:
    connection = Connection(ResilienceMiddleware(Hanging(clock), layers=[]))
    connection.broken = OSError("the connection is closed")

    async def main() -> None:
        asyncio.get_running_loop().call_later(3.0, connection.disconnect)
        await connection.serve()

    run(main(), clock)
    assert clock.now() == 1003.0


def test_a_disconnect_is_no_error_in_a_middleware_that_insists_on_an_answer(clock: ManualClock) -> None:
    """Starlette's BaseHTTPMiddleware raised "No response returned." for every client that left."""

    async def through(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    breakers = [CircuitBreaker(name, failure_threshold=1, success_threshold=1) for name in ("outer", "inner")]
    inner = ResilienceMiddleware(Hanging(clock), layers=[breakers[1]], watch_after=0.5)
    outer = ResilienceMiddleware(BaseHTTPMiddleware(inner, through), layers=[breakers[0]], watch_after=None)
    connection = Connection(outer)

    async def main() -> None:
        asyncio.get_running_loop().call_later(3.0, connection.disconnect)
        await connection.serve()

    run(main(), clock)
    assert connection.status == 499
    assert [breaker.statistics().calls for breaker in breakers] == [0, 0]


def test_nobody_watches_a_short_request(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(0.9)
        await respond(send)

    connection = served(ResilienceMiddleware(app, watch_after=1.0), clock)
    assert connection.received == 0
    assert asyncio_tasks_left() == 0


def test_a_request_that_goes_on_without_its_client_can_be_asked_for(clock: ManualClock) -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection.disconnect()
        await clock.asleep(60.0)
        done.append(scope["path"])
        await respond(send)

    guarded = ResilienceMiddleware(app, rules=[Rule("/report", watch_after=None)])
    for path in ("/report", "/other"):
        connection = Connection(guarded, path=path)
        run(connection.serve(), clock)
    assert done == ["/report"]


def test_a_timeout_and_a_disconnect_in_one_turn_leave_no_cancellation_behind(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(60.0)

    connection = Connection(ResilienceMiddleware(app, timeout=2.0, watch_after=0.1))

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_later(2.0, connection.disconnect)
        await connection.serve()
        return task.cancelling()

    assert run(main(), clock) == 0
    assert connection.status in (499, 504)


def test_a_client_that_leaves_with_the_last_part_cancels_nothing(clock: ManualClock) -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(5.0)
        await respond(send)
        done.append("background")

    connection = Connection(ResilienceMiddleware(app, layers=[Bulkhead(1)]))
    original = connection.send

    async def slow(message: Message) -> None:
        if message["type"] == "http.response.body":
            connection.disconnect()
            await clock.asleep(5.0)
        await original(message)

    connection.send = slow  # type: ignore[method-assign]
    run(connection.serve(), clock)
    assert done == ["background"]


def test_a_disconnect_that_the_application_noticed_itself_is_no_failure(clock: ManualClock) -> None:
    breaker = CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        connection.disconnect()
        while (await receive())["type"] != "http.disconnect":
            pass

    connection = Connection(ResilienceMiddleware(app, layers=[breaker]))
    run(connection.serve(), clock)
    assert breaker.state.value == "closed"


@pytest.mark.parametrize("watch_after", [1.0, None])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_what_an_application_raises_because_the_client_has_gone_is_no_failure(
    clock: ManualClock, kind: str, late: bool, watch_after: float | None
) -> None:
    """Starlette raises on an aborted upload and when a WebSocket ends: strangers could open the circuit by leaving."""
    breaker = CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if kind == "websocket":
            await send({"type": "websocket.accept"})
        connection.disconnect()
        if late and kind == "websocket":  # HTTP is watched
            await clock.asleep(5.0)
        while not (await receive())["type"].endswith(".disconnect"):
            pass
        raise RuntimeError("the client has gone")

    connection = Connection(ResilienceMiddleware(app, layers=[breaker], watch_after=watch_after), kind=kind)
    with pytest.raises(RuntimeError, match="the client has gone"):
        run(connection.serve(), clock)
    statistics = breaker.statistics()
    assert (breaker.state.value, statistics.failures, statistics.calls) == ("closed", 0, 0)


def test_what_an_application_raises_after_its_watcher_told_it_is_no_failure(clock: ManualClock) -> None:
    breaker = CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await clock.asleep(60.0)
        except asyncio.CancelledError:
            assert (await receive())["type"] == "http.disconnect"
            raise RuntimeError("the client has gone") from None

    connection = Connection(ResilienceMiddleware(app, layers=[breaker], watch_after=0.0))

    async def main() -> None:
        asyncio.get_running_loop().call_later(5.0, connection.disconnect)
        await connection.serve()

    with pytest.raises(RuntimeError, match="the client has gone"):
        run(main(), clock)
    assert breaker.statistics().calls == 0


def test_an_application_that_fails_without_knowing_that_the_client_has_gone_has_failed(clock: ManualClock) -> None:
    breaker = CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        connection.disconnect()
        raise RuntimeError("broken")

    connection = Connection(ResilienceMiddleware(app, layers=[breaker], watch_after=None))
    with pytest.raises(RuntimeError, match="broken"):
        run(connection.serve(), clock)
    assert breaker.state.value == "open"


def test_an_application_that_knows_that_the_client_has_gone_can_still_take_too_long(clock: ManualClock) -> None:
    breaker = CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        connection.disconnect()
        await receive()
        await clock.asleep(60.0)

    connection = Connection(ResilienceMiddleware(app, layers=[breaker], timeout=5.0))
    run(connection.serve(), clock)
    assert breaker.state.value == "open"


def test_an_unwatched_application_that_ends_because_the_client_has_gone_has_not_failed(clock: ManualClock) -> None:
    breaker = CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection.disconnect()
        while (await receive())["type"] != "http.disconnect":
            pass

    connection = Connection(ResilienceMiddleware(app, layers=[breaker], watch_after=None))
    run(connection.serve(), clock)
    assert breaker.statistics().calls == 0


def test_a_client_that_leaves_while_it_waits_in_the_queue_frees_its_place(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=1)
    app = ResilienceMiddleware(answering(), layers=[bulkhead])
    connection = Connection(app)

    async def main() -> None:
        async with bulkhead.guard():
            task = asyncio.ensure_future(connection.serve())
            await clock.asleep(5.0)
            assert bulkhead.statistics().waiting == 1
            connection.disconnect()
            await task
            assert bulkhead.statistics().waiting == 0

    run(main(), clock)
    assert connection.status == 499


def asyncio_tasks_left() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0
