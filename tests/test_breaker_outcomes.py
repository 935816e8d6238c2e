"""What counts as a failure of the dependency, what as a success, and what as neither."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallRejectedError,
    CallTimeoutError,
    CircuitBreaker,
    DeadlineExceededError,
    RateLimiter,
    ResilienceError,
    State,
    Timeout,
    Verdict,
)
from resilience.testing import ManualClock, run
from tests.conftest import Colour


def state(breaker: CircuitBreaker) -> State:
    """A function, because mypy takes a property that was compared once for unchanging."""
    return breaker.state


def raising(error: BaseException) -> Callable[[], Any]:
    def body() -> None:
        raise error

    return body


def outcome_of(colour: Colour, breaker: CircuitBreaker, error: BaseException) -> str:
    """How a probe counts that raises `error`: the circuit closes, opens, or has its place free again."""
    breaker.reset()
    opener = breaker.with_(failure_on=Exception, ignore=())
    opener.settle(opener.admit(), Verdict.FAILURE)
    assert state(breaker) is State.OPEN
    colour.clock.advance(5.0)
    with pytest.raises(type(error)) as caught:
        colour.guarded(breaker, raising(error))()
    assert caught.value is error
    if state(breaker) is State.OPEN:
        return "failure"
    assert state(breaker) is State.HALF_OPEN, "an error closed the circuit"
    assert breaker.statistics().probes == 0, "the permit leaked"
    assert breaker.statistics().retry_after is None
    return "neither"


def one_strike(**options: Any) -> CircuitBreaker:
    return CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1, jitter=0.0, **options)


# -- exceptions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options,error,counts",
    [
        ({}, ValueError(), "failure"),
        ({"failure_on": ConnectionError}, ConnectionResetError(), "failure"),
        ({"failure_on": ConnectionError}, ValueError(), "neither"),
        ({"failure_on": (ConnectionError, TimeoutError)}, TimeoutError(), "failure"),
        ({"failure_on": (ConnectionError, TimeoutError)}, OSError(), "neither"),
        ({"failure_on": lambda error: "down" in str(error)}, OSError("host down"), "failure"),
        ({"failure_on": lambda error: "down" in str(error)}, OSError("no such file"), "neither"),
        ({"ignore": FileNotFoundError}, FileNotFoundError(), "neither"),
        ({"ignore": FileNotFoundError}, OSError(), "failure"),
        ({"ignore": (KeyError, IndexError)}, IndexError(), "neither"),
        ({"ignore": lambda error: error.args == (404,)}, OSError(404), "neither"),
        ({"ignore": lambda error: error.args == (404,)}, OSError(503), "failure"),
        ({"failure_on": OSError, "ignore": FileNotFoundError}, FileNotFoundError(), "neither"),
        ({"failure_on": (), "failure_if": bool}, ValueError(), "neither"),
        # Not an answer of the dependency.
        ({}, KeyboardInterrupt(), "neither"),
        ({}, SystemExit(), "neither"),
        ({}, CallRejectedError("an inner layer"), "neither"),
        ({}, BulkheadFullError("an inner layer"), "neither"),
        ({}, DeadlineExceededError("an inner layer"), "neither"),
        ({"failure_on": ResilienceError}, BulkheadFullError(), "neither"),
        # An inner Timeout cut the call off: the dependency did not answer in time.
        ({}, CallTimeoutError("an inner layer"), "failure"),
        # Groups are what their leaves are.
        ({"failure_on": OSError}, ExceptionGroup("", [ValueError(), OSError()]), "failure"),
        ({"failure_on": OSError}, ExceptionGroup("", [ValueError(), KeyError()]), "neither"),
        ({"failure_on": OSError}, ExceptionGroup("", [ExceptionGroup("", [OSError()])]), "failure"),
        ({"ignore": OSError}, ExceptionGroup("", [OSError(), OSError()]), "neither"),
        ({}, ExceptionGroup("", [BulkheadFullError(), DeadlineExceededError()]), "neither"),
        ({}, BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]), "failure"),
        ({}, BaseExceptionGroup("", [KeyboardInterrupt()]), "neither"),
    ],
    ids=repr,
)
def test_an_error_counts_as_failure_only_if_it_speaks_of_the_dependency(
    colour: Colour, options: dict[str, Any], error: BaseException, counts: str
) -> None:
    """B7: `KeyboardInterrupt` was a failure in pybreaker, and an excluded exception a success in aiobreaker."""
    if colour.is_async and isinstance(error, (KeyboardInterrupt, SystemExit)):
        # asyncio lets these two out of the loop itself, past everybody who waits.
        breaker = one_strike(**options)
        with pytest.raises(type(error)):
            colour.guarded(breaker, raising(error))()
        assert breaker.statistics().calls == 0
        return
    assert outcome_of(colour, one_strike(**options), error) == counts


def test_an_ignored_error_neither_ends_nor_extends_a_streak(colour: Colour) -> None:
    """B7: an excluded exception counted as a success and reset the streak."""
    breaker = CircuitBreaker(failure_threshold=2, ignore=KeyError)
    for error in (OSError(), KeyError(), KeyError()):
        with pytest.raises(type(error)):
            colour.guarded(breaker, raising(error))()
    assert (breaker.statistics().streak, breaker.statistics().calls) == (1, 1)
    with pytest.raises(OSError):
        colour.guarded(breaker, raising(OSError()))()
    assert state(breaker) is State.OPEN


@pytest.mark.parametrize("parameter", ["failure_on", "ignore"])
def test_a_predicate_that_raises_leaks_no_permit(colour: Colour, parameter: str) -> None:
    def broken(error: Exception) -> bool:
        raise ZeroDivisionError

    breaker = one_strike()
    breaker.settle(breaker.admit(), Verdict.FAILURE)
    colour.clock.advance(5.0)
    with pytest.raises(ZeroDivisionError) as caught:
        colour.guarded(breaker.with_(**{parameter: broken}), raising(OSError()))()
    assert isinstance(caught.value.__context__, OSError)
    assert (state(breaker), breaker.statistics().probes) == (State.HALF_OPEN, 0)


def test_an_error_whose_retry_after_raises_still_counts(colour: Colour) -> None:
    """A property that raised kept the breaker from ever seeing the outcome, and its probe was lost."""

    class TrickyError(Exception):
        @property
        def retry_after(self) -> float:
            raise ZeroDivisionError

    breaker = one_strike()
    with pytest.raises(TrickyError):
        colour.guarded(breaker, raising(TrickyError()))()
    assert state(breaker) is State.OPEN


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_result_can_be_the_failure(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_threshold=2, failure_if=lambda status: status >= 500)
    guarded = colour.guarded(breaker, lambda status: status)
    assert [guarded(status) for status in (503, 200, 404, 503)] == [503, 200, 404, 503]
    assert (breaker.statistics().failures, breaker.statistics().streak) == (2, 1)
    assert guarded(500) == 500
    assert state(breaker) is State.OPEN


def test_without_failure_if_every_result_is_a_success(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    assert colour.guarded(breaker, lambda: 503)() == 503
    assert breaker.statistics().failures == 0


def test_a_failure_if_that_raises_leaks_no_permit(colour: Colour) -> None:
    def broken(result: object) -> bool:
        raise ZeroDivisionError

    breaker = one_strike(failure_if=broken)
    breaker.settle(breaker.admit(), Verdict.FAILURE)
    colour.clock.advance(5.0)
    with pytest.raises(ZeroDivisionError):
        colour.guarded(breaker, lambda: "answer")()
    assert (state(breaker), breaker.statistics().probes) == (State.HALF_OPEN, 0)


def test_a_good_result_is_not_asked_for_a_retry_after(colour: Colour) -> None:
    class Touchy:
        @property
        def retry_after(self) -> float:
            raise AssertionError("nobody should look")

    answer = Touchy()
    breaker = CircuitBreaker(failure_if=lambda result: False)
    assert colour.guarded(breaker, lambda: answer)() is answer
    assert breaker.statistics().calls == 1


# -- our own saturation ------------------------------------------------------------------------------------------------


def test_our_own_saturation_does_not_trip_the_breaker_of_a_healthy_dependency(colour: Colour) -> None:
    """B16: interlock and Polly #287 counted pool timeouts and full bulkheads as failures."""
    breaker = CircuitBreaker(failure_threshold=1)
    bulkhead, limiter = Bulkhead(1), RateLimiter(1, 60.0)
    held = bulkhead.admit()
    limiter.settle(limiter.admit())
    for inner in (bulkhead, limiter):
        guarded = colour.runner(breaker(inner(colour.function(lambda: "answer"))))
        with pytest.raises(CallRejectedError):
            guarded()
    bulkhead.settle(held)
    assert (state(breaker), breaker.statistics().calls) == (State.CLOSED, 0)


