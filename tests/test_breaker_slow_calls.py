"""Slow calls: what is measured is the dependency, not the waits in our own layers."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tenacity import wait_fixed

from resilience import Bulkhead, CircuitBreaker, RateLimiter, Retry, State, Verdict
from resilience._wait import meter, metered, running_meter
from resilience.testing import ManualClock, run
from tests.conftest import Colour


def watched(limit: float = 1.0, **options: Any) -> CircuitBreaker:
    """A breaker that counts slow calls and never opens by itself."""
    return CircuitBreaker(slow_call_duration=limit, failure_rate=None, minimum_calls=10_000, **options)


def slow_calls(breaker: CircuitBreaker) -> tuple[int, int]:
    statistics = breaker.statistics()
    return statistics.slow, statistics.calls


def test_a_call_longer_than_the_limit_is_slow_and_one_of_just_that_length_is_not(colour: Colour) -> None:
    breaker = watched(1.0)
    guarded = colour.guarded(breaker, colour.sleep)
    guarded(1.0)
    assert slow_calls(breaker) == (0, 1)
    guarded(1.25)
    assert slow_calls(breaker) == (1, 2)


def test_enough_slow_calls_open_the_circuit(colour: Colour) -> None:
    breaker = CircuitBreaker(slow_call_duration=1.0, slow_call_rate=0.5, minimum_calls=4)
    guarded = colour.guarded(breaker, colour.sleep)
    states = []
    for seconds in (2.0, 0.0, 0.0, 0.0, 2.0, 2.0):
        guarded(seconds)
        states.append(breaker.state)
    assert states == [State.CLOSED] * 5 + [State.OPEN]  # 3 of 6


def test_failures_that_were_fast_do_not_count_for_the_slow_rate(colour: Colour) -> None:
    breaker = CircuitBreaker(slow_call_duration=1.0, slow_call_rate=0.75, failure_rate=None, minimum_calls=4)
    for seconds, error in ((0.0, OSError()), (0.0, OSError()), (0.0, OSError()), (2.0, None)):
        guard = breaker.guard()
        colour.enter(guard)
        colour.clock.advance(seconds)
        colour.exit(guard, error)
    statistics = breaker.statistics()
    assert (statistics.failures, statistics.slow, breaker.state) == (3, 1, State.CLOSED)


def test_slow_calls_wait_for_the_minimum_too(colour: Colour) -> None:
    breaker = CircuitBreaker(slow_call_duration=1.0, minimum_calls=3)
    guarded = colour.guarded(breaker, colour.sleep)
    guarded(2.0)
    guarded(2.0)
    before = breaker.state
    guarded(2.0)
    assert (before, breaker.state) == (State.CLOSED, State.OPEN)


def test_a_slow_failure_is_both(colour: Colour) -> None:
    breaker = watched(1.0)
    guard = breaker.guard()
    colour.enter(guard)
    colour.clock.advance(2.0)
    colour.exit(guard, OSError())
    statistics = breaker.statistics()
    assert (statistics.failures, statistics.slow, statistics.streak) == (1, 1, 1)


def test_without_a_limit_no_call_is_slow(colour: Colour) -> None:
    breaker = CircuitBreaker(slow_call_duration=1.0, slow_call_rate=0.01, minimum_calls=1).with_(
        slow_call_duration=None
    )
    colour.guarded(breaker, colour.sleep)(1e6)
    assert slow_calls(breaker) == (0, 1)


# -- the waits of inner layers -----------------------------------------------------------------------------------------


def test_waiting_for_the_rate_is_not_the_dependency_being_slow(colour: Colour) -> None:
    breaker, limiter = watched(1.0), RateLimiter(1, 10.0, max_wait=60.0)
    body = colour.function(colour.sleep)
    guarded = colour.runner(breaker(limiter(body)))
    guarded(0.0)
    guarded(0.75)  # waits 10 s first
    assert colour.clock.now() == pytest.approx(1010.75)
    assert slow_calls(breaker) == (0, 2)
    guarded(1.5)
    assert slow_calls(breaker) == (1, 3)


def test_backing_off_is_not_the_dependency_being_slow(colour: Colour) -> None:
    breaker = watched(1.0)
    outcomes = iter([OSError(), OSError(), None])

    def body() -> None:
        error = next(outcomes)
        if error is not None:
            raise error

    retried = Retry(OSError, attempts=3, wait=wait_fixed(20.0))(colour.function(body))
    colour.runner(breaker(retried))()
    assert colour.clock.now() == 1040.0
    assert slow_calls(breaker) == (0, 1)


def test_queueing_for_a_slot_is_not_the_dependency_being_slow(clock: ManualClock) -> None:
    breaker, bulkhead = watched(1.0), Bulkhead(1, max_queue=5)

    @breaker
    @bulkhead
    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        await asyncio.gather(work(0.75), work(0.75), work(0.75), work(1.5))

    run(main(), clock)
    assert slow_calls(breaker) == (1, 4)


def test_a_wait_counts_for_every_breaker_around_it_and_for_nobody_else(colour: Colour) -> None:
    outer, inner, beside = watched(1.0), watched(1.0), watched(1.0)
    limiter = RateLimiter(1, 10.0, max_wait=60.0)
    limiter.settle(limiter.admit())
    guarded_beside = beside(colour.function(colour.sleep))

    def body() -> Any:
        return guarded_beside(2.0)

    guarded = colour.runner(outer(inner(limiter(colour.function(body)))))
    guarded()
    assert colour.clock.now() == pytest.approx(1012.0)
    assert [slow_calls(breaker) for breaker in (outer, inner, beside)] == [(1, 1)] * 3
    limiter.reset()
    limiter.settle(limiter.admit())
    colour.runner(outer(inner(limiter(colour.function(lambda: None)))))()
    assert [slow_calls(breaker)[0] for breaker in (outer, inner)] == [1, 1]


# -- the meter stays where it belongs ----------------------------------------------------------------------------------


def consumers_wait(clock: ManualClock, seconds: float) -> None:
    """What a layer does that makes its caller wait."""
    clock.advance(seconds)
    metered(seconds)


def test_what_the_consumer_of_a_generator_waits_for_is_not_taken_from_the_call(clock: ManualClock) -> None:
    """The meter stayed in the consumer's context across `yield`, and its own waits hid that the call was slow."""
    breaker = watched(1.0)

    @breaker
    def rows() -> Iterator[int]:
        yield 1
        yield 2

    for _ in rows():
        assert meter.get() is None
        consumers_wait(clock, 5.0)
    assert slow_calls(breaker) == (1, 1)


