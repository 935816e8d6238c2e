"""Tasks: resources created by threads for them, loops that come and go, cancellation at every point."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resilience import (
    CallTimeoutError,
    DeadlineExceededError,
    Pool,
    PoolExhaustedError,
    PoolResourceClosed,
    Timeout,
    _errand,
    bound,
    correlation_id,
)
from resilience._wait import Wait
from resilience.testing import ManualClock, recorded_events, run
from tests.pooled import turns
from tests.sweep import Ending, sweep

PATIENCE = 20.0


class Errands:
    """What was to be done in threads, to be done when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, Callable[[], object]]] = []

    def start(self, context: Any, work: Callable[[], object]) -> None:
        self.waiting.append((context, work))

    def do(self) -> None:
        """Do all of it, in another thread, as it would be."""
        todo, self.waiting = self.waiting, []
        for context, work in todo:
            thread = threading.Thread(target=context.run, args=(work,), daemon=True)
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture
def errands(monkeypatch: pytest.MonkeyPatch) -> Errands:
    result = Errands()
    monkeypatch.setattr(_errand, "start", result.start)
    return result


class Plain:
    """A plain factory that counts."""

    def __init__(self) -> None:
        self.made = 0
        self.closed: list[int] = []
        self.healthy = True
        self.seen: list[Any] = []

    def make(self) -> int:
        self.made += 1
        self.seen.append((threading.current_thread() is threading.main_thread(), correlation_id()))
        return self.made

    def check(self, number: int) -> bool:
        return self.healthy

    def pool(self, **settings: Any) -> Pool[int]:
        return Pool(self.make, close=self.closed.append, check=self.check, **settings)


# -- plain functions for tasks -----------------------------------------------------------------------------------------


def test_a_plain_create_serves_tasks_from_a_thread_with_their_context() -> None:
    plain = Plain()
    pool = plain.pool()

    async def main() -> None:
        with bound("request-7"):
            async with pool.acquire() as number:
                assert number == 1

    asyncio.run(main())
    assert plain.seen == [(False, "request-7")]
    with pool.acquire() as number:
        assert number == 1, "threads and tasks share it"
    assert pool.close() is True
    assert plain.closed == [1]


def test_what_a_thread_raises_is_the_error_of_the_task() -> None:
    def make() -> int:
        raise ConnectionRefusedError("down")

    pool = Pool(make, max_size=1)

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError, match="down"):
                await pool.acquire().__aenter__()

    asyncio.run(main())
    assert (pool.statistics().failed, pool.statistics().size) == (2, 0)


def test_a_resource_whose_waiter_was_cancelled_meanwhile_is_the_next_ones(errands: Errands) -> None:
    plain = Plain()
    pool = plain.pool(max_size=1)

    async def main() -> None:
        task = asyncio.create_task(pool.acquire().__aenter__())
        await turns()
        other = asyncio.create_task(pool.acquire().__aenter__())
        await turns()
        task.cancel()
        await asyncio.wait([task])
        assert pool.statistics().creating == 1
        errands.do()
        assert await other == 1
        assert plain.made == 1

    asyncio.run(main())


def test_a_resource_that_nobody_waits_for_any_more_is_idle_and_an_error_is_nobodys(errands: Errands) -> None:
    plain = Plain()
    pool = plain.pool()

    async def cancelled() -> None:
        task = asyncio.create_task(pool.acquire().__aenter__())
        await turns()
        task.cancel()
        await asyncio.wait([task])
        errands.do()

    asyncio.run(cancelled())
    assert pool.statistics().idle == 1
    pool.close(0)
    plain.make = failing  # type: ignore[method-assign]
    pool = plain.pool()
    asyncio.run(cancelled())
    assert (pool.statistics().size, pool.statistics().failed) == (0, 1)


def failing() -> int:
    raise OSError("down")


def test_a_task_waits_no_longer_for_a_thread_than_for_anything_else(errands: Errands, clock: ManualClock) -> None:
    plain = Plain()
    pool = plain.pool(max_wait=5.0)

    async def main() -> None:
        with pytest.raises(PoolExhaustedError):
            await pool.acquire().__aenter__()
        assert clock.now() == 1005.0
        with pytest.raises((DeadlineExceededError, CallTimeoutError)):
            await Timeout(2.0).call(lambda_acquire(pool))
        assert clock.now() == 1007.0

    run(main(), clock)
    assert pool.statistics().timed_out >= 1
    errands.do()
    assert pool.statistics().idle == 2


