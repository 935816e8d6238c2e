"""Events: they leave outside the lock, in the order of the decisions, and cost nothing without listeners."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    _policy,
    events,
    subscribe,
)
from resilience import (
    bulkhead as bulkhead_module,
)
from resilience._machine import Machine


def in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises in a thread of its own."""
    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(20.0)
    assert not thread.is_alive(), "it hangs"
    return outcome[0]


def taken(machine: Machine) -> bool:
    """Whether somebody holds the lock."""
    if not machine.lock.acquire(False):
        return True
    machine.lock.release()
    return False


def refused(bulkhead: Bulkhead) -> BulkheadFullError:
    with pytest.raises(BulkheadFullError) as caught:
        bulkhead.admit()
    return caught.value


def test_events_leave_in_the_order_of_the_decisions_whoever_delivers_them() -> None:
    """Callbacks under the lock deadlocked in Polly and gobreaker (B12)."""
    entered, go_on = threading.Event(), threading.Event()
    told: list[Any] = []

    def slow_listener(event: Any) -> None:
        told.append(event.policy)
        if len(told) == 1:
            entered.set()
            assert go_on.wait(20.0)

    bulkhead = Bulkhead(1, name="0", listeners=[slow_listener])
    permit = bulkhead.admit()
    first = threading.Thread(target=refused, args=(bulkhead,), daemon=True)
    first.start()
    assert entered.wait(20.0)
    # The first thread is in the listener. Others are not held up by it, and their events wait for their turn.
    for number in range(1, 5):
        in_thread(lambda number=number: refused(bulkhead.with_(name=str(number))))  # type: ignore[misc]
    assert told == ["0"]
    go_on.set()
    first.join(20.0)
    assert told == ["0", "1", "2", "3", "4"]
    bulkhead.settle(permit)


def test_a_listener_may_call_the_policy_that_speaks_to_it() -> None:
    told: list[Any] = []

    def listener(event: Any) -> None:
        told.append(event)
        if len(told) < 3:
            refused(bulkhead)
            assert len(told) < 3, "delivered inside the delivery"
            assert bulkhead.statistics().in_use == 1
            told.append("returned")

    bulkhead = Bulkhead(1, listeners=[listener])
    permit = bulkhead.admit()
    assert in_thread(lambda: refused(bulkhead)).policy is None
    assert [type(event).__name__ for event in told] == ["CallRejected", "str", "CallRejected"]
    bulkhead.settle(permit)


def test_a_listener_that_raises_is_logged_once_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture, colour: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flaky listener broke calls or killed a worker in interlock and tenacity (B13)."""
    monkeypatch.setattr(events, "_reported", type(events._reported)())
    heard: list[Any] = []

    def flaky(event: Any) -> None:
        raise RuntimeError("flaky")

    bulkhead = Bulkhead(1, listeners=[flaky, heard.append])
    permit = bulkhead.admit()
    with caplog.at_level(logging.ERROR, logger="resilience"):
        for _ in range(3):
            with pytest.raises(BulkheadFullError):
                colour.guarded(bulkhead, lambda: None)()
    assert len(heard) == 3
    assert [record.message.partition("failed")[2] for record in caplog.records] == [" on CallRejected; reported once"]
    bulkhead.settle(permit)
    assert colour.guarded(bulkhead, lambda: 7)() == 7


def test_without_listeners_no_event_is_made(monkeypatch: pytest.MonkeyPatch, colour: Any) -> None:
    made: list[Any] = []

    class Counted(CallRejected):
        def __init__(self, **facts: Any) -> None:
            made.append(facts)
            super().__init__(**facts)

    monkeypatch.setattr(_policy, "CallRejected", Counted)
    for bulkhead in (Bulkhead(1), Bulkhead(1, max_queue=1, max_wait=0)):
        guarded = colour.guarded(bulkhead, lambda: None)
        permit = bulkhead.admit()
        with pytest.raises(BulkheadFullError):
            guarded()
        assert not made
        with subscribe(lambda _: None), pytest.raises(BulkheadFullError):
            guarded()
        assert len(made) == 1
        with pytest.raises(BulkheadFullError):
            guarded()
        assert len(made) == 1
        made.clear()
        bulkhead.settle(permit)


def test_without_listeners_no_event_is_made_for_a_queue_either(monkeypatch: pytest.MonkeyPatch, colour: Any) -> None:
    made: list[Any] = []

    def queued(**facts: Any) -> str:
        made.append(facts)
        return "queued"

    monkeypatch.setattr(bulkhead_module, "CallQueued", queued)
    bulkhead = Bulkhead(1, max_queue=1)
    permit = bulkhead.admit()
    with pytest.raises(BulkheadFullError):
        colour.guarded(bulkhead, lambda: None)()
    assert not made
    with subscribe(lambda _: None), pytest.raises(BulkheadFullError):
        colour.guarded(bulkhead, lambda: None)()
    assert len(made) == 1
    bulkhead.settle(permit)


def test_user_code_runs_outside_the_lock(colour: Any) -> None:
    """pybreaker ran it under the lock: five calls of 0.1 s took 0.53 s (B11)."""

    def locked() -> bool:
        return taken(bulkhead._machine) or taken(breaker._machine)

    def look(*_: Any) -> bool:
        seen.append(locked())
        return False

    seen: list[bool] = []
    bulkhead = Bulkhead(1, listeners=[look])
    breaker = CircuitBreaker(failure_on=look, failure_if=look, listeners=[look], failure_threshold=1)

    def fails() -> None:
        raise ValueError

    colour.guarded(breaker, look)()
    with pytest.raises(ValueError):
        colour.guarded(breaker, fails)()
    permit = bulkhead.admit()
    with pytest.raises(BulkheadFullError):
        colour.guarded(bulkhead, fails)()
    bulkhead.settle(permit)
    assert len(seen) >= 4
    assert not any(seen)
