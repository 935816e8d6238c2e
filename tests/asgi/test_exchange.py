"""How long a request holds what it holds, and what may still interrupt it when."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest
from resilience_asgi import ResilienceMiddleware, ResponseOutcome, Rule, path_key
from resilience_asgi.protocol import Message, Receive, Scope, Send

from resilience import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    Keyed,
    RateLimiter,
    Timeout,
    deadline,
    remaining,
)
from resilience.events import CallTimedOut, subscribe
from resilience.testing import ManualClock, run

from .wire import Connection, answering, raising, respond, served

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
PART: Message = {"type": "http.response.body", "body": b"part", "more_body": True}
END: Message = {"type": "http.response.body", "body": b""}


def in_use(bulkhead: Bulkhead) -> int:
    return bulkhead.statistics().in_use


# -- permits -----------------------------------------------------------------------------------------------------------


def test_a_slot_is_held_until_the_last_part_was_sent_and_not_during_background_work(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (START, PART, END):
            await send(message)
            seen.append(in_use(bulkhead))
        await clock.asleep(5.0)

    assert served(ResilienceMiddleware(app, layers=[bulkhead]), clock).complete
    assert seen == [1, 1, 0]


def test_a_stream_of_events_holds_its_slot(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for _ in range(5):
            await send(PART)
            await clock.asleep(10.0)
        await send(END)

    app = ResilienceMiddleware(stream, layers=[bulkhead], timeout=1.0)

    async def main() -> list[Connection]:
        first, second = Connection(app), Connection(app)
        task = asyncio.ensure_future(first.serve())
        await clock.asleep(30.0)
        await second.serve()
        await task
        return [first, second]

    first, second = run(main(), clock)
    assert (first.status, second.status) == (200, 503)
    assert first.body == b"part" * 5
    assert in_use(bulkhead) == 0


@pytest.mark.parametrize(
    "error", [ValueError("app"), CircuitOpenError(), KeyboardInterrupt(), asyncio.CancelledError()]
)
@pytest.mark.parametrize("before", [[], [START], [START, PART], [START, END]])
def test_a_slot_comes_back_when_the_application_raises(
    clock: ManualClock, error: BaseException, before: list[Message]
) -> None:
    bulkhead = Bulkhead(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        raise error

    connection = Connection(ResilienceMiddleware(app, layers=[bulkhead], timeout=5.0))
    caught: list[BaseException] = []

    async def main() -> None:
        try:
            await connection.serve()
        except BaseException as raised:
            caught.append(raised)

    run(main(), clock)
    assert in_use(bulkhead) == 0
    rendered = isinstance(error, CircuitOpenError) and not before
    assert caught == ([] if rendered else [error])
    assert connection.kinds.count("http.response.start") == (1 if before or rendered else 0)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_slot_comes_back_when_send_raises_and_the_breaker_does_not_count_it(clock: ManualClock, at: int) -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker("app", failure_threshold=1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for number, message in enumerate((START, PART, END)):
            if number == at:
                connection.broken = OSError("gone")
            await send(message)

    connection = Connection(ResilienceMiddleware(app, layers=[breaker, bulkhead]))
    with pytest.raises(OSError, match="gone"):
        run(connection.serve(), clock)
    assert in_use(bulkhead) == 0
    assert breaker.statistics().failures == 0
    assert breaker.state.value == "closed"


def test_a_slot_comes_back_when_the_application_sends_nothing(clock: ManualClock) -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker("app", failure_threshold=9)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/half":
            await send(START)

    guarded = ResilienceMiddleware(app, layers=[breaker, bulkhead])
    for path in ("/", "/half"):
        served(guarded, clock, path=path)
    assert in_use(bulkhead) == 0
    assert breaker.statistics().failures == 2


def test_a_second_start_and_a_second_end_are_for_the_server_to_judge(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in scope["messages"]:
            await send(message)

    guarded = ResilienceMiddleware(app, layers=[bulkhead], timeout=5.0, body_timeout=5.0)
    for messages in ([START, START], [START, END, END], [END]):
        connection = Connection(guarded, messages=messages)
        with pytest.raises(RuntimeError):
            run(connection.serve(), clock)
        assert in_use(bulkhead) == 0


def test_layers_admitted_before_a_refusal_get_their_permits_back(clock: ManualClock) -> None:
    outer, inner = Bulkhead(5), RateLimiter(1, 60.0)
    breaker = CircuitBreaker("app", failure_threshold=1)
    app = ResilienceMiddleware(answering(), layers=[breaker, outer, inner])
    assert [served(app, clock).status for _ in range(3)] == [200, 429, 429]
    assert in_use(outer) == 0
    assert breaker.state.value == "closed"


@pytest.mark.parametrize("status,failures", [(200, 0), (404, 0), (499, 0), (500, 1), (503, 1)])
def test_a_status_of_500_and_above_is_a_failure(clock: ManualClock, status: int, failures: int) -> None:
    breakers: dict[str, Any] = {}
    plain = CircuitBreaker("plain", failure_threshold=9)
    keyed = Keyed(lambda path: breakers.setdefault(path, CircuitBreaker(path, failure_threshold=9)), path_key())
    served(ResilienceMiddleware(answering(b"", status), layers=[plain, keyed]), clock, path="/x")
    assert plain.statistics().failures == failures
    assert breakers["/x"].statistics().failures == failures


def test_layers_that_look_at_results_see_the_response(clock: ManualClock) -> None:
    seen: list[Any] = []

    def failed_login(outcome: Any) -> bool:
        seen.append(outcome)
        return isinstance(outcome, ResponseOutcome) and outcome.status == 401

    logins = RateLimiter(2, 60.0, charge_if=failed_login)
    for status in (200, 401, 500, 401):
        app = ResilienceMiddleware(answering(b"", status, [(b"x", b"y")]), layers=[logins])
        assert served(app, clock).status == status
    assert served(ResilienceMiddleware(answering(), layers=[logins]), clock).status == 429
    assert seen[0] == ResponseOutcome(200, [(b"x", b"y")])
    error = ValueError("app")
    clock.advance(60.0)
    with pytest.raises(ValueError):
        served(ResilienceMiddleware(raising(error), layers=[logins]), clock)
    assert seen[-1] is error


def test_a_response_that_was_not_completed_counts_as_a_failure_of_the_server(clock: ManualClock) -> None:
    seen: list[Any] = []

    def failed(outcome: Any) -> bool:
        seen.append(outcome)
        return True

    breaker = CircuitBreaker("app", failure_threshold=9, failure_if=failed)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)

    served(ResilienceMiddleware(app, layers=[breaker]), clock)
    assert [outcome.status for outcome in seen] == [500]


def test_a_request_without_a_key_is_not_guarded(clock: ManualClock) -> None:
    app = ResilienceMiddleware(
        answering(), layers=[RateLimiter(1, 60.0, key=lambda scope: None), Keyed(lambda _: Bulkhead(1), lambda _: None)]
    )
    assert [served(app, clock).status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("layer", [Timeout(1.0)])
def test_a_keyed_layer_cannot_smuggle_in_what_is_refused_plainly(clock: ManualClock, layer: Any) -> None:
    keyed = Keyed(lambda _: layer, path_key())
    with pytest.raises(TypeError, match="behind a Keyed neither"):
        served(ResilienceMiddleware(answering(), layers=[keyed]), clock)
    assert keyed.statistics().in_use == 0


@pytest.mark.parametrize(
    "messages",
    [
        [{"type": "http.response.pathsend", "path": "/x"}],
        [{"type": "http.response.zerocopysend", "file": 1, "more_body": True}, {"type": "http.response.zerocopysend"}],
    ],
)
def test_extensions_that_send_the_body_in_another_way_end_the_response(
    clock: ManualClock, messages: list[Message]
) -> None:
    bulkhead = Bulkhead(1)
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for message in messages:
            seen.append(in_use(bulkhead))
            await send(message)
        seen.append(in_use(bulkhead))

    served(ResilienceMiddleware(app, layers=[bulkhead]), clock)
    assert seen == [1] * len(messages) + [0]


def test_trailers_end_the_response_that_announced_them(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)
    seen: list[int] = []
    messages: list[Message] = [
        {**START, "trailers": True},
        {"type": "http.response.push", "path": "/x", "headers": []},
        PART,
        {"type": "http.response.zerocopysend", "file": 1},
        {"type": "http.response.trailers", "headers": [], "more_trailers": True},
        {"type": "http.response.trailers", "headers": []},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
            seen.append(in_use(bulkhead))

    served(ResilienceMiddleware(app, layers=[bulkhead]), clock)
    assert seen == [1, 1, 1, 1, 1, 0]


# -- the deadline ------------------------------------------------------------------------------------------------------


def test_a_request_without_an_answer_in_time_is_cut_off_with_504(clock: ManualClock) -> None:
    cancelled: list[bool] = []
    told: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await clock.asleep(60.0)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    bulkhead = Bulkhead(1)
    breaker = CircuitBreaker("app", failure_threshold=9)
    with subscribe(told.append, CallTimedOut):
        connection = served(ResilienceMiddleware(app, timeout=2.0, layers=[breaker, bulkhead]), clock)
    assert connection.status == 504
    assert cancelled == [True]
    assert clock.now() == pytest.approx(1002.0, abs=0.05)
    assert in_use(bulkhead) == 0
    assert breaker.statistics().failures == 1
    assert [(event.policy, event.timeout) for event in told] == [("request", 2.0)]


def test_the_deadline_ends_when_the_response_starts(clock: ManualClock) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(remaining())
        await send(START)
        seen.append(remaining())
        await clock.asleep(60.0)
        await send(END)

    assert served(ResilienceMiddleware(app, timeout=2.0), clock).complete
    assert seen == [2.0, None]


def test_background_work_of_a_finished_response_is_never_cancelled(clock: ManualClock) -> None:
    """Putting `asyncio.timeout` around an application cancels it."""
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send)
        connection.disconnect()
        await clock.asleep(60.0)
        done.append("background")

    guarded = ResilienceMiddleware(app, timeout=2.0, body_timeout=3.0, watch_after=0.5)
    connection = Connection(guarded, headers=[("x-request-timeout-ms", "900")])
    run(connection.serve(), clock)
    assert done == ["background"]


def test_the_deadline_ends_for_tasks_and_contexts_made_before_the_response_started(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        before = contextvars.copy_context()
        assert before.run(remaining) == 2.0
        task = asyncio.ensure_future(send(START))  # the response is started by another task
        await task
        assert before.run(remaining) is None
        await clock.asleep(60.0)
        await send(END)

    assert served(ResilienceMiddleware(app, timeout=2.0), clock).complete


def test_a_body_that_takes_too_long_aborts_the_connection(clock: ManualClock) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(1.0)
        await send(START)
        seen.append(remaining())
        while True:
            await send(PART)
            await clock.asleep(1.0)

    bulkhead = Bulkhead(1)
    for timeout in (2.0, None):
        began = clock.now()
        connection = Connection(
            ResilienceMiddleware(app, timeout=timeout, body_timeout=10.0, layers=[bulkhead], watch_after=None)
        )
        with pytest.raises(CallTimeoutError) as caught:
            run(connection.serve(), clock)
        assert caught.value.timeout == 10.0
        assert caught.value.policy == "request"
        assert clock.now() - began == pytest.approx(11.0, abs=0.3)
        assert connection.kinds.count("http.response.start") == 1
        assert not connection.complete
        assert in_use(bulkhead) == 0
    assert seen == [10.0, 10.0]


def test_a_body_in_time_is_not_cut_off_and_neither_is_what_follows(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await clock.asleep(5.0)
        await send(END)
        assert remaining() is None
        await clock.asleep(60.0)

    assert served(ResilienceMiddleware(app, body_timeout=10.0), clock).complete


def test_an_application_may_answer_its_own_cancellation(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await clock.asleep(60.0)
        except asyncio.CancelledError:
            await respond(send, b"sorry", 200)

    async def main() -> int:
        connection = Connection(ResilienceMiddleware(app, timeout=1.0))
        await connection.serve()
        assert connection.body == b"sorry"
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert run(main(), clock) == 0


def test_an_application_may_turn_its_cancellation_into_an_error(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await clock.asleep(60.0)
        except asyncio.CancelledError:
            raise ValueError("app") from None

    with pytest.raises(ValueError, match="app"):
        served(ResilienceMiddleware(app, timeout=1.0), clock)


def test_a_cancellation_by_the_server_is_nobodys_timeout(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(60.0)

    bulkhead = Bulkhead(1)
    for moment in (0.5, 1.0, 1.01):  # before the deadline, and with it
        connection = Connection(ResilienceMiddleware(app, timeout=1.0, layers=[bulkhead]))

        async def main(connection: Connection = connection, moment: float = moment) -> bool:
            task = asyncio.ensure_future(connection.serve())
            await clock.asleep(moment)
            task.cancel()
            await asyncio.wait([task])
            return task.cancelled()

        assert run(main(), clock)
        assert connection.sent == []
        assert in_use(bulkhead) == 0


def test_a_nearer_deadline_around_the_server_stays_in_force(clock: ManualClock) -> None:
    """As when a test calls the application in its own task."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(remaining())
        await send(START)
        seen.append(remaining())
        await send(END)

    async def main() -> None:
        for body_timeout in (None, 9.0):
            connection = Connection(ResilienceMiddleware(app, timeout=8.0, body_timeout=body_timeout))
            async with Timeout(5.0).guard():
                await connection.serve()
        assert deadline.remaining() is None

    run(main(), clock)
    assert seen == [5.0, 5.0, 5.0, 9.0]


