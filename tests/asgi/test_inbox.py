"""Noticing that a client has gone, without taking anything away from the application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from resilience_asgi import ResilienceMiddleware
from resilience_asgi.inbox import Inbox
from resilience_asgi.protocol import ASGIApp, Message, Receive, Scope, Send

from resilience.testing import ManualClock, run

from .wire import Connection, raising, respond


def watching(app: ASGIApp, **facts: Any) -> Connection:
    return Connection(ResilienceMiddleware(app, watch_after=1.0), **facts)


async def read_body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            return body


@pytest.mark.parametrize("pause_before", [0.0, 5.0])
@pytest.mark.parametrize("pause_between", [0.0, 5.0])
@pytest.mark.parametrize("parts", [[b""], [b"one"], [b"one", b"two", b"three"]])
def test_the_application_gets_the_whole_body_in_order(
    clock: ManualClock, parts: list[bytes], pause_before: float, pause_between: float
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(pause_before)
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
            await clock.asleep(pause_between)
        await respond(send, body)

    connection = watching(app, body=parts)
    run(connection.serve(), clock)
    assert connection.body == b"".join(parts)


def test_one_part_of_a_body_is_read_ahead_and_no_more(clock: ManualClock) -> None:
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(4):
            await clock.asleep(5.0)
            seen.append(connection.received)
            await receive()
        await clock.asleep(5.0)
        seen.append(connection.received)
        await respond(send)

    connection = watching(app, body=[b"1", b"2", b"3", b"4"])
    run(connection.serve(), clock)
    assert seen == [1, 2, 3, 5, 5]  # with the last part, the body is no reason to wait any more


def test_a_request_that_expects_100_continue_is_not_invited_by_the_watcher(clock: ManualClock) -> None:
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(5.0)
        seen.append(connection.received)
        assert (await receive())["more_body"]
        await clock.asleep(5.0)
        seen.append(connection.received)
        await read_body(receive)
        await clock.asleep(5.0)
        seen.append(connection.received)
        connection.disconnect()
        await clock.asleep(60.0)
        raise AssertionError("it should have been cancelled")

    connection = watching(app, body=[b"a", b"b"], headers=[("expect", "100-continue")])
    run(connection.serve(), clock)
    assert seen == [0, 1, 3]


def test_an_application_that_waits_for_a_disconnect_gets_it_from_the_watcher(clock: ManualClock) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(5.0)  # by now the watcher is in receive()

        async def listen() -> None:
            while (message := await receive())["type"] != "http.disconnect":
                seen.append(message["type"])
            seen.append(message["type"])
            seen.append((await receive())["type"])  # asked again, servers say it again

        listening = [asyncio.ensure_future(listen()), asyncio.ensure_future(listen())]
        try:
            await clock.asleep(5.0)
            connection.disconnect()
            await clock.asleep(60.0)
        finally:
            _, pending = await asyncio.wait(listening, timeout=1.0)
            for task in pending:
                task.cancel()

    connection = watching(app)
    run(connection.serve(), clock)
    assert seen[0] == "http.request"
    assert seen.count("http.disconnect") >= 2


def test_an_application_that_is_in_receive_already_sees_the_disconnect_itself(clock: ManualClock) -> None:
    """As Starlette's streaming responses do: they end by themselves, and are not cancelled on top."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        seen.append((await receive())["type"])
        await clock.asleep(5.0)
        seen.append("ended by itself")

    connection = watching(app)

    async def main() -> None:
        asyncio.get_running_loop().call_later(5.0, connection.disconnect)
        await connection.serve()

    run(main(), clock)
    assert seen == ["http.disconnect", "ended by itself"]
    assert connection.received == 2  # nobody asked beside the application


