"""The tools for tests: clocks that are moved, loops in virtual time, recorded events, scripts."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitClosed,
    CircuitOpened,
    RateLimiter,
    Retry,
    Timeout,
    deadline,
    testing,
)
from resilience.clock import SYSTEM, SystemClock
from resilience.testing import ManualClock, Script, VirtualLoop, no_waits, recorded_events, run, use_clock
from tests.conftest import Colour

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


def test_a_sleep_that_rings_as_its_task_is_cancelled_is_cancelled() -> None:
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


# --- a clock for everybody -------------------------------------------------------------------------------------------


def test_clocks_nest_and_are_put_back_even_if_the_block_raises() -> None:
    outer, inner = ManualClock(1.0), ManualClock(2.0)
    with use_clock(outer) as clock:
        assert clock is outer
        with pytest.raises(KeyError), use_clock(inner):
            assert SYSTEM.now() == 2.0
            raise KeyError
        assert SYSTEM.now() == 1.0
    assert SystemClock.behind() is None


def test_only_a_clock_can_be_used() -> None:
    wrong: Any = 3
    with pytest.raises(TypeError, match=r"^use_clock takes a Clock, not 3$"), use_clock(wrong):
        raise AssertionError


def fail() -> None:
    raise OSError


def test_no_waits_makes_pauses_instant_and_tells_their_length(colour: Colour) -> None:
    guarded = colour.guarded(Retry(OSError, attempts=4, wait=tenacity.wait_fixed(60.0)), fail)
    with no_waits() as sleeps:
        with pytest.raises(OSError):
            guarded()
        assert sleeps == [60.0] * 3


def test_without_waits_pauses_still_count_towards_a_deadline() -> None:
    calls: list[float | None] = []

    async def fail_async() -> None:
        calls.append(deadline.remaining())
        raise OSError

    retrying = Retry(OSError, attempts=10, wait=tenacity.wait_fixed(2.0))
    with no_waits() as sleeps, pytest.raises(OSError):
        asyncio.run(Timeout(5.0).call(retrying(fail_async)))
    assert calls == [5.0, 3.0, 1.0]
    assert sleeps == [2.0, 2.0]


def test_without_waits_a_thread_in_a_queue_gives_up_at_once() -> None:
    bulkhead = Bulkhead(1, max_queue=1, max_wait=30.0)
    bulkhead.admit()
    with no_waits(), pytest.raises(BulkheadFullError), bulkhead.guard():
        raise AssertionError


@pytest.mark.parametrize("virtual", [False, True])
def test_without_waits_what_really_hangs_is_still_cut_off(virtual: bool) -> None:
    """In an ordinary loop nobody moved the clock, so a queue or a call that hung was waited for for ever."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=30.0)
    bulkhead.admit()

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            await Timeout(20.0).call(hang)
        with pytest.raises(BulkheadFullError):
            async with bulkhead.guard():
                raise AssertionError
        assert await Timeout(3600.0).call(asyncio.sleep, 0, "quick") == "quick"

    class Ordinary(asyncio.SelectorEventLoop):
        """A loop with a time of its own, which passes although the clock behind the policies stands still."""

        def __init__(self) -> None:
            self.clock = ManualClock()
            super().__init__(testing._Selector(self.clock))

        def time(self) -> float:
            return self.clock.now()

    with no_waits(), asyncio.Runner(loop_factory=Ordinary) as runner:
        run(main()) if virtual else runner.run(main())


# --- events and scripts ----------------------------------------------------------------------------------------------


def test_events_are_recorded_all_or_by_type(clock: ManualClock) -> None:
    breaker = CircuitBreaker("service")
    with recorded_events() as everything, recorded_events(CircuitClosed) as closed:
        breaker.isolate()
        breaker.reset()
    breaker.isolate()
    assert [type(event) for event in everything] == [CircuitOpened, CircuitClosed]
    assert closed == everything[1:]


def test_a_script_plays_its_entries_one_a_call_and_repeats_the_last(colour: Colour) -> None:
    script = Script([OSError("first"), KeyError, lambda x, y=0: x + y, "last"])
    play = colour.runner(script.asynchronous if colour.is_async else script.sync)
    with pytest.raises(OSError, match="first"):
        play()
    with pytest.raises(KeyError):
        play("b")
    assert play(1, y=2) == 3
    assert [play(), play()] == ["last", "last"]
    assert script.calls == [((), {}), (("b",), {}), ((1,), {"y": 2}), ((), {}), ((), {})]


def test_a_script_is_a_plain_callable_and_awaits_what_its_entries_return() -> None:
    async def work(x: int) -> int:
        await asyncio.sleep(1)
        return x

    script = Script([work, 7])
    assert run(script.asynchronous(3)) == 3
    assert script() == 7
    assert Retry(OSError)(Script([OSError(), "done"]))() == "done"
    with pytest.raises(ValueError, match="at least one entry"):
        Script([])


def test_threads_that_play_one_script_share_its_entries() -> None:
    script = Script(range(400))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: script(), range(400)))
    assert sorted(results) == list(range(400))
