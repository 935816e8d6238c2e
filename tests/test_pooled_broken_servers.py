"""Servers that break the rules: an exception of the right class in time, the connection gone, the place free again."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
from resilience_http._exchange import surplus

from resilience import Timeout
from resilience.clock import SYSTEM

from .http_servers import Http, Peer, ScriptedServer, in_use

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"
ENDS, STAYS = True, False
BROKEN: dict[str, tuple[bytes, bool, tuple[str, ...]]] = {
    "says nothing and closes": (b"", ENDS, ("RemoteProtocolError",)),
    "closes within the headers": (HEAD, ENDS, ("RemoteProtocolError", "ReadError")),
    "closes within the status line": (b"HTTP/1.1 2", ENDS, ("RemoteProtocolError", "ReadError")),
    "closes within the body": (HEAD + b"\r\nabc", ENDS, ("RemoteProtocolError", "ReadError")),
    "closes within a chunk": (CHUNKED + b"5\r\nab", ENDS, ("RemoteProtocolError", "ReadError")),
    "sends a garbage status line": (b"\x00\x01\x02 what?\r\n\r\n", STAYS, ("RemoteProtocolError",)),
    "sends a header that is none": (b"HTTP/1.1 200 OK\r\n: x\r\n\r\n", STAYS, ("RemoteProtocolError",)),
    "sends a chunk length that is none": (CHUNKED + b"zz\r\nabc", STAYS, ("RemoteProtocolError",)),
    "sends two lengths": (HEAD + b"Content-Length: 11\r\n\r\nabc", STAYS, ("RemoteProtocolError",)),
    "sends headers without end": (HEAD + b"X: " + b"x" * 200_000, STAYS, ("RemoteProtocolError", "ReadTimeout")),
    "never answers": (b"", STAYS, ("ReadTimeout",)),
    "stops within the headers": (HEAD, STAYS, ("ReadTimeout",)),
    "stops within the body": (HEAD + b"\r\nabc", STAYS, ("ReadTimeout",)),
}


def says(data: bytes, ends: bool) -> Any:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        if not ends:
            await peer.reader.read(-1)

    return handler


@pytest.mark.parametrize("how", BROKEN)
def test_a_server_that(how: str, http: Http) -> None:
    data, ends, expected = BROKEN[how]
    with ScriptedServer(says(data, ends)) as server:
        client = http.client(max_connections=1)
        for _ in range(2):
            with pytest.raises(tuple(getattr(http.client_module, name) for name in expected)) as caught:
                http.get(client, server.url, timeout=http.client_module.Timeout(20, read=0.1))
            assert caught.value.request.url == server.url
            assert in_use(client) == (0, 0, 0)
            server.settle()


def test_a_response_longer_than_it_says_is_cut_and_its_connection_not_used_again(http: Http) -> None:
    with ScriptedServer(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + SECOND, STAYS)) as server:
        client = http.client()
        for _ in range(3):
            assert http.get(client, server.url).text == "ok", "what came too much is not the next answer"
            assert in_use(client) == (0, 0, 0)
            server.settle()


def test_what_comes_late_after_a_response_is_not_the_next_answer(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await late.wait()
        await peer.send(SECOND)
        sent.set()
        await peer.reader.read(-1)

    late, sent = asyncio.Event(), threading.Event()
    with ScriptedServer(handler) as server:
        client = http.client()
        assert http.get(client, server.url).text == "ok"
        server._loop.call_soon_threadsafe(late.set)
        assert sent.wait(20)
        assert http.get(client, server.url).text == "ok"
        assert server.accepted == 2


def test_the_one_private_name_of_the_core_library_is_still_there(http: Http, server: ScriptedServer) -> None:
    """If this fails after an upgrade, nothing notices any more that a server sent more than it said."""
    client = http.client()
    response = http.open(client, server.url)
    connection = response.stream._stream._place.connection
    http.read(response)
    assert connection._h11_state.trailing_data == (b"", False)
    assert surplus(connection) is False
    assert surplus(object()) is False


def test_one_byte_at_a_time_is_a_response_like_any_other(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        while True:
            await peer.request()
            for byte in HEAD + b"\r\n0123456789":
                await peer.send(bytes([byte]))

    with ScriptedServer(handler) as server:
        client = http.client()
        for _ in range(2):
            assert http.get(client, server.url).text == "0123456789"
        assert server.accepted == 1


def test_one_byte_now_and_then_is_a_body_that_the_caller_can_give_up(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(HEAD + b"\r\n0")
        await peer.reader.read(-1)

    with ScriptedServer(handler) as server:
        client = http.client()
        began = SYSTEM.now()
        response = http.open(client, server.url, timeout=http.client_module.Timeout(20, read=0.05))
        with pytest.raises(http.client_module.ReadTimeout) as caught:
            http.read(response)
        assert SYSTEM.now() - began < 10
        assert caught.value.request.url == server.url
        assert in_use(client) == (0, 0, 0)
        server.settle()


DRIPPING = {
    "the headers": b"HTTP/1.1 200 OK\r\nX: ",
    "the length of a chunk": CHUNKED + b"2\r\nok\r\n3;x=",
}


@pytest.mark.parametrize("where", DRIPPING)
def test_one_byte_now_and_then_does_not_outlast_the_deadline(where: str, http: Http) -> None:
    """Each byte began the read timeout anew, so a thread waited for as long as the server liked."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(DRIPPING[where])
        while True:
            await peer.send(b"a")
            await asyncio.sleep(0.02)

    with ScriptedServer(handler) as server:
        client = http.client()
        with pytest.raises((TimeoutError, http.client_module.ReadTimeout)):
            http.run(Timeout(0.3).call(client.get, server.url))
        assert in_use(client) == (0, 0, 0)
        server.settle()


