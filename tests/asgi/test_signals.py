"""A signal drains the service before it reaches the server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from resilience_asgi import GracefulShutdown
from resilience_asgi.protocol import Message, Receive, Scope, Send

from resilience.testing import ManualClock, run

from .wire import Connection, answering, respond

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
EVENTS: Message = {**START, "headers": [(b"Content-Type", b"text/event-stream; charset=utf-8")]}
PART: Message = {"type": "http.response.body", "body": b"data: x\n\n", "more_body": True}
END: Message = {"type": "http.response.body", "body": b""}


def slow(clock: ManualClock, seconds: float) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(seconds)
        await respond(send, b"done")

    return app


async def until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
    else:
        await receive()
        await respond(send)


class Serving:
    """The lifespan of an application under a shutdown that listens to SIGUSR1."""

    def __init__(self, shutdown: GracefulShutdown) -> None:
        self.over = asyncio.Event()
        self.sent: list[Message] = []
        self.task = asyncio.ensure_future(shutdown({"type": "lifespan"}, self.receive, self.send))

    async def receive(self) -> Message:
        await self.over.wait()
        self.over.clear()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def test_a_signal_drains_first_and_then_reaches_the_server(clock: ManualClock) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))
    shutdown = GracefulShutdown(slow(clock, 5.0), signals=[signal.SIGUSR1])
    shutdown.app = _with_lifespan(shutdown.app)

    async def main() -> None:
        serving = Serving(shutdown)
        await asyncio.sleep(0)
        connection = Connection(shutdown)
        task = asyncio.ensure_future(connection.serve())
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: not shutdown.ready)
        for _ in range(10):
            await asyncio.sleep(0)
        assert told == []
        await clock.asleep(6.0)
        assert told == [signal.SIGUSR1]
        assert connection.body == b"done"
        os.kill(os.getpid(), signal.SIGUSR1)  # the second goes straight through
        assert len(told) == 2
        serving.over.set()
        await serving.task
        await task

    try:
        run(main(), clock)
        assert signal.getsignal(signal.SIGUSR1) is not before
        os.kill(os.getpid(), signal.SIGUSR1)
        assert len(told) == 3  # the server's handler is back
    finally:
        signal.signal(signal.SIGUSR1, before)


def _with_lifespan(app: Any) -> Any:
    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        await (lifespan if scope["type"] == "lifespan" else app)(scope, receive, send)

    return both


@pytest.mark.parametrize("error", [None, ValueError("only http")])
def test_an_application_without_a_lifespan_is_drained_as_well(clock: ManualClock, error: Exception | None) -> None:
    """Django is one. The handlers must not go with its refusal, long before anybody sends a signal."""
    told: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: told.append(number))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if error is not None:
            raise error

    async def main() -> None:
        shutdown = GracefulShutdown(app, signals=[signal.SIGUSR1])
        serving = Serving(shutdown)
        serving.over.set()  # the startup
        await until(lambda: serving.sent)
        assert serving.sent == [{"type": "lifespan.startup.complete"}]
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: told)
        assert not shutdown.ready
        serving.over.set()
        await serving.task
        assert serving.sent[1:] == [{"type": "lifespan.shutdown.complete"}]

    try:
        run(main(), clock)
        assert told == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("signals,waits", [([], False), ([signal.SIGUSR1], True)])
def test_a_startup_that_fails_is_told_to_the_server(clock: ManualClock, signals: Any, waits: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if waits:
            await receive()
        raise ValueError("no database")

    async def main() -> None:
        serving = Serving(GracefulShutdown(app, signals=signals))
        serving.over.set()
        with pytest.raises(ValueError, match="no database"):
            await serving.task
        assert serving.sent == []

    run(main(), clock)


def test_a_server_that_ignores_the_signal_goes_on_ignoring_it(clock: ManualClock) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    async def main() -> None:
        shutdown = GracefulShutdown(_with_lifespan(answering()), signals=[signal.SIGUSR1])
        serving = Serving(shutdown)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        await until(lambda: not shutdown.ready)
        await shutdown.drained()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        serving.over.set()
        await serving.task

    try:
        run(main(), clock)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_without_a_handler_does_what_it_does_by_default(clock: ManualClock) -> None:
    """For SIGCHLD that is nothing, so this process survives it."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    async def main() -> None:
        shutdown = GracefulShutdown(_with_lifespan(answering()), signals=[signal.SIGCHLD])
        serving = Serving(shutdown)
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGCHLD)
        await until(lambda: not shutdown.ready)
        await shutdown.drained()
        await until(lambda: signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL)
        serving.over.set()
        await serving.task

    try:
        run(main(), clock)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_server_in_another_thread_keeps_its_signals(clock: ManualClock) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    results: list[Any] = []

    async def main() -> None:
        serving = Serving(GracefulShutdown(_with_lifespan(answering()), signals=[signal.SIGUSR1]))
        await asyncio.sleep(0)
        results.append(signal.getsignal(signal.SIGUSR1))
        serving.over.set()
        await serving.task

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join()
    assert results == [before]
