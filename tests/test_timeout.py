"""Timeout: the limits it computes and inherits, who is named, and what each colour of function gets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Generator
from datetime import timedelta
from typing import Any

import pytest

from resilience import CallTimeoutError, CircuitBreaker, DeadlineExceededError, Timeout
from resilience._timers import timers_of
from resilience.clock import SYSTEM
from resilience.deadline import current, remaining
from resilience.events import CallRejected, CallTimedOut
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour
from tests.sweep import Ending, sweep


async def hang() -> None:
    await asyncio.get_running_loop().create_future()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_error_names_the_owner_and_the_length(clock: ManualClock) -> None:
    timeout = Timeout(1.5, name="search")
    with recorded_events(CallTimedOut) as events, pytest.raises(CallTimeoutError) as caught:
        run(timeout(hang)(), clock)
    assert (caught.value.policy, caught.value.timeout) == ("search", 1.5)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert [(event.policy, event.timeout) for event in events] == [("search", 1.5)]
    assert (timeout.statistics().timed_out, timeout.statistics().abandoned) == (1, 0)


def test_a_plain_function_is_told_and_its_result_counts_however_late(clock: ManualClock) -> None:
    seen: list[float | None] = []

    @Timeout(1)
    def body() -> str:
        seen.append(remaining())
        clock.advance(5.0)
        seen.append(remaining())
        return "late"

    assert body() == "late"
    assert seen == [1.0, 0.0]
    with Timeout(1).guard():
        clock.advance(5.0)
    assert remaining() is None


@pytest.mark.parametrize(
    "answer,expected",
    [
        (2, 2.0),
        (0.5, 0.5),
        (timedelta(seconds=3), 3.0),
        (None, None),
        (math.inf, None),
        (0, "rejected"),
        (-1, "rejected"),
        (-math.inf, "rejected"),
        (-(10**400), "rejected"),
        (timedelta(0), "rejected"),
        (math.nan, TypeError),
        ("5", TypeError),
        (True, TypeError),
        ([1], TypeError),
    ],
)
def test_a_computed_limit_is_computed_for_each_call(colour: Colour, answer: Any, expected: Any) -> None:
    calls: list[Any] = []

    def body(*args: Any, **kwargs: Any) -> float | None:
        calls.append((args, kwargs))
        return remaining()

    def compute(tenant: str, size: int = 0) -> Any:
        assert (tenant, size) == ("t", 3)
        return answer

    guarded = colour.guarded(Timeout(compute, name="n"), body)
    if expected is TypeError:
        with pytest.raises(TypeError, match="seconds must return seconds"):
            guarded("t", size=3)
    elif expected == "rejected":
        with recorded_events(CallRejected) as events, pytest.raises(DeadlineExceededError) as caught:
            guarded("t", size=3)
        assert caught.value.policy == "n"
        assert len(events) == 1
    else:
        assert guarded("t", size=3) == expected
    assert len(calls) == (expected is None or isinstance(expected, float))


def test_a_computed_limit_cuts_off_with_its_own_length(clock: ManualClock) -> None:
    async def body(seconds: float) -> None:
        await hang()

    guarded = Timeout(lambda seconds: seconds)(body)
    for seconds in (0.5, 3.0):
        began = clock.now()
        with pytest.raises(CallTimeoutError) as caught:
            run(guarded(seconds), clock)
        assert caught.value.timeout == seconds
        assert clock.now() - began == pytest.approx(seconds, abs=0.06)


def test_the_nearer_of_two_deadlines_is_in_force(colour: Colour) -> None:
    def ask() -> float | None:
        return remaining()

    assert colour.runner(Timeout(5)(Timeout(2)(colour.function(ask))))() == 2.0
    assert colour.runner(Timeout(2)(Timeout(5)(colour.function(ask))))() == 2.0
    assert colour.runner(Timeout(2)(Timeout(None)(colour.function(ask))))() == 2.0
    assert colour.runner(Timeout(2)(Timeout(2)(colour.function(ask))))() == 2.0


def test_a_scope_that_inherits_a_nearer_deadline_arms_nothing_and_the_owner_is_named(clock: ManualClock) -> None:
    async def main() -> None:
        async def body() -> None:
            timers = timers_of(asyncio.get_running_loop(), SYSTEM)
            assert sum(len(waiting) for waiting in timers.slots.values()) == 1
            await hang()

        for inner in (Timeout(5, name="inner"), Timeout(None, name="inner"), Timeout(lambda: 7, name="inner")):
            with recorded_events(CallTimedOut) as events, pytest.raises(CallTimeoutError) as caught:
                await Timeout(1, name="outer")(inner(body))()
            assert (caught.value.policy, caught.value.timeout) == ("outer", 1.0)
            assert [event.policy for event in events] == ["outer"]
            assert inner.statistics().timed_out == 0

    run(main(), clock)


@pytest.mark.parametrize("inner", [Timeout(100.0), Timeout(None), Timeout(lambda: 100.0)])
@pytest.mark.parametrize("style", ["call", "guard"])
def test_a_child_task_is_cut_off_by_the_deadline_it_inherited(clock: ManualClock, inner: Timeout, style: str) -> None:
    """Nobody else would: the owner cancels its own task, and a cooperative deadline has no timer at all.

    The second guardian once rounded by the length of the inner limit, and was 0.96 s late for a deadline of 0.5 s.
    """

    async def child() -> float:
        with pytest.raises(CallTimeoutError) as caught:
            if style == "call":
                await inner(hang)()
            else:
                async with inner.guard():
                    await hang()
        assert (caught.value.policy, caught.value.timeout) == ("outer", 0.5)
        return clock.now() - 1000.0

    async def main() -> float:
        with Timeout(0.5, name="outer").guard():
            orphan = asyncio.ensure_future(child())
        return await orphan

    assert 0.5 <= run(main(), clock) <= 0.51 + 1e-9


def test_a_child_that_outlives_its_parents_scope_is_still_cut_off(clock: ManualClock) -> None:
    async def main() -> None:
        async with Timeout(1, name="outer").guard():
            orphan = asyncio.ensure_future(Timeout(9)(hang)())
            await asyncio.sleep(0.1)
        with pytest.raises(CallTimeoutError, match="outer"):
            await orphan
        late = asyncio.ensure_future(Timeout(9)(hang)())
        with pytest.raises(CallTimeoutError, match="9 s"):
            await late

    run(main(), clock)


def test_two_tasks_under_one_timeout_object_do_not_disturb_each_other(clock: ManualClock) -> None:
    """T2: under hyx, the first of two tasks that share a timeout never times out."""

    async def main() -> list[Any]:
        guarded = Timeout(1)(asyncio.sleep)
        first = asyncio.ensure_future(guarded(60))
        await asyncio.sleep(0.5)
        return list(await asyncio.gather(first, guarded(60), guarded(0.4, "good"), return_exceptions=True))

    kinds = [type(outcome) for outcome in run(main(), clock)]
    assert kinds == [CallTimeoutError, CallTimeoutError, str]


def test_an_expired_deadline_refuses_the_call(colour: Colour) -> None:
    calls: list[int] = []
    inner = colour.guarded(Timeout(5, name="inner"), lambda: calls.append(1))
    with Timeout(1).guard():
        colour.clock.advance(1.0)
        with pytest.raises(DeadlineExceededError) as caught:
            inner()
    assert (caught.value.policy, caught.value.retry_after) == ("inner", None)
    assert calls == []


def test_a_variant_has_its_own_limit_and_shares_the_statistics(clock: ManualClock) -> None:
    timeout = Timeout(1, name="one")
    variant = timeout.with_(seconds=2, name="two")
    for each in (timeout, variant):
        with pytest.raises(CallTimeoutError, match=str(each.name)):
            run(each(hang)(), clock)
    assert timeout.statistics() == variant.statistics()
    assert timeout.statistics().timed_out == 2
    assert repr(timeout) == "<Timeout one: 1 s>"
    assert repr(Timeout(None)) == "<Timeout unnamed: no limit>"
    assert repr(Timeout(lambda: 1, abandon=True)) == "<Timeout unnamed: computed, abandoning>"


# --- guards ----------------------------------------------------------------------------------------------------------


def test_a_guard_is_entered_once(clock: ManualClock) -> None:
    guard = Timeout(1).guard()
    with guard:
        assert remaining() == 1.0
    with pytest.raises(RuntimeError, match="entered already"), guard:
        pass


def test_a_guard_computes_its_limit_from_its_arguments(clock: ManualClock) -> None:
    with Timeout(lambda size: size / 10).guard(30):
        assert remaining() == 3.0
    with Timeout(None).guard():
        assert current() is None


# --- plain functions that return something to await ------------------------------------------------------------------


@pytest.mark.parametrize("style", ["coroutine", "task"])
def test_what_a_plain_function_returns_is_cut_off_too(clock: ManualClock, style: str) -> None:
    started: list[Any] = []

    def fn(seconds: float) -> Any:
        assert remaining() == 2.0
        clock.advance(0.5)
        started.append(asyncio.sleep(seconds, "result"))
        if style == "task":
            started[-1] = asyncio.ensure_future(started[-1])
        return started[-1]

    async def main() -> None:
        guarded = Timeout(2, name="n")(fn)
        assert await guarded(1.0) == "result"
        began = clock.now()
        with pytest.raises(CallTimeoutError) as caught:
            await guarded(60.0)
        assert (caught.value.policy, caught.value.timeout) == ("n", 2.0)
        assert clock.now() - began == pytest.approx(2.0, abs=0.041)
        if style == "task":
            assert started[-1].cancelled()
        # Under a nearer deadline, its owner is named.
        with pytest.raises(CallTimeoutError, match="outer"):
            await Timeout(1, name="outer")(Timeout(2, name="n")(lambda: asyncio.sleep(60)))()

    run(main(), clock)


@pytest.mark.parametrize("style", ["coroutine", "task"])
def test_a_plain_part_that_takes_all_the_time_is_a_cut_off_too(clock: ManualClock, style: str) -> None:
    """The call once counted as never started, and its coroutine was left behind unawaited."""
    made: list[Any] = []

    def fn() -> Any:
        made.append(hang())
        if style == "task":
            made[-1] = asyncio.ensure_future(made[-1])
        clock.advance(3.0)
        return made[-1]

    async def main() -> None:
        breaker = CircuitBreaker(failure_threshold=1)
        with pytest.raises(CallTimeoutError) as caught:
            await breaker(Timeout(2, name="n")(fn))()
        assert (caught.value.policy, caught.value.timeout) == ("n", 2.0)
        assert breaker.state.value == "open"
        if style == "task":
            await asyncio.wait(made)
            assert made[0].cancelled()

    run(main(), clock)


# --- generators ------------------------------------------------------------------------------------------------------


def test_the_deadline_of_a_generator_is_bound_per_step(clock: ManualClock) -> None:
    """T6: a context variable's token must not be held across a `yield`."""

    @Timeout(5, name="n")
    def items() -> Generator[float | None, str, str]:
        yield remaining()
        clock.advance(1.0)
        assert (yield remaining()) == "sent"
        return "value"

    steps = items()
    assert next(steps) == 5.0
    assert remaining() is None
    assert next(steps) == 4.0
    with pytest.raises(StopIteration) as stop:
        steps.send("sent")
    assert stop.value.value == "value"
    steps = items()
    assert next(steps) == 5.0
    clock.advance(5.0)  # the consumer's time counts
    with pytest.raises(CallTimeoutError) as caught:
        next(steps)
    assert (caught.value.policy, caught.value.timeout) == ("n", 5.0)


