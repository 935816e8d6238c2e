"""Functions under a limiter without keys take a short way of their own, which decides as `admit` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import RateLimiter, RateLimitExceededError, Verdict
from resilience._policy import Policy
from resilience.testing import ManualClock, recorded_events, run
from tests.test_rate_limiter_threads import Interference


def plainly(limiter: RateLimiter, clock: ManualClock) -> Callable[[], object]:
    return limiter(lambda: None)


def in_a_task(limiter: RateLimiter, clock: ManualClock) -> Callable[[], object]:
    async def nothing() -> None:
        return None

    guarded = limiter(nothing)
    return lambda: run(guarded(), clock)


def by_hand(limiter: RateLimiter, clock: ManualClock) -> Callable[[], object]:
    return limiter.admit


WAYS = {"function": plainly, "coroutine function": in_a_task}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
STEPS = st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, 3.0])
CHANGES = st.one_of(
    st.tuples(st.just("call"), st.integers(1, 4)),
    st.tuples(st.just("advance"), STEPS),
    st.tuples(st.just("reset"), st.just(0)),
    st.tuples(st.just("reserve"), st.sampled_from([1, 2])),
    st.tuples(st.just("rate"), st.sampled_from([1.0, 2.0, 8.0])),
)


def facts(call: Callable[[], object]) -> Any:
    try:
        call()
    except RateLimitExceededError as error:
        return error.args
    return "admitted"


@given(
    rate=st.sampled_from([1.0, 4.0]),
    burst=st.sampled_from([None, 1.0, 2.5]),
    cost=st.sampled_from([0.5, 1.0]),
    changes=st.lists(CHANGES, max_size=12),
)
def test_a_guarded_function_is_admitted_and_refused_as_by_hand(
    rate: float, burst: float | None, cost: float, changes: list[tuple[str, Any]]
) -> None:
    clock = ManualClock(1000.0)
    limiters = [RateLimiter(rate, burst=burst, cost=cost, clock=clock, name="api") for _ in range(3)]
    calls = [way(limiter, clock) for way, limiter in zip((by_hand, *WAYS.values()), limiters, strict=True)]
    for change, value in changes:
        if change == "advance":
            clock.advance(value)
        elif change == "call":
            for _ in range(value):
                first, *others = map(facts, calls)
                assert others == [first] * 2
        else:
            for limiter in limiters:
                if change == "reset":
                    limiter.reset()
                elif change == "rate":
                    limiter.update(rate=value)
                else:
                    facts(lambda limiter=limiter, cost=value: limiter.reserve(cost=cost))  # type: ignore[misc]
        assert len({limiter.peek() for limiter in limiters}) == 1
        assert len({limiter.statistics() for limiter in limiters}) == 1


@every_way
def test_a_call_that_lost_a_race_for_the_last_token_is_rejected(way: Any, clock: ManualClock) -> None:
    limiter = RateLimiter(2)
    call = way(limiter, clock)
    call()
    Interference(limiter, limiter.admit)
    with pytest.raises(RateLimitExceededError):
        call()
    assert limiter._machine.free


@every_way
def test_a_call_that_finds_somebody_inside_waits_for_its_turn(way: Any, clock: ManualClock) -> None:
    def taken() -> None:
        raise IndexError

    limiter = RateLimiter(2)
    call = way(limiter, clock)
    call()
    Interference(limiter, taken)
    call()
    assert limiter.peek().remaining == 0


@every_way
@pytest.mark.parametrize("full", [False, True])
def test_what_was_handed_over_is_done_with_the_call(way: Any, clock: ManualClock, full: bool) -> None:
    limiter = RateLimiter(1 if full else 10)
    call = way(limiter, clock)
    call()
    applied: list[str] = []

    def apply(permit: Any, verdict: Verdict) -> tuple[()]:
        applied.append(permit)
        return ()

    limiter._machine.late.append((apply, "late", Verdict.ABANDONED))
    assert (facts(call) == "admitted") is not full
    assert applied == ["late"]


@every_way
@pytest.mark.parametrize("whose", ["all", "own"])
def test_a_refusal_is_told(way: Any, clock: ManualClock, whose: str) -> None:
    heard: list[Any] = []
    limiter = RateLimiter(1, listeners=[heard.append] if whose == "own" else ())
    call = way(limiter, clock)
    call()
    if whose == "own":
        facts(call)
    else:
        with recorded_events() as events:
            facts(call)
        heard += events
    assert [event.retry_after for event in heard] == [1.0]


@every_way
def test_rounding_is_nothing_to_wait_for(way: Any, clock: ManualClock) -> None:
    """What is missing is less than a clock of that size can tell, so the call is let in by `admit`."""
    limiter = RateLimiter(3.0, burst=1)
    call = way(limiter, clock)
    call()
    plain: Any = limiter._machine.plain
    plain.allowance = 0.0
    plain.tolerance = 1.0
    before = limiter.statistics().rejected
    call()
    assert limiter.statistics().rejected == before


@every_way
def test_a_call_waits_for_its_slot(way: Any, clock: ManualClock) -> None:
    call = way(RateLimiter(2, burst=1, max_wait=1.0), clock)
    call()
    call()
    assert clock.now() == 1000.5


def test_a_plain_function_that_returns_something_to_await_is_refused(clock: ManualClock) -> None:
    with pytest.raises(TypeError, match="returned a generator"):
        RateLimiter(2)(lambda: (number for number in range(3)))()


def test_a_limiter_with_keys_or_by_outcome_goes_the_usual_way() -> None:
    def nothing(key: str) -> None:
        return None

    for limiter in (RateLimiter(1, key=lambda key: key), RateLimiter(1, charge_if=bool), RateLimiter(1, cost=len)):
        guarded: Any = limiter(nothing)
        assert guarded.__code__.co_filename.endswith("_policy.py")
    assert Policy._wrap_sync is not RateLimiter._wrap_sync
