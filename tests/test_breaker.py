"""The circuit breaker: when it opens, for how long, and how it closes again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from resilience import CircuitBreaker, CircuitOpenError, CountWindow, State, TimeWindow
from resilience.testing import ManualClock
from tests.conftest import Colour


def state(breaker: CircuitBreaker) -> State:
    """A function, because mypy takes a property that was compared once for unchanging."""
    return breaker.state


class AskedError(Exception):
    """A failure that says when to come back."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__()
        self.retry_after = retry_after


def fail(error: type[Exception] | Exception = ConnectionError) -> None:
    raise error


Call = Callable[..., Any]


def calls_of(colour: Colour, breaker: CircuitBreaker) -> tuple[Call, Call]:
    """A call that succeeds and one that fails, in this colour."""
    failing = colour.guarded(breaker, fail)

    def fails(error: type[Exception] | Exception = ConnectionError) -> None:
        with pytest.raises(error if isinstance(error, type) else type(error)):
            failing(error)

    return colour.guarded(breaker, lambda: "answer"), fails


def tripped(colour: Colour, **options: Any) -> tuple[CircuitBreaker, Call, Call]:
    """A breaker that has just opened, without jitter, and its two kinds of calls."""
    options.setdefault("jitter", 0.0)
    breaker = CircuitBreaker(failure_threshold=1, **options)
    succeeds, fails = calls_of(colour, breaker)
    fails()
    assert state(breaker) is State.OPEN
    return breaker, succeeds, fails


def refusal(call: Call) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        call()
    return caught.value


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_closed_circuit_hands_results_and_errors_through(colour: Colour) -> None:
    breaker = CircuitBreaker()
    succeeds, _ = calls_of(colour, breaker)
    assert succeeds() == "answer"
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        colour.guarded(breaker, fail)(error)
    assert caught.value is error
    assert breaker.statistics().calls == 2


def test_it_opens_when_the_share_of_failures_reaches_the_rate(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_rate=0.28, minimum_calls=10)
    succeeds, fails = calls_of(colour, breaker)
    for _ in range(18):
        succeeds()
    for _ in range(6):
        fails()
    assert state(breaker) is State.CLOSED
    fails()  # the seventh of 25: 7 / 25 is 0.28 as a reader has it, but 0.28 * 25 is more than 7 in binary
    assert state(breaker) is State.OPEN
    assert isinstance(refusal(succeeds), CircuitOpenError)


def test_just_below_the_rate_it_stays_closed(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_rate=0.5, minimum_calls=2)
    succeeds, fails = calls_of(colour, breaker)
    succeeds()
    succeeds()
    fails()  # 1 of 3
    assert state(breaker) is State.CLOSED
    fails()  # 2 of 4
    assert state(breaker) is State.OPEN


def test_it_never_opens_on_the_rate_before_the_minimum_of_calls(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=4)
    _, fails = calls_of(colour, breaker)
    for _ in range(3):
        fails()
    assert state(breaker) is State.CLOSED
    fails()
    assert state(breaker) is State.OPEN


def test_only_a_failure_can_trip_it_not_the_success_that_completes_the_minimum(colour: Colour) -> None:
    breaker = CircuitBreaker(minimum_calls=3)
    succeeds, fails = calls_of(colour, breaker)
    fails()
    fails()
    succeeds()
    assert state(breaker) is State.CLOSED
    assert breaker.statistics().failures == 2


def test_a_slow_success_never_trips_it_for_failures_nor_a_fast_failure_for_slowness(colour: Colour) -> None:
    failing = CircuitBreaker(minimum_calls=3, slow_call_duration=1.0)
    _, fails = calls_of(colour, failing)
    fails()
    fails()
    colour.guarded(failing, colour.sleep)(2.0)
    assert state(failing) is State.CLOSED
    slow = CircuitBreaker(failure_rate=1.0, minimum_calls=3, slow_call_duration=1.0, slow_call_rate=0.5)
    _, fails = calls_of(colour, slow)
    for _ in range(2):
        colour.guarded(slow, colour.sleep)(2.0)
    fails()
    assert state(slow) is State.CLOSED


def test_without_a_rate_only_failures_in_a_row_open_it(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_rate=None, failure_threshold=3, minimum_calls=1)
    succeeds, fails = calls_of(colour, breaker)
    for _ in range(5):
        fails()
        fails()
        assert breaker.statistics().streak == 2
        succeeds()
        assert breaker.statistics().streak == 0
    fails()
    fails()
    assert state(breaker) is State.CLOSED
    fails()
    assert state(breaker) is State.OPEN


def test_without_rate_and_threshold_only_slow_calls_open_it(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_rate=None, slow_call_duration=1.0, minimum_calls=1)
    _, fails = calls_of(colour, breaker)
    for _ in range(50):
        fails()
    assert state(breaker) is State.CLOSED


