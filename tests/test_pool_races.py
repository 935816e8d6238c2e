"""What happens only when two things meet: the lock taken, a fork or the end of the pool in the middle of something."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilience import DeadlineExceededError, Pool, PoolClosedError, Timeout, _errand
from resilience._machine import ABANDONED, FAILURE, SUCCESS
from resilience._slot import LENT
from resilience._wait import Wait
from resilience.testing import ManualClock, run
from tests.pooled import turns

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_errand, "start", lambda context, work: context.run(work))


class Dice(random.Random):
    """Throws what it is told."""

    def __init__(self, *throws: float) -> None:
        super().__init__()
        self.throws = list(throws)

    def random(self) -> float:
        return self.throws.pop(0)


def numbered(**settings: Any) -> tuple[Pool[int], list[int]]:
    numbers = iter(range(1, 99))
    closed: list[int] = []
    return Pool(lambda: next(numbers), close=closed.append, **settings), closed


def test_the_one_used_last_may_be_too_old_although_those_before_it_are_not(clock: ManualClock) -> None:
    pool, closed = numbered(max_lifetime=100.0, max_idle_time=None, rng=Dice(1.0, 0.0))
    old, young = pool.acquire(), pool.acquire()
    assert (old.__enter__(), young.__enter__()) == (1, 2)
    young.__exit__(None, None, None)
    old.__exit__(None, None, None)
    clock.advance(90.0)
    with pool.acquire() as number:
        assert number == 2
    assert closed == [1]


def test_while_another_thread_is_inside_a_borrower_looks_again_and_a_return_is_handed_over() -> None:
    pool, _ = numbered()
    with pool.acquire():
        pass
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._machine.lock:
            held.set()
            release.wait(PATIENCE)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(PATIENCE)
    got: list[int] = []

    def borrow() -> None:
        with pool.acquire() as number:
            got.append(number)

    other = threading.Thread(target=borrow, daemon=True)
    other.start()
    release.set()
    other.join(PATIENCE)
    thread.join(PATIENCE)
    assert got == [1]


def test_the_long_way_is_taken_when_something_was_handed_over() -> None:
    pool, closed = numbered()
    first, second = pool.acquire(), pool.acquire()
    first.__enter__()
    second.__enter__()
    second.__exit__(None, None, None)
    stock = pool._machine
    item = first._item
    stock.late.append((pool._put_locked, item, ABANDONED))
    with pool.acquire() as number:
        assert number == 2
        assert closed == [1]
    first.__exit__(None, None, None)
    assert pool.statistics().size == 1


def test_the_long_way_is_taken_when_the_last_idle_one_is_gone_in_between() -> None:
    pool, _ = numbered(min_idle=0)
    with pool.acquire():
        pass
    stock = pool._machine

    class Free(type(stock.free)):  # type: ignore[misc]
        """Somebody else takes the last one just before we get the lock."""

        def pop(self) -> Any:
            token = super().pop()
            if stock.idle and not taken:
                item = stock.idle.pop()
                item.state = LENT
                taken.append(item)
            return token

    taken: list[Any] = []
    stock.free = stock.lock.free = Free((None,), maxlen=1)
    with pool.acquire() as number:
        assert number == 2
    pool.settle(taken[0])
    assert pool.statistics().idle == 2


def test_what_belongs_to_a_parent_changes_nothing_here() -> None:
    pool, closed = numbered()
    lease = pool.acquire()
    lease.__enter__()
    vacant = pool.admit()
    stock = pool._machine
    item, empty = lease._item, vacant.decision.item
    stock.forked()
    with stock.lock:
        assert stock.failed_locked(empty, 0.0, wary=True) == []
        assert stock.made_locked(empty, 7, 0.0) == []
        assert stock.give_up_locked(item, 0.0) == []
        assert stock.put_locked(item, SUCCESS, 0.0) == []
        assert stock.lost_locked(item, 0.0) == []
        assert stock.closed_locked(item, 0.0) == []
    statistics = pool.statistics()
    assert (statistics.size, statistics.failed, statistics.created, statistics.leaked) == (0, 0, 1, 0)
    assert not stock.wary
    pool._forsake(vacant)
    lease.__exit__(None, None, None)
    assert pool.statistics() == statistics
    assert closed == []


def test_a_refill_that_was_under_way_at_a_fork_is_none_of_the_childs(monkeypatch: pytest.MonkeyPatch) -> None:
    errands: list[Callable[[], object]] = []
    monkeypatch.setattr(_errand, "start", lambda context, work: errands.append(work))
    pool, _ = numbered(min_idle=1)
    pool._forsake(pool.admit())
    assert len(errands) == 1
    stock = pool._machine
    stock.forked()
    stock.refilling = True  # the child's own
    errands.pop()()
    assert stock.refilling
    assert pool.statistics().size == 0


def test_a_task_that_refills_is_given_up_once_even_after_a_fork() -> None:
    async def make() -> int:
        return 1

    pool = Pool(make, min_idle=1)

    async def main() -> None:
        pool._forsake(pool.admit())
        stock = pool._machine
        item = next(item for item in stock.items)
        stock.forked()
        stock.refilling = True
        stock._given_up_locked(item, ABANDONED)
        assert stock.refilling
        await turns()

    run(main())


def test_a_check_during_which_somebody_forked_leads_to_another_resource(clock: ManualClock) -> None:
    numbers = iter(range(1, 9))
    closed: list[int] = []

    def check(number: int) -> bool:
        pool._machine.forked()
        return False

    pool: Pool[int] = Pool(lambda: next(numbers), close=closed.append, check=check)
    with pool.acquire():
        pass
    clock.advance(1.0)
    with pool.acquire() as number:
        assert number == 2
    assert closed == []


def test_a_pool_closed_during_a_check_that_fails_says_so(clock: ManualClock) -> None:
    closed: list[int] = []

    def check(number: int) -> bool:
        pool.close(0)
        return False

    pool: Pool[int] = Pool(lambda: 1, close=closed.append, check=check)
    with pool.acquire():
        pass
    clock.advance(1.0)
    with pytest.raises(PoolClosedError):
        pool.acquire().__enter__()
    assert closed == [1]
    assert pool.close() is True


def test_a_pool_closed_while_a_resource_is_created_lends_it_and_closes_it_then() -> None:
    closed: list[int] = []

    def make() -> int:
        pool.close(0)
        return 1

    pool: Pool[int] = Pool(make, close=closed.append)
    with pool.acquire() as number:
        assert number == 1
        assert closed == []
    assert closed == [1]
    assert pool.close() is True


def test_without_time_nobody_queues(clock: ManualClock) -> None:
    pool, _ = numbered(max_size=1, name="db")
    lease = pool.acquire()
    lease.__enter__()

    def late() -> None:
        clock.advance(1.0)
        with pytest.raises(DeadlineExceededError, match="db"):
            pool.admit()

    Timeout(1.0)(late)()
    assert (pool.statistics().rejected, pool.statistics().waiting) == (1, 0)
    lease.__exit__(None, None, None)


def test_the_wait_of_a_caller_who_never_looked_is_given_up() -> None:
    pool, _ = numbered(max_size=1)
    held = pool.admit()
    assert type(held) is Wait
    item = held.block()
    waiting = pool.admit()
    pool.settle(item)
    assert waiting.decision.place.granted
    pool._forsake(waiting)
    pool._forsake(waiting)
    assert pool.statistics().idle == 1


def test_a_loop_that_closed_before_its_waiter_was_told_gives_nothing_back_twice() -> None:
    pool, _ = numbered(max_size=1)
    item = pool.admit().block()
    waiting = pool.admit()
    place = waiting.decision.place
    with pool._machine.lock:
        assert waiting.decision._take_back_locked(place, ABANDONED) == []
    assert pool.statistics().waiting == 1
    pool.settle(item)
    assert place.granted
    with pool._machine.lock:
        waiting.decision._take_back_locked(place, ABANDONED)
        waiting.decision._take_back_locked(place, ABANDONED)
    assert (pool.statistics().idle, pool.statistics().size) == (1, 1)


def test_a_failed_and_an_interrupted_return_wake_the_next_in_line() -> None:
    for verdict in (FAILURE, ABANDONED):
        pool, closed = numbered(max_size=1)
        item = pool.admit().block()
        waiting = pool.admit()
        pool.settle(item, verdict)
        assert closed == [1]
        assert waiting.block().resource == 2


def test_two_who_clean_up_at_once_leave_nothing_for_each_other() -> None:
    pool, _ = numbered()

    class Emptied(list[Any]):
        """There is something; but when one reaches for it, another one has it."""

        def popleft(self) -> Any:
            self.clear()
            raise IndexError

    overdue: Any = Emptied([(1.0, None)])
    doomed: Any = Emptied([None])
    pool._machine.overdue, pool._machine.doomed = overdue, doomed
    pool._machine.unlocked()
    assert overdue == doomed == []


def test_a_pool_closed_in_the_thread_of_a_loop_warns_that_the_loop_waits() -> None:
    async def main() -> None:
        pool, _ = numbered()
        async with pool.acquire():
            assert pool.close(0) is False
            with pytest.warns(RuntimeWarning, match="blocks the event loop"):
                assert pool.close(1.0) is False

    run(main())


def test_who_stops_waiting_for_the_end_of_a_pool_is_forgotten() -> None:
    async def main() -> None:
        pool: Pool[int] = Pool(lambda: 1)
        lease = pool.acquire()
        await lease.__aenter__()
        task = asyncio.create_task(pool.aclose())
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert pool._machine.drainers == []
        await lease.__aexit__(None, None, None)

    run(main())


def test_a_loop_that_closed_while_it_waited_for_the_end_of_a_pool_is_no_trouble() -> None:
    pool, closed = numbered()
    lease = pool.acquire()
    lease.__enter__()
    loop = asyncio.new_event_loop()
    task: Any = loop.create_task(pool.aclose())
    loop.run_until_complete(turns())
    loop.close()
    lease.__exit__(None, None, None)
    assert closed == [1]
    assert pool.statistics().size == 0
    task._log_destroy_pending = False


def test_a_variant_may_have_another_name_alone() -> None:
    pool, _ = numbered(max_wait=7.0)
    variant = pool.with_(name="other")
    assert (variant.name, variant._longest_wait()) == ("other", 7.0)
