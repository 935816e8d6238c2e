"""ASGI middleware under load.

Requests per second: uvicorn (h11) in processes of their own, one for each way to serve, in turns, load by `wrk` with 32
connections. First an application of two messages, the least that a response can be, then an endpoint of FastAPI; each
bare, with the whole stack, and with what others offer for a part of it. Overload: a handler that does 20 things at a
time, with capacity for 200 requests a second, offered 600, with a bulkhead and without; an answer counts within a
client's patience of a second. Addresses: a million clients, one request each, through a limiter by client, once with a
limit whose keys are soon at rest and forgotten, once with one whose keys live on, so that most clients share the bucket
for what is beyond the bound.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import asgi_correlation_id
import slowapi
from fastapi import FastAPI
from resilience_asgi import CorrelationMiddleware, ResilienceMiddleware, client_address
from rich.console import Console
from slowapi.middleware import SlowAPIASGIMiddleware
from slowapi.util import get_remote_address

from resilience import Bulkhead, RateLimiter

from .asgi import LIMIT, application, guarded, protection, receive
from .figures import Figure, print_table
from .figures import markdown as section

GROUP = "ASGI under load"
CAPACITY, OFFERED = 200, 600
LANES, WORK = 20, 20 / CAPACITY  # the handler does 20 things at a time, each of which takes 100 ms
PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    rounds: int
    seconds: int
    overload: float
    addresses: int


FULL = Effort(rounds=7, seconds=3, overload=6.0, addresses=1_000_000)
QUICK = Effort(rounds=1, seconds=1, overload=1.5, addresses=20_000)

bare = application
stacked = guarded()
correlated = asgi_correlation_id.CorrelationIdMiddleware(application)


def endpoint() -> FastAPI:
    """An application of FastAPI with an endpoint that answers at once."""
    app = FastAPI()

    @app.get("/")
    async def root() -> dict[str, bool]:
        return {"ok": True}

    return app


def endpoint_guarded() -> Any:
    """The same with the whole stack, installed as one would."""
    app = endpoint()
    app.add_middleware(ResilienceMiddleware, **protection())
    return CorrelationMiddleware(app)


def endpoint_limited() -> FastAPI:
    """The same with the rate limit of slowapi, and nothing else."""
    app = endpoint()
    app.state.limiter = slowapi.Limiter(key_func=get_remote_address, default_limits=[LIMIT])
    app.add_middleware(SlowAPIASGIMiddleware)
    return app


fastapi, fastapi_stacked, fastapi_slowapi = endpoint(), endpoint_guarded(), endpoint_limited()


# -- requests per second -----------------------------------------------------------------------------------------------


@contextmanager
def serving(name: str) -> Iterator[str]:
    """The address of a uvicorn that serves the application `name` of this module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--http", "h11", "--loop", "asyncio", "--no-access-log", "--log-level", "critical"]
    process = subprocess.Popen([sys.executable, "-m", "uvicorn", f"benchmarks.asgi_server:{name}", *options])
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


