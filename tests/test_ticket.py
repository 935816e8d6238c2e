"""Tickets: granting, waking, waiting, timing out and being cancelled may meet in any order; no grant is lost."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience import Bulkhead, BulkheadFullError
from resilience._machine import ABANDONED
from resilience._ticket import Ticket
from resilience._wait import Wait
from resilience.testing import ManualClock, VirtualLoop, run
from tests.conftest import Colour


def new_ticket() -> Ticket:
    return Ticket(lambda ticket, verdict: ())


def wait_for(colour: Colour, ticket: Ticket, seconds: float | None) -> Any:
    if colour.is_async:
        return colour.run(ticket.suspend(colour.clock, seconds))
    return ticket.block(colour.clock, seconds)


@pytest.fixture
def loop(clock: ManualClock) -> Iterator[VirtualLoop]:
    loop = VirtualLoop(clock)
    yield loop
    loop.close()


# -- grant, wake, wait: in every order ---------------------------------------------------------------------------------


def test_a_grant_that_came_before_the_wait_ends_it_at_once(colour: Colour) -> None:
    ticket = new_ticket()
    ticket.granted = True
    assert wait_for(colour, ticket, 5.0) is True
    assert ticket.wake() is True
    assert colour.clock.now() == 1000.0


def test_a_wake_before_the_wait_is_not_lost(colour: Colour) -> None:
    ticket = new_ticket()
    ticket.granted = True
    assert ticket.wake() is True
    assert wait_for(colour, ticket, None) is True


def test_a_wait_without_a_grant_ends_when_its_time_is_up(colour: Colour) -> None:
    ticket = new_ticket()
    assert wait_for(colour, ticket, 5.0) is False
    assert colour.clock.now() == 1005.0


def test_a_wait_of_no_time_at_all_ends_at_once(colour: Colour) -> None:
    assert wait_for(colour, new_ticket(), 0.0) is False
    assert colour.clock.now() == 1000.0


def test_a_wake_after_the_time_was_up_is_harmless(colour: Colour) -> None:
    ticket = new_ticket()
    assert wait_for(colour, ticket, 5.0) is False
    ticket.granted = True
    assert ticket.wake() is True


def test_a_grant_between_the_end_of_the_wait_and_its_result_is_seen(colour: Colour) -> None:
    ticket = new_ticket()

    class Clock(ManualClock):
        def wait(self, lock: Any, seconds: float | None) -> bool:
            ticket.granted = True
            return False

        def call_later(self, loop: Any, seconds: float, callback: Any) -> Any:
            ticket.granted = True
            return loop.call_soon(callback)

    colour.clock = Clock()
    assert wait_for(colour, ticket, 5.0) is True


def test_a_grant_while_the_waiter_settles_down_is_seen(colour: Colour) -> None:
    """The waiter publishes how to wake it, then looks; the owner grants, then looks how to wake it."""

    class Late(Ticket):
        """Granted, and woken in vain, in the moment before the waker is published."""

        __slots__ = ()

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "_waker" and value is not None:
                self.granted = True
                assert self.wake() is True
            super().__setattr__(name, value)

    assert wait_for(colour, Late(lambda ticket, verdict: ()), None) is True


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("seconds", [None, 5.0])
def test_another_thread_wakes_the_waiter(asynchronous: bool, seconds: float | None) -> None:
    clock = ManualClock(auto=False)
    ticket = new_ticket()
    outcome: list[bool] = []

    async def suspended() -> bool:
        return await ticket.suspend(clock, seconds)

    def wait() -> None:
        outcome.append(asyncio.run(suspended()) if asynchronous else ticket.block(clock, seconds))

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    ticket.granted = True
    ticket.wake()  # the waiter may not have got so far as to be woken: then it sees the grant
    waiter.join(20.0)
    assert outcome == [True]


def test_a_task_is_woken_once_by_whatever_comes_first(loop: VirtualLoop) -> None:
    ticket = new_ticket()

    async def scenario() -> bool:
        loop.call_later(5.0, grant)  # in the very instant in which the time is up
        return await ticket.suspend(loop.clock, 5.0)

    def grant() -> None:
        ticket.granted = True
        assert ticket.wake() is True

    assert loop.run_until_complete(scenario()) is True


def test_the_timer_of_a_wait_that_ended_is_cancelled(loop: VirtualLoop) -> None:
    ticket = new_ticket()

    async def scenario() -> None:
        task = loop.create_task(ticket.suspend(loop.clock, 60.0))
        await asyncio.sleep(0)
        assert loop.clock.next_timer() == 1060.0
        ticket.granted = True
        assert ticket.wake() is True
        assert await task is True
        assert loop.clock.next_timer() == float("inf")

    loop.run_until_complete(scenario())


def test_a_cancelled_wait_is_cancelled_and_a_later_wake_harmless(loop: VirtualLoop) -> None:
    ticket = new_ticket()

    async def scenario() -> None:
        task = loop.create_task(ticket.suspend(loop.clock, None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ticket.granted = True
        assert ticket.wake() is True

    loop.run_until_complete(scenario())


# -- closed loops ------------------------------------------------------------------------------------------------------


def abandoned_waiters(bulkhead: Bulkhead, count: int, clock: ManualClock) -> list[Any]:
    """`count` suspended waits whose event loop is closed."""
    loop = VirtualLoop(clock)
    suspended: list[Any] = []

    async def main() -> None:
        for _ in range(count):
            wait = bulkhead.admit()
            assert type(wait) is Wait
            coroutine = wait.suspend()
            coroutine.send(None)
            suspended.append(coroutine)

    loop.run_until_complete(main())
    loop.close()
    return suspended


def test_waking_a_waiter_of_a_closed_loop_says_so(clock: ManualClock) -> None:
    ticket = new_ticket()
    loop = VirtualLoop(clock)

    async def main() -> None:
        coroutines.append(ticket.suspend(clock, None))
        coroutines[0].send(None)

    coroutines: list[Any] = []
    loop.run_until_complete(main())
    loop.close()
    ticket.granted = True
    assert ticket.wake() is False
    coroutines[0].close()


def test_a_waiter_of_a_closed_loop_passes_its_turn_to_the_next(clock: ManualClock) -> None:
    """Rule 6. The slot was lost with the loop where locks belong to loops."""
    bulkhead = Bulkhead(1, max_queue=5)
    permit = bulkhead.admit()
    dead = abandoned_waiters(bulkhead, 1, clock)

    async def main() -> int:
        alive = asyncio.create_task(bulkhead(held)())
        await asyncio.sleep(0)
        bulkhead.settle(permit)
        return await alive

    async def held() -> int:
        return bulkhead.statistics().in_use

    assert run(main(), clock) == 1
    assert bulkhead.statistics().in_use == 0
    dead[0].close()
    assert bulkhead.statistics().in_use == 0


def test_a_thousand_waiters_of_closed_loops_in_a_row_pass_it_on_without_recursion(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=5000)
    permit = bulkhead.admit()
    dead = abandoned_waiters(bulkhead, 3000, clock)
    assert bulkhead.statistics().waiting == 3000
    bulkhead.settle(permit)
    assert (bulkhead.statistics().in_use, bulkhead.statistics().waiting) == (0, 0)
    for coroutine in dead:
        coroutine.close()
    assert bulkhead.statistics().in_use == 0


@pytest.mark.parametrize("how", ["settle", "resize", "statistics"])
def test_whoever_wakes_passes_on_what_a_closed_loop_cannot_take(clock: ManualClock, how: str) -> None:
    bulkhead = Bulkhead(1, max_queue=5)
    permit = bulkhead.admit()
    dead = abandoned_waiters(bulkhead, 2, clock)
    if how == "settle":
        bulkhead.settle(permit)
    elif how == "resize":
        bulkhead.resize(2)
        assert (bulkhead._machine.used, len(bulkhead._machine.queue)) == (1, 0)
        bulkhead.settle(permit)
    else:
        with bulkhead._machine.lock:
            bulkhead.settle(permit)
        bulkhead.statistics()
    assert (bulkhead._machine.used, len(bulkhead._machine.queue)) == (0, 0)
    for coroutine in dead:
        coroutine.close()


def test_a_slot_granted_to_a_waiter_of_a_closed_loop_is_given_back_once(clock: ManualClock) -> None:
    """Both the failed wake-up and the collector gave it back: a bulkhead of 1 then let two calls in."""
    bulkhead = Bulkhead(1, max_queue=5)
    permit = bulkhead.admit()
    dead = abandoned_waiters(bulkhead, 1, clock)
    bulkhead.settle(permit)
    assert bulkhead.statistics().in_use == 0
    held = bulkhead.admit()
    dead.clear()
    gc.collect()
    assert bulkhead.statistics().in_use == 1
    with pytest.raises(BulkheadFullError):
        bulkhead.with_(max_wait=0).admit()
    bulkhead.settle(held)


def test_a_waiter_finalised_between_its_grant_and_the_failing_wake_gives_back_once(clock: ManualClock) -> None:
    """The same, the other way round."""
    bulkhead = Bulkhead(1, max_queue=5)
    machine = bulkhead._machine
    permit = bulkhead.admit()
    dead = abandoned_waiters(bulkhead, 1, clock)
    with machine.lock:
        woken = list(bulkhead._release_locked(permit, ABANDONED))
    dead.clear()
    gc.collect()
    assert machine.used == 0
    machine.wake(woken)
    machine.unlocked()
    assert machine.used == 0
    assert bulkhead.statistics().in_use == 0


def test_a_waiter_whose_loop_closes_before_it_could_take_the_slot_gives_it_back_when_it_is_collected(
    clock: ManualClock,
) -> None:
    bulkhead = Bulkhead(1, max_queue=5)
    permit = bulkhead.admit()
    loop = VirtualLoop(clock)
    suspended: list[Any] = []

    async def main() -> None:
        suspended.append(bulkhead.admit().suspend())
        suspended[0].send(None)
        other = threading.Thread(target=bulkhead.settle, args=(permit,))
        other.start()
        other.join()

    loop.run_until_complete(main())
    loop.close()
    assert bulkhead.statistics().in_use == 1
    suspended.clear()
    gc.collect()
    assert bulkhead.statistics().in_use == 0


def test_a_slot_taken_in_a_loop_that_has_closed_since_is_not_given_back_by_a_late_wake(clock: ManualClock) -> None:
    """The waiter saw its grant, ran and left; the thread that had granted only then came to wake it."""
    bulkhead = Bulkhead(1, max_queue=5)
    machine = bulkhead._machine
    permit, wait = bulkhead.admit(), bulkhead.admit()
    with machine.lock:
        woken = list(bulkhead._release_locked(permit, ABANDONED))
    taken = run(wait.suspend(), clock)
    machine.wake(woken)
    machine.unlocked()
    assert bulkhead.statistics().in_use == 1
    bulkhead.settle(taken)
    assert bulkhead.statistics().in_use == 0


# -- every interleaving of a waiter and an owner -----------------------------------------------------------------------


def schedules(first: int, second: int) -> list[tuple[str, ...]]:
    """Every order of so many steps of the waiter (w) and of the owner (o)."""
    return sorted(set(itertools.permutations("w" * first + "o" * second)))


@pytest.mark.parametrize("schedule", schedules(2, 2), ids="".join)
@pytest.mark.parametrize("ending", ["granted", "cancelled", "timed out"])
def test_whatever_the_order_a_slot_is_either_used_or_free(
    schedule: tuple[str, ...], ending: str, clock: ManualClock
) -> None:
    """The waiter queues, then goes on, or is cancelled, or times out; the owner grants, then wakes."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=5.0)
    machine = bulkhead._machine
    entered: list[float] = []

    async def main() -> None:
        permit = bulkhead.admit()
        woken: list[Ticket] = []
        task: asyncio.Task[None] | None = None

        def release() -> None:
            with machine.lock:
                woken.extend(bulkhead._release_locked(permit, ABANDONED))

        def end() -> None:
            assert task is not None
            if ending == "cancelled":
                task.cancel()
            elif ending == "timed out":
                clock.advance(5.0)

        steps: dict[str, Iterator[Callable[[], Any]]] = {
            "o": iter([release, lambda: machine.wake(woken)]),
            "w": iter([lambda: None, end]),
        }
        started = False
        for name in schedule:
            if name == "w" and not started:
                task = asyncio.create_task(bulkhead(enter)())
                started = True
            next(steps[name])()
            if name == "w":
                await asyncio.sleep(0)
        assert task is not None
        await asyncio.wait([task])
        assert task.cancelled() or isinstance(task.exception(), BulkheadFullError) or entered

    async def enter() -> None:
        entered.append(clock.now())
        assert bulkhead.statistics().in_use == 1

    run(main(), clock)
    statistics = bulkhead.statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    if ending == "granted":
        assert entered == [1000.0]
