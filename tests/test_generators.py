"""Generators under a policy: admitted at the first step, settled when they end; early close counts for nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    Keyed,
    Layer,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Timeout,
    correlated,
    correlation_id,
)
from resilience.deadline import remaining
from resilience.testing import ManualClock, VirtualLoop, run

LAYERS: dict[str, Callable[[], Layer]] = {
    "bulkhead": lambda: Bulkhead(1),
    "breaker": lambda: CircuitBreaker(failure_threshold=1),
    "limiter": lambda: RateLimiter(1000),
    "timeout": lambda: Timeout(5.0),
    "retry": lambda: Retry(on=OSError),
    "correlated": lambda: correlated,
    "keyed": lambda: Keyed(lambda _: Bulkhead(1), key=lambda *_: "key"),
    "pipeline": lambda: Pipeline(correlated, Timeout(5.0), Retry(on=OSError), Bulkhead(1)),
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


class Log:
    """What a scripted generator lived to see."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def numbers(self) -> Generator[int, str, str]:
        """Yields 1, 2, 3; notes what is sent and thrown in; a ValueError is answered by -1."""
        try:
            for number in (1, 2, 3):
                try:
                    self.seen.append((yield number))
                except ValueError as error:
                    self.seen.append(error)
                    self.seen.append((yield -1))
            return "done"
        finally:
            self.seen.append("closed")

    async def anumbers(self) -> AsyncGenerator[int, str]:
        """The same, without a result."""
        try:
            for number in (1, 2, 3):
                await asyncio.sleep(0)
                try:
                    self.seen.append((yield number))
                except ValueError as error:
                    self.seen.append(error)
                    self.seen.append((yield -1))
        finally:
            await asyncio.sleep(0)
            self.seen.append("closed")


# -- what passes through a guarded generator ---------------------------------------------------------------------------


def converse(numbers: Generator[int, str, str], error: Exception) -> tuple[list[int], str]:
    items = [next(numbers), numbers.send("a"), numbers.throw(error), numbers.send("b")]
    with pytest.raises(StopIteration) as stop:
        numbers.send("c")
    return items, stop.value.value


@every_layer
def test_items_sent_values_thrown_errors_and_the_result_pass_through(make: Callable[[], Layer]) -> None:
    log, bare, error = Log(), Log(), ValueError()
    assert converse(make()(log.numbers)(), error) == ([1, 2, -1, 3], "done")
    assert converse(bare.numbers(), error) == ([1, 2, -1, 3], "done")
    assert log.seen == bare.seen == ["a", error, "b", "c", "closed"]


async def aconverse(numbers: AsyncGenerator[int, str], error: Exception) -> list[int]:
    items = [await anext(numbers), await numbers.asend("a"), await numbers.athrow(error), await numbers.asend("b")]
    with pytest.raises(StopAsyncIteration):
        await numbers.asend("c")
    return items


@every_layer
def test_the_same_passes_through_an_async_generator(make: Callable[[], Layer], clock: ManualClock) -> None:
    log, bare, error = Log(), Log(), ValueError()
    assert run(aconverse(make()(log.anumbers)(), error), clock) == [1, 2, -1, 3]
    assert run(aconverse(bare.anumbers(), error), clock) == [1, 2, -1, 3]
    assert log.seen == bare.seen == ["a", error, "b", "c", "closed"]


@every_layer
def test_an_error_of_the_generator_reaches_the_consumer_as_it_is(make: Callable[[], Layer], clock: ManualClock) -> None:
    error = ValueError()

    def fails() -> Iterator[int]:
        yield 1
        raise error

    async def afails() -> AsyncIterator[int]:
        yield 1
        raise error

    async def consume() -> None:
        guarded = make()(afails)()
        assert await anext(guarded) == 1
        with pytest.raises(ValueError) as caught:
            await anext(guarded)
        assert caught.value is error

    guarded = make()(fails)()
    assert next(guarded) == 1
    with pytest.raises(ValueError) as caught:
        next(guarded)
    assert caught.value is error
    run(consume(), clock)


@every_layer
def test_closing_closes_the_generator_inside(make: Callable[[], Layer], clock: ManualClock) -> None:
    log, alog = Log(), Log()
    numbers = make()(log.numbers)()
    next(numbers)
    numbers.close()
    assert log.seen == ["closed"]

    async def consume() -> None:
        numbers = make()(alog.anumbers)()
        await anext(numbers)
        await numbers.aclose()
        assert alog.seen == ["closed"]

    run(consume(), clock)


@every_layer
def test_nothing_stays_bound_in_the_consumer_between_two_items(make: Callable[[], Layer], clock: ManualClock) -> None:
    """OpenTelemetry held a context variable's token across `yield` (T6)."""
    log, alog = Log(), Log()

    def bound() -> tuple[Any, ...]:
        return (remaining(), correlation_id())

    first, second = make()(log.numbers)(), make()(log.numbers)()
    for numbers in (first, second):
        next(numbers)
        assert bound() == (None, None)
    first.close()  # not in the order of a stack
    second.close()

    async def consume() -> None:
        first, second = make()(alog.anumbers)(), make()(alog.anumbers)()
        for numbers in (first, second):
            await anext(numbers)
            assert bound() == (None, None)
        await first.aclose()
        await asyncio.create_task(second.aclose())
        assert bound() == (None, None)

    run(consume(), clock)


# -- when it is admitted and settled -----------------------------------------------------------------------------------


