"""The network streams below PooledTransport, and how they are connected: each socket has an owner at every moment."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpcore
import pytest
import resilience_http._dial_async as dial
from resilience_http import _stream_sync
from resilience_http._stream_async import AsyncStream, _expire
from resilience_http._stream_sync import SyncStream

from resilience import Timeout
from resilience.clock import turn
from resilience.testing import ManualClock

RESET = struct.pack("ii", 1, 0)  # SO_LINGER that makes close() reset the connection


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.settimeout(20)
    return ours, theirs


@pytest.fixture
async def pair() -> AsyncIterator[tuple[AsyncStream, socket.socket]]:
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    stream = AsyncStream(httpcore)
    await asyncio.get_running_loop().create_connection(lambda: stream, sock=ours)
    yield stream, theirs
    stream.close()
    theirs.close()
    await turn()
    await turn()


Pair = tuple[AsyncStream, socket.socket]


# -- of an event loop --------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await turn()


async def test_what_was_received_is_read_in_pieces_of_the_size_wanted(pair: Pair) -> None:
    stream, theirs = pair
    theirs.sendall(b"abcdef")
    assert await stream.read(4, timeout=20) == b"abcd"
    assert await stream.read(4) == b"ef"
    reading = asyncio.ensure_future(stream.read(4))
    await turn()
    theirs.sendall(b"g")
    assert await reading == b"g"
    theirs.shutdown(socket.SHUT_WR)
    assert await stream.read(4, timeout=20) == b""
    assert await stream.read(4, timeout=20) == b""


async def test_a_peer_that_sends_faster_than_is_read_is_slowed_down(pair: Pair) -> None:
    stream, theirs = pair
    theirs.setblocking(False)
    sent = 0

    def push() -> bool:
        nonlocal sent
        try:
            sent += theirs.send(b"x" * 100_000)
        except BlockingIOError:
            return True
        return False

    await until(lambda: push() and stream._paused)
    assert stream._buffered < 2_000_000
    read = 0
    while read < sent:
        read += len(await stream.read(65536, timeout=20))
    assert read == sent
    assert not stream._paused


async def test_sending_nothing_is_no_sign_of_a_request(pair: Pair) -> None:
    stream, theirs = pair
    await stream.write(b"")
    assert (stream.sent, stream.received) == (False, False)
    await stream.write(b"abc", timeout=20)
    assert theirs.recv(10) == b"abc"
    theirs.sendall(b"x")
    await stream.read(10)
    assert (stream.sent, stream.received) == (True, True)
    stream.begin()
    assert (stream.sent, stream.received) == (False, False)


async def test_a_write_waits_while_the_peer_takes_nothing(pair: Pair) -> None:
    stream, theirs = pair
    data = b"x" * 20_000_000
    writing = asyncio.ensure_future(stream.write(data))
    loop, got = asyncio.get_running_loop(), 0
    while got < len(data):
        got += len(await loop.run_in_executor(None, theirs.recv, 1_000_000))
    await writing
    with pytest.raises(httpcore.WriteTimeout):
        await stream.write(data, timeout=0.01)


async def test_a_connection_that_breaks_during_a_write_is_a_write_error(pair: Pair) -> None:
    stream, theirs = pair
    writing = asyncio.ensure_future(stream.write(b"x" * 20_000_000, timeout=20))
    await turn()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    with pytest.raises(httpcore.WriteError):
        await writing
    with pytest.raises(httpcore.WriteError):
        await stream.write(b"y")


async def test_a_reset_connection_is_a_read_error_and_readable(pair: Pair) -> None:
    stream, theirs = pair
    assert not stream.get_extra_info("is_readable")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    assert stream.get_extra_info("is_readable"), "the system knows before the event loop does"
    with pytest.raises(httpcore.ReadError, match="reset"):
        await stream.read(10, timeout=20)
    assert stream.get_extra_info("is_readable")


async def test_nothing_is_sent_to_a_peer_that_has_said_goodbye_before(pair: Pair) -> None:
    stream, theirs = pair
    theirs.shutdown(socket.SHUT_WR)
    await until(lambda: stream._ended)
    with pytest.raises(httpcore.WriteError):
        await stream.write(b"abc")
    assert not stream.sent
    stream.sent = True
    await stream.write(b"abc")  # but the rest of a request whose answer came early is
    assert theirs.recv(10) == b"abc"


async def test_a_stream_closed_here_is_a_read_error_for_who_reads_it(pair: Pair) -> None:
    stream, _ = pair
    reading = asyncio.ensure_future(stream.read(10))
    await turn()
    await stream.aclose()
    with pytest.raises(httpcore.ReadError, match="closed on this side"):
        await reading


async def test_a_timer_that_comes_too_late_changes_nothing() -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    _expire(future, httpcore.ReadTimeout)
    assert future.result() is None


def test_a_stream_of_a_closed_loop_tells_its_peer() -> None:
    ours, theirs = tcp_pair()
    ours.setblocking(False)
    loop = asyncio.new_event_loop()

    async def make() -> AsyncStream:
        stream = AsyncStream(httpcore)
        await loop.create_connection(lambda: stream, sock=ours)
        return stream

    stream = loop.run_until_complete(make())
    loop.close()
    stream.close()
    assert theirs.recv(10) == b""
    ours.close()
    stream._shut()
    AsyncStream.close(_unconnected(stream))
    theirs.close()
    with pytest.warns(ResourceWarning):
        _let_go(stream._transport)


def _unconnected(stream: AsyncStream) -> AsyncStream:
    other = AsyncStream.__new__(AsyncStream)
    vars(other).update(vars(stream) | {"_transport": None})
    return other


def _let_go(transport: Any) -> None:
    type(transport).__del__(transport)
    transport._sock = None


# -- connecting --------------------------------------------------------------------------------------------------------


class FakeSocket:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


ADDRESSES: list[Any] = [(1, "one"), (2, "two"), (3, "three")]


def attempts(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> dict[str, FakeSocket]:
    """Attempts that take so long; negative ones are refused after that time."""
    sockets: dict[str, FakeSocket] = {}

    async def attempt(loop: Any, address: Any, local_address: Any) -> Any:
        delay = seconds[address[1]]
        sockets[address[1]] = FakeSocket()
        try:
            await asyncio.sleep(abs(delay))
            if delay < 0:
                raise ConnectionRefusedError(f"{address[1]} refused")
        except BaseException:
            sockets[address[1]].close()
            raise
        return sockets[address[1]]

    monkeypatch.setattr(dial, "_attempt", attempt)
    monkeypatch.setattr(dial, "_PATIENCE_WITH_AN_ADDRESS", 0.005)
    return sockets


async def race() -> Any:
    return await dial._race(asyncio.get_running_loop(), ADDRESSES, None)


async def test_the_first_address_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = attempts(monkeypatch, one=-0.0001, two=0.0, three=0.0)
    winner = await race()
    assert winner is sockets["two"]
    assert "three" not in sockets


async def test_an_address_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = attempts(monkeypatch, one=60.0, two=60.0, three=0.0)
    winner = await race()
    await turn()
    await turn()
    assert winner is sockets["three"]
    assert not winner.closed
    assert sockets["one"].closed
    assert sockets["two"].closed


async def test_if_every_address_refuses_the_error_says_what_each_said(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts(monkeypatch, one=-0.02, two=-0.0001, three=-0.0001)
    with pytest.raises(OSError, match="one refused; two refused; three refused"):
        await race()


async def test_two_that_answer_at_once_and_a_cancellation_leave_no_socket_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop's own version keeps the socket of the winner if it is cancelled in the moment of success."""
    for turns in range(8):
        sockets = attempts(monkeypatch, one=0.0, two=0.0, three=0.0)
        monkeypatch.setattr(dial, "_PATIENCE_WITH_AN_ADDRESS", 0.0)
        racing = asyncio.ensure_future(race())
        for _ in range(turns):
            await turn()
        racing.cancel()
        await asyncio.wait([racing])
        for _ in range(4):
            await turn()
        winner = None if racing.cancelled() else racing.result()
        assert all(made.closed for made in sockets.values() if made is not winner)


