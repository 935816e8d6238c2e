"""Calls that have to wait for a slot: how long, and who is to blame when it was too long."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    BulkheadStatistics,
    CallQueued,
    CallRejected,
    DeadlineExceededError,
    Pipeline,
    Timeout,
)
from resilience._machine import ABANDONED
from resilience._wait import Wait
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour


def test_a_wait_ends_after_max_wait_with_the_bulkheads_own_rejection(colour: Colour) -> None:
    bulkhead = Bulkhead(1, max_queue=1, max_wait=timedelta(seconds=7), name="db")
    permit = bulkhead.admit()
    with recorded_events() as events, pytest.raises(BulkheadFullError) as caught:
        colour.guarded(bulkhead, lambda: None)()
    assert (colour.clock.now(), caught.value.policy) == (1007.0, "db")
    assert events == [CallQueued(policy="db", time=1000.0, seconds=7.0), CallRejected(policy="db", time=1007.0)]
    assert bulkhead.statistics() == BulkheadStatistics(1, 1, 1, 0, 1, 1)
    bulkhead.settle(permit)
    assert bulkhead.statistics().in_use == 0


def test_the_default_wait_is_half_a_minute(colour: Colour) -> None:
    bulkhead = Bulkhead(1, max_queue=1)
    permit = bulkhead.admit()
    with pytest.raises(BulkheadFullError):
        colour.guarded(bulkhead, lambda: None)()
    assert colour.clock.now() == 1030.0
    bulkhead.settle(permit)


def test_without_patience_nobody_queues(colour: Colour) -> None:
    bulkhead = Bulkhead(1, max_queue=5, max_wait=0)
    permit = bulkhead.admit()
    with recorded_events(CallQueued) as events, pytest.raises(BulkheadFullError):
        colour.guarded(bulkhead, lambda: None)()
    assert not events
    assert colour.clock.now() == 1000.0
    assert bulkhead.statistics().queued == 0
    bulkhead.settle(permit)


def test_a_deadline_shorter_than_the_wait_ends_it(colour: Colour) -> None:
    bulkhead = Bulkhead(1, max_queue=1, max_wait=30.0, name="db")
    permit = bulkhead.admit()
    with pytest.raises(DeadlineExceededError) as caught:
        colour.guarded(Pipeline(Timeout(5.0, name="total"), bulkhead), lambda: None)()
    assert caught.value.policy == "db"
    assert colour.clock.now() == 1005.0
    assert bulkhead.statistics() == BulkheadStatistics(1, 1, 1, 0, 1, 1)
    bulkhead.settle(permit)


def test_a_deadline_is_the_only_limit_where_there_is_no_other(colour: Colour) -> None:
    bulkhead = Bulkhead(1, max_queue=1, max_wait=None)
    permit = bulkhead.admit()
    with recorded_events(CallQueued) as events, pytest.raises(DeadlineExceededError):
        colour.guarded(Pipeline(Timeout(3600.0), bulkhead), lambda: None)()
    assert events[0].seconds is None
    assert colour.clock.now() == 4600.0
    bulkhead.settle(permit)


def test_a_deadline_longer_than_the_wait_is_not_blamed(colour: Colour) -> None:
    bulkhead = Bulkhead(1, max_queue=1, max_wait=5.0)
    permit = bulkhead.admit()
    with pytest.raises(BulkheadFullError):
        colour.guarded(Pipeline(Timeout(60.0), bulkhead), lambda: None)()
    assert colour.clock.now() == 1005.0
    bulkhead.settle(permit)


@pytest.mark.parametrize("now", [0.1, 0.3, 1e-3, 1234567.1])
@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.7, 1e-3])
def test_rounding_does_not_change_who_is_blamed(now: float, seconds: float) -> None:
    """The remaining time was asked again after the wait, and could be a billionth of a second by then."""
    clock = ManualClock(now)
    bulkhead = Bulkhead(1, max_queue=1, clock=clock)
    permit = bulkhead.admit()
    with pytest.raises(DeadlineExceededError):
        Pipeline(Timeout(seconds, clock=clock), bulkhead)(lambda: None)()
    bulkhead.settle(permit)


def test_a_slot_handed_over_before_the_wait_was_too_long_is_still_taken() -> None:
    """Another thread was inside when it was given back; the waiter looks again before it gives up."""

    class Clock(ManualClock):
        def wait(self, lock: Any, seconds: float | None) -> bool:
            with bulkhead._machine.lock:
                bulkhead.settle(permit)
            return False

    bulkhead = Bulkhead(1, max_queue=1, clock=Clock())
    permit = bulkhead.admit()
    assert bulkhead(lambda: "ran")() == "ran"
    assert bulkhead.statistics() == BulkheadStatistics(1, 1, 0, 0, 1, 0)


def test_a_waiter_that_gives_up_looks_for_what_others_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    bulkhead = Bulkhead(2, max_queue=1)
    machine = bulkhead._machine
    permits = [bulkhead.admit(), bulkhead.admit()]
    wait = bulkhead.admit()
    assert type(wait) is Wait

    def wake(tickets: Any) -> None:
        assert list(tickets) == []
        machine.late.append((bulkhead._release_locked, permits.pop(), ABANDONED))

    with monkeypatch.context() as patched:
        patched.setattr(type(machine), "wake", lambda self, tickets: wake(tickets) if permits else None)
        assert bulkhead._withdraw(wait) is True
    assert machine.used == 0


def test_nobody_queues_when_no_time_is_left(colour: Colour) -> None:
    bulkhead = Bulkhead(1, max_queue=1)
    permit = bulkhead.admit()
    late = colour.function(lambda: None)

    def outer() -> Any:
        colour.clock.advance(10.0)
        return bulkhead(late)()

    with pytest.raises(DeadlineExceededError):
        colour.guarded(Timeout(10.0), outer)()
    assert bulkhead.statistics() == BulkheadStatistics(1, 1, 1, 0, 0, 1)
    bulkhead.settle(permit)


def test_a_call_past_its_deadline_still_gets_a_free_slot(colour: Colour) -> None:
    """It is the Timeout that refuses calls without time; a bulkhead only refuses to make them wait."""
    bulkhead = Bulkhead(1)

    def outer() -> Any:
        colour.clock.advance(10.0)
        return bulkhead(colour.function(lambda: "ran"))()

    guard = Timeout(10.0).guard()
    guard.__enter__()
    assert colour.run(outer()) == "ran"
    guard.__exit__(None, None, None)


def test_a_plain_function_that_has_to_wait_in_a_loops_thread_says_so_once(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=1, max_wait=1.0, name="db")
    permit = bulkhead.admit()
    guarded = bulkhead(lambda: None)

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(BulkheadFullError):
                guarded()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(main(), clock)
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert "<Bulkhead db: 1 of 1 in use, 1 of 1 waiting> makes a plain function wait" in str(caught[0].message)
    assert "decorate an `async def` instead" in str(caught[0].message)
    assert caught[0].filename == __file__
    bulkhead.settle(permit)


def test_a_warning_that_is_an_error_leaks_nothing(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=1)
    permit = bulkhead.admit()

    async def main() -> None:
        with pytest.raises(RuntimeWarning):
            bulkhead(lambda: None)()

    run(main(), clock)
    assert bulkhead.statistics().waiting == 0
    bulkhead.settle(permit)


def test_a_thread_that_waits_without_a_loop_is_not_warned(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=1)
    permit = bulkhead.admit()
    with pytest.raises(BulkheadFullError):
        bulkhead(lambda: None)()
    bulkhead.settle(permit)