class Ending:
    """A generator under a bulkhead and a breaker, and what they say about it."""

    def __init__(self, body: Callable[[], Any]) -> None:
        self.bulkhead = Bulkhead(1)
        self.breaker = CircuitBreaker(minimum_calls=100)
        self.make = Pipeline(self.breaker, self.bulkhead)(body)

    def __eq__(self, other: object) -> bool:
        statistics = self.breaker.statistics()
        return (self.bulkhead.statistics().in_use, statistics.calls, statistics.failures) == other

    def __repr__(self) -> str:
        return f"{self.bulkhead.statistics().in_use} in use, {self.breaker.statistics()}"

    __hash__ = object.__hash__


IDLE, RUNNING, SUCCEEDED, FAILED = (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 1)


def test_a_generator_is_admitted_at_its_first_step_and_settled_at_its_end() -> None:
    ending = Ending(Log().numbers)
    numbers = ending.make()
    assert ending == IDLE
    next(numbers)
    assert ending == RUNNING
    with pytest.raises(BulkheadFullError):
        next(ending.make())
    list(numbers)
    assert ending == SUCCEEDED


def test_an_async_generator_is_admitted_at_its_first_step_and_settled_at_its_end(clock: ManualClock) -> None:
    ending = Ending(Log().anumbers)

    async def consume() -> None:
        numbers = ending.make()
        assert ending == IDLE
        await anext(numbers)
        assert ending == RUNNING
        with pytest.raises(BulkheadFullError):
            await anext(ending.make())
        assert [item async for item in numbers] == [2, 3]
        assert ending == SUCCEEDED

    run(consume(), clock)


def test_an_error_settles_a_generator_as_a_failure(clock: ManualClock) -> None:
    ending, aending = Ending(Log().numbers), Ending(Log().anumbers)
    numbers = ending.make()
    next(numbers)
    with pytest.raises(KeyError):
        numbers.throw(KeyError())

    async def consume() -> None:
        numbers = aending.make()
        await anext(numbers)
        with pytest.raises(KeyError):
            await numbers.athrow(KeyError())

    run(consume(), clock)
    assert ending == FAILED
    assert aending == FAILED


def test_a_generator_that_is_never_started_or_closed_early_counts_for_nothing(clock: ManualClock) -> None:
    ending, aending = Ending(Log().numbers), Ending(Log().anumbers)
    ending.make().close()
    numbers = ending.make()
    next(numbers)
    numbers.close()
    assert ending == IDLE

    async def consume() -> None:
        await aending.make().aclose()
        numbers = aending.make()
        await anext(numbers)
        await numbers.aclose()

    run(consume(), clock)
    assert aending == IDLE


def test_a_generator_that_is_dropped_gives_its_permit_back() -> None:
    log = Log()
    ending = Ending(log.numbers)
    numbers = ending.make()
    next(numbers)
    del numbers
    gc.collect()
    assert ending == IDLE
    assert log.seen == ["closed"]


def test_an_async_generator_dropped_in_a_loop_is_closed_by_the_loop(clock: ManualClock) -> None:
    log = Log()
    ending = Ending(log.anumbers)

    async def consume() -> None:
        async for _ in ending.make():
            break
        for _ in range(10):
            gc.collect()
            await asyncio.sleep(0)
        assert ending == IDLE

    run(consume(), clock)
    assert log.seen == ["closed"]


def test_an_async_generator_dropped_after_its_loop_has_closed_gives_its_permit_back(clock: ManualClock) -> None:
    async def endless() -> AsyncIterator[int]:
        while True:
            yield 1

    ending = Ending(endless)
    loop = VirtualLoop(clock)
    numbers: Any = ending.make()
    loop.run_until_complete(anext(numbers))
    loop.close()
    assert ending == RUNNING
    del numbers
    gc.collect()
    assert ending == IDLE


def test_the_outcome_of_a_generator_is_its_return_value() -> None:
    breaker = CircuitBreaker(failure_threshold=1, failure_if=lambda result: result == "done")
    list(breaker(Log().numbers)())
    assert breaker.state.value == "open"


class Judge:
    """What policies that look at results have seen; it finds all of it bad."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def __call__(self, result: object) -> bool:
        self.seen.append(result)
        return True


@pytest.mark.parametrize(
    "make",
    [
        lambda judge: CircuitBreaker(failure_threshold=9, failure_if=judge),
        lambda judge: CircuitBreaker(failure_threshold=9, failure_if=judge, slow_call_duration=1.0),
        lambda judge: RateLimiter(5, charge_if=judge),
        lambda judge: Keyed(lambda key: RateLimiter(5, charge_if=judge), key=lambda: "one"),
    ],
    ids=["breaker", "timed breaker", "limiter", "keyed"],
)
def test_an_async_generator_that_comes_to_its_end_has_the_outcome_none(make: Callable[[Judge], Policy]) -> None:
    """As a plain one has that returns nothing; what is closed early has no result at all."""

    async def scenario(judge: Judge) -> None:
        policy = make(judge)
        async for _ in policy(Log().anumbers)():
            assert judge.seen == []
        assert judge.seen == [None]
        early = policy(Log().anumbers)()
        await anext(early)
        await early.aclose()
        assert judge.seen == [None]

    run(scenario(Judge()))


def test_an_async_generator_outside_a_loop_is_refused_before_it_is_admitted() -> None:
    bulkhead = Bulkhead(1)
    with pytest.raises(RuntimeError, match="under asyncio only"):
        bulkhead(Log().anumbers)().__anext__().send(None)
    assert bulkhead.statistics().in_use == 0


def test_a_generator_waits_for_its_permit_at_the_first_step(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=1)

    async def scenario() -> list[int]:
        permit = bulkhead.admit()
        asyncio.get_running_loop().call_later(5.0, bulkhead.settle, permit)
        return [item async for item in bulkhead(Log().anumbers)()]

    assert run(scenario(), clock) == [1, 2, 3]
    assert clock.now() == 1005.0
    assert bulkhead.statistics().in_use == 0