def test_failures_in_a_row_need_no_minimum_of_calls(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_threshold=2, minimum_calls=100)
    _, fails = calls_of(colour, breaker)
    fails()
    fails()
    assert state(breaker) is State.OPEN


def test_failures_that_have_left_the_window_are_forgotten(colour: Colour) -> None:
    breaker = CircuitBreaker(window=TimeWindow(10.0, buckets=10), minimum_calls=2, failure_rate=1.0)
    _, fails = calls_of(colour, breaker)
    fails()
    colour.clock.advance(10.0)
    assert breaker.statistics().calls == 0
    fails()
    assert state(breaker) is State.CLOSED
    colour.clock.advance(8.5)
    fails()
    assert state(breaker) is State.OPEN


def test_a_call_at_the_very_edge_of_a_bucket_belongs_to_the_later_one(colour: Colour) -> None:
    breaker = CircuitBreaker(window=TimeWindow(10.0, buckets=10))
    _, fails = calls_of(colour, breaker)
    fails()
    colour.clock.advance(1.0)
    fails()
    colour.clock.advance(9.75)
    assert breaker.statistics().calls == 1
    colour.clock.advance(0.25)
    assert breaker.statistics().calls == 0


def test_a_window_of_calls_can_always_reach_its_minimum(colour: Colour) -> None:
    breaker = CircuitBreaker(window=CountWindow(3), minimum_calls=20)
    _, fails = calls_of(colour, breaker)
    for _ in range(3):
        assert state(breaker) is State.CLOSED
        fails()
    assert state(breaker) is State.OPEN


# -- open --------------------------------------------------------------------------------------------------------------


def test_an_open_circuit_refuses_without_calling_and_says_how_long(colour: Colour) -> None:
    breaker, _, _ = tripped(colour, name="payments", recovery_time=5.0)
    called: list[int] = []
    guarded = colour.guarded(breaker, lambda: called.append(1))
    error = refusal(guarded)
    assert (error.policy, error.retry_after) == ("payments", 5.0)
    colour.clock.advance(3.5)
    assert refusal(guarded).retry_after == 1.5
    assert breaker.statistics().retry_after == 1.5
    assert called == []
    assert breaker.statistics().rejected == 2


def test_the_recovery_instant_itself_belongs_to_the_probes(colour: Colour) -> None:
    breaker, succeeds, _ = tripped(colour, recovery_time=5.0)
    colour.clock.advance(4.75)
    refusal(succeeds)
    assert state(breaker) is State.OPEN
    colour.clock.advance(0.25)
    assert state(breaker) is State.OPEN, "nothing happens by itself"
    assert breaker.statistics().retry_after is None
    assert succeeds() == "answer"
    assert state(breaker) is State.HALF_OPEN


def test_the_recovery_time_doubles_with_each_reopening_up_to_the_maximum(colour: Colour) -> None:
    breaker, _, fails = tripped(
        colour, recovery_time=2.0, max_recovery_time=10.0, half_open_max_calls=1, success_threshold=1
    )
    pauses = []
    for _ in range(5):
        pause = breaker.statistics().retry_after
        assert pause is not None
        pauses.append(pause)
        colour.clock.advance(pause)
        fails()
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert breaker.statistics().reopened == 6


def test_closing_resets_the_doubling(colour: Colour) -> None:
    breaker, succeeds, fails = tripped(colour, recovery_time=2.0, half_open_max_calls=1, success_threshold=1)
    colour.clock.advance(2.0)
    fails()
    assert breaker.statistics().retry_after == 4.0
    colour.clock.advance(4.0)
    succeeds()
    assert state(breaker) is State.CLOSED
    assert breaker.statistics().reopened == 0
    fails()
    assert breaker.statistics().retry_after == 2.0


def test_a_thousand_reopenings_do_not_overflow(colour: Colour) -> None:
    breaker, _, fails = tripped(
        colour, half_open_max_calls=1, success_threshold=1, recovery_time=1.0, max_recovery_time=8.0
    )
    breaker._machine.reopened = 100_000
    colour.clock.advance(1.0)
    fails()
    assert breaker.statistics().retry_after == 8.0


def test_the_recovery_time_is_jittered_in_both_directions_by_the_given_chance(colour: Colour) -> None:
    pauses = []
    chance = random.Random(11)
    for _ in range(200):
        breaker, _, _ = tripped(colour, recovery_time=10.0, jitter=0.2, rng=chance)
        pause = breaker.statistics().retry_after
        assert pause is not None
        pauses.append(pause)
    assert 8.0 <= min(pauses) < 8.2
    assert 11.8 < max(pauses) <= 12.0
    again = random.Random(11)
    assert pauses[:3] == pytest.approx([10.0 * (1.0 + again.uniform(-0.2, 0.2)) for _ in range(3)])


