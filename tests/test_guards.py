"""Guards: one call as a block. Entered once, settled once, and given back if its owner loses it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, RateLimiter
from resilience._machine import SUCCESS, Verdict
from resilience.testing import ManualClock, run
from tests.conftest import Colour


def judged(breaker: CircuitBreaker) -> tuple[int, int]:
    statistics = breaker.statistics()
    return statistics.calls, statistics.failures


def test_a_guard_holds_the_permit_for_the_length_of_the_block(colour: Colour) -> None:
    bulkhead = Bulkhead(1)
    guard = bulkhead.guard()
    assert bulkhead.statistics().in_use == 0
    assert colour.enter(guard) is guard
    assert bulkhead.statistics().in_use == 1
    with pytest.raises(BulkheadFullError):
        colour.enter(bulkhead.guard())
    assert colour.exit(guard) is None
    assert bulkhead.statistics().in_use == 0


def test_an_exception_leaves_the_block_and_is_judged(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=100, ignore=KeyError)
    for error, verdict in ((ValueError(), (1, 1)), (KeyError(), (1, 1)), (None, (2, 1))):
        guard = breaker.guard()
        colour.enter(guard)
        assert not colour.exit(guard, error)
        assert judged(breaker) == verdict


def test_a_guard_is_entered_once(colour: Colour) -> None:
    bulkhead = Bulkhead(5)
    guard = bulkhead.guard()
    colour.enter(guard)
    with pytest.raises(RuntimeError, match="entered already"):
        colour.enter(guard)
    colour.exit(guard)
    with pytest.raises(RuntimeError, match="entered already"):
        colour.enter(guard)
    assert bulkhead.statistics().in_use == 0


def test_a_guard_settles_once(colour: Colour) -> None:
    bulkhead = Bulkhead(5)
    others = [bulkhead.admit(), bulkhead.admit()]
    guard = bulkhead.guard()
    colour.enter(guard)
    for _ in range(3):
        colour.exit(guard)
    del guard
    gc.collect()
    assert bulkhead.statistics().in_use == len(others)


def test_a_guard_that_was_refused_has_nothing_to_give_back(colour: Colour) -> None:
    class Recording(Bulkhead):
        settled = 0

        def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
            self.settled += 1

    bulkhead = Recording(1)
    bulkhead.admit()
    guard = bulkhead.guard()
    with pytest.raises(BulkheadFullError):
        colour.enter(guard)
    colour.exit(guard)
    del guard
    gc.collect()
    assert bulkhead.settled == 0


def test_an_outcome_seen_by_hand_counts_as_the_calls(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=100)
    guard = breaker.guard()
    colour.enter(guard)
    guard.fail(ValueError())
    colour.exit(guard)
    assert judged(breaker) == (1, 1)


def test_what_leaves_the_block_outweighs_what_was_told(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=100, ignore=KeyError)
    guard = breaker.guard()
    colour.enter(guard)
    guard.fail(ValueError())
    colour.exit(guard, KeyError())
    assert judged(breaker) == (0, 0)


def test_only_exceptions_can_be_told() -> None:
    guard: Any = CircuitBreaker().guard()
    with pytest.raises(TypeError, match=r"guard.fail\(\) takes an exception, not 'oh'"):
        guard.fail("oh")
    with pytest.raises(TypeError, match="takes an exception"):
        guard.fail(ValueError)


def test_a_result_shown_to_the_guard_is_judged(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=100, failure_if=lambda result: result is None)
    for result, verdict in ((None, (1, 1)), (7, (2, 1))):
        guard = breaker.guard()
        colour.enter(guard)
        guard.outcome(result)
        colour.exit(guard)
        assert judged(breaker) == verdict


def test_a_block_that_shows_no_result_is_a_success(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=100, failure_if=lambda _: True)
    guard = breaker.guard()
    colour.enter(guard)
    colour.exit(guard)
    assert judged(breaker) == (1, 0)


def test_a_result_does_not_matter_to_a_policy_that_judges_none(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=100)
    guard = breaker.guard()
    colour.enter(guard)
    guard.outcome(ValueError())
    colour.exit(guard)
    assert judged(breaker) == (1, 0)


def test_the_arguments_of_a_guard_reach_key_and_cost(colour: Colour) -> None:
    limiter = RateLimiter(10, 60.0, key=lambda self, policy, n: policy, cost=lambda self, policy, n: n)
    for policy, n in (("a", 9), ("b", 8)):
        guard = limiter.guard(self=None, policy=policy, n=n)
        colour.enter(guard)
        colour.exit(guard)
    assert (limiter.peek("a").remaining, limiter.peek("b").remaining) == (1, 2)


def test_a_guard_that_is_dropped_gives_its_permit_back_and_counts_for_nothing(colour: Colour) -> None:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(minimum_calls=100)
    for policy in (bulkhead, breaker):
        colour.enter(policy.guard())
    gc.collect()
    assert bulkhead.statistics().in_use == 0
    assert judged(breaker) == (0, 0)


def test_a_guard_inside_a_reference_cycle_gives_its_permit_back_when_it_is_collected() -> None:
    class Holder:
        pass

    bulkhead = Bulkhead(1)
    holder: Any = Holder()
    holder.itself, holder.guard = holder, bulkhead.guard().__enter__()
    del holder
    gc.collect()
    assert bulkhead.statistics().in_use == 0


def test_a_guard_never_entered_gives_nothing_back() -> None:
    bulkhead = Bulkhead(2)
    permit = bulkhead.admit()
    bulkhead.guard()
    gc.collect()
    assert bulkhead.statistics().in_use == 1
    bulkhead.settle(permit)


def test_a_judge_that_fails_does_not_keep_the_permit(colour: Colour) -> None:
    """And its own error is what the caller sees, with the outcome as its context."""

    class Judging(Bulkhead):
        _judges_results = True

        def _judge_exception(self, error: Exception) -> Any:
            raise LookupError("judge")

        def _judge_result(self, result: object) -> Any:
            raise LookupError("judge")

    bulkhead = Judging(1)
    guard = bulkhead.guard()
    colour.enter(guard)
    with pytest.raises(LookupError):
        colour.exit(guard, ValueError())
    assert bulkhead.statistics().in_use == 0
    guard = bulkhead.guard()
    colour.enter(guard)
    guard.outcome(1)
    with pytest.raises(LookupError):
        colour.exit(guard)
    assert bulkhead.statistics().in_use == 0

    def fails() -> None:
        raise ValueError

    with pytest.raises(LookupError) as caught:
        colour.guarded(bulkhead, fails)()
    assert isinstance(caught.value.__context__, ValueError)
    with pytest.raises(LookupError):
        colour.guarded(bulkhead, lambda: 1)()
    assert bulkhead.statistics().in_use == 0


def test_results_are_judged_by_a_policy_that_looks_at_them(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=100, failure_if=lambda result: result == 2)
    guarded = colour.guarded(breaker, lambda x: x)
    assert [guarded(1), guarded(2)] == [1, 2]
    assert judged(breaker) == (2, 1)


def test_a_cancelled_block_counts_for_nothing(clock: ManualClock) -> None:
    """Cancellation closed the circuit in hyx and opened it in purgatory (B5)."""
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(minimum_calls=100)

    async def work() -> None:
        async with breaker.guard(), bulkhead.guard():
            await asyncio.sleep(60.0)

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(1.0)
        assert bulkhead.statistics().in_use == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main(), clock)
    assert bulkhead.statistics().in_use == 0
    assert judged(breaker) == (0, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), asyncio.CancelledError()])
def test_what_ends_a_program_says_nothing_about_the_dependency(colour: Colour, error: BaseException) -> None:
    """KeyboardInterrupt was a failure in pybreaker and aiobreaker (B7)."""
    breaker = CircuitBreaker(minimum_calls=100)
    guard = breaker.guard()
    colour.enter(guard)
    colour.exit(guard, error)
    assert judged(breaker) == (0, 0)


def test_a_group_is_a_failure_if_one_of_its_leaves_is(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=100, ignore=KeyError)
    rejection = BulkheadFullError()
    groups: list[tuple[BaseExceptionGroup[Any], int]] = [
        (ExceptionGroup("", [KeyError(), rejection]), 0),
        (BaseExceptionGroup("", [asyncio.CancelledError(), ExceptionGroup("", [KeyError()])]), 0),
        (ExceptionGroup("", [KeyError(), ExceptionGroup("", [rejection, ValueError()])]), 1),
    ]
    for group, failures in groups:
        before = judged(breaker)[1]
        guard = breaker.guard()
        colour.enter(guard)
        colour.exit(guard, group)
        assert judged(breaker)[1] - before == failures


def test_with_gives_a_variant_that_shares_the_state(colour: Colour) -> None:
    bulkhead = Bulkhead(1, max_queue=1, name="db")
    variant = bulkhead.with_(name="reports", max_wait=0)
    permit = bulkhead.admit()
    with pytest.raises(BulkheadFullError) as caught:
        colour.enter(variant.guard())
    assert (caught.value.policy, bulkhead.name) == ("reports", "db")
    assert variant.statistics() == bulkhead.statistics()
    bulkhead.settle(permit)


def test_with_refuses_what_belongs_to_the_shared_state() -> None:
    with pytest.raises(TypeError, match=r"with_\(\) can change listeners, max_wait, name, not max_concurrency"):
        Bulkhead(1).with_(max_concurrency=2)
    with pytest.raises(ValueError, match="name must be a non-empty string"):
        Bulkhead(1).with_(name="")
    with pytest.raises(TypeError, match="listeners must be"):
        Bulkhead(1).with_(listeners=1)
