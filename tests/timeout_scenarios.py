"""Scenarios for a time limit around a block or a function, told in terms of either `asyncio.timeout` or our Timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from resilience import Timeout
from resilience.testing import ManualClock

DUE = 0.25
RING = 0.26  # when a Timeout of 0.25 s that starts at a full second rings: at the end of its slot of 10 ms


class World:
    """What a scenario is given: a scope, the moment in which it fires, and a task of its own."""

    def __init__(self, ours: bool, clock: ManualClock) -> None:
        self.ours = ours
        self.clock = clock
        self.ring = RING if ours else DUE
        self.seen: list[Any] = []

    def scope(self, seconds: float = DUE) -> Any:
        return Timeout(seconds).guard() if self.ours else asyncio.timeout(seconds)

    async def call(self, fn: Callable[[], Coroutine[Any, Any, Any]], seconds: float = DUE) -> Any:
        """`fn()` under a time limit, ours as a decorator."""
        if self.ours:

            async def coroutine_function() -> Any:
                return await fn()

            return await Timeout(seconds)(coroutine_function)()
        async with asyncio.timeout(seconds):
            return await fn()

    def note(self, what: Any = "reached") -> None:
        task = asyncio.current_task()
        assert task is not None
        self.seen.append((what, task.cancelling()))

    def at(self, seconds: float, callback: Callable[..., object], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(loop.time() + seconds, callback, *args)

    def foreign_cancel(self, seconds: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.at(seconds, task.cancel)


Scenario = Callable[[World], Coroutine[Any, Any, Any]]
SCENARIOS: list[Scenario] = []


def scenario(fn: Scenario) -> Scenario:
    SCENARIOS.append(fn)
    return fn


@scenario
async def done_in_time(world: World) -> str:
    async with world.scope():
        await asyncio.sleep(0.1)
    world.note()
    await asyncio.sleep(1)
    return "done"


@scenario
async def cut_off(world: World) -> None:
    async with world.scope():
        await asyncio.sleep(9)


@scenario
async def cut_off_is_caught_and_the_task_goes_on(world: World) -> str:
    try:
        async with world.scope():
            await asyncio.sleep(9)
    except TimeoutError as error:
        world.note(type(error.__cause__))
    await asyncio.sleep(1)
    return "went on"


@scenario
async def inner_fires(world: World) -> None:
    async with world.scope(2):
        try:
            async with world.scope():
                await asyncio.sleep(9)
        except TimeoutError:
            world.note()
        await asyncio.sleep(0.1)
    world.note()


@scenario
async def outer_fires(world: World) -> None:
    try:
        async with world.scope():
            try:
                async with world.scope(2):
                    await asyncio.sleep(9)
            except BaseException as error:
                world.note(type(error))
                raise
    except TimeoutError:
        world.note()


@scenario
async def both_fire_at_once(world: World) -> None:
    try:
        async with world.scope():
            try:
                async with world.scope():
                    await asyncio.sleep(9)
            except BaseException as error:
                world.note(type(error))
                raise
    except TimeoutError:
        world.note()


@scenario
async def the_outer_fires_while_the_inner_one_cleans_up(world: World) -> None:
    try:
        async with world.scope(1):
            try:
                async with world.scope():
                    try:
                        await asyncio.sleep(9)
                    finally:
                        await asyncio.sleep(9)
            except BaseException as error:
                world.note(type(error))
                raise
    except TimeoutError:
        world.note()


@scenario
async def three_scopes_one_after_the_other(world: World) -> None:
    for _ in range(3):
        try:
            async with world.scope():
                await asyncio.sleep(9)
        except TimeoutError:
            world.note()


@scenario
async def foreign_cancel_before(world: World) -> None:
    world.foreign_cancel(0.1)
    async with world.scope():
        await asyncio.sleep(9)


@scenario
async def foreign_cancel_after_the_block(world: World) -> None:
    world.foreign_cancel(1)
    async with world.scope():
        pass
    await asyncio.sleep(9)


@scenario
async def foreign_cancel_in_the_turn_of_the_expiry(world: World) -> None:
    world.foreign_cancel(world.ring)
    async with world.scope():
        await asyncio.sleep(9)


@scenario
async def foreign_cancel_while_cleaning_up_after_the_expiry(world: World) -> None:
    world.foreign_cancel(1)
    async with world.scope():
        try:
            await asyncio.sleep(9)
        finally:
            await asyncio.sleep(2)


@scenario
async def a_task_cancelled_before_it_enters(world: World) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    world.note()
    async with world.scope():
        await asyncio.sleep(9)


@scenario
async def a_cancelled_task_that_swallowed_it_is_still_timed_out(world: World) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(9)
    except asyncio.CancelledError:
        world.note()
    try:
        async with world.scope():
            await asyncio.sleep(9)
    except TimeoutError:
        world.note()


@scenario
async def a_foreign_timeout_error(world: World) -> None:
    async with world.scope():
        raise TimeoutError("foreign")


@scenario
async def a_foreign_timeout_error_after_the_expiry(world: World) -> None:
    async with world.scope():
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise TimeoutError("foreign") from None


@scenario
async def another_error_after_the_expiry(world: World) -> None:
    try:
        async with world.scope():
            try:
                await asyncio.sleep(9)
            finally:
                raise KeyError("clean-up")
    finally:
        world.note()


@scenario
async def the_block_swallows_the_cancellation(world: World) -> str:
    async with world.scope():
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            world.note()
    world.note()
    await asyncio.sleep(1)
    return "swallowed"


@scenario
async def the_result_comes_in_the_turn_of_the_expiry(world: World) -> None:
    future = asyncio.get_running_loop().create_future()
    world.at(world.ring, future.set_result, None)
    async with world.scope():
        await future
        world.note()


@scenario
async def the_result_comes_just_before_the_expiry(world: World) -> str:
    future = asyncio.get_running_loop().create_future()
    world.at(world.ring - 0.001, future.set_result, "result")
    async with world.scope():
        result = await future
        world.clock.advance(1)  # the expiry comes while the block finishes
        world.note()
    await asyncio.sleep(0)
    world.note()
    return str(result)


@scenario
async def the_block_raises_a_cancellation_of_its_own(world: World) -> None:
    async with world.scope():
        raise asyncio.CancelledError


@scenario
async def a_subclass_of_the_cancellation_after_the_expiry(world: World) -> None:
    class Special(asyncio.CancelledError):
        pass

    async with world.scope():
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise Special from None


@scenario
async def a_keyboard_interrupt_like_error(world: World) -> None:
    class Odd(BaseException):
        pass

    async with world.scope():
        raise Odd


@scenario
async def a_group_of_tasks_inside(world: World) -> None:
    async def child() -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            world.seen.append("child cancelled")
            raise

    async with world.scope(), asyncio.TaskGroup() as group:
        group.create_task(child())
        group.create_task(child())


@scenario
async def a_group_whose_child_fails_on_cancellation(world: World) -> None:
    async def child() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            raise KeyError("child")

    async with world.scope(), asyncio.TaskGroup() as group:
        group.create_task(child())


@scenario
async def a_scope_around_wait_for(world: World) -> None:
    async with world.scope():
        await asyncio.wait_for(asyncio.sleep(9), 0.1)


@scenario
async def a_shielded_future(world: World) -> None:
    future = asyncio.get_running_loop().create_future()
    try:
        async with world.scope():
            await asyncio.shield(future)
    finally:
        world.note(future.cancelled())


@scenario
async def a_function_is_cut_off(world: World) -> None:
    await world.call(lambda: asyncio.sleep(9))


@scenario
async def a_function_swallows_the_cancellation(world: World) -> str:
    async def fn() -> str:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            world.note()
        await asyncio.sleep(0.1)
        return "swallowed"

    result: str = await world.call(fn)
    world.note()
    return result


@scenario
async def a_function_is_cancelled_from_outside(world: World) -> None:
    world.foreign_cancel(0.1)
    await world.call(lambda: asyncio.sleep(9))


@scenario
async def a_function_is_cancelled_twice(world: World) -> None:
    world.foreign_cancel(world.ring)
    await world.call(lambda: asyncio.sleep(9))


@scenario
async def a_function_fails_after_the_expiry(world: World) -> None:
    async def fn() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            raise KeyError("late")

    try:
        await world.call(fn)
    finally:
        world.note()


@scenario
async def a_function_in_a_function(world: World) -> None:
    try:
        await world.call(lambda: world.call(lambda: asyncio.sleep(9)))
    finally:
        world.note()
