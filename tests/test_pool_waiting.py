"""Waiting for a resource: who is next, how long at most, and what becomes of those who cannot wait any more."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    CallQueued,
    CallRejected,
    DeadlineExceededError,
    Pool,
    PoolClosedError,
    PoolExhaustedError,
    Timeout,
)
from resilience._wait import Wait
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour
from tests.pooled import Works, turns


@pytest.fixture
def works(colour: Colour) -> Works:
    return Works(colour)


def test_a_caller_waits_for_so_long_and_no_longer(works: Works, colour: Colour) -> None:
    pool = works.pool(max_size=1, max_wait=5.0, name="db")
    lease = pool.acquire()
    colour.enter(lease)
    with recorded_events(CallQueued, CallRejected) as events, pytest.raises(PoolExhaustedError) as caught:
        colour.enter(pool.acquire())
    assert (caught.value.policy, caught.value.retry_after) == ("db", None)
    assert colour.clock.now() == 1005.0
    assert [type(event) for event in events] == [CallQueued, CallRejected]
    assert events[0].seconds == 5.0
    statistics = pool.statistics()
    assert (statistics.timed_out, statistics.waiting, statistics.rejected) == (1, 0, 0)
    assert (statistics.wait_time, statistics.longest_wait) == (5.0, 5.0)
    colour.exit(lease)


def test_the_deadline_ends_the_wait_if_it_comes_first(works: Works, colour: Colour) -> None:
    pool = works.pool(max_size=1, max_wait=30.0, name="db")
    lease = pool.acquire()
    colour.enter(lease)

    def waiting() -> Any:
        return pool.acquire().__aenter__() if colour.is_async else pool.acquire().__enter__()

    with pytest.raises(DeadlineExceededError) as caught:
        colour.guarded(Timeout(2.0), waiting)()
    assert caught.value.policy == "db"
    assert colour.clock.now() == 1002.0
    unlimited = pool.with_(max_wait=None)
    with pytest.raises(DeadlineExceededError):
        colour.guarded(
            Timeout(3600.0),
            lambda: unlimited.acquire().__aenter__() if colour.is_async else unlimited.acquire().__enter__(),
        )()
    assert colour.clock.now() == 4602.0
    colour.exit(lease)


def test_a_full_queue_rejects_at_once(works: Works, colour: Colour) -> None:
    pool = works.pool(max_size=1, max_queue=0)
    lease = pool.acquire()
    colour.enter(lease)
    with recorded_events(CallQueued, CallRejected) as events, pytest.raises(PoolExhaustedError):
        colour.enter(pool.acquire())
    assert [type(event) for event in events] == [CallRejected]
    assert colour.clock.now() == 1000.0
    assert pool.statistics().rejected == 1
    colour.exit(lease)


def test_who_does_not_wait_is_rejected_at_once(works: Works, colour: Colour) -> None:
    pool = works.pool(max_size=1, max_wait=0)
    lease = pool.acquire()
    colour.enter(lease)
    with pytest.raises(PoolExhaustedError):
        colour.enter(pool.acquire())
    assert colour.clock.now() == 1000.0
    colour.exit(lease)


def test_the_time_that_creating_takes_is_no_waiting(works: Works, colour: Colour) -> None:
    """Meters around subtract waiting from the duration of a call; a slow server is not waiting."""
    from resilience._wait import Meter, meter

    works.takes = 3.0
    pool = works.pool()
    outer = Meter(None)
    token = meter.set(outer)
    lease = pool.acquire()
    try:
        colour.enter(lease)
    finally:
        meter.reset(token)
    colour.exit(lease)
    assert outer.waited == 0.0
    assert colour.clock.now() == 1003.0


def test_a_thread_gets_what_another_returns() -> None:
    pool: Pool[object] = Pool(object, max_size=1, max_wait=None)
    lease = pool.acquire()
    held = lease.__enter__()
    got: list[object] = []

    def work() -> None:
        with pool.acquire() as resource:
            got.append(resource)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while not pool.statistics().waiting:
        thread.join(0.001)
    lease.__exit__(None, None, None)
    thread.join(20.0)
    assert got == [held]
    assert pool.statistics().created == 1


def test_waiters_are_served_in_order_and_newcomers_do_not_overtake() -> None:
    async def main() -> list[int]:
        pool: Pool[object] = Pool(anything, max_size=1)
        order: list[int] = []

        async def work(number: int) -> None:
            async with pool.acquire():
                order.append(number)
                await asyncio.sleep(1.0)

        tasks = [asyncio.create_task(work(number)) for number in range(3)]
        await turns()
        async with asyncio.timeout(None):
            await tasks[0]
            await work(3)
        await asyncio.gather(*tasks)
        return order

    assert run(main()) == [0, 1, 2, 3]


async def anything() -> object:
    return object()


def test_a_cancelled_waiter_passes_its_turn_on() -> None:
    """A waiter cancelled in the moment of the hand-over took the slot with it (L3); queued ones poison pools (L11)."""

    async def main() -> None:
        pool: Pool[object] = Pool(anything, max_size=1)
        lease = pool.acquire()
        held = await lease.__aenter__()
        waiters = [asyncio.create_task(pool.acquire().__aenter__()) for _ in range(3)]
        await turns()
        waiters[1].cancel()
        await turns()
        assert pool.statistics().waiting == 2
        await lease.__aexit__(None, None, None)  # handed to the first waiter, who has not run yet
        waiters[0].cancel()
        assert await waiters[2] is held
        await asyncio.wait(waiters)
        assert pool.statistics().waiting == 0

    run(main())


def test_a_hundred_cancelled_waiters_leave_a_pool_that_works() -> None:
    """httpcore's own pool is poisoned for good by cancelling what is queued in it (L11)."""

    async def main() -> None:
        pool: Pool[object] = Pool(anything, max_size=2)

        async def work() -> None:
            async with pool.acquire():
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(work()) for _ in range(100)]
        for task in tasks[::2]:
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait(tasks)
        await turns()
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.waiting, statistics.creating) == (0, 0, 0)
        async with pool.acquire(), pool.acquire():
            assert pool.statistics().in_use == 2

    run(main())


