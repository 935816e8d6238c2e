"""Timeouts: what each of them covers, whose they are, and what is raised when they are over."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
import tenacity

from resilience import (
    Bulkhead,
    CallTimedOut,
    CallTimeoutError,
    DeadlineExceededError,
    RateLimiter,
    Retry,
    Timeout,
    remaining,
)
from resilience._wait import Wait
from resilience.clock import turn
from resilience.testing import recorded_events
from tests.http.scripted import ORIGIN, URL, Answer, Kit


def phases(request: Any) -> dict[str, float | None]:
    timeouts: dict[str, float | None] = request.extensions["timeout"]
    return timeouts


def test_an_attempt_that_takes_too_long_is_cut_off_and_the_next_one_may_succeed(kit: Kit) -> None:
    if not kit.colour.is_async:
        return  # a plain thread cannot be interrupted; there the phase timeouts do the work
    server = kit.server(Answer(200, "late", after=20.0), Answer(200, "in time"))
    assert kit.request(kit.transport(server)).text == "in time"
    assert 1010.0 <= kit.clock.now() <= 1010.5


def test_attempts_that_all_take_too_long_raise_an_error_that_is_both(kit: Kit) -> None:
    if not kit.colour.is_async:
        return
    transport = kit.transport(kit.server(Answer(200, after=20.0)), attempt_timeout=2.0)
    with pytest.raises(kit.package.HTTPCallTimeoutError) as caught, recorded_events(CallTimedOut) as events:
        kit.request(transport)
    assert str(caught.value.request.url) == URL
    assert isinstance(caught.value, CallTimeoutError)
    assert isinstance(caught.value, kit.library.TimeoutException)
    assert (caught.value.policy, caught.value.timeout) == ("attempt timeout", 2.0)
    assert len(caught.value.__notes__) == 3
    assert len(events) == 3
    assert transport.breaker(ORIGIN).statistics().failures == 3
    assert transport.statistics().in_use == 0


def test_a_post_that_was_cut_off_is_not_sent_again(kit: Kit) -> None:
    if not kit.colour.is_async:
        return
    server = kit.server(Answer(200, after=20.0))
    with pytest.raises(kit.package.HTTPCallTimeoutError):
        kit.request(kit.transport(server), "POST")
    assert len(server.requests) == 1


def test_the_whole_request_has_a_limit_that_covers_all_attempts(kit: Kit) -> None:
    if not kit.colour.is_async:
        return
    server = kit.server(Answer(200, after=20.0))
    with pytest.raises(kit.package.HTTPCallTimeoutError) as caught:
        kit.request(kit.transport(server, timeout=15.0))
    assert (caught.value.policy, caught.value.timeout) == ("request timeout", 15.0)
    assert len(server.requests) == 2
    assert 1015.0 <= kit.clock.now() <= 1015.4


def test_a_body_that_comes_too_slowly_is_cut_off(kit: Kit) -> None:
    transport = kit.transport(kit.server(Answer(200, "a", 4.0, "b", 4.0, "c", 4.0, "d")), timeout=10.0)
    response = kit.open(transport)
    with pytest.raises(kit.package.HTTPCallTimeoutError) as caught:
        kit.read(response)
    assert (caught.value.policy, caught.value.timeout) == ("request timeout", 10.0)
    # A thread notices between two chunks, a task at once.
    assert kit.clock.now() == pytest.approx(1010.0 if kit.colour.is_async else 1012.0, abs=0.3)
    kit.close(response)
    assert transport.breaker(ORIGIN).statistics().failures == 1
    assert transport.statistics().in_use == 0


def test_a_body_that_is_in_time_is_read_to_its_end(kit: Kit) -> None:
    response = kit.request(kit.transport(kit.server(Answer(200, "a", 4.0, "b", 4.0, "c"))))
    assert response.text == "abc"


def test_the_time_of_the_consumer_counts_too(kit: Kit) -> None:
    response = kit.open(kit.transport(kit.server(Answer(200, "a"))))
    kit.clock.advance(31.0)
    with pytest.raises(kit.package.HTTPCallTimeoutError):
        kit.read(response)


def test_the_attempt_timeout_ends_with_the_headers(kit: Kit) -> None:
    server = kit.server(Answer(200, "a", 15.0, "b"))
    assert kit.request(kit.transport(server)).text == "ab"


def test_a_long_stream_can_be_freed(kit: Kit) -> None:
    server = kit.server(Answer(200, "a", 3600.0, "b"))
    assert kit.request(kit.transport(server), extensions={"resilience": {"timeout": None}}).text == "ab"


def test_a_freed_stream_still_honours_the_deadline_around_it(kit: Kit) -> None:
    client = kit.client(kit.transport(kit.server(Answer(200, "a", 50.0, "b", 50.0, "c"))))
    extensions = {"resilience": {"timeout": None}}
    with pytest.raises(CallTimeoutError) as caught:
        kit.under(Timeout(60.0, name="outer"), lambda: client.get(URL, extensions=extensions))
    assert caught.value.policy == "outer"


def test_a_request_may_have_timeouts_of_its_own(kit: Kit) -> None:
    server = kit.server(Answer(200, "a"))
    transport = kit.transport(server)
    kit.request(transport, extensions={"resilience": {"timeout": 2.0, "attempt_timeout": 0.5}})
    kit.request(transport, extensions={"resilience": {"timeout": 3.0, "attempt_timeout": None}})
    assert max(seconds or 0 for seconds in server.phases[0].values()) == 0.5
    assert max(seconds or 0 for seconds in server.phases[1].values()) == pytest.approx(3.0)


# --- the library's own timeouts --------------------------------------------------------------------------------------


def test_the_phases_are_cut_to_what_is_left(kit: Kit) -> None:
    server = kit.server(Answer(200))
    timeout = kit.library.Timeout(connect=1.0, read=60.0, write=None, pool=5.0)
    client = kit.client(kit.transport(server), timeout=timeout)
    kit.colour.run(client.get(URL))
    assert server.phases[0] == {"connect": 1.0, "read": 10.0, "write": 10.0, "pool": 5.0}


def test_without_limits_of_ours_the_phases_are_left_alone(kit: Kit) -> None:
    server = kit.server(Answer(200))
    client = kit.client(kit.transport(server, timeout=None, attempt_timeout=None), timeout=None)
    kit.colour.run(client.get(URL))
    assert set(server.phases[0].values()) == {None}


def test_a_request_without_timeouts_gets_ours(kit: Kit) -> None:
    """One that was made by hand has none at all."""
    server = kit.server(Answer(200))
    transport = kit.transport(server, propagate=False)
    request = kit.library.Request("GET", URL)
    kit.colour.run(
        transport.handle_async_request(request) if kit.colour.is_async else transport.handle_request(request)
    )
    assert server.phases[0] == {"connect": 10.0, "read": 10.0, "write": 10.0, "pool": 10.0}
    assert "timeout" not in request.extensions


def test_a_phase_is_never_cut_to_nothing_at_all(kit: Kit) -> None:
    """To a socket 0 means "do not wait", which is another error."""
    from resilience_http._propagation import clamped_timeouts

    assert clamped_timeouts({"read": 5.0}, 0.0) == {"connect": 0.001, "read": 0.001, "write": 0.001, "pool": 0.001}


def test_a_timeout_of_the_library_that_ours_has_cut_short_is_ours(kit: Kit) -> None:
    def at_the_deadline(request: Any) -> Any:
        kit.clock.advance(phases(request)["read"] or 0.0)
        return kit.error("ReadTimeout")

    transport = kit.transport(kit.server(at_the_deadline), timeout=4.0)
    with pytest.raises(kit.package.HTTPCallTimeoutError) as caught:
        kit.request(transport, timeout=30.0)
    assert caught.value.timeout == 4.0
    assert isinstance(caught.value.__cause__, kit.library.ReadTimeout)
    assert transport.breaker(ORIGIN).statistics().failures == 1


def test_a_wait_for_a_connection_that_was_cut_short_is_still_no_failure_of_the_server(kit: Kit) -> None:
    def at_the_deadline(request: Any) -> Any:
        kit.clock.advance(4.0)
        return kit.error("PoolTimeout")

    transport = kit.transport(kit.server(at_the_deadline), timeout=4.0)
    with pytest.raises(kit.library.PoolTimeout):
        kit.request(transport)
    assert transport.breaker(ORIGIN).statistics().failures == 0


# --- deadlines around ------------------------------------------------------------------------------------------------


def test_the_nearer_deadline_counts_and_its_owner_is_named(kit: Kit) -> None:
    server = kit.server(Answer(200, "a", 4.0, "b", 4.0, "c"))
    client = kit.client(kit.transport(server))
    with pytest.raises(CallTimeoutError) as caught:
        kit.under(Timeout(6.0, name="outer"), lambda: client.get(URL))
    assert caught.value.policy == "outer"
    assert server.phases[0]["read"] == 5.0  # the client's own, which is nearer
    assert kit.clock.now() <= 1008.0


def test_inside_the_inner_transport_the_deadline_of_the_attempt_is_known(kit: Kit) -> None:
    seen: list[float | None] = []

    def note(request: Any) -> Answer:
        seen.append(remaining())
        return Answer(200)

    transport = kit.transport(kit.server(note))
    kit.request(transport)
    assert seen == [10.0]
    assert remaining() is None


def test_with_no_time_left_nothing_is_sent(kit: Kit) -> None:
    server = kit.server(Answer(200))
    transport = kit.transport(server)

    def late() -> Any:
        kit.clock.advance(5.0)
        return kit.client(transport).get(URL)

    with pytest.raises(DeadlineExceededError) as caught:
        kit.under(Timeout(5.0), late)
    assert server.requests == []
    if not kit.colour.is_async:  # a task is cancelled by the owner of the deadline
        error: Any = caught.value
        assert str(error.request.url) == URL
        assert isinstance(caught.value, kit.package.HTTPDeadlineExceededError)
        assert isinstance(caught.value, kit.library.TimeoutException)


def test_an_attempt_has_its_full_time_after_a_wait_for_the_rate(kit: Kit) -> None:
    seen: list[float | None] = []

    def noted(request: Any) -> Answer:
        seen.append(remaining())
        return Answer(200)

    limiter = RateLimiter(1, 4.0, max_wait=30.0)
    transport = kit.transport(kit.server(noted), rate_limiter=limiter)
    for _ in range(2):
        kit.request(transport)
    assert seen == [10.0, pytest.approx(10.0)]
    assert kit.clock.now() == pytest.approx(1004.0, abs=0.01)


def test_an_attempt_has_its_full_time_after_another_one(kit: Kit) -> None:
    seen: list[float | None] = []

    def noted(request: Any) -> Answer:
        seen.append(remaining())
        return Answer(503 if len(seen) < 3 else 200)

    retry = Retry(kit.library.TransportError, wait=tenacity.wait_fixed(4.0))
    kit.request(kit.transport(kit.server(noted), retry=retry))
    assert seen == [10.0, pytest.approx(10.0), pytest.approx(10.0)]


def test_an_attempt_has_its_full_time_after_a_wait_for_a_slot(kit: Kit) -> None:
    seen: list[float | None] = []

    def noted(request: Any) -> Answer:
        seen.append(remaining())
        return Answer(200)

    class Slow(Bulkhead):
        def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
            return Wait(self, super().admit(args, kwargs), 4.0)

    kit.request(kit.transport(kit.server(noted), bulkhead=lambda origin: Slow(1)))
    assert seen == [pytest.approx(10.0)]
    assert kit.clock.now() == pytest.approx(1004.0, abs=0.01)


def test_time_that_runs_out_before_an_attempt_is_a_refusal(kit: Kit) -> None:
    server = kit.server(kit.error("ReadError"), Answer(200))
    transport = kit.transport(server, timeout=5.0, retry=Retry(kit.library.ReadError, before_retry=slow(kit)))
    with pytest.raises(kit.package.HTTPDeadlineExceededError):
        kit.request(transport)
    assert len(server.requests) == 1
    assert transport.statistics().in_use == 0
    assert transport.breaker(ORIGIN).statistics().failures == 1


def slow(kit: Kit) -> Any:
    return lambda: kit.clock.advance(6.0)


def test_a_slot_is_waited_for_no_longer_than_the_deadline(kit: Kit) -> None:
    from resilience import Bulkhead

    server = kit.server(Answer(200, "x"))
    transport = kit.transport(server, timeout=5.0, bulkhead=lambda origin: Bulkhead(1, max_queue=1))
    response = kit.open(transport)
    with pytest.raises(kit.package.HTTPDeadlineExceededError):
        kit.request(transport)
    assert kit.clock.now() == pytest.approx(1005.0, abs=0.2)
    kit.close(response)


def test_a_result_that_comes_in_spite_of_the_cancellation_counts_and_the_task_is_not_cancelled(kit: Kit) -> None:
    """Something inside swallowed our cancellation and had its answer after all."""
    if not kit.colour.is_async:
        return

    class Stubborn(kit.library.AsyncBaseTransport):  # type: ignore[name-defined,misc]
        async def handle_async_request(self, request: Any) -> Any:
            with contextlib.suppress(asyncio.CancelledError):
                await kit.clock.asleep(50.0)
            await turn()

            class Body(kit.library.AsyncByteStream):  # type: ignore[name-defined,misc]
                async def __aiter__(self) -> Any:
                    with contextlib.suppress(asyncio.CancelledError):
                        await kit.clock.asleep(50.0)
                    await turn()
                    yield b"late"

            return kit.library.Response(200, stream=Body())

    async def scenario() -> int:
        transport = kit.transport(Stubborn())
        response = await transport.handle_async_request(kit.library.Request("GET", URL))
        chunks = response.stream.__aiter__()
        assert await anext(chunks) == b"late"
        with pytest.raises(kit.package.HTTPCallTimeoutError):
            await anext(chunks)
        await response.aclose()
        assert transport.statistics().in_use == 0
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert kit.colour.run(scenario()) == 0


def test_without_a_task_there_is_no_timeout_and_a_clear_error(kit: Kit) -> None:
    coroutine = kit.transport(kit.server(Answer(200))).handle_async_request(kit.library.Request("GET", URL))
    with pytest.raises(RuntimeError, match="asyncio"):
        coroutine.send(None)


@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_stranger_who_cancels_in_the_same_moment_is_not_taken_for_us(kit: Kit, where: str, first: str) -> None:
    if not kit.colour.is_async:
        return

    async def both_cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        wait = asyncio.get_running_loop().create_future()
        if first == "ours":  # before the task has noticed that our deadline has cancelled what it waits for
            wait.add_done_callback(lambda _: task.cancel())
        else:
            kit.clock.advance(31.0)  # our deadline is due in this turn of the loop
            task.cancel()
        await wait

    class Doomed(kit.library.AsyncBaseTransport):  # type: ignore[name-defined,misc]
        async def handle_async_request(self, request: Any) -> Any:
            if where == "headers":
                await both_cancel()

            class Body(kit.library.AsyncByteStream):  # type: ignore[name-defined,misc]
                async def __aiter__(self) -> Any:
                    await both_cancel()
                    yield b""

            return kit.library.Response(200, stream=Body())

    transport = kit.transport(Doomed(), retry=None)

    async def scenario() -> int:
        with pytest.raises(asyncio.CancelledError):
            await kit.client(transport).get(URL)
        task = asyncio.current_task()
        assert task is not None
        return task.uncancel()

    assert kit.colour.run(scenario()) == 0
    assert transport.statistics().in_use == 0
