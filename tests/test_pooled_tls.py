"""PooledTransport over TLS, with certificates made here."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
import trustme

from .http_servers import Http, Peer, ScriptedServer, in_use, keep_alive

AUTHORITY = trustme.CA()


def server_context(*names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def serving() -> ssl.SSLContext:
    return server_context("localhost")


@pytest.fixture(scope="module")
def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


@pytest.fixture
def secure(serving: ssl.SSLContext) -> Iterator[ScriptedServer]:
    with ScriptedServer(keep_alive, tls=serving) as server:
        yield server


def test_a_connection_is_encrypted_and_kept(http: Http, secure: ScriptedServer, trusting: ssl.SSLContext) -> None:
    client = http.client(verify=trusting)
    for path in ("/one", "/two", "/" + "x" * 50_000):
        response = http.get(client, secure.url + path)
        assert response.text == path
        found = response.extensions["network_stream"].get_extra_info("ssl_object")
        assert found.version() == "TLSv1.3"
    assert secure.accepted == 1
    secure.settle(still_open=1)
    http.close(client)
    secure.settle()


def test_an_unknown_certificate_is_a_connect_error(http: Http, secure: ScriptedServer) -> None:
    client = http.client(verify=True)
    with pytest.raises(http.client_module.ConnectError, match="certificate verify failed") as caught:
        http.get(client, secure.url)
    assert caught.value.request.url == secure.url
    assert in_use(client) == (0, 0, 0)
    secure.settle()


def test_a_certificate_for_another_name_is_a_connect_error(http: Http, trusting: ssl.SSLContext) -> None:
    with ScriptedServer(keep_alive, tls=server_context("elsewhere.test")) as server:
        client = http.client(verify=trusting)
        with pytest.raises(http.client_module.ConnectError):
            http.get(client, server.url)
        response = http.get(client, server.url, extensions={"sni_hostname": "elsewhere.test"})
        assert response.status_code == 200
        with pytest.raises(http.client_module.ConnectError):
            http.get(client, server.url)  # and does not meet the connection that was good for the other name
        assert in_use(client) == (0, 1, 0)


def test_a_server_that_does_not_shake_hands_is_a_connect_timeout(http: Http, trusting: ssl.SSLContext) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.read(-1)

    with ScriptedServer(handler) as server:
        client = http.client(verify=trusting)
        with pytest.raises(http.client_module.ConnectTimeout):
            http.get(
                client,
                server.url.replace("http:", "https:"),
                timeout=http.client_module.Timeout(20, connect=0.1),
            )
        assert in_use(client) == (0, 0, 0)
        server.settle()


def test_a_server_that_speaks_no_tls_is_a_connect_error(http: Http, trusting: ssl.SSLContext) -> None:
    async def handler(peer: Peer) -> None:
        await peer.reader.read(10)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with ScriptedServer(handler) as server:
        client = http.client(verify=trusting)
        with pytest.raises(http.client_module.ConnectError):
            http.get(client, server.url.replace("http:", "https:"))
        assert in_use(client) == (0, 0, 0)
        server.settle()


def test_a_server_that_hangs_up_in_the_handshake_is_a_connect_error_that_says_so(http: Http) -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.reader.read(1)

    with ScriptedServer(hang_up) as server:
        client = http.client()
        with pytest.raises(http.client_module.ConnectError, match=r"TLS handshake|EOF|reset"):
            http.get(client, f"https://localhost:{server.port}")
        assert in_use(client) == (0, 0, 0)
        server.settle()


def test_an_encrypted_connection_the_server_has_closed_is_replaced(
    http: Http, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.answer()

    with ScriptedServer(handler, tls=serving) as server:
        client = http.client(verify=trusting)
        for _ in range(3):
            assert http.request(client, "POST", server.url, content=b"abc").text == "ok"
            server.settle()
        assert server.accepted == 3


def test_an_encrypted_body_may_end_with_the_connection(
    http: Http, serving: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 300_000)
        peer.writer.close()
        await peer.writer.wait_closed()

    with ScriptedServer(handler, tls=serving) as server:
        client = http.client(verify=trusting)
        assert len(http.get(client, server.url).content) == 300_000
        assert in_use(client) == (0, 0, 0)


def test_the_steps_of_tls_are_told_to_the_trace_extension(
    http: Http, secure: ScriptedServer, trusting: ssl.SSLContext
) -> None:
    told: list[str] = []

    def trace(name: str, info: object) -> None:
        told.append(name)

    async def atrace(name: str, info: object) -> None:
        told.append(name)

    http.get(http.client(verify=trusting), secure.url, extensions={"trace": atrace if http.is_async else trace})
    assert told[2:4] == ["connection.start_tls.started", "connection.start_tls.complete"]
