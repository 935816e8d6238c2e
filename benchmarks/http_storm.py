"""What is left of a connection pool after thousands of requests were cut off at random moments.

    python -m benchmarks.http_storm "httpx + PooledTransport" async 5000 [--tls]

Each contestant runs in a process of its own, with the collector switched off, because what only the collector frees is
a leak. Tasks are cancelled once, twice, by `wait_for` and by scopes of anyio, from the wait for a connection to the
last part of the body; threads have timeouts for each phase, and leave bodies half read. Afterwards as many requests as
the pool has connections must run at once, and after closing the client no socket may be left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import resilience_httpx
import resilience_httpx2

from .http_server import serving, trusting

POOL = 20
THREADS = 32
AFTERWARDS_MS = 500
HEADINGS = ("contestant", "callers", "", "answered", "cut off", "crossed", "at once after", "sockets left", "verdict")
OURS = {"httpx + PooledTransport": (httpx, resilience_httpx), "httpx2 + PooledTransport": (httpx2, resilience_httpx2)}
THEIRS = {"httpx": httpx, "httpx2": httpx2}
STORMS = [
    (name, colour, secure) for colour in ("async", "sync") for secure in (False, True) for name in (*OURS, *THEIRS)
]


@dataclass(slots=True)
class Aftermath:
    """One contestant after its storm."""

    name: str
    colour: str
    secure: bool
    answered: int = 0
    cut_off: int = 0
    crossed: int = 0
    at_once: int = 0
    sockets: int = 0
    trouble: str = ""

    @property
    def ours(self) -> bool:
        return self.name in OURS

    @property
    def clean(self) -> bool:
        return (self.crossed, self.at_once, self.sockets, self.trouble) == (0, POOL, 0, "")

    def cells(self) -> tuple[str, ...]:
        """The line as text, in the order of `HEADINGS`."""
        verdict = ("pass" if self.clean else "MISS") if self.ours else ("" if self.clean else "broken")
        counts = (self.answered, self.cut_off, self.crossed, self.at_once, self.sockets)
        trouble = f" ({self.trouble})" if self.trouble else ""
        callers = "tasks" if self.colour == "async" else "threads"
        return (self.name + trouble, callers, "TLS" if self.secure else "plain", *map(str, counts), verdict)


def in_child(name: str, colour: str, secure: bool, requests: int) -> Aftermath:
    """Run one storm in a child process."""
    command = [sys.executable, "-m", "benchmarks.http_storm", name, colour, str(requests), *(["--tls"] * secure)]
    root = Path(__file__).resolve().parent.parent
    child = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900, check=False)
    if child.returncode:
        return Aftermath(name, colour, secure, trouble=f"exit code {child.returncode}")
    return Aftermath(**json.loads(child.stdout.splitlines()[-1]))


def client_of(name: str, colour: str, context: ssl.SSLContext) -> Any:
    """A client of the contestant with a pool of 20."""
    library, bound = OURS.get(name, (THEIRS.get(name), None))
    kind = getattr(library, "AsyncClient" if colour == "async" else "Client")
    if bound is not None:
        return kind(transport=bound.PooledTransport(max_connections=POOL, verify=context))
    limits: Any = getattr(library, "Limits")(max_connections=POOL)  # noqa: B009 - the module is not known to mypy
    return kind(limits=limits, verify=context)


# -- tasks -------------------------------------------------------------------------------------------------------------


async def _cut(call: Callable[[], Any], seconds: float, rng: random.Random) -> Any:
    """Run the call, but cut it off after some time, in one of four ways."""
    loop = asyncio.get_running_loop()
    way = rng.randrange(4)
    if way == 0:
        return await asyncio.wait_for(call(), seconds)
    if way == 1:
        with anyio.fail_after(seconds):
            return await call()
    task = asyncio.ensure_future(call())
    loop.call_later(seconds, task.cancel)
    if way == 2:
        loop.call_later(seconds + rng.choice((0.0, 0.0001, 0.001)), task.cancel)
    return await task


async def tasks(aftermath: Aftermath, url: str, context: ssl.SSLContext, requests: int) -> None:
    """The storm of tasks."""
    rng = random.Random(1)
    client = client_of(aftermath.name, "async", context)

    async def one(number: int) -> None:
        path = f"/request-{number}"
        seconds = rng.choice((0.001, 0.01, 0.05, 0.3, 2.0)) * rng.random()

        async def call() -> Any:
            return await client.get(f"{url}{path}?ms={rng.choice((0, 1, 5))}&parts={rng.choice((1, 3))}", timeout=20)

        try:
            response = await _cut(call, seconds, rng)
        except (asyncio.CancelledError, TimeoutError):
            aftermath.cut_off += 1
        except Exception as error:
            aftermath.trouble = aftermath.trouble or type(error).__name__
        else:
            aftermath.answered += 1
            aftermath.crossed += response.text != path

    limit = asyncio.Semaphore(4 * POOL)

    async def turn(number: int) -> None:
        async with limit:
            await one(number)

    await asyncio.gather(*(turn(number) for number in range(requests)))
    await asyncio.sleep(0.2)
    began = time.perf_counter()
    calls = [client.get(f"{url}/after?ms={AFTERWARDS_MS}", timeout=10) for _ in range(POOL)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    _judge(aftermath, outcomes, time.perf_counter() - began)
    await client.aclose()
    await asyncio.sleep(0.2)
    aftermath.sockets = sockets()


# -- threads -----------------------------------------------------------------------------------------------------------


def threads(aftermath: Aftermath, url: str, context: ssl.SSLContext, requests: int) -> None:
    """The storm of threads."""
    client, lock = client_of(aftermath.name, "sync", context), threading.Lock()

    def work(worker: int) -> None:
        rng = random.Random(worker)
        for number in range(worker, requests, THREADS):
            path = f"/request-{number}"
            times = {phase: rng.choice((20.0, 20.0, 0.002)) for phase in ("connect", "read", "write", "pool")}
            timeout = (times["connect"], times["read"], times["write"], times["pool"])
            query = f"?ms={rng.choice((0, 1, 5))}&parts={rng.choice((1, 3))}"
            try:
                with client.stream("GET", f"{url}{path}{query}", timeout=timeout) as response:
                    text = None if rng.random() < 0.2 else response.read().decode()
            except (httpx.TimeoutException, httpx2.TimeoutException):
                with lock:
                    aftermath.cut_off += 1
            except Exception as error:
                aftermath.trouble = aftermath.trouble or type(error).__name__
            else:
                with lock:
                    aftermath.answered += 1
                    aftermath.crossed += text not in (None, path)

    _in_threads([partial(work, worker) for worker in range(THREADS)])
    outcomes: list[Any] = []

    def after() -> None:
        try:
            outcomes.append(client.get(f"{url}/after?ms={AFTERWARDS_MS}", timeout=10))
        except Exception as error:
            outcomes.append(error)

    began = time.perf_counter()
    _in_threads([after] * POOL)
    _judge(aftermath, outcomes, time.perf_counter() - began)
    client.close()
    aftermath.sockets = sockets()


def _in_threads(calls: list[Callable[[], None]]) -> None:
    started = [threading.Thread(target=call) for call in calls]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def _judge(aftermath: Aftermath, outcomes: list[Any], seconds: float) -> None:
    """How many requests ran at once afterwards: those that were answered, and none had to wait for another."""
    answered = sum(getattr(outcome, "status_code", 0) == 200 for outcome in outcomes)
    rounds = max(1, int(seconds / (AFTERWARDS_MS / 1000.0)))
    aftermath.at_once = -(-answered // rounds)


def sockets() -> int:
    """The network sockets that this process has open."""
    count = 0
    inodes = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]
    }
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        # A closed one that the other side has reset is in no table any more, but it is still a descriptor.
        count += target.startswith("socket:") and (target[8:-1] in inodes or descriptor not in _BEFORE)
    return count


_BEFORE: set[str] = set()


def main() -> None:
    parser = argparse.ArgumentParser(description="One contestant's storm, as JSON.")
    parser.add_argument("name", choices=[*OURS, *THEIRS])
    parser.add_argument("colour", choices=["async", "sync"])
    parser.add_argument("requests", type=int)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    aftermath = Aftermath(options.name, options.colour, options.tls)
    with tempfile.TemporaryDirectory() as folder:
        certificates = Path(folder) if options.tls else None
        with serving(certificates) as url:
            context = ssl.create_default_context() if certificates is None else trusting(certificates)
            gc.collect()
            gc.disable()
            if options.colour == "async":
                with asyncio.Runner() as runner:
                    runner.get_loop()
                    _BEFORE.update(os.listdir("/proc/self/fd"))
                    runner.run(tasks(aftermath, url, context, options.requests))
            else:
                _BEFORE.update(os.listdir("/proc/self/fd"))
                threads(aftermath, url, context, options.requests)
            gc.enable()
    print(json.dumps(asdict(aftermath)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
