"""Rejections and timeouts become responses, whoever raised them; everything else is left alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from resilience_asgi import ProblemResponse, ResilienceMiddleware, Rule, path_key, problem_handler, problem_response
from resilience_asgi.protocol import Receive, Scope, Send
from resilience_http.problem import Problem

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallRejectedError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    Keyed,
    Pipeline,
    PoolExhaustedError,
    RateLimiter,
    RateLimitExceededError,
    ResilienceError,
    Throttle,
    Timeout,
    bound,
    correlation_id,
    remaining,
)
from resilience.testing import ManualClock, run

from .wire import Connection, answering, raising, respond, served

REFUSALS = [
    (RateLimitExceededError("search", 1.2, 10.0, 0, 5.0), 429, "2"),
    (RateLimitExceededError("search"), 429, None),
    (CircuitOpenError("db", 0.0), 503, "0"),
    (CircuitOpenError("db", 4.0), 503, "4"),
    (BulkheadFullError("db"), 503, None),
    (PoolExhaustedError("db"), 503, None),
    (CallRejectedError("db"), 503, None),
    (CallTimeoutError("db", 3.0), 504, None),
    (DeadlineExceededError("db", 30.001), 504, "31"),
    (ExceptionGroup("both", [CircuitOpenError("db", 4.0), BulkheadFullError("db")]), 503, "4"),
    (ExceptionGroup("deep", [ExceptionGroup("one", [RateLimitExceededError("search")])]), 429, None),
]


@pytest.mark.parametrize("error,status,retry_after", REFUSALS)
def test_an_error_of_the_toolkit_raised_anywhere_inside_becomes_a_response(
    clock: ManualClock, error: Exception, status: int, retry_after: str | None
) -> None:
    connection = served(ResilienceMiddleware(raising(error)), clock)
    assert connection.status == connection.problem["status"] == status
    assert connection.headers.get("retry-after") == retry_after
    assert connection.kinds == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), TimeoutError("foreign"), ExceptionGroup("mixed", [CircuitOpenError("db"), ValueError()])],
)
def test_an_error_of_somebody_else_goes_on_to_the_framework(clock: ManualClock, error: Exception) -> None:
    connection = Connection(ResilienceMiddleware(raising(error), timeout=1.0, layers=[Bulkhead(1)]))
    with pytest.raises(type(error)) as caught:
        run(connection.serve(), clock)
    assert caught.value is error
    assert connection.sent == []


def test_a_refusal_carries_the_correlation_id_and_names_nothing_inside(clock: ManualClock) -> None:
    async def main() -> Connection:
        connection = Connection(ResilienceMiddleware(raising(CircuitOpenError("secret-database", 1.0))))
        with bound("request-7"):
            await connection.serve()
        return connection

    connection = run(main(), clock)
    assert connection.problem["correlation_id"] == "request-7"
    assert connection.headers["cache-control"] == "no-store"
    assert b"secret" not in connection.body


def test_a_refusal_of_a_head_request_has_the_headers_and_no_body(clock: ManualClock) -> None:
    connection = served(ResilienceMiddleware(raising(BulkheadFullError())), clock, method="HEAD")
    assert connection.status == 503
    assert connection.body == b""
    assert int(connection.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "layer,status,retry_after",
    [
        (RateLimiter(1, 60.0, name="everybody"), 429, "60"),
        (Bulkhead(1), 503, None),
        (Pipeline(Bulkhead(2), Bulkhead(1)), 503, None),
        (Keyed(lambda _: Bulkhead(1), path_key()), 503, None),
        (Keyed(lambda _: RateLimiter(1, 60.0), path_key(), max_keys=2), 429, "60"),
    ],
)
def test_a_layer_of_the_middleware_refuses_what_is_too_much(
    clock: ManualClock, layer: Any, status: int, retry_after: str | None
) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(0.001)
        await respond(send)

    app = ResilienceMiddleware(slow, layers=[layer])
    connections = [Connection(app), Connection(app)]

    async def main() -> None:
        await asyncio.gather(*(connection.serve() for connection in connections))

    run(main(), clock)
    assert sorted(connection.status for connection in connections) == [200, status]
    refused = next(connection for connection in connections if connection.status != 200)
    assert refused.headers.get("retry-after") == retry_after


def test_an_open_circuit_refuses_with_the_true_time_to_come_back(clock: ManualClock) -> None:
    breaker = CircuitBreaker("app", failure_threshold=2, recovery_time=10.0, jitter=0.0)
    app = ResilienceMiddleware(answering(b"broken", 500), layers=[breaker])
    assert [served(app, clock).status for _ in range(3)] == [500, 500, 503]
    clock.advance(3.5)
    assert served(app, clock).headers["retry-after"] == "7"


def test_a_throttle_paces_requests(clock: ManualClock) -> None:
    import aiolimiter

    async def main() -> list[float]:
        app = ResilienceMiddleware(answering(), layers=[Throttle(aiolimiter.AsyncLimiter(1, 1.0))])
        times = []
        for _ in range(3):
            connection = Connection(app)
            await connection.serve()
            assert connection.status == 200
            times.append(asyncio.get_running_loop().time())
        return times

    first, second, third = run(main(), clock)
    assert second - first == pytest.approx(1.0, abs=0.01)
    assert third - second == pytest.approx(1.0, abs=0.01)


def test_a_queue_is_waited_in_and_the_wait_counts_against_the_timeout(clock: ManualClock) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(2.0)
        await respond(send)

    bulkhead = Bulkhead(1, max_queue=10)
    app = ResilienceMiddleware(slow, layers=[bulkhead], timeout=3.0)
    connections = [Connection(app) for _ in range(3)]

    async def main() -> None:
        await asyncio.gather(*(connection.serve() for connection in connections))

    run(main(), clock)
    assert [connection.status for connection in connections] == [200, 504, 504]
    assert bulkhead.statistics().in_use == 0


def test_a_computed_deadline_of_a_function_inside_is_a_504(clock: ManualClock) -> None:
    @Timeout(1.0, name="query")
    async def query() -> None:
        await clock.asleep(5.0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await query()

    connection = served(ResilienceMiddleware(app, timeout=10.0), clock)
    assert connection.status == 504
    assert clock.now() == pytest.approx(1001.0, abs=0.1)


def test_a_team_renders_its_own_body(clock: ManualClock) -> None:
    def ours(problem: Problem, scope: Scope) -> ProblemResponse:
        return ProblemResponse(418, {"Content-Type": "text/plain", "Retry-After": "99"}, scope["path"].encode())

    app = ResilienceMiddleware(raising(CircuitOpenError(None, 5.0)), render=ours)
    connection = served(app, clock, path="/tea")
    assert (connection.status, connection.body) == (418, b"/tea")
    assert connection.headers == {"content-type": "text/plain", "retry-after": "99", "content-length": "4"}


# -- what passes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lifespan", "mqtt"])
def test_lifespan_and_unknown_connections_pass_untouched(clock: ManualClock, kind: str) -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.extend(arguments)

    bulkhead = Bulkhead(1)
    connection = Connection(ResilienceMiddleware(app, layers=[bulkhead], timeout=1.0), kind=kind)
    run(connection.serve(), clock)
    assert seen == [connection.scope, connection.receive, connection.send]


def test_exempt_paths_pass_untouched(clock: ManualClock) -> None:
    app = ResilienceMiddleware(answering(), layers=[RateLimiter(1, 60.0)], exempt=["/healthz", "/static/*"])
    for path in ("/healthz", "/static/", "/static/a/b.css") * 3:
        assert served(app, clock, path=path).status == 200
    assert [served(app, clock, path="/static").status for _ in range(2)] == [200, 429]


def test_the_health_endpoints_are_exempt_by_default(clock: ManualClock) -> None:
    app = ResilienceMiddleware(answering(), layers=[RateLimiter(1, 60.0)])
    assert [served(app, clock, path=path).status for path in ("/healthz", "/readyz", "/healthz")] == [200] * 3


def test_the_first_rule_that_matches_counts_and_adds_its_layers(clock: ManualClock) -> None:
    whole, search, write = (RateLimiter(n, 60.0) for n in (5, 2, 1))
    app = ResilienceMiddleware(
        answering(),
        layers=[whole],
        rules=[
            Rule("/items/{id}", methods=["put", "POST"], layers=[write]),
            Rule("/items/*", layers=[search]),
            Rule("*", methods=["TRACE"], layers=[RateLimiter(1, 60.0)]),
        ],
    )
    assert served(app, clock, path="/items/1", method="PUT").status == 200
    assert served(app, clock, path="/items/2", method="PUT").status == 429
    assert served(app, clock, path="/items/2", method="PUT").status == 429  # the outer layer counts it all the same
    assert served(app, clock, path="/items/1", method="GET").status == 200
    assert served(app, clock, path="/items/1/x", method="POST").status == 200
    assert whole.peek().remaining == 0
    assert search.peek().remaining == 0
    assert write.peek().remaining == 0


@pytest.mark.parametrize("methods,covered", [(["get"], True), (["HEAD"], True), (["POST"], False), (None, True)])
def test_a_limit_for_get_cannot_be_got_around_by_head(
    clock: ManualClock, methods: list[str] | None, covered: bool
) -> None:
    """Routers of frameworks answer HEAD by the endpoint for GET, and run all of it."""
    rule = Rule("/search", methods=methods, layers=[RateLimiter(1, 60.0)])
    app = ResilienceMiddleware(answering(), rules=[rule])
    statuses = [served(app, clock, path="/search", method="HEAD").status for _ in range(2)]
    assert statuses == [200, 429 if covered else 200]
    assert served(app, clock, path="/search", method="OPTIONS").status == (429 if methods is None else 200)


def test_a_rule_changes_the_timeout_or_takes_it_away(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        left = remaining()
        await respond(send, b"none" if left is None else b"%d" % round(left))

    guarded = ResilienceMiddleware(
        app, timeout=10.0, rules=[Rule("/slow", timeout=60.0), Rule("/stream", timeout=None), Rule("/same")]
    )
    bodies = [served(guarded, clock, path=path).body for path in ("/", "/slow", "/stream", "/same")]
    assert bodies == [b"10", b"60", b"none", b"10"]


# -- what the client still allows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers,allowed",
    [
        ([("x-request-timeout-ms", "1500")], 1.5),
        ([("grpc-timeout", "2S")], 2.0),
        ([("x-request-timeout-ms", "1500"), ("grpc-timeout", "2S")], 1.5),
        ([("x-request-timeout-ms", "1500"), ("x-request-timeout-ms", "9000"), ("x-request-timeout-ms", "2000")], 1.5),
        ([("grpc-timeout", "9S"), ("grpc-timeout", "2S"), ("grpc-timeout", "x")], 2.0),
        ([("x-request-timeout-ms", "60000")], 10.0),
        ([("x-request-timeout-ms", "-5")], 10.0),
        ([("x-request-timeout-ms", "1e3")], 10.0),
        ([("x-request-timeout-ms", "9" * 15)], 10.0),
        ([("x-request-timeout-ms", "9" * 10_000)], 10.0),
        ([("x-request-timeout-ms", b"\xff\xfe")], 10.0),
        ([("grpc-timeout", "99999999H")], 10.0),
        ([("x-something-else", "1")], 10.0),
    ],
)
def test_the_deadline_of_the_client_only_ever_shortens(
    clock: ManualClock, headers: list[tuple[str, str]], allowed: float
) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(remaining())
        await respond(send)

    assert served(ResilienceMiddleware(app, timeout=10.0), clock, headers=headers).status == 200
    assert seen == [pytest.approx(allowed)]


def test_the_deadline_of_the_client_holds_without_a_timeout_of_our_own(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(60.0)

    connection = served(ResilienceMiddleware(app), clock, headers=[("x-request-timeout-ms", "250")])
    assert connection.status == 504
    assert clock.now() == pytest.approx(1000.26, abs=0.02)
    huge = [("x-request-timeout-ms", "9" * 12)]
    seen: list[Any] = []

    async def asking(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(remaining())

    served(ResilienceMiddleware(asking), clock, headers=huge)
    assert seen == [None]


def test_an_expired_deadline_is_answered_without_running_the_application(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("it must not run")

    bulkhead = Bulkhead(1)
    connection = served(ResilienceMiddleware(app, layers=[bulkhead]), clock, headers=[("grpc-timeout", "0S")])
    assert connection.status == 504


def test_the_deadline_of_the_client_can_be_ignored(clock: ManualClock) -> None:
    app = ResilienceMiddleware(answering(), incoming_deadline=False)
    assert served(app, clock, headers=[("x-request-timeout-ms", "0")]).status == 200


# -- handlers for frameworks -------------------------------------------------------------------------------------------


def test_a_problem_response_is_for_errors_of_the_toolkit_only() -> None:
    response = problem_response(RateLimitExceededError("search", 1.5, 10.0, 0, 5.0), rate_limit_fields=True)
    assert response is not None
    assert (response.status, response.headers["Retry-After"]) == (429, "2")
    assert response.headers["RateLimit"] == '"search";r=0;t=2'
    assert problem_response(ValueError()) is None
    plain = problem_response(RateLimitExceededError(None, 1.5), rate_limit_fields=True)
    assert plain is not None
    assert "RateLimit" not in plain.headers
    assert correlation_id() is None


def test_the_problem_handler_raises_on_what_is_not_ours() -> None:
    assert problem_handler(None, BulkheadFullError()).status == 503
    with pytest.raises(ResilienceError):
        problem_handler(None, ResilienceError("something else"))


def test_a_problem_response_is_what_litestar_asks_for() -> None:
    response = ProblemResponse(503)
    assert response.to_asgi_response(app=None, request=None) is response
