"""The shared timer: one armed per loop, never early, a little late, and nothing kept."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience import Bulkhead, CallTimeoutError, Pipeline, Timeout
from resilience._timers import Timers, grain_of, timers_of
from resilience.clock import SYSTEM, Clock, TimerHandle
from resilience.deadline import Deadline
from resilience.testing import ManualClock, VirtualLoop, run, use_clock


def armed(clock: ManualClock) -> int:
    """How many timers are set on a clock."""
    return sum(not timer.cancelled for _, _, timer in clock._timers)


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


lengths = st.one_of(
    st.floats(1e-6, 1e-2), st.floats(1e-2, 10.0), st.floats(10.0, 1e6), st.sampled_from([0.01, 0.5, 1.0])
)


@settings(max_examples=60)
@given(
    start=st.floats(0.0, 1e6),
    calls=st.lists(st.tuples(st.floats(0.0, 5.0), lengths, st.booleans()), min_size=1, max_size=8),
)
def test_no_deadline_fires_early_nor_more_than_a_little_late(
    start: float, calls: list[tuple[float, float, bool]]
) -> None:
    clock = ManualClock(start)
    seen: list[tuple[float, float]] = []

    async def call(pause: float, length: float, guard: bool) -> None:
        await clock.asleep(pause)
        began = clock.now()
        with pytest.raises(CallTimeoutError) as caught:
            if guard:
                async with Timeout(length).guard():
                    await hang()
            else:
                await Timeout(length)(hang)()
        assert caught.value.timeout == length
        seen.append((length, clock.now() - began))

    async def main() -> None:
        await asyncio.gather(*(call(*each) for each in calls))
        assert armed(clock) == 0

    with use_clock(clock):
        run(main(), clock)
    assert len(seen) == len(calls)
    for length, took in seen:
        assert took >= length * (1 - 1e-9) - 1e-9
        assert took <= length + max(0.01, 0.02 * length) + 1e-6


def test_a_slot_that_has_rung_keeps_nothing(clock: ManualClock) -> None:
    """Who is still busy remembers its slot; once it kept all requests alive that had waited in the same one."""

    async def main() -> None:
        timers = timers_of(asyncio.get_running_loop(), clock)
        fired: list[int] = []

        class Entry:
            when = clock.now() + 1.0

            def fire(self) -> None:
                fired.append(len(slot))

        slot = timers.add(Entry(), 1)
        assert timers.add(Entry(), 1) is slot
        await clock.asleep(2.0)
        assert fired == [2, 2]
        assert slot == {}

    run(main(), clock)


@given(seconds=st.floats(0.0, 1e12))
def test_a_slot_is_at_most_two_percent_of_the_length_or_ten_milliseconds(seconds: float) -> None:
    assert 0.01 * grain_of(seconds) <= max(0.01, 0.02 * seconds)
    assert 0.01 * grain_of(seconds) > 0.01 * seconds or grain_of(seconds) == 1


def test_a_thousand_deadlines_at_once_need_one_timer(clock: ManualClock) -> None:
    async def main() -> None:
        tasks = [asyncio.ensure_future(Timeout(1 + number / 1000)(asyncio.sleep)(99)) for number in range(1000)]
        await asyncio.sleep(0)
        assert armed(clock) == 1
        await asyncio.wait(tasks)
        assert all(isinstance(task.exception(), CallTimeoutError) for task in tasks)
        assert armed(clock) == 0

    run(main(), clock)
    assert clock.now() == pytest.approx(1002.0, abs=0.05)


def test_an_earlier_deadline_moves_the_timer_forward(clock: ManualClock) -> None:
    async def main() -> list[float]:
        async def cut(seconds: float) -> float:
            with pytest.raises(CallTimeoutError):
                await Timeout(seconds)(asyncio.sleep)(9999)
            return clock.now() - 1000.0

        cuts = asyncio.gather(*(cut(seconds) for seconds in (300.0, 0.5, 3.0)))
        await asyncio.sleep(0)
        assert armed(clock) == 1, "the timer for the later one is still set"
        return await cuts

    assert run(main(), clock) == [pytest.approx(300.0, rel=0.02), pytest.approx(0.51), pytest.approx(3.0, rel=0.02)]


def test_slots_that_have_emptied_are_dropped(clock: ManualClock) -> None:
    async def main() -> None:
        timers = timers_of(asyncio.get_running_loop(), SYSTEM)
        short, long = Timeout(0.5)(asyncio.sleep), Timeout(60)(asyncio.sleep)
        for _ in range(100):
            await long(0.01)
            await short(0.01)
        assert len(timers.slots) <= 60
        with pytest.raises(CallTimeoutError):
            await short(1.0)
        await asyncio.sleep(1.0)
        assert all(timers.slots.values())
        assert len(timers.slots) == len(timers._heap) == 0
        await asyncio.sleep(100.0)
        assert armed(clock) == 0

    run(main(), clock)


def test_memory_stays_bounded_over_very_many_deadlines(clock: ManualClock) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        timers = timers_of(loop, SYSTEM)
        most = 0
        for number in range(100_000):
            deadline = Deadline(clock.now() + 30.0, SYSTEM, task=task)
            timers.add(deadline, grain_of(30.0)).pop(deadline)
            clock.advance(0.01)
            if number % 1000 == 0:
                for _ in range(4):  # the loop was blocked, and looks first what has arrived
                    await asyncio.sleep(0)
                most = max(most, len(timers.slots))
        assert most <= 100
        assert len(timers._heap) == len(timers.slots)

    run(main(), clock)


def test_a_limit_beyond_all_time_never_fires(clock: ManualClock) -> None:
    """Timeout(1e308) once raised OverflowError in the arithmetic of slots."""

    async def main() -> None:
        for seconds in (1e12, 1e13, 1e308):
            assert await Timeout(seconds)(asyncio.sleep)(10.0, "result") == "result"
            assert await Timeout(lambda *args, limit=seconds: limit)(asyncio.sleep)(10.0, "result") == "result"
        assert await Timeout(lambda *_: 10**400)(asyncio.sleep)(10.0, "result") == "result"

    run(main(), clock)


def test_a_timer_longer_than_a_day_is_set_again() -> None:
    """Event loops do not take arbitrarily long timers."""

    class Watched(ManualClock):
        lengths: ClassVar[list[float]] = []

        def call_later(
            self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
        ) -> TimerHandle:
            self.lengths.append(seconds)
            return super().call_later(loop, seconds, callback)

    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            await Timeout(10 * 86_400)(hang)()

    clock = Watched(1000.0)
    with use_clock(clock):
        run(main(), clock)
    assert 1000.0 + 864_000 <= clock.now() <= 1000.0 + 864_000 * 1.02
    assert max(clock.lengths) == 86_400.0
    assert len(clock.lengths) == 11


def test_closed_loops_are_forgotten(clock: ManualClock) -> None:
    """T5: hyx and aiolimiter keep the loop they met first."""
    timeout = Timeout(1)
    for _ in range(5):
        assert run(timeout(asyncio.sleep)(0.5, "result"), clock) == "result"
    loop = VirtualLoop(clock)
    timers = timers_of(loop, SYSTEM)
    assert timers_of(loop, SYSTEM) is timers
    assert timers_of(loop, clock) is not timers
    other = VirtualLoop(clock)
    assert timers_of(other, SYSTEM) is not timers
    other.close()
    loop.close()


def test_tasks_that_were_pending_when_their_loop_closed_go_with_it() -> None:
    """A registry that kept the loop kept the tasks that its timers would cancel, and all that those held."""
    bulkhead = Bulkhead(1)

    @Pipeline(bulkhead, Timeout(5))
    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it would complain about the task
    task = loop.create_task(stuck())
    loop.run_until_complete(asyncio.sleep(0))
    assert bulkhead.statistics().in_use == 1
    loop.close()
    del task, loop
    gc.collect()
    assert bulkhead.statistics().in_use == 0


def test_loops_in_threads_share_one_timeout_object() -> None:
    timeout = Timeout(1)
    outcomes: list[Any] = []

    def thread() -> None:
        clock = ManualClock()
        mine = timeout.with_()
        mine._clock = clock

        async def main() -> None:
            for _ in range(20):
                await mine(clock.asleep)(0.5)
                with pytest.raises(CallTimeoutError):
                    await mine(clock.asleep)(60.0)

        run_alone(main(), clock)
        outcomes.append(clock.now())

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert outcomes == [pytest.approx(20 * 1.52, abs=0.5)] * 4
    assert timeout.statistics().timed_out == 80


def run_alone(main: Any, clock: Clock) -> None:
    """Run in a virtual loop without putting its clock behind everybody else's policies."""
    assert isinstance(clock, ManualClock)
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(main)


def test_one_timeout_serves_two_loops_that_take_turns(clock: ManualClock) -> None:
    timeout = Timeout(1)(asyncio.sleep)
    one, two = VirtualLoop(clock), VirtualLoop(clock)
    first = one.create_task(timeout(60))
    one.run_until_complete(asyncio.sleep(0.2))
    second = two.create_task(timeout(60))
    two.run_until_complete(asyncio.wait([second]))
    one.run_until_complete(asyncio.wait([first]))
    assert isinstance(first.exception(), CallTimeoutError)
    assert isinstance(second.exception(), CallTimeoutError)
    one.close()
    two.close()


def test_in_an_ordinary_loop_the_timer_rings_too() -> None:
    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            await Timeout(0.005)(hang)()

    asyncio.run(main())


def test_a_ring_that_comes_too_soon_waits_for_the_rest(clock: ManualClock) -> None:
    """Event loops ring up to their clock's resolution early."""
    loop = VirtualLoop(clock)
    timers = Timers(loop, clock)
    deadline = Deadline(1001.0, clock)
    timers.add(deadline, 1)
    timers._ring()
    assert list(timers.slots) == [100101]
    assert armed(clock) >= 1
    loop.close()
    gc.collect()
