"""One breaker on every colour of function, as a decorator and as a guard."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

import pytest

from resilience import CircuitBreaker, CircuitOpenError, State, Verdict
from resilience.testing import ManualClock, run
from tests.conftest import Colour


def state(breaker: CircuitBreaker) -> State:
    """A function, because mypy takes a property that was compared once for unchanging."""
    return breaker.state


class CallableObject:
    def __call__(self, fails: bool) -> str:
        return play(fails)


class AsyncCallableObject:
    async def __call__(self, fails: bool) -> str:
        return play(fails)


def play(fails: bool) -> str:
    if fails:
        raise ConnectionError
    return "answer"


async def coroutine_function(fails: bool) -> str:
    await asyncio.sleep(1.0)
    return play(fails)


def generator_function(fails: bool) -> Iterator[str]:
    yield play(fails)


async def async_generator_function(fails: bool) -> AsyncIterator[str]:
    yield play(fails)


class Service:
    def method(self, fails: bool) -> str:
        return play(fails)


async def collect(stream: AsyncIterator[str]) -> str:
    return "".join([item async for item in stream])


async def awaited(function: Callable[[bool], Any], fails: bool) -> Any:
    return await function(fails)


def returning_a_coroutine(fails: bool) -> Any:
    return coroutine_function(fails)


def future_of(fails: bool) -> asyncio.Future[str]:
    return asyncio.ensure_future(coroutine_function(fails))


Use = Callable[[Callable[..., Any], bool, ManualClock], Any]
COLOURS: dict[str, tuple[Callable[..., Any], Use]] = {
    "function": (play, lambda fn, fails, clock: fn(fails)),
    "method": (Service().method, lambda fn, fails, clock: fn(fails)),
    "partial": (functools.partial(play), lambda fn, fails, clock: fn(fails)),
    "object": (CallableObject(), lambda fn, fails, clock: fn(fails)),
    "coroutine function": (coroutine_function, lambda fn, fails, clock: run(fn(fails), clock)),
    "async object": (AsyncCallableObject(), lambda fn, fails, clock: run(fn(fails), clock)),
    "function of a coroutine": (
        returning_a_coroutine,
        lambda fn, fails, clock: run(awaited(fn, fails), clock),
    ),
    "function of a future": (future_of, lambda fn, fails, clock: run(awaited(fn, fails), clock)),
    "generator function": (generator_function, lambda fn, fails, clock: "".join(fn(fails))),
    "async generator function": (async_generator_function, lambda fn, fails, clock: run(collect(fn(fails)), clock)),
}


@pytest.mark.parametrize("slow_call_duration", [None, 10.0], ids=["untimed", "timed"])
@pytest.mark.parametrize("colour", COLOURS)
def test_outcomes_count_on_every_colour_of_function(
    clock: ManualClock, colour: str, slow_call_duration: float | None
) -> None:
    """B14: decorating an `async def` or a generator did nothing in pybreaker #7, or recorded success too early."""
    fn, use = COLOURS[colour]
    breaker = CircuitBreaker(failure_threshold=2, slow_call_duration=slow_call_duration)
    guarded = breaker(fn)
    assert use(guarded, False, clock) == "answer"
    assert (breaker.statistics().calls, breaker.statistics().failures) == (1, 0)
    for failures in (1, 2):
        with pytest.raises(ConnectionError):
            use(guarded, True, clock)
        assert breaker.statistics().failures == failures
    assert state(breaker) is State.OPEN
    with pytest.raises(CircuitOpenError):
        use(guarded, False, clock)


@pytest.mark.parametrize("colour", [colour for colour in COLOURS if "generator" not in colour])
def test_results_are_judged_on_every_colour_that_has_one(clock: ManualClock, colour: str) -> None:
    fn, use = COLOURS[colour]
    breaker = CircuitBreaker(failure_threshold=1, failure_if=lambda result: result == "answer")
    assert use(breaker(fn), False, clock) == "answer"
    assert state(breaker) is State.OPEN


@pytest.mark.parametrize("slow_call_duration", [None, 10.0], ids=["untimed", "timed"])
def test_what_a_generator_returns_is_its_result(clock: ManualClock, slow_call_duration: float | None) -> None:
    def numbers(end: str) -> Generator[int, None, str]:
        yield 1
        return end

    breaker = CircuitBreaker(
        failure_threshold=1, failure_if=lambda result: result == "bad", slow_call_duration=slow_call_duration
    )
    guarded = breaker(numbers)
    assert list(guarded("good")) == [1]
    assert state(breaker) is State.CLOSED
    assert list(guarded("bad")) == [1]
    assert state(breaker) is State.OPEN


