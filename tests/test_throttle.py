"""The throttle: pacing through an AsyncLimiter, first come first served, in the one loop that owns it."""

from __future__ import annotations

import asyncio
import gc
import math
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
from aiolimiter import AsyncLimiter

from resilience import DeadlineExceededError, RateLimitExceededError, Throttle, Timeout
from resilience.events import CallQueued, CallRejected
from resilience.testing import ManualClock, VirtualLoop, recorded_events, run
from tests.sweep import Ending, sweep


def paced(throttle: Throttle, clock: ManualClock) -> tuple[Callable[..., Any], list[tuple[float, float]]]:
    """A call of some cost under `throttle`, and the list of (start, cost) that its calls write."""
    started: list[tuple[float, float]] = []

    @throttle
    async def call(cost: float = 1) -> None:
        started.append((round(clock.now() - 1000.0, 6), cost))

    return call, started


def by_cost(limiter: AsyncLimiter, **options: Any) -> Throttle:
    return Throttle(limiter, cost=lambda cost: cost, **options)


def test_calls_are_paced_as_the_bucket_leaks(clock: ManualClock) -> None:
    async def main() -> None:
        throttle = Throttle(AsyncLimiter(2, 1.0), name="api")
        call, started = paced(throttle, clock)
        await asyncio.gather(*(call() for _ in range(5)))
        assert started == [(0.0, 1), (0.0, 1), (0.5, 1), (1.0, 1), (1.5, 1)]
        assert (throttle.statistics().waiting, throttle.statistics().rejected) == (0, 0)

    run(main(), clock)


def test_a_heavy_call_is_not_overtaken_by_light_ones(clock: ManualClock) -> None:
    """L1: in aiolimiter the lightest waiter goes first and newcomers barge, so that heavy ones starve."""

    async def main() -> None:
        call, started = paced(by_cost(AsyncLimiter(4, 4.0)), clock)
        await call(4)
        tasks = [asyncio.ensure_future(call(cost)) for cost in (4, 1, 1)]
        await asyncio.sleep(2.5)
        tasks.append(asyncio.ensure_future(call(1)))
        tasks.append(asyncio.ensure_future(call(0)))
        await asyncio.gather(*tasks)
        assert started == [(0.0, 4), (4.0, 4), (5.0, 1), (6.0, 1), (7.0, 1), (7.0, 0)]

    run(main(), clock)


def test_thousands_of_cancelled_waiters_leave_nothing_behind(clock: ManualClock) -> None:
    """L1: in aiolimiter 5,001 cancelled waiters stayed in the heap."""

    async def main() -> None:
        limiter = AsyncLimiter(1, 1.0)
        throttle = Throttle(limiter, max_wait=None)
        call, started = paced(throttle, clock)
        await call()
        tasks = [asyncio.ensure_future(call()) for _ in range(2000)]
        await asyncio.sleep(0.25)
        assert throttle.statistics().waiting == 2000
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert throttle.statistics().waiting == 0
        assert limiter._waiters == []
        await call()
        assert started == [(0.0, 1), (1.0, 1)]

    run(main(), clock)


def test_a_call_cancelled_anywhere_leaks_nothing() -> None:
    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], tuple[Throttle, list[tuple[float, float]]]]:
        throttle = Throttle(AsyncLimiter(1, 1.0), max_wait=None)
        call, started = paced(throttle, clock)

        async def main() -> None:
            others = [asyncio.ensure_future(call()) for _ in range(3)]
            try:
                await asyncio.sleep(0)
                await call()
                await call()
            finally:
                await asyncio.gather(*others)

        return main(), (throttle, started)

    async def check(ending: Ending[tuple[Throttle, list[tuple[float, float]]]]) -> None:
        throttle, started = ending.state
        assert [instant for instant, _ in started] == [float(number) for number in range(len(started))]
        assert throttle.statistics().waiting == 0
        assert throttle._machine.queue.wanted == 0.0
        await asyncio.sleep(1.0)
        assert throttle._machine.limiter.has_capacity(1)

    assert sweep(scenario, check) >= 6


def test_a_wait_that_cannot_fit_is_rejected_at_once(clock: ManualClock) -> None:
    async def main() -> None:
        throttle = Throttle(AsyncLimiter(1, 2.0), max_wait=3.0, name="slow")
        call, started = paced(throttle, clock)
        await call()
        waiting = asyncio.ensure_future(call())
        await asyncio.sleep(0)
        with pytest.raises(RateLimitExceededError) as refused:
            await call()
        assert (refused.value.policy, refused.value.retry_after, refused.value.limit) == ("slow", 4.0, 1)
        with pytest.raises(DeadlineExceededError) as late:
            await Timeout(1.5)(throttle.with_(max_wait=None)(asyncio.Event().wait))()
        assert (late.value.policy, late.value.retry_after) == ("slow", 4.0)
        assert clock.now() == 1000.0
        await waiting
        assert started == [(0.0, 1), (2.0, 1)]
        assert throttle.statistics().rejected == 2

    run(main(), clock)


