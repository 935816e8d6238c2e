"""Connections to the server: how commands are packed, sent together and answered, in both colours.

The connections are the client library's own, so TLS, users, databases and sentinels work as it has them. What is not
used is its way of calling: it waits five seconds by default and repeats ten times. A connection that was left in the
middle of anything, by an error, a timeout or a cancellation, is closed: no reply ever meets another question.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from resilience._courier import Operation
from resilience.clock import Clock

from ._scripts import DIGESTS, SCRIPTS

_IDLE = 1.0  # seconds after which a connection is looked at before it is used
_MOST_THREADS = 64  # connections of threads; more than that wait for one
_MOST_KEPT = 4  # idle connections of a loop
# Settings of a client that would make us wait, or that exist in one colour only.
_OVERRULED = (
    *("retry", "retry_on_error", "retry_on_timeout", "socket_timeout", "socket_connect_timeout", "parser_class"),
    *("health_check_interval", "decode_responses", "encoding_errors", "redis_connect_func", "client_name"),
    *("event_dispatcher", "maint_notifications_config", "maint_notifications_pool_handler"),
    *("oss_cluster_maint_notifications_handler", "driver_info", "lib_name", "lib_version", "himport_cache"),
)  # fmt: skip


def packed(prefix: str, operation: Operation, *, digest: bool = True) -> bytes:
    """One EVALSHA, or EVAL with the whole script, as the protocol wants it."""
    # What a limiter asks for one key is the same each time; what others ask is not.
    return (_packed_before if operation.machine == "limiter" else _packed)(prefix, operation, digest)


def key_of(prefix: str, operation: Operation) -> bytes:
    """The key on which an operation works; its braces keep what belongs together in one slot of a cluster."""
    name = quote(operation.name, safe="", errors="surrogatepass")
    return f"{prefix}:{{{operation.machine}:{name}:{operation.key}}}".encode()


def _packed(prefix: str, operation: Operation, digest: bool) -> bytes:
    machine = operation.machine
    head, script = (b"EVALSHA", DIGESTS[machine].encode()) if digest else (b"EVAL", SCRIPTS[machine])
    arguments = [argument if isinstance(argument, str) else repr(argument) for argument in operation.arguments]
    key, verb = key_of(prefix, operation), operation.verb.encode()
    words = (head, script, b"1", key, b"-1", verb, *(word.encode() for word in arguments))
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


_packed_before = lru_cache(4096)(_packed)


def understood(reply: Any) -> tuple[float, ...]:
    """The numbers in a reply; ValueError for what is not one of ours."""
    if not isinstance(reply, (bytes, str)):
        raise ValueError(f"not an answer: {reply!r:.60}")  # noqa: TRY004 - it is the server's mistake, not a type
    return tuple(map(float, reply.split()))


class Factory:
    """Makes connections of both colours from what a client or a URL says."""

    def __init__(self, client: Any) -> None:
        pool = client.connection_pool
        self._kind: type = pool.connection_class
        self._options: dict[str, Any] = dict(pool.connection_kwargs)
        root = self._kind.__module__.partition(".")[0]
        self._sync = importlib.import_module(f"{root}.connection")
        self._async = importlib.import_module(f"{root}.asyncio.connection")
        library = importlib.import_module(root)
        self.response_error: type[Exception] = library.ResponseError
        self._retries = tuple(
            importlib.import_module(f"{root}.{colour}").Retry(importlib.import_module(f"{root}.backoff").NoBackoff(), 0)
            for colour in ("retry", "asyncio.retry")
        )

    def connection(self, colour: str, timeout: float | None) -> Any:
        """A connection for threads ("sync") or for tasks ("async"), not connected yet."""
        module, retry = (self._sync, self._retries[0]) if colour == "sync" else (self._async, self._retries[1])
        kind = getattr(module, self._kind.__name__, self._kind)
        options = {name: value for name, value in self._options.items() if name not in _OVERRULED}
        link = kind(**options, retry=retry, socket_timeout=timeout, socket_connect_timeout=timeout)
        # Introducing the library by name costs two more answers at every connecting.
        link.driver_info = link.lib_name = link.lib_version = None
        return link


class Connection:
    """One connection and when it was last used."""

    __slots__ = ("link", "used")

    def __init__(self, link: Any, now: float) -> None:
        self.link = link
        self.used = now


class ThreadLines:
    """The connections that threads share: last in, first out."""

    def __init__(self, factory: Factory, clock: Clock, timeout: float) -> None:
        self._factory = factory
        self._clock = clock
        self._timeout = timeout
        self.forked()

    def forked(self) -> None:
        """In the child of a fork the connections are the parent's."""
        self._idle: deque[Connection] = deque()
        self._room = threading.Semaphore(_MOST_THREADS)

    def exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """The raw replies, with response errors among them. Raises whatever goes wrong with the connection."""
        end = self._clock.now() + self._timeout
        if not self._room.acquire(timeout=self._timeout):
            raise TimeoutError("all connections to the store are in use")
        try:
            connection = self._taken(end)
            link = connection.link
            try:
                link.send_packed_command([b"".join(commands)], check_health=False)
                replies = [self._read(link) for _ in commands]
            except BaseException:
                link.disconnect()
                raise
            connection.used = self._clock.now()
            self._idle.append(connection)
            return replies
        finally:
            self._room.release()

    def close(self) -> None:
        while self._idle:
            try:
                self._idle.pop().link.disconnect()
            except IndexError:  # somebody took it
                return

    def _read(self, link: Any) -> Any:
        try:
            return link.read_response(disable_decoding=True)
        except self._factory.response_error as error:
            return error

    def _taken(self, end: float) -> Connection:
        now = self._clock.now()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # somebody was faster
                break
            if now - connection.used < _IDLE or not _stale(connection.link):
                return connection
            connection.link.disconnect()
        return self._connected(end)

    def _connected(self, end: float) -> Connection:
        """A new connection. A thread of its own connects, since that takes several answers, each with its own limit."""
        link = self._factory.connection("sync", self._timeout)
        outcome: list[BaseException] = []
        done = threading.Lock()
        done.acquire()
        settled = threading.Lock()  # whoever gets it first decides what becomes of the connection

        def connect() -> None:
            try:
                link.connect()
            except BaseException as error:  # noqa: BLE001 - it belongs to who waits
                outcome.append(error)
            if settled.acquire(False):
                done.release()
            elif not outcome:
                self._idle.append(Connection(link, self._clock.now()))  # too late for this call, not for the next

        threading.Thread(target=connect, name="resilience-store-connect", daemon=True).start()
        if not done.acquire(timeout=max(0.0, end - self._clock.now())) and settled.acquire(False):
            raise TimeoutError("connecting to the store takes too long")
        if outcome:
            raise outcome[0]
        return Connection(link, self._clock.now())


def _stale(link: Any) -> bool:
    """Whether the server has closed the connection, or said something nobody asked for."""
    try:
        return bool(link.can_read(timeout=0))
    except Exception:  # noqa: BLE001 - in whatever way it is broken
        return True


class LoopLines:
    """The connections of one event loop."""

    def __init__(self, factory: Factory, loop: asyncio.AbstractEventLoop) -> None:
        self._factory = factory
        self._idle: deque[Any] = deque()
        self.loop = loop

    async def exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """The raw replies, with response errors among them. It is cancelled when it takes too long."""
        fresh = not self._idle
        link = self._factory.connection("async", None) if fresh else self._idle.pop()
        try:
            if fresh:
                await link.connect()
            await link.send_packed_command([b"".join(commands)], check_health=False)
            replies = [await self._read(link) for _ in commands]
        except BaseException:
            await link.disconnect(nowait=True)
            raise
        if len(self._idle) < _MOST_KEPT:
            self._idle.append(link)
        else:
            await link.disconnect(nowait=True)
        return replies

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect()

    async def _read(self, link: Any) -> Any:
        try:
            return await link.read_response(disable_decoding=True)
        except self._factory.response_error as error:
            return error
