"""Cancelled at any moment, PooledTransport leaks no place and no socket, and mixes no responses up (L3, L11)."""

from __future__ import annotations

import asyncio
import gc
import random
import ssl
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import resilience_http._pooled_async as pooled_async
import trustme

from resilience.clock import SYSTEM, turn
from resilience.deadline import Deadline, ambient
from resilience.testing import ManualClock

from .http_servers import LIBRARIES, PATIENCE, Library, Peer, ScriptedServer
from .sweep import Ending, sweep

LIMIT = 4
Call = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.name)
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


@contextmanager
def no_collector() -> Iterator[None]:
    """What is only let go of by the collector is a leak."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def in_force(deadline: Deadline) -> Iterator[None]:
    token = ambient.set(deadline)
    try:
        yield
    finally:
        ambient.reset(token)


async def slow_echo(peer: Peer) -> None:
    """Head and body of every answer come some milliseconds apart, so that a cancellation meets each phase."""
    rng = random.Random(peer.number)
    while True:
        path = peer.path(await peer.request()).encode()
        await asyncio.sleep(rng.choice((0.0, 0.001, 0.003)))
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path))
        await asyncio.sleep(rng.choice((0.0, 0.001)))
        await peer.send(path)


# -- storms ------------------------------------------------------------------------------------------------------------


async def cancelled_once(call: Call, seconds: float, rng: random.Random) -> Any:
    task = asyncio.ensure_future(call())
    asyncio.get_running_loop().call_later(seconds, task.cancel)
    return await task


async def cancelled_twice(call: Call, seconds: float, rng: random.Random) -> Any:
    task = asyncio.ensure_future(call())
    loop = asyncio.get_running_loop()
    loop.call_later(seconds, task.cancel)
    loop.call_later(seconds + rng.choice((0.0, 0.0001, 0.001)), task.cancel)
    return await task


async def waited_for(call: Call, seconds: float, rng: random.Random) -> Any:
    return await asyncio.wait_for(call(), seconds)


async def in_a_scope_of_anyio(call: Call, seconds: float, rng: random.Random) -> Any:
    with anyio.move_on_after(seconds):
        return await call()
    return None


WAYS = (cancelled_once, cancelled_twice, waited_for, in_a_scope_of_anyio)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.replace("_", " "))
def test_after_a_storm_of_requests(library: Library, way: Any, secure: bool, authority: trustme.CA) -> None:
    """The libraries' own pools die of this, or leave sockets behind until the collector runs."""
    serving, trusting = None, ssl.create_default_context()
    if secure:
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(serving)
        authority.configure_trust(trusting)
    with ScriptedServer(slow_echo, tls=serving) as server, no_collector():
        asyncio.run(storm(library, way, server, trusting, count=120))
        server.settle()


async def storm(library: Library, way: Any, server: ScriptedServer, context: ssl.SSLContext, count: int) -> None:
    rng = random.Random(7)
    transport = library.bound.PooledTransport(max_connections=LIMIT, verify=context, trust_env=False)
    crossed = 0
    async with library.client.AsyncClient(transport=transport, timeout=20) as client:

        async def one(number: int) -> None:
            nonlocal crossed
            path = f"/{number}"

            async def call() -> Any:
                return await client.get(server.url + path)

            try:
                response = await way(call, rng.choice((0.0, 0.001, 0.004, 0.02, 0.1)) * rng.random(), rng)
            except (asyncio.CancelledError, TimeoutError):
                return
            if response is not None and response.text != path:
                crossed += 1

        batch = LIMIT * 5
        for start in range(0, count, batch):
            await asyncio.gather(*(one(number) for number in range(start, start + batch)))
        for _ in range(10):
            await turn()
        now = transport.statistics()
        assert (now.in_use, now.waiting) == (0, 0)
        server.settle(still_open=now.idle)
        held = [await client.send(client.build_request("GET", f"{server.url}/h"), stream=True) for _ in range(LIMIT)]
        assert transport.statistics().in_use == LIMIT, "the whole capacity works"
        for response in held:
            await response.aclose()
        assert crossed == 0


# -- every single point ------------------------------------------------------------------------------------------------