def test_a_deadline_that_has_passed_rejects_even_a_wait_for_others_only(clock: ManualClock) -> None:
    async def main() -> None:
        throttle = by_cost(AsyncLimiter(1, 2.0), max_wait=None)
        call, _ = paced(throttle, clock)
        await call(1)
        waiting = asyncio.ensure_future(call(1))
        await asyncio.sleep(0)

        async def late() -> None:
            clock.advance(1.0)
            with pytest.raises(DeadlineExceededError):
                await call(0)

        await Timeout(0.5)(late)()
        await waiting

    run(main(), clock)


def test_other_users_of_the_limiter_count_too(clock: ManualClock) -> None:
    """What they take while a call waits can be foreseen by nobody: the wait is then cut off when time is up."""

    async def main() -> None:
        limiter = AsyncLimiter(2, 1.0)
        throttle = Throttle(limiter, max_wait=1.25, name="shared")
        call, started = paced(throttle, clock)
        await limiter.acquire(2)
        waiting = [asyncio.ensure_future(call()), asyncio.ensure_future(Timeout(1.125)(call)())]
        lighter = [asyncio.ensure_future(limiter.acquire(0.5)) for _ in range(4)]
        errors: list[Any] = await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.gather(*lighter)
        assert [type(error) for error in errors] == [RateLimitExceededError, DeadlineExceededError]
        assert [error.retry_after for error in errors] == [None, None]
        assert started == []
        assert throttle.statistics().rejected == 2
        assert throttle.statistics().waiting == 0
        await asyncio.sleep(5.0)
        await call()

    run(main(), clock)


def test_a_timeout_error_of_the_limiter_itself_is_not_taken_for_ours(clock: ManualClock) -> None:
    class Broken(AsyncLimiter):
        async def acquire(self, amount: float = 1) -> None:
            raise TimeoutError("not yours")

        def has_capacity(self, amount: float = 1) -> bool:
            return False

    async def main() -> None:
        throttle = Throttle(Broken(1, 1.0))
        with pytest.raises(TimeoutError, match="not yours"):
            await paced(throttle, clock)[0]()
        assert throttle.statistics().waiting == 0

    run(main(), clock)


def test_a_cost_that_can_never_fit_is_rejected_for_good(clock: ManualClock) -> None:
    async def main() -> None:
        throttle = by_cost(AsyncLimiter(4, 1.0), name="n")
        call, started = paced(throttle, clock)
        with recorded_events() as events:
            with pytest.raises(RateLimitExceededError) as refused:
                await call(4.5)
            assert refused.value.retry_after is None
            await call(4)
            await call(1)
        assert [(type(event), event.policy) for event in events] == [(CallRejected, "n"), (CallQueued, "n")]
        assert events[1].seconds == 30.0
        assert throttle.statistics().rejected == 1
        assert started == [(0.0, 4), (0.25, 1)]

    run(main(), clock)


@pytest.mark.parametrize("cost", [math.nan, math.inf, -1, 10**400, True, "1", None])
def test_a_computed_cost_that_makes_no_sense_is_an_error_and_takes_nothing(clock: ManualClock, cost: Any) -> None:
    async def main() -> None:
        throttle = by_cost(AsyncLimiter(1, 1.0))
        call, _ = paced(throttle, clock)
        with pytest.raises((TypeError, ValueError), match="cost must be a finite number of at least 0"):
            await call(cost)
        await call(1)
        assert clock.now() == 1000.0

    run(main(), clock)


def test_a_guard_waits_under_async_with(clock: ManualClock) -> None:
    async def main() -> None:
        throttle = Throttle(AsyncLimiter(1, 1.0))
        for expected in (1000.0, 1001.0):
            async with throttle.guard():
                assert clock.now() == expected
        with pytest.raises(TypeError, match=r"cannot make a plain function wait: use RateLimiter\(max_wait=…\)"):
            throttle.guard().__enter__()
        await asyncio.sleep(1.0)
        with throttle.guard():
            assert clock.now() == 1002.0

    run(main(), clock)


