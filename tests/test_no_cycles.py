"""A failing call leaves nothing to the garbage collector: all it held is gone when it is over.

R12: tenacity leaves 51 objects in reference cycles for every call that fails. Tracebacks hold frames, so a frame that
holds an exception, or a task that does, is a cycle.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import tenacity

from resilience import CallTimeoutError, Pool, Retry, Timeout
from resilience.testing import ManualClock, VirtualLoop

RETRY = Retry(OSError, wait=tenacity.wait_fixed(1))
JUDGE = Retry(OSError, wait=tenacity.wait_fixed(1), retry_if=lambda result: result is None)


def failing() -> Any:
    raise OSError


async def failing_later() -> None:
    await asyncio.sleep(0)
    raise OSError


async def working_later() -> None: ...


def broken(resource: object) -> None:
    raise OSError


async def failing_with(resource: None) -> None:
    raise OSError


def returning() -> Any:
    return failing_later()


def starting() -> Any:
    return asyncio.ensure_future(failing_later())


async def hanging() -> None:
    await asyncio.sleep(60)


def hanging_coroutine() -> Any:
    return hanging()


def hanging_task() -> Any:
    return asyncio.ensure_future(hanging())


def generating() -> Iterator[None]:
    yield None
    raise OSError


async def generating_later() -> AsyncIterator[None]:
    yield None
    await hanging()


def prepare(event: Any) -> None:
    raise KeyError


def broken_preparation() -> Any:
    return Retry(OSError, wait=tenacity.wait_none(), before_retry=prepare)(failing)()


def loop() -> None:
    for attempt in RETRY:
        with attempt:
            failing()


def drain(layer: Any) -> Any:
    for _ in layer(generating)():
        pass


async def cancelled_in_its_pause() -> None:
    retry = Retry(OSError, wait=tenacity.wait_fixed(60), before_retry=prepare)
    await Timeout(1)(retry(failing_later))()


async def async_loop() -> None:
    async for attempt in RETRY:
        with attempt:
            await failing_later()


async def guard() -> None:
    async with Timeout(1).guard():
        await hanging()


async def drain_later() -> None:
    async for _ in Timeout(1)(generating_later)():
        pass


SYNC: dict[str, Callable[[], Any]] = {
    "retry": RETRY(failing),
    "judging retry": JUDGE(failing),
    "loop": loop,
    "preparation": broken_preparation,
    "generator": lambda: drain(RETRY),
    "timeout": Timeout(1)(failing),
    "timeout generator": lambda: drain(Timeout(1)),
    "pool that cannot create": Pool(failing).inject(broken),
    "pool": Pool(object).inject(broken),
    "worker": Timeout(60, abandon=True, clock=ManualClock(auto=False))(failing),
}
ASYNC: dict[str, Callable[[], Any]] = {
    "retry": RETRY(failing_later),
    "judging retry": JUDGE(failing_later),
    "retry of a coroutine": RETRY(returning),
    "retry of a task": RETRY(starting),
    "cancelled pause": cancelled_in_its_pause,
    "async loop": async_loop,
    "timeout": Timeout(1)(hanging),
    "timeout of a coroutine": Timeout(1)(hanging_coroutine),
    "timeout of a task": Timeout(1)(hanging_task),
    "failure of a task": Timeout(1)(starting),
    "failure in time": Timeout(1)(failing_later),
    "guard": guard,
    "async generator": drain_later,
    "pool that cannot create": lambda: Pool(failing_later).acquire().__aenter__(),
    "pool that cannot create in a thread": lambda: Pool(failing, max_wait=None).acquire().__aenter__(),
    "pool": Pool(working_later).inject(failing_with),
    "all": Timeout(9)(RETRY(Timeout(1)(failing_later))),
}


@pytest.fixture
def garbage() -> Iterator[Callable[[], list[str]]]:
    """What the collector finds, once all that came before is gone."""
    gc.collect()
    gc.disable()

    def found() -> list[str]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [type(item).__name__ for item in gc.garbage]

    yield found
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("name", SYNC)
def test_a_call_that_fails_leaves_no_cycles(clock: ManualClock, garbage: Callable[[], list[str]], name: str) -> None:
    with contextlib.suppress(OSError, KeyError):
        SYNC[name]()
        raise AssertionError("it did not fail")
    assert garbage() == []


@pytest.mark.parametrize("name", ASYNC)
def test_a_task_that_fails_leaves_no_cycles(clock: ManualClock, garbage: Callable[[], list[str]], name: str) -> None:
    loop = VirtualLoop(clock)

    async def main() -> type[BaseException] | None:
        task = asyncio.ensure_future(ASYNC[name]())
        await asyncio.wait([task])
        error = task.exception()
        assert isinstance(error, (OSError, CallTimeoutError))
        kind = type(error)
        del task, error
        return kind

    loop.run_until_complete(Timeout(1)(asyncio.sleep)(0))  # the timers of earlier tests' loops are forgotten here
    gc.collect()
    runner = loop.create_task(main())
    assert loop.run_until_complete(runner) is not None
    del runner
    found = garbage()
    loop.close()
    assert found == []
