"""PooledTransport on real connections, for both libraries, from threads and from tasks."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilience import deadline
from resilience.clock import SYSTEM, give_way, turn

from .http_servers import Http, Peer, ScriptedServer, collect, in_use, keep_alive

# -- reuse -------------------------------------------------------------------------------------------------------------


def test_a_request_gets_its_response_and_the_next_one_the_same_connection(http: Http, server: ScriptedServer) -> None:
    client = http.client()
    for path in ("/one", "/two", "/three"):
        response = http.get(client, server.url + path)
        assert (response.status_code, response.text) == (200, path)
        assert response.extensions["http_version"] == b"HTTP/1.1"
    assert (server.accepted, in_use(client)) == (1, (0, 1, 0))
    assert client._transport.statistics().opened == 1


def test_all_methods_bodies_and_forms_go_through(http: Http, uvicorn: str) -> None:
    client = http.client()
    assert http.request(client, "POST", f"{uvicorn}/p", content=b"abc").text == "/pabc"
    assert http.request(client, "PUT", f"{uvicorn}/p", json={"a": 1}).text.replace(" ", "") == '/p{"a":1}'
    assert http.request(client, "HEAD", f"{uvicorn}/p").text == ""
    big = b"x" * 3_000_000
    assert http.request(client, "POST", f"{uvicorn}/", content=big).content == b"/" + big
    assert len(http.get(client, f"{uvicorn}/?chunks=200").content) == 2_000_001
    assert client._transport.statistics().opened == 1


def test_the_connection_used_last_is_used_first(http: Http, server: ScriptedServer) -> None:
    client = http.client()
    responses = [http.open(client, server.url) for _ in range(3)]
    for response in responses:
        http.read(response)
    last = responses[-1].extensions["network_stream"]
    assert http.get(client, server.url).extensions["network_stream"] is last
    assert (server.accepted, in_use(client)) == (3, (0, 3, 0))


def test_connections_of_another_origin_are_not_mixed_up(http: Http, server: ScriptedServer) -> None:
    with ScriptedServer(keep_alive) as other:
        client = http.client()
        for _ in range(2):
            assert http.get(client, f"{server.url}/here").text == "/here"
            assert http.get(client, f"{other.url}/there").text == "/there"
        assert (server.accepted, other.accepted) == (1, 1)


def test_an_idle_connection_is_closed_after_its_expiry(http: Http, server: ScriptedServer, clock: Any) -> None:
    client = http.client(keepalive_expiry=5.0)
    http.get(client, server.url)
    clock.advance(4.9)
    http.get(client, server.url)
    assert server.accepted == 1
    clock.advance(5.0)
    http.get(client, server.url)
    assert server.accepted == 2
    server.settle(still_open=1)


def test_no_more_are_kept_than_the_limit_says(http: Http, server: ScriptedServer) -> None:
    client = http.client(limits=http.client_module.Limits(max_connections=4, max_keepalive_connections=1))
    responses = [http.open(client, server.url) for _ in range(3)]
    for response in responses:
        http.read(response)
    assert in_use(client) == (0, 1, 0)
    server.settle(still_open=1)


def test_closing_the_client_closes_every_connection_and_it_may_be_used_by_another(
    http: Http, server: ScriptedServer
) -> None:
    transport = http.transport()
    client = http.client(transport)
    http.get(client, server.url)
    unread = http.open(client, server.url)
    http.close(client)
    server.settle()
    assert in_use(client) == (0, 0, 0)
    http.finish(unread)
    again = http.client(transport)
    assert http.get(again, f"{server.url}/again").text == "/again"
    assert in_use(again) == (0, 1, 0)


# -- limits ------------------------------------------------------------------------------------------------------------


def test_no_more_connections_are_open_than_allowed(http: Http, server: ScriptedServer) -> None:
    client = http.client(max_connections=3)
    outcomes = http.together(*[lambda n=n: client.get(f"{server.url}/{n}") for n in range(20)])
    assert [outcome.text for outcome in outcomes] == [f"/{n}" for n in range(20)]
    assert server.most_open <= 3
    assert in_use(client)[0::2] == (0, 0)


def test_no_more_connections_go_to_one_host_than_allowed(http: Http, server: ScriptedServer) -> None:
    with ScriptedServer(keep_alive) as other:
        client = http.client(max_connections=10, max_per_host=2)
        urls = [f"{which.url}/{n}" for n in range(10) for which in (server, other)]
        outcomes = http.together(*[lambda url=url: client.get(url) for url in urls])
        assert all(outcome.status_code == 200 for outcome in outcomes)
        assert server.most_open <= 2
        assert other.most_open <= 2


def test_at_the_cap_an_idle_connection_of_another_host_makes_room(http: Http, server: ScriptedServer) -> None:
    with ScriptedServer(keep_alive) as other:
        client = http.client(max_connections=1)
        for _ in range(3):
            assert http.get(client, server.url).text == "/"
            server.settle(still_open=1)
            assert http.get(client, other.url).text == "/"
            other.settle(still_open=1)
            server.settle(still_open=0)


def test_a_request_waits_for_a_connection_no_longer_than_its_pool_timeout(http: Http, server: ScriptedServer) -> None:
    client = http.client(max_connections=1)
    held = http.open(client, server.url)
    with pytest.raises(http.client_module.PoolTimeout, match=r"1 of 1 connections in use") as caught:
        http.get(client, server.url, timeout=http.client_module.Timeout(20, pool=0.01))
    assert caught.value.request.url == server.url
    assert in_use(client) == (1, 0, 0)
    http.read(held)
    assert http.get(client, server.url).status_code == 200
    assert server.accepted == 1


def test_a_request_waits_for_a_connection_no_longer_than_the_deadline(http: Http, server: ScriptedServer) -> None:
    client = http.client(max_connections=1)
    held = http.open(client, server.url)
    token = deadline.ambient.set(deadline.Deadline(SYSTEM.now() + 0.01, SYSTEM))
    try:
        with pytest.raises(http.client_module.PoolTimeout):
            http.get(client, server.url)
    finally:
        deadline.ambient.reset(token)
    http.read(held)


def test_requests_beyond_the_queue_are_refused_at_once(http: Http, server: ScriptedServer) -> None:
    client = http.client(max_connections=1, max_queue=0)
    held = http.open(client, server.url)
    with pytest.raises(http.client_module.PoolTimeout, match="too many requests wait"):
        http.get(client, server.url)
    http.read(held)


def test_closing_the_client_tells_those_that_wait(http: Http, server: ScriptedServer) -> None:
    client = http.client(max_connections=1)
    held = http.open(client, server.url)
    waiters = [lambda: client.get(server.url)] * 3

    async def aclose() -> None:
        while in_use(client)[2] < 3:
            await turn()
        await client._transport.aclose()

    def close() -> None:
        while in_use(client)[2] < 3:
            give_way()
        client._transport.close()

    outcomes = http.together(*waiters, aclose if http.is_async else close)
    assert [type(outcome) for outcome in outcomes] == [http.client_module.PoolTimeout] * 3 + [type(None)]
    assert "closed" in str(outcomes[0])
    http.finish(held)
    assert in_use(client) == (0, 0, 0)


# -- bodies ------------------------------------------------------------------------------------------------------------


def test_the_connection_is_held_until_the_body_is_closed(http: Http, uvicorn: str) -> None:
    client = http.client()
    response = http.open(client, f"{uvicorn}/?chunks=100")
    assert in_use(client) == (1, 0, 0)
    assert len(http.read(response)) == 1_000_001
    assert in_use(client) == (0, 1, 0)


def test_a_response_closed_early_ends_its_connection(http: Http, uvicorn: str) -> None:
    client = http.client()
    for _ in range(3):
        response = http.open(client, f"{uvicorn}/?chunks=100")
        assert http.first_part(response)
        http.finish(response)
        http.finish(response)
        assert in_use(client) == (0, 0, 0)
    response = http.open(client, f"{uvicorn}/?chunks=100")
    http.finish(response)
    assert in_use(client) == (0, 0, 0)
    assert client._transport.statistics().opened == 4


def test_a_response_dropped_without_being_closed_gives_its_place_back(http: Http, server: ScriptedServer) -> None:
    client = http.client(max_connections=1)
    response = http.open(client, server.url)
    assert in_use(client) == (1, 0, 0)
    gone = weakref.ref(response)
    del response
    collect(gone)  # the library's response and its stream refer to each other
    http.run(_turns()) if http.is_async else None
    server.settle()
    assert http.get(client, server.url, timeout=5).status_code == 200
    server.settle(still_open=1)
    assert (server.accepted, in_use(client)) == (2, (0, 1, 0))


def test_an_iterator_of_the_body_that_is_dropped_ends_the_connection(http: Http, uvicorn: str) -> None:
    client = http.client()
    response = http.open(client, f"{uvicorn}/?chunks=100")
    http.first_part(response)  # and its iterator is gone
    gc.collect()
    http.run(_turns()) if http.is_async else None
    http.finish(response)
    assert in_use(client) == (0, 0, 0)


async def _turns() -> None:
    for _ in range(5):
        await turn()


def test_a_body_that_cannot_be_sent_twice_is_sent_once(http: Http, server: ScriptedServer) -> None:
    client = http.client()
    http.get(client, server.url)

    def parts() -> Iterator[bytes]:
        yield b"abc"

    async def aparts() -> Any:
        yield b"abc"

    content = aparts() if http.is_async else parts()
    response = http.request(client, "POST", f"{server.url}/x", content=content, headers={"content-length": "3"})
    assert response.text == "/x"
    assert server.requests[-1].endswith(b"\r\n\r\nabc")


def test_an_error_in_the_request_body_ends_the_connection_and_reaches_the_caller(
    http: Http, server: ScriptedServer
) -> None:
    client = http.client()
    http.get(client, server.url)

    def parts() -> Iterator[bytes]:
        yield b"abc"
        raise ZeroDivisionError

    async def aparts() -> Any:
        yield b"abc"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        http.request(client, "POST", server.url, content=aparts() if http.is_async else parts())
    assert in_use(client) == (0, 0, 0)
    server.settle()
    assert http.get(client, server.url).status_code == 200


# -- what servers may do -----------------------------------------------------------------------------------------------


def test_a_connection_the_server_wants_closed_is_not_used_again(http: Http, uvicorn: str) -> None:
    client = http.client()
    for _ in range(3):
        assert http.get(client, f"{uvicorn}/?close").status_code == 200
        assert in_use(client) == (0, 0, 0)
    assert client._transport.statistics().opened == 3


def test_an_old_server_without_keep_alive_is_understood(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nto the end")

    with ScriptedServer(handler) as server:
        client = http.client()
        for _ in range(2):
            assert http.get(client, server.url).text == "to the end"
        assert (server.accepted, in_use(client)) == (2, (0, 0, 0))


def test_a_connection_the_server_has_closed_while_idle_is_replaced_even_for_a_post(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.answer()

    with ScriptedServer(handler) as server:
        client = http.client()
        for _ in range(4):
            assert http.request(client, "POST", server.url, content=b"abc").text == "ok"
            server.settle()
        assert server.accepted == 4


def closes_on_the_second_request(peer: Peer) -> Any:
    async def handle() -> None:
        await peer.request()
        await peer.answer(f"{peer.number}".encode())
        await peer.request()  # and closes without a word

    return handle()


def test_an_idempotent_request_that_met_a_closing_connection_is_sent_again(http: Http) -> None:
    with ScriptedServer(closes_on_the_second_request) as server:
        client = http.client()
        assert [http.get(client, server.url).text for _ in range(3)] == ["1", "2", "3"]
        assert http.request(client, "PUT", server.url, content=b"abc").text == "4"
        assert len(server.requests) == 7
        assert in_use(client) == (0, 1, 0)


def test_a_request_that_may_have_been_processed_is_not_sent_again(http: Http) -> None:
    async def reset(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()

    with ScriptedServer(reset) as server:
        client = http.client()
        assert http.get(client, server.url).text == "ok"
        with pytest.raises((http.client_module.RemoteProtocolError, http.client_module.ReadError)):
            http.request(client, "POST", server.url, content=b"abc")
        assert len(server.requests) == 2
        assert in_use(client) == (0, 0, 0)


def test_an_idempotent_request_whose_body_is_gone_is_not_sent_again(http: Http) -> None:
    with ScriptedServer(closes_on_the_second_request) as server:
        client = http.client()
        http.get(client, server.url)

        def parts() -> Iterator[bytes]:
            yield b"abc"

        async def aparts() -> Any:
            yield b"abc"

        with pytest.raises((http.client_module.RemoteProtocolError, http.client_module.ReadError)):
            http.request(
                client,
                "PUT",
                server.url,
                content=aparts() if http.is_async else parts(),
                headers={"content-length": "3"},
            )
        assert len(server.requests) == 2


def test_a_request_whose_response_had_begun_is_not_sent_again(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await peer.send(b"HTTP/1.1 200")

    with ScriptedServer(handler) as server:
        client = http.client()
        http.get(client, server.url)
        with pytest.raises((http.client_module.RemoteProtocolError, http.client_module.ReadError)):
            http.get(client, server.url)
        assert len(server.requests) == 2


def test_a_fresh_connection_that_fails_is_not_tried_again(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()

    with ScriptedServer(handler) as server:
        client = http.client()
        with pytest.raises(http.client_module.RemoteProtocolError):
            http.get(client, server.url)
        assert len(server.requests) == 1


def test_a_request_on_a_kept_connection_that_times_out_is_not_sent_again(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await peer.request()

    with ScriptedServer(handler) as server:
        client = http.client()
        http.get(client, server.url)
        with pytest.raises(http.client_module.ReadTimeout):
            http.get(client, server.url, timeout=0.05)
        assert len(server.requests) == 2
        server.settle()


def test_an_interim_response_is_skipped(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await peer.answer()

    with ScriptedServer(handler) as server:
        headers = {"Expect": "100-continue"}
        assert http.request(http.client(), "POST", server.url, content=b"abc", headers=headers).text == "ok"


def test_an_answer_before_the_body_was_taken_is_a_response(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.answer(status="413 Content Too Large", headers="Connection: close\r\n")
        await peer.reader.read(-1)

    with ScriptedServer(handler) as server:
        client = http.client()
        response = http.request(client, "POST", server.url, content=b"x" * 100_000)
        assert response.status_code == 413
        assert in_use(client) == (0, 0, 0)


def test_an_upgrade_is_handed_to_the_caller_and_the_connection_not_used_again(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
        await peer.send(await peer.reader.readexactly(3))
        await peer.reader.read(-1)

    with ScriptedServer(handler) as server:
        client = http.client()
        response = http.open(client, server.url, headers={"Connection": "Upgrade", "Upgrade": "echo"})
        assert response.status_code == 101
        stream = response.extensions["network_stream"]
        assert http.run(stream.read(100)) == b"hello"
        http.run(stream.write(b"abc"))
        assert http.run(stream.read(100, timeout=10)) == b"abc"
        assert in_use(client) == (1, 0, 0)
        http.finish(response)
        assert in_use(client) == (0, 0, 0)
        server.settle()


# -- ways to connect ---------------------------------------------------------------------------------------------------


def test_a_unix_socket_is_connected_to(http: Http, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with ScriptedServer(keep_alive, uds=path) as server:
        client = http.client(uds=path)
        for _ in range(2):
            assert http.get(client, "http://anything/here").text == "/here"
        assert server.accepted == 1
        assert b"Host: anything\r\n" in server.requests[0]


def test_the_own_address_and_socket_options_are_set(http: Http, server: ScriptedServer) -> None:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_RCVBUF, b"\x00\x20\x00\x00")]
    client = http.client(local_address="127.0.0.2", socket_options=options)
    response = http.open(client, server.url.replace("localhost", "127.0.0.1"))
    stream = response.extensions["network_stream"]
    assert stream.get_extra_info("client_addr")[0] == "127.0.0.2"
    assert stream.get_extra_info("server_addr") == ("127.0.0.1", server.port)
    raw = stream.get_extra_info("socket")
    assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert stream.get_extra_info("ssl_object") is None
    assert stream.get_extra_info("weather") is None
    http.read(response)


def test_a_refused_connection_is_a_connect_error_and_retries_are_as_many_as_asked_for(
    http: Http, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        told: list[str] = []

        def trace(name: str, info: Any) -> None:
            told.append(name)

        async def atrace(name: str, info: Any) -> None:
            told.append(name)

        extensions = {"trace": atrace if http.is_async else trace}
        client = http.client(retries=2)
        began = clock.now()

        if http.is_async:

            async def advance() -> None:
                while "connection.retry.started" not in told[6:]:
                    await turn()
                await turn()
                clock.advance(0.5)

            outcomes = http.together(lambda: client.get(url, extensions=extensions), advance)
            error = outcomes[0]
        else:
            with pytest.raises(http.client_module.ConnectError) as caught:
                client.get(url, extensions=extensions)
            error = caught.value
        assert isinstance(error, http.client_module.ConnectError)
        assert error.request.url == url
        assert clock.now() - began == 0.5, "at once, then after half a second"
        attempt = ["connection.connect_tcp.started", "connection.connect_tcp.failed"]
        retry = ["connection.retry.started", "connection.retry.complete"]
        assert told == [*attempt, *retry, *attempt, *retry, *attempt]
        assert in_use(client) == (0, 0, 0)


def test_the_steps_are_told_to_the_trace_extension(http: Http, server: ScriptedServer) -> None:
    told: list[str] = []

    def trace(name: str, info: Any) -> None:
        told.append(name)

    async def atrace(name: str, info: Any) -> None:
        told.append(name)

    http.get(http.client(), server.url, extensions={"trace": atrace if http.is_async else trace})
    assert told[:2] == ["connection.connect_tcp.started", "connection.connect_tcp.complete"]
    assert told[-1] == "http11.response_closed.complete"


def test_a_url_without_http_or_host_is_refused(http: Http) -> None:
    client = http.client()
    for url in ("ftp://localhost/", "/only/a/path"):
        with pytest.raises(http.client_module.UnsupportedProtocol):
            http.get(client, url)
    request = http.client_module.Request("GET", "gopher://localhost/")
    handle = client._transport.handle_async_request if http.is_async else client._transport.handle_request
    with pytest.raises(http.client_module.UnsupportedProtocol, match="gopher") as caught:
        http.run(handle(request))
    assert caught.value.request is request
    assert in_use(client) == (0, 0, 0)


@pytest.mark.parametrize("host", ["a" * 70 + ".test", "no-such-host.invalid"])
def test_a_host_that_cannot_be_found_is_a_connect_error(http: Http, host: str) -> None:
    client = http.client()
    request = http.client_module.Request("GET", f"http://{host}/", extensions={"timeout": {}})
    handle = client._transport.handle_async_request if http.is_async else client._transport.handle_request
    with pytest.raises(http.client_module.ConnectError):
        http.run(handle(request))
    assert in_use(client) == (0, 0, 0)


def test_the_transport_says_what_it_is_doing(http: Http, server: ScriptedServer) -> None:
    client = http.client(max_connections=7)
    http.get(client, server.url)
    said = repr(client._transport)
    assert said.startswith(f"<PooledTransport on {http.library.name}: ")
    assert "0 of 7 connections in use, 1 idle, 0 requests waiting" in said
