"""The service: a pure ASGI application that plays the script, run by uvicorn in a process of its own.

    GET /start       the script begins now
    GET /quote/17    the work, for user call number 17; as good or bad as the script has it
    GET /report      what the service has had to endure so far

A request waits for one of a fixed number of workers, first come, first served. As in most services, a worker does not
notice that the caller has hung up: what piled up in an outage is worked off after it, wanted or not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from .script import SCRIPTS, Script

Send = Callable[[dict[str, Any]], Awaitable[None]]

BACKLOG = 2048  # connections that may wait to be accepted


class Service:
    """The application. It counts its requests itself, so amplification is measured where it hurts."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._began = 0.0
        self._workers = asyncio.Semaphore(script.workers)
        self._overtime: list[float] = []  # by how many seconds each piece of work took longer than it should
        self._requests: Counter[str] = Counter()  # by the phase they arrived in
        self._seen: Counter[int] = Counter()  # requests by user call

    async def __call__(self, scope: dict[str, Any], _receive: object, send: Send) -> None:
        match scope["path"].split("/")[1:]:
            case ["quote", number]:
                status, body = await self._quote(int(number))
            case ["start"]:
                self._began = asyncio.get_running_loop().time()
                status, body = 200, {}
            case ["report"]:
                status, body = 200, {"requests": dict(self._requests), "overtime": self._overtime}
            case _:
                status, body = 404, {}
        await _respond(send, status, body)

    async def _quote(self, number: int) -> tuple[int, dict[str, Any]]:
        self._requests[self._script.at(self._now())[0].name] += 1
        self._seen[number] += 1
        # The fate of a request hangs on which attempt of which call it is, so that all callers meet the same luck.
        fate = random.Random(1000 * number + self._seen[number])
        async with self._workers:
            phase, left = self._script.at(self._now())
            while phase.down:
                await asyncio.sleep(left)
                phase, left = self._script.at(self._now())
            failing, slow = fate.random() < phase.error_rate, fate.random() < phase.spike_rate
            await self._work(fate.uniform(*(self._script.spike if slow else self._script.work)))
        return (500, {"error": "try again"}) if failing else (200, {"call": number, "price": 42})

    async def _work(self, seconds: float) -> None:
        due = self._now() + seconds
        await asyncio.sleep(seconds)
        self._overtime.append(self._now() - due)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._began


async def _respond(send: Send, status: int, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _end_with_parent() -> None:
    """Leave as soon as standard input closes, which it does when the parent says so and when the parent is gone."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve on a free port of the loopback interface and print its number."""
    parser = argparse.ArgumentParser()
    parser.add_argument("script", choices=SCRIPTS)
    script = SCRIPTS[parser.parse_args().script]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # asyncio sends without delay only over sockets that say they are TCP; else each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    config = uvicorn.Config(
        Service(script),
        backlog=BACKLOG,
        lifespan="off",
        ws="none",
        log_level="critical",
        access_log=False,
        timeout_keep_alive=120,
    )
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
