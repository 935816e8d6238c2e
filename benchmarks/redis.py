"""Shared state on a real server: throughput and latency beside `limits` and beside a bare EVALSHA of the same client.

Every round times all contestants in turn; a ratio is taken within a round, and the median of the ratios is reported.
The redis-server is one of its own, on a free port of this machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import redis.asyncio
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from resilience_redis import RedisStore
from resilience_redis._scripts import SCRIPTS
from rich.console import Console

from resilience import RateLimiter
from tests.redis_server import RedisServer, start

from .figures import Figure, print_table
from .figures import markdown as section

GROUP = "shared state"
ABSENT = "redis-server is not installed, so nothing was measured of state shared through it."
CROWD = 100
UNLIMITED = 10_000_000.0
BARE = ("-1", "take", "1.0", "1.0", "0.0", "1e+300", "1e-07", "1.0", "1.0")
PATIENCE = 5.0  # seconds: what is measured is not who gives up on a busy machine
TOLERANCE = 0.05  # seconds beyond `store_timeout` that a call may take
Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True)
class Effort:
    """How careful a run is."""

    rounds: int
    decisions: int  # in a crowd, a tenth of them alone
    seconds: float  # of four processes at one limit


FULL = Effort(rounds=7, decisions=3000, seconds=30.0)
QUICK = Effort(rounds=3, decisions=500, seconds=2.0)


async def nothing() -> None:
    """The call that is limited."""


async def in_a_crowd(call: Call, count: int) -> float:
    """Decisions per second with 100 concurrent callers."""

    async def caller() -> None:
        for _ in range(count // CROWD):
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CROWD)))
    return count / (time.perf_counter() - began)


async def alone(call: Call, count: int) -> float:
    """Seconds per decision of one caller."""
    began = time.perf_counter()
    for _ in range(count):
        await call()
    return (time.perf_counter() - began) / count


async def asynchronous(server: RedisServer, effort: Effort) -> list[Figure]:
    """Ratios and rates of the asynchronous rows."""
    client = redis.asyncio.Redis(port=server.port)
    script = await client.script_load(SCRIPTS["limiter"].decode())
    storage = RedisStorage(f"async+{server.url}", implementation="redispy")
    strategy, item = FixedWindowRateLimiter(storage), RateLimitItemPerSecond(int(UNLIMITED))
    async with (
        RedisStore(server.url, store_timeout=PATIENCE) as exact,
        RedisStore(server.url, store_timeout=PATIENCE, local_share=0.01, prefix="ahead") as ahead,
    ):
        calls: dict[str, Call] = {
            "ours": RateLimiter(UNLIMITED, name="exact", store=exact)(nothing),
            "ahead": RateLimiter(UNLIMITED, 60.0, name="ahead", store=ahead)(nothing),
            "limits": lambda: strategy.hit(item, "key"),
            "bare": lambda: client.evalsha(script, 1, "bare", *BARE),
        }
        rates: dict[str, list[float]] = {name: [] for name in calls}
        latencies: dict[str, list[float]] = {"ours": [], "bare": []}
        for call in calls.values():
            await call()
        for _ in range(effort.rounds):
            for name, call in calls.items():
                rates[name].append(await in_a_crowd(call, effort.decisions))
            for name, seconds in latencies.items():
                seconds.append(await alone(calls[name], effort.decisions // 10))
        await client.aclose()
    return [
        *(Figure(f"{name}: decisions per second with {CROWD} callers", median(rates[name])) for name in calls),
        Figure("ours, times limits.aio", ratio(rates["ours"], rates["limits"]), least=3.0),
        Figure("1 % of the burst taken ahead, times limits.aio", ratio(rates["ahead"], rates["limits"]), least=10.0),
        Figure(
            "latency of one uncontended decision, times a bare EVALSHA",
            ratio(latencies["ours"], latencies["bare"]),
            most=1.15,
        ),
    ]


def synchronous(server: RedisServer, effort: Effort) -> list[Figure]:
    """The time of a plain decision beside a bare EVALSHA."""
    client = server.client()
    script: Any = client.script_load(SCRIPTS["limiter"].decode())
    with RedisStore(server.url, store_timeout=PATIENCE) as store:
        ours = RateLimiter(UNLIMITED, name="sync", store=store)(lambda: None)
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(effort.rounds):
            for name, taken in seconds.items():
                began = time.perf_counter()
                for _ in range(effort.decisions // 10):
                    ours() if name == "ours" else client.evalsha(script, 1, "bare", *BARE)
                taken.append(time.perf_counter() - began)
    client.close()
    return [Figure("sync: time of a decision, times a bare EVALSHA", ratio(seconds["ours"], seconds["bare"]), most=1.1)]


def paused(server: RedisServer, effort: Effort) -> list[Figure]:
    """What callers notice of a server that stops answering, beside a limiter in memory."""

    async def main() -> list[Figure]:
        async with RedisStore(server.url) as store:
            shared = RateLimiter(UNLIMITED, name="paused", store=store)(nothing)
            local = RateLimiter(UNLIMITED)(working)
            guarded = RateLimiter(UNLIMITED, name="paused", store=store)(working)
            await shared()
            server.pause()
            longest = 0.0
            for _ in range(100):
                began = time.perf_counter()
                await asyncio.gather(*(shared() for _ in range(20)))
                longest = max(longest, time.perf_counter() - began)
            count = 5 * effort.decisions  # enough for one call to be held up while it looks whether the server is back
            pairs = [(await in_a_crowd(guarded, count), await in_a_crowd(local, count)) for _ in range(effort.rounds)]
            server.resume()
            throughput = median(with_store / without for with_store, without in pairs)
            return [
                Figure("server paused: longest wait in seconds", longest, most=store.store_timeout + TOLERANCE),
                Figure("server paused: throughput, times that in memory", throughput, least=0.9),
            ]

    return asyncio.run(main())


async def working() -> None:
    """A service that does a millisecond of something, most of it elsewhere."""
    await asyncio.sleep(0.001)


def over_admission(server: RedisServer, effort: Effort, processes: int = 4) -> list[Figure]:
    """Calls beyond the limit that several processes together get through."""
    rate, burst = 200.0, 100.0
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    workers = [
        context.Process(target=_hammer, args=(server.url, rate, burst, effort.seconds, results))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    passed = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    count, first, last = sum(p[0] for p in passed), min(p[1] for p in passed), max(p[2] for p in passed)
    return [
        Figure(f"admitted by {processes} processes in {effort.seconds:g} s", count),
        Figure("of these beyond the limit", max(0.0, count - burst - rate * (last - first) - 1), most=0.0),
    ]


def _hammer(url: str, rate: float, burst: float, seconds: float, results: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    with RedisStore(url, store_timeout=PATIENCE, on_error="closed") as store:
        limiter = RateLimiter(rate, 1.0, burst=burst, name="hammer", store=store, max_wait=0.1)(time.monotonic)
        end, count, first = time.monotonic() + seconds, 0, time.monotonic()
        while time.monotonic() < end:
            try:
                limiter()
                count += 1
            except Exception:
                time.sleep(0.001)
        results.put((count, first, time.monotonic()))


def ratio(ours: list[float], theirs: list[float]) -> float:
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def measure(only: str, effort: Effort, progress: Callable[[str], object]) -> list[Figure] | None:
    """All figures, or none that are wanted; None where there is no server to be had."""
    if only not in GROUP:
        return []
    server = start()
    try:
        if not isinstance(server, RedisServer):
            return None
        figures: list[Figure] = []
        progress(f"{GROUP}: tasks")
        figures += asyncio.run(asynchronous(server, effort))
        progress(f"{GROUP}: threads")
        figures += synchronous(server, effort)
        progress(f"{GROUP}: a server that is paused")
        figures += paused(server, effort)
        progress(f"{GROUP}: four processes")
        figures += over_admission(server, effort)
        return figures
    finally:
        server.close()


def print_tables(figures: Sequence[Figure] | None, console: Console) -> None:
    """Everything measured, and the count of the bars."""
    if figures is None:
        console.print(ABSENT)
    elif figures:
        print_table(GROUP, figures, console)


def markdown(figures: Sequence[Figure] | None) -> str:
    """The section of RESULTS.md."""
    return f"## {GROUP.capitalize()}\n\n{ABSENT}\n" if figures is None else section(GROUP, __doc__, figures)