def test_async_generators_are_paced_and_everything_plain_is_refused(clock: ManualClock) -> None:
    throttle = Throttle(AsyncLimiter(1, 1.0))

    @throttle
    async def numbers() -> AsyncIterator[float]:
        yield clock.now()

    async def main() -> None:
        assert [now async for now in numbers()] == [1000.0]
        assert [now async for now in numbers()] == [1001.0]

    run(main(), clock)

    def plain() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    functions: list[Callable[[], object]] = [plain, generator]
    for function in functions:
        with pytest.raises(
            TypeError, match=rf"coroutine functions only.*{function.__name__}.*RateLimiter\(rate, period,"
        ):
            throttle(function)
    with pytest.raises(RuntimeError, match="in a running asyncio loop only"):
        throttle.admit()


def test_a_second_open_loop_is_refused_clearly(clock: ManualClock) -> None:
    throttle = Throttle(AsyncLimiter(1, 1.0), name="mine")
    first, second = VirtualLoop(clock), VirtualLoop(clock)
    call, started = paced(throttle, clock)
    first.run_until_complete(call())
    with pytest.raises(RuntimeError, match=r"<Throttle mine.*belongs to another event loop that is still open"):
        second.run_until_complete(call())
    first.run_until_complete(call())
    first.close()
    second.run_until_complete(call())
    second.close()
    assert started == [(0.0, 1), (1.0, 1), (2.0, 1)]


def test_a_limiter_that_other_code_uses_in_another_open_loop_is_refused_clearly(clock: ManualClock) -> None:
    limiter = AsyncLimiter(1, 1.0)
    other = VirtualLoop(clock)
    other.run_until_complete(limiter.acquire())
    with pytest.raises(RuntimeError, match="belongs to another event loop"):
        run(paced(Throttle(limiter), clock)[0](), clock)
    other.close()


def test_waiters_left_behind_in_a_closed_loop_do_not_disturb_the_next(clock: ManualClock) -> None:
    """Finalised later, they left a queue that they were never in: it counted one less than nobody."""
    throttle = Throttle(AsyncLimiter(1, 1.0))
    call, started = paced(throttle, clock)
    loop = VirtualLoop(clock)
    loop.run_until_complete(call())
    loop.set_exception_handler(lambda loop, context: None)
    left = loop.create_task(call())
    loop.run_until_complete(asyncio.sleep(0))
    assert throttle.statistics().waiting == 1
    loop.close()

    async def main() -> None:
        nonlocal left
        await call()
        del left
        gc.collect()
        assert throttle.statistics().waiting == 0
        await asyncio.sleep(1.0)
        await call()

    run(main(), clock)
    assert started == [(0.0, 1), (1.0, 1), (2.0, 1)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_child_may_use_a_loop_of_its_own(clock: ManualClock) -> None:
    used, unused = Throttle(AsyncLimiter(1, 1.0)), Throttle(AsyncLimiter(1, 1.0))
    loop = VirtualLoop(clock)
    loop.run_until_complete(paced(used, clock)[0]())
    waiting = loop.create_task(paced(used, clock)[0]())
    loop.run_until_complete(asyncio.sleep(0))

    async def child() -> None:
        for throttle in (used, unused):
            call, _ = paced(throttle, clock)
            await call()
            await call()

    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert used.statistics().waiting == 0
            run(child(), clock)
            code = 7
        finally:
            os._exit(code)
    loop.run_until_complete(waiting)
    loop.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_variants_share_the_line(clock: ManualClock) -> None:
    throttle = Throttle(AsyncLimiter(2, 1.0), name="one")
    other = throttle.with_(cost=2, max_wait=None, name="two", listeners=())
    assert (throttle._longest_wait(), other._longest_wait()) == (30.0, None)
    assert other.with_(name="three")._longest_wait() is None
    assert repr(other) == "<Throttle two: 2 in 1 s, 0 waiting>"
    assert repr(Throttle(AsyncLimiter(2, 1.0))) == "<Throttle unnamed: 2 in 1 s, 0 waiting>"

    async def main() -> None:
        await paced(other, clock)[0]()
        await paced(throttle, clock)[0]()
        assert clock.now() == 1000.5

    run(main(), clock)


@pytest.mark.parametrize(
    "name,values",
    [
        ("limiter", [None, 1, "x", object()]),
        ("cost", [math.nan, math.inf, -1, 0, True, "1", None, 10**400, 2.5]),
        ("max_wait", [math.nan, math.inf, -1, True, "1", [], 10**400]),
        ("name", ["", 1]),
        ("clock", [1]),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(name: str, values: list[Any]) -> None:
    for value in values:
        arguments: dict[str, Any] = {"limiter": AsyncLimiter(2, 1.0), name: value}
        with pytest.raises((TypeError, ValueError), match=name):
            Throttle(**arguments)
