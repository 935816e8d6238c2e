"""The tools for tests: clocks that are moved, and loops that live on them."""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import (
    CallTimeoutError,
    RateLimiter,
    Timeout,
    testing,
)
from resilience.clock import SYSTEM, SystemClock
from resilience.testing import ManualClock, VirtualLoop, run, use_clock

QUARTERS = st.integers(0, 40).map(lambda quarters: quarters / 4)

# --- the manual clock ------------------------------------------------------------------------------------------------


def test_a_manual_clock_stands_until_it_is_moved() -> None:
    clock = ManualClock(5.0)
    assert (clock.now(), repr(clock)) == (5.0, "<ManualClock at 5 s>")
    clock.advance(2.5)
    clock.advance(0)
    assert clock.now() == 7.5
    clock.move_to(7.0)
    assert clock.now() == 7.5
    clock.move_to(8.0)
    assert clock.now() == 8.0
    assert ManualClock().now() == 0.0


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, "1", None])
def test_a_manual_clock_never_goes_back_nor_anywhere_odd(wrong: Any) -> None:
    clock = ManualClock()
    with pytest.raises((ValueError, TypeError), match="seconds must be a finite number of at least 0"):
        clock.advance(wrong)
    with pytest.raises((ValueError, TypeError), match="start must be a finite number of at least 0"):
        ManualClock(wrong)
    assert clock.now() == 0.0


@given(st.lists(st.tuples(QUARTERS, st.booleans()), max_size=20), st.lists(QUARTERS, max_size=6))
def test_timers_ring_in_order_each_at_its_own_time(timers: list[tuple[float, bool]], moves: list[float]) -> None:
    clock = ManualClock(100.0)
    loop = VirtualLoop(clock)
    rung: list[tuple[float, int]] = []
    heard: list[float] = []
    call_soon = loop.call_soon_threadsafe

    def hear(callback: Callable[[], object]) -> None:
        heard.append(clock.now())
        call_soon(callback)

    setattr(loop, "call_soon_threadsafe", hear)  # noqa: B010 - a method
    for number, (seconds, cancelled) in enumerate(timers):
        timer = clock.call_later(loop, seconds, partial(rung.append, (seconds, number)))
        if cancelled:
            timer.cancel()
    for seconds in (0.0, *moves):
        clock.advance(seconds)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    end = clock.now()
    expected = sorted((s, n) for n, (s, cancelled) in enumerate(timers) if not cancelled and 100.0 + s <= end)
    assert rung == expected
    assert heard == [100.0 + seconds for seconds, _ in expected]
    waiting = [100.0 + s for s, cancelled in timers if not cancelled and 100.0 + s > end]
    assert clock.next_timer() == min(waiting, default=math.inf)


def test_a_timer_cancelled_after_it_has_rung_and_before_its_loop_looks_stays_silent() -> None:
    clock = ManualClock()
    loop = VirtualLoop(clock)
    rung: list[str] = []
    timer = clock.call_later(loop, 1.0, lambda: rung.append("rang"))
    clock.advance(1.0)
    timer.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert rung == []


def test_a_timer_of_a_closed_loop_is_nobodys_business() -> None:
    clock = ManualClock()
    loop = VirtualLoop(clock)
    clock.call_later(loop, 1.0, lambda: None)
    clock.call_later(loop, -5.0, lambda: None)
    assert clock.next_timer() == 0.0
    loop.close()
    clock.advance(2.0)
    assert clock.next_timer() == math.inf


def test_plain_code_that_sleeps_moves_the_clock_itself() -> None:
    clock = ManualClock()
    for seconds in (2.0, 0.0, -1.0, 0.5):
        clock.sleep(seconds)
    assert clock.now() == 2.5
    assert clock.sleeps == [2.0, 0.0, -1.0, 0.5]


def test_plain_code_that_waits_for_a_lock_moves_the_clock_only_if_it_has_to() -> None:
    clock = ManualClock()
    lock = threading.Lock()
    assert clock.wait(lock, 5.0)
    assert clock.now() == 0.0
    assert not clock.wait(lock, 5.0)
    assert clock.now() == 5.0
    assert not clock.wait(lock, 0.0)
    lock.release()
    assert clock.wait(lock, None)


def test_a_thread_that_sleeps_on_a_clock_moved_by_hand_waits_for_it() -> None:
    clock = ManualClock(auto=False)
    woke: list[float] = []

    def sleep() -> None:
        clock.sleep(3.0)
        woke.append(clock.now())

    thread = threading.Thread(target=sleep)
    thread.start()
    while not clock.sleeps:
        thread.join(0.001)
    clock.advance(2.9)
    assert woke == []
    while thread.is_alive():
        clock.advance(0.5)
        thread.join(0.01)
    assert woke[0] >= 3.0


def test_a_thread_that_waits_for_a_lock_on_a_clock_moved_by_hand_gets_it_when_it_is_free() -> None:
    clock = ManualClock(auto=False)
    lock = threading.Lock()
    lock.acquire()
    answers: list[bool] = []
    looked = threading.Event()

    class Seen:
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if blocking:
                looked.set()
            return lock.acquire(blocking, timeout)

    thread = threading.Thread(target=lambda: answers.append(clock.wait(Seen(), 60.0)))
    thread.start()
    assert looked.wait(30)
    lock.release()
    thread.join(30)
    assert answers == [True]
    assert clock.now() == 0.0