def test_the_same_for_an_async_generator(clock: ManualClock) -> None:
    breaker = watched(1.0)

    @breaker
    async def rows() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def main() -> None:
        async for _ in rows():
            assert meter.get() is None
            consumers_wait(clock, 5.0)

    run(main(), clock)
    assert slow_calls(breaker) == (1, 1)


def test_what_a_generator_itself_waits_for_is_taken_from_its_call_and_from_those_around(clock: ManualClock) -> None:
    outer, breaker = watched(1.0), watched(1.0)

    @breaker
    def rows() -> Iterator[int]:
        consumers_wait(clock, 5.0)
        yield 1
        consumers_wait(clock, 5.0)

    @breaker
    async def async_rows() -> AsyncIterator[int]:
        consumers_wait(clock, 5.0)
        yield 1
        consumers_wait(clock, 5.0)

    async def collect() -> list[int]:
        return [row async for row in async_rows()]

    assert outer.call(lambda: list(rows())) == [1]
    assert run(outer.call(collect), clock) == [1]
    assert (slow_calls(outer), slow_calls(breaker)) == ((0, 2), (0, 2))


def test_a_generator_resumed_inside_other_calls_counts_for_each_only_while_it_runs_there(clock: ManualClock) -> None:
    breaker, first, second = watched(1.0), watched(1.0), watched(1.0)

    @breaker
    def rows() -> Iterator[int]:
        yield 1
        consumers_wait(clock, 5.0)
        yield 2

    stream = rows()
    first.call(next, stream)
    clock.advance(3.0)
    second.call(next, stream)
    assert list(stream) == []
    assert [slow_calls(each) for each in (breaker, first, second)] == [(1, 1), (0, 1), (0, 1)]


