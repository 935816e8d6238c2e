"""Shared state: several policies, processes or hosts agree through a store.

`RateLimiter(100, 60.0, name="search", store=store)` and the like: policies with the same `name` on one store are one.
A store executes *operations*, each atomic (see `_ledger.py`). What a policy has to ask is asked in its caller's colour
and takes at most `store_timeout` seconds; what it has to tell waits in a bounded outbox and is told in the background::

                ┌─ ask ──► answer, or trouble ──► on_error: "local" | "open" | "closed"
      policy ───┤
                └─ tell ─► outbox ──► together with others ──► news

Three failures in a row close the way to the store for half a second, and then for longer: meanwhile nobody waits.
`StoreUnavailable` and `StoreRecovered` say so, once for each change.

`MemoryStore` shares within one process. `resilience_redis.RedisStore` shares between processes and hosts.
"""

from __future__ import annotations

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NoReturn, Protocol, Self

from . import _arguments
from ._circuit import CLOSED, Circuit
from ._courier import Courier, Line, Operation, Report, Undo
from ._ledger import Reply
from ._machine import ABANDONED, FAILURE, SUCCESS, Verdict
from ._window import CountWindow
from .clock import Clock, checked
from .events import SUBSCRIBERS, Event, Listener, StoreRecovered, StoreUnavailable
from .exceptions import StoreUnavailableError

ON_ERROR = ("local", "open", "closed")
_LONGEST = 86400.0  # seconds that a call may wait for a store, or a lease may last


class Renewal(Protocol):
    """A policy with leases that have to be renewed while they are held."""

    def renewal(self) -> Report | None: ...


