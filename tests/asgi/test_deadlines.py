"""The deadline of a request: until the response starts, and then for its body."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any

import pytest
from resilience_asgi import ResilienceMiddleware
from resilience_asgi.protocol import Message, Receive, Scope, Send

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
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


def test_what_was_cut_off_once_is_not_cut_off_again(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await clock.asleep(60.0)
        except asyncio.CancelledError:
            await send(START)
            await clock.asleep(60.0)
            await send(END)

    async def main() -> None:
        connection = Connection(ResilienceMiddleware(app, timeout=1.0, body_timeout=5.0))
        await connection.serve()
        assert connection.complete
        assert deadline.current() is None

    run(main(), clock)


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


def test_a_start_after_the_end_arms_nothing(clock: ManualClock) -> None:
    """The server is one that drops such messages, as servers do once the client has gone."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(END)
        await send(START)

    async def drop(message: Message) -> None: ...

    async def main() -> None:
        connection = Connection(app)
        for timeout in (5.0, None):
            guarded = ResilienceMiddleware(app, timeout=timeout, body_timeout=1.0)
            await guarded(connection.scope, connection.receive, drop)
            await asyncio.sleep(10.0)

    run(main(), clock)  # and is not cancelled in its sleep
    assert clock.now() == 1020.0


def test_nothing_of_a_deadline_is_left_behind(clock: ManualClock) -> None:
    async def main() -> None:
        for app in (answering(), raising(BulkheadFullError("db"))):
            await Connection(ResilienceMiddleware(app, timeout=8.0)).serve()
            assert deadline.current() is None

    run(main(), clock)


def test_the_deadline_of_an_impatient_client_is_kept_to_its_own_precision(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(60.0)

    headers = [("x-request-timeout-ms", "500")]
    assert served(ResilienceMiddleware(app, timeout=3600.0), clock, headers=headers).status == 504
    assert clock.now() == pytest.approx(1000.5, abs=0.02)


@pytest.mark.parametrize(
    "timeout,headers", [(2.0, []), (10.0, [("x-request-timeout-ms", "2000")]), (None, [("grpc-timeout", "2S")])]
)
def test_a_deadline_inside_a_later_one_ends_the_request_and_leaves_the_later_one(
    clock: ManualClock, timeout: float | None, headers: list[tuple[str, str]]
) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(remaining())
        await clock.asleep(60.0)

    connection = Connection(ResilienceMiddleware(app, timeout=timeout), headers=headers)

    async def main() -> None:
        async with Timeout(20.0).guard():
            await connection.serve()
            seen.append(remaining())

    run(main(), clock)
    assert connection.status == 504
    assert seen == [2.0, pytest.approx(18.0, abs=0.05)]


@pytest.mark.parametrize("timeout", [5.0, None])
def test_a_request_in_a_task_of_its_own_ends_by_the_deadline_around_its_parent(
    clock: ManualClock, timeout: float | None
) -> None:
    """The owner of that deadline cancels the parent, so the request guards the instant as well."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(60.0)

    connection = Connection(ResilienceMiddleware(app, timeout=timeout, body_timeout=9.0))

    async def main() -> None:
        tasks: list[asyncio.Future[None]] = []
        with pytest.raises(CallTimeoutError, match="outer"):
            async with Timeout(1.0, name="outer").guard():
                tasks.append(asyncio.ensure_future(connection.serve()))
                await asyncio.shield(tasks[0])
        await tasks[0]
        assert clock.now() == pytest.approx(1001.0, abs=0.05)

    run(main(), clock)
    assert connection.status == 504


def test_a_request_that_is_finalised_in_another_context_ends_quietly(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.get_running_loop().create_future()

    coroutine = Connection(ResilienceMiddleware(app, timeout=5.0)).serve()

    async def main() -> None:
        contextvars.copy_context().run(coroutine.send, None)
        coroutine.close()

    run(main(), clock)


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


# -- a start that was never sent ---------------------------------------------------------------------------------------


async def cancelled_by_a_sibling(send: Send) -> None:
    start: Any = send(START)
    async with asyncio.TaskGroup() as group:
        group.create_task(start)
        raise BulkheadFullError("db")


async def given_up_at_once(send: Send) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(send(START), 0.0)
    await asyncio.sleep(60.0)


@pytest.mark.parametrize("begin,status", [(cancelled_by_a_sibling, 503), (given_up_at_once, 504)])
def test_a_response_whose_start_was_never_sent_has_not_started(
    clock: ManualClock, begin: Callable[[Send], Any], status: int
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await begin(send)

    assert served(ResilienceMiddleware(app, timeout=2.0), clock).status == status


@pytest.mark.parametrize("shielded", [True, False])
def test_a_timeout_that_was_held_back_until_the_response_started_does_not_end_its_body(
    clock: ManualClock, shielded: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with deadline.shield():
            await asyncio.sleep(3.0)
            if shielded:
                await send(START)
        if not shielded:
            await send(START)  # in the turn of the loop in which the shield has ended
        await asyncio.sleep(1.0)
        await send(END)

    assert served(ResilienceMiddleware(app, timeout=2.0, body_timeout=5.0), clock).complete
