"""The id of a request: read or made, bound for logs and outgoing calls, and echoed on every response."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from resilience_asgi import CorrelationMiddleware, ResilienceMiddleware
from resilience_asgi.protocol import Message, Receive, Scope, Send
from resilience_http.trace_context import trace_context

from resilience import CorrelationFilter, add_correlation, carried, correlation_id
from resilience.testing import ManualClock, run

from .wire import Connection, answering, raising, respond, served

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def telling(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with its correlation id and the trace context."""
    context = trace_context()
    await respond(send, f"{correlation_id()} {context and context.trace_id} {context and context.tracestate}".encode())


def test_an_acceptable_id_is_kept_bound_and_echoed(clock: ManualClock) -> None:
    connection = served(CorrelationMiddleware(telling), clock, headers=[("x-request-id", "order/7")])
    assert connection.body == b"order/7 None None"
    assert connection.headers["x-request-id"] == "order/7"
    assert correlation_id() is None
    assert structlog.contextvars.get_contextvars() == {}


@pytest.mark.parametrize(
    "value", [b"", b"a\r\nset-cookie: x", b"\xff\xfe", b"x" * 129, b"x" * 10_000, b"a b", b"<script>"]
)
def test_an_unacceptable_id_is_replaced_and_never_echoed(clock: ManualClock, value: bytes) -> None:
    connection = served(CorrelationMiddleware(telling), clock, headers=[("x-request-id", value)])
    assert re.fullmatch("[0-9a-f]{32}", connection.headers["x-request-id"])
    assert connection.body.startswith(connection.headers["x-request-id"].encode())


@given(st.binary(max_size=200))
def test_whatever_comes_in_what_goes_out_is_a_valid_id(value: bytes) -> None:
    connection = served(CorrelationMiddleware(answering()), ManualClock(), headers=[("x-request-id", value)])
    assert re.fullmatch(r"[A-Za-z0-9\-_.~:/+=@]{1,128}", connection.headers["x-request-id"])


def test_nothing_stays_bound_in_a_task_that_serves_several_requests(clock: ManualClock) -> None:
    """As on a connection that is kept alive."""

    async def main() -> None:
        for app in (telling, raising(ValueError("app"))):
            connection = Connection(CorrelationMiddleware(app), headers=[("traceparent", PARENT)])
            try:
                await connection.serve()
            except ValueError:
                pass
            assert connection.headers["x-request-id"] == TRACE
            assert correlation_id() is None
            assert trace_context() is None
            assert structlog.contextvars.get_contextvars() == {}

    run(main(), clock)


def test_of_two_ids_the_first_counts(clock: ManualClock) -> None:
    headers = [("x-request-id", "one"), ("x-request-id", "two")]
    assert served(CorrelationMiddleware(answering()), clock, headers=headers).headers["x-request-id"] == "one"


def test_ids_of_strangers_can_be_distrusted(clock: ManualClock) -> None:
    app = CorrelationMiddleware(telling, trust_incoming=False)
    connection = served(app, clock, headers=[("x-request-id", "mine"), ("traceparent", PARENT)])
    assert re.fullmatch("[0-9a-f]{32}", connection.headers["x-request-id"])
    assert connection.headers["x-request-id"] != TRACE
    assert connection.body.endswith(b" None None")


def test_another_header_can_carry_the_id(clock: ManualClock) -> None:
    app = CorrelationMiddleware(answering(), header="X-Correlation-ID")
    connection = served(app, clock, headers=[("x-correlation-id", "one"), ("x-request-id", "two")])
    assert connection.headers == {"x-correlation-id": "one"}


@pytest.mark.parametrize("name", [b"x-request-id", b"X-Request-ID"])
def test_a_response_that_has_the_header_keeps_its_own(clock: ManualClock, name: bytes) -> None:
    connection = served(CorrelationMiddleware(answering(headers=[(name, b"own")])), clock)
    assert connection.headers == {name.decode(): "own"}


def test_the_headers_of_the_application_are_not_changed_in_place(clock: ManualClock) -> None:
    """A response object may be sent more than once."""
    headers = [(b"a", b"b")]
    message = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(message)
        await send({"type": "http.response.body"})

    for _ in range(2):
        assert len(served(CorrelationMiddleware(app), clock).headers) == 2
    assert headers == [(b"a", b"b")]
    assert message == {"type": "http.response.start", "status": 200, "headers": headers}


