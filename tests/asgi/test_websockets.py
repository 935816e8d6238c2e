"""WebSockets: refused before they are accepted, closed afterwards, and guarded for as long as they last."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from resilience_asgi import ResilienceMiddleware, Rule
from resilience_asgi.protocol import Receive, Scope, Send

from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, RateLimiter, remaining
from resilience.testing import ManualClock, run

from .wire import Connection, raising, served

DENIAL = "websocket.http.response"


def test_a_refused_websocket_gets_the_response_where_the_server_can_send_one(clock: ManualClock) -> None:
    app = ResilienceMiddleware(raising(AssertionError()), layers=[RateLimiter(1, 60.0)], rules=[Rule("/x")])
    with pytest.raises(AssertionError):
        served(app, clock, kind="websocket")
    connection = served(app, clock, kind="websocket", extensions=[DENIAL])
    assert connection.kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert connection.status == 429
    assert connection.headers["retry-after"] == "60"
    assert json.loads(connection.body)["status"] == 429


@pytest.mark.parametrize("extensions", [{}, None])
def test_a_refused_websocket_is_closed_where_the_server_cannot(clock: ManualClock, extensions: Any) -> None:
    connection = Connection(ResilienceMiddleware(raising(BulkheadFullError())), kind="websocket")
    connection.scope["extensions"] = extensions
    run(connection.serve(), clock)
    assert connection.sent == [{"type": "websocket.close", "code": 1013, "reason": "503"}]


def test_a_websocket_holds_its_slot_until_it_ends_and_its_timeout_ends_with_accept(clock: ManualClock) -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker("app", failure_threshold=1)
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        seen.append(remaining())
        await send({"type": "websocket.accept"})
        seen.append(remaining())
        await clock.asleep(60.0)
        seen.append(bulkhead.statistics().in_use)
        await send({"type": "websocket.close", "code": 1000})

    guarded = ResilienceMiddleware(app, layers=[breaker, bulkhead], timeout=2.0, body_timeout=5.0, watch_after=0.1)
    connection = served(guarded, clock, kind="websocket")
    assert seen == [2.0, None, 1]
    assert connection.received == 1  # nobody but the application
    assert bulkhead.statistics().in_use == 0
    assert breaker.statistics().failures == 0
    assert breaker.state.value == "closed"


def test_a_websocket_that_is_not_accepted_in_time_is_refused(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(60.0)

    connection = served(ResilienceMiddleware(app, timeout=2.0), clock, kind="websocket", extensions=[DENIAL])
    assert connection.status == 504


def test_a_rejection_in_an_accepted_websocket_closes_it(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        raise BulkheadFullError("db")

    connection = served(ResilienceMiddleware(app), clock, kind="websocket")
    assert connection.kinds == ["websocket.accept", "websocket.close"]
    assert connection.sent[1]["code"] == 1013


def test_a_client_that_was_faster_does_not_make_the_closing_an_error(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        connection.broken = RuntimeError("closed already")
        raise BulkheadFullError("db")

    connection = Connection(ResilienceMiddleware(app), kind="websocket")
    run(connection.serve(), clock)
    assert connection.kinds == ["websocket.accept"]


@pytest.mark.parametrize("error", [ValueError("app"), BulkheadFullError("db")])
def test_an_error_after_the_close_and_an_error_of_the_application_go_on(clock: ManualClock, error: Exception) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        raise error

    connection = Connection(ResilienceMiddleware(app), kind="websocket")
    with pytest.raises(type(error)):
        run(connection.serve(), clock)
    assert connection.kinds == ["websocket.accept", "websocket.close"]


def test_a_refusal_by_the_application_itself_ends_the_call(clock: ManualClock) -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker("app", failure_threshold=9)
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 500, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"a", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"b"})
        seen.append(bulkhead.statistics().in_use)
        await asyncio.sleep(0)

    app_guarded = ResilienceMiddleware(app, layers=[breaker, bulkhead])
    served(app_guarded, clock, kind="websocket", extensions=[DENIAL])
    assert seen == [0]
    assert breaker.statistics().failures == 1


def test_a_rule_for_some_methods_is_not_for_websockets(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    limiter = RateLimiter(1, 60.0)
    guarded = ResilienceMiddleware(app, rules=[Rule("*", methods=["GET"], layers=[limiter])])
    for _ in range(3):
        assert served(guarded, clock, kind="websocket").kinds == ["websocket.accept"]
    assert limiter.peek().remaining == 1


@pytest.mark.parametrize("gone", [False, True])
def test_a_websocket_that_is_left_without_an_answer_is_a_failure_unless_its_client_has_gone(
    clock: ManualClock, gone: bool
) -> None:
    """Servers answer 500 to that; it counted as a success."""
    seen: list[Any] = []

    def failed(outcome: Any) -> bool:
        seen.append(outcome.status)
        return False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if gone:
            connection.disconnect()
            await receive()

    plain, judging = CircuitBreaker("plain", minimum_calls=9), CircuitBreaker("judging", failure_if=failed)
    connection = Connection(ResilienceMiddleware(app, layers=[plain, judging]), kind="websocket")
    run(connection.serve(), clock)
    assert (plain.statistics().calls, plain.statistics().failures) == ((0, 0) if gone else (1, 1))
    assert seen == ([] if gone else [500])


def test_a_websocket_that_was_accepted_and_closed_is_no_refused_one(clock: ManualClock) -> None:
    seen: list[Any] = []

    def failed(outcome: Any) -> bool:
        seen.append(outcome.status)
        return False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/accepted":
            await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})

    guarded = ResilienceMiddleware(app, layers=[CircuitBreaker(failure_if=failed)])
    served(guarded, clock, kind="websocket", path="/accepted")
    served(guarded, clock, kind="websocket", path="/refused")
    assert seen == [101, 403]


@pytest.mark.parametrize("extensions", [[], [DENIAL]])
@pytest.mark.parametrize("accepted", [False, True])
def test_a_rejection_inside_is_neither_a_success_nor_a_failure_outside(
    clock: ManualClock, accepted: bool, extensions: Any
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if accepted:
            await send({"type": "websocket.accept"})
        raise BulkheadFullError("db")

    breaker = CircuitBreaker("app")
    guarded = ResilienceMiddleware(ResilienceMiddleware(app), layers=[breaker])
    served(guarded, clock, kind="websocket", extensions=extensions)
    assert breaker.statistics().calls == 0
