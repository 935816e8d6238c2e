"""Shared state on a real server: throughput and latency beside `limits` and beside a bare EVALSHA of the same client.

Every round times all contestants in turn; a ratio is taken within a round, and the median of the ratios is reported.
`python -m benchmarks.redis` prints the table. It starts a redis-server of its own, on a free port of this machine.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any

import redis.asyncio
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from resilience_redis import RedisStore
from resilience_redis._scripts import SCRIPTS
from rich.console import Console
from rich.table import Table

from resilience import RateLimiter
from tests.redis_server import RedisServer, start

CROWD, ROUNDS = 100, 7
UNLIMITED = 10_000_000.0
BARE = ("-1", "take", "1.0", "1.0", "0.0", "1e+300", "1e-07", "1.0", "1.0")
PATIENCE = 5.0  # seconds: what is measured is not who gives up on a busy machine
Call = Callable[[], Awaitable[Any]]


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


async def asynchronous(server: RedisServer) -> dict[str, float]:
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
        for _ in range(ROUNDS):
            for name, call in calls.items():
                rates[name].append(await in_a_crowd(call, 3000))
            for name, seconds in latencies.items():
                seconds.append(await alone(calls[name], 300))
        await client.aclose()
    return {
        **{f"{name}, decisions per second": median(rates[name]) for name in calls},
        "with 100 callers, times limits.aio": ratio(rates["ours"], rates["limits"]),
        "the same with 1 % of the burst ahead": ratio(rates["ahead"], rates["limits"]),
        "one uncontended decision, times a bare EVALSHA": ratio(latencies["ours"], latencies["bare"]),
    }


def synchronous(server: RedisServer) -> dict[str, float]:
    """The time of a plain decision beside a bare EVALSHA."""
    client = server.client()
    script: Any = client.script_load(SCRIPTS["limiter"].decode())
    with RedisStore(server.url, store_timeout=PATIENCE) as store:
        ours = RateLimiter(UNLIMITED, name="sync", store=store)(lambda: None)
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        for _ in range(ROUNDS):
            for name, taken in seconds.items():
                began = time.perf_counter()
                for _ in range(300):
                    ours() if name == "ours" else client.evalsha(script, 1, "bare", *BARE)
                taken.append(time.perf_counter() - began)
    client.close()
    return {"sync, times a bare EVALSHA": ratio(seconds["ours"], seconds["bare"])}


def paused(server: RedisServer) -> dict[str, float]:
    """What callers notice of a server that stops answering, beside a limiter in memory."""

    async def main() -> tuple[float, float]:
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
            pairs = [(await in_a_crowd(guarded, 2000), await in_a_crowd(local, 2000)) for _ in range(ROUNDS)]
            server.resume()
            return longest, median(with_store / without for with_store, without in pairs)

    longest, throughput = asyncio.run(main())
    return {"paused: longest wait, seconds": longest, "paused: throughput, times that in memory": throughput}


async def working() -> None:
    """A service that does a millisecond of something, most of it elsewhere."""
    await asyncio.sleep(0.001)


def over_admission(server: RedisServer, seconds: float = 30.0, processes: int = 4) -> dict[str, float]:
    """Calls beyond the limit that several processes together get through."""
    rate, burst = 200.0, 100.0
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    workers = [
        context.Process(target=_hammer, args=(server.url, rate, burst, seconds, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    passed = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    count, first, last = sum(p[0] for p in passed), min(p[1] for p in passed), max(p[2] for p in passed)
    return {
        f"admitted by {processes} processes": count,
        "over-admission": max(0.0, count - burst - rate * (last - first) - 1),
    }


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


def main() -> None:
    server = start()
    if not isinstance(server, RedisServer):
        server.close()
        raise SystemExit("redis-server is not installed")
    try:
        rows = {**asyncio.run(asynchronous(server)), **synchronous(server), **paused(server), **over_admission(server)}
    finally:
        server.close()
    table = Table("shared state on redis-server", "")
    for name, value in rows.items():
        table.add_row(name, f"{value:,.0f}" if value >= 100 else f"{value:.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
