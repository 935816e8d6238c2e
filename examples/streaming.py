"""A stream of items under a circuit breaker and a timeout: the whole stream is one call.

python -m examples.streaming
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from resilience import CallTimeoutError, CircuitBreaker, CircuitOpenError, Pipeline, Timeout

breaker = CircuitBreaker("feed", failure_threshold=2)


@Pipeline(breaker, Timeout(5.0, name="feed"))
async def feed(*, stalls: bool) -> AsyncIterator[int]:
    """Items of a feed that may stall after the second."""
    for item in range(4):
        if stalls and item == 2:
            await asyncio.sleep(3600)
        yield item


async def read(*, stalls: bool) -> None:
    """Read the feed to its end, if it has one."""
    items = []
    try:
        async for item in feed(stalls=stalls):
            items.append(item)  # noqa: PERF401 - a stream is read item by item
    except (CallTimeoutError, CircuitOpenError) as error:
        print(items, "then", error)
    else:
        print(items)


async def main() -> None:
    """Read it well, until it has stalled twice, and once more; leaving early says nothing about the feed."""
    await read(stalls=False)
    async for item in feed(stalls=True):
        print("left at", item)
        break
    for _ in range(3):
        await read(stalls=True)
    print("the breaker is", breaker.state.value)


if __name__ == "__main__":
    asyncio.run(main())