def test_what_was_granted_to_a_closed_loop_goes_to_the_next() -> None:
    pool: Pool[object] = Pool(object, max_size=1)
    lease = pool.acquire()
    held = lease.__enter__()
    loop = asyncio.new_event_loop()
    task: Any = loop.create_task(pool.acquire().__aenter__())
    loop.run_until_complete(turns())
    loop.close()
    waiting = pool.admit()
    assert type(waiting) is Wait
    lease.__exit__(None, None, None)
    item = waiting.block()
    assert item.resource is held
    pool.settle(item)
    task._log_destroy_pending = False
    del task
    assert pool.statistics().idle == 1


def test_waiters_of_a_pool_that_is_closed_are_told_so(clock: ManualClock) -> None:
    async def main() -> None:
        pool: Pool[object] = Pool(anything, max_size=1, name="db")
        lease = pool.acquire()
        await lease.__aenter__()
        waiter = asyncio.create_task(pool.acquire().__aenter__())
        await turns()
        closing = asyncio.create_task(pool.aclose())
        with pytest.raises(PoolClosedError, match=r"^db: the pool is closed$"):
            await waiter
        assert not closing.done()
        await lease.__aexit__(None, None, None)
        assert await closing is True

    run(main(), clock)


def test_who_finds_only_a_broken_one_is_before_all_others_while_it_is_closed(clock: ManualClock) -> None:
    """The slot of what is closed is taken until it is closed; even who does not queue waits for that."""

    async def main() -> None:
        numbers = iter(range(1, 9))
        broken: set[int] = set()

        async def make() -> int:
            return next(numbers)

        async def scrap(number: int) -> None:
            await asyncio.sleep(2.0)

        pool = Pool(make, close=scrap, check=lambda number: number not in broken, max_size=1, max_wait=0)
        async with pool.acquire():
            broken.add(1)
        await asyncio.sleep(1.0)
        statistics = None
        task = asyncio.create_task(pool.acquire().__aenter__())
        await turns()
        statistics = pool.statistics()
        assert (statistics.closing, statistics.waiting, statistics.size) == (1, 1, 1)
        with pytest.raises(PoolExhaustedError):
            await pool.acquire().__aenter__()
        assert await task == 2
        assert clock.now() == 1003.0

    run(main(), clock)


def test_after_a_failure_callers_create_one_at_a_time_and_each_only_once(clock: ManualClock) -> None:
    """A crowd of waiters that all connect again and again is what keeps a server down."""

    async def main() -> None:
        running = most = attempts = 0
        down = True

        async def make() -> object:
            nonlocal running, most, attempts
            attempts += 1
            running += 1
            most = max(most, running)
            await asyncio.sleep(1.0)
            running -= 1
            if down:
                raise ConnectionRefusedError
            return object()

        pool: Pool[object] = Pool(make, max_size=5, max_wait=None)

        async def work() -> None:
            async with pool.acquire():
                await asyncio.sleep(1.0)

        assert len(await asyncio.gather(*(work() for _ in range(5)), return_exceptions=True)) == 5
        assert (attempts, most) == (5, 5)
        most = 0
        crowd = [asyncio.create_task(work()) for _ in range(10)]
        await asyncio.sleep(4.5)
        assert (attempts, most) == (10, 1)
        assert sum(task.done() for task in crowd) == 4
        down = False
        await asyncio.wait(crowd)
        assert most == 4  # and the one that is there
        assert pool.statistics().failed == 9
        assert pool.statistics().size == 5

    run(main(), clock)


def test_a_bulkhead_and_a_pool_agree_on_who_is_blamed(colour: Colour) -> None:
    pool, bulkhead = Works(colour).pool(max_size=1), Bulkhead(1, max_queue=1)
    assert pool._longest_wait() == bulkhead._longest_wait() == 30.0
    assert pool.with_(max_wait=None)._longest_wait() is None


def test_what_is_handed_over_by_who_had_trouble_with_it_is_checked_first(clock: ManualClock) -> None:
    works = Works(Colour("async", clock))
    pool = works.pool(max_size=1)
    works.broken = {1}

    async def main() -> int:
        async def waits() -> int:
            async with pool.acquire() as number:
                return number

        async def fails() -> None:
            async with pool.acquire():
                await asyncio.sleep(1.0)
                raise OSError

        first, second = asyncio.ensure_future(fails()), asyncio.ensure_future(waits())
        with pytest.raises(OSError):
            await first
        return await second

    assert run(main(), clock) == 2
    assert (works.checked, works.scrapped) == ([1], [1])
    works.colour.close()


def test_what_was_being_checked_when_its_borrower_was_cancelled_is_not_used_again(clock: ManualClock) -> None:
    """Nobody knows what state it is in: half of an answer may still be on its way."""
    works = Works(Colour("async", clock))
    pool = works.pool(max_size=1)
    works.checking_takes = 5.0

    async def main() -> int:
        with pytest.raises(OSError):
            async with pool.acquire():
                raise OSError
        borrower = asyncio.ensure_future(pool.acquire().__aenter__())
        await asyncio.sleep(1.0)
        borrower.cancel()
        await asyncio.wait([borrower])
        await turns()
        async with pool.acquire() as number:
            return number

    assert run(main(), clock) == 2
    assert (works.checked, works.scrapped) == ([1], [1])
    works.colour.close()
