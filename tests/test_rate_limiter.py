"""The rate limiter in every colour: rejections, waits, several limits, paying by outcome, events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from resilience import (
    CallRejectedError,
    DeadlineExceededError,
    Rate,
    RateLimiter,
    RateLimitExceededError,
    SlidingWindow,
    Timeout,
)
from resilience.events import CallQueued, CallRejected
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour


def test_calls_over_the_limit_are_rejected_with_the_time_to_come_back(colour: Colour) -> None:
    limiter = RateLimiter(2, name="search")
    call = colour.guarded(limiter, lambda: "done")
    assert [call(), call()] == ["done", "done"]
    with pytest.raises(RateLimitExceededError) as refused:
        call()
    error = refused.value
    assert (error.policy, error.retry_after, error.limit, error.remaining, error.reset_after) == (
        "search",
        0.5,
        2.0,
        0,
        1.0,
    )
    colour.clock.advance(0.5)
    assert call() == "done"


def test_a_rejection_leaves_the_same_facts_on_the_short_and_the_long_way(clock: ManualClock) -> None:
    """A refusal with a listener is found out by the full decision, one without by a shortcut."""
    errors = []
    for listeners in ([], [lambda event: None]):
        limiter = RateLimiter(0.1, burst=3, name="n", listeners=listeners)
        for _ in range(3):
            limiter.admit()
        clock.advance(1.7)
        with pytest.raises(RateLimitExceededError) as refused:
            limiter.admit()
        errors.append(refused.value.args)
        assert limiter.statistics().rejected == 1
    assert errors[0] == errors[1]


def test_with_max_wait_calls_sleep_until_their_slot_in_order(colour: Colour) -> None:
    call = colour.guarded(RateLimiter(4, burst=1, max_wait=None), colour.clock.now)
    assert [call() for _ in range(4)] == [1000.0, 1000.25, 1000.5, 1000.75]
    assert colour.clock.sleeps == [0.25, 0.25, 0.25]


def test_a_wait_beyond_max_wait_is_rejected_at_once_and_takes_nothing(colour: Colour) -> None:
    limiter = RateLimiter(1, max_wait=timedelta(seconds=0.5))
    call = colour.guarded(limiter, colour.clock.now)
    call()
    before = limiter.peek()
    with pytest.raises(RateLimitExceededError) as refused:
        call()
    assert refused.value.retry_after == 1.0
    assert limiter.peek() == before
    assert colour.clock.now() == 1000.0
    colour.clock.advance(0.5)
    assert call() == 1001.0


def test_a_wait_beyond_the_deadline_is_rejected_at_once_and_takes_nothing(colour: Colour) -> None:
    limiter = RateLimiter(1, max_wait=None, name="slow")
    limiter.admit()
    before = limiter.peek()
    call = colour.runner(Timeout(0.75)(limiter(colour.function(colour.clock.now))))
    with pytest.raises(DeadlineExceededError) as refused:
        call()
    assert refused.value.policy == "slow"
    assert refused.value.retry_after == 1.0
    assert limiter.peek() == before
    assert colour.clock.now() == 1000.0
    colour.clock.advance(0.5)
    assert call() == 1001.0


def test_the_own_rejection_wins_when_both_limits_are_passed(colour: Colour) -> None:
    limiter = RateLimiter(0.1, max_wait=5)
    limiter.admit()
    with pytest.raises(RateLimitExceededError):
        colour.runner(Timeout(2)(limiter(colour.function(colour.clock.now))))()


def test_a_cost_above_the_burst_is_rejected_for_good(colour: Colour) -> None:
    for max_wait in (0.0, None):
        limiter = RateLimiter(5, cost=lambda size: size, max_wait=max_wait)
        call = colour.guarded(limiter, lambda size: size)
        with pytest.raises(RateLimitExceededError) as refused:
            call(5.5)
        assert (refused.value.retry_after, refused.value.remaining) == (None, 5)
        assert call(5) == 5


def test_a_cost_above_the_burst_is_rejected_until_the_burst_grows(clock: ManualClock) -> None:
    limiter = RateLimiter(2, cost=lambda: 3)
    with pytest.raises(RateLimitExceededError) as refused:
        limiter.admit()
    assert refused.value.retry_after is None
    limiter.update(burst=3)
    limiter.admit()


def test_calls_without_a_key_are_exempt(colour: Colour) -> None:
    call = colour.guarded(RateLimiter(1, key=lambda user: user), lambda user: user)
    assert [call(None) for _ in range(5)] == [None] * 5
    assert call("a") == "a"
    with pytest.raises(RateLimitExceededError):
        call("a")
    assert call("b") == "b"


def test_keys_and_costs_come_from_keyword_arguments_too(colour: Colour) -> None:
    limiter = RateLimiter(3, key=lambda *, user: user, cost=lambda *, user: len(user))
    call = colour.guarded(limiter, lambda *, user: user)
    assert call(user="abc") == "abc"
    with pytest.raises(RateLimitExceededError):
        call(user="abc")
    assert limiter.peek("abc").remaining == 0


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1, -1e-9, 10**400, True, "1", None, 1j])
def test_a_computed_cost_that_makes_no_sense_is_an_error_and_takes_nothing(colour: Colour, cost: Any) -> None:
    limiter = RateLimiter(5, cost=lambda cost: cost)
    with pytest.raises((TypeError, ValueError), match="cost must be a finite number of at least 0"):
        colour.guarded(limiter, lambda cost: cost)(cost)
    with pytest.raises((TypeError, ValueError), match="cost must be a finite number of at least 0"):
        limiter.reserve(cost=cost)
    assert limiter.peek().remaining == 5


def test_several_limits_are_taken_together_or_not_at_all(colour: Colour) -> None:
    limiter = RateLimiter(10, also=[Rate(3, 60.0)])
    call = colour.guarded(limiter, lambda: None)
    for _ in range(3):
        call()
    for _ in range(5):
        with pytest.raises(RateLimitExceededError) as refused:
            call()
        assert refused.value.retry_after == 20.0
    assert limiter.peek().limit == 3.0
    limiter.update(rate=20)
    colour.clock.advance(20.0)
    call()


def test_a_burst_through_a_guard(colour: Colour) -> None:
    limiter = RateLimiter(1, key=lambda user: user)
    guard = limiter.guard("a")
    colour.enter(guard)
    colour.exit(guard)
    with pytest.raises(RateLimitExceededError):
        colour.enter(limiter.guard("a"))
    colour.enter(limiter.guard("b"))


def test_a_sliding_window_replaces_the_rate(colour: Colour) -> None:
    call = colour.guarded(RateLimiter(limiter=SlidingWindow(2, 10.0), max_wait=None), colour.clock.now)
    assert [call() for _ in range(5)] == [1000.0, 1000.0, 1010.0, 1010.0, 1020.0]


def test_a_cancelled_slot_ahead_gives_back_what_the_window_still_needs(clock: ManualClock) -> None:
    """A reservation for the end of the window dropped what would have left it by then; cancelled, all was forgotten."""
    limiter = RateLimiter(limiter=SlidingWindow(2, 10.0))
    limiter.admit()
    limiter.admit()
    clock.advance(5.0)
    assert limiter.reserve().cancel() is True
    with pytest.raises(RateLimitExceededError) as refused:
        limiter.admit()
    assert refused.value.retry_after == 5.0


# --- paying by outcome ------------------------------------------------------------------------------------------------


def wrong_password(outcome: object) -> bool:
    return outcome == "wrong" or isinstance(outcome, PermissionError)


def test_only_the_outcomes_named_by_charge_if_cost_anything(colour: Colour) -> None:
    limiter = RateLimiter(2, 60.0, charge_if=wrong_password)

    def login(outcome: Any) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    call = colour.guarded(limiter, login)
    for outcome in ["right"] * 5:
        assert call(outcome) == "right"
    with pytest.raises(KeyError):
        call(KeyError())
    with pytest.raises(CallRejectedError):
        call(CallRejectedError())
    assert limiter.peek().remaining == 2
    call("wrong")
    for _ in range(5):
        call("right")
    assert limiter.peek().remaining == 1
    with pytest.raises(PermissionError):
        call(PermissionError())
    with pytest.raises(RateLimitExceededError) as refused:
        call("right")
    assert refused.value.retry_after == 30.0


def test_a_call_cut_off_by_a_deadline_pays_only_if_charge_if_says_so(clock: ManualClock) -> None:
    """A cancellation by one of our deadlines is a failure for layers inside, and it was charged unasked."""
    seen: list[object] = []

    def look(outcome: object) -> bool:
        seen.append(outcome)
        return False

    limiter = RateLimiter(2, 60.0, charge_if=look)

    async def nap() -> None:
        await asyncio.sleep(5.0)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await Timeout(1.0)(limiter(nap))()

    run(main(), clock)
    assert [type(outcome) for outcome in seen] == [asyncio.CancelledError]
    assert limiter.peek().remaining == 2
    paying = limiter.with_(charge_if=lambda outcome: isinstance(outcome, asyncio.CancelledError))

    async def pay() -> None:
        with pytest.raises(TimeoutError):
            await Timeout(1.0)(paying(nap))()

    run(pay(), clock)
    assert limiter.peek().remaining == 1


def test_calls_that_began_together_pay_together_and_leave_a_debt(clock: ManualClock) -> None:
    limiter = RateLimiter(1, charge_if=lambda outcome: True)
    permits = [limiter.admit() for _ in range(5)]
    for permit in permits:
        limiter._finish(permit, None)
    assert limiter.peek().retry_after == 5.0


def test_a_charge_if_that_raises_charges_nothing(colour: Colour) -> None:
    def broken(outcome: object) -> bool:
        raise ZeroDivisionError

    limiter = RateLimiter(1, charge_if=broken)
    with pytest.raises(ZeroDivisionError):
        colour.guarded(limiter, lambda: None)()
    assert limiter.at_rest


def test_a_charge_takes_the_price_of_the_moment_it_is_made(clock: ManualClock) -> None:
    """The call began under the old rate; charged at its price, it cost a hundredth of what it should."""
    limiter = RateLimiter(100, charge_if=lambda outcome: True)
    permit = limiter.admit()
    limiter.update(rate=1, burst=10)
    limiter._finish(permit, None)
    assert limiter.peek().reset_after == 1.0


def test_a_charge_stands_behind_the_slots_that_are_reserved(clock: ManualClock) -> None:
    """Put at its own time behind a slot that lies ahead, it let the key be forgotten before the slot had come."""
    limiter = RateLimiter(limiter=SlidingWindow(1, 10.0))
    payer = limiter.with_(charge_if=lambda outcome: True)
    permit = payer.admit()
    limiter.reserve()
    assert limiter.reserve().delay == 10.0
    payer._finish(permit, None)
    quota = limiter.peek()
    assert (quota.retry_after, quota.reset_after) == (20.0, 20.0)


# --- events and the rest ----------------------------------------------------------------------------------------------


def test_waits_and_rejections_are_told(colour: Colour) -> None:
    limiter = RateLimiter(1, max_wait=1.0, name="n")
    with recorded_events() as events:
        call = colour.guarded(limiter, lambda: None)
        call()
        call()
        limiter.reserve()
        with pytest.raises(RateLimitExceededError):
            call()
    assert [(type(event), event.policy, event.key) for event in events] == [
        (CallQueued, "n", None),
        (CallRejected, "n", None),
    ]
    assert events[0].seconds == 1.0
    assert events[1].retry_after == 2.0


def test_every_colour_of_function_is_limited(clock: ManualClock) -> None:
    limiter = RateLimiter(1, 1000.0, burst=5)

    @limiter
    def numbers() -> Iterator[int]:
        yield from (1, 2)

    @limiter
    async def letters() -> AsyncIterator[str]:
        yield "a"

    async def answer() -> int:
        return 42

    async def main() -> None:
        assert list(numbers()) == [1, 2]
        assert [letter async for letter in letters()] == ["a"]
        assert await limiter(answer)() == 42
        assert await limiter(lambda: answer())() == 42  # noqa: PLW0108
        assert limiter(lambda: 7)() == 7
        with pytest.raises(RateLimitExceededError):
            next(numbers())
        with pytest.raises(RateLimitExceededError):
            await anext(letters())
        with pytest.raises(RateLimitExceededError):
            await limiter(answer)()

    run(main(), clock)


def test_variants_share_the_state(clock: ManualClock) -> None:
    limiter = RateLimiter(3, name="one")
    other = limiter.with_(cost=2, name="two", max_wait=5, listeners=())
    limiter.admit()
    other.admit()
    assert limiter.peek().remaining == 0
    assert (limiter.name, other.name) == ("one", "two")
    assert (limiter._longest_wait(), other._longest_wait()) == (0.0, 5.0)
    assert limiter.with_(max_wait=None)._longest_wait() is None
    with pytest.raises(TypeError, match=r"can change .*max_wait.* not rate"):
        limiter.with_(rate=5)


def test_a_reservation_shows_what_it_holds(clock: ManualClock) -> None:
    limiter = RateLimiter(2, key=lambda key: key)
    limiter.reserve("k", 2)
    reservation = limiter.reserve("k", cost=0.5, max_wait=1)
    assert repr(reservation) == "<Reservation of 0.5 for 'k' in 0.250 s>"