def test_a_generator_dropped_half_way_leaves_no_meter_behind(clock: ManualClock) -> None:
    breaker = watched(1.0)

    @breaker
    def rows() -> Iterator[int]:
        yield 1

    stream: Any = rows()
    next(stream)
    assert meter.get() is None
    contextvars.Context().run(lambda gone: gone.pop().close(), [stream])
    del stream
    gc.collect()
    assert meter.get() is None
    assert slow_calls(breaker) == (0, 0)


async def waits(clock: ManualClock, seconds: float) -> None:
    await clock.asleep(seconds)
    metered(seconds)


def returning_a_coroutine(clock: ManualClock, seconds: float) -> Any:
    return waits(clock, seconds)


def returning_a_future(clock: ManualClock, seconds: float) -> Any:
    return asyncio.ensure_future(waits(clock, seconds))


@pytest.mark.parametrize("fn", [returning_a_coroutine, returning_a_future])
def test_calls_whose_coroutines_run_at_the_same_time_have_a_meter_each(
    clock: ManualClock, fn: Callable[..., Any]
) -> None:
    """Each call took over the meter of the one before it, so one's wait was subtracted from all."""
    breaker = watched(1.0)
    guarded = breaker(fn)

    async def sleeper() -> None:
        await clock.asleep(3.0)

    async def main() -> None:
        together = [guarded(clock, 5.0), breaker(sleeper)(), guarded(clock, 5.0)]
        assert meter.get() is None
        await asyncio.gather(*together)
        assert meter.get() is None

    run(main(), clock)
    assert slow_calls(breaker) == (1, 3)


def test_a_coroutine_awaited_inside_another_call_adds_its_waits_there(clock: ManualClock) -> None:
    breaker, outer = watched(1.0), watched(1.0)
    pending = breaker(returning_a_coroutine)(clock, 5.0)

    @outer
    async def main() -> None:
        await pending

    run(main(), clock)
    assert (slow_calls(breaker), slow_calls(outer)) == ((0, 1), (0, 1))


def test_a_coroutine_that_is_never_awaited_gives_its_permit_back(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, slow_call_duration=1.0)
    breaker.settle(breaker.admit(), Verdict.FAILURE)
    clock.advance(100.0)
    inner = waits(clock, 1.0)
    pending = breaker.call(lambda: inner)
    assert breaker.statistics().probes == 1
    pending.close()
    del pending  # since Python 3.12, a coroutine closed before it began keeps its arguments for as long as it lives
    inner.close()
    assert breaker.statistics().probes == 0
    assert meter.get() is None


def test_a_plain_callable_whose_result_no_layer_can_follow_leaves_no_meter(clock: ManualClock) -> None:
    breaker = watched(1.0)
    with pytest.raises(TypeError):
        breaker.call(lambda: (number for number in [1]))
    assert meter.get() is None
    assert slow_calls(breaker) == (0, 0)


def test_calls_that_end_in_another_context_leave_no_growing_chain_of_meters(clock: ManualClock) -> None:
    """A permit may be settled elsewhere, for instance when a response body is closed; a meter per call stayed here."""
    breaker = watched(1.0)

    def session() -> int:
        for _ in range(100):
            permit = breaker.admit()
            contextvars.Context().run(breaker.settle, permit)
        length, chain = 0, meter.get()
        while chain is not None:
            length, chain = length + 1, chain.outer
        assert running_meter() is None
        return length

    assert contextvars.copy_context().run(session) == 1
    assert slow_calls(breaker) == (0, 100)


def test_calls_that_end_out_of_order_leave_no_meter(clock: ManualClock) -> None:
    breaker = watched(1.0)
    permits = [breaker.admit() for _ in range(4)]
    for place in (1, 3, 0, 2):
        consumers_wait(clock, 5.0)
        breaker.settle(permits[place])
    assert meter.get() is None
    assert slow_calls(breaker) == (0, 4)
