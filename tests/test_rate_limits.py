"""The arithmetic of limits: bursts, waits to the last bit, and where floats end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from resilience import Rate, RateLimiter, RateLimitExceededError, SlidingWindow
from resilience._limits import Gcra, ahead
from resilience.testing import ManualClock

STARTS = st.floats(0.0, 2.0**31, allow_subnormal=False)
PERIODS = st.floats(1e-3, 1e6)


def admitted_at_once(limiter: RateLimiter, most: int) -> int:
    for count in range(most):
        try:
            limiter.admit()
        except RateLimitExceededError:
            return count
    return most


@given(rate=st.floats(1e-9, 1e9), period=PERIODS, burst=st.integers(1, 60), start=STARTS)
def test_a_burst_at_one_instant_is_exact_wherever_floats_can_tell_its_calls_apart(
    rate: float, period: float, burst: int, start: float
) -> None:
    interval = period / rate
    assume(burst * math.ulp(start + burst * interval) <= 0.02 * interval)
    limiter = RateLimiter(rate, period, burst=burst, clock=ManualClock(start))
    assert admitted_at_once(limiter, burst + 2) == burst


@given(rate=st.integers(1, 200), start=STARTS)
def test_the_default_burst_is_the_rate(rate: int, start: float) -> None:
    assume(rate * rate * math.ulp(start) <= 0.02)
    assert admitted_at_once(RateLimiter(rate, clock=ManualClock(start)), rate + 2) == rate


@given(rate=st.floats(1e-6, 1e6), burst=st.floats(1.0, 10.0), start=STARTS, cost=st.floats(0.01, 1.0))
def test_waiting_for_retry_after_is_enough_and_a_hair_less_is_not(
    rate: float, burst: float, start: float, cost: float
) -> None:
    assume(math.ulp(start) <= 0.02 * cost / rate)
    clock = ManualClock(start)
    limiter = RateLimiter(rate, burst=burst, cost=cost, clock=clock)
    admitted_at_once(limiter, 1001)
    with pytest.raises(RateLimitExceededError) as refused:
        limiter.admit()
    wait = refused.value.retry_after
    assert wait is not None
    assert wait > 0.0
    gcra = limiter._machine.plain
    assert gcra is not None
    hair = 2.0 * (gcra.allowance - gcra.tolerance) + 8.0 * math.ulp(start + wait)
    if wait > hair:
        clock.advance(wait - hair)
        with pytest.raises(RateLimitExceededError):
            limiter.admit()
        assert limiter.peek().retry_after > 0.0
    clock.advance(max(0.0, (start + wait) - clock.now()))
    limiter.admit()


@given(
    starts=st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
    window=st.floats(0.01, 100.0),
    origin=st.sampled_from([0.0, 0.1, 1000.0]),
)
def test_a_window_lets_in_exactly_when_it_said(starts: list[float], window: float, origin: float) -> None:
    """With a clock that starts near zero, `start - now` rounds, and the call came back one bit too early."""
    clock = ManualClock(origin)
    limiter = RateLimiter(limiter=SlidingWindow(1, window), clock=clock)
    for pause in starts:
        clock.advance(pause)
        wait = limiter.peek().retry_after
        if wait > 0.0:
            with pytest.raises(RateLimitExceededError) as refused:
                limiter.admit()
            assert refused.value.retry_after == wait
            clock.advance(wait)
        limiter.admit()


def test_a_clock_read_before_another_thread_moved_on_is_no_reason_to_reject() -> None:
    """The window served in order, so a call whose time was read a moment before the newest start was told to wait."""
    clock = ManualClock(1000.0)
    limiter = RateLimiter(limiter=SlidingWindow(3, 10.0), clock=clock)
    limiter.admit()
    clock._now = 999.999
    limiter.admit()
    assert limiter.peek().reset_after == pytest.approx(10.001)


@given(now=st.floats(0.0, 1e9), later=st.floats(0.0, 1e9))
def test_a_wait_is_rounded_up_by_a_bit_at_most(now: float, later: float) -> None:
    wait = ahead(now + later, now)
    assert now + wait >= now + later
    assert now + math.nextafter(math.nextafter(wait, 0.0), 0.0) <= now + later


@pytest.mark.parametrize("rate", [1e-9, 1e-3, 1.0, 1e3, 1e9])
def test_extreme_rates_limit_costs_in_proportion(rate: float) -> None:
    clock = ManualClock(1e6)
    limiter = RateLimiter(rate, cost=lambda cost: cost, clock=clock)
    burst = max(1.0, rate)
    limiter.admit((burst,))
    with pytest.raises(RateLimitExceededError) as refused:
        limiter.admit((burst / 2,))
    assert refused.value.retry_after == pytest.approx(burst / 2 / rate, rel=1e-6)
    assert refused.value.reset_after == pytest.approx(burst / rate, rel=1e-6)
    clock.advance(burst / rate)
    limiter.admit((burst,))


@pytest.mark.parametrize("rate,start", [(1e9, 1e5 + 0.3), (3308576481.204181, 72310.19869627447)])
def test_where_rounding_is_all_there_is_to_wait_for_the_call_may_run(rate: float, start: float) -> None:
    """At a billion a second a clock of a day cannot tell one call from the next; a refusal said "retry after 0"."""
    clock = ManualClock(start)
    limiter = RateLimiter(rate, burst=1, clock=clock)
    waits: list[float | None] = []
    admitted = 0
    for _ in range(1000):
        try:
            limiter.admit()
            admitted += 1
        except RateLimitExceededError as error:
            waits.append(error.retry_after)
        clock.advance(math.ulp(clock.now()))
    assert all(wait is not None and wait > 0.0 for wait in waits)
    assert admitted == pytest.approx(1000 * math.ulp(start) * rate, rel=0.05)


@pytest.mark.parametrize("used", [0, 1, 7, 10])
def test_what_remains_agrees_with_what_is_let_in(used: int) -> None:
    limiter = RateLimiter(10, 7.3, clock=ManualClock(12345.678))
    for _ in range(used):
        limiter.admit()
    quota = limiter.peek()
    assert quota.remaining == 10 - used
    assert (quota.retry_after == 0.0) is (quota.remaining > 0)


def test_nothing_remains_until_the_very_instant_a_call_may_run() -> None:
    """Once a billion seconds per call; a tolerance for rounding said that one was left a second too early."""
    clock = ManualClock(0.0)
    limiter = RateLimiter(1e-9, clock=clock)
    limiter.admit()
    clock.advance(1e9 - 0.5)
    assert limiter.peek().remaining == 0
    assert limiter.peek().retry_after == pytest.approx(0.5, abs=1e-3)
    clock.advance(0.5)
    assert limiter.peek().remaining == 1


@given(
    old=st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.integers(1, 50)),
    new=st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.integers(1, 50)),
    used=st.integers(0, 50),
    start=st.floats(0.0, 1e6),
)
def test_an_update_keeps_the_tokens_that_were_used(
    old: tuple[float, float, int], new: tuple[float, float, int], used: int, start: float
) -> None:
    """A burst used up to the last bit counted as a reservation for the future, and took the whole of a larger burst."""
    limiter = RateLimiter(*old[:2], burst=old[2], clock=ManualClock(start))
    used = min(used, old[2])
    assert admitted_at_once(limiter, used) == used
    limiter.update(*new)
    assert limiter.peek().remaining == max(0, new[2] - used)


def test_grain_never_adds_up() -> None:
    clock = ManualClock(1e6)
    limiter = RateLimiter(1000, burst=1, clock=clock)
    for _ in range(2000):
        wait = limiter.peek().retry_after
        clock.advance(max(0.0, wait))
        limiter.admit()
    assert clock.now() - 1e6 == pytest.approx(1.999, abs=1e-4)


@pytest.mark.parametrize(
    "make,name",
    [
        (Rate, "limit"),
        (lambda value: Rate(1, value), "period"),
        (lambda value: Rate(1, 1, value), "burst"),
        (lambda value: SlidingWindow(value, 1.0), "SlidingWindow.limit"),
        (lambda value: SlidingWindow(1, value), "SlidingWindow.window"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 0, True, "3", b"3", 10**400, [], 1j])
def test_a_limit_that_makes_no_sense_names_its_parameter(make: Callable[[Any], Any], name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name) as raised:
        make(value)
    assert type(raised.value) is (ValueError if type(value) in (int, float) and "limit" not in name else raised.type)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("limit,period", [(1e300, 1e-300), (1e-300, 1e300)])
def test_rates_beyond_floats_are_refused(limit: float, period: float) -> None:
    with pytest.raises(ValueError, match="limit must be between"):
        Rate(limit, period)


def test_a_burst_that_never_refills_is_refused_by_its_own_name() -> None:
    with pytest.raises(
        ValueError, match=r"^burst must be full again within 1e300 s, not 1e\+300 calls at 1 in 2\.0 s$"
    ):
        Rate(1, 2.0, 1e300)
    assert Rate(1, 1.0, 1e299).burst == 1e299


def test_a_burst_of_less_than_one_call_is_refused() -> None:
    with pytest.raises(ValueError, match="burst must be a finite number of at least 1"):
        Rate(1, 1, 0.99)


def test_limits_show_themselves_in_words() -> None:
    assert repr(Gcra(Rate(5, 2.0))) == "5 per 2 s, burst 5"
    assert repr(RateLimiter(5, 2.0, name="api")) == "<RateLimiter api: 5 per 2 s, burst 5, 0 keys>"
    both = RateLimiter(5, also=[Rate(100, 60)])
    assert repr(both) == "<RateLimiter unnamed: 5 per 1 s, burst 5 and 100 per 60 s, burst 100, 0 keys>"
    assert repr(RateLimiter(limiter=SlidingWindow(3, 10))) == "<RateLimiter unnamed: 3 in any 10 s, 0 keys>"
    by_key = RateLimiter(lambda key: 5, key=lambda key: key, name="tiers")
    assert repr(by_key) == "<RateLimiter tiers: a rate by key, 0 keys>"
