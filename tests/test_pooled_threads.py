"""PooledTransport shared by threads, interrupted anywhere, forked, and finalised at the worst moment (L12, L13)."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import ssl
import threading
from typing import Any

import pytest
import resilience_http._pooled_sync as pooled_sync
import trustme
from resilience_http._exchange import delays
from resilience_http._stream_sync import SyncStream

from .http_servers import LIBRARIES, PATIENCE, Library, Peer, ScriptedServer, keep_alive
from .test_processes import in_child, needs_fork

LIMIT = 4


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


async def slow_echo(peer: Peer) -> None:
    """Head and body come apart, and now and then so late that the client has given up."""
    rng = random.Random(peer.number)
    while True:
        path = peer.path(await peer.request()).encode()
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.001, 0.02)))
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path))
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.001, 0.02)))
        await peer.send(path)


def test_a_storm_of_threads_with_timeouts_and_partial_reads_leaks_nothing(library: Library) -> None:
    gc.collect()
    gc.disable()
    try:
        with ScriptedServer(slow_echo) as server:
            storm(library, server, threads=12, requests=25)
            server.settle()
    finally:
        gc.enable()


def storm(library: Library, server: ScriptedServer, threads: int, requests: int) -> None:
    transport = library.bound.PooledTransport(max_connections=LIMIT, verify=False, trust_env=False)
    client = library.client.Client(transport=transport, timeout=PATIENCE)
    wrong: list[Any] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for turn in range(requests):
            path = f"/{number}-{turn}"
            timeout = library.client.Timeout(
                PATIENCE, read=rng.choice((PATIENCE, 0.01)), pool=rng.choice((PATIENCE, 0.005))
            )
            try:
                with client.stream("GET", server.url + path, timeout=timeout) as response:
                    if rng.random() < 0.3:
                        continue  # and leave the body unread
                    if response.read() != path.encode():
                        wrong.append((path, response.content))
            except library.client.TimeoutException:
                pass
            except Exception as error:
                wrong.append(error)

    workers = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    assert wrong == []
    now = transport.statistics()
    assert (now.in_use, now.waiting) == (0, 0)
    held = [client.send(client.build_request("GET", f"{server.url}/h"), stream=True) for _ in range(LIMIT)]
    assert transport.statistics().in_use == LIMIT, "the whole capacity works"
    for response in held:
        response.close()
    client.close()


def test_tasks_and_threads_have_pools_of_their_own_behind_one_transport(library: Library) -> None:
    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(verify=False, trust_env=False)

        async def main() -> None:
            async with library.client.AsyncClient(transport=transport) as client:
                assert (await client.get(f"{server.url}/a")).text == "/a"
                with library.client.Client(transport=transport) as other:
                    get = asyncio.get_running_loop().run_in_executor
                    assert (await get(None, other.get, f"{server.url}/b")).text == "/b"
                    assert (server.accepted, transport.statistics().idle) == (2, 2)
                assert transport.statistics().idle == 1

        asyncio.run(main())
        server.settle()


# -- interrupted anywhere ----------------------------------------------------------------------------------------------


class Wire:
    """A stream without a socket. Its n-th step, counted over all streams, is interrupted."""

    steps = 0
    interrupted_at = 0

    def __init__(self, log: list[Wire]) -> None:
        self.closed = False
        self.sent = self.received = False
        log.append(self)

    @classmethod
    def step(cls) -> None:
        Wire.steps += 1
        if Wire.steps == Wire.interrupted_at:
            raise KeyboardInterrupt

    def begin(self) -> None:
        self.sent = self.received = False

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.step()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.step()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def start_tls(self, context: Any, name: str, timeout: float | None) -> Wire:
        self.step()
        return self

    def close(self) -> None:
        self.closed = True

    interrupt = close

    def get_extra_info(self, name: str) -> Any:
        return None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_interrupt_at_any_step_leaks_nothing(library: Library, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_: Any, **__: Any) -> Wire:
        Wire.step()
        return Wire(wires)

    def scenario() -> None:
        for host in "aab":
            client.get(f"{scheme}://{host}.test/")

    monkeypatch.setattr(pooled_sync, "connect", connect)
    point, interrupted = 0, 0
    while True:
        wires: list[Wire] = []
        monkeypatch.setattr(Wire, "steps", 0)
        monkeypatch.setattr(Wire, "interrupted_at", point)
        transport = library.bound.PooledTransport(max_connections=1, verify=False, trust_env=False)
        client = library.client.Client(transport=transport)
        try:
            scenario()
        except KeyboardInterrupt:
            interrupted += 1
        else:
            if point > 0:
                break
        now = transport.statistics()
        assert (now.in_use, now.waiting) == (0, 0)
        assert sum(not wire.closed for wire in wires) == now.idle
        client.get(f"{scheme}://c.test/")
        client.close()
        assert all(wire.closed for wire in wires)
        point += 1
    assert interrupted >= 8


def test_a_thread_interrupted_while_it_waits_leaves_the_queue(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resilience.clock import SYSTEM

    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(max_connections=1, verify=False, trust_env=False)
        with library.client.Client(transport=transport, timeout=PATIENCE) as client:
            held = client.send(client.build_request("GET", server.url), stream=True)

            def interrupt(*_: Any) -> bool:
                assert transport.statistics().waiting == 1
                held.close()  # which grants the place to the one that is interrupted
                raise KeyboardInterrupt

            monkeypatch.setattr(type(SYSTEM), "wait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.get(server.url)
            monkeypatch.undo()
            now = transport.statistics()
            assert (now.in_use, now.waiting) == (0, 0)
            assert client.get(server.url).status_code == 200


# -- finalisers and forks ----------------------------------------------------------------------------------------------


def test_a_response_finalised_while_its_own_thread_holds_the_lock_does_not_hang(library: Library) -> None:
    """The collector runs a finaliser in any allocation, also inside the guarded part (L12)."""
    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(max_connections=1, verify=False, trust_env=False)
        request = library.client.Request("GET", server.url, extensions={"timeout": {}})
        dropped = transport.handle_request(request)
        with transport._sync_pool.connections.lock:
            del dropped
            gc.collect()
        with library.client.Client(transport=transport, timeout=PATIENCE) as client:
            assert client.get(server.url).status_code == 200
            server.settle(still_open=1)
            assert transport.statistics().opened == 2


@needs_fork
def test_a_forked_child_uses_connections_of_its_own_and_leaves_those_of_the_parent_alone(library: Library) -> None:
    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(max_connections=2, verify=False, trust_env=False)
        with library.client.Client(transport=transport, timeout=PATIENCE) as client:
            client.get(server.url)
            held = client.send(client.build_request("GET", f"{server.url}/held"), stream=True)
            client.get(server.url)
            lock = transport._sync_pool.connections.lock
            with lock:  # as another thread might at that moment (L13)

                def work() -> None:
                    now = transport.statistics()
                    assert (now.in_use, now.idle, now.waiting) == (0, 0, 0)
                    for path in ("/1", "/2"):
                        assert client.get(server.url + path).text == path
                    held.close()
                    assert transport.statistics().idle == 1
                    client.close()

                in_child(work)
            assert held.read() == b"/held"
            assert client.get(f"{server.url}/mine").text == "/mine"
            assert (transport.statistics().opened, server.accepted) == (2, 3)


@needs_fork
def test_a_forked_child_runs_an_event_loop_of_its_own(library: Library) -> None:
    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(verify=False, trust_env=False)

        async def get(path: str) -> str:
            client = library.client.AsyncClient(transport=transport, timeout=PATIENCE)
            return str((await client.get(server.url + path)).text)

        with asyncio.Runner() as runner:
            assert runner.run(get("/1")) == "/1"

            def work() -> None:
                asyncio.events._set_running_loop(None)

                async def main() -> None:
                    assert await get("/2") == "/2"
                    await transport.aclose()

                asyncio.run(main())

            in_child(work)
            assert runner.run(get("/3")) == "/3"
            assert server.accepted == 2
            runner.run(transport.aclose())
        assert os.getpid()


def test_another_thread_may_close_what_was_doomed_first(library: Library) -> None:
    pool = library.bound.PooledTransport(verify=False, trust_env=False)._sync_pool

    class Emptied:
        """Looks as if it held something, but another thread has just taken it."""

        def __bool__(self) -> bool:
            return True

        def popleft(self) -> Any:
            raise IndexError

    pool.connections.doomed = Emptied()
    pool.tidy()


def test_closing_the_transport_ends_a_request_that_is_just_connecting(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    wires: list[Wire] = []

    def connect(*_: Any, **__: Any) -> Wire:
        transport.close()  # by another thread, in that moment
        return Wire(wires)

    monkeypatch.setattr(pooled_sync, "connect", connect)
    monkeypatch.setattr(Wire, "interrupted_at", 0)
    transport = library.bound.PooledTransport(verify=False, trust_env=False)
    client = library.client.Client(transport=transport)
    with pytest.raises(library.client.ConnectError, match="the transport was closed"):
        client.get("http://a.test/")
    assert [wire.closed for wire in wires] == [True]
    assert transport.statistics().in_use == 0


@pytest.mark.parametrize("encrypted", [False, True])
def test_closing_the_transport_wakes_a_thread_that_is_reading(library: Library, encrypted: bool) -> None:
    """It slept on until its read timeout, or for ever without one, because closing a descriptor wakes nobody."""

    async def handler(peer: Peer) -> None:
        await peer.request()
        await peer.reader.read(-1)

    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    with ScriptedServer(handler, tls=tls if encrypted else None) as server:
        transport = library.bound.PooledTransport(verify=False, trust_env=False)
        client = library.client.Client(transport=transport, timeout=None)
        outcome: list[Any] = []

        def read() -> None:
            try:
                client.post(server.url)
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        server.wait_for_requests(1)
        transport.close()
        thread.join(PATIENCE)
        assert [type(error) for error in outcome] in ([library.client.RemoteProtocolError], [library.client.ReadError])
        assert transport.statistics().in_use == 0
        server.settle()
        transport.close()


def test_closing_the_transport_closes_what_was_dropped_but_not_given_back_yet(library: Library) -> None:
    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(verify=False, trust_env=False)
        connections = transport._sync_pool.connections
        dropped = transport.handle_request(library.client.Request("GET", server.url, extensions={"timeout": {}}))
        [place] = connections.places
        with connections.lock:
            del dropped
            gc.collect()
        assert place.stream.get_extra_info("socket").fileno() >= 0
        transport.close()
        assert place.stream.get_extra_info("socket").fileno() == -1


def test_closing_the_transport_closes_what_was_granted_to_one_who_did_not_wake_up_yet(library: Library) -> None:
    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(max_connections=1, verify=False, trust_env=False)
        pool, request = transport._sync_pool, library.client.Request("GET", server.url, extensions={"timeout": {}})
        response = transport.handle_request(request)
        waiter = pool.connections.acquire(pool.prepared(request)[1])
        response.read()
        place = waiter.place
        transport.close()
        with pytest.raises(library.client.PoolTimeout, match="the transport was closed"):
            pool.granted(waiter, True, request)
        assert place.stream.get_extra_info("socket").fileno() == -1


def test_what_is_interrupted_after_it_was_closed_stays_closed(library: Library) -> None:
    ours, peer = socket.socketpair()
    stream = SyncStream(library.core, ours)
    stream.close()
    stream.interrupt()
    peer.close()


def test_an_error_while_closing_a_response_ends_its_connection(library: Library) -> None:
    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(verify=False, trust_env=False)
        with library.client.Client(transport=transport) as client:

            def trace(name: str, info: Any) -> None:
                if name == "http11.response_closed.started":
                    raise library.core.ReadError("from the trace")

            with pytest.raises(library.client.ReadError, match="from the trace"):
                client.get(server.url, extensions={"trace": trace})
            assert transport.statistics().in_use == 0
            server.settle()


def test_a_connection_that_has_expired_is_closed_before_another_takes_its_place(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    wires: list[Wire] = []
    monkeypatch.setattr(pooled_sync, "connect", lambda *_, **__: Wire(wires))
    monkeypatch.setattr(Wire, "interrupted_at", 0)
    monkeypatch.setattr(Wire, "get_extra_info", lambda self, name: name == "is_readable")
    transport = library.bound.PooledTransport(verify=False, trust_env=False)
    client = library.client.Client(transport=transport)
    for _ in range(3):
        assert client.get("http://a.test/").text == "ok"
    assert [wire.closed for wire in wires] == [True, True, False]
    assert transport.statistics().idle == 1


def test_closing_the_transport_while_a_connect_fails_leaves_nothing(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any, **__: Any) -> Wire:
        transport.close()  # by another thread, in that moment
        raise library.core.ConnectError("refused")

    monkeypatch.setattr(pooled_sync, "connect", connect)
    transport = library.bound.PooledTransport(verify=False, trust_env=False)
    with pytest.raises(library.client.ConnectError, match="refused"):
        library.client.Client(transport=transport).get("http://a.test/")
    assert not transport._sync_pool.connections.doomed
    assert transport.statistics().in_use == 0


def test_an_interrupt_while_closing_a_response_ends_its_connection(library: Library) -> None:
    with ScriptedServer(keep_alive) as server:
        transport = library.bound.PooledTransport(verify=False, trust_env=False)
        with library.client.Client(transport=transport) as client:

            def trace(name: str, info: Any) -> None:
                if name == "http11.response_closed.started":
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                client.get(server.url, extensions={"trace": trace})
            assert transport.statistics().in_use == 0
            server.settle()


def test_the_pauses_before_further_attempts_double() -> None:
    assert list(delays(0)) == []
    assert list(delays(5)) == [0.0, 0.5, 1.0, 2.0, 4.0]
