"""What a breaker tells its listeners, when, and that no listener can hurt it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from resilience import (
    CallFailed,
    CallRejected,
    CallSucceeded,
    CircuitBreaker,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    CircuitOpenError,
    ProbeExpired,
    State,
    Verdict,
    bound,
    subscribe,
)
from resilience.testing import ManualClock, recorded_events
from tests.conftest import Colour

FAILURE = Verdict.FAILURE


def fail(error: Exception) -> None:
    raise error


def test_the_whole_life_of_a_circuit_is_told_in_order_with_its_facts(colour: Colour) -> None:
    error = OSError("down")
    breaker = CircuitBreaker("db", failure_threshold=2, jitter=0.0, half_open_max_calls=1, success_threshold=1)

    def fails_after_a_while() -> None:
        colour.clock.advance(0.5)
        raise error

    failing = colour.guarded(breaker, fails_after_a_while)
    succeeding = colour.guarded(breaker, colour.sleep)
    common: dict[str, Any] = {"policy": "db", "correlation_id": "abc"}
    with recorded_events() as events, bound("abc"):
        succeeding(0.25)
        for _ in range(2):
            with pytest.raises(OSError):
                failing()
        with pytest.raises(CircuitOpenError):
            failing()
        colour.clock.advance(5.0)
        breaker.admit()
        assert type(events[-1]) is CircuitHalfOpened, "told at once, not with the next event"
        colour.clock.advance(30.0)
        with pytest.raises(CircuitOpenError):
            succeeding(0.0)
        colour.clock.advance(10.0)
        succeeding(0.0)
        breaker.isolate()
        breaker.isolate()
        breaker.reset()
        breaker.reset()
    assert events == [
        CallSucceeded(time=1000.25, duration=0.25, **common),
        CallFailed(time=1000.75, duration=0.5, error=error, **common),
        CallFailed(time=1001.25, duration=0.5, error=error, **common),
        CircuitOpened(time=1001.25, reason="2 failures in a row", recovery_time=5.0, **common),
        CallRejected(time=1001.25, retry_after=5.0, **common),
        CircuitHalfOpened(time=1006.25, **common),
        ProbeExpired(time=1036.25, **common),
        CircuitOpened(time=1036.25, reason="1 of 1 probes failed", recovery_time=10.0, **common),
        CallRejected(time=1036.25, retry_after=10.0, **common),
        CircuitHalfOpened(time=1046.25, **common),
        CallSucceeded(time=1046.25, duration=0.0, **common),
        CircuitClosed(time=1046.25, reason="recovered", **common),
        CircuitOpened(time=1046.25, reason="isolated", recovery_time=None, **common),
        CircuitClosed(time=1046.25, reason="reset", **common),
    ]


class Ticking(ManualClock):
    """A clock that is never read twice at the same instant, as in real life."""

    def now(self) -> float:
        self._now += 0.001
        return self._now


def test_the_end_of_a_call_is_told_with_the_instant_at_which_it_counts(colour: Colour) -> None:
    """Read once more, the clock would date a failure after the opening that it caused, and logs are sorted."""
    events: list[Any] = []
    breaker = CircuitBreaker(
        failure_threshold=1,
        recovery_time=0.1,
        jitter=0.0,
        half_open_max_calls=1,
        success_threshold=1,
        clock=Ticking(),
        listeners=[events.append],
    )
    with pytest.raises(OSError):
        colour.guarded(breaker, lambda: fail(OSError()))()
    breaker._clock.sleep(0.1)
    colour.guarded(breaker, lambda: None)()
    kinds = [CallFailed, CircuitOpened, CircuitHalfOpened, CallSucceeded, CircuitClosed]
    assert [type(event) for event in events] == kinds
    times = [event.time for event in events]
    assert times == sorted(times)
    assert times[0] == times[1]
    assert times[3] == times[4]


def test_the_reason_says_which_rule_opened_the_circuit(clock: ManualClock) -> None:
    heard: list[Any] = []
    failing = CircuitBreaker(minimum_calls=2, listeners=[heard.append])
    slow = CircuitBreaker(minimum_calls=2, slow_call_duration=1.0, listeners=[heard.append])
    for breaker, verdict in ((failing, FAILURE), (slow, Verdict.SUCCESS)):
        for _ in range(2):
            permit = breaker.admit()
            clock.advance(2.0)
            breaker.settle(permit, verdict)
    assert [event.reason for event in heard if isinstance(event, CircuitOpened)] == [
        "2 of 2 calls failed",
        "2 of 2 calls were slow",
    ]


def test_what_happened_in_the_past_is_told_with_its_own_time(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, jitter=0.0, half_open_max_calls=1, success_threshold=1)
    breaker.settle(breaker.admit(), FAILURE)
    clock.advance(5.0)
    breaker.admit()
    clock.advance(1000.0)
    with recorded_events() as events:
        breaker.statistics()
        breaker.settle(breaker.admit(), Verdict.ABANDONED)
    assert [(type(event), event.time) for event in events] == [
        (ProbeExpired, 1035.0),
        (CircuitOpened, 1035.0),
        (CircuitHalfOpened, 2005.0),
    ]


def test_a_slow_success_and_a_bad_result_are_told_as_such(colour: Colour) -> None:
    breaker = CircuitBreaker(slow_call_duration=1.0, failure_if=lambda result: result == "bad")
    with recorded_events() as events:
        colour.guarded(breaker, colour.sleep)(2.0, "good")
        colour.guarded(breaker, colour.sleep)(0.5, "bad")
    succeeded, failed = events
    assert (type(succeeded), succeeded.slow, succeeded.duration) == (CallSucceeded, True, 2.0)
    assert (type(failed), failed.error, failed.duration) == (CallFailed, None, 0.5)


def test_abandoned_calls_are_not_told(colour: Colour) -> None:
    with recorded_events() as events, pytest.raises(KeyError):
        colour.guarded(CircuitBreaker(ignore=KeyError), lambda: fail(KeyError()))()
    assert events == []


def test_listeners_of_one_breaker_hear_only_that_one(colour: Colour) -> None:
    heard: list[Any] = []
    breaker = CircuitBreaker("mine", listeners=[heard.append])
    colour.guarded(breaker, lambda: None)()
    colour.guarded(CircuitBreaker("other"), lambda: None)()
    assert [event.policy for event in heard] == ["mine"]


def test_a_flaky_listener_breaks_no_call_and_is_logged_once(colour: Colour, caplog: pytest.LogCaptureFixture) -> None:
    """B13: one flaky listener broke calls, or killed a worker, in interlock and in tenacity's `before_sleep`."""

    def flaky(event: object) -> None:
        raise ZeroDivisionError

    heard: list[Any] = []
    breaker = CircuitBreaker(failure_threshold=1, listeners=[flaky, heard.append])
    with caplog.at_level(logging.ERROR, "resilience"):
        assert colour.guarded(breaker, lambda: "answer")() == "answer"
        with pytest.raises(OSError):
            colour.guarded(breaker, lambda: fail(OSError()))()
        with pytest.raises(CircuitOpenError):
            colour.guarded(breaker, lambda: "answer")()
    assert [type(event) for event in heard] == [CallSucceeded, CallFailed, CircuitOpened, CallRejected]
    assert len(caplog.records) == 1