class Store(ABC):
    """What policies share their state through. A subclass executes operations; waiting and trouble are dealt with here.

    `store_timeout` is the longest time in seconds that a call waits for it. When it fails, a policy decides by its own
    local state (`on_error="local"`), lets calls pass ("open") or rejects them ("closed"). A bulkhead's slot is held
    for `lease_time` seconds after its process was last heard of. Limiters with one rate take `local_share` of their
    burst ahead (0: none, at most 0.1), so that most calls ask nobody; see `_local_tokens.py` for why the limit still
    holds. All instances must have the same share.
    """

    immediate = False  # whether an answer costs no waiting at all

    def __init__(
        self,
        *,
        store_timeout: float | timedelta = 0.05,
        on_error: str = "local",
        lease_time: float | timedelta = 10.0,
        local_share: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        given: Any = on_error
        if not isinstance(given, str) or given not in ON_ERROR:
            raise ValueError(f'on_error must be "local", "open" or "closed", not {_arguments.shown(on_error)}')
        self.on_error = on_error
        self.store_timeout = _arguments.seconds("store_timeout", store_timeout, maximum=_LONGEST)
        self.lease_time = _arguments.seconds("lease_time", lease_time, minimum=0.01, maximum=_LONGEST)
        self.local_share = _arguments.number("local_share", local_share, zero=True, maximum=0.1)
        self.renewal_interval = self.lease_time / 3.0
        self.name = _arguments.text("name", name)
        self.clock = checked(clock)
        self._listeners = _arguments.listeners(listeners)
        self._healthy = True  # guarded by the gate's lock
        self._gate = _Gate(self)
        self._lines: dict[int, Line] = {}
        self._renewals: weakref.WeakSet[Any] = weakref.WeakSet()
        self.thread = Courier(self)

    @abstractmethod
    def _execute(self, operations: list[Operation]) -> list[Any]:
        """The replies to `operations`, an exception in place of one that failed; blocks for `store_timeout` at most."""

    async def _aexecute(self, operations: list[Operation]) -> list[Any]:
        """The same in a task. It is cancelled when it takes longer than `store_timeout`."""
        return self._execute(operations)

    # -- for policies --------------------------------------------------------------------------------------------------

    def ask(self, operation: Operation) -> Reply:
        """The answer to one operation. Blocks; raises StoreUnavailableError."""
        return self._single(self.journey([operation])[0])

    async def aask(self, operation: Operation, undo: Undo | None = None) -> Reply:
        """The same in a task, together with what else its loop has to ask. Raises StoreUnavailableError.

        If the caller is cancelled or gives up before the answer comes, `undo(reply)` is called when it does.
        """
        if self.immediate:
            return self.ask(operation)
        if self.refuses:
            raise StoreUnavailableError(self.name, self.retry_after)
        try:
            return await self._line(asyncio.get_running_loop()).ask(operation, undo)
        except StoreUnavailableError:
            raise
        except Exception as error:
            raise StoreUnavailableError(self.name) from error

    def tell(self, report: Report) -> None:
        """Have something told soon. Never waits, and may be called by a finaliser."""
        if self.refuses:
            report.lost()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            queued = self.thread.put(report)
        else:
            queued = self._line(loop).add(report)
        if not queued:
            report.lost()

    def keep(self, renewal: Renewal) -> None:
        """Renew these leases from now on, as long as the object lives."""
        if renewal not in self._renewals:
            self._renewals.add(renewal)
            self.thread.put(None)

    @property
    def available(self) -> bool:
        """Whether the last that was heard of it is good."""
        return self._healthy

    @property
    def refuses(self) -> bool:
        """Whether it failed so recently that nobody waits for it now."""
        gate = self._gate
        return gate.closed_permit is None and gate.refuses_until > self.clock.now()

    @property
    def retry_after(self) -> float | None:
        """Seconds until somebody asks it again; None if somebody would now."""
        wait = self._gate.refuses_until - self.clock.now()
        return wait if wait > 0.0 else None

    def close(self) -> None:
        """Tell what is still to be told, and give up what it holds; it may be used again."""
        self.thread.flush()

    async def aclose(self) -> None:
        """The same for what belongs to the running loop."""
        line = self._lines.get(id(asyncio.get_running_loop()))
        if line is not None:
            await line.flush()
            self._lines.pop(id(line.loop), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # -- for the courier -----------------------------------------------------------------------------------------------

    def journey(self, operations: list[Operation]) -> list[Any]:
        """Execute operations under the eyes of the gate; raises StoreUnavailableError."""
        permit = self._gate.enter()
        try:
            replies = self._execute(operations)
        except Exception as error:
            self._gate.leave(permit, FAILURE, error)
            raise StoreUnavailableError(self.name) from error
        except BaseException as error:
            self._gate.leave(permit, ABANDONED, error)
            raise
        return self._arrived(permit, replies)

    async def ajourney(self, operations: list[Operation], expired: Callable[[], bool]) -> list[Any]:
        """The same in a task."""
        permit = self._gate.enter()
        try:
            replies = await self._aexecute(operations)
        except Exception as error:
            self._gate.leave(permit, FAILURE, error)
            raise StoreUnavailableError(self.name) from error
        except BaseException as error:
            self._gate.leave(permit, FAILURE if expired() else ABANDONED, error)
            raise
        return self._arrived(permit, replies)

    def due_renewals(self) -> list[Report]:
        """What has to be renewed now."""
        return [report for held in list(self._renewals) if (report := held.renewal()) is not None]

    # -- private -------------------------------------------------------------------------------------------------------

    def _single(self, reply: Any) -> Reply:
        if isinstance(reply, BaseException):
            raise StoreUnavailableError(self.name) from reply
        return reply  # type: ignore[no-any-return]

    def _arrived(self, permit: int, replies: list[Any]) -> list[Any]:
        trouble = next((reply for reply in replies if isinstance(reply, BaseException)), None)
        self._gate.leave(permit, SUCCESS if trouble is None else FAILURE, trouble)
        return replies

    def _line(self, loop: asyncio.AbstractEventLoop) -> Line:
        line = self._lines.get(id(loop))
        if line is None or line.loop is not loop:
            for number, old in list(self._lines.items()):
                if old.loop.is_closed():
                    self._lines.pop(number, None)
            line = self._lines[id(loop)] = Line(self, loop)
        return line

    def _forked(self) -> None:
        """In the child of a fork: no loops, no thread."""
        self._lines = {}
        self.thread.forked()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{self!r} holds connections and their state and can be neither copied nor pickled")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name or 'unnamed'}: {'available' if self._healthy else 'unavailable'}>"


class _Gate(Circuit):
    """The breaker that guards a store."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        super().__init__(
            window=CountWindow(1),
            failure_rate=None,
            minimum_calls=1,
            failure_threshold=3,
            slow_call_rate=1.0,
            recovery_time=0.5,
            max_recovery_time=5.0,
            jitter=0.2,
            half_open_max_calls=1,
            success_threshold=1,
            probe_lease=4.0 * store.store_timeout + 1.0,
            rng=None,
        )
        self._store = weakref.ref(store)

    def enter(self) -> int:
        """A permit to use the store; raises StoreUnavailableError."""
        permit = self.closed_permit
        if permit is None:
            store = self._store()
            assert store is not None  # it is the one who asks
            with self.lock:
                permit, retry_after = self.admit_locked(store.clock.now(), _silent)
            if permit is None:
                raise StoreUnavailableError(store.name, retry_after)
        return permit

    def leave(self, permit: int, verdict: Verdict, error: BaseException | None) -> None:
        """Count how it went, and say so where that is news."""
        store = self._store()
        if store is None or (verdict is SUCCESS and store._healthy and not self.streak):
            return
        now = store.clock.now()
        with self.lock:
            self.settle_locked(permit, verdict, now, False, None, _silent)
            if verdict is FAILURE and store._healthy:
                store._healthy = False
                self._tell(store, StoreUnavailable, error=error, on_error=store.on_error)
            elif verdict is SUCCESS and not store._healthy and self.state is CLOSED:
                store._healthy = True
                self._tell(store, StoreRecovered)
        self.unlocked()

    def forked(self) -> None:
        super().forked()
        store = self._store()
        if store is not None:
            store._forked()

    def _tell(self, store: Store, kind: type[Event], **facts: Any) -> None:
        if SUBSCRIBERS or store._listeners:
            event = kind(policy=store.name, time=store.clock.now(), **facts)
            self.outbox.append((event, store._listeners))


def _silent(*_: object, **__: object) -> None:
    """Nobody listens to the gate's own events."""


_noted: ContextVar[set[tuple[Store, str]] | None] = ContextVar("resilience_noted_states", default=None)


@contextmanager
def noting_states() -> Iterator[set[tuple[Store, str]]]:
    """Yield the set of the shared states, by store and name, that policies made in the block have."""
    states: set[tuple[Store, str]] = set()
    token = _noted.set(states)
    try:
        yield states
    finally:
        _noted.reset(token)


def checked_store(value: Any, name: str | None) -> Store | None:
    """A Store or None; a shared policy needs a name, which is what tells it from others."""
    if value is None:
        return None
    if not isinstance(value, Store):
        raise TypeError(f"store must be a resilience.Store or None, not {_arguments.shown(value)}")
    if name is None:
        raise ValueError("a policy with a store needs a name: policies of one name share one state")
    noted = _noted.get()
    if noted is not None:
        noted.add((value, name))
    return value