def test_a_start_without_headers_gets_the_id(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    assert list(served(CorrelationMiddleware(app), clock).headers) == ["x-request-id"]


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method,body", [("GET", b"Internal Server Error"), ("HEAD", b"")])
def test_a_500_that_no_layer_answered_carries_the_id_and_the_error_goes_on(
    clock: ManualClock, method: str, body: bytes
) -> None:
    connection = Connection(CorrelationMiddleware(raising(ValueError("app"))), method=method)
    with pytest.raises(ValueError, match="app"):
        run(connection.serve(), clock)
    assert (connection.status, connection.body) == (500, body)
    assert "x-request-id" in connection.headers


def test_an_error_before_a_start_was_sent_is_answered(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.TaskGroup() as group:
            start: Any = send({"type": "http.response.start", "status": 200, "headers": []})
            group.create_task(start)  # is cancelled before it begins
            raise ValueError("app")

    connection = Connection(CorrelationMiddleware(app))
    with pytest.raises(ExceptionGroup):
        run(connection.serve(), clock)
    assert connection.status == 500
    assert "x-request-id" in connection.headers


def test_an_error_after_the_start_is_not_answered_again(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        raise ValueError("background")

    connection = Connection(CorrelationMiddleware(app))
    with pytest.raises(ValueError, match="background"):
        run(connection.serve(), clock)
    assert connection.status == 200


def test_within_a_framework_its_error_layer_answers(clock: ManualClock) -> None:
    connection = Connection(CorrelationMiddleware(raising(ValueError("app"))))
    connection.scope["app"] = object()  # as Starlette does before it calls its middleware
    with pytest.raises(ValueError, match="app"):
        run(connection.serve(), clock)
    assert connection.sent == []


def test_refusals_carry_the_id_in_header_and_body(clock: ManualClock) -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(60.0)

    connection = served(CorrelationMiddleware(ResilienceMiddleware(slow, timeout=1.0)), clock)
    assert connection.status == 504
    assert connection.problem["correlation_id"] == connection.headers["x-request-id"]


@pytest.mark.parametrize("kind", ["lifespan", "other"])
def test_other_connections_have_no_id(clock: ManualClock, kind: str) -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append((arguments, correlation_id()))

    connection = Connection(CorrelationMiddleware(app), kind=kind)
    run(connection.serve(), clock)
    assert seen == [((connection.scope, connection.receive, connection.send), None)]


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.http.response.start"])
def test_a_websocket_gets_its_id_with_the_handshake(clock: ManualClock, kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": kind, "status": 403, "headers": []})
        await send({"type": "websocket.send", "text": correlation_id()})

    connection = served(CorrelationMiddleware(app), clock, kind="websocket", headers=[("x-request-id", "ws-1")])
    assert connection.headers == {"x-request-id": "ws-1"}
    assert connection.sent[1]["text"] == "ws-1"


def test_an_error_in_a_websocket_goes_on_alone(clock: ManualClock) -> None:
    connection = Connection(CorrelationMiddleware(raising(ValueError("app"))), kind="websocket")
    with pytest.raises(ValueError, match="app"):
        run(connection.serve(), clock)
    assert connection.sent == []


# -- traces ------------------------------------------------------------------------------------------------------------


def test_a_trace_goes_on_and_names_a_request_without_an_id(clock: ManualClock) -> None:
    headers = [("traceparent", PARENT), ("tracestate", "b=2, a=1"), ("tracestate", "c=3")]
    connection = served(CorrelationMiddleware(telling), clock, headers=headers)
    assert connection.body == f"{TRACE} {TRACE} b=2,a=1,c=3".encode()
    connection = served(CorrelationMiddleware(telling), clock, headers=[*headers, ("x-request-id", "mine")])
    assert connection.body == f"mine {TRACE} b=2,a=1,c=3".encode()
    assert trace_context() is None


@pytest.mark.parametrize(
    "value", [b"", b"garbage", b"\xff", f"ff-{TRACE}-b7ad6b7169203331-01".encode(), b"00-" + b"0" * 32]
)
def test_an_invalid_trace_starts_a_new_one_under_the_correlation_id(clock: ManualClock, value: bytes) -> None:
    headers: list[tuple[str, Any]] = [("traceparent", value), ("tracestate", "a=1")]
    connection = served(CorrelationMiddleware(telling), clock, headers=headers)
    identity, trace, state = connection.body.decode().split(" ")
    assert identity == trace == connection.headers["x-request-id"]
    assert state == ""
    connection = served(CorrelationMiddleware(telling), clock, headers=[*headers, ("x-request-id", "not-hex")])
    identity, trace, _ = connection.body.decode().split(" ")
    assert identity == "not-hex"
    assert re.fullmatch("[0-9a-f]{32}", trace)


def test_two_traceparents_are_as_good_as_none(clock: ManualClock) -> None:
    connection = served(CorrelationMiddleware(telling), clock, headers=[("traceparent", PARENT)] * 2)
    assert TRACE.encode() not in connection.body


# -- logs --------------------------------------------------------------------------------------------------------------


def test_the_id_is_in_the_logs_of_tasks_and_threads(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """What is bound beneath other middleware must not be lost in a task or thread."""
    logger = logging.getLogger("test.asgi")
    caplog.handler.addFilter(CorrelationFilter())
    events: list[Any] = []
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_correlation,
        lambda _logger, _method, event: events.append(event),
    ]
    structured = structlog.wrap_logger(structlog.ReturnLogger(), processors=processors)

    def log(where: str) -> None:
        logger.warning(where)
        with pytest.raises(ValueError):  # the last processor returns nothing to log
            structured.info(where)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        log("here")

        async def in_task() -> None:
            log("task")

        await asyncio.create_task(in_task())
        await asyncio.to_thread(log, "to_thread")
        thread = threading.Thread(target=carried(log), args=("thread",))
        thread.start()
        await asyncio.to_thread(thread.join)
        await respond(send)
        log("background")

    run(Connection(CorrelationMiddleware(app), headers=[("x-request-id", "r-1")]).serve(), clock)
    places = ["here", "task", "to_thread", "thread", "background"]
    assert [(record.message, getattr(record, "correlation_id", None)) for record in caplog.records] == [
        (place, "r-1") for place in places
    ]
    assert [(event["event"], event["correlation_id"]) for event in events] == [(place, "r-1") for place in places]


def test_requests_at_the_same_time_keep_their_ids_apart(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(1.0)
        await respond(send, (correlation_id() or "").encode())

    guarded = CorrelationMiddleware(app)

    async def main() -> list[Connection]:
        connections = [Connection(guarded, headers=[("x-request-id", f"r-{n}")]) for n in range(20)]
        await asyncio.gather(*(connection.serve() for connection in connections))
        return connections

    for number, connection in enumerate(run(main(), clock)):
        assert connection.body == connection.headers["x-request-id"].encode() == f"r-{number}".encode()


def test_a_request_that_is_finalised_elsewhere_ends_quietly(clock: ManualClock) -> None:
    """A server that is torn down drops requests, and the collector closes them in a context of its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    import contextvars

    async def receive() -> Message:
        await asyncio.sleep(60.0)
        raise AssertionError

    connection = Connection(CorrelationMiddleware(app))
    connection.receive = receive  # type: ignore[method-assign]
    coroutine = connection.serve()

    async def main() -> None:
        contextvars.copy_context().run(coroutine.send, None)
        coroutine.close()

    run(main(), clock)


MIDDLEWARE: Any = CorrelationMiddleware  # without its annotations, so that a type checker lets the mistakes pass


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: MIDDLEWARE(answering(), header=""), "header"),
        (lambda: MIDDLEWARE(answering(), header="a b"), "header"),
        (lambda: MIDDLEWARE(answering(), header="a\r\nb"), "header"),
        (lambda: MIDDLEWARE(answering(), header=7), "header"),
        (lambda: MIDDLEWARE(answering(), trust_incoming=1), "trust_incoming"),
    ],
)
def test_a_mistake_is_an_error_at_once(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()
