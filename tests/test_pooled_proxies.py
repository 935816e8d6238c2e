"""HTTP/2 and proxies: PooledTransport hands them to the library's own transport, behind a bulkhead of its size."""

from __future__ import annotations

import asyncio
import gc
import ssl
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trustme
from resilience_http._proxies import Proxies

from .http_servers import LIBRARIES, PATIENCE, Http, Library, Peer, ScriptedServer, collect
from .test_processes import in_child, needs_fork


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


# -- which proxy -------------------------------------------------------------------------------------------------------


class Url:
    def __init__(self, scheme: str, host: str, port: int | None = None) -> None:
        self.scheme, self.host, self.port = scheme, host, port


PROXY = "http://proxy.test:3128"


@pytest.mark.parametrize(
    "no_proxy, url, direct",
    [
        ("", Url("http", "a.test"), False),
        ("*", Url("http", "a.test"), True),
        ("b.test,*", Url("http", "a.test"), True),
        ("a.test", Url("http", "a.test"), True),
        ("a.test", Url("https", "www.a.test", 444), True),
        ("a.test", Url("http", "banana.test"), False),
        ("A.Test", Url("http", "a.test"), True),
        (".a.test", Url("http", "a.test"), False),
        (".a.test", Url("http", "www.a.test"), True),
        (" b.test , a.test ", Url("http", "a.test"), True),
        ("localhost", Url("http", "localhost"), True),
        ("localhost", Url("http", "a.localhost"), False),
        ("10.0.0.1", Url("http", "10.0.0.1"), True),
        ("10.0.0.1", Url("http", "10.0.0.11"), False),
        ("10.0.0.0/8", Url("http", "10.200.3.4"), True),
        ("10.0.0.0/8", Url("http", "11.0.0.1"), False),
        ("10.0.0.0/8", Url("http", "a.test"), False),
        ("::1", Url("http", "::1"), True),
        ("https://a.test:8443", Url("https", "a.test", 8443), True),
        ("https://a.test:8443", Url("https", "a.test"), False),
        ("https://a.test", Url("http", "a.test"), False),
        ("all://a.test", Url("http", "a.test"), True),
        ("https://", Url("https", "b.test"), True),
        (",,", Url("http", "a.test"), False),
    ],
)
def test_no_proxy_says_what_is_reached_directly(no_proxy: str, url: Url, direct: bool) -> None:
    proxies = Proxies({"http": PROXY, "https": PROXY, "no": no_proxy})
    assert proxies.proxy_for(url) == (None if direct else PROXY)


def test_a_proxy_is_for_its_scheme_or_for_all() -> None:
    proxies = Proxies({"http": "one.test:1", "all": "socks5://two.test:2", "https": "", "ftp": "three.test"})
    assert proxies.proxy_for(Url("http", "a.test")) == "http://one.test:1"
    assert proxies.proxy_for(Url("https", "a.test")) == "socks5://two.test:2"
    assert proxies
    assert not Proxies({"no": "a.test"})


# -- through a proxy ---------------------------------------------------------------------------------------------------


async def absolute(peer: Peer) -> None:
    """A proxy that answers itself, with the address it was asked for."""
    while True:
        request = await peer.request()
        await peer.answer(peer.path(request).encode())


def test_a_proxy_that_was_given_is_used_for_everything(http: Http) -> None:
    with ScriptedServer(absolute) as proxy:
        for given in (proxy.url, http.client_module.URL(proxy.url), http.client_module.Proxy(proxy.url)):
            client = http.client(proxy=given)
            for _ in range(2):
                assert http.get(client, "http://a.test/x").text == "http://a.test/x"
            http.close(client)
        assert proxy.accepted == 3
        proxy.settle()
        http.client(proxy=proxy.url)  # closed without having been used


def test_each_event_loop_has_connections_of_its_own_to_a_proxy(library: Library) -> None:
    """Every second loop met the idle connection of the closed one before it: "Event loop is closed"."""
    with ScriptedServer(absolute) as proxy:
        transport = library.bound.PooledTransport(proxy=proxy.url)

        async def get(close: bool = False) -> str:
            client = library.client.AsyncClient(transport=transport)
            text = str((await client.get("http://a.test/x")).text)
            if close:
                await transport.aclose()
            return text

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            assert asyncio.run(get()) == "http://a.test/x"
            with asyncio.Runner() as other:
                assert other.run(get()) == "http://a.test/x"
                assert asyncio.run(get(close=True)) == "http://a.test/x"
                assert other.run(get(close=True)) == "http://a.test/x", "still on its own connection"
            gc.collect()  # what the closed loop left behind
        assert proxy.accepted == 3
        proxy.settle()


@needs_fork
def test_a_forked_child_does_not_talk_on_its_parents_connection_to_a_proxy(library: Library) -> None:
    with ScriptedServer(absolute) as proxy:
        transport = library.bound.PooledTransport(proxy=proxy.url)
        with library.client.Client(transport=transport, timeout=PATIENCE) as client:
            client.get("http://a.test/x")

            def work() -> None:
                assert client.get("http://a.test/child").text == "http://a.test/child"
                client.close()

            in_child(work)
            assert client.get("http://a.test/mine").text == "http://a.test/mine"
        assert proxy.accepted == 2
        assert [request.split()[1] for request in proxy.requests] == [
            b"http://a.test/x",
            b"http://a.test/child",
            b"http://a.test/mine",
        ]


