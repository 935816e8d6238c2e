"""The hammer: many threads and several event loops on one object at once. Nothing is timed; invariants are counted."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import aiolimiter
import pytest
import tenacity

from resilience import (
    Bulkhead,
    CallRejectedError,
    CircuitBreaker,
    Keyed,
    Layer,
    Pipeline,
    Pool,
    RateLimiter,
    Retry,
    RetryBudget,
    Throttle,
    Timeout,
    correlated,
)
from resilience.correlation import correlation_id

THREADS, LOOPS = 20, 2
CALLS_OF_A_THREAD, TASKS_OF_A_LOOP, CALLS_OF_A_TASK = 100, 10, 50
CALLS = THREADS * CALLS_OF_A_THREAD + LOOPS * TASKS_OF_A_LOOP * CALLS_OF_A_TASK


@pytest.fixture(autouse=True)
def switching_often() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class Gauge:
    """How many are inside, and the most there ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = 0
        self.most = 0
        self.calls = 0

    def __enter__(self) -> None:
        with self._lock:
            self.inside += 1
            self.calls += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.inside -= 1


class Crowd:
    """Everybody at once: threads that call `plain`, loops whose tasks call `coroutine`."""

    def __init__(self, plain: Callable[[], Any], coroutine: Callable[[], Any]) -> None:
        self._plain = plain
        self._coroutine = coroutine
        self._start = threading.Barrier(THREADS + LOOPS)
        self.errors: list[BaseException] = []
        self.outcomes: list[Any] = []

    def run(self) -> None:
        people = [threading.Thread(target=self._thread, daemon=True) for _ in range(THREADS)]
        people += [threading.Thread(target=lambda: asyncio.run(self._loop()), daemon=True) for _ in range(LOOPS)]
        for person in people:
            person.start()
        for person in people:
            person.join(60.0)
        assert not any(person.is_alive() for person in people), "some never finish"
        if self.errors:
            raise self.errors[0]

    def _thread(self) -> None:
        self._start.wait(20.0)
        for _ in range(CALLS_OF_A_THREAD):
            try:
                self.outcomes.append(self._plain())
            except CallRejectedError as rejection:
                self.outcomes.append(rejection)
            except BaseException as error:
                self.errors.append(error)

    async def _loop(self) -> None:
        self._start.wait(20.0)
        await asyncio.gather(*(self._task() for _ in range(TASKS_OF_A_LOOP)))

    async def _task(self) -> None:
        for _ in range(CALLS_OF_A_TASK):
            try:
                self.outcomes.append(await self._coroutine())
            except CallRejectedError as rejection:
                self.outcomes.append(rejection)
            except BaseException as error:
                self.errors.append(error)


def in_both_colours(layer: Layer, gauge: Gauge, body: Callable[[], Any] = lambda: "done") -> Crowd:
    def plain() -> Any:
        with gauge:
            return body()

    async def coroutine() -> Any:
        with gauge:
            await asyncio.sleep(0)
            return body()

    return Crowd(layer(plain), layer(coroutine))


def test_never_more_than_the_limit_are_inside_and_all_get_in_once() -> None:
    """One machine for all threads and loops (L8)."""
    bulkhead, gauge = Bulkhead(3, max_queue=1000, max_wait=None), Gauge()
    crowd = in_both_colours(bulkhead, gauge)
    crowd.run()
    assert crowd.outcomes == ["done"] * CALLS
    assert gauge.most <= 3
    assert gauge.calls == CALLS
    statistics = bulkhead.statistics()
    assert (statistics.in_use, statistics.waiting, statistics.rejected) == (0, 0, 0)


def test_with_a_short_queue_every_call_either_ran_or_was_rejected() -> None:
    bulkhead, gauge = Bulkhead(3, max_queue=2, max_wait=None), Gauge()
    crowd = in_both_colours(bulkhead, gauge)
    crowd.run()
    assert len(crowd.outcomes) == CALLS
    assert gauge.most <= 3
    rejected = sum(isinstance(outcome, CallRejectedError) for outcome in crowd.outcomes)
    assert gauge.calls == CALLS - rejected
    statistics = bulkhead.statistics()
    assert (statistics.in_use, statistics.waiting, statistics.rejected) == (0, 0, rejected)


def test_without_a_queue_no_slot_is_lost() -> None:
    bulkhead, gauge = Bulkhead(3), Gauge()
    crowd = in_both_colours(bulkhead, gauge)
    crowd.run()
    assert len(crowd.outcomes) == CALLS
    assert gauge.most <= 3
    assert [bulkhead.admit() for _ in range(3)] == [bulkhead._machine.generation] * 3


def test_cancelling_waiters_all_the_time_leaks_no_slot_and_lets_in_no_more() -> None:
    """Locks and semaphores that are cancelled while they hand over lost or doubled slots (L3)."""
    bulkhead, gauge = Bulkhead(3, max_queue=1000, max_wait=None), Gauge()
    rng = random.Random(7)

    def plain() -> str:
        with bulkhead.guard(), gauge:
            return "done"

    async def guarded() -> None:
        async with bulkhead.guard():
            with gauge:
                await asyncio.sleep(0)

    async def coroutine() -> str:
        task = asyncio.create_task(guarded())
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return "done"

    crowd = Crowd(plain, coroutine)
    crowd.run()
    assert crowd.outcomes == ["done"] * CALLS
    assert gauge.most <= 3
    statistics = bulkhead.statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)


