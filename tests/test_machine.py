"""The kernel: settling never waits, nothing is lost on the way, events leave in the order of the decisions."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    Keyed,
    RateLimiter,
    Retry,
    Timeout,
)
from resilience import (
    bulkhead as bulkhead_module,
)
from resilience._machine import ABANDONED, Machine, Verdict
from resilience._wait import Wait
from resilience.testing import ManualClock, run


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


# -- settling never waits ----------------------------------------------------------------------------------------------


def test_a_settlement_that_finds_the_lock_taken_is_applied_by_whoever_unlocks() -> None:
    """Rule 11: it may run in a finaliser, inside any allocation of a thread that holds the lock already."""
    bulkhead = Bulkhead(1)
    permit = bulkhead.admit()
    with bulkhead._machine.lock:
        bulkhead.settle(permit)
        assert bulkhead._machine.used == 1
    bulkhead._machine.unlocked()
    assert bulkhead._machine.used == 0
    assert not bulkhead._machine.late


def test_the_last_slot_is_looked_at_again_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads saw it free, and one of them took it before the other held the lock."""
    bulkhead = Bulkhead(1)
    machine = bulkhead._machine

    class Overtaken:
        """A token to take; whoever takes it was overtaken just before."""

        def pop(self) -> None:
            machine.lock.acquire()
            machine.used += 1

        def append(self, token: None) -> None:
            machine.lock.release()

    monkeypatch.setattr(machine, "free", Overtaken())
    refused(bulkhead)
    assert machine.used == 1


@pytest.mark.parametrize("capacity", [1, 2])
def test_the_next_decision_sees_what_was_handed_over(capacity: int) -> None:
    bulkhead = Bulkhead(capacity)
    permit = bulkhead.admit()
    with bulkhead._machine.lock:
        bulkhead.settle(permit)
    assert bulkhead.admit() == permit
    assert not bulkhead._machine.late
    assert bulkhead.statistics().in_use == 1


def test_settling_looks_for_what_others_handed_over() -> None:
    bulkhead = Bulkhead(2)
    first, second = bulkhead.admit(), bulkhead.admit()
    with bulkhead._machine.lock:
        bulkhead.settle(first)
    bulkhead.settle(second)
    assert bulkhead._machine.used == 0


@pytest.mark.parametrize(
    "look", [lambda b: b.statistics().in_use == 0, lambda b: b.at_rest], ids=["statistics", "at rest"]
)
def test_what_was_handed_over_counts_for_whoever_asks(look: Callable[[Bulkhead], bool]) -> None:
    bulkhead = Bulkhead(2)
    permit = bulkhead.admit()
    assert not look(bulkhead)
    with bulkhead._machine.lock:
        bulkhead.settle(permit)
    assert look(bulkhead)


def test_a_slot_handed_over_wakes_the_waiter_when_the_lock_is_free(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=1)

    async def main() -> float:
        permit = bulkhead.admit()
        waiter = asyncio.create_task(bulkhead(asyncio.sleep)(0))
        await asyncio.sleep(0)
        assert bulkhead.statistics().waiting == 1
        with bulkhead._machine.lock:
            bulkhead.settle(permit)
        bulkhead.statistics()
        await waiter
        return clock.now()

    assert run(main(), clock) == 1000.0
    assert bulkhead.statistics().in_use == 0


def test_settlements_race_with_the_lock_holder_without_loss() -> None:
    bulkhead = Bulkhead(8)
    permits = [bulkhead.admit() for _ in range(8)]
    with bulkhead._machine.lock:
        for permit in permits:
            assert in_thread(lambda permit=permit: bulkhead.settle(permit)) is None  # type: ignore[misc]
    assert bulkhead.statistics().in_use == 0


# -- finalisers --------------------------------------------------------------------------------------------------------


def dropped_inside(lock: AbstractContextManager[Any], subject: list[Any]) -> None:
    """Have the collector finalise what `subject` holds while this thread holds `lock`."""
    cycle: list[Any] = [subject.pop()]
    cycle.append(cycle)
    with lock:
        del cycle
        gc.collect()


def guard_of(policy: Any) -> Any:
    return policy.guard().__enter__()


def generator_of(policy: Any) -> Any:
    def numbers() -> Any:
        yield from range(3)

    generator = policy(numbers)()
    next(generator)
    return generator


def coroutine_of(policy: Any) -> Any:
    async def fetch() -> None:
        """Never awaited."""

    def returns_a_coroutine() -> Any:
        return fetch()

    return policy(returns_a_coroutine)()