@pytest.mark.parametrize("slow_call_duration", [None, 10.0], ids=["untimed", "timed"])
def test_a_generator_passes_values_and_errors_in_and_out(clock: ManualClock, slow_call_duration: float | None) -> None:
    def echo() -> Generator[Any, Any, str]:
        got = yield "ready"
        try:
            yield got
        except KeyError:
            yield "caught"
        return "done"

    def consume() -> Generator[Any, Any, None]:
        end = yield from CircuitBreaker(slow_call_duration=slow_call_duration)(echo)()
        assert end == "done"

    stream = consume()
    assert next(stream) == "ready"
    assert stream.send("value") == "value"
    assert stream.throw(KeyError()) == "caught"
    assert list(stream) == []


@pytest.mark.parametrize("slow_call_duration", [None, 10.0], ids=["untimed", "timed"])
def test_a_generator_closed_early_counts_as_neither(clock: ManualClock, slow_call_duration: float | None) -> None:
    breaker = CircuitBreaker(failure_threshold=1, slow_call_duration=slow_call_duration)

    @breaker
    def endless() -> Generator[int, None, None]:
        while True:
            yield 1

    @breaker
    async def async_endless() -> AsyncGenerator[int, None]:
        while True:
            yield 1

    async def main() -> None:
        stream = async_endless()
        assert await anext(stream) == 1
        await stream.aclose()

    stream = endless()
    assert next(stream) == 1
    stream.close()
    run(main(), clock)
    assert (state(breaker), breaker.statistics().calls) == (State.CLOSED, 0)


def test_a_generator_never_started_was_never_admitted(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1)
    breaker.settle(breaker.admit(), Verdict.FAILURE)
    clock.advance(100.0)
    breaker(generator_function)(False)
    assert state(breaker) is State.OPEN


def test_a_probe_whose_generator_is_dropped_is_given_back(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1)
    breaker.settle(breaker.admit(), Verdict.FAILURE)
    clock.advance(100.0)
    stream = breaker(generator_function)(False)
    next(stream)
    assert breaker.statistics().probes == 1
    del stream
    gc.collect()
    assert breaker.statistics().probes == 0
    guard = breaker.guard()
    guard.__enter__()
    assert breaker.statistics().probes == 1
    del guard
    gc.collect()
    assert (state(breaker), breaker.statistics().probes) == (State.HALF_OPEN, 0)


# -- decorator and guard -----------------------------------------------------------------------------------------------

OUTCOMES: list[BaseException | str] = ["answer", "bad answer", OSError(), KeyError(), KeyboardInterrupt()]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=repr)
def test_decorator_and_guard_agree(colour: Colour, outcome: BaseException | str) -> None:
    """B15: the two faces of one breaker disagreed in hyx about what is a failure."""

    def breaker() -> CircuitBreaker:
        return CircuitBreaker(failure_threshold=2, ignore=KeyError, failure_if=lambda result: result == "bad answer")

    def body() -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    decorated, called, guarded, told = breaker(), breaker(), breaker(), breaker()
    for _ in range(3):
        uses: list[Callable[[], Any]] = [
            colour.guarded(decorated, body),
            lambda: colour.run(called.call(colour.function(body))),
        ]
        for use in uses:
            try:
                use()
            except (OSError, KeyError, KeyboardInterrupt, CircuitOpenError):
                continue
        guard, told_guard = guarded.guard(), told.guard()
        try:
            colour.enter(guard)
            colour.enter(told_guard)
        except CircuitOpenError:
            continue
        if isinstance(outcome, BaseException):
            told_guard.fail(outcome)
            colour.exit(told_guard)
            colour.exit(guard, outcome)
        else:
            for one in (guard, told_guard):
                one.outcome(outcome)
                colour.exit(one)
    states = {(state(b), *vars_of(b)) for b in (decorated, called, guarded, told)}
    assert len(states) == 1


def vars_of(breaker: CircuitBreaker) -> tuple[int, int, int]:
    statistics = breaker.statistics()
    return statistics.calls, statistics.failures, statistics.streak


def test_a_refused_guard_settles_nothing(colour: Colour) -> None:
    breaker = CircuitBreaker()
    breaker.isolate()
    guard = breaker.guard()
    with pytest.raises(CircuitOpenError):
        colour.enter(guard)
    breaker.reset()
    colour.exit(guard)
    assert breaker.statistics().calls == 0
