"""The cancellation sweep visits every suspension point, and notices what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from resilience.testing import ManualClock
from tests.sweep import Ending, sweep


class Held:
    """Something to leak, with a careful and a careless user."""

    def __init__(self) -> None:
        self.count = 0

    async def careful(self) -> str:
        self.count += 1
        try:
            await asyncio.sleep(1.0)
            await asyncio.sleep(0)
        finally:
            self.count -= 1
        return "done"

    async def careless(self) -> None:
        await asyncio.sleep(1.0)
        self.count += 1
        await asyncio.sleep(0)
        self.count -= 1


def nothing_held(ending: Ending[Held]) -> None:
    assert ending.state.count == 0


def careful(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], Held]:
    held = Held()
    return held.careful(), held


def careless(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], Held]:
    held = Held()
    return held.careless(), held


def test_every_point_is_visited_waiting_and_waking() -> None:
    seen: list[tuple[int, str, Any, bool]] = []

    def check(ending: Ending[Held]) -> None:
        nothing_held(ending)
        seen.append((ending.point, ending.moment, ending.result, isinstance(ending.error, asyncio.CancelledError)))

    assert sweep(careful, check) == 4
    assert seen == [
        (0, "undisturbed", "done", False),
        (1, "waiting", None, True),
        (2, "waiting", None, True),
        (3, "waiting", "done", False),
        (1, "waking", None, True),
        (2, "waking", None, True),
        (3, "waking", "done", False),
    ]


def test_a_waiting_visit_takes_no_time_and_a_waking_one_all_of_it() -> None:
    elapsed: dict[str, float] = {}

    def check(ending: Ending[Held]) -> None:
        if ending.point == 1:
            elapsed[ending.moment] = ending.clock.now() - 1000.0

    sweep(careful, check)
    assert elapsed == {"waiting": 0.0, "waking": 1.0}


def test_a_leak_at_one_single_point_is_noticed() -> None:
    with pytest.raises(AssertionError):
        sweep(careless, nothing_held)


def test_a_task_left_behind_is_noticed() -> None:
    kept: list[asyncio.Task[None]] = []

    async def parent() -> None:
        child = asyncio.ensure_future(asyncio.sleep(60.0))
        kept.append(child)
        await asyncio.sleep(1.0)
        child.cancel()

    with pytest.raises(AssertionError, match="cancelled at point 1"):
        sweep(lambda clock: (parent(), None), lambda ending: None)


def test_the_check_may_be_asynchronous() -> None:
    checked: list[int] = []

    async def check(ending: Ending[Held]) -> None:
        await asyncio.sleep(1.0)
        checked.append(ending.point)

    sweep(careful, check)
    assert checked == [0, 1, 2, 3, 1, 2, 3]
