"""Draining: not ready, then refusing, then nothing left, within a limit."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from resilience_asgi import GracefulShutdown, ResilienceMiddleware
from resilience_asgi.protocol import Message, Receive, Scope, Send

from resilience import Bulkhead
from resilience.testing import ManualClock, run
from tests.sweep import Ending, sweep

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


def test_what_runs_is_finished_and_what_comes_is_refused(clock: ManualClock) -> None:
    shutdown = GracefulShutdown(slow(clock, 5.0), retry_after=3.0)

    async def main() -> None:
        running = Connection(shutdown)
        task = asyncio.ensure_future(running.serve())
        await clock.asleep(1.0)
        assert (shutdown.ready, shutdown.in_flight) == (True, 1)
        shutdown.begin()
        assert not shutdown.ready
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert repr(shutdown) == "<GracefulShutdown: refusing, 1 in flight>"
        late = Connection(shutdown)
        await late.serve()
        assert late.status == 503
        assert late.headers["connection"] == "close"
        assert late.headers["retry-after"] == "3"
        assert late.problem["status"] == 503
        await shutdown.drained()
        assert clock.now() == 1005.0
        await task
        assert running.body == b"done"

    run(main(), clock)


def test_requests_are_still_served_while_load_balancers_take_notice(clock: ManualClock) -> None:
    shutdown = GracefulShutdown(answering(), notice=10.0)

    async def main() -> list[int]:
        statuses = []
        for _ in range(4):
            connection = Connection(shutdown)
            await connection.serve()
            statuses.append(connection.status)
            if not shutdown.ready:
                assert repr(shutdown).startswith(("<GracefulShutdown: not ready", "<GracefulShutdown: refusing"))
            shutdown.begin()
            await clock.asleep(4.0)
        return statuses

    assert run(main(), clock) == [200, 200, 200, 503]


@pytest.mark.parametrize("version,close", [("1.0", True), ("1.1", True), ("2", False), ("2.0", False), ("3", False)])
def test_connection_close_is_for_the_versions_that_have_it(clock: ManualClock, version: str, close: bool) -> None:
    shutdown = GracefulShutdown(answering())

    async def main() -> Connection:
        await Connection(shutdown).serve()
        shutdown.begin()
        await shutdown.drained()
        connection = Connection(shutdown, http_version=version)
        await connection.serve()
        return connection

    assert ("connection" in run(main(), clock).headers) is close


def test_event_streams_and_websockets_are_ended_at_once(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if scope["path"] == "/accepted":
                await send({"type": "websocket.accept"})
        else:
            await send(EVENTS)
            await send(PART)
        await clock.asleep(600.0)

    shutdown = GracefulShutdown(app)
    stream = Connection(shutdown)
    accepted = Connection(shutdown, kind="websocket", path="/accepted")
    waiting = Connection(shutdown, kind="websocket")

    async def main() -> list[int]:
        tasks = [asyncio.ensure_future(connection.serve()) for connection in (stream, accepted, waiting)]
        await clock.asleep(1.0)
        shutdown.begin()
        await shutdown.drained()
        await asyncio.gather(*tasks)
        return [task.cancelling() for task in tasks]

    assert run(main(), clock) == [0, 0, 0]
    assert clock.now() == 1001.0
    assert stream.complete  # a clean end: the client connects again, elsewhere
    assert accepted.kinds == ["websocket.accept", "websocket.close"]
    assert accepted.sent[-1]["code"] == 1012
    assert waiting.kinds == ["websocket.close"]


def test_an_event_stream_that_begins_during_the_drain_is_ended_too(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(5.0)
        await send(EVENTS)
        await clock.asleep(600.0)

    shutdown = GracefulShutdown(app)

    async def main() -> Connection:
        connection = Connection(shutdown)
        task = asyncio.ensure_future(connection.serve())
        await clock.asleep(1.0)
        shutdown.begin()
        await shutdown.drained()
        await task
        return connection

    assert run(main(), clock).complete
    assert clock.now() == 1005.0


def test_what_runs_too_long_is_cut_off_at_the_limit(clock: ManualClock) -> None:
    """One that has not started is told so, one that streams is cut short, one in its background just ends."""
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["path"] == "/streaming":
                await send(START)
                await send(PART)
            elif scope["path"] == "/background":
                await respond(send)
            elif scope["path"] == "/file":
                await send(START)
                await send({"type": "http.response.pathsend", "path": "/x"})
            await clock.asleep(600.0)
        except asyncio.CancelledError:
            ended.append(scope["path"])
            if scope["path"] != "/swallowing":
                raise

    bulkhead = Bulkhead(10)
    shutdown = GracefulShutdown(ResilienceMiddleware(app, layers=[bulkhead]), drain_timeout=20.0)
    paths = ["/silent", "/streaming", "/background", "/file", "/swallowing"]
    connections = {path: Connection(shutdown, path=path) for path in paths}

    async def main() -> list[int]:
        tasks = [asyncio.ensure_future(connection.serve()) for connection in connections.values()]
        await clock.asleep(1.0)
        shutdown.begin()
        shutdown.begin()
        await shutdown.drained()
        await asyncio.gather(*tasks)
        return [task.cancelling() for task in tasks]

    assert run(main(), clock) == [0] * 5
    assert clock.now() == 1021.0
    assert sorted(ended) == sorted(paths)
    assert connections["/silent"].status == connections["/swallowing"].status == 503
    assert not connections["/streaming"].complete
    assert connections["/background"].complete
    assert bulkhead.statistics().in_use == 0


def test_an_application_that_will_not_end_holds_nobody_up(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            try:
                await clock.asleep(600.0)
            except asyncio.CancelledError:
                continue

    shutdown = GracefulShutdown(app, drain_timeout=5.0)

    async def main() -> None:
        task = asyncio.ensure_future(Connection(shutdown).serve())
        await clock.asleep(1.0)
        shutdown.begin()
        await shutdown.drained()
        assert clock.now() == 1007.0
        task.cancel()
        await asyncio.wait([task])

    run(main(), clock)


def test_an_error_of_the_application_stays_an_error(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await clock.asleep(scope["seconds"])
        except asyncio.CancelledError:
            pass
        raise ValueError("app")

    shutdown = GracefulShutdown(app, drain_timeout=5.0)

    async def main() -> None:
        tasks = [asyncio.ensure_future(Connection(shutdown, seconds=seconds).serve()) for seconds in (2.0, 600.0)]
        await clock.asleep(1.0)
        shutdown.begin()
        await shutdown.drained()
        assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == ["app", "app"]
        assert [task.cancelling() for task in tasks] == [0, 0]

    run(main(), clock)


@pytest.mark.parametrize("order", ["server first", "shutdown first"])
def test_a_cancellation_by_the_server_stays_one(clock: ManualClock, order: str) -> None:
    shutdown = GracefulShutdown(slow(clock, 600.0), drain_timeout=5.0)

    async def main() -> bool:
        connection = Connection(shutdown)
        task = asyncio.ensure_future(connection.serve())
        await clock.asleep(1.0)
        if order == "shutdown first":
            shutdown.begin()
            await clock.asleep(4.999)
            asyncio.get_running_loop().call_later(0.001, task.cancel)
        else:
            task.cancel()
        await asyncio.wait([task])
        assert connection.sent == []
        return task.cancelled()

    assert run(main(), clock)


def test_other_connections_pass_and_are_not_counted(clock: ManualClock) -> None:
    seen: list[Any] = []

    async def app(*arguments: Any) -> None:
        seen.append(arguments)
        assert shutdown.in_flight == 0

    shutdown = GracefulShutdown(app)
    for kind in ("lifespan", "other"):
        connection = Connection(shutdown, kind=kind)
        run(connection.serve(), clock)
        assert seen.pop() == (connection.scope, connection.receive, connection.send)


def test_an_idle_service_has_drained_at_once_and_says_so_in_any_loop(clock: ManualClock) -> None:
    shutdown = GracefulShutdown(answering())
    shutdown.begin()  # before any loop: the first one takes note

    async def main() -> int:
        await shutdown.drained()
        connection = Connection(shutdown)
        await connection.serve()
        return connection.status

    assert [run(main(), clock), run(main(), clock)] == [503, 503]
    shutdown.begin()  # its loop is closed by now


def test_a_request_leaves_no_reference_cycle(clock: ManualClock) -> None:
    import gc

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("app")

    shutdown = GracefulShutdown(app)

    async def main() -> int:
        async def once() -> None:
            with pytest.raises(ValueError):
                await Connection(shutdown).serve()

        await once()
        gc.collect()
        gc.disable()
        try:
            await asyncio.create_task(once())
            return gc.collect()
        finally:
            gc.enable()

    assert run(main(), clock) == 0


def test_a_request_cancelled_at_any_point_is_no_longer_in_flight() -> None:
    def scenario(clock: ManualClock) -> Any:
        shutdown = GracefulShutdown(slow(clock, 1.0), clock=clock)
        return Connection(shutdown).serve(), shutdown

    def check(ending: Ending[GracefulShutdown]) -> None:
        assert ending.state.in_flight == 0

    assert sweep(scenario, check) >= 4


# -- signals -----------------------------------------------------------------------------------------------------------


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
        self.task = asyncio.ensure_future(shutdown({"type": "lifespan"}, self.receive, self.send))

    async def receive(self) -> Message:
        await self.over.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None: ...


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
        assert told == []
        await clock.asleep(6.0)
        assert told == [signal.SIGUSR1]
        assert connection.body == b"done"
        os.kill(os.getpid(), signal.SIGUSR1)  # the second goes straight through
        await until(lambda: len(told) == 2)
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
