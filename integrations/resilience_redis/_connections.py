"""Connections to the server: how commands are packed, sent together and answered, in both colours.

The connections are the client library's own, so TLS, users, databases and sentinels work as it has them. What is not
used is its way of calling: it waits five seconds by default and repeats ten times. A connection that was left in the
middle of anything, by an error, a timeout or a cancellation, is closed: no reply ever meets another question.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import threading
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from resilience._courier import Operation
from resilience._keys import name_text
from resilience.clock import Clock

from ._scripts import DIGESTS, SCRIPTS

_IDLE = 1.0  # seconds after which a connection is looked at before it is used
_MOST_THREADS = 64  # connections of threads; more than that wait for one
_MOST_KEPT = 4  # idle connections of a loop
# Settings of a client that would make us wait, or whose value fits one colour only.
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
    return f"{prefix}:{{{operation.machine}:{name_text(operation.name)}:{operation.key}}}".encode()


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
        self._client = client  # what its connections refer to lives as long as it
        pool = client.connection_pool
        kind: type = pool.connection_class
        self._kind = kind
        self._options: dict[str, Any] = dict(pool.connection_kwargs)
        # A connection of somebody's own descends from one of the library's.
        root = next((one.__module__ for one in kind.__mro__ if one.__name__ == "AbstractConnection"), kind.__module__)
        root = root.partition(".")[0]
        sync = importlib.import_module(f"{root}.connection")
        tasks = importlib.import_module(f"{root}.asyncio.connection")
        self._sync = _of_colour(kind, sync)
        self._async = _of_colour(kind, tasks)
        library = importlib.import_module(root)
        self.response_error: type[Exception] = library.ResponseError
        self._bounded = None if self._sync is None else type(kind.__name__, (_BoundedLink, self._sync), {})
        self._retries = tuple(
            importlib.import_module(f"{root}.{colour}").Retry(importlib.import_module(f"{root}.backoff").NoBackoff(), 0)
            for colour in ("retry", "asyncio.retry")
        )
        # What a connection does not take is a mistake of whoever configured it, not trouble of the server's.
        try:
            self._made(kind, self._retries[self._sync is not kind], 1.0)
        except Exception as error:
            raise ValueError(f"server has settings of which no connection can be made: {error}") from error

    def for_threads(self, clock: Clock, timeout: float) -> Any:
        """A connection for threads, not connected yet: connecting may take `timeout` seconds, all in all."""
        if self._bounded is None:
            raise TypeError("a client for tasks whose connections have no counterpart for threads")
        link = self._made(self._bounded, self._retries[0], timeout)
        link.limits = Limits(clock, clock.now() + timeout)
        return link

    def for_tasks(self) -> Any:
        """A connection for tasks, not connected yet; who is too slow is cancelled."""
        if self._async is None:
            raise TypeError("a client for threads whose connections have no counterpart for tasks")
        return self._made(self._async, self._retries[1], None)

    def _made(self, kind: type, retry: Any, timeout: float | None) -> Any:
        options = {name: value for name, value in self._options.items() if name not in _OVERRULED}
        if not issubclass(kind, self._kind):  # the other colour: which settings both have differs between versions
            taken = _settings_of(kind)
            # What was asked of TLS is never left out silently: it is an error, as with a connection of that colour.
            kept = {name for name, value in options.items() if name in taken or (name.startswith("ssl_") and value)}
            options = {name: options[name] for name in kept}
        link = kind(**options, retry=retry, socket_timeout=timeout, socket_connect_timeout=timeout)
        # Introducing the library by name costs two more answers at every connecting.
        link.driver_info = link.lib_name = link.lib_version = None
        return link


def _of_colour(kind: type, module: Any) -> type | None:
    """The class itself if it is of the colour of `module`, or what its nearest ancestor is called there.

    None where there is no such thing: a sentinel's connections ask the sentinel in their own colour.
    """
    if issubclass(kind, module.AbstractConnection):
        return kind
    if any(one.__name__.startswith("Sentinel") for one in kind.__mro__):
        return None
    named = (getattr(module, one.__name__, None) for one in kind.__mro__)
    return next((one for one in named if isinstance(one, type) and issubclass(one, module.AbstractConnection)), None)


def _settings_of(kind: type) -> frozenset[str]:
    """The names of the settings that connections of this class take."""
    makers: list[Any] = [vars(one)["__init__"] for one in kind.__mro__ if "__init__" in vars(one)]
    return frozenset(name for maker in makers for name in inspect.signature(maker).parameters)


class Limits:
    """Until when a connection may be waited for."""

    __slots__ = ("_clock", "end")

    def __init__(self, clock: Clock, end: float) -> None:
        self._clock = clock
        self.end = end

    def left(self) -> float:
        """Seconds left; raises TimeoutError when there are none."""
        left = self.end - self._clock.now()
        if left <= 0.0:
            raise TimeoutError("the store takes too long")
        return left


class _BoundedSocket:
    """A socket whose reads and writes end at one instant, however many they are.

    The time limit of a plain socket begins anew with every byte that a slow server lets go of.
    """

    __slots__ = ("_limits", "_patience", "_socket")

    def __init__(self, plain: Any, limits: Limits) -> None:
        self._socket = plain
        self._limits = limits
        self._patience: float | None = None

    def settimeout(self, seconds: float | None) -> None:
        """What the library wants: 0 for a look at what is there, anything else for us to decide."""
        self._patience = seconds
        self._socket.settimeout(seconds)

    def recv(self, *arguments: Any) -> Any:
        self._limit()
        return self._socket.recv(*arguments)

    def recv_into(self, *arguments: Any) -> Any:
        self._limit()
        return self._socket.recv_into(*arguments)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._limit()
            rest = rest[self._socket.send(rest) :]

    def _limit(self) -> None:
        if self._patience != 0:
            self._socket.settimeout(self._limits.left())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class _BoundedLink:
    """Puts a bounded socket into the library's connection. `_connect` is the one name of its own that we rely on."""

    limits: Limits

    def _connect(self) -> Any:
        library: Any = super()
        return _BoundedSocket(library._connect(), self.limits)


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

    def end(self) -> float:
        """The instant at which an exchange that begins now has to be over."""
        return self._clock.now() + self._timeout

    def exchange(self, commands: Sequence[bytes], end: float) -> list[Any]:
        """The raw replies, with response errors among them. Raises whatever goes wrong with the connection."""
        if not self._room.acquire(timeout=max(0.0, end - self._clock.now())):
            raise TimeoutError("all connections to the store are in use")
        try:
            connection = self._taken(end)
            link = connection.link
            link.limits.end = end
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
        """A new connection. A thread of its own connects, since looking up a name has no limit."""
        link = self._factory.for_threads(self._clock, self._timeout)
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

    def __init__(self, factory: Factory, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._factory = factory
        self._clock = clock
        self._idle: deque[Connection] = deque()
        self.loop = loop

    async def exchange(self, commands: Sequence[bytes]) -> list[Any]:
        """The raw replies, with response errors among them. It is cancelled when it takes too long."""
        connection = self._idle.pop() if self._idle else Connection(self._factory.for_tasks(), 0.0)
        link = connection.link
        try:
            if not link.is_connected:
                await link.connect()
            elif self._clock.now() - connection.used >= _IDLE and await _ended(link):
                await link.disconnect(nowait=True)
                await link.connect()
            await link.send_packed_command([b"".join(commands)], check_health=False)
            replies = [await self._read(link) for _ in commands]
        except BaseException:
            await link.disconnect(nowait=True)
            raise
        if len(self._idle) < _MOST_KEPT:
            connection.used = self._clock.now()
            self._idle.append(connection)
        else:
            await link.disconnect(nowait=True)
        return replies

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().link.disconnect()

    async def _read(self, link: Any) -> Any:
        try:
            return await link.read_response(disable_decoding=True)
        except self._factory.response_error as error:
            return error


async def _ended(link: Any) -> bool:
    """The same as `_stale` for tasks. `_reader` is the library's own: without it, every look says yes."""
    try:
        look = getattr(link, "can_read", None) or link.can_read_destructive  # as it was called before redis 8
        return bool(await look() or link._reader.at_eof() or link._reader._buffer)  # some versions look at one only
    except Exception:  # noqa: BLE001 - in whatever way it is broken
        return True