def lambda_acquire(pool: Pool[int]) -> Callable[[], Coroutine[Any, Any, int]]:
    async def acquire() -> int:
        return await pool.acquire().__aenter__()

    return acquire


def test_a_task_has_its_resource_checked_in_a_thread(errands: Errands, clock: ManualClock) -> None:
    plain = Plain()
    pool = plain.pool(max_size=1)
    with pool.acquire():
        pass
    clock.advance(1.0)
    plain.healthy = False

    async def main() -> int:
        lease = pool.acquire()
        task = asyncio.create_task(lease.__aenter__())
        await turns()
        for _ in range(4):  # the check, the end of what is broken, another one
            errands.do()
            await turns()
        return await task

    assert run(main(), clock) == 2
    assert plain.closed == [1]


def test_a_task_that_leaves_during_a_check_that_fails_leaves_its_place(errands: Errands, clock: ManualClock) -> None:
    plain = Plain()
    pool = plain.pool(max_size=1)
    with pool.acquire():
        pass
    clock.advance(1.0)
    plain.healthy = False

    async def main() -> None:
        task = asyncio.create_task(pool.acquire().__aenter__())
        await turns()
        task.cancel()
        await asyncio.wait([task])
        errands.do()
        errands.do()
        assert (pool.statistics().size, pool.statistics().waiting) == (0, 0)

    run(main(), clock)
    assert plain.closed == [1]


def test_what_was_checked_for_a_task_that_then_left_is_as_good_as_checked(errands: Errands, clock: ManualClock) -> None:
    plain = Plain()
    pool = plain.pool(max_size=1)
    with pool.acquire():
        pass
    clock.advance(1.0)

    async def main() -> None:
        task = asyncio.create_task(pool.acquire().__aenter__())
        await turns()
        errands.do()
        task.cancel()
        await asyncio.wait([task])

    run(main(), clock)
    plain.healthy = False
    assert plain.closed == []
    with pool.acquire() as number:
        assert number == 1


def test_where_no_thread_can_be_started_the_slot_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Plain()
    pool = plain.pool(min_idle=2)

    def start(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_errand, "start", start)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="can't start"):
            await pool.acquire().__aenter__()

    asyncio.run(main())
    assert pool.statistics().size == 0
    with pool.acquire():
        assert pool.statistics().size == 1
    lease = pool.acquire()
    lease.__enter__()
    lease.discard()
    lease.__exit__(None, None, None)
    assert plain.closed == [1], "in this thread, then"
    assert pool.statistics().size == 0


def test_an_errand_whose_loop_is_closed_leaves_its_resource_to_others(errands: Errands) -> None:
    plain = Plain()
    pool = plain.pool(max_size=1)
    loop = asyncio.new_event_loop()
    task: Any = loop.create_task(pool.acquire().__aenter__())
    loop.run_until_complete(turns())
    loop.close()
    errands.do()
    assert pool.statistics().idle == 1
    task._log_destroy_pending = False
    del task
    gc.collect()
    assert pool.statistics().idle == 1


def test_a_task_that_closes_a_plain_pool_waits_for_the_threads_that_do_it(errands: Errands) -> None:
    plain = Plain()
    pool = plain.pool()
    with pool.acquire():
        pass

    async def main() -> None:
        task = asyncio.create_task(pool.aclose())
        await turns()
        assert not task.done()
        errands.do()
        assert await task is True

    asyncio.run(main())
    assert plain.closed == [1]


# -- asynchronous functions and their loop -----------------------------------------------------------------------------


class Later:
    """An asynchronous factory."""

    def __init__(self) -> None:
        self.made = 0
        self.closed: list[int] = []
        self.loops: list[Any] = []

    async def make(self) -> int:
        await asyncio.sleep(1.0)
        self.made += 1
        return self.made

    async def scrap(self, number: int) -> None:
        await asyncio.sleep(1.0)
        self.closed.append(number)
        self.loops.append(asyncio.get_running_loop())

    async def check(self, number: int) -> bool:
        await asyncio.sleep(1.0)
        return True

    def pool(self, **settings: Any) -> Pool[int]:
        return Pool(self.make, close=self.scrap, check=self.check, **settings)