async def test_a_socket_option_that_is_none_closes_the_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        wrong: Any = ((-1, -1, -1),)
        with pytest.raises(httpcore.ConnectError):
            await dial.connect(httpcore, "127.0.0.1", port, uds=None, local_address=None, options=wrong, timeout=20)
        peer, _ = listener.accept()
        peer.settimeout(20)
        assert peer.recv(1) == b""
        peer.close()
        gc.collect()


async def test_a_host_with_two_addresses_is_connected_to_at_the_one_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        addresses = [(int(socket.AF_INET), found.getsockname()) for found in (nobody, listener)]

        async def resolve(*_: Any) -> Any:
            return addresses

        monkeypatch.setattr(dial, "_resolve", resolve)
        stream = await dial.connect(httpcore, "two.test", 80, uds=None, local_address=None, options=(), timeout=20)
        assert stream.get_extra_info("server_addr") == listener.getsockname()
        await stream.aclose()
        await turn()
        await turn()


async def test_a_name_is_resolved_to_its_addresses_with_the_families_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    v4, v6 = int(socket.AF_INET), int(socket.AF_INET6)

    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        return [(family, 1, 6, "", name) for family, name in ((v6, "a"), (v6, "b"), (v6, "c"), (v4, "d"))]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    assert await dial._resolve(loop, "name.test", 80) == [(v6, "a"), (v4, "d"), (v6, "b"), (v6, "c")]
    assert await dial._resolve(loop, "127.0.0.1", 80) == [(v4, ("127.0.0.1", 80))]
    assert await dial._resolve(loop, "::1", 80) == [(v6, ("::1", 80, 0, 0))]


