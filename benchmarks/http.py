"""Requests per second of HTTP clients with and without our transports, against a server on loopback.

The server is a process of its own and answers after 5 ms. All contestants of a case run in turns, in several rounds of
one run. Plain clients are as one gets them without an argument, since that is what a transport is put into; a line
below each shows what it does if told to keep all of its 100 connections alive. Each turn has a ramp that is not counted
and then a window. Both have to be long: after one request to warm up, httpx assigns all requests to that one connection
and only slows down to what it keeps up after seconds. A ratio is the median over the rounds of the ratios within a
round. The CPU time of the client per request moves less with the machine's other work than the throughput does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import httpx
import httpx2
import resilience_httpx
import resilience_httpx2
from rich.console import Console
from rich.table import Table

from . import http_storm
from .http_server import serving
from .http_storm import Aftermath

GROUP = "http"
HEADINGS = ("case", "what", "requests/s", "client CPU µs", "times as fast as", "ratio", "bar", "verdict")
THREADS = 32
PATIENCE = 60.0
"""Seconds for one request; nothing here should come near it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure, in seconds."""

    rounds: int
    ramp: float
    window: float
    storm_requests: int


FULL = Effort(rounds=5, ramp=4.0, window=9.0, storm_requests=5_000)
QUICK = Effort(rounds=1, ramp=0.3, window=1.0, storm_requests=200)


@dataclass(frozen=True, slots=True)
class Bar:
    """`ours` makes at least `least` times the requests of `theirs`."""

    ours: str
    theirs: str
    least: float


@dataclass(frozen=True, slots=True)
class Case:
    """One load, from tasks or from threads."""

    name: str
    concurrency: int
    threads: bool
    contestants: dict[str, Callable[[], Any]]
    bars: tuple[Bar, ...]
    share: float = 0.5
    """Of the ramp and the window. Only under the heaviest load does it take all of them to settle."""


@dataclass(slots=True)
class Throughput:
    """What was measured, one entry per round."""

    case: Case
    per_second: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    def ratio(self, bar: Bar) -> float:
        pairs = zip(self.per_second[bar.ours], self.per_second[bar.theirs], strict=True)
        return median(ours / theirs for ours, theirs in pairs)

    def holds(self, bar: Bar) -> bool:
        return self.ratio(bar) >= bar.least and not self.errors[bar.ours]


KEPT = "{}, 100 kept alive"
"""A client of a library that keeps all of its connections, where it keeps 20 of its 100 unless told."""


def _plain(client: str) -> dict[str, Callable[[], Any]]:
    makers: dict[str, Callable[[], Any]] = {}
    for library in (httpx, httpx2):
        make = getattr(library, client)
        makers[library.__name__] = make
        kept = library.Limits(max_connections=100, max_keepalive_connections=100)
        makers[KEPT.format(library.__name__)] = partial(make, limits=kept)
    return makers


def _asynchronous() -> dict[str, Callable[[], Any]]:
    return {
        **_plain("AsyncClient"),
        "httpx + PooledTransport": lambda: httpx.AsyncClient(transport=resilience_httpx.PooledTransport()),
        "httpx2 + PooledTransport": lambda: httpx2.AsyncClient(transport=resilience_httpx2.PooledTransport()),
        **{f"{pair[0].__name__} + ResilientTransport": partial(_resilient_client, *pair) for pair in _resilient()},
    }


def _resilient_client(library: Any, bound: Any) -> Any:
    return library.AsyncClient(transport=bound.ResilientTransport())


def _synchronous() -> dict[str, Callable[[], Any]]:
    return {
        **_plain("Client"),
        "httpx + PooledTransport": lambda: httpx.Client(transport=resilience_httpx.PooledTransport()),
        "httpx2 + PooledTransport": lambda: httpx2.Client(transport=resilience_httpx2.PooledTransport()),
    }


def _resilient() -> list[tuple[Any, Any]]:
    both: list[tuple[Any, Any]] = [(httpx, resilience_httpx), (httpx2, resilience_httpx2)]
    return [(library, bound) for library, bound in both if hasattr(bound, "ResilientTransport")]


def _bars(pooled: float, resilient: float, resilient2: float) -> tuple[Bar, ...]:
    bars = [Bar("httpx + PooledTransport", "httpx", pooled)]
    for (library, _), least in zip(_resilient(), (resilient, resilient2), strict=False):
        bars.append(Bar(f"{library.__name__} + ResilientTransport", "httpx2", least))
    return tuple(bars)


def cases() -> list[Case]:
    """The rows of the table."""
    threads = (
        Bar("httpx + PooledTransport", "httpx", 1.25),
        Bar("httpx2 + PooledTransport", "httpx2", 1.15),
    )
    return [
        Case("50 tasks", 50, False, _asynchronous(), _bars(2.0, 1.10, 1.10)),
        Case("400 tasks", 400, False, _asynchronous(), _bars(15.0, 1.20, 1.30), share=1.0),
        Case(f"{THREADS} threads", THREADS, True, _synchronous(), threads),
    ]


def measure(only: str, effort: Effort, progress: Callable[[str], object]) -> tuple[list[Throughput], list[Aftermath]]:
    """All cases and storms whose name contains `only`, or all of them if the group's does."""

    def wanted(name: str) -> bool:
        return only in GROUP or only in f"{GROUP} {name}".lower()

    results = [Throughput(case) for case in cases() if wanted(case.name)]
    if results:
        with serving() as url:
            for _ in range(effort.rounds):
                for result in results:
                    _round(result, url, effort, progress)
    storms = [
        http_storm.in_child(name, colour, secure, effort.storm_requests)
        for name, colour, secure in http_storm.STORMS
        if wanted(f"storm {name} {colour}")
        if progress(f"{GROUP}, storm: {name}, {colour}") is None
    ]
    return results, storms


