"""Deadlines: what remains, what is shielded, and how they travel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilience import CallTimeoutError, CircuitBreaker, DeadlineExceededError, Retry, Timeout
from resilience.correlation import carried
from resilience.deadline import Deadline, ambient, cancelled_by_deadline, current, remaining, shield
from resilience.testing import ManualClock, run
from tests.conftest import Colour
from tests.sweep import Ending, sweep


def test_nothing_remains_to_be_asked_without_a_deadline(colour: Colour) -> None:
    assert remaining() is None
    assert current() is None
    assert colour.guarded(Timeout(None), lambda: (remaining(), current()))() == (None, None)


def test_what_remains_shrinks_and_never_gets_below_zero(clock: ManualClock) -> None:
    seen: list[float | None] = []

    @Timeout(2, name="search")
    def body() -> str:
        seen.append(remaining())
        clock.advance(1.5)
        seen.append(remaining())
        clock.advance(1.5)
        seen.append(remaining())
        return repr(current())

    assert body() == "<Deadline of search in -1.000 s>"
    assert seen == [2.0, 0.5, 0.0]
    assert remaining() is None
    with Timeout(3).guard():
        assert repr(current()) == "<Deadline of an unnamed Timeout in 3.000 s>"


def test_a_deadline_travels_into_threads_with_carried(clock: ManualClock) -> None:
    seen: list[Any] = []

    def ask() -> None:
        seen.append(remaining())

    with Timeout(5).guard():
        asking, bare = carried(ask), ask
        for target in (asking, bare):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        clock.advance(1.0)
        asking()
    assert seen == [5.0, None, 4.0]


def test_deadlines_on_different_clocks_compare_by_what_remains(colour: Colour) -> None:
    other = ManualClock(5.0)
    seen: list[float | None] = []

    def body() -> None:
        seen.append(remaining())
        other.advance(1.0)
        seen.append(remaining())

    def nested(outer: Timeout, inner: Timeout) -> list[float | None]:
        seen.clear()
        colour.runner(outer(inner(colour.function(body))))()
        return seen[:]

    # The nearer one is in force, on its own clock, whichever of the two comes first.
    if not colour.is_async:
        assert nested(Timeout(3, clock=other), Timeout(9)) == [3.0, 2.0]
        assert nested(Timeout(9), Timeout(3, clock=other)) == [3.0, 2.0]
        assert nested(Timeout(9, clock=other), Timeout(3)) == [3.0, 3.0]
        assert nested(Timeout(3), Timeout(9, clock=other)) == [3.0, 3.0]
    else:
        assert nested(Timeout(9, clock=other), Timeout(3)) == [3.0, 3.0]
        assert nested(Timeout(3), Timeout(9, clock=other)) == [3.0, 3.0]


# --- shield ----------------------------------------------------------------------------------------------------------


def test_inside_a_shield_there_is_no_deadline(colour: Colour) -> None:
    def body() -> Any:
        with shield():
            assert remaining() is None
            assert current() is None
        return remaining()

    assert colour.guarded(Timeout(2), body)() == 2.0


def cleaning(seconds: float, seen: list[Any], clock: ManualClock) -> Callable[[], Any]:
    async def body() -> str:
        with shield():
            await clock.asleep(seconds)
            seen.append("cleaned up")
        await clock.asleep(0.0)
        await clock.asleep(9.0)
        return "late"

    return body


def test_a_shield_holds_the_own_cancellation_back_until_it_ends(clock: ManualClock) -> None:
    seen: list[Any] = []

    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            await Timeout(1)(cleaning(5.0, seen, clock))()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await clock.asleep(1.0)  # nothing pending is left over

    run(main(), clock)
    assert seen == ["cleaned up"]
    assert clock.now() == 1006.0


def test_a_shield_that_ends_in_time_changes_nothing(clock: ManualClock) -> None:
    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            await Timeout(4)(cleaning(2.0, [], clock))()

    run(main(), clock)
    assert clock.now() == pytest.approx(1004.0, abs=0.081)


def test_a_result_in_the_turn_in_which_a_shield_ends_counts(clock: ManualClock) -> None:
    @Timeout(1)
    async def body() -> str:
        with shield():
            await clock.asleep(5.0)
        assert remaining() == 0.0
        return "finished"

    async def main() -> str:
        result = await body()
        await clock.asleep(1.0)
        return result

    assert run(main(), clock) == "finished"


def test_shields_nest_and_hold_every_deadline_of_the_task(clock: ManualClock) -> None:
    seen: list[Any] = []

    @Timeout(2, name="outer")
    @Timeout(1, name="inner")
    async def body() -> None:
        with shield():
            with shield():
                await clock.asleep(3.0)
            await clock.asleep(3.0)
            seen.append(clock.now())
        await clock.asleep(9.0)

    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            await body()

    run(main(), clock)
    assert seen == [1006.0]
    assert clock.now() == 1006.0


def test_a_timeout_inside_a_shield_is_in_force(clock: ManualClock) -> None:
    @Timeout(2, name="outer")
    async def body() -> float:
        with shield(), pytest.raises(CallTimeoutError, match="inner: "):
            await Timeout(5, name="inner")(clock.asleep)(99.0)
        return clock.now()

    assert run(body(), clock) == pytest.approx(1005.0, abs=0.1)


def test_a_foreign_cancellation_goes_through_a_shield(clock: ManualClock) -> None:
    seen: list[Any] = []

    async def main() -> None:
        task = asyncio.ensure_future(Timeout(1)(cleaning(5.0, seen, clock))())
        await clock.asleep(2.0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await clock.asleep(9.0)

    run(main(), clock)
    assert seen == []


def test_a_shield_in_one_task_does_not_hold_the_deadline_of_another(clock: ManualClock) -> None:
    seen: list[Any] = []

    async def child() -> None:
        with shield():
            try:
                await clock.asleep(9.0)
            finally:
                seen.append(clock.now())

    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            async with Timeout(1).guard(), asyncio.TaskGroup() as group:
                group.create_task(child())

    run(main(), clock)
    assert seen == [pytest.approx(1001.0, abs=0.03)]


def test_a_shielded_call_cancelled_anywhere_leaves_nothing_armed() -> None:
    def scenario(clock: ManualClock) -> Any:
        retry = Retry(OSError, attempts=2)
        return Timeout(1, clock=clock)(retry(cleaning(5.0, [], clock)))(), clock

    def check(ending: Ending[ManualClock]) -> None:
        assert remaining() is None
        assert not cancelled_by_deadline()
        kind = CallTimeoutError if ending.error is None or ending.point == 0 else BaseException
        assert isinstance(ending.error, kind)

    assert sweep(scenario, check) >= 3


# --- whose cancellation ----------------------------------------------------------------------------------------------


def test_a_breaker_inside_counts_our_cut_off_and_not_a_strangers(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1)

    async def main() -> None:
        guarded = Timeout(1)(breaker(clock.asleep))
        task = asyncio.ensure_future(guarded(9.0))
        await clock.asleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        assert breaker.state.value == "closed"
        with pytest.raises(CallTimeoutError):
            await guarded(9.0)

    run(main(), clock)
    assert breaker.state.value == "open"


def test_a_cut_off_is_told_by_every_deadline_around(clock: ManualClock) -> None:
    seen: list[bool] = []

    async def body() -> None:
        seen.append(cancelled_by_deadline())
        try:
            await clock.asleep(9.0)
        finally:
            seen.append(cancelled_by_deadline())

    async def main() -> None:
        with pytest.raises(CallTimeoutError):
            async with Timeout(1).guard():
                with Timeout(0.5).guard():  # cooperative, and nearer: it fires nothing
                    await body()

    run(main(), clock)
    assert seen == [False, True]


def test_no_time_left_at_all_is_a_rejection(colour: Colour) -> None:
    def outer() -> Any:
        colour.clock.advance(1.0)
        return inner()

    inner = Timeout(5, name="inner")(colour.function(lambda: "ran"))
    with pytest.raises(DeadlineExceededError) as caught, Timeout(1, name="outer").guard():
        colour.runner(colour.function(outer))()
    assert caught.value.policy == "inner"


def test_a_lifted_deadline_limits_nothing_wherever_its_context_has_gone(clock: ManualClock) -> None:
    deadline = Deadline(clock.now() + 5.0, clock, "request", 5.0)
    token = ambient.set(deadline)
    asking = carried(remaining)
    assert asking() == 5.0
    deadline.lift()
    clock.advance(10.0)
    assert remaining() is None
    assert asking() is None
    assert deadline.remaining() > 1e11
    assert Timeout(2)(remaining)() == 2.0
    ambient.reset(token)


def test_lifting_a_deadline_leaves_the_one_around_it(clock: ManualClock) -> None:
    outer = Deadline(clock.now() + 8.0, clock, "outer", 8.0)
    foreign = Deadline(7.0, ManualClock(0.0), "on another clock", 7.0)
    for around, left in ((outer, 8.0), (foreign, 7.0)):
        inner = Deadline(clock.now() + 5.0, clock, "inner", 5.0, around)
        token = ambient.set(inner)
        assert remaining() == 5.0
        inner.lift()
        assert remaining() == left
        assert Timeout(2)(remaining)() == 2.0
        ambient.reset(token)
    assert Deadline(0.0, clock, outer=outer).lifted is False


def test_a_lifted_deadline_does_not_cancel_its_task(clock: ManualClock) -> None:
    async def main() -> bool:
        task = asyncio.current_task()
        deadline = Deadline(clock.now() + 5.0, clock, "request", 5.0, None, task)
        deadline.lift()
        deadline.fire()
        await asyncio.sleep(0)
        return deadline.fired

    assert run(main(), clock) is False


def test_a_timeout_inside_of_a_lifted_deadline_is_bound_by_the_one_around_it(clock: ManualClock) -> None:
    outer = Deadline(clock.now() + 3.0, clock, "outer", 3.0)
    inner = Deadline(clock.now() + 1.0, clock, "inner", 1.0, outer)
    inner.lift()
    token = ambient.set(inner)
    assert Timeout(60)(remaining)() == 3.0
    ambient.reset(token)