# -- of a thread -------------------------------------------------------------------------------------------------------


@pytest.fixture
def blocking() -> Iterator[tuple[SyncStream, socket.socket]]:
    ours, theirs = tcp_pair()
    yield SyncStream(httpcore, ours), theirs
    ours.close()
    theirs.close()


def test_a_thread_notices_a_reset(blocking: tuple[SyncStream, socket.socket]) -> None:
    stream, theirs = blocking
    assert not stream.get_extra_info("is_readable")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    theirs.close()
    assert stream.get_extra_info("is_readable")
    with pytest.raises(httpcore.ReadError):
        stream.read(10, timeout=20)
    with pytest.raises(httpcore.WriteError):
        stream.write(b"abc")
    assert not stream.sent
    stream.close()
    assert stream.get_extra_info("is_readable")


def test_a_step_after_the_deadline_is_a_timeout_of_its_kind(blocking: tuple[SyncStream, socket.socket]) -> None:
    stream, theirs = blocking
    theirs.sendall(b"too late")
    address: Any = stream.get_extra_info("client_addr")
    steps: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: stream.read(10, timeout=20), httpcore.ReadTimeout),
        (lambda: stream.write(b"abc", timeout=None), httpcore.WriteTimeout),
        (lambda: stream.start_tls(ssl.create_default_context(), "a.test", 20), httpcore.ConnectTimeout),
        (
            lambda: _stream_sync.connect(
                httpcore, address[0], address[1], uds=None, local_address=None, options=(), timeout=20
            ),
            httpcore.ConnectTimeout,
        ),
    ]
    for step, kind in steps:
        clock = ManualClock()

        def late(step: Callable[[], Any] = step, clock: ManualClock = clock) -> None:
            clock.advance(2.0)
            step()

        with pytest.raises(kind):
            Timeout(1.0, clock=clock)(late)()
    assert not stream.received