def test_a_listener_may_use_the_breaker_itself_and_events_stay_in_order(colour: Colour) -> None:
    """B12: callbacks ran under the lock and deadlocked or re-entered in Polly and gobreaker."""
    heard: list[Any] = []

    def meddler(event: Any) -> None:
        if isinstance(event, CircuitOpened) and event.reason != "isolated":
            assert breaker.statistics().state is State.OPEN
            breaker.isolate()
            breaker.reset()

    breaker = CircuitBreaker(failure_threshold=1, listeners=[meddler, heard.append])
    with pytest.raises(OSError):
        colour.guarded(breaker, lambda: fail(OSError()))()
    assert breaker.state is State.CLOSED
    assert [(type(event), getattr(event, "reason", None)) for event in heard] == [
        (CallFailed, None),
        (CircuitOpened, "1 failures in a row"),
        (CircuitOpened, "isolated"),
        (CircuitClosed, "reset"),
    ]


@pytest.mark.parametrize("predicate", ["failure_on", "ignore", "failure_if"])
def test_no_lock_is_held_while_user_code_runs(clock: ManualClock, predicate: str) -> None:
    """B11: pybreaker held its lock across calls, so five threads took five times as long."""
    seen: list[bool] = []

    def looks(value: object) -> bool:
        lock = breaker._machine.lock
        free = lock.acquire(False)
        if free:
            lock.release()
        seen.append(not free)
        return True

    def body() -> str:
        looks(None)
        if predicate != "failure_if":
            raise OSError
        return "answer"

    options: dict[str, Any] = {predicate: looks}
    breaker = CircuitBreaker(failure_threshold=1, listeners=[looks], **options)
    try:
        breaker.call(body)
    except OSError:
        seen.append(False)
    assert len(seen) >= 3
    assert not any(seen)


def test_two_threads_inside_one_breaker_run_at_the_same_time() -> None:
    """B11: each waits for the other inside the guarded call, which a lock held across it would forbid."""
    barrier = threading.Barrier(2, timeout=30.0)
    guarded = CircuitBreaker()(barrier.wait)
    threads = [threading.Thread(target=guarded) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken


def test_without_listeners_no_event_is_made(colour: Colour, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an event was made that nobody wants")

    for kind in (CallSucceeded, CallFailed, CircuitOpened, CallRejected):
        monkeypatch.setattr(kind, "__init__", refuse)
    breaker = CircuitBreaker(failure_threshold=1)
    colour.guarded(breaker, lambda: None)()
    with pytest.raises(OSError):
        colour.guarded(breaker, lambda: fail(OSError()))()
    with pytest.raises(CircuitOpenError):
        colour.guarded(breaker, lambda: None)()
    assert breaker.statistics().rejected == 1


def test_a_listener_that_comes_during_a_call_hears_what_follows(colour: Colour) -> None:
    heard: list[Any] = []
    breaker = CircuitBreaker(failure_threshold=1)
    guard = breaker.guard()
    colour.enter(guard)
    with subscribe(heard.append):
        colour.exit(guard, OSError())
    assert [type(event) for event in heard] == [CircuitOpened]
