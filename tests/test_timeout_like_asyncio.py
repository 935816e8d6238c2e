"""Timeout behaves like `asyncio.timeout` in every edge: each scenario runs under both, and what is seen must agree.

The scenarios are those that CPython's own tests of `asyncio.timeout` know (Lib/test/test_asyncio/test_timeouts.py),
written for virtual time. The semantics are those of Python 3.11 on every version: where a later `asyncio.timeout` does
something else, what the one of 3.11 does is written down here.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from resilience import CallTimeoutError, Timeout
from resilience.testing import ManualClock, VirtualLoop, run, use_clock
from tests.timeout_scenarios import (
    SCENARIOS,
    Scenario,
    World,
    a_scope_around_wait_for,
    a_subclass_of_the_cancellation_after_the_expiry,
)

# Python 3.13 made a TimeoutError of it. What is no plain CancelledError was raised by somebody on purpose.
CHANGED_AFTER_3_11: dict[Scenario, Any] = {a_subclass_of_the_cancellation_after_the_expiry: (("cancelled", 0), [])}


def outcome(story: Scenario, ours: bool) -> Any:
    """Everything there is to see of a scenario: what it noted, how its task ended, its cancel count, when it ended."""
    clock = ManualClock(1000.0)
    world = World(ours, clock)

    async def main() -> Any:
        task = asyncio.ensure_future(story(world))
        await asyncio.wait([task])
        count = task.cancelling()
        if task.cancelled():
            return "cancelled", count
        error = task.exception()
        if error is None:
            return task.result(), count
        foreign = type(error) is TimeoutError and error.args == ("foreign",)
        kind = "timed out" if isinstance(error, TimeoutError) and not foreign else repr(error)
        if kind == "timed out":
            assert isinstance(error, CallTimeoutError) is ours or story is a_scope_around_wait_for
            kind += f" because of {type(error.__cause__).__name__}"
        return kind, count

    with use_clock(clock):
        ended = run(main(), clock)
    return ended, world.seen, round(clock.now() - 1000.0, 1)


@pytest.mark.parametrize("story", SCENARIOS, ids=lambda story: story.__name__)
def test_what_is_seen_is_the_same_under_both(story: Scenario) -> None:
    theirs, ours = outcome(story, False), outcome(story, True)
    if story in CHANGED_AFTER_3_11:
        assert ours[:2] == CHANGED_AFTER_3_11[story]
    if story not in CHANGED_AFTER_3_11 or sys.version_info < (3, 12):
        assert ours[:2] == theirs[:2]
    assert ours[2] == pytest.approx(theirs[2], abs=0.11)


def test_outside_a_task_the_error_is_clear(clock: ManualClock) -> None:
    guarded = Timeout(1)(asyncio.sleep)(0)
    with pytest.raises(RuntimeError, match="asyncio only"):
        guarded.send(None)
    guard = Timeout(1).guard().__aenter__()
    with pytest.raises(RuntimeError, match="asyncio only"):
        guard.send(None)
    loop = VirtualLoop(clock)
    caught: list[str] = []

    def callback() -> None:
        for coroutine in (Timeout(1)(asyncio.sleep)(0), Timeout(1).guard().__aenter__()):
            try:
                coroutine.send(None)
            except RuntimeError as error:
                caught.append(str(error))
        loop.stop()

    loop.call_soon(callback)
    loop.run_forever()
    loop.close()
    assert caught == ["Timeout must be used inside a task"] * 2
