"""Real servers on loopback for the HTTP tests, and one face for both client libraries and both colours of caller."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import ssl
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import parse_qs

import httpcore
import httpcore2
import httpx
import httpx2
import resilience_httpx
import resilience_httpx2
import uvicorn

PATIENCE = 20.0  # seconds for what takes milliseconds unless it hangs

Handler = Callable[["Peer"], Awaitable[None]]


@dataclass(frozen=True)
class Library:
    """One client library with what is bound to it."""

    client: Any
    core: Any
    bound: Any

    @property
    def name(self) -> str:
        name: str = self.client.__name__
        return name


LIBRARIES = (Library(httpx, httpcore, resilience_httpx), Library(httpx2, httpcore2, resilience_httpx2))


class Peer:
    """One accepted connection, as a scripted server sees it. `number` counts from 1."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next request, head and body; raises EOFError when the client has closed."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length":
                head += await self.reader.readexactly(int(value))
        return head

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes = b"ok", status: str = "200 OK", headers: str = "") -> None:
        await self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    def path(self, request: bytes) -> str:
        return request.split(b" ", 2)[1].decode()


class ScriptedServer:
    """A server in a thread that runs `handler` for each connection, and knows how many are open."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None, uds: str | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self._uds = uds
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._over: asyncio.Event = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.accepted = 0
        self.open = 0
        self.most_open = 0
        self.requests: list[bytes] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://localhost:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)

    def settle(self, still_open: int = 0) -> None:
        """Wait until the server sees exactly so many open connections; an assertion error if it never does."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.open == still_open, PATIENCE), f"{self.open} are open"

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, PATIENCE), self.requests

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        if self._uds is not None:
            server = await asyncio.start_unix_server(self._accept, self._uds)
        else:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls, backlog=500)
            self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count(1)
        peer = Peer(self.accepted, reader, writer)
        peer.request = self._noted(peer.request)  # type: ignore[method-assign]
        try:
            await self._handler(peer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            # The loop closes the socket in its next turn, just before this.
            self._loop.call_soon(self._count, -1)

    def _noted(self, receive: Callable[[], Coroutine[Any, Any, bytes]]) -> Any:
        async def request() -> bytes:
            received = await receive()
            with self._changed:
                self.requests.append(received)
                self._changed.notify_all()
            return received

        return request

    def _count(self, change: int) -> None:
        with self._changed:
            self.accepted += change > 0
            self.open += change
            self.most_open = max(self.most_open, self.open)
            self._changed.notify_all()


def collect(gone: weakref.ref[Any]) -> None:
    """Run the collector until that object is gone.

    Once is not enough where other threads run: `gc.collect()` does nothing while one of them is collecting.
    """
    for _ in range(1000):
        gc.collect()
        if gone() is None:
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"something still holds {gone()!r}")


async def keep_alive(peer: Peer) -> None:
    """Answers every request of a connection with the path it asked for."""
    while True:
        request = await peer.request()
        await peer.answer(peer.path(request).encode())


async def application(scope: Any, receive: Any, send: Any) -> None:
    """What uvicorn serves: the path and the body come back; `?sleep=`, `?chunks=` and `?close` do what they say."""
    if scope["type"] != "http":
        return
    query = parse_qs(scope["query_string"].decode(), keep_blank_values=True)
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await asyncio.sleep(float(query.get("sleep", ["0"])[0]))
    headers = [(b"connection", b"close")] if "close" in query else []
    await send({"type": "http.response.start", "status": int(query.get("status", ["200"])[0]), "headers": headers})
    for _ in range(int(query.get("chunks", ["0"])[0])):
        await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
    await send({"type": "http.response.body", "body": scope["path"].encode() + body})


@contextlib.contextmanager
def uvicorn_server() -> Iterator[str]:
    """A real server in a thread; yields its address."""
    config = uvicorn.Config(application, port=0, log_level="error", lifespan="off", access_log=False, backlog=500)
    server = uvicorn.Server(config)
    started = threading.Event()
    startup = server.startup

    async def started_up(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        started.set()

    server.startup = started_up  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


class Http:
    """A client library in one colour: the same calls drive `Client` and `AsyncClient`."""

    def __init__(self, library: Library, colour: str) -> None:
        self.library = library
        self.is_async = colour == "async"
        self.client_module = library.client
        self._runner = asyncio.Runner() if self.is_async else None
        self._clients: list[Any] = []

    def run(self, result: Any) -> Any:
        """The outcome of a call of this colour."""
        if self._runner is None:
            return result

        async def main() -> Any:
            return await result

        return self._runner.run(main(), context=contextvars.copy_context())

    def transport(self, **options: Any) -> Any:
        return self.library.bound.PooledTransport(**{"verify": False, "trust_env": False, **options})

    def client(self, transport: Any = None, **options: Any) -> Any:
        """A client on `transport` (or a new one with these options), closed at the end of the test."""
        kind = self.client_module.AsyncClient if self.is_async else self.client_module.Client
        client = kind(transport=transport or self.transport(**options), timeout=PATIENCE)
        self._clients.append(client)
        return client

    def get(self, client: Any, url: str, **options: Any) -> Any:
        return self.run(client.get(url, **options))

    def request(self, client: Any, method: str, url: str, **options: Any) -> Any:
        return self.run(client.request(method, url, **options))

    def open(self, client: Any, url: str, method: str = "GET", **options: Any) -> Any:
        """A response whose body was not read yet."""
        return self.run(client.send(client.build_request(method, url, **options), stream=True))

    def read(self, response: Any) -> bytes:
        return cast("bytes", self.run(response.aread() if self.is_async else response.read()))

    def first_part(self, response: Any) -> bytes:
        """The first part of the body, and no more."""
        if not self.is_async:
            return cast("bytes", next(response.iter_raw()))

        async def first() -> bytes:
            return await anext(response.aiter_raw())

        return cast("bytes", self.run(first()))

    def finish(self, response: Any) -> None:
        self.run(response.aclose() if self.is_async else response.close())

    def close(self, client: Any) -> None:
        self.run(client.aclose() if self.is_async else client.close())

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        """Make the calls at the same time, in tasks or threads; an exception is its outcome."""
        if self._runner is not None:

            async def main() -> list[Any]:
                return await asyncio.gather(*(call() for call in calls), return_exceptions=True)

            return self._runner.run(main())
        outcomes: list[Any] = [None] * len(calls)

        def one(number: int) -> None:
            try:
                outcomes[number] = calls[number]()
            except BaseException as error:
                outcomes[number] = error

        threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return outcomes

    def end(self) -> None:
        for client in self._clients:
            self.close(client)
        if self._runner is not None:
            self._runner.close()


def in_use(client: Any) -> tuple[int, int, int]:
    """How many connections of the client's transport are in use and idle, and how many requests wait."""
    now = client._transport.statistics()
    return now.in_use, now.idle, now.waiting
