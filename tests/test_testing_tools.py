"""The tools for tests: a clock for everybody, no waits, recorded events, scripts."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tenacity

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitClosed,
    CircuitOpened,
    Retry,
    Timeout,
    deadline,
    testing,
)
from resilience.clock import SYSTEM, SystemClock
from resilience.testing import ManualClock, Script, no_waits, recorded_events, run, use_clock
from tests.conftest import Colour

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


class Ordinary(asyncio.SelectorEventLoop):
    """A loop with a time of its own, which passes although the clock behind the policies stands still."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        super().__init__(testing._Selector(self.clock))

    def time(self) -> float:
        return self.clock.now()


def test_without_waits_a_limit_that_is_cancelled_takes_no_time() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        rung: list[float] = []
        SYSTEM.call_later(loop, 5.0, lambda: rung.append(5.0)).cancel()
        await asyncio.sleep(10)
        assert SYSTEM.now() == 0.0
        SYSTEM.call_later(loop, 7.0, lambda: rung.append(SYSTEM.now()))
        await asyncio.sleep(10)
        return rung

    with no_waits(), asyncio.Runner(loop_factory=Ordinary) as runner:
        assert runner.run(main()) == [7.0]


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