def test_without_a_source_of_chance_breakers_differ_also_after_a_fork(clock: ManualClock) -> None:
    """Workers forked from one parent must not come back in step, so there is no state that they could inherit."""
    breaker = CircuitBreaker()
    with pytest.raises(NotImplementedError):
        breaker._machine._rng.getstate()
    assert len({breaker._machine._rng.random() for _ in range(10)}) == 10


@pytest.mark.parametrize(
    "asked,pause",
    [
        (20.0, 20.0),
        (20, 20.0),
        (2.0, 5.0),
        (1e6, 60.0),
        (float("inf"), 60.0),
        (10**400, 60.0),
        (-(10**400), 5.0),
        (float("nan"), 5.0),
        (-3.0, 5.0),
        (0, 5.0),
        ("20", 5.0),
        (None, 5.0),
    ],
)
def test_a_failure_that_says_when_to_come_back_lengthens_the_pause_up_to_the_maximum(
    colour: Colour, asked: Any, pause: float
) -> None:
    """Absurd values come from servers; they must neither shorten the pause nor keep the circuit closed."""
    breaker = CircuitBreaker(failure_threshold=1, jitter=0.0)
    _, fails = calls_of(colour, breaker)
    fails(AskedError(asked))
    assert state(breaker) is State.OPEN
    assert breaker.statistics().retry_after == pause


def test_a_result_that_says_when_to_come_back_lengthens_the_pause_too(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_threshold=1, jitter=0.0, failure_if=lambda result: isinstance(result, AskedError))
    answer = AskedError(17.0)
    assert colour.guarded(breaker, lambda: answer)() is answer
    assert breaker.statistics().retry_after == 17.0


def test_a_pause_already_longer_than_asked_for_keeps_its_length(colour: Colour) -> None:
    breaker, _, fails = tripped(
        colour,
        recovery_time=30.0,
        max_recovery_time=30.0,
        half_open_max_calls=1,
        success_threshold=1,
        jitter=0.5,
        rng=Highest(),
    )
    assert breaker.statistics().retry_after == 45.0
    colour.clock.advance(45.0)
    fails(AskedError(50.0))
    assert breaker.statistics().retry_after == 45.0


class Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return b


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_an_isolated_circuit_refuses_until_it_is_reset(colour: Colour) -> None:
    breaker = CircuitBreaker("db")
    succeeds, _ = calls_of(colour, breaker)
    breaker.isolate()
    assert state(breaker) is State.ISOLATED
    colour.clock.advance(1e6)
    error = refusal(succeeds)
    assert (error.policy, error.retry_after) == ("db", None)
    assert breaker.statistics().retry_after is None
    assert breaker.statistics().rejected == 1
    breaker.reset()
    assert state(breaker) is State.CLOSED
    assert succeeds() == "answer"


def test_reset_forgets_what_was_counted(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_threshold=3, minimum_calls=4)
    _, fails = calls_of(colour, breaker)
    fails()
    fails()
    breaker.reset()
    statistics = breaker.statistics()
    assert (statistics.calls, statistics.failures, statistics.streak) == (0, 0, 0)
    fails()
    fails()
    assert state(breaker) is State.CLOSED


def test_reset_closes_an_open_circuit_at_once(colour: Colour) -> None:
    breaker, succeeds, fails = tripped(colour, recovery_time=50.0)
    breaker.reset()
    assert succeeds() == "answer"
    assert breaker.statistics().retry_after is None
    colour.clock.advance(10.0)
    fails()
    assert refusal(succeeds).retry_after == 50.0
    assert breaker.statistics().retry_after == 50.0


def test_a_breaker_shows_its_name_and_state(clock: ManualClock) -> None:
    breaker = CircuitBreaker("payments")
    assert repr(breaker) == "<CircuitBreaker payments: closed>"
    breaker.isolate()
    assert repr(breaker) == "<CircuitBreaker payments: isolated>"
    assert repr(CircuitBreaker()) == "<CircuitBreaker unnamed: closed>"


def test_successes_leave_the_window_with_the_time_they_were_counted_in(clock: ManualClock) -> None:
    breaker = CircuitBreaker(window=TimeWindow(10.0, buckets=10), failure_threshold=3)
    for _ in range(3):
        breaker.settle(breaker.admit())
        breaker.settle(breaker.admit())
        clock.advance(2.0)
    assert breaker.statistics().calls == 6
    clock.advance(4.5)
    assert breaker.statistics().calls == 4
    clock.advance(10.0)
    assert breaker.statistics().calls == 0
