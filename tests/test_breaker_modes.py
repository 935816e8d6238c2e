"""Variants that share one breaker, and its modes, which may be changed at any time."""

from __future__ import annotations

from typing import Any

import pytest

from resilience import CallRejected, CircuitBreaker, CircuitOpenError, Mode, State, TimeWindow, Verdict
from resilience.testing import ManualClock, recorded_events
from tests.conftest import Colour

SUCCESS, FAILURE, ABANDONED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.ABANDONED


def state(breaker: CircuitBreaker) -> State:
    """A function, because mypy takes a property that was compared once for unchanging."""
    return breaker.state


def fail() -> None:
    raise ConnectionError


# -- variants ----------------------------------------------------------------------------------------------------------


def test_a_variant_judges_for_itself_but_shares_the_state(colour: Colour) -> None:
    breaker = CircuitBreaker("db", failure_threshold=2)
    lenient = breaker.with_(failure_on=TimeoutError, name="lenient")
    for one in (lenient, breaker, lenient, breaker):
        with pytest.raises(ConnectionError):
            colour.guarded(one, fail)()
    assert (state(breaker), state(lenient)) == (State.OPEN, State.OPEN)
    with pytest.raises(CircuitOpenError) as caught:
        colour.guarded(lenient, fail)()
    assert caught.value.policy == "lenient"
    breaker.reset()
    assert state(lenient) is State.CLOSED
    assert breaker.statistics() == lenient.statistics()


def test_every_setting_of_a_caller_can_differ(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_rate=None, slow_call_duration=1.0)
    heard: list[Any] = []
    variant = breaker.with_(
        slow_call_duration=None,
        ignore=ConnectionError,
        failure_if=lambda result: result is None,
        listeners=[heard.append],
    )
    colour.guarded(breaker, colour.sleep)(2.0)
    colour.guarded(variant, colour.sleep)(2.0)
    with pytest.raises(ConnectionError):
        colour.guarded(variant, fail)()
    statistics = breaker.statistics()
    assert (statistics.calls, statistics.slow, statistics.failures) == (2, 1, 1)
    assert [type(event).__name__ for event in heard] == ["CallFailed"]


# -- modes -------------------------------------------------------------------------------------------------------------


def test_shadow_mode_decides_and_records_but_never_refuses(colour: Colour) -> None:
    breaker = CircuitBreaker("db", failure_threshold=1, jitter=0.0, mode="shadow")
    with pytest.raises(ConnectionError):
        colour.guarded(breaker, fail)()
    assert state(breaker) is State.OPEN
    with recorded_events(CallRejected) as events:
        assert colour.guarded(breaker, lambda: "answer")() == "answer"
    assert [(event.policy, event.retry_after, event.shadow) for event in events] == [("db", 5.0, True)]
    assert (state(breaker), breaker.statistics().rejected) == (State.OPEN, 1)
    colour.clock.advance(5.0)
    for _ in range(2):
        colour.guarded(breaker, lambda: "answer")()
    assert state(breaker) is State.CLOSED


def test_a_call_that_a_shadow_let_pass_counts_for_nothing(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1, mode="shadow")
    breaker.settle(breaker.admit(), FAILURE)
    passed = breaker.admit()
    clock.advance(100.0)
    probe = breaker.admit()
    beyond = breaker.admit()
    breaker.settle(passed)
    breaker.settle(beyond)
    assert state(breaker) is State.HALF_OPEN
    breaker.settle(probe)
    assert state(breaker) is State.CLOSED


def test_a_disabled_breaker_neither_refuses_nor_counts(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_threshold=1, mode="disabled")
    with pytest.raises(ConnectionError):
        colour.guarded(breaker, fail)()
    assert colour.guarded(breaker, lambda: "answer")() == "answer"
    assert (state(breaker), breaker.statistics().calls) == (State.CLOSED, 0)
    breaker.isolate()
    assert colour.guarded(breaker, lambda: "answer")() == "answer"
    assert breaker.statistics().rejected == 0


def test_the_mode_can_be_changed_at_any_time(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    guarded = colour.guarded(breaker, lambda: "answer")
    with pytest.raises(ConnectionError):
        colour.guarded(breaker, fail)()
    modes: list[tuple[Mode, bool]] = [
        ("enabled", False),
        ("shadow", True),
        ("enabled", False),
        ("disabled", True),
        ("enabled", False),
    ]
    for mode, passes in modes:
        breaker.mode = mode
        assert breaker.mode == breaker.statistics().mode == mode
        if passes:
            assert guarded() == "answer"
        else:
            with pytest.raises(CircuitOpenError):
                guarded()


def test_what_ends_while_the_breaker_is_disabled_gives_its_place_back_and_counts_for_nothing(
    clock: ManualClock,
) -> None:
    """Closed calls were ignored but probes still closed and opened a circuit that was switched off."""
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1)
    call = breaker.admit()
    breaker.mode = "disabled"
    breaker.settle(call, FAILURE)
    assert (state(breaker), breaker.statistics().calls) == (State.CLOSED, 0)
    breaker.mode = "enabled"
    breaker.settle(breaker.admit(), FAILURE)
    clock.advance(100.0)
    for verdict in (SUCCESS, FAILURE, ABANDONED):
        probe = breaker.admit()
        breaker.mode = "disabled"
        breaker.settle(probe, verdict)
        assert (state(breaker), breaker.statistics().probes) == (State.HALF_OPEN, 0)
        breaker.mode = "enabled"


def test_time_passes_a_disabled_breaker_by(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1, jitter=0.0)
    breaker.settle(breaker.admit(), FAILURE)
    clock.advance(5.0)
    breaker.admit()
    breaker.mode = "disabled"
    clock.advance(31.0)
    statistics = breaker.statistics()
    assert (statistics.state, statistics.probes, statistics.retry_after) == (State.HALF_OPEN, 1, None)
    breaker.mode = "enabled"
    assert (breaker.statistics().state, breaker.statistics().retry_after) == (State.OPEN, 9.0)


def test_a_breaker_that_was_touched_by_hand_or_by_failures_is_not_at_rest(clock: ManualClock) -> None:
    breaker = CircuitBreaker(window=TimeWindow(10.0, 1), slow_call_duration=1.0)
    assert breaker.at_rest
    breaker.settle(breaker.admit())
    assert breaker.at_rest
    breaker.settle(breaker.admit(), FAILURE)
    assert not breaker.at_rest
    breaker.settle(breaker.admit())
    clock.advance(10.0)
    assert breaker.at_rest
    slow = breaker.admit()
    clock.advance(2.0)
    breaker.settle(slow)
    assert not breaker.at_rest
    clock.advance(10.0)
    breaker.settle(breaker.admit(), FAILURE)
    clock.advance(10.0)
    assert not breaker.at_rest, "a failure in a row is remembered beyond the window"
    breaker.reset()
    assert breaker.at_rest
    breaker.mode = "disabled"
    assert not breaker.at_rest, "made anew, it would be enabled again"
    breaker.mode = "enabled"
    breaker.isolate()
    assert not breaker.at_rest