def test_the_middleware_needs_a_task_of_asyncio(clock: ManualClock) -> None:
    app = ResilienceMiddleware(answering())
    with pytest.raises(RuntimeError, match="asyncio only"):
        Connection(app).serve().send(None)

    async def main() -> None:
        failed: list[BaseException] = []
        coroutine = Connection(app).serve()

        def step() -> None:
            try:
                coroutine.send(None)
            except RuntimeError as error:
                failed.append(error)

        asyncio.get_running_loop().call_soon(step)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert "inside a task" in str(failed[0])

    run(main(), clock)


# -- the client goes away ----------------------------------------------------------------------------------------------


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
    assert connection.sent == ([START] if start else [])


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
    assert connection.sent == [] or connection.status == 504


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


def asyncio_tasks_left() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0


# -- nothing is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [answering, lambda: raising(CircuitOpenError("db", 1.0)), lambda: raising(ValueError())]
)
def test_a_request_leaves_no_reference_cycle(clock: ManualClock, make: Callable[[], Any]) -> None:
    import gc

    app = ResilienceMiddleware(make(), layers=[Bulkhead(5), CircuitBreaker("app")], timeout=5.0, body_timeout=5.0)

    async def once() -> None:
        connection = Connection(app)
        try:
            await connection.serve()
        except ValueError:
            pass

    async def main() -> int:
        await once()
        gc.collect()
        gc.disable()
        try:
            await once()
            await asyncio.create_task(once())
            return gc.collect()
        finally:
            gc.enable()

    assert run(main(), clock) == 0