def test_waiting_for_our_own_slot_past_the_deadline_is_not_a_failure_of_the_dependency(colour: Colour) -> None:
    """B16: the call never left this process, whoever's deadline it was that ended the wait."""
    breaker, bulkhead = CircuitBreaker(failure_threshold=1), Bulkhead(1, max_queue=1)
    held = bulkhead.admit()
    guarded = Timeout(2.0)(breaker(bulkhead(colour.function(lambda: "answer"))))
    with pytest.raises(TimeoutError):
        colour.runner(guarded)()
    bulkhead.settle(held)
    assert (state(breaker), breaker.statistics().calls) == (State.CLOSED, 0)


def test_a_blocked_loop_does_not_trip_the_breaker_of_a_healthy_dependency(clock: ManualClock) -> None:
    """B16: the answer was there long before the time was up, but the loop was busy and saw both at once."""
    breaker = CircuitBreaker(failure_threshold=1)

    async def fetch() -> str:
        await asyncio.gather(clock.asleep(0.01))  # an answer that wakes one task, and that one the next
        return "answer"

    async def main() -> None:
        guarded = asyncio.ensure_future(breaker(Timeout(0.1)(fetch))())
        scoped = asyncio.ensure_future(within())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        clock.advance(0.3)  # somebody computes, or calls something that blocks
        assert [await guarded, await scoped] == ["answer", "answer"]

    async def within() -> str:
        async with breaker.guard(), Timeout(0.1).guard():
            return await fetch()

    run(main(), clock)
    assert (state(breaker), breaker.statistics().failures) == (State.CLOSED, 0)