def test_resizing_all_the_time_loses_no_waiter() -> None:
    bulkhead, gauge = Bulkhead(1, max_queue=1000, max_wait=None), Gauge()
    rng = random.Random(7)

    def body() -> str:
        bulkhead.resize(rng.randint(1, 5))
        return "done"

    crowd = in_both_colours(bulkhead, gauge, body)
    crowd.run()
    assert crowd.outcomes == ["done"] * CALLS
    assert gauge.most <= 5
    assert bulkhead.statistics().in_use == bulkhead.statistics().waiting == 0


class Connection:
    """Something to lend that notices when two have it at once, or one that was closed."""

    def __init__(self) -> None:
        self.users = 0
        self.closed = False

    def __enter__(self) -> None:
        self.users += 1
        assert self.users == 1
        assert not self.closed

    def __exit__(self, *_: object) -> None:
        assert self.users == 1
        self.users -= 1

    def close(self) -> None:
        assert self.users == 0
        self.closed = True


def test_a_pool_lends_each_resource_to_one_at_a_time_in_all_threads_and_loops() -> None:
    """One pool for all of them (L8); some blocks fail, some waiters are cancelled, some resources are broken."""
    rng, gauge = random.Random(7), Gauge()
    open_now = Gauge()

    def connect() -> Connection:
        if rng.random() < 0.1:
            raise OSError
        open_now.__enter__()
        return Connection()

    def close(connection: Connection) -> None:
        connection.close()
        open_now.__exit__()

    def check(_: Connection) -> bool:
        return rng.random() < 0.8

    pool = Pool(connect, close=close, check=check, max_size=3, max_queue=1000, max_wait=None)

    def plain() -> str:
        try:
            lease = pool.acquire()
            with lease as connection, connection, gauge:
                if rng.random() < 0.01:
                    lease.discard()
                if rng.random() < 0.05:
                    raise OSError
        except OSError:
            return "failed"
        return "done"

    async def guarded() -> None:
        async with pool.acquire() as connection:
            with connection, gauge:
                await asyncio.sleep(0)

    async def coroutine() -> str:
        task = asyncio.create_task(guarded())
        if rng.random() < 0.3:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            assert isinstance(task.exception(), (OSError, type(None)))
        return "done"

    crowd = Crowd(plain, coroutine)
    crowd.run()
    assert len(crowd.outcomes) == CALLS
    assert gauge.most <= 3
    assert open_now.most <= 3, "never more than max_size, those being closed included"
    assert pool.close(60.0) is True
    statistics = pool.statistics()
    assert (statistics.size, statistics.waiting, statistics.leaked, open_now.inside) == (0, 0, 0, 0)
    assert statistics.created == statistics.closed == open_now.calls


def test_all_layers_together_leak_nothing() -> None:
    gauge = Gauge()
    bulkhead, tenants = Bulkhead(3, max_queue=1000, max_wait=None), []
    breaker = CircuitBreaker(minimum_calls=10**6, slow_call_duration=60.0)
    retry = Retry(
        on=OSError, attempts=10, wait=tenacity.wait_none(), budget=RetryBudget(ratio=1.0, minimum_per_second=10**6)
    )
    limiter = RateLimiter(10**6, key=correlation_id)
    timeout = Timeout(60.0)
    chance = random.Random(7)

    def tenant(_: Any) -> Layer:
        tenants.append(Bulkhead(2, max_queue=1000, max_wait=None))
        return tenants[-1]

    keyed = Keyed(tenant, key=lambda: int(str(correlation_id())[-1], 16))
    layers: tuple[Layer, ...] = (correlated, timeout, retry, breaker, limiter, keyed, bulkhead, Timeout(30.0))

    def body() -> str:
        if chance.random() < 0.1:
            raise OSError
        return "done"

    crowd = in_both_colours(Pipeline(*layers), gauge, body)
    crowd.run()
    assert crowd.outcomes == ["done"] * CALLS
    assert gauge.most <= 3
    assert gauge.calls == CALLS + retry.statistics().retries
    for inner in (bulkhead, *tenants):
        assert (inner.statistics().in_use, inner.statistics().waiting) == (0, 0)
    assert keyed.statistics().in_use == 0
    assert breaker.statistics().calls == gauge.calls
    assert timeout.statistics().timed_out == 0


def test_a_throttle_paces_many_tasks_of_its_loop() -> None:
    """One loop owns it; 200 tasks at once, of which some are cancelled while they wait."""

    async def main() -> None:
        throttle = Throttle(aiolimiter.AsyncLimiter(10**6, 1.0), max_wait=None)
        gauge = Gauge()

        async def work() -> None:
            with gauge:
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(throttle(work)()) for _ in range(200)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.wait(tasks)
        assert gauge.inside == 0
        assert throttle.statistics().waiting == 0

    asyncio.run(main())
