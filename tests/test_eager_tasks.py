"""Tasks that begin at once (Python 3.12 and later): a layer may run, and end, before its task was ever scheduled."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    Pipeline,
    RateLimiter,
    Timeout,
    correlated,
    correlation_id,
)
from resilience.testing import ManualClock, run
from tests.stores import RemoteStore

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")


def eagerly(main: Callable[[], Coroutine[Any, Any, Any]], clock: ManualClock) -> Any:
    """Run `main` in a loop whose tasks are all eager."""

    async def begin() -> Any:
        factory: Any = getattr(asyncio, "eager_task_factory")  # noqa: B009 - unknown to the type checkers of 3.11
        asyncio.get_running_loop().set_task_factory(factory)
        return await main()

    return run(begin(), clock)


async def napping(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def test_a_guarded_call_that_never_waits_is_done_when_its_task_is_made(clock: ManualClock) -> None:
    async def instant() -> str | None:
        return correlation_id()

    async def main() -> list[bool]:
        layers = (correlated, Timeout(1), CircuitBreaker(), Bulkhead(1), Pipeline(correlated, Timeout(1), Bulkhead(1)))
        return [asyncio.create_task(layer(instant)()).done() for layer in layers]

    assert eagerly(main, clock) == [True] * 5


def test_the_task_that_is_cut_off_is_the_eager_one_and_not_the_one_that_made_it(clock: ManualClock) -> None:
    async def main() -> tuple[int, int]:
        task = asyncio.create_task(Timeout(0.25)(napping)(9))
        with pytest.raises(CallTimeoutError):
            await task
        maker = asyncio.current_task()
        assert maker is not None
        return task.cancelling(), maker.cancelling()

    assert eagerly(main, clock) == (0, 0)


def test_a_limit_around_the_maker_does_not_reach_into_the_eager_task_s_end(clock: ManualClock) -> None:
    async def main() -> Any:
        async with Timeout(1.0).guard():
            task = asyncio.create_task(Timeout(0.25)(napping)(9))
            await asyncio.sleep(0.5)
        return await asyncio.gather(task, napping(2), return_exceptions=True)

    cut_off, napped = eagerly(main, clock)
    assert isinstance(cut_off, CallTimeoutError)
    assert napped == 2


def test_eager_tasks_queue_first_come_first_served_and_leave_nothing_behind(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=10)
    order: list[float] = []

    @bulkhead
    async def work(seconds: float) -> None:
        order.append(seconds)
        await asyncio.sleep(seconds)

    async def main() -> None:
        tasks = [asyncio.create_task(work(seconds)) for seconds in (0.1, 0.2, 0.3, 0.4)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.wait(tasks)

    eagerly(main, clock)
    statistics = bulkhead.statistics()
    assert order == [0.1, 0.2, 0.4]
    assert (statistics.in_use, statistics.waiting) == (0, 0)


def test_cancelling_an_eager_task_is_no_failure_of_the_dependency(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    async def main() -> None:
        task = asyncio.create_task(breaker(napping)(9))
        task.cancel()
        await asyncio.wait([task])

    eagerly(main, clock)
    assert breaker.statistics().calls == 0


def test_what_several_tasks_ask_a_store_travels_together(clock: ManualClock) -> None:
    """The task that takes the questions to the store began, and ended, before the first one was among them."""
    store = RemoteStore(clock)
    limiter = RateLimiter(100, name="x", store=store)

    async def main() -> list[float]:
        return await asyncio.gather(*(asyncio.create_task(limiter(napping)(0.5)) for _ in range(10)))

    assert eagerly(main, clock) == [0.5] * 10
    assert [len(batch) for batch in store.batches] == [10]