def test_what_has_no_answer_when_a_blocked_loop_goes_on_is_cut_off_all_the_same(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    async def main() -> None:
        task = asyncio.ensure_future(breaker(Timeout(0.1)(asyncio.Event().wait))())
        await asyncio.sleep(0)
        clock.advance(0.3)
        before = clock.now()
        with pytest.raises(CallTimeoutError):
            await task
        assert clock.now() == before

    run(main(), clock)
    assert state(breaker) is State.OPEN


# -- cancellation ------------------------------------------------------------------------------------------------------


def test_a_call_cut_off_by_an_outer_timeout_of_ours_is_a_failure(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    @Timeout(2.0)
    @breaker
    async def hangs() -> None:
        await asyncio.Event().wait()

    with pytest.raises(CallTimeoutError):
        run(hangs(), clock)
    assert state(breaker) is State.OPEN


def test_a_call_cancelled_by_a_stranger_counts_as_nothing(clock: ManualClock) -> None:
    """B5: a caller that went away says nothing about the dependency."""
    breaker = one_strike()
    breaker.settle(breaker.admit(), Verdict.FAILURE)
    clock.advance(5.0)

    @Timeout(100.0)
    @breaker
    async def hangs() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.ensure_future(hangs())
        await asyncio.sleep(1.0)
        assert breaker.statistics().probes == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main(), clock)
    assert (state(breaker), breaker.statistics().probes) == (State.HALF_OPEN, 0)


def test_a_timeout_of_somebody_else_around_the_breaker_is_a_stranger(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    @breaker
    async def hangs() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await hangs()

    run(main(), clock)
    assert (state(breaker), breaker.statistics().calls) == (State.CLOSED, 0)


def test_a_timeout_inside_the_call_is_an_ordinary_failure(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    @breaker
    @Timeout(2.0)
    async def hangs() -> None:
        await asyncio.Event().wait()

    with pytest.raises(CallTimeoutError):
        run(hangs(), clock)
    assert state(breaker) is State.OPEN


def test_verdicts_on_errors_can_be_asked_for(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_on=OSError)
    assert breaker.judge(OSError()) is Verdict.FAILURE
    assert breaker.judge(KeyError()) is Verdict.ABANDONED
    assert breaker.judge(asyncio.CancelledError()) is Verdict.ABANDONED
    assert breaker.judge(GeneratorExit()) is Verdict.ABANDONED
