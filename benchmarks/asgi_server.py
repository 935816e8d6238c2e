"""ASGI middleware under real load: `python -m benchmarks.asgi_server [requests] [overload] [addresses]`.

* **requests**: uvicorn (h11) in a process of its own, bare and with the whole stack, in turns; load by `wrk`.
* **overload**: a handler with capacity for 200 requests a second, offered 600, with a bulkhead and without.
* **addresses**: one million clients, one request each, through a limiter by client.

It prints Markdown tables. Without arguments, all three.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from resilience_asgi import CorrelationMiddleware, ResilienceMiddleware, client_address

from resilience import Bulkhead, RateLimiter

from .asgi import application, guarded, receive

ROUNDS, SECONDS = 5, 4
CAPACITY, OFFERED = 200, 600
LANES, WORK = 20, 20 / CAPACITY  # the handler does 20 things at a time, each of which takes 100 ms
OVERLOAD_SECONDS, PATIENCE = 6.0, 1.0
ADDRESSES, MOST_KEYS = 1_000_000, 100_000

bare = application
stacked = guarded()


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


def requests_per_second(url: str, wrk: str) -> float:
    """What wrk counts in some seconds with 32 connections."""
    command = [wrk, "-t1", "-c32", f"-d{SECONDS}s", url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([0-9.]+)", output)
    if found is None or "Non-2xx" in output:
        raise RuntimeError(f"wrk says: {output}")
    return float(found[1])


def requests_table() -> None:
    wrk = shutil.which("wrk")
    if wrk is None:
        print("requests per second: skipped, because wrk is not installed\n")
        return
    counts: dict[str, list[float]] = {"bare": [], "stacked": []}
    with serving("bare") as one, serving("stacked") as other:
        for number in range(ROUNDS):
            turns = [("bare", one), ("stacked", other)]
            for name, url in turns if number % 2 else reversed(turns):
                counts[name].append(requests_per_second(url, wrk))
    ratio = median(b / a for a, b in zip(counts["bare"], counts["stacked"], strict=True))
    print("| uvicorn, h11, wrk with 32 connections | requests/s | ratio | bar |\n| --- | --- | --- | --- |")
    print(f"| bare application | {median(counts['bare']):,.0f} | | |")
    ours = median(counts["stacked"])
    print(f"| limit by client, bulkhead, timeout, correlation | {ours:,.0f} | {ratio:.3f} | ≥ 0.92 |\n")


# -- overload ----------------------------------------------------------------------------------------------------------


def limited_handler() -> Any:
    """A handler with a capacity: like a database that does some queries at a time and lets the others queue."""
    lanes = asyncio.Semaphore(LANES)

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        async with lanes:
            await asyncio.sleep(WORK)
        await application(scope, receive, send)

    return handler


async def offered(app: Any, rate: float) -> tuple[list[float], int, int]:
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
    while (elapsed := time.perf_counter() - began) < OVERLOAD_SECONDS:
        while sent < elapsed * rate:
            task = asyncio.create_task(request())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.001)
    if tasks:
        await asyncio.wait(tasks)
    return latencies, counts["refused"], counts["late"]


async def saturated(app: Any) -> float:
    """Requests a second that the handler serves when as many clients as it has lanes never pause."""
    end, served = time.perf_counter() + OVERLOAD_SECONDS / 2, 0

    async def send(message: Any) -> None: ...

    async def client() -> None:
        nonlocal served
        while time.perf_counter() < end:
            await app({"type": "http", "method": "GET", "path": "/", "headers": [], "client": None}, receive, send)
            served += 1

    await asyncio.gather(*(client() for _ in range(LANES)))
    return served / (OVERLOAD_SECONDS / 2)


def overload_table() -> None:
    # No queue: with so many offered, a lane that becomes free has its next request at once, and nobody waits in vain.
    def protected() -> Any:
        return ResilienceMiddleware(limited_handler(), layers=[Bulkhead(LANES)])

    async def run(make: Any, rate: float) -> tuple[list[float], int, int]:
        return await offered(make(), rate)

    cases = [
        ("unloaded: half of what it can", limited_handler, CAPACITY / 2),
        (f"offered {OFFERED}, bare", limited_handler, OFFERED),
        (f"offered {OFFERED}, bulkhead", protected, OFFERED),
    ]
    capacity = asyncio.run(saturated(limited_handler()))
    print(f"The handler serves {capacity:.0f} requests a second when {LANES} clients keep it busy.\n")
    print("| overload | goodput/s | p50 ms | p99 ms | refused | later than 1 s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, make, rate in cases:
        latencies, refused, late = asyncio.run(run(make, rate))
        latencies.sort()
        p50, p99 = (latencies[int(len(latencies) * q)] * 1000 if latencies else float("nan") for q in (0.5, 0.99))
        goodput = len(latencies) / OVERLOAD_SECONDS
        print(f"| {name} | {goodput:.0f} | {p50:.1f} | {p99:.1f} | {refused} | {late} |")
    print("\nBars for the bulkhead: p99 ≤ 1.5 × unloaded, goodput ≥ 0.95 × what it serves when kept busy.\n")


# -- a million clients -------------------------------------------------------------------------------------------------


async def addresses() -> list[tuple[int, float, float, int]]:
    limiter = RateLimiter(10, 60.0, key=client_address(), max_keys=MOST_KEYS)
    app = CorrelationMiddleware(ResilienceMiddleware(application, layers=[limiter], timeout=10.0))

    async def send(message: Any) -> None: ...

    rows = []
    step = ADDRESSES // 10
    for first in range(0, ADDRESSES, step):
        began = time.perf_counter()
        for number in range(first, first + step):
            host = f"{1 + (number >> 16 & 255)}.{number >> 8 & 255}.{number & 255}.7"
            await app({"type": "http", "method": "GET", "path": "/", "headers": [], "client": (host, 1)}, receive, send)
        taken = time.perf_counter() - began
        gc.collect()
        rows.append((first + step, step / taken, _resident(), limiter.statistics().keys))
    return rows


def _resident() -> float:
    """Megabytes of this process."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def addresses_table() -> None:
    print("| distinct clients so far | requests/s | resident MB | live keys |\n| --- | --- | --- | --- |")
    for count, rate, megabytes, keys in asyncio.run(addresses()):
        print(f"| {count:,} | {rate:,.0f} | {megabytes:.0f} | {keys:,} |")
    print()


TABLES = {"requests": requests_table, "overload": overload_table, "addresses": addresses_table}


def main() -> None:
    wanted = sys.argv[1:] or list(TABLES)
    unknown = sorted(set(wanted) - set(TABLES))
    if unknown:
        sys.exit(f"there is no table called {json.dumps(unknown)}; there are {', '.join(TABLES)}")
    for name in wanted:
        TABLES[name]()


if __name__ == "__main__":
    main()