def _round(result: Throughput, url: str, effort: Effort, progress: Callable[[str], object]) -> None:
    case = result.case
    order = list(case.contestants.items())
    random.shuffle(order)
    for name, make in order:
        progress(f"{GROUP}, {case.name}: {name}")
        settled = replace(effort, ramp=case.share * effort.ramp, window=case.share * effort.window)
        gc.collect()
        run = _threads if case.threads else _tasks
        requests, errors, cpu = run(make, url, case.concurrency, settled)
        result.per_second.setdefault(name, []).append(requests / settled.window)
        result.cpu.setdefault(name, []).append(cpu / max(requests, 1))
        result.errors[name] = result.errors.get(name, 0) + errors


class _Count:
    """Requests answered within the window, and the CPU time it took."""

    def __init__(self, effort: Effort) -> None:
        self.begin = time.perf_counter() + effort.ramp
        self.end = self.begin + effort.window
        self.requests = self.errors = 0
        self.cpu: float | None = None

    def answered(self) -> bool:
        """One more answer; whether to go on."""
        now = time.perf_counter()
        if now >= self.begin:
            if self.cpu is None:
                self.cpu = time.process_time()
            if now < self.end:
                self.requests += 1
        return now < self.end

    def result(self) -> tuple[int, int, float]:
        return self.requests, self.errors, time.process_time() - (self.cpu or 0.0)


def _tasks(make: Callable[[], Any], url: str, concurrency: int, effort: Effort) -> tuple[int, int, float]:
    async def main() -> tuple[int, int, float]:
        async with make() as client:
            await client.get(url)
            count = _Count(effort)

            async def work() -> None:
                going = True
                while going:
                    try:
                        await client.get(url, timeout=PATIENCE)
                    except Exception:
                        count.errors += 1
                    going = count.answered()

            tasks = [asyncio.ensure_future(work()) for _ in range(concurrency)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            result = count.result()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return result

    return asyncio.run(main())


def _threads(make: Callable[[], Any], url: str, concurrency: int, effort: Effort) -> tuple[int, int, float]:
    with make() as client:
        client.get(url)
        count, lock = _Count(effort), threading.Lock()

        def work() -> None:
            going = True
            while going:
                failed = 0
                try:
                    client.get(url, timeout=PATIENCE)
                except Exception:
                    failed = 1
                with lock:
                    count.errors += failed
                    going = count.answered()

        threads = [threading.Thread(target=work) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return count.result()


# -- the tables --------------------------------------------------------------------------------------------------------


def verdicts(results: Sequence[Throughput], storms: Sequence[Aftermath]) -> list[bool]:
    """Every bar, and whether it holds."""
    held = [result.holds(bar) for result in results for bar in result.case.bars]
    return held + [storm.clean for storm in storms if storm.ours]


def rows(result: Throughput) -> list[tuple[str, ...]]:
    """The lines of one case."""
    lines: list[tuple[str, ...]] = []
    for name in result.case.contestants:
        failed = f", {result.errors[name]} errors" if result.errors[name] else ""
        case, cpu = "" if lines else result.case.name, median(result.cpu[name]) * 1e6
        start = (case, name + failed, f"{median(result.per_second[name]):,.0f}", f"{cpu:,.0f}")
        bars = [bar for bar in result.case.bars if bar.ours == name]
        for bar in bars:
            verdict = "pass" if result.holds(bar) else "MISS"
            lines.append((*start, bar.theirs, f"{result.ratio(bar):.2f}", f"≥ {bar.least:.2f}", verdict))
        if not bars:
            lines.append((*start, "", "", "", ""))
    return lines


def print_tables(results: Sequence[Throughput], storms: Sequence[Aftermath], console: Console) -> None:
    """Everything measured, and the count of the bars."""
    for title, headings, lines in _tables(results, storms):
        table = Table(title=title, title_justify="left")
        for heading in headings:
            table.add_column(heading)
        for line in lines:
            table.add_row(*line, style={"pass": "green", "MISS": "bold red"}.get(line[-1], ""))
        console.print(table)
    held = verdicts(results, storms)
    if held:
        console.print(f"{GROUP}: {sum(held)} of {len(held)} bars hold.")


def markdown(results: Sequence[Throughput], storms: Sequence[Aftermath]) -> str:
    """The section of RESULTS.md."""
    held = verdicts(results, storms)
    paragraph = " ".join((__doc__ or "").split())
    parts = ["## HTTP", f"{sum(held)} of {len(held)} bars hold. {paragraph}", f"Processors: {os.cpu_count()}."]
    for title, headings, lines in _tables(results, storms):
        table = [f"| {' | '.join(headings)} |", "|" + " --- |" * len(headings)]
        parts += [f"### {title.capitalize()}", "\n".join([*table, *(f"| {' | '.join(line)} |" for line in lines)])]
    return "\n\n".join(parts) + "\n"


def _tables(
    results: Sequence[Throughput], storms: Sequence[Aftermath]
) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
    if results:
        tables.append((f"{GROUP}: throughput", HEADINGS, [line for result in results for line in rows(result)]))
    if storms:
        tables.append((f"{GROUP}: after a storm", http_storm.HEADINGS, [storm.cells() for storm in storms]))
    return tables
