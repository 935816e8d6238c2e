"""What is used of aiolimiter from inside. If one fails, a new version of it needs a look at `_leaky_bucket.py`."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiolimiter
import pytest

import resilience
from resilience import _leaky_bucket as bucket
from resilience.testing import ManualClock, VirtualLoop

INSIDE = re.compile(r"limiter\.(_\w+)")


def test_no_other_file_looks_inside_the_limiter() -> None:
    for path in sorted(Path(resilience.__file__).parent.glob("*.py")):
        source = path.read_text("utf-8")
        if "import aiolimiter" not in source:
            continue  # its limiter is another one
        found = set(INSIDE.findall(source))
        expected = {"_event_loop", "_level", "_loop", "_waiters", "_waker_handle"}
        assert found == (expected if path.name == "_leaky_bucket.py" else set()), path.name


async def test_the_level_is_what_was_acquired() -> None:
    limiter = aiolimiter.AsyncLimiter(10, 60.0)
    assert bucket.level(limiter) == 0.0
    await limiter.acquire(3)
    assert bucket.level(limiter) == pytest.approx(3.0, abs=0.1)


async def test_the_owner_is_the_first_loop_that_used_it() -> None:
    limiter = aiolimiter.AsyncLimiter(10)
    await limiter.acquire()
    assert bucket.owner(limiter) is asyncio.get_running_loop()


def test_a_closed_loop_owns_nothing_and_nobody_is_warned() -> None:
    limiter = aiolimiter.AsyncLimiter(10)

    async def owned() -> bool:
        ours = bucket.owner(limiter) is asyncio.get_running_loop()
        await limiter.acquire()
        return ours

    for _ in range(2):
        loop = VirtualLoop(ManualClock())
        try:
            assert loop.run_until_complete(owned())
        finally:
            loop.close()


def test_an_orphaned_limiter_has_no_loop_and_nobody_waits_for_it() -> None:
    limiter = aiolimiter.AsyncLimiter(1, 1000.0)
    bucket.orphan(limiter)  # never used: nothing to do
    loops = [VirtualLoop(ManualClock()) for _ in range(2)]

    async def full() -> None:
        await limiter.acquire()
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert limiter._waiters
        assert limiter._waker_handle is not None
        bucket.orphan(limiter)
        assert not limiter._waiters
        assert limiter._waker_handle is None
        waiting.cancel()

    async def owned() -> bool:
        return bucket.owner(limiter) is asyncio.get_running_loop()

    try:
        loops[0].run_until_complete(full())
        assert loops[1].run_until_complete(owned())
    finally:
        for loop in loops:
            loop.close()