class Wire:
    """A stream without a socket: every read and write takes a moment of virtual time."""

    def __init__(self, clock: ManualClock, log: list[Wire]) -> None:
        self.clock = clock
        self.closed = False
        self.sent = self.received = False
        log.append(self)

    def begin(self) -> None:
        self.sent = self.received = False

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self.clock.asleep(0.001)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await self.clock.asleep(0.001)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def start_tls(self, context: Any, name: str, timeout: float | None) -> Wire:
        await self.clock.asleep(0.001)
        return self

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str) -> Any:
        return None


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_cancellation_at_any_point_leaks_nothing(
    library: Library, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks: list[ManualClock] = []
    wires: list[Wire] = []

    async def connect(*_: Any, **__: Any) -> Wire:
        await clocks[-1].asleep(0.001)
        return Wire(clocks[-1], wires)

    monkeypatch.setattr(pooled_async, "connect", connect)

    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], Any]:
        clocks.append(clock)
        wires.clear()
        transport = library.bound.PooledTransport(max_connections=1, verify=False, trust_env=False, clock=clock)
        client = library.client.AsyncClient(transport=transport, timeout=1.0)

        async def work() -> list[str]:
            # The first holds the only place while the second waits for it, and the one in between goes elsewhere.
            others = [asyncio.ensure_future(client.get(f"{scheme}://{host}.test/")) for host in "ab"]
            try:
                await turn()
                mine = await client.get(f"{scheme}://a.test/")
                return [mine.text, *[(await other).text for other in others]]
            finally:
                for other in others:
                    other.cancel()
                await asyncio.wait(others)

        return work(), transport

    async def check(ending: Ending[Any]) -> None:
        now = ending.state.statistics()
        assert (now.in_use, now.waiting) == (0, 0)
        assert sum(not wire.closed for wire in wires) == now.idle
        if ending.point == 0:
            assert ending.result == ["ok", "ok", "ok"]
        async with library.client.AsyncClient(transport=ending.state, timeout=1.0) as client:
            assert (await client.get(f"{scheme}://c.test/")).text == "ok"
        assert all(wire.closed for wire in wires)

    assert sweep(scenario, check) >= 16


# -- the queue ---------------------------------------------------------------------------------------------------------


async def test_requests_cancelled_in_the_queue_do_not_poison_the_pool(library: Library) -> None:
    """httpcore 1.0.9: cancelling requests that wait for a connection stops the pool for good (L11)."""
    with ScriptedServer(slow_echo) as server:
        async with library.client.AsyncClient(
            transport=library.bound.PooledTransport(max_connections=1, verify=False), timeout=20
        ) as client:
            held = await client.send(client.build_request("GET", f"{server.url}/held"), stream=True)
            waiting = [asyncio.ensure_future(client.get(f"{server.url}/{number}")) for number in range(20)]
            await turn()
            await turn()
            for task in waiting[:-1]:
                task.cancel()
            await held.aclose()
            assert (await waiting[-1]).text == "/19"
            assert client._transport.statistics().waiting == 0


async def test_a_connection_handed_to_a_request_that_is_cancelled_at_that_moment_goes_to_the_next(
    library: Library,
) -> None:
    with ScriptedServer(slow_echo) as server:
        transport = library.bound.PooledTransport(max_connections=1, verify=False)
        async with library.client.AsyncClient(transport=transport, timeout=20) as client:
            held = await client.send(client.build_request("GET", f"{server.url}/held"), stream=True)
            await held.aread()
            held = await client.send(client.build_request("GET", f"{server.url}/held"), stream=True)
            first, second = (asyncio.ensure_future(client.get(f"{server.url}/{name}")) for name in "ab")
            while transport.statistics().waiting < 2:
                await turn()
            await held.aread()  # which grants the place to the first
            first.cancel()
            assert (await second).text == "/b"
            assert (server.accepted, transport.statistics().opened) == (1, 1)