def test_a_pool_with_an_asynchronous_create_says_what_to_do_in_a_thread() -> None:
    pool = Later().pool(name="db")
    for use in (pool.acquire().__enter__, pool.guard().__enter__, pool.__enter__, pool.close):
        with pytest.raises(TypeError, match=r"^the pool 'db' (creates|closes) its resources asynchronously"):
            use()

    async def main() -> None:
        with pytest.raises(TypeError, match="use `async with`"), pytest.warns(RuntimeWarning, match="blocks"):
            pool.guard().__enter__()
        assert pool.statistics().size == 0

    asyncio.run(main())


def test_a_new_loop_takes_over_when_the_old_one_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    later = Later()
    pool = later.pool(max_size=1)
    kept: list[Any] = []

    async def first() -> None:
        lease = pool.acquire()
        kept.append(lease)
        assert await lease.__aenter__() == 1
        asyncio.create_task(pool.acquire().__aenter__()).cancel()

    async def second() -> None:
        own = pool.acquire()
        assert await own.__aenter__() == 2
        before = pool.statistics()
        kept.pop().__exit__(None, None, None)
        assert pool.statistics() == before, "a loan of the old loop changes nothing"
        await asyncio.sleep(2.0)
        assert later.closed == [1]
        assert later.loops == [asyncio.get_running_loop()]
        own.__exit__(None, None, None)

    run(first())
    with recorded_events(PoolResourceClosed) as events:
        run(second())
    assert events[0].reason == "loop closed"
    assert pool.statistics().closed == 1


def test_what_cannot_be_closed_in_another_loop_is_dropped_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def make() -> object:
        return object()

    def scrap(_: object) -> None:
        raise RuntimeError("Event loop is closed")

    pool: Pool[object] = Pool(make, close=scrap)

    async def use() -> None:
        async with pool.acquire():
            await turns()

    run(use())
    run(use())
    assert caplog.records == []
    assert pool.statistics().size == 1


def test_two_loops_that_live_cannot_share_an_asynchronous_create() -> None:
    pool = Later().pool()
    loop = asyncio.new_event_loop()

    async def use() -> None:
        async with pool.acquire():
            pass

    run(turns())
    first = asyncio.new_event_loop()
    pool._machine.loop = first
    with pytest.raises(RuntimeError, match="serves another event loop, which is not closed: make a pool for each"):
        loop.run_until_complete(use())
    first.close()
    loop.close()


def test_a_resource_returned_elsewhere_is_closed_in_its_loop() -> None:
    later = Later()
    pool = later.pool()

    async def main() -> None:
        item = pool.admit()
        assert type(item) is Wait
        item = await item.suspend()
        lease = pool.acquire()
        await lease.__aenter__()
        lease.discard()
        thread = threading.Thread(target=lease.__exit__, args=(None, None, None))
        thread.start()
        thread.join(PATIENCE)
        await asyncio.sleep(2.0)
        assert later.closed == [2]
        pool.settle(item)

    run(main())
    pool.settle(pool._machine.idle.pop())  # the loop is closed: nobody can


def test_what_is_to_be_closed_after_its_loop_is_gone_with_it() -> None:
    later = Later()
    pool = later.pool()
    held: list[Any] = []

    async def main() -> None:
        held.append(pool.acquire())
        await held[0].__aenter__()

    run(main())
    held[0].discard()
    held[0].__exit__(None, None, None)
    assert (pool.statistics().size, pool.statistics().closed, later.closed) == (0, 1, [])


def test_creating_is_cut_off_when_the_time_is_up(clock: ManualClock) -> None:
    later = Later()
    pool = later.pool(max_wait=0.5, max_size=1)

    async def main() -> None:
        with pytest.raises(PoolExhaustedError):
            await pool.acquire().__aenter__()
        assert clock.now() == 1000.5
        statistics = pool.statistics()
        assert (statistics.size, statistics.timed_out, statistics.failed) == (0, 1, 1)
        async with pool.with_(max_wait=0).acquire() as number:
            assert number == 1, "who does not queue still waits for its own"
        await asyncio.sleep(1.0)
        with pytest.raises(PoolExhaustedError):
            await pool.acquire().__aenter__()  # during the check
        await asyncio.sleep(2.0)
        assert later.closed == [1]
        async with pool.with_(max_wait=None).acquire() as number:
            assert number == 2

    run(main(), clock)


