"""Cancelled at every suspension point, a request leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import tenacity

from resilience import Bulkhead, Retry
from resilience.testing import ManualClock, run, use_clock
from tests.conftest import Colour
from tests.http.scripted import LIBRARIES, ORIGIN, URL, Answer, Kit
from tests.sweep import Ending, sweep


@pytest.fixture(params=LIBRARIES)
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    colour = Colour("async", ManualClock(1000.0))
    yield Kit(request.param, colour)
    colour.close()


def nothing_is_held(ending: Ending[Any]) -> None:
    transport, server = ending.state
    assert transport.statistics().in_use == 0
    statistics = transport.bulkhead(ORIGIN).statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    assert all(stream.closed for stream in server.streams)
    # A cancellation by a stranger says nothing about the server.
    assert transport.breaker(ORIGIN).statistics().failures <= sum(answer == "closed" for answer in server.log)


def test_a_request_with_a_retry_and_a_slow_body(kit: Kit) -> None:
    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], Any]:
        kit.colour.clock = kit.clock = clock
        server = kit.server(Answer(503, "x", after=1.0), Answer(200, "a", 1.0, "b", 1.0, after=1.0))
        retry = Retry(kit.library.ReadError, wait=tenacity.wait_fixed(2.0))
        transport = kit.transport(server, retry=retry)

        async def main() -> bytes:
            async with kit.library.AsyncClient(transport=transport) as client:
                response = await client.get(URL)
                content: bytes = response.content
                return content

        return main(), (transport, server)

    def check(ending: Ending[Any]) -> None:
        nothing_is_held(ending)
        if ending.point == 0:
            assert ending.result == b"ab"

    assert sweep(scenario, check) >= 8


def test_requests_that_queue_for_a_slot(kit: Kit) -> None:
    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], Any]:
        kit.colour.clock = kit.clock = clock
        server = kit.server(Answer(200, "a", 1.0, "b", after=1.0))
        transport = kit.transport(server, bulkhead=lambda origin: Bulkhead(1, max_queue=3))

        async def main() -> list[int]:
            client = kit.library.AsyncClient(transport=transport)
            async with client.stream("GET", URL) as first:
                second = asyncio.ensure_future(client.get(URL))
                try:
                    await first.aread()
                    await first.aclose()
                    return [first.status_code, (await second).status_code]
                finally:
                    second.cancel()
                    await asyncio.wait([second])

        return main(), (transport, server)

    assert sweep(scenario, nothing_is_held) >= 6


def test_a_stream_that_is_left_early(kit: Kit) -> None:
    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], Any]:
        kit.colour.clock = kit.clock = clock
        server = kit.server(Answer(200, "a", 1.0, "b", 1.0, "c"))
        transport = kit.transport(server)

        async def main() -> bytes:
            # Without the client, whose own generators are left to the event loop when a consumer leaves early.
            response = await transport.handle_async_request(kit.library.Request("GET", URL))
            try:
                async with contextlib.aclosing(response.stream.__aiter__()) as chunks:
                    async for chunk in chunks:
                        if chunk == b"b":
                            break
            finally:
                await response.aclose()
            return b"left"

        return main(), (transport, server)

    assert sweep(scenario, nothing_is_held) >= 2


def test_a_deadline_that_fires_with_the_result_or_with_a_stranger_takes_nothing_along(kit: Kit) -> None:
    """Each instant around the deadline: the answer and the cancellation come before, with and after it."""
    for headers, body in [(2.0, 0.0), (1.99, 0.0), (2.01, 0.0), (0.5, 1.5), (0.5, 1.49), (0.5, 1.51), (0.5, 1.6)]:
        for stranger in (None, 1.0, 2.0, 2.01, 2.02):
            clock = ManualClock(1000.0)
            with use_clock(clock):
                kit.colour.clock = kit.clock = clock
                server = kit.server(Answer(200, "a", body, "b", after=headers))
                transport = kit.transport(server, timeout=2.0, retry=None)

                async def main(transport: Any = transport, stranger: float | None = stranger) -> Any:
                    async def request() -> Any:
                        return (await kit.library.AsyncClient(transport=transport).get(URL)).text

                    task = asyncio.ensure_future(request())
                    if stranger is not None:
                        await asyncio.sleep(stranger)
                        task.cancel()
                    await asyncio.wait([task])
                    if task.cancelled():
                        return "cancelled"
                    error = task.exception()
                    return "timeout" if isinstance(error, kit.package.HTTPCallTimeoutError) else task.result()

                outcome = run(main(), clock)
                assert outcome in ("ab", "timeout", "cancelled")
                assert stranger is not None or outcome != "cancelled"
                assert transport.statistics().in_use == 0
                assert transport.bulkhead(ORIGIN).statistics().in_use == 0
