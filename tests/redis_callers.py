"""What the tests of RedisStore have in common: callers in real time, stores on a shared server, and bad servers."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from resilience_redis import RedisStore

from resilience._courier import Operation
from resilience.clock import give_way

numbers = itertools.count()
GRACE = 0.05  # seconds beyond `store_timeout` that a call may take in trouble
COUNT = Operation("bulkhead", "count", "x", "none", ())


def take(key: str = "none", cost: float = 1.0) -> Operation:
    return Operation("limiter", "take", "x", key, (1.0, cost, 0.0, 1e300, 1.0, 10.0, 10.0))


def stores(redis_for_answers: Any) -> Iterator[Callable[..., RedisStore]]:
    """Stores that share a server, each test with a prefix of its own."""
    prefix, made_ones = f"test-{os.getpid()}-{next(numbers)}", list[RedisStore]()

    def made(server: Any = None, **options: Any) -> RedisStore:
        options = {"prefix": prefix, "store_timeout": 5.0, **options}
        made_ones.append(RedisStore(redis_for_answers.url if server is None else server, **options))
        return made_ones[-1]

    yield made
    for store in made_ones:
        store.close()
    client = redis_for_answers.client()
    for key in client.scan_iter(f"{prefix}:*"):
        client.delete(key)
    client.close()


class Colour:
    """Calls in one colour, in real time: a store's answers come from a real server."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async
        self._runner = asyncio.Runner()
        self.stores: list[RedisStore] = []

    def call(self, policy: Any, body: Callable[[], Any] = lambda: "done") -> Any:
        if not self.is_async:
            return policy.call(body)

        async def coroutine() -> Any:
            return body()

        return self.run(policy.call(coroutine))

    def ask(self, store: RedisStore, operation: Operation) -> Any:
        return self.run(store.aask(operation)) if self.is_async else store.ask(operation)

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def main() -> Any:
            return await awaitable

        return self._runner.run(main())

    def close(self) -> None:
        for store in self.stores:
            self.run(store.aclose())
        self._runner.close()


def caller(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Colour]:
    """A caller in one colour; the stores made meanwhile are closed in that colour."""
    colour = Colour(kind == "async")
    original = RedisStore.__init__

    def noted(store: RedisStore, *args: Any, **kwargs: Any) -> None:
        original(store, *args, **kwargs)
        colour.stores.append(store)

    monkeypatch.setattr(RedisStore, "__init__", noted)
    yield colour
    colour.close()


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error)


def until(condition: Callable[[], Any]) -> None:
    """Wait for what other threads or processes bring about."""
    for _ in range(3000):
        if condition():
            return
        give_way(0.01)
    raise AssertionError("it never happens")


class BadServer:
    """Accepts connections and lets `behave(socket)` do the rest, on threads that end with the test."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self._behave = behave
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0?protocol=2"
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._behave(connection)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()
        for connection in self._sockets:
            connection.close()


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def garbage(connection: socket.socket) -> None:
    while connection.recv(4096):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


def numbers_only(connection: socket.socket) -> None:
    while connection.recv(4096):
        connection.sendall(b":1\r\n")


def closes(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.close()


def slow(connection: socket.socket) -> None:
    while connection.recv(4096):
        give_way(0.3)
        connection.sendall(b"$1\r\n1\r\n")