def test_a_generator_is_cut_off_by_the_deadline_around_it_as_well(clock: ManualClock) -> None:
    @Timeout(None, name="inner")
    def items() -> Generator[float | None, None, None]:
        yield remaining()
        yield remaining()

    with Timeout(2, name="outer").guard():
        steps = items()
        assert next(steps) == 2.0
        clock.advance(2.0)
        with pytest.raises(CallTimeoutError, match="outer"):
            next(steps)
    with pytest.raises(DeadlineExceededError):
        next(Timeout(lambda: 0)(items)())


def test_an_async_generator_is_cut_off_in_its_steps_and_nothing_is_armed_between(clock: ManualClock) -> None:
    closed: list[float] = []

    @Timeout(5, name="n")
    async def items(pause: float) -> AsyncGenerator[float | None, None]:
        try:
            while True:
                await asyncio.sleep(pause)
                yield remaining()
        finally:
            closed.append(clock.now() - 1000.0)

    async def main() -> None:
        steps = items(2.0)
        assert await anext(steps) == 3.0
        assert remaining() is None
        assert await anext(steps) == 1.0
        with pytest.raises(CallTimeoutError) as caught:
            await anext(steps)
        assert (caught.value.policy, caught.value.timeout) == ("n", 5.0)
        assert closed == [pytest.approx(5.0, abs=0.1)]
        steps = items(1.0)
        assert await anext(steps) == 4.0
        await asyncio.sleep(60.0)  # would be cut off if anything were armed
        with pytest.raises(CallTimeoutError):
            await anext(steps)
        assert len(closed) == 2
        steps = items(1.0)
        await anext(steps)
        await steps.aclose()
        assert len(closed) == 3

    run(main(), clock)


# --- cancellation ----------------------------------------------------------------------------------------------------


def test_a_call_cancelled_anywhere_leaves_no_deadline_and_no_count() -> None:
    def scenario(clock: ManualClock) -> Any:
        async def body() -> str:
            await clock.asleep(0.3)
            await clock.asleep(0.3)
            return "good"

        inner = Timeout(2, clock=clock)(body)

        async def main() -> str:
            async with Timeout(1, clock=clock).guard():
                await inner()
            return await Timeout(lambda: 3.0, clock=clock)(body)()

        return main(), None

    def check(ending: Ending[None]) -> None:
        assert remaining() is None
        assert isinstance(ending.error, asyncio.CancelledError) or ending.result == "good"

    assert sweep(scenario, check) == 8