def test_threads_that_move_the_clock_at_once_all_get_their_time() -> None:
    """Two threads that advanced the clock together once moved it by the time of one."""
    clock = ManualClock()
    barrier = threading.Barrier(4)

    def move() -> None:
        barrier.wait(30)
        for _ in range(500):
            clock.advance(1.0)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(move) for _ in range(4)]:
            future.result()
    assert clock.now() == 2000.0


def test_threads_that_sleep_at_once_sleep_side_by_side() -> None:
    class Meeting(ManualClock):
        def move_to(self, instant: float) -> None:
            barrier.wait(30)
            super().move_to(instant)

    barrier = threading.Barrier(3)
    clock = Meeting()
    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(clock.sleep, 5.0) for _ in range(3)]:
            future.result()
    assert clock.now() == 5.0


def test_a_wait_ends_at_its_own_time_although_another_thread_moved_the_clock_meanwhile() -> None:
    """The time left was once added to the clock as it stood by then: the waiter overslept."""
    clock = ManualClock()

    class Moved:
        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            if clock.now() == 0.0:
                clock.advance(3.0)
            return False

    assert not clock.wait(Moved(), 5.0)
    assert clock.now() == 5.0


# --- virtual time ----------------------------------------------------------------------------------------------------


def test_a_coroutine_runs_in_no_time_and_sees_all_of_it_pass() -> None:
    async def main() -> tuple[float, list[str]]:
        loop = asyncio.get_running_loop()
        order: list[str] = []

        async def sleeper(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(name)

        await asyncio.gather(sleeper("slow", 86_400.0 * 30), sleeper("fast", 0.001), sleeper("middle", 60.0))
        return loop.time(), order

    end, order = run(main(), ManualClock(1000.0))
    assert end == pytest.approx(1000.0 + 86_400.0 * 30)
    assert order == ["fast", "middle", "slow"]


def test_run_puts_its_clock_behind_every_policy() -> None:
    """Policies on the system's clock once saw real time in a virtual loop, and a timeout spun until it had passed."""
    limiter = RateLimiter(1, 60.0, max_wait=None)
    outer: list[float] = []

    async def main() -> float:
        for _ in range(3):
            async with limiter.guard():
                outer.append(SYSTEM.now())
        with pytest.raises(CallTimeoutError):
            async with Timeout(5.0).guard():
                await asyncio.sleep(60)
        return SYSTEM.now()

    clock = ManualClock(1000.0)
    assert run(main(), clock) == pytest.approx(1125.0, abs=0.2)
    assert outer == [1000.0, 1060.0, 1120.0]
    assert clock.now() == pytest.approx(1125.0, abs=0.2)


def test_run_uses_the_clock_that_is_in_use() -> None:
    async def main() -> float:
        await asyncio.sleep(5)
        return SYSTEM.now()

    with use_clock(ManualClock(50.0)) as clock:
        assert run(main()) == clock.now() == 55.0
    assert run(main()) == 5.0
    with use_clock(SystemClock()):
        assert run(main()) == 5.0
    assert SystemClock.behind() is None


def test_run_hands_out_results_and_errors_and_puts_the_clock_back() -> None:
    async def fail() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        run(fail())
    assert SystemClock.behind() is None


def test_tasks_wait_on_the_clock_and_may_be_cancelled_on_the_way() -> None:
    async def main(clock: ManualClock) -> list[float]:
        task = asyncio.ensure_future(clock.asleep(50.0))
        await clock.asleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = clock.now()
        await clock.asleep(0.0)
        await clock.asleep(-1.0)
        assert clock.now() == before
        assert clock.next_timer() == math.inf
        return clock.sleeps

    clock = ManualClock()
    assert sorted(run(main(clock), clock)) == [-1.0, 0.0, 1.0, 50.0]
    assert clock.now() == 1.0


def test_a_sleep_of_no_length_needs_no_timer() -> None:
    clock = ManualClock()
    sleep = clock.asleep(0.0)
    assert sleep.send(None) is None
    with pytest.raises(StopIteration):
        sleep.send(None)
    assert clock.next_timer() == math.inf


def test_a_sleep_that_rings_as_its_task_is_cancelled_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: ManualClock) -> None:
        task = asyncio.ensure_future(clock.asleep(1.0))
        await asyncio.sleep(0)
        clock.advance(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(1)

    clock = ManualClock()
    run(main(clock), clock)
    assert caplog.records == []  # where the loop tells what its callbacks raised


def test_another_thread_can_wake_a_loop_in_which_nothing_is_left_to_do() -> None:
    async def main() -> str:
        return await asyncio.to_thread(lambda: "from a thread")

    assert run(main()) == "from a thread"


def test_a_loop_in_which_nothing_can_happen_any_more_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "_PATIENCE", 0.0)

    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match=r"^virtual time stands still: every task waits"):
        run(main())


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a virtual loop really waits."""
    waiting = threading.Event()
    select = selectors.DefaultSelector.select

    def watched(selector: Any, timeout: float | None = None) -> Any:
        if timeout == testing._PATIENCE:
            waiting.set()
        return select(selector, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", watched)
    return waiting


def test_a_virtual_loop_that_has_nothing_else_to_do_waits_for_a_thread(waiting: threading.Event) -> None:
    assert run(asyncio.to_thread(waiting.wait, 60))


def test_the_limit_for_threads_to_end_within_is_not_one_of_virtual_time(waiting: threading.Event) -> None:
    """Since Python 3.12 the end of a run sets one, and virtual time jumped to it: the threads seemed to hang."""

    async def main() -> asyncio.Future[bool]:
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(None, waiting.wait, 60)
        await loop.shutdown_default_executor(300.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        return answer

    clock = ManualClock()
    assert run(main(), clock).result()
    assert clock.now() == 0.0