def test_a_peer_that_takes_little_does_not_outlast_the_deadline(http: Http) -> None:
    size, taken = 50_000_000, 0

    async def handler(peer: Peer) -> None:
        nonlocal taken
        peer.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while part := await peer.reader.read(20_000):
            taken += len(part)
            await asyncio.sleep(0.02)

    with ScriptedServer(handler) as server:
        client = http.client()
        with pytest.raises((TimeoutError, http.client_module.WriteTimeout)):
            http.run(Timeout(0.3).call(client.post, server.url, content=b"x" * size))
        assert in_use(client) == (0, 0, 0)
    assert 0 < taken < size / 2, "it went on for as long as the peer took some of it now and then"


def test_a_server_that_takes_nothing_is_a_write_timeout(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        transport: Any = peer.writer.transport
        transport.pause_reading()
        await asyncio.get_running_loop().create_future()

    with ScriptedServer(handler) as server:
        client = http.client()
        with pytest.raises(http.client_module.WriteTimeout):
            http.request(
                client,
                "POST",
                server.url,
                content=b"x" * 50_000_000,
                timeout=http.client_module.Timeout(20, write=0.1),
            )
        assert in_use(client) == (0, 0, 0)


def test_a_server_that_never_accepts_is_a_connect_timeout(http: Http) -> None:
    """Its queue of connections to be accepted is full, so the handshake of TCP is never finished."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        client = http.client()
        with pytest.raises(http.client_module.ConnectTimeout):
            http.get(
                client,
                f"http://127.0.0.1:{listener.getsockname()[1]}/",
                timeout=http.client_module.Timeout(20, connect=0.05),
            )
        assert in_use(client) == (0, 0, 0)
        for filler in fillers:
            filler.close()


def test_a_body_that_breaks_gives_its_place_back_before_it_is_closed(http: Http) -> None:
    with ScriptedServer(says(HEAD + b"\r\nabc", ENDS)) as server:
        client = http.client()
        request = http.client_module.Request("GET", server.url, extensions={"timeout": {}})

        async def read() -> None:
            response = await client._transport.handle_async_request(request)
            async for _ in response.stream:
                pass

        with pytest.raises((http.client_module.RemoteProtocolError, http.client_module.ReadError)):
            if http.is_async:
                http.run(read())
            else:
                for _ in client._transport.handle_request(request).stream:
                    pass
        assert in_use(client) == (0, 0, 0)


def test_a_body_that_was_closed_before_it_is_read_breaks_without_giving_anything_back(http: Http) -> None:
    with ScriptedServer(says(HEAD + b"\r\nabc", STAYS)) as server:
        client = http.client()
        request = http.client_module.Request("GET", server.url, extensions={"timeout": {"read": 20}})
        other = http.open(client, server.url)

        async def read() -> None:
            response = await client._transport.handle_async_request(request)
            await response.stream.aclose()
            async for _ in response.stream:
                pass

        def read_now() -> None:
            response = client._transport.handle_request(request)
            response.stream.close()
            for _ in response.stream:
                pass

        with pytest.raises(http.client_module.ReadError):
            http.run(read()) if http.is_async else read_now()
        assert in_use(client) == (1, 0, 0)
        http.finish(other)