def test_waiting_and_creating_together_take_no_longer_than_the_limit(clock: ManualClock) -> None:
    async def make() -> int:
        await asyncio.sleep(4.0)
        return 1

    pool = Pool(make, max_size=1)
    patient = pool.with_(max_wait=5.0)

    async def main() -> None:
        lease = pool.acquire()
        await lease.__aenter__()
        began = clock.now()
        task = asyncio.create_task(patient.acquire().__aenter__())
        await asyncio.sleep(3.0)
        lease.discard()
        await lease.__aexit__(None, None, None)
        with pytest.raises(PoolExhaustedError):
            await task
        assert clock.now() == began + 5.0

    run(main(), clock)


def test_a_timeout_of_its_own_in_create_is_an_error_like_any_other(clock: ManualClock) -> None:
    async def make() -> int:
        raise TimeoutError("of the driver")

    pool = Pool(make, max_wait=5.0)

    async def main() -> None:
        with pytest.raises(TimeoutError, match="of the driver"):
            await pool.acquire().__aenter__()

    run(main(), clock)
    assert pool.statistics().timed_out == 0


def test_closing_that_hangs_is_given_up(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    async def make() -> int:
        return 1

    async def hang(_: int) -> None:
        await asyncio.sleep(3600.0)

    pool = Pool(make, close=hang)

    async def main() -> None:
        async with pool.acquire():
            pass
        assert await pool.aclose(60.0) is True
        assert clock.now() == 1030.0

    run(main(), clock)
    assert "closing a resource of this pool failed" in caplog.text


def test_a_spare_that_is_cancelled_gives_its_slot_back() -> None:
    pool = Later().pool(min_idle=1)

    async def main() -> None:
        waiting = pool.admit()
        pool._forsake(waiting)
        await turns()
        assert pool.statistics().creating == 1
        for task in tuple(pool._machine.tasks):
            task.cancel()
        await turns()
        assert (pool.statistics().creating, pool._machine.refilling, pool._machine.tasks) == (0, False, set())

    run(main())


# -- cancelled at every point ------------------------------------------------------------------------------------------


def check_nothing_leaked(ending: Ending[Pool[int]]) -> Any:
    async def look() -> None:
        pool = ending.state
        await turns()
        statistics = pool.statistics()
        assert (statistics.in_use, statistics.waiting, statistics.creating) == (0, 0, 0)
        leases = [pool.acquire() for _ in range(statistics.max_size)]
        assert len({await lease.__aenter__() for lease in leases}) == statistics.max_size
        for lease in leases:
            await lease.__aexit__(None, None, None)
        assert await pool.aclose() is True

    return look()


def scenario_of(pool: Pool[int]) -> Coroutine[Any, Any, None]:
    async def use(seconds: float) -> None:
        async with pool.acquire():
            await asyncio.sleep(seconds)

    async def main() -> None:
        helpers = [asyncio.create_task(use(1.0)) for _ in range(2)]
        try:
            await asyncio.sleep(0.1)
            await use(0.5)
            await asyncio.sleep(1.0)
            await use(0.5)  # after a check
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.wait(helpers)
            await asyncio.sleep(0)
            while pool._machine.tasks:
                await asyncio.wait(tuple(pool._machine.tasks))

    return main()


@pytest.mark.parametrize("size,min_idle", [(1, 0), (2, 0), (3, 0), (2, 1), (4, 2)])
@pytest.mark.parametrize("max_wait", [None, 60.0])
def test_cancelled_anywhere_a_pool_with_asynchronous_functions_leaks_nothing(
    size: int, min_idle: int, max_wait: float | None
) -> None:
    def make(clock: ManualClock) -> tuple[Coroutine[Any, Any, None], Pool[int]]:
        pool = Later().pool(max_size=size, min_idle=min_idle, max_wait=max_wait, leak_after=600.0, clock=clock)
        return scenario_of(pool), pool

    assert sweep(make, check_nothing_leaked) >= 8


@pytest.mark.parametrize("size", [1, 2, 3])
def test_cancelled_anywhere_a_pool_with_plain_functions_leaks_nothing(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(context: Any, work: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_soon(work, context=context)

    monkeypatch.setattr(_errand, "start", start)

    def make(clock: ManualClock) -> tuple[Coroutine[Any, Any, None], Pool[int]]:
        pool = Plain().pool(max_size=size, max_wait=None, clock=clock)
        return scenario_of(pool), pool

    assert sweep(make, check_nothing_leaked) >= 8
