"""RedisStore: the state of policies in Redis or Valkey, decided there by one script for each machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import redis

from resilience import Store
from resilience._courier import Operation
from resilience.clock import Clock
from resilience.events import Listener

from ._connections import Factory, LoopLines, ThreadLines, packed, understood


class RedisStore(Store):
    """Shares state between processes and hosts through a Redis (6 or later) or Valkey server.

    `server` is a URL (`redis://user:password@host:6379/0`, `rediss://` for TLS, `unix://`) or a client of redis-py (5
    or later) or valkey-py, plain or asyncio, whose connection settings are used; its time limits and retries are not.
    Each operation is one script on one key, with the server's time. Keys are `prefix:{machine:policy:key}`, of safe
    characters, and expire when they are as good as new; only a circuit that was isolated by hand stays until it is
    reset. Of a cluster, any server or proxy will do that has all keys. A user of its own needs no more than
    `ACL SETUSER app on >secret ~resilience:* +eval +evalsha +time +get +set +del +hgetall +hset +hdel +hincrby
    +pexpire`.

    No policy holds a call up for longer than `store_timeout` seconds (several may, one after the other, until three
    failures have closed the way to the store); `on_error`, `lease_time` and `local_share` are those of `Store`. Close
    it with `close()`, and with `await aclose()` in each event loop that has used it: then what its calls have given
    back or found out is told before the process ends.
    """

    def __init__(
        self,
        server: Any,
        *,
        prefix: str = "resilience",
        store_timeout: float | timedelta = 0.05,
        on_error: str = "local",
        lease_time: float | timedelta = 10.0,
        local_share: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        given: Any = prefix
        if not isinstance(given, str) or not given or "{" in given or "}" in given or not _plain_text(given):
            raise ValueError(f"prefix must be a non-empty string without braces or surrogates, not {prefix!r:.60}")
        if isinstance(server, str):
            pool = redis.ConnectionPool.from_url(server)  # raises ValueError for what is no such URL
            server = redis.Redis(connection_pool=pool)
        elif isinstance(server, type) or not hasattr(getattr(server, "connection_pool", None), "connection_kwargs"):
            raise TypeError(
                f"server must be a URL or a Redis client with a connection pool, not {type(server).__name__}; the"
                " client of a cluster is none: name a server, or a proxy before the cluster, that has all keys"
            )
        super().__init__(
            store_timeout=store_timeout,
            on_error=on_error,
            lease_time=lease_time,
            local_share=local_share,
            name=prefix if name is None else name,
            clock=clock,
            listeners=listeners,
        )
        self._prefix = prefix
        self._factory = Factory(server)
        self._threads = ThreadLines(self._factory, self.clock, self.store_timeout)
        self._loops: dict[int, LoopLines] = {}

    def close(self) -> None:
        super().close()
        self._threads.close()

    async def aclose(self) -> None:
        await super().aclose()
        lines = self._loops.pop(id(asyncio.get_running_loop()), None)
        if lines is not None:
            await lines.close()
        self._threads.close()

    def _execute(self, operations: list[Operation]) -> list[Any]:
        end = self._threads.end()
        replies = self._threads.exchange([packed(self._prefix, operation) for operation in operations], end)
        unknown = _unknown(replies)
        if unknown:  # the server was restarted, or its scripts were flushed
            again = [packed(self._prefix, operations[place], digest=False) for place in unknown]
            for place, reply in zip(unknown, self._threads.exchange(again, end), strict=True):
                replies[place] = reply
        return _understood(replies)

    async def _aexecute(self, operations: list[Operation]) -> list[Any]:
        lines = self._lines_of(asyncio.get_running_loop())
        replies = await lines.exchange([packed(self._prefix, operation) for operation in operations])
        unknown = _unknown(replies)
        if unknown:
            again = [packed(self._prefix, operations[place], digest=False) for place in unknown]
            for place, reply in zip(unknown, await lines.exchange(again), strict=True):
                replies[place] = reply
        return _understood(replies)

    def _lines_of(self, loop: asyncio.AbstractEventLoop) -> LoopLines:
        lines = self._loops.get(id(loop))
        if lines is None or lines.loop is not loop:
            for number, old in list(self._loops.items()):
                if old.loop.is_closed():
                    self._loops.pop(number, None)
            lines = self._loops[id(loop)] = LoopLines(self._factory, self.clock, loop)
        return lines

    def _forked(self) -> None:
        super()._forked()
        self._loops = {}
        self._threads.forked()


def _plain_text(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _unknown(replies: Sequence[Any]) -> list[int]:
    """The places of those that the server has no script for."""
    return [
        place
        for place, reply in enumerate(replies)
        if isinstance(reply, Exception) and (type(reply).__name__ == "NoScriptError" or "NOSCRIPT" in str(reply))
    ]


def _understood(replies: list[Any]) -> list[Any]:
    return [reply if isinstance(reply, Exception) else understood(reply) for reply in replies]
