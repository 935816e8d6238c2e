"""The command line: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from . import asgi, asgi_server, failure, hosts, http, memory, redis, rejection, report, stacks, success, transport
from .figures import Figure
from .http_storm import Aftermath
from .measure import Effort, Measured, measure
from .memory import Footprint

RESULTS = Path(__file__).with_name("RESULTS.md")
ROWS = (*success.ROWS, *stacks.ROWS, *rejection.ROWS, *failure.ROWS, *transport.ROWS, *asgi.ROWS)
FULL = Effort(passes=5, rounds=20, slice_seconds=0.002)
QUICK = Effort(passes=1, rounds=5, slice_seconds=0.0005)
WIDTH = 120
FULL_KEYS, QUICK_KEYS = 1_000_000, 20_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours against what one would pick.")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few seconds; writes nothing")
    parser.add_argument("--only", metavar="SUBSTR", default="", help="rows whose group or name contains it; no file")
    parser.add_argument("--no-write", action="store_true", help="print the tables only")
    options = parser.parse_args()
    effort, keys = (QUICK, QUICK_KEYS) if options.quick else (FULL, FULL_KEYS)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    results = _measured(options.only.lower(), effort, console)
    footprints = _footprints(options.only.lower(), keys, console)
    if results or footprints:
        report.print_tables(results, footprints, console)
    with console.status("") as status:
        crowds = hosts.measure(options.only.lower(), hosts.QUICK if options.quick else hosts.FULL, status.update)
    hosts.print_table(crowds, console)
    with console.status("") as status:
        load = asgi_server.QUICK if options.quick else asgi_server.FULL
        loaded = asgi_server.measure(options.only.lower(), load, status.update)
    asgi_server.print_tables(loaded, console)
    throughputs, storms = _http(options.only.lower(), http.QUICK if options.quick else http.FULL, console)
    http.print_tables(throughputs, storms, console)
    shared = _redis(options.only.lower(), redis.QUICK if options.quick else redis.FULL, console)
    redis.print_tables(shared, console)
    # RESULTS.md is always one whole and careful run, never a patchwork.
    if not (options.quick or options.only or options.no_write):
        today = datetime.now(UTC).date()
        parts = (
            report.markdown(results, footprints, effort, today),
            hosts.markdown(crowds),
            asgi_server.markdown(loaded),
            http.markdown(throughputs, storms),
            redis.markdown(shared),
        )
        RESULTS.write_text("\n".join(parts), encoding="utf-8")
        console.print(f"wrote {RESULTS.name}")


def _measured(only: str, effort: Effort, console: Console) -> list[Measured]:
    wanted = [row for row in ROWS if only in row.group.lower() or only in row.name.lower()]
    with console.status("") as status:
        results = measure(wanted, effort, status.update)
    # By group, then by colour, so that a table reads top down in one colour.
    groups = list(dict.fromkeys(row.group for row in wanted))
    return sorted(results, key=lambda measured: (groups.index(measured.row.group), measured.colour))


def _footprints(only: str, keys: int, console: Console) -> list[Footprint]:
    if only not in memory.GROUP:
        return []
    with console.status("") as status:
        footprints = []
        for name in memory.CONTESTANTS:
            status.update(f"{memory.GROUP}: {name}, {keys:,} keys")
            footprints.append(memory.footprint(name, keys))
        return footprints


def _http(only: str, effort: http.Effort, console: Console) -> tuple[list[http.Throughput], list[Aftermath]]:
    with console.status("") as status:
        return http.measure(only, effort, status.update)


def _redis(only: str, effort: redis.Effort, console: Console) -> list[Figure] | None:
    with console.status("") as status:
        return redis.measure(only, effort, status.update)


if __name__ == "__main__":
    main()