def test_threads_that_come_first_at_once_share_one_transport_of_the_library(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Made(library.client.HTTPTransport):  # type: ignore[misc, name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)
            if len(made) == 1:  # as another thread, in that moment
                client.get("http://a.test/other")

    monkeypatch.setattr(library.client, "HTTPTransport", Made)
    with ScriptedServer(absolute) as proxy:
        client = library.client.Client(transport=library.bound.PooledTransport(proxy=proxy.url))
        client.get("http://a.test/x")
        client.close()
        assert (len(made), proxy.accepted) == (2, 1)
        proxy.settle()


def test_a_proxy_of_the_environment_is_used_unless_told_otherwise(
    http: Http, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ScriptedServer(absolute) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "localhost")
        client = http.client(trust_env=True)
        for _ in range(2):
            assert http.get(client, "http://a.test/x").text == "http://a.test/x"
            assert http.get(client, f"{server.url}/x").text == "/x", "exempt, so on our own pool"
        assert client._transport.statistics().idle == 1
        assert (proxy.accepted, server.accepted) == (1, 1)
        http.close(client)
        direct = http.client(trust_env=False)
        assert http.get(direct, f"{server.url}/x").text == "/x"
        assert proxy.accepted == 1
        http2 = http.client(trust_env=True, http2=True)
        assert http.get(http2, "http://a.test/x").text == "http://a.test/x"
        assert http.get(http2, f"{server.url}/x").text == "/x"
        assert direct._transport.statistics().idle == 1
        assert http2._transport.statistics().idle == 0, "the library's own pool"


def test_requests_through_a_proxy_wait_in_front_of_the_library(http: Http) -> None:
    with ScriptedServer(absolute) as proxy:
        client = http.client(proxy=proxy.url, max_connections=1)
        held = http.open(client, "http://a.test/held")
        with pytest.raises(http.client_module.PoolTimeout, match="1 of 1 in use") as caught:
            http.get(client, "http://a.test/", timeout=http.client_module.Timeout(20, pool=0.01))
        assert caught.value.request.url == "http://a.test/"
        with pytest.raises(http.client_module.PoolTimeout):
            http.get(client, "http://a.test/", timeout=http.client_module.Timeout(20, pool=0.0))
        http.read(held)
        outcomes = http.together(*[lambda n=n: client.get(f"http://a.test/{n}") for n in range(8)])
        assert [outcome.text for outcome in outcomes] == [f"http://a.test/{n}" for n in range(8)]
        assert proxy.most_open == 1
        unlimited = http.client(proxy=proxy.url, max_connections=None)
        assert http.get(unlimited, "http://a.test/", timeout=None).status_code == 200


def test_a_failed_or_dropped_request_through_a_proxy_gives_its_permit_back(http: Http) -> None:
    async def handler(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            return
        await absolute(peer)

    with ScriptedServer(handler) as proxy:
        client = http.client(proxy=proxy.url, max_connections=1)
        with pytest.raises((http.client_module.RemoteProtocolError, http.client_module.ReadError)):
            http.get(client, "http://a.test/")
        bulkhead = client._transport._base._bulkhead
        assert bulkhead.statistics().in_use == 0
        response = http.open(client, "http://a.test/")
        assert bulkhead.statistics().in_use == 1
        assert http.read(response) == b"http://a.test/"
        http.finish(response)
        assert bulkhead.statistics().in_use == 0
        response = http.open(client, "http://a.test/")
        gone = weakref.ref(response)
        del response
        collect(gone)
        assert bulkhead.statistics().in_use == 0


# -- HTTP/2 ------------------------------------------------------------------------------------------------------------


async def speak_http2(peer: Peer) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    await peer.send(connection.data_to_send())
    while data := await peer.reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                stream_id: Any = event.stream_id
                connection.send_headers(stream_id, [(":status", "200")])
                connection.send_data(stream_id, b"two", end_stream=True)
        await peer.send(connection.data_to_send())


def test_http_2_goes_through_the_library(http: Http, authority: trustme.CA) -> None:
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(serving)
    authority.configure_trust(trusting)
    serving.set_alpn_protocols(["h2"])
    with ScriptedServer(speak_http2, tls=serving) as server:
        client = http.client(http2=True, verify=trusting)
        # Threads ask one after the other: the libraries let two of them take the same HTTP/2 stream, because choosing
        # its number and sending its headers is not one step in `HTTP2Connection.handle_request`. Then the server hangs
        # up. With 8 threads at once that is one of 75 rounds, on the library's own transport just as behind ours.
        calls: list[Callable[[], Any]] = [lambda: client.get(server.url) for _ in range(8)]
        outcomes = http.together(*calls) if http.is_async else [call() for call in calls]
        assert [(outcome.http_version, outcome.text) for outcome in outcomes] == [("HTTP/2", "two")] * 8
        assert http.get(client, server.url).http_version == "HTTP/2"
        http.close(client)
        server.settle()


def test_http_2_without_its_package_is_an_error_at_once(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"http2=True needs h2: pip install .*\[http2\]"):
        http.transport(http2=True)


def test_http_1_servers_are_spoken_to_even_with_http_2_allowed(http: Http, server: ScriptedServer) -> None:
    client = http.client(http2=True)
    assert http.get(client, f"{server.url}/one").text == "/one"
