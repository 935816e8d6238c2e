"""A rejection that is rendered further inside is still a rejection for the layers further outside, not a failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from resilience_asgi import ResilienceMiddleware, problem_handler, problem_response
from resilience_asgi.protocol import ASGIApp, Receive, Scope, Send
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from resilience import (
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    RateLimiter,
    RateLimitExceededError,
    ResilienceError,
)
from resilience.testing import ManualClock

from .wire import answering, raising, respond, served

REJECTIONS = [
    (BulkheadFullError("db", 1.0), 503),
    (CircuitOpenError("payments", 1.0), 503),
    (RateLimitExceededError("search", 1.0), 429),
    (DeadlineExceededError("request"), 504),
    (ExceptionGroup("two", [BulkheadFullError("db", 1.0), CircuitOpenError("payments", 1.0)]), 503),
]
FAILURES = [
    (CallTimeoutError("slow", 1.0), 504),
    (ExceptionGroup("two", [BulkheadFullError("db", 1.0), CallTimeoutError("slow", 1.0)]), 503),
]


def by_middleware(error: Exception) -> ASGIApp:
    return ResilienceMiddleware(raising(error))


def by_response(error: Exception) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = problem_response(error, scope=scope)
        assert response is not None
        await response(scope, receive, send)

    return app


def by_mounted_application(error: Exception) -> ASGIApp:
    """With a middleware in between that makes a response of its own out of what comes from inside."""

    async def through(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    async def home(request: Request) -> Response:
        raise error

    handlers: Any = {ResilienceError: problem_handler, ExceptionGroup: problem_handler}
    mounted = Starlette(routes=[Route("/", home)], exception_handlers=handlers)
    return Starlette(routes=[Mount("/", mounted)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=through)])


WAYS = [by_middleware, by_response, by_mounted_application]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("judge", [None, lambda outcome: True])
@pytest.mark.parametrize("error,status", REJECTIONS)
def test_a_rejection_that_was_rendered_inside_is_no_failure(
    clock: ManualClock, way: Callable[[Exception], ASGIApp], judge: Any, error: Exception, status: int
) -> None:
    """Our own saturation, rendered by a handler inside, opened the circuit of a healthy application."""
    breaker = CircuitBreaker("app", failure_threshold=1, failure_if=judge)
    assert served(ResilienceMiddleware(way(error), layers=[breaker]), clock).status == status
    assert breaker.state.value == "closed"
    assert breaker.statistics().calls == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error,status", FAILURES)
def test_a_call_that_was_cut_off_inside_is_a_failure_however_it_is_rendered(
    clock: ManualClock, way: Callable[[Exception], ASGIApp], error: Exception, status: int
) -> None:
    breaker = CircuitBreaker("app", failure_threshold=9)
    assert served(ResilienceMiddleware(way(error), layers=[breaker]), clock).status == status
    assert breaker.statistics().failures == 1


@pytest.mark.parametrize("error,status", REJECTIONS)
def test_a_probe_that_was_rejected_inside_proves_nothing(clock: ManualClock, error: Exception, status: int) -> None:
    """A 429 of our own closed the circuit of an application that nobody had reached."""
    breaker = CircuitBreaker("app", failure_threshold=1, recovery_time=5.0, jitter=0.0, success_threshold=1)
    served(ResilienceMiddleware(answering(status=500), layers=[breaker]), clock)
    clock.advance(5.0)
    served(ResilienceMiddleware(by_response(error), layers=[breaker]), clock)
    assert breaker.state.value == "half-open"
    served(ResilienceMiddleware(answering(), layers=[breaker]), clock)
    assert breaker.state.value == "closed"


def test_another_answer_than_the_rejection_that_was_rendered_is_judged_by_its_status(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        problem_response(BulkheadFullError("db", 1.0), scope=scope)
        await respond(send, status=500)

    breaker = CircuitBreaker("app", failure_threshold=9)
    served(ResilienceMiddleware(app, layers=[breaker]), clock)
    assert breaker.statistics().failures == 1


def test_a_rejection_that_is_cut_short_is_judged_as_every_response_is(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        problem_response(BulkheadFullError("db", 1.0), scope=scope)
        await send({"type": "http.response.start", "status": 503, "headers": []})

    breaker = CircuitBreaker("app", failure_threshold=9)
    served(ResilienceMiddleware(app, layers=[breaker]), clock)
    assert breaker.statistics().failures == 1


def test_a_team_that_renders_a_rejection_as_a_success_gets_it_counted_as_one(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        inner = ResilienceMiddleware(raising(BulkheadFullError("db", 1.0)), render=empty)
        await inner(scope, receive, send)

    def empty(problem: Any, scope: Scope) -> Any:
        response = problem_response(BulkheadFullError("db"))
        assert response is not None
        return type(response)(204)

    for breaker in (CircuitBreaker("app"), CircuitBreaker("app", failure_if=lambda outcome: False)):
        assert served(ResilienceMiddleware(app, layers=[breaker]), clock).status == 204
        assert breaker.statistics().calls == 1


def test_tokens_for_an_outcome_are_not_charged_for_a_rejection(clock: ManualClock) -> None:
    failed = RateLimiter(1, 60.0, charge_if=lambda outcome: True)
    app = ResilienceMiddleware(by_response(BulkheadFullError("db", 1.0)), layers=[failed])
    assert [served(app, clock).status for _ in range(3)] == [503] * 3
    assert failed.peek().remaining == 1
