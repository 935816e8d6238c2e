"""The clock: the machine's time, another clock behind it, and clocks that know only their three duties."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
import tenacity

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    Clock,
    Keyed,
    Pipeline,
    RateLimiter,
    RateLimitExceededError,
    Retry,
    RetryBudget,
    Timeout,
    deadline,
)
from resilience.clock import SYSTEM, SystemClock, checked, turn, unix_milliseconds
from resilience.testing import ManualClock, VirtualLoop, run, use_clock


class Plain(Clock):
    """Only the three duties. Sleeping moves its time; a task sleeps for as many turns of its loop as it takes."""

    def __init__(self) -> None:
        self.time = 500.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    async def asleep(self, seconds: float) -> None:
        end = self.time + seconds
        while self.time < end:
            await turn()
            self.time += 0.25


# --- the system's clock ----------------------------------------------------------------------------------------------


def test_the_system_clock_is_the_monotonic_time_of_the_machine() -> None:
    before = time.monotonic()
    assert before <= SYSTEM.now() <= time.monotonic()
    assert SystemClock.now is time.monotonic


def test_the_system_clock_waits_for_a_lock_that_is_free() -> None:
    for seconds in (None, 0.0, -1.0, 1e300):
        lock = threading.Lock()
        assert SYSTEM.wait(lock, seconds)
        assert lock.locked()


def test_the_system_clock_stops_waiting_for_a_lock_that_stays_taken() -> None:
    lock = threading.Lock()
    lock.acquire()
    assert not SYSTEM.wait(lock, 0.0)
    assert not SYSTEM.wait(lock, -5.0)


def test_the_system_clock_sleeps_for_real_unless_a_clock_is_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    SYSTEM.sleep(7.0)
    with use_clock(ManualClock()) as clock:
        SYSTEM.sleep(3.0)
        assert clock.now() == 3.0
    assert slept == [7.0]


def test_the_system_clock_suspends_and_calls_back_in_the_time_of_the_loop() -> None:
    async def main(loop: VirtualLoop) -> tuple[float, list[float]]:
        rung: list[float] = []
        SYSTEM.call_later(loop, 2.0, lambda: rung.append(loop.time()))
        SYSTEM.call_later(loop, 1.0, lambda: rung.append(-1.0)).cancel()
        await SYSTEM.asleep(5.0)
        return loop.time(), rung

    loop = VirtualLoop()
    assert loop.run_until_complete(main(loop)) == (5.0, [2.0])
    loop.close()


def test_the_calendar_time_is_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    assert before <= unix_milliseconds() <= time.time_ns() // 1_000_000


def test_only_a_clock_is_a_clock() -> None:
    assert checked(None) is SYSTEM
    manual = ManualClock()
    assert checked(manual) is manual
    for wrong in (time, time.monotonic, 3, ManualClock, object()):
        with pytest.raises(TypeError, match=r"^clock must be a resilience\.Clock or None, not "):
            Bulkhead(1, clock=wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


# --- another clock behind it -----------------------------------------------------------------------------------------


def test_a_clock_can_be_put_behind_the_system_clock_and_taken_away_again() -> None:
    first, second = ManualClock(10.0), ManualClock(20.0)
    assert SystemClock.put_behind(first) is None
    try:
        assert SYSTEM.now() == 10.0
        assert SystemClock.put_behind(second) is first
        assert (SYSTEM.now(), SystemClock.behind()) == (20.0, second)
        assert SYSTEM.wait(threading.Lock(), None)
    finally:
        SystemClock.put_behind(None)
    assert SystemClock.now is time.monotonic
    assert SystemClock.behind() is None


def test_the_system_clock_behind_itself_is_the_machines_time() -> None:
    """It once asked itself for ever."""
    with use_clock(ManualClock(5.0)):
        with use_clock(SystemClock()):
            assert SystemClock.now is time.monotonic
            SYSTEM.sleep(0.0)
        assert SYSTEM.now() == 5.0


LAYERS: dict[str, Any] = {
    "breaker": lambda: CircuitBreaker(failure_threshold=1, recovery_time=5.0, jitter=0.0),
    "limiter": lambda: RateLimiter(1, 5.0),
    "keyed": lambda: Keyed(lambda _: RateLimiter(1, 5.0), lambda: "key"),
}


@pytest.mark.parametrize("which", LAYERS)
@pytest.mark.parametrize("is_async", [False, True])
def test_functions_guarded_before_a_clock_was_put_in_place_live_on_it(which: str, is_async: bool) -> None:
    def fail() -> None:
        raise OSError

    async def fail_async() -> None:
        raise OSError

    guarded: Any = LAYERS[which]()(fail_async if is_async else fail)

    def outcome() -> type[BaseException]:
        with pytest.raises((OSError, CircuitOpenError, RateLimitExceededError)) as caught:
            asyncio.run(guarded()) if is_async else guarded()
        return caught.type

    with use_clock(ManualClock(1e7)) as clock:
        assert isinstance(clock, ManualClock)
        assert [outcome() is OSError for _ in range(3)] == [True, False, False]
        clock.advance(4.99)
        assert outcome() is not OSError
        clock.advance(0.02)
        assert outcome() is OSError


@pytest.mark.parametrize("is_async", [False, True])
def test_a_retry_with_a_stop_that_was_made_before_lives_on_the_clock_put_in_place(is_async: bool) -> None:
    """The instant at which a call began was once read from the clock of the time when it was decorated."""
    calls: list[float] = []

    def fail() -> None:
        calls.append(SYSTEM.now())
        raise OSError

    async def fail_async() -> None:
        fail()

    retry = Retry(OSError, attempts=10, wait=tenacity.wait_fixed(1.0), stop=tenacity.stop_after_delay(2.5))
    guarded: Any = retry(fail_async if is_async else fail)
    with use_clock(ManualClock(1e7)), pytest.raises(OSError):
        run(guarded()) if is_async else guarded()
    assert calls == [1e7, 1e7 + 1, 1e7 + 2, 1e7 + 3]


def test_a_timeout_and_a_budget_made_before_live_on_the_clock_put_in_place() -> None:
    budget = RetryBudget(ratio=0.0, minimum_per_second=0.1, window=10.0)
    limited = Timeout(2.0)(deadline.remaining)
    with use_clock(ManualClock(1e7)) as clock:
        assert isinstance(clock, ManualClock)
        assert limited() == 2.0
        assert [budget.withdraw(), budget.withdraw()] == [True, False]
        clock.advance(11.0)
        assert budget.withdraw()


# --- clocks with nothing but the three duties ------------------------------------------------------------------------


def test_a_clock_needs_its_three_duties() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Clock()  # type: ignore[abstract] # pyright: ignore[reportAbstractUsage]


def test_a_plain_clock_waits_for_a_lock_in_its_own_time() -> None:
    """The wait for a lock once took real seconds on every clock that did not define it."""
    clock = Plain()
    lock = threading.Lock()
    assert clock.wait(lock, 10.0)
    assert clock.slept == []
    assert not clock.wait(lock, 30.0)
    assert clock.now() == pytest.approx(530.0)
    assert max(clock.slept) <= 0.01
    assert min(clock.slept) > 0.0
    assert not clock.wait(lock, 0.0)
    assert not clock.wait(lock, -1.0)


def test_a_plain_clock_without_a_limit_waits_until_the_lock_is_free() -> None:
    lock = threading.Lock()
    assert Plain().wait(lock, None)
    assert lock.locked()


def test_a_plain_clock_sees_a_lock_that_is_released_during_the_wait() -> None:
    lock = threading.Lock()
    lock.acquire()

    class Releasing(Plain):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.time > 501.0 and lock.locked():
                lock.release()

    clock = Releasing()
    assert clock.wait(lock, 30.0)
    assert clock.now() < 501.1


def test_a_timeout_works_on_a_plain_clock() -> None:
    clock = Plain()

    @Timeout(3.0, clock=clock, name="total")
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(CallTimeoutError, match=r"^total: the call took longer than 3 s"):
        asyncio.run(hang())
    assert 503.0 <= clock.now() <= 504.0


def test_a_timeout_that_is_not_needed_leaves_no_trace_on_a_plain_clock() -> None:
    clock = Plain()

    async def main() -> float | None:
        return await Timeout(3.0, clock=clock).call(quick)

    async def quick() -> float | None:
        return deadline.remaining()

    assert asyncio.run(main()) == 3.0


@pytest.mark.parametrize("is_async", [False, True])
def test_a_queue_of_a_bulkhead_works_on_a_plain_clock(is_async: bool) -> None:
    clock = Plain()
    bulkhead = Bulkhead(1, max_queue=1, max_wait=4.0, clock=clock)
    permit = bulkhead.admit()

    async def wait_async() -> None:
        async with bulkhead.guard():
            raise AssertionError("there is no slot")

    def wait() -> None:
        with bulkhead.guard():
            raise AssertionError("there is no slot")

    with pytest.raises(BulkheadFullError):
        asyncio.run(wait_async()) if is_async else wait()
    assert 503.9 <= clock.now() <= 505.0
    bulkhead.settle(permit)
    assert bulkhead.statistics().in_use == 0


def test_a_waiter_on_a_plain_clock_gets_the_slot_that_is_freed() -> None:
    clock = Plain()
    bulkhead = Bulkhead(1, max_queue=1, max_wait=None, clock=clock)

    async def main() -> str:
        permit = bulkhead.admit()
        waiter = asyncio.ensure_future(bulkhead.call(work))
        await turn()
        assert bulkhead.statistics().waiting == 1
        bulkhead.settle(permit)
        return await waiter

    async def work() -> str:
        return "done"

    assert asyncio.run(main()) == "done"


@pytest.mark.parametrize("is_async", [False, True])
def test_pauses_are_slept_on_the_policys_own_clock(clock: ManualClock, is_async: bool) -> None:
    own = ManualClock(50.0)
    loop = VirtualLoop(own)
    outcomes: list[Any] = [OSError(), "done", "done"]
    retry = Retry(OSError, wait=tenacity.wait_fixed(2.0), clock=own)
    limiter = RateLimiter(1, 3.0, max_wait=None, clock=own)

    def body() -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def coroutine_function() -> Any:
        return body()

    guarded: Any = Pipeline(retry, limiter)(coroutine_function if is_async else body)
    assert (loop.run_until_complete(guarded()) if is_async else guarded()) == "done"
    assert own.now() == 53.0
    assert clock.now() == 1000.0
    loop.close()
