"""The bulkhead in use: its limit, the order of its queue, cancellation, resizing, statistics."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    BulkheadStatistics,
    CallRejected,
    CircuitBreaker,
    Pipeline,
    Timeout,
)
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour
from tests.sweep import Ending, sweep


def test_calls_up_to_the_limit_run_and_the_next_is_rejected(colour: Colour) -> None:
    bulkhead = Bulkhead(3, name="db")
    guards = [bulkhead.guard() for _ in range(4)]
    for guard in guards[:3]:
        colour.enter(guard)
    with pytest.raises(BulkheadFullError, match=r"^db: ") as caught:
        colour.enter(guards[3])
    assert (caught.value.policy, caught.value.retry_after) == ("db", None)
    assert bulkhead.statistics() == BulkheadStatistics(3, 0, 3, 0, 0, 1)
    colour.exit(guards[0])
    colour.enter(bulkhead.guard())
    assert repr(bulkhead).startswith("<Bulkhead db: ")


def test_repr_and_statistics_tell_the_state() -> None:
    bulkhead = Bulkhead(2, max_queue=5)
    permit = bulkhead.admit()
    assert repr(bulkhead) == "<Bulkhead unnamed: 1 of 2 in use, 0 of 5 waiting>"
    assert not bulkhead.at_rest
    bulkhead.settle(permit)
    assert bulkhead.at_rest


def test_a_rejection_is_told_to_listeners(colour: Colour) -> None:
    bulkhead = Bulkhead(1, name="db")
    permit = bulkhead.admit()
    with recorded_events(CallRejected) as events, pytest.raises(BulkheadFullError):
        colour.guarded(bulkhead, lambda: None)()
    assert events == [CallRejected(policy="db", time=1000.0)]
    bulkhead.settle(permit)


def test_a_pipeline_knows_how_long_a_call_can_wait() -> None:
    attempt = Timeout(5.0)
    assert Pipeline(Bulkhead(1), attempt).describe().worst_case_duration == 5.0
    assert Pipeline(Bulkhead(1, max_queue=1, max_wait=7.0), attempt).describe().worst_case_duration == 12.0
    assert Pipeline(Bulkhead(1, max_queue=1, max_wait=None), attempt).describe().worst_case_duration is None


# -- order -------------------------------------------------------------------------------------------------------------


def test_waiters_are_served_in_the_order_they_came_whatever_they_are(clock: ManualClock) -> None:
    """Threads and tasks of two loops in one queue; aiolimiter let newcomers barge (L1)."""
    queued = threading.Semaphore(0)
    bulkhead = Bulkhead(1, max_queue=30, max_wait=None, listeners=[lambda _: queued.release()])
    permit = bulkhead.admit()
    served: list[int] = []
    others: list[threading.Thread] = []

    def thread(number: int) -> None:
        bulkhead(lambda: served.append(number))()

    def loop(number: int) -> None:
        async def work() -> None:
            served.append(number)

        asyncio.run(bulkhead(work)())

    for number in range(12):
        others.append(threading.Thread(target=(thread, loop)[number % 2], args=(number,), daemon=True))
        others[-1].start()
        assert queued.acquire(timeout=20.0)
    bulkhead.settle(permit)
    for other in others:
        other.join(20.0)
    assert served == list(range(12))
    assert bulkhead.statistics() == BulkheadStatistics(1, 30, 0, 0, 12, 0)


def test_a_caller_with_little_time_left_waits_for_a_slot_that_comes_in_time(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=1)

    @bulkhead
    async def work(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def main() -> float:
        first = asyncio.ensure_future(work(0.25))
        await asyncio.sleep(0)
        async with Timeout(0.5).guard():
            result = await work(0.125)
        await first
        return result

    assert run(main(), clock) == 0.125


def test_a_newcomer_does_not_overtake_those_who_wait(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=1)
    served: list[str] = []

    async def work(name: str) -> None:
        served.append(name)

    async def main() -> None:
        permit = bulkhead.admit()
        waiter = asyncio.create_task(bulkhead(work)("waiter"))
        await asyncio.sleep(0)
        bulkhead.settle(permit)  # passed on at once, before the waiter gets to run
        with pytest.raises(BulkheadFullError):
            await bulkhead.with_(max_wait=0)(work)("newcomer")
        await waiter

    run(main(), clock)
    assert served == ["waiter"]


def test_one_limit_holds_for_all_event_loops_together(clock: ManualClock) -> None:
    """A bulkhead of 1 ran 4 calls in 4 loops in nopanic (L8)."""
    bulkhead = Bulkhead(1)

    async def hold() -> None:
        async with bulkhead.guard():
            outcomes.append(rejected_elsewhere())

    def rejected_elsewhere() -> bool:
        outcome: list[bool] = []

        def other() -> None:
            async def enter() -> None:
                with pytest.raises(BulkheadFullError):
                    await bulkhead.guard().__aenter__()
                outcome.append(True)

            asyncio.run(enter())

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(20.0)
        return outcome == [True]

    outcomes: list[bool] = []
    run(hold(), clock)
    assert outcomes == [True]


# -- cancellation ------------------------------------------------------------------------------------------------------


def test_a_waiter_cancelled_at_any_point_frees_its_place_and_starves_nobody() -> None:
    """A cancelled waiter leaked its slot, or starved the rest, in hyx, failsafe, cockatiel and anyio (L3)."""

    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, None], Bulkhead]:
        bulkhead = Bulkhead(1, max_queue=3, max_wait=60.0, clock=clock)

        async def work() -> None:
            await clock.asleep(1.0)

        async def waiting() -> None:
            permit = bulkhead.admit()
            clock.call_later(asyncio.get_running_loop(), 5.0, lambda: bulkhead.settle(permit))
            await bulkhead(work)()
            await bulkhead(work)()

        return waiting(), bulkhead

    async def check(ending: Ending[Bulkhead]) -> None:
        bulkhead, clock = ending.state, ending.clock
        assert bulkhead.statistics().waiting == 0
        await clock.asleep(10.0)
        assert bulkhead.statistics().in_use == 0
        async with bulkhead.guard():
            assert bulkhead.statistics().in_use == 1

    assert sweep(scenario, check) >= 6


def test_a_slot_granted_to_a_cancelled_waiter_goes_to_the_next(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=3)
    served: list[str] = []

    async def work(name: str) -> None:
        served.append(name)

    async def main() -> None:
        permit = bulkhead.admit()
        first, second = (asyncio.create_task(bulkhead(work)(name)) for name in ("first", "second"))
        await asyncio.sleep(0)
        bulkhead.settle(permit)
        first.cancel()  # it has its slot by now, and does not know yet
        await asyncio.wait([first, second])
        assert first.cancelled()

    run(main(), clock)
    assert served == ["second"]
    assert bulkhead.statistics() == BulkheadStatistics(1, 3, 0, 0, 2, 0)


def test_a_thread_interrupted_while_it_waits_frees_its_place() -> None:
    class Interrupted(ManualClock):
        def wait(self, lock: Any, seconds: float | None) -> bool:
            assert bulkhead.statistics().waiting == 1
            raise KeyboardInterrupt

    bulkhead = Bulkhead(1, max_queue=1, clock=Interrupted())
    permit = bulkhead.admit()
    with pytest.raises(KeyboardInterrupt):
        bulkhead(lambda: None)()
    assert bulkhead.statistics() == BulkheadStatistics(1, 1, 1, 0, 1, 0)
    bulkhead.settle(permit)


def test_our_own_saturation_does_not_trip_the_breaker_around(colour: Colour) -> None:
    """The breaker of a healthy dependency opened on local causes in interlock and Polly (B16)."""
    breaker, bulkhead = CircuitBreaker(failure_threshold=1), Bulkhead(1)
    permit = bulkhead.admit()
    guarded = colour.guarded(Pipeline(breaker, bulkhead), lambda: 7)
    for _ in range(3):
        with pytest.raises(BulkheadFullError):
            guarded()
    assert breaker.statistics().failures == 0
    bulkhead.settle(permit)
    assert guarded() == 7


# -- resizing and configuration ----------------------------------------------------------------------------------------


def test_growing_lets_waiters_in_at_once_and_shrinking_lets_calls_finish(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, max_queue=5, max_wait=None)
    running: set[int] = set()
    peaks: list[int] = []

    async def work(number: int) -> None:
        running.add(number)
        peaks.append(len(running))
        await clock.asleep(10.0)
        running.discard(number)

    async def main() -> None:
        tasks = [asyncio.create_task(bulkhead(work)(number)) for number in range(6)]
        await clock.asleep(1.0)
        assert running == {0}
        bulkhead.resize(3)
        await clock.asleep(1.0)
        assert running == {0, 1, 2}
        bulkhead.resize(1)
        await clock.asleep(8.5)
        assert running == {1, 2}, "the first has finished, and nobody took its place"
        await asyncio.gather(*tasks)

    run(main(), clock)
    assert max(peaks) == 3
    assert bulkhead.statistics() == BulkheadStatistics(1, 5, 0, 0, 5, 0)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.0, "1", None, math.nan, math.inf, 10**400])
def test_a_limit_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_concurrency must be a whole number of at least 1"):
        Bulkhead(wrong)
    bulkhead = Bulkhead(1)
    with pytest.raises((TypeError, ValueError), match="max_concurrency must be a whole number of at least 1"):
        bulkhead.resize(wrong)
    assert bulkhead.statistics().max_concurrency == 1


@pytest.mark.parametrize("wrong", [-1, True, 1.5, "1", None, math.nan, 10**400])
def test_a_queue_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_queue must be a whole number of at least 0"):
        Bulkhead(1, max_queue=wrong)


@pytest.mark.parametrize("wrong", [-0.1, True, "1", math.nan, math.inf, 10**400, timedelta(seconds=-1)])
def test_a_wait_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_wait must be a finite number of at least 0"):
        Bulkhead(1, max_wait=wrong)
    with pytest.raises((TypeError, ValueError), match="max_wait"):
        Bulkhead(1).with_(max_wait=wrong)
