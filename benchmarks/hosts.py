"""Many different hosts through one resilient transport: its memory must stay that of `max_hosts` of them.

The hosts come one after the other, one request to each, and none comes back: what a crawler or an attacker does. Past
the bound each new host makes a breaker and a bulkhead, and another host's are forgotten. Memory is the growth of the
resident size from the moment the bound has been reached four times over to the end.

    python -m benchmarks.hosts 100000
"""

from __future__ import annotations

import argparse
import gc
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from .memory import resident
from .transport import null_transport

GROUP = "many hosts"
HEADINGS = ("what", "hosts", "kept", "new hosts/s", "growth past the bound, MB", "bar", "verdict")
LIBRARIES = ("httpx", "httpx2")
FULL, QUICK = 100_000, 8_000
MAX_HOSTS = 1024
SETTLED = 4 * MAX_HOSTS
"""Hosts after which nothing may grow any more."""
LIMIT_BYTES = 2e6
"""One byte in six of what 1024 hosts take, or 20 bytes for each host that was forgotten."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """What is left of `hosts` different hosts."""

    library: str
    hosts: int
    kept: int
    per_second: float
    growth: int | None
    """Bytes; `None` where the system does not tell."""

    @property
    def holds(self) -> bool:
        """Whether memory was bounded."""
        return self.kept <= MAX_HOSTS and (self.growth or 0) <= LIMIT_BYTES

    def cells(self) -> tuple[str, ...]:
        """The line as text, in the order of `HEADINGS`."""
        growth = "" if self.growth is None else f"{self.growth / 1e6:.1f}"
        bar = f"≤ {MAX_HOSTS:,} kept, ≤ {LIMIT_BYTES / 1e6:.0f} MB"
        speed, verdict = f"{self.per_second:,.0f}", "pass" if self.holds else "MISS"
        return (self.library, f"{self.hosts:,}", f"{self.kept:,}", speed, growth, bar, verdict)


def measure(only: str, hosts: int, progress: Callable[[str], object]) -> list[Crowd]:
    """Both libraries; nothing if `only` means something else."""
    crowds = []
    for name in LIBRARIES if only in GROUP else ():
        progress(f"{GROUP}: {name}, {hosts:,} hosts")
        crowds.append(crowd(name, hosts))
    return crowds


def crowd(name: str, hosts: int) -> Crowd:
    """One request to each of so many hosts, more than `SETTLED`."""
    library, package = importlib.import_module(name), importlib.import_module(f"resilience_{name}")
    transport = package.ResilientTransport(null_transport(library, body=False), max_hosts=MAX_HOSTS)
    request = library.Request("GET", "https://example.com/")

    def visit(first: int, last: int) -> float:
        """Seconds; the URLs are made beforehand."""
        seconds = 0.0
        for start in range(first, last, 1000):
            urls = [
                library.URL(f"https://host-{number}.example.com/") for number in range(start, min(start + 1000, last))
            ]
            began = time.perf_counter()
            for url in urls:
                request.url = url
                transport.handle_request(request)
            seconds += time.perf_counter() - began
        return seconds

    visit(0, SETTLED)
    gc.collect()
    before = resident()
    seconds = visit(SETTLED, hosts)
    gc.collect()
    after = resident()
    growth = None if before is None or after is None else after - before
    return Crowd(name, hosts, transport.statistics().keys, (hosts - SETTLED) / seconds, growth)


def print_table(crowds: Sequence[Crowd], console: Console) -> None:
    """Both libraries, and the count of the bars."""
    if not crowds:
        return
    table = Table(title=GROUP, title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading)
    for line in crowds:
        table.add_row(*line.cells(), style="green" if line.holds else "bold red")
    console.print(table, f"{GROUP}: {_score(crowds)}", sep="\n")


def markdown(crowds: Sequence[Crowd]) -> str:
    """The section of RESULTS.md."""
    paragraph = " ".join((__doc__ or "").split("\n\n    python")[0].split())
    table = [f"| {' | '.join(HEADINGS)} |", "|" + " --- |" * len(HEADINGS)]
    table += [f"| {' | '.join(line.cells())} |" for line in crowds]
    return "\n\n".join(["## Many hosts", f"{_score(crowds)} {paragraph}", "\n".join(table)]) + "\n"


def _score(crowds: Sequence[Crowd]) -> str:
    return f"{sum(line.holds for line in crowds)} of {len(crowds)} bars hold."


def main() -> None:
    parser = argparse.ArgumentParser(description="The memory of a resilient transport that has seen many hosts.")
    parser.add_argument("hosts", type=int, nargs="?", default=FULL)
    options = parser.parse_args()
    if options.hosts <= SETTLED:
        parser.error(f"hosts must be more than {SETTLED}, not {options.hosts}")
    console: Any = Console(width=120)
    print_table(measure("", options.hosts, console.print), console)


if __name__ == "__main__":
    main()
