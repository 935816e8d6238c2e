"""Calls torn apart: by signal handlers and listeners that raise, by the collector, by a closed loop."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CallTimeoutError,
    CircuitBreaker,
    Keyed,
    Layer,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    State,
    Timeout,
    _machine,
    correlated,
)
from resilience.testing import ManualClock, run
from tests.conftest import Colour


def interrupt(_event: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_in_a_listener_gives_the_place_in_the_queue_back(clock: ManualClock) -> None:
    """Events leave after the decision; an exception there used to take the permit along that nobody had seen yet."""
    bulkhead = Bulkhead(1, max_queue=5, listeners=[interrupt])
    permit = bulkhead.admit()
    with pytest.raises(KeyboardInterrupt):
        bulkhead.admit()
    assert bulkhead.statistics().waiting == 0
    bulkhead.settle(permit)
    assert bulkhead.statistics().in_use == 0


def test_an_interrupt_in_a_listener_gives_the_probe_back(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, jitter=0.0, half_open_max_calls=1, success_threshold=1)
    with pytest.raises(ZeroDivisionError):
        breaker(lambda: 1 / 0)()
    clock.advance(5.0)
    with pytest.raises(KeyboardInterrupt):
        breaker.with_(listeners=[interrupt]).admit()
    assert breaker.state is State.HALF_OPEN
    assert breaker.statistics().probes == 0


def test_an_interrupt_in_a_listener_returns_the_reserved_tokens(clock: ManualClock) -> None:
    limiter = RateLimiter(1, max_wait=10.0, listeners=[interrupt])
    limiter.admit()
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            limiter.admit()
    assert limiter.peek().retry_after == pytest.approx(1.0)


def test_an_interrupt_at_the_overflow_of_keys_returns_the_tokens(clock: ManualClock) -> None:
    limiter = RateLimiter(1, max_keys=1, key=lambda key: key, listeners=[interrupt])
    limiter.admit(("a",))
    with pytest.raises(KeyboardInterrupt):
        limiter.admit(("b",))
    assert limiter.peek("b").remaining == 1


def test_an_interrupt_on_the_way_to_a_refusal_leaves_nothing_to_give_back(clock: ManualClock) -> None:
    limiter = RateLimiter(1, max_keys=1, key=len, cost=lambda key: 1 if key == "a" else 5, listeners=[interrupt])
    limiter.admit(("a",))
    with pytest.raises(KeyboardInterrupt):
        limiter.admit(("bb",))
    bulkhead = Bulkhead(1, max_queue=1, max_wait=0)
    permit = bulkhead.admit()
    bulkhead.with_(listeners=[interrupt])._note(CallRejected)
    with pytest.raises(KeyboardInterrupt):
        bulkhead.admit()
    bulkhead.settle(permit)
    assert bulkhead.statistics().in_use == 0


def test_a_settlement_applied_between_two_looks_is_no_reason_to_refuse(clock: ManualClock) -> None:
    """The refusal without a lock looked at the count, then at what was handed over: which was applied in between."""
    bulkhead = Bulkhead(1)
    machine: Any = bulkhead._machine
    permit = bulkhead.admit()

    class Late:
        """A hand-over that somebody else applies at the moment it is looked at."""

        def __bool__(self) -> bool:
            machine.late = before
            bulkhead.settle(permit)
            return False

    before, machine.late = machine.late, Late()
    assert bulkhead.admit() == permit
    with pytest.raises(BulkheadFullError):
        bulkhead.admit()


@pytest.mark.parametrize(
    "inner",
    [
        lambda: correlated,
        lambda: Timeout(5),
        lambda: Retry(Exception, budget=RetryBudget()),
        lambda: Pipeline(Timeout(5), Bulkhead(1)),
        lambda: Keyed(lambda _: Timeout(5), key=lambda: "key"),
    ],
)
def test_a_pending_task_that_is_collected_counts_as_abandoned(inner: Callable[[], Layer]) -> None:
    """Its `finally` blocks run in a foreign context, where resetting a context variable raises: that used to replace
    the GeneratorExit, opened breakers, and made Retry try again inside the collector."""
    breaker = CircuitBreaker(failure_threshold=1)
    outer = Retry(Exception)

    @outer
    @breaker
    @inner()
    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it would complain about the task
    task = loop.create_task(stuck())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task, loop
    gc.collect()
    assert breaker.state is State.CLOSED
    assert breaker.statistics().failures == 0
    assert outer.statistics().retries == 0


def test_the_owner_of_a_deadline_fires_before_the_guardians_of_its_children(clock: ManualClock) -> None:
    """Children of a TaskGroup guard the inherited instant too. Fired first, they made the group fail before its parent
    was cancelled, and the caller saw an ExceptionGroup in seven runs of ten."""

    @Timeout(0.05, name="total")
    async def total() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(Timeout(10.0)(clock.asleep)(1.0))

    for _ in range(20):
        with pytest.raises(CallTimeoutError, match="total"):
            run(total(), clock)


def test_events_go_on_when_whoever_delivered_them_was_torn_out(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_machine, "_MOST_UNDELIVERED", 3)
    heard: list[object] = []
    bulkhead = Bulkhead(1, listeners=[heard.append])
    bulkhead.admit()
    bulkhead._machine.emitting.acquire()  # and nobody will ever release it
    for count in (0, 0, 3, 4):
        with pytest.raises(BulkheadFullError):
            bulkhead.admit()
        assert len(heard) == count


class StrangeError(Exception):
    """An error whose hint fails."""

    @property
    def retry_after(self) -> float:
        raise KeyError("no such header")


def test_a_hint_that_fails_does_not_replace_the_error(colour: Colour) -> None:
    breaker = CircuitBreaker(failure_threshold=2)

    def body() -> None:
        raise StrangeError

    with pytest.raises(StrangeError):
        colour.guarded(Pipeline(Retry(StrangeError, attempts=2), breaker), body)()
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_policy_can_be_neither_copied_nor_pickled_and_says_why(make: Callable[[object], object]) -> None:
    for policy in (CircuitBreaker("orders"), Bulkhead(1), RateLimiter(1), Timeout(1)):
        with pytest.raises(TypeError, match=r"can be neither copied nor pickled: .* with_\(\)"):
            make(policy)


def test_a_mode_that_cannot_be_compared_is_refused_like_any_other() -> None:
    class Array:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("ambiguous")

        def __hash__(self) -> int:
            return 0

    with pytest.raises(ValueError, match="mode must be"):
        CircuitBreaker(mode=Array())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_two_threads_that_deliver_at_once_lose_nothing(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "_MOST_UNDELIVERED", 2)
    heard: list[object] = []
    inside, go_on = threading.Event(), threading.Event()

    def slow_at_first(event: object) -> None:
        heard.append(event)
        if len(heard) == 1:
            inside.set()
            assert go_on.wait(60)

    bulkhead = Bulkhead(1, listeners=[slow_at_first])
    bulkhead.admit()

    def refused() -> None:
        with pytest.raises(BulkheadFullError):
            bulkhead.admit()

    thread = threading.Thread(target=refused)
    thread.start()
    assert inside.wait(60)
    refused()
    refused()
    assert len(heard) == 3
    go_on.set()
    thread.join(60)
    assert len(heard) == 3
