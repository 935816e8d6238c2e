"""Shared policies under threads and loops at once, and cancelled at every point: nothing leaks, nothing is exceeded."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from resilience import Bulkhead, CircuitBreaker, MemoryStore, RateLimiter, RetryBudget
from resilience._courier import Operation
from resilience.testing import ManualClock
from tests.stores import RemoteStore
from tests.sweep import Ending, sweep
from tests.test_hammer import CALLS, Gauge, in_both_colours, switching_often

hurried = pytest.mark.usefixtures(switching_often.__name__)
COUNT = Operation("bulkhead", "count", "x", "none", ())


@hurried
def test_never_more_are_inside_than_slots_in_the_store() -> None:
    store, gauge = MemoryStore(), Gauge()
    bulkhead = Bulkhead(3, name="x", store=store, max_queue=1000, max_wait=None)
    crowd = in_both_colours(bulkhead, gauge)
    crowd.run()
    assert crowd.outcomes == ["done"] * CALLS
    assert gauge.most <= 3
    assert store.ask(COUNT) == (0.0,)
    assert bulkhead.statistics().in_use == bulkhead.statistics().waiting == 0


@hurried
def test_the_tokens_of_the_store_are_spent_once() -> None:
    store, gauge = MemoryStore(), Gauge()
    in_both_colours(RateLimiter(700, 3600.0 * 24, name="x", store=store), gauge).run()
    assert gauge.calls == 700


@hurried
def test_a_shared_breaker_counts_and_stays_whole() -> None:
    store, gauge = MemoryStore(), Gauge()
    breaker = CircuitBreaker("x", store=store, minimum_calls=10**6)
    budget = RetryBudget(1.0, 0.0, name="x", store=store)
    crowd = in_both_colours(breaker, gauge, budget.deposit)
    crowd.run()
    assert len(crowd.outcomes) == CALLS
    assert breaker.statistics().calls == CALLS
    assert budget.statistics().deposits == CALLS


# -- the sweep ---------------------------------------------------------------------------------------------------------


def test_a_limited_call_cancelled_anywhere_takes_no_token_it_does_not_use() -> None:
    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], tuple[RemoteStore, list[str]]]:
        store, ran = RemoteStore(clock), []
        limiter = RateLimiter(2, 100.0, burst=1, name="x", store=store, max_wait=None)

        @limiter
        async def call() -> None:
            ran.append("ran")

        async def main() -> None:
            await call()
            await call()

        return main(), (store, ran)

    async def check(ending: Ending[tuple[RemoteStore, list[str]]]) -> None:
        store, ran = ending.state
        await ending.clock.asleep(1.0)
        store.waiting.go()
        limiter = RateLimiter(2, 100.0, burst=1, name="x", store=store.memory)
        assert limiter.peek().reset_after <= max(0.0, 1000.0 + 50.0 * len(ran) - ending.clock.now()) + 0.1

    assert sweep(scenario, check) >= 4


def test_a_guarded_call_cancelled_anywhere_leaves_no_slot_taken() -> None:
    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], tuple[RemoteStore, Bulkhead]]:
        store = RemoteStore(clock)
        bulkhead = Bulkhead(1, name="x", store=store, max_queue=5)

        async def work() -> None:
            async with bulkhead.guard():
                await clock.asleep(0.1)

        async def main() -> None:
            tasks = [asyncio.ensure_future(work()) for _ in range(2)]
            try:
                await work()
                await asyncio.wait(tasks)
            finally:
                for task in tasks:
                    task.cancel()

        return main(), (store, bulkhead)

    async def check(ending: Ending[tuple[RemoteStore, Bulkhead]]) -> None:
        store, bulkhead = ending.state
        await ending.clock.asleep(2.0)
        store.waiting.go()
        assert store.memory.ask(COUNT) == (0.0,)
        assert bulkhead.statistics().in_use == bulkhead.statistics().waiting == 0

    assert sweep(scenario, check) >= 4


def test_a_probe_cancelled_anywhere_leaves_its_place_to_others() -> None:
    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], tuple[RemoteStore, CircuitBreaker]]:
        store = RemoteStore(clock)
        breaker = CircuitBreaker("x", store=store, failure_threshold=1, half_open_max_calls=1, success_threshold=1)

        @breaker
        async def call(error: Exception | None) -> None:
            await clock.asleep(0.01)
            if error is not None:
                raise error

        async def main() -> None:
            try:
                await call(OSError())
            except OSError:
                await clock.asleep(10.0)
            await call(None)

        return main(), (store, breaker)

    async def check(ending: Ending[tuple[RemoteStore, CircuitBreaker]]) -> None:
        store, breaker = ending.state
        await ending.clock.asleep(10.0)
        store.waiting.go()

        @breaker
        async def call() -> int:
            return 1

        assert await call() == 1

    assert sweep(scenario, check) >= 4
