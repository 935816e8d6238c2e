"""Draining: not ready, then refusing, then nothing left, within a limit."""

from __future__ import annotations

import asyncio
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
            await clock.asleep(600.0)
        except asyncio.CancelledError:
            ended.append(scope["path"])
            if scope["path"] != "/swallowing":
                raise

    bulkhead = Bulkhead(10)
    shutdown = GracefulShutdown(ResilienceMiddleware(app, layers=[bulkhead]), drain_timeout=20.0)
    paths = ["/silent", "/streaming", "/background", "/swallowing"]
    connections = {path: Connection(shutdown, path=path) for path in paths}

    async def main() -> list[int]:
        tasks = [asyncio.ensure_future(connection.serve()) for connection in connections.values()]
        await clock.asleep(1.0)
        shutdown.begin()
        shutdown.begin()
        await shutdown.drained()
        await asyncio.gather(*tasks)
        return [task.cancelling() for task in tasks]

    assert run(main(), clock) == [0] * 4
    assert clock.now() == 1021.0
    assert sorted(ended) == sorted(paths)
    assert connections["/silent"].status == connections["/swallowing"].status == 503
    assert not connections["/streaming"].complete
    assert connections["/background"].complete
    assert bulkhead.statistics().in_use == 0


def test_the_last_to_end_is_waited_for(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(scope["seconds"])
        await respond(send)

    shutdown = GracefulShutdown(app)

    async def main() -> None:
        tasks = [asyncio.ensure_future(Connection(shutdown, seconds=seconds).serve()) for seconds in (2.0, 6.0, 4.0)]
        await clock.asleep(1.0)
        shutdown.begin()
        await shutdown.drained()
        assert clock.now() == 1006.0
        await asyncio.gather(*tasks)

    run(main(), clock)


def test_a_websocket_that_was_closed_is_not_closed_again(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        await clock.asleep(600.0)

    shutdown = GracefulShutdown(app, drain_timeout=5.0)
    connection = Connection(shutdown, kind="websocket")

    async def main() -> None:
        task = asyncio.ensure_future(connection.serve())
        await clock.asleep(1.0)
        shutdown.begin()
        await shutdown.drained()
        await task

    run(main(), clock)
    assert connection.kinds == ["websocket.accept", "websocket.close"]
    assert clock.now() == 1006.0  # what it still did was none of the endless things


def test_clean_up_of_an_ended_stream_is_not_cancelled_again(clock: ManualClock) -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(EVENTS)
        try:
            await clock.asleep(600.0)
        finally:
            await clock.asleep(2.5)
            done.append("clean")

    shutdown = GracefulShutdown(app, drain_timeout=2.0)
    connection = Connection(shutdown)

    async def main() -> int:
        task = asyncio.ensure_future(connection.serve())
        await clock.asleep(1.0)
        shutdown.begin()
        await shutdown.drained()
        await task
        return task.cancelling()

    assert run(main(), clock) == 0
    assert done == ["clean"]
    assert connection.complete


def test_beginning_twice_drains_once(clock: ManualClock) -> None:
    shutdown = GracefulShutdown(answering(), notice=5.0)

    async def main() -> int:
        await Connection(shutdown).serve()
        for _ in range(3):
            shutdown.begin()
            await asyncio.sleep(0)
        tasks = len(asyncio.all_tasks())
        await shutdown.drained()
        return tasks

    assert run(main(), clock) == 2  # this one, and the one that drains


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
            task = asyncio.create_task(Connection(shutdown).serve())
            await asyncio.wait([task])
            assert isinstance(task.exception(), ValueError)

        await once()
        gc.collect()
        gc.disable()
        try:
            await once()
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
