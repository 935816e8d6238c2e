"""Rows for the resilient transport on a transport that does nothing, and its memory over many hosts.

The standard pipeline is what is measured: total timeout, retry with budget, breaker, bulkhead and attempt timeout for
one known origin, and the headers that travel along. Costs are above the bare null transport.

    python -m benchmarks.transport              memory with 100,000 different hosts
"""

from __future__ import annotations

import argparse
import gc
import importlib
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from .measure import BARE, OURS, Case, Colour, Row

URL = "https://api.example.com/things"
HOSTS, MAX_HOSTS = 100_000, 1024


def null_transport(library: Any, body: bool) -> Any:
    """A transport of a library that answers at once: with one ready response, or with one whose body is to be read."""
    ready = library.Response(200)

    class Null(library.AsyncBaseTransport, library.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            return library.Response(200, stream=library.ByteStream(b"x")) if body else ready

        async def handle_async_request(self, request: Any) -> Any:
            return library.Response(200, stream=library.ByteStream(b"x")) if body else ready

    return Null()


def build(name: str, body: bool) -> Callable[[Colour], list[Case]]:
    def cases(colour: Colour) -> list[Case]:
        library, package = importlib.import_module(name), importlib.import_module(f"resilience_{name}")
        null = null_transport(library, body)
        settings: dict[str, dict[str, Any]] = {
            OURS: {},
            "without headers": {"propagate": False},
            "without timeouts": {"propagate": False, "timeout": None, "attempt_timeout": None},
        }
        request = library.Client().build_request("GET", URL)
        guarded = {what: package.ResilientTransport(null, **options) for what, options in settings.items()}
        contestants = {BARE: null, **guarded}
        return [Case(what, _call(colour, transport, request, body)) for what, transport in contestants.items()]

    return cases


def _call(colour: Colour, transport: Any, request: Any, body: bool) -> Callable[[], Any]:
    if colour == "sync":
        return lambda: transport.handle_request(request).read()

    async def call() -> Any:
        response = await transport.handle_async_request(request)
        return await response.aread() if body else response

    return call


ROWS = (
    *(Row("transport", f"{name}, null transport", build(name, body=False)) for name in ("httpx", "httpx2")),
    *(Row("transport", f"{name}, null transport, body read", build(name, body=True)) for name in ("httpx", "httpx2")),
)


def many_hosts(name: str, hosts: int) -> tuple[int, int, float]:
    """Origins kept, bytes held, and requests per second, after one request to each of so many hosts."""
    library, package = importlib.import_module(name), importlib.import_module(f"resilience_{name}")
    transport = package.ResilientTransport(null_transport(library, body=False), max_hosts=MAX_HOSTS)
    request = library.Request("GET", URL)
    gc.collect()
    tracemalloc.start()
    began = time.perf_counter()
    for number in range(hosts):
        request.url = library.URL(f"https://host-{number}.example.com/")
        transport.handle_request(request)
    seconds = time.perf_counter() - began
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return transport.statistics().keys, held, hosts / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="The memory of a resilient transport that has seen many hosts.")
    parser.add_argument("hosts", type=int, nargs="?", default=HOSTS)
    options = parser.parse_args()
    for name in ("httpx", "httpx2"):
        for hosts in (options.hosts // 10, options.hosts):
            kept, held, speed = many_hosts(name, hosts)
            print(f"{name}: {hosts:,} hosts: {kept:,} kept, {held / 1e6:.1f} MB, {speed:,.0f} requests/s (traced)")


if __name__ == "__main__":
    main()