def collected(left_open: list[Any]) -> None:
    """Let go of what belongs to a closed loop, which cannot close its sockets any more: it says so, and does it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        left_open.clear()
        gc.collect()


# -- event loops -------------------------------------------------------------------------------------------------------


def test_a_loop_that_was_closed_with_requests_pending_is_left_behind(library: Library) -> None:
    with ScriptedServer(slow_echo) as server:
        transport = library.bound.PooledTransport(max_connections=1, verify=False)
        client = library.client.AsyncClient(transport=transport, timeout=20)
        loop = asyncio.new_event_loop()
        held = loop.run_until_complete(client.send(client.build_request("GET", f"{server.url}/1"), stream=True))
        waiting = loop.create_task(client.get(f"{server.url}/2"))
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

        async def again() -> None:
            assert (await client.get(f"{server.url}/3")).text == "/3"
            assert transport.statistics().in_use == 0
            await client.aclose()

        asyncio.run(again())
        server.settle()
        buried: Any = waiting
        buried._log_destroy_pending = False
        buried.get_coro().close()
        del buried
        left_open = [held, waiting, loop]
        del held, waiting, loop
        collected(left_open)
        assert transport.statistics().in_use == 0


def test_connections_of_a_loop_that_is_alive_are_not_used_by_another(library: Library) -> None:
    with ScriptedServer(slow_echo) as server, asyncio.Runner() as first, asyncio.Runner() as second:
        transport = library.bound.PooledTransport(verify=False)
        client = library.client.AsyncClient(transport=transport, timeout=20)

        async def get() -> str:
            return str((await client.get(f"{server.url}/1")).text)

        assert first.run(get()) == "/1"
        with pytest.raises(RuntimeError, match="another event loop"):
            second.run(get())
        first.run(client._transport.aclose())
        assert second.run(get()) == "/1"
        second.run(client.aclose())


def test_a_response_dropped_in_another_thread_or_after_its_loop_gives_nothing_back_twice(library: Library) -> None:
    with ScriptedServer(slow_echo) as server:
        transport = library.bound.PooledTransport(verify=False)
        request = library.client.Request("GET", f"{server.url}/1", extensions={"timeout": {}})

        async def main() -> Any:
            dropped = await transport.handle_async_request(request)
            await asyncio.get_running_loop().run_in_executor(None, dropped.stream.__del__)
            dropped.stream._place = None
            while transport.statistics().in_use:
                await turn()
            return await transport.handle_async_request(request)

        late = asyncio.run(main())
        left_open = [late]
        del late
        collected(left_open)

        async def again() -> None:
            response = await transport.handle_async_request(request)
            await response.aread()
            assert transport.statistics().in_use == 0
            await transport.aclose()

        asyncio.run(again())
        server.settle()
        collected([])


def test_without_asyncio_a_request_is_refused_clearly(library: Library) -> None:
    coroutine = library.bound.PooledTransport(verify=False).handle_async_request(
        library.client.Request("GET", "http://localhost/")
    )
    with pytest.raises(RuntimeError, match="Trio"):
        coroutine.send(None)


async def test_waiting_for_a_connection_is_not_part_of_the_duration_that_a_breaker_sees(library: Library) -> None:
    from resilience import _wait

    with ScriptedServer(slow_echo) as server:
        transport = library.bound.PooledTransport(max_connections=1, verify=False)
        async with library.client.AsyncClient(transport=transport, timeout=20) as client:
            held = await client.send(client.build_request("GET", f"{server.url}/held"), stream=True)
            began = SYSTEM.now()
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, lambda: loop.create_task(held.aclose()))
            meter = _wait.Meter(None)
            token = _wait.meter.set(meter)
            await client.get(f"{server.url}/1")
            _wait.meter.reset(token)
            assert 0.03 < meter.waited < SYSTEM.now() - began


@pytest.mark.parametrize("who", ["a deadline", "a stranger"])
@pytest.mark.parametrize("phase, reason", [("queue", "PoolTimeout"), ("handshake", "ConnectTimeout"), ("answer", None)])
async def test_a_request_cut_off_by_a_deadline_says_what_it_was_waiting_for(
    library: Library, phase: str, reason: str | None, who: str
) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.reader.read()

    with ScriptedServer(silent) as server:
        transport = library.bound.PooledTransport(max_connections=1, verify=False, trust_env=False)
        url = f"{'https' if phase == 'handshake' else 'http'}://localhost:{server.port}"
        limit = Deadline(SYSTEM.now() + PATIENCE, SYSTEM)

        async def limited() -> Any:
            limit.task = asyncio.current_task()
            with in_force(limit):
                return await client.get(url)

        async with library.client.AsyncClient(transport=transport, timeout=PATIENCE) as client:
            other = asyncio.ensure_future(client.get(url)) if phase == "queue" else None
            if other is not None:
                await asyncio.to_thread(server.wait_for_requests, 1)
            task = asyncio.ensure_future(limited())
            if phase == "queue":
                for _ in range(3):
                    await turn()
                assert transport.statistics().waiting == 1
            elif phase == "handshake":
                await asyncio.to_thread(server.settle, 1)
            else:
                await asyncio.to_thread(server.wait_for_requests, 1)
            (limit.fire if who == "a deadline" else task.cancel)()
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            cause: Any = caught.value.__cause__
            if reason is None or who == "a stranger":
                assert cause is None
            else:
                assert type(cause) is getattr(library.client, reason)
                assert cause.request.url == url
            if other is not None:
                other.cancel()
                await asyncio.wait([other])
