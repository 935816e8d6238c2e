"""What a keyed limiter takes per live key, and how many decisions a second it makes over all of them.

Each contestant runs in a process of its own. Ours, which has a bar to meet, runs in a second one as well, because
`tracemalloc` is exact but makes everything four to six times slower:

    python -m benchmarks.memory resilience 1000000            resident memory and speed
    python -m benchmarks.memory resilience 1000000 --trace    bytes by tracemalloc

The keys exist before the measurement starts, so only what the limiter adds is counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import nopanic
from limits import RateLimitItemPerDay
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from resilience import RateLimiter

from .measure import OURS

GROUP = "memory"
LIMIT_BYTES = 150.0
BURST, DAY = 10, 86_400.0
"""Slow enough that every key stays live: a token takes more than two hours to come back."""

Decide = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Footprint:
    """One contestant with `keys` live keys."""

    name: str
    keys: int
    traced_bytes: float | None
    """Per key, by `tracemalloc`; `None` for peers."""
    resident_bytes: float | None
    """Per key, as the growth of the process; `None` where the system does not tell."""
    first_per_second: float
    """Decisions for keys not seen before."""
    live_per_second: float
    """Decisions for live keys."""


@dataclass(frozen=True, slots=True)
class _Run:
    bytes_per_key: float | None
    first_per_second: float
    live_per_second: float


def resilience(keys: int) -> Decide:
    def call(key: str) -> None:
        return None

    return RateLimiter(BURST, DAY, key=lambda key: key, max_keys=2 * keys)(call)


def nopanic_keyed(keys: int) -> Decide:
    def call(key: str) -> None:
        return None

    limiter = nopanic.keyed(lambda _: nopanic.rate_limit(BURST, DAY, max_wait=0), key=lambda key: key, maxsize=2 * keys)
    guarded: Decide = limiter(call)
    return guarded


def limits_fixed_window(keys: int) -> Decide:
    hit, item = FixedWindowRateLimiter(MemoryStorage()).hit, RateLimitItemPerDay(BURST)
    return lambda key: hit(item, key)


CONTESTANTS: dict[str, Callable[[int], Decide]] = {
    OURS: resilience,
    "nopanic": nopanic_keyed,
    "limits": limits_fixed_window,
}


def footprint(name: str, keys: int) -> Footprint:
    """Measure one contestant in child processes."""
    plain = _in_child(name, keys)
    traced = _in_child(name, keys, "--trace").bytes_per_key if name == OURS else None
    return Footprint(name, keys, traced, plain.bytes_per_key, plain.first_per_second, plain.live_per_second)


def _in_child(name: str, keys: int, *options: str) -> _Run:
    command = [sys.executable, "-m", "benchmarks.memory", name, str(keys), *options]
    root = Path(__file__).resolve().parent.parent
    answer = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout
    return _Run(**json.loads(answer))


def _run(name: str, count: int, trace: bool) -> _Run:
    keys = [f"customer-{number}" for number in range(count)]
    decide = CONTESTANTS[name](count)
    gc.collect()
    if trace:
        tracemalloc.start()
    before = _used(trace)
    speeds = [_pass(decide, keys) for _ in range(1 if trace else 2)]
    gc.collect()
    after = _used(trace)
    _check_live(decide, keys, BURST - len(speeds))
    per_key = (after - before) / count if before is not None and after is not None else None
    return _Run(per_key, speeds[0], speeds[-1])


def _check_live(decide: Decide, keys: list[str], left: int) -> None:
    """The oldest and the newest key have this many tokens left: no key was evicted or shares its bucket."""

    def admits(key: str) -> bool:
        try:
            return decide(key) is not False
        except Exception:
            return False

    for key in (keys[0], keys[-1]):
        admitted = [admits(key) for _ in range(BURST)].count(True)
        if admitted != left:
            raise RuntimeError(f"{key} had {admitted} tokens left instead of {left}")


def _used(trace: bool) -> int | None:
    return tracemalloc.get_traced_memory()[0] if trace else resident()


def resident() -> int | None:
    """The resident size of this process in bytes; `None` where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _pass(decide: Decide, keys: list[str]) -> float:
    start = time.perf_counter()
    for key in keys:
        decide(key)
    return len(keys) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description="One contestant's memory and speed, as JSON.")
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("keys", type=int)
    parser.add_argument("--trace", action="store_true", help="count bytes with tracemalloc")
    options = parser.parse_args()
    print(json.dumps(asdict(_run(options.name, options.keys, options.trace))), flush=True)
    os._exit(0)  # tearing a million objects down, and waiting for a peer's timer thread, tells nothing


if __name__ == "__main__":
    main()