def test_what_was_sent_and_received_is_known(blocking: tuple[SyncStream, socket.socket]) -> None:
    stream, theirs = blocking
    stream.write(b"")
    theirs.shutdown(socket.SHUT_WR)
    assert stream.read(10) == b""
    assert (stream.sent, stream.received) == (False, False)
    stream.write(b"abc", timeout=20)
    assert theirs.recv(10) == b"abc"
    assert stream.sent
    with pytest.raises(httpcore.WriteTimeout):
        stream.write(b"x" * 20_000_000, timeout=0.01)
    stream.begin()
    assert not stream.sent


Addresses = list[tuple[Any, ...]]


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Addresses:
    """What every name is resolved to."""
    found: Addresses = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    return found


def tcp(address: Any) -> tuple[Any, ...]:
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address


def connect_now(**options: Any) -> SyncStream:
    settings: dict[str, Any] = {"uds": None, "local_address": None, "options": (), "timeout": 20.0, **options}
    return _stream_sync.connect(httpcore, "a.test", 1, **settings)


def test_a_thread_tries_one_address_after_the_other(addresses: Addresses) -> None:
    with socket.create_server(("127.0.0.1", 0)) as refusing:
        refused = refusing.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        addresses += [tcp(refused), tcp(listener.getsockname())]
        stream = connect_now(local_address="127.0.0.1")
        assert stream.get_extra_info("server_addr") == listener.getsockname()
        stream.close()
    addresses.pop()
    with pytest.raises(httpcore.ConnectError, match="refused"):
        connect_now()
    addresses.clear()
    with pytest.raises(httpcore.ConnectError, match=r"a\.test has no address"):
        connect_now()


def test_the_deadline_is_for_all_addresses_of_a_host_together(addresses: Addresses) -> None:
    """Eight addresses that do not answer took eight times as long as one."""
    clock = ManualClock()
    tried: list[float | None] = []

    class Silent(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(self.gettimeout())
            clock.advance(2.0)
            raise TimeoutError

    addresses += [tcp(("127.0.0.1", 1))] * 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Silent)
        with pytest.raises(httpcore.ConnectTimeout):
            Timeout(5.0, clock=clock)(connect_now)(timeout=2.0)
    assert tried == [2.0, 2.0, 1.0]


def test_an_interrupt_while_an_address_is_tried_closes_the_socket(addresses: Addresses) -> None:
    opened: list[socket.socket] = []

    class Interrupted(socket.socket):
        def connect(self, address: Any) -> None:
            opened.append(self)
            raise KeyboardInterrupt

    addresses.append(tcp(("127.0.0.1", 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            connect_now()
    assert [raw.fileno() for raw in opened] == [-1]


@pytest.mark.parametrize("uds", [False, True], ids=["tcp", "unix"])
def test_an_interrupt_while_connecting_closes_the_socket(uds: bool, tmp_path: Any) -> None:
    class Interrupt:
        def __iter__(self) -> Iterator[Any]:
            raise KeyboardInterrupt

    family = socket.AF_UNIX if uds else socket.AF_INET
    address: Any = str(tmp_path / "socket") if uds else ("127.0.0.1", 0)
    with socket.create_server(address, family=family) as listener:
        options: Any = Interrupt()
        with pytest.raises(KeyboardInterrupt):
            _stream_sync.connect(
                httpcore,
                "127.0.0.1",
                0 if uds else listener.getsockname()[1],
                uds=address if uds else None,
                local_address=None,
                options=options,
                timeout=20,
            )
        peer, _ = listener.accept()
        peer.settimeout(20)
        assert peer.recv(1) == b""
        peer.close()


def test_an_interrupted_handshake_closes_the_socket(blocking: tuple[SyncStream, socket.socket]) -> None:
    class Context:
        def wrap_socket(self, *_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

    stream, theirs = blocking
    context: Any = Context()
    with pytest.raises(KeyboardInterrupt):
        stream.start_tls(context, "localhost", 20)
    assert theirs.recv(1) == b""