@pytest.mark.parametrize("make", [guard_of, generator_of, coroutine_of])
def test_an_owner_that_is_finalised_while_its_own_thread_holds_the_lock_does_not_hang(
    make: Callable[[Any], Any],
) -> None:
    """Any plain lock taken in `__del__` or in a generator's `finally` deadlocks here (L12)."""
    bulkhead = Bulkhead(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the coroutine was never awaited: that is the point
        assert in_thread(lambda: dropped_inside(bulkhead._machine.lock, [make(bulkhead)])) is None
    assert bulkhead.statistics().in_use == 0


@pytest.mark.parametrize(
    "policy",
    [
        CircuitBreaker(),
        RateLimiter(5, charge_if=bool),
        Timeout(5.0),
        Keyed(lambda _: Bulkhead(1), key=lambda: "key"),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_a_generator_of_any_policy_is_finalised_under_its_lock_without_hanging(policy: Any) -> None:
    assert in_thread(lambda: dropped_inside(policy._machine.lock, [generator_of(policy)])) is None


def test_a_waiter_that_is_finalised_under_the_lock_leaves_the_queue(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=5)
    permit = bulkhead.admit()
    wait = bulkhead.admit()
    assert type(wait) is Wait
    subject: list[Any] = [wait.suspend()]

    async def main() -> None:
        subject[0].send(None)

    run(main(), clock)
    assert bulkhead.statistics().waiting == 1
    del wait
    assert in_thread(lambda: dropped_inside(bulkhead._machine.lock, subject)) is None
    assert bulkhead.statistics().waiting == 0
    bulkhead.settle(permit)
    assert bulkhead.statistics().in_use == 0


def test_a_drop_inside_the_allocation_of_a_new_ticket_lets_that_ticket_in(
    monkeypatch: pytest.MonkeyPatch, colour: Any
) -> None:
    bulkhead = Bulkhead(1, max_queue=1)
    holders = [bulkhead.guard().__enter__()]

    class Ticket(bulkhead_module.Ticket):  # type: ignore[name-defined,misc]
        __slots__ = ()

        def __init__(self, give_back: Any) -> None:
            super().__init__(give_back)
            holders.clear()  # as a garbage collection at this very moment would do

    monkeypatch.setattr(bulkhead_module, "Ticket", Ticket)
    assert colour.guarded(bulkhead, lambda: bulkhead.statistics().in_use)() == 1
    assert bulkhead.statistics().in_use == 0
    assert colour.clock.now() == 1000.0


# -- what belongs to whom ----------------------------------------------------------------------------------------------


def test_calls_at_the_same_time_do_not_share_what_belongs_to_one(clock: ManualClock) -> None:
    breaker = CircuitBreaker(minimum_calls=100, slow_call_duration=2.5)

    async def work(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def main() -> None:
        await asyncio.gather(*(breaker(work)(seconds) for seconds in (1.0, 2.0, 3.0)))

    run(main(), clock)
    assert breaker.statistics().slow == 1


def test_every_rejection_is_an_exception_of_its_own() -> None:
    """purgatory raised one instance for ever, whose traceback grew by six frames each time (B9)."""
    bulkhead = Bulkhead(1)
    permit = bulkhead.admit()
    first, second = refused(bulkhead), refused(bulkhead)
    assert first is not second
    assert first.__traceback__ is not second.__traceback__
    bulkhead.settle(permit)


def test_a_layer_that_admits_no_calls_says_so() -> None:
    retry = Retry(on=ValueError)
    with pytest.raises(TypeError, match="Retry does not admit calls"):
        retry.admit()
    with pytest.raises(TypeError, match="Retry does not settle calls"):
        retry.settle(1)


def test_a_machine_applies_in_order_and_wakes_whom_it_is_told_to() -> None:
    machine = Machine()
    applied: list[Any] = []

    def apply(permit: Any, verdict: Verdict) -> tuple[()]:
        applied.append((permit, verdict, taken(machine)))
        return ()

    machine.late.extend((apply, number, ABANDONED) for number in range(3))
    machine.unlocked()
    assert applied == [(number, ABANDONED, True) for number in range(3)]
    assert not taken(machine)


def test_an_error_in_what_was_handed_over_does_not_keep_the_lock() -> None:
    machine = Machine()

    def apply(permit: Any, verdict: Verdict) -> tuple[()]:
        raise LookupError

    machine.late.append((apply, None, ABANDONED))
    with pytest.raises(LookupError):
        machine.unlocked()
    assert not taken(machine)


# -- other event loops -------------------------------------------------------------------------------------------------


def test_an_async_function_driven_by_something_other_than_asyncio_is_refused_clearly() -> None:
    bulkhead, breaker = Bulkhead(1, max_queue=1), CircuitBreaker()

    async def fetch() -> None:
        """Never runs."""

    keyed = Keyed(lambda _: bulkhead, key=lambda: 1)
    for policy in (bulkhead, breaker, RateLimiter(5), Timeout(5.0), Retry(OSError), keyed):
        with pytest.raises(RuntimeError, match=r"under asyncio only; Trio and other event loops are not supported"):
            policy(fetch)().send(None)
        assert policy.at_rest
    with pytest.raises(RuntimeError, match="under asyncio only"):
        bulkhead.guard().__aenter__().send(None)
    permit = bulkhead.admit()
    waiting = bulkhead.admit()
    with pytest.raises(RuntimeError, match="under asyncio only"):
        waiting.suspend().send(None)
    bulkhead.settle(permit)
    assert (bulkhead.statistics().in_use, bulkhead.statistics().waiting) == (0, 0)