def requests_per_second(url: str, wrk: str, seconds: int) -> float:
    """What wrk counts in some seconds with 32 connections."""
    command = [wrk, "-t1", "-c32", f"-d{seconds}s", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    if found is None or "Non-2xx" in output:
        raise RuntimeError(f"wrk says: {output}")
    return float(found[1])


def throughput(effort: Effort) -> list[Figure]:
    """What the stack leaves of a server's requests per second; nothing where `wrk` is missing."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return []
    names = ["bare", "stacked", "correlated", "fastapi", "fastapi_stacked", "fastapi_slowapi"]
    counts: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as servers:
        urls = {name: servers.enter_context(serving(name)) for name in names}
        for number in range(effort.rounds):
            for name in names if number % 2 else reversed(names):
                counts[name].append(requests_per_second(urls[name], wrk, effort.seconds))

    def times(name: str, other: str) -> float:
        return median(a / b for a, b in zip(counts[name], counts[other], strict=True))

    return [
        Figure("uvicorn, bare application: requests/s", median(counts["bare"])),
        Figure("with limit by client, bulkhead, timeout, correlation: requests/s", median(counts["stacked"])),
        Figure("that, times the bare application", times("stacked", "bare"), least=0.92),
        Figure("asgi-correlation-id alone, times the bare application", times("correlated", "bare")),
        Figure("an endpoint of FastAPI: requests/s", median(counts["fastapi"])),
        Figure("with all of ours, times the endpoint", times("fastapi_stacked", "fastapi")),
        Figure("with the limit of slowapi alone, times the endpoint", times("fastapi_slowapi", "fastapi")),
        Figure("with all of ours, times the one with slowapi", times("fastapi_stacked", "fastapi_slowapi"), least=1.0),
    ]


# -- overload ----------------------------------------------------------------------------------------------------------


def limited_handler() -> Any:
    """A handler with a capacity: like a database that does some queries at a time and lets the others queue."""
    lanes = asyncio.Semaphore(LANES)

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        async with lanes:
            await asyncio.sleep(WORK)
        await application(scope, receive, send)

    return handler


async def offered(app: Any, rate: float, seconds: float) -> tuple[list[float], int, int]:
    """Latencies of answers within the patience of a client, refusals, and late answers, at `rate` a second."""
    latencies: list[float] = []
    counts = {"refused": 0, "late": 0}
    tasks: set[asyncio.Task[None]] = set()
    began = time.perf_counter()

    async def request() -> None:
        statuses: list[int] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        start = time.perf_counter()
        await app({"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}, receive, send)
        took = time.perf_counter() - start
        if statuses != [200]:
            counts["refused"] += 1
        elif took > PATIENCE:
            counts["late"] += 1
        else:
            latencies.append(took)

    sent = 0
    while (elapsed := time.perf_counter() - began) < seconds:
        while sent < elapsed * rate:
            task = asyncio.create_task(request())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.001)
    if tasks:
        await asyncio.wait(tasks)
    return latencies, counts["refused"], counts["late"]


async def saturated(app: Any, seconds: float) -> float:
    """Requests a second that the handler serves when as many clients as it has lanes never pause."""
    end, served = time.perf_counter() + seconds, 0

    async def send(message: Any) -> None: ...

    async def client() -> None:
        nonlocal served
        while time.perf_counter() < end:
            await app({"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}, receive, send)
            served += 1

    await asyncio.gather(*(client() for _ in range(LANES)))
    return served / seconds


def overload(effort: Effort) -> list[Figure]:
    """What clients get of a handler that is offered three times what it can do."""

    # No queue: with so many offered, a lane that becomes free has its next request at once, and nobody waits in vain.
    def protected() -> Any:
        return ResilienceMiddleware(limited_handler(), layers=[Bulkhead(LANES)])

    async def run(make: Any, rate: float) -> tuple[float, float, int]:
        latencies, _, late = await offered(make(), rate, effort.overload)
        latencies.sort()
        p99 = latencies[int(len(latencies) * 0.99)] if latencies else float("nan")
        return len(latencies) / effort.overload, p99, late

    capacity = asyncio.run(saturated(limited_handler(), effort.overload / 2))
    _, unloaded, _ = asyncio.run(run(limited_handler, CAPACITY / 2))
    bare, _, late = asyncio.run(run(limited_handler, OFFERED))
    goodput, p99, _ = asyncio.run(run(protected, OFFERED))
    return [
        Figure("capacity: requests/s answered when kept busy", capacity),
        Figure("offered half of it: p99 in ms", unloaded * 1000),
        Figure("offered three times as much, bare: requests/s answered in time", bare),
        Figure("the same: requests answered too late", late),
        Figure("offered three times as much, bulkhead: requests/s answered in time", goodput),
        Figure("the same, times the capacity", goodput / capacity, least=0.95),
        Figure("the same: p99 in ms", p99 * 1000),
        Figure("the same, times the p99 of half the load", p99 / unloaded, most=1.5),
    ]


# -- a million clients -------------------------------------------------------------------------------------------------


async def by_address(limiter: RateLimiter, clients: int) -> list[tuple[float, float, int]]:
    """Requests per second, resident MB and keys alive, after every tenth of the clients."""
    app = CorrelationMiddleware(ResilienceMiddleware(application, layers=[limiter], timeout=10.0))

    async def send(message: Any) -> None: ...

    rows = []
    step = clients // 10
    for first in range(0, clients, step):
        began = time.perf_counter()
        for number in range(first, first + step):
            host = f"{1 + (number >> 16 & 255)}.{number >> 8 & 255}.{number & 255}.7"
            await app({"type": "http", "method": "GET", "path": "/", "headers": [], "client": (host, 1)}, receive, send)
        taken = time.perf_counter() - began
        gc.collect()
        rows.append((step / taken, _resident(), limiter.statistics().keys))
    return rows


def addresses(effort: Effort) -> list[Figure]:
    """What a limiter by client does to throughput and memory when nobody comes twice."""
    key = client_address()
    figures = []
    most = effort.addresses // 10
    for what, period in {"keys soon at rest": 1.0, "keys alive beyond the bound": 3600.0}.items():
        limiter = RateLimiter(10, period, key=key, max_keys=most)
        rows = asyncio.run(by_address(limiter, effort.addresses))
        title = f"{effort.addresses:,} clients, {what}"
        # The first tenth warms up, and in the second case it is the one whose requests are let through.
        rates = [rate for rate, _, _ in rows[1:]]
        growth = rows[-1][1] - rows[1][1]
        figures += [
            Figure(f"{title}: requests/s", median(rates)),
            Figure(f"{title}: last third, times the first third", median(rates[-3:]) / median(rates[:3]), least=0.85),
            Figure(f"{title}: most keys at once", max(keys for _, _, keys in rows), most=most),
            Figure(f"{title}: MB grown over the last eight tenths", growth, most=10.0),
        ]
    return figures


def _resident() -> float:
    """Megabytes of this process."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- the section -------------------------------------------------------------------------------------------------------


def measure(only: str, effort: Effort, progress: Callable[[str], object]) -> list[Figure]:
    """All figures whose name contains `only`."""
    parts = {"throughput": throughput, "overload": overload, "addresses": addresses}
    figures: list[Figure] = []
    for name, part in parts.items():
        if only in f"{GROUP.lower()} {name}":
            progress(f"{GROUP}: {name}")
            figures += part(effort)
    return figures


def print_tables(figures: Sequence[Figure], console: Console) -> None:
    """Everything measured, and the count of the bars."""
    if figures:
        print_table(GROUP, figures, console)


def markdown(figures: Sequence[Figure]) -> str:
    """The section of RESULTS.md."""
    return section(GROUP, __doc__, figures)