def test_the_watch_begins_when_the_application_leaves_receive(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()  # slow: the watch is due meanwhile
        assert message["more_body"] is False
        await clock.asleep(60.0)
        raise AssertionError("it should have been cancelled")

    connection = Connection(ResilienceMiddleware(app, watch_after=1.0))
    original = connection.receive

    async def slow() -> Message:
        await clock.asleep(3.0 if not connection.received else 0.0)
        return await original()

    async def main() -> None:
        asyncio.get_running_loop().call_later(10.0, connection.disconnect)
        await connection.app(connection.scope, slow, connection.send)

    run(main(), clock)
    assert clock.now() == pytest.approx(1010.0, abs=0.1)


def test_the_watch_begins_when_the_application_asks_no_longer(clock: ManualClock) -> None:
    """It asked with a time limit when the watch was due, and then went to work."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        asking = asyncio.ensure_future(receive())
        await clock.asleep(3.0)
        asking.cancel()
        await clock.asleep(60.0)
        raise AssertionError("it should have been cancelled")

    connection = Connection(ResilienceMiddleware(app, watch_after=1.0))

    async def main() -> None:
        asyncio.get_running_loop().call_later(10.0, connection.disconnect)
        await connection.serve()

    run(main(), clock)
    assert connection.status == 499
    assert clock.now() == pytest.approx(1010.0, abs=0.1)


def test_the_watch_goes_on_after_a_part_that_the_application_was_waiting_for(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(2.0)
        assert (await receive())["more_body"]
        await clock.asleep(60.0)
        raise AssertionError("it should have been cancelled")

    connection = watching(app)

    async def main() -> None:
        messages: asyncio.Queue[Message] = asyncio.Queue()
        later = asyncio.get_running_loop().call_later
        later(5.0, messages.put_nowait, {"type": "http.request", "body": b"part", "more_body": True})
        later(10.0, messages.put_nowait, {"type": "http.disconnect"})
        await connection.app(connection.scope, messages.get, connection.send)

    run(main(), clock)
    assert clock.now() == pytest.approx(1010.0, abs=0.1)


def test_a_watcher_that_is_stopped_before_it_began_is_not_waited_for() -> None:
    async def main() -> None:
        async def message() -> Message:
            return {"type": "http.disconnect"}

        inbox = Inbox(message, reserved=False)
        inbox.fire(lambda: None)
        waiting = asyncio.ensure_future(inbox.receive())
        inbox.stop()
        assert await waiting == {"type": "http.disconnect"}

    asyncio.run(asyncio.wait_for(main(), 10.0))


def test_a_cancelled_receive_loses_nothing(clock: ManualClock) -> None:
    """Starlette's `is_disconnected()` asks and takes the question back at once."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for pause in (0.0, 5.0):
            await clock.asleep(pause)
            asking = asyncio.ensure_future(receive())
            if pause:
                await asking  # what the watcher has got
            else:
                asking.cancel()
                await asyncio.wait([asking])
        asking = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        connection.disconnect()
        assert (await receive())["type"] == "http.disconnect"

    connection = watching(app)
    run(connection.serve(), clock)


def test_a_server_whose_receive_fails_tells_the_application_not_the_watcher(clock: ManualClock) -> None:
    async def failing() -> Message:
        raise OSError("socket")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(5.0)
        with pytest.raises(OSError, match="socket"):
            await receive()
        await respond(send)

    connection = watching(app)
    connection.receive = failing  # type: ignore[method-assign]
    run(connection.serve(), clock)
    assert connection.status == 200


def test_nothing_watches_any_more_once_the_response_is_complete(clock: ManualClock) -> None:
    done: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(5.0)
        assert connection.receiving == 1
        await respond(send)
        await asyncio.sleep(0)
        assert connection.receiving == 0
        assert (await receive())["type"] == "http.request"  # it had been read already
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        connection.disconnect()
        assert (await waiting)["type"] == "http.disconnect"
        await clock.asleep(60.0)
        done.append("background")

    connection = watching(app)
    run(connection.serve(), clock)
    assert connection.complete
    assert done == ["background"]


def test_who_waits_for_the_watcher_gets_its_message_when_it_comes(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(3.0)  # the watcher is in receive() since 1001
        body = await read_body(receive)
        assert clock.now() < 1006.0
        await respond(send, body)

    connection = watching(app, body=[b"slow"])
    original = connection.receive

    async def slow() -> Message:
        if not connection.received:
            await clock.asleep(4.0)
        return await original()

    connection.receive = slow  # type: ignore[method-assign]
    run(connection.serve(), clock)
    assert connection.body == b"slow"


def test_who_waits_for_the_watcher_asks_itself_when_that_is_stopped(clock: ManualClock) -> None:
    async def main() -> list[str]:
        connection = Connection(raising(AssertionError()))  # only its receive() is wanted
        inbox = Inbox(connection.receive, reserved=False)
        inbox.fire(lambda: None)
        inbox.fire(lambda: None)
        await asyncio.sleep(0)
        assert (await inbox.receive())["type"] == "http.request"
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(inbox.receive())
        await asyncio.sleep(0)
        inbox.stop()
        connection.disconnect()
        return [(await waiting)["type"]]

    assert run(main(), clock) == ["http.disconnect"]


def test_watching_at_once_is_possible(clock: ManualClock) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection.disconnect()
        await clock.asleep(60.0)
        raise AssertionError("it should have been cancelled")

    connection = Connection(ResilienceMiddleware(app, watch_after=0.0))
    run(connection.serve(), clock)
    assert clock.now() < 1000.1
