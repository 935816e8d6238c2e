"""ResilientTransport against a real server, with both libraries, from a thread and from a task."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tenacity
import trustme

from resilience import Bulkhead, CallTimeoutError, CircuitOpenError, Retry, Timeout, bound
from tests.http.real_service import Application, serving
from tests.http.scripted import LIBRARIES
from tests.http_servers import Peer, ScriptedServer, keep_alive

SOON = 0.3  # seconds: a limit that is meant to be reached
PATIENCE = 20.0  # seconds: a limit that is not


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, Application]]:
    with serving() as running:
        yield running


class Real:
    """One library in one colour, with a real event loop."""

    def __init__(self, name: str, is_async: bool, service: tuple[str, Application]) -> None:
        self.library = importlib.import_module(name)
        self.package = importlib.import_module(f"resilience_{name}")
        self.is_async = is_async
        self.url, self.application = service
        self.application.seen.clear()
        self.application.headers.clear()
        self.application.bodies.clear()

    def transport(self, inner: Any = None, **settings: Any) -> Any:
        settings.setdefault("timeout", PATIENCE)
        return self.package.ResilientTransport(inner, **settings)

    def run(self, scenario: Callable[[Any], Any], transport: Any = None, **client: Any) -> Any:
        """The outcome of `scenario(client)`; in a task, what that returns is awaited."""
        client.setdefault("timeout", PATIENCE)
        transport = self.transport() if transport is None else transport
        if not self.is_async:
            with self.library.Client(transport=transport, **client) as plain:
                return scenario(plain)

        async def main() -> Any:
            async with self.library.AsyncClient(transport=transport, **client) as asynchronous:
                return await scenario(asynchronous)

        return asyncio.run(main())


@pytest.fixture(params=[(name, is_async) for name in LIBRARIES for is_async in (False, True)], ids=str)
def real(request: pytest.FixtureRequest, service: tuple[str, Application]) -> Real:
    name, is_async = request.param
    return Real(name, is_async, service)


def test_one_line_makes_a_client_that_survives_a_flaky_server(real: Real) -> None:
    response = real.run(lambda client: client.get(f"{real.url}/flaky"))
    assert (response.status_code, response.text) == (200, "/flaky")
    assert real.application.seen["/flaky"] == 3
    attempts = [headers.get("x-request-attempt") for headers in real.application.headers["/flaky"]]
    assert attempts == [None, "2", "3"]


def test_context_arrives_at_the_server(real: Real) -> None:
    with bound("order-7"):
        real.run(lambda client: client.get(f"{real.url}/hello"))
    headers = real.application.headers["/hello"][0]
    assert headers["x-request-id"] == "order-7"
    assert 0 < int(headers["x-request-timeout-ms"]) <= 10_000


def test_an_upload_is_sent_again_whole(real: Real) -> None:
    content = b"x" * 40_000
    files = {"file": io.BytesIO(content)}
    response = real.run(
        lambda client: client.put(f"{real.url}/flaky-upload", files=files, headers={"Idempotency-Key": "1"})
    )
    assert response.status_code == 200
    assert len(set(real.application.bodies)) == 1
    assert content in real.application.bodies[0]


def test_redirects_cookies_and_authentication_work_as_without(real: Real) -> None:
    assert real.run(lambda client: client.post(f"{real.url}/redirect", content=b"b"), follow_redirects=True).text == "b"
    assert real.application.seen["/target"] == 1

    def plain(client: Any) -> str:
        client.get(f"{real.url}/login")
        text: str = client.get(f"{real.url}/cookies").text
        return text

    async def asynchronous(client: Any) -> str:
        await client.get(f"{real.url}/login")
        text: str = (await client.get(f"{real.url}/cookies")).text
        return text

    assert real.run(asynchronous if real.is_async else plain) == "session=abc"
    auth = real.library.DigestAuth("user", "secret")
    assert real.run(lambda client: client.get(f"{real.url}/private", auth=auth)).status_code == 200
    assert real.application.seen["/private"] == 2


def test_a_server_that_never_answers_is_cut_off(real: Real) -> None:
    transport = real.transport(attempt_timeout=SOON, retry=None)
    with pytest.raises(real.package.HTTPCallTimeoutError, match=r"^attempt timeout: "):
        real.run(lambda client: client.get(f"{real.url}/never"), transport)
    assert transport.statistics().in_use == 0


@pytest.mark.parametrize("path", ["/drip", "/stuck"])
def test_a_body_that_never_ends_is_cut_off(real: Real, path: str) -> None:
    transport = real.transport(timeout=SOON, retry=None)
    with pytest.raises(real.package.HTTPCallTimeoutError) as caught:
        real.run(lambda client: client.get(f"{real.url}{path}"), transport)
    assert caught.value.timeout == SOON
    assert transport.statistics().in_use == 0
    assert transport.breaker(real.url).statistics().failures == 1


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x="],
    ids=["in the headers", "between two chunks"],
)
@pytest.mark.parametrize("around", [False, True])
def test_one_byte_now_and_then_does_not_outlast_the_timeout(real: Real, beginning: bytes, around: bool) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(beginning)
        while True:
            await peer.send(b"a")
            await asyncio.sleep(0.02)

    with ScriptedServer(handler) as server:
        transport = real.transport(timeout=PATIENCE if around else SOON, attempt_timeout=None, retry=None)
        limit = Timeout(SOON) if around else Timeout(None)

        def scenario(client: Any) -> Any:
            return limit.call(client.get, server.url)

        with pytest.raises((real.package.HTTPCallTimeoutError, CallTimeoutError)) as caught:
            real.run(scenario, transport)
        assert isinstance(caught.value, CallTimeoutError)
        assert caught.value.timeout == SOON
        assert transport.statistics().in_use == 0


def test_a_reader_in_more_of_a_hurry_than_the_request_is_told_by_whom_it_was_cut_off(real: Real) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
        await peer.reader.read(-1)

    with ScriptedServer(handler) as server:
        limit = Timeout(SOON, name="hurry")

        def plain(client: Any) -> None:
            with client.stream("GET", server.url) as response:
                limit.call(response.read)

        async def asynchronous(client: Any) -> None:
            async with client.stream("GET", server.url) as response:
                await limit.call(response.aread)

        with pytest.raises(CallTimeoutError) as caught:
            real.run(asynchronous if real.is_async else plain)
        assert (caught.value.policy, caught.value.timeout) == ("hurry", SOON)


def test_a_reader_with_time_does_not_lengthen_the_time_of_the_request(real: Real) -> None:
    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
        await peer.reader.read(-1)

    with ScriptedServer(handler) as server:
        limit, request_limit = Timeout(2 * PATIENCE, name="patient"), {"resilience": {"timeout": SOON}}

        def plain(client: Any) -> None:
            with client.stream("GET", server.url, extensions=request_limit) as response:
                limit.call(response.read)

        async def asynchronous(client: Any) -> None:
            async with client.stream("GET", server.url, extensions=request_limit) as response:
                await limit.call(response.aread)

        with pytest.raises(real.package.HTTPCallTimeoutError) as caught:
            real.run(asynchronous if real.is_async else plain)
        assert caught.value.timeout == SOON


def test_a_stream_that_is_left_early_leaves_its_slot(real: Real) -> None:
    transport = real.transport(bulkhead=lambda origin: Bulkhead(1))

    def plain(client: Any) -> Any:
        with client.stream("GET", f"{real.url}/drip") as response:
            assert next(response.iter_bytes()).startswith(b"drop")
        return client.get(f"{real.url}/hello")

    async def asynchronous(client: Any) -> Any:
        async with (
            client.stream("GET", f"{real.url}/drip") as response,
            contextlib.aclosing(response.aiter_bytes()) as chunks,
        ):
            assert (await anext(chunks)).startswith(b"drop")
        return await client.get(f"{real.url}/hello")

    assert real.run(asynchronous if real.is_async else plain, transport).text == "/hello"


def test_a_deadline_around_the_client_reaches_the_wire(real: Real) -> None:
    outer = Timeout(SOON)
    with pytest.raises(TimeoutError):
        if real.is_async:

            async def scenario(client: Any) -> Any:
                return await outer.call(client.get, f"{real.url}/never")

            real.run(scenario)
        else:
            real.run(lambda client: outer.call(client.get, f"{real.url}/never"))
    assert 0 < int(real.application.headers["/never"][0]["x-request-timeout-ms"]) <= 1000 * SOON


def test_a_refused_connection_opens_the_circuit(real: Real) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    retry = Retry(real.library.ConnectError, attempts=25, wait=tenacity.wait_none())
    transport = real.transport(retry=retry, budget=None)
    with pytest.raises(CircuitOpenError) as caught:
        real.run(lambda client: client.post(f"http://127.0.0.1:{port}/"), transport)
    assert isinstance(caught.value, real.library.TransportError)
    assert transport.breaker(f"http://127.0.0.1:{port}").statistics().failures == 20


def test_https_with_a_certificate_authority_of_ones_own(real: Real) -> None:
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    with serving(server_side) as (url, application):
        transport = real.transport(verify=client_side)
        assert real.run(lambda client: client.get(f"{url}/flaky"), transport).status_code == 200
        assert application.seen["/flaky"] == 3
        with pytest.raises(real.library.ConnectError):
            real.run(lambda client: client.get(f"{url}/hello"), real.transport(retry=None))
        assert application.seen["/hello"] == 0


def test_a_certificate_that_is_not_trusted_is_not_asked_for_again(real: Real) -> None:
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(server_side)
    with ScriptedServer(keep_alive, tls=server_side) as server:
        for inner in (None, real.library.AsyncHTTPTransport() if real.is_async else real.library.HTTPTransport()):
            transport = real.transport(inner)
            with pytest.raises(real.library.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                real.run(lambda client: client.get(server.url), transport)
            assert transport.breaker(server.url).statistics().failures == 1
