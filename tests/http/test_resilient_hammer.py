"""Threads and event loops on one transport at once: the limit holds, and in the end nothing is held."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from resilience import Bulkhead
from resilience.clock import turn
from tests.http.scripted import LIBRARIES, ORIGIN, URL

THREADS, LOOPS, TASKS, REQUESTS = 8, 2, 8, 25


class Gauge:
    """An inner transport that counts how many responses are open."""

    def __init__(self, library: Any) -> None:
        self.lock = threading.Lock()
        self.inside = self.most = self.served = 0
        gauge = self

        class Body(library.AsyncByteStream, library.SyncByteStream):  # type: ignore[misc]
            def __iter__(self) -> Any:
                yield b"x"

            async def __aiter__(self) -> Any:
                await turn()
                yield b"x"

            def close(self) -> None:
                with gauge.lock:
                    gauge.inside -= 1

            async def aclose(self) -> None:
                self.close()

        self.answer: Callable[[], Any] = lambda: library.Response(200, stream=Body())

    def handle_request(self, request: Any) -> Any:
        with self.lock:
            self.inside += 1
            self.served += 1
            self.most = max(self.most, self.inside)
        return self.answer()

    async def handle_async_request(self, request: Any) -> Any:
        response = self.handle_request(request)
        try:
            await turn()
        except asyncio.CancelledError:
            await response.aclose()
            raise
        return response


@pytest.mark.parametrize("name", LIBRARIES)
def test_one_transport_serves_threads_and_loops_within_one_limit(name: str) -> None:
    library, package = importlib.import_module(name), importlib.import_module(f"resilience_{name}")
    gauge = Gauge(library)
    transport = package.ResilientTransport(gauge, bulkhead=lambda origin: Bulkhead(3, max_queue=1000))
    problems: list[BaseException] = []

    def thread() -> None:
        try:
            client = library.Client(transport=transport)
            for _ in range(REQUESTS):
                assert client.get(URL).content == b"x"
        except BaseException as error:
            problems.append(error)

    def loop() -> None:
        async def task() -> None:
            client = library.AsyncClient(transport=transport)
            for number in range(REQUESTS):
                if number % 5 == 4:
                    doomed = asyncio.ensure_future(client.get(URL))
                    await turn()
                    doomed.cancel()
                    await asyncio.wait([doomed])
                assert (await client.get(URL)).content == b"x"

        async def main() -> None:
            await asyncio.gather(*(task() for _ in range(TASKS)))

        try:
            asyncio.run(main())
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=thread) for _ in range(THREADS)]
    workers += [threading.Thread(target=loop) for _ in range(LOOPS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert problems == []
    assert gauge.most <= 3
    assert gauge.served >= (THREADS + LOOPS * TASKS) * REQUESTS
    statistics = transport.bulkhead(ORIGIN).statistics()
    assert (statistics.in_use, statistics.waiting) == (0, 0)
    assert transport.statistics().in_use == 0
    assert transport.breaker(ORIGIN).statistics().failures == 0
