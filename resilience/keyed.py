"""Keyed: a layer of its own for each key (host, tenant, table), made when it is first needed.

::

    Keyed(lambda host: CircuitBreaker(host), key=lambda url: url.host)
       └─► key(call) ──► the key's layer ──► the call

The number of layers is bounded: past `max_keys` the least recently used idle one is forgotten, those at rest first, and
so is one that nobody used for `idle_ttl` seconds. A layer with calls in flight is never forgotten, so if all are in use
the bound is exceeded by at most those.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Generator, Hashable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from . import _arguments
from ._layer import PLAIN, AnyFunction, Layer, Stream, continued, drive, finished
from ._machine import Machine, Verdict
from ._policy import Policy
from ._ticket import Ticket
from .clock import Clock
from .events import KeyEvicted, Listener


@dataclass(frozen=True, slots=True)
class KeyedStatistics:
    """Layers kept now, those with calls in flight, and how many were made and forgotten since ever."""

    keys: int
    in_use: int
    created: int
    evicted: int


class _Entry:
    """The layer of one key, with the functions it has wrapped. Guarded by the lock: `calls`, `used`."""

    __slots__ = ("calls", "key", "layer", "used", "wrapped")

    def __init__(self, key: Hashable, layer: Layer) -> None:
        self.key = key
        self.layer = layer
        self.calls = 0
        self.used = 0.0
        self.wrapped: dict[int, AnyFunction] = {}


class _Directory(Machine):
    """Entries, least recently used first."""

    __slots__ = ("created", "entries", "evicted")

    def __init__(self) -> None:
        super().__init__()
        self.entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self.created = 0
        self.evicted = 0

    def forked(self) -> None:
        super().forked()
        for entry in self.entries.values():
            entry.calls = 0


class Keyed(Policy):
    """Give each key the layer that `factory(key)` makes; `key(*args, **kwargs)` finds the key of a call.

    A key of None means that this call is not guarded. At most `max_keys` layers are kept; idle ones go after
    `idle_ttl` seconds.
    """

    _machine: _Directory
    _variable = frozenset({"key", "listeners", "name"})

    def __init__(
        self,
        factory: Callable[[Any], Layer],
        key: Callable[..., Hashable],
        *,
        max_keys: int = 1024,
        idle_ttl: float | timedelta = 1200.0,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, clock, listeners)
        if not callable(factory):
            raise TypeError(
                f"factory must be a callable that makes the layer of a key, not {_arguments.shown(factory)}"
            )
        self._factory = factory
        self._machine = _Directory()
        self._max_keys = _arguments.count("max_keys", max_keys)
        self._idle_ttl = _arguments.seconds("idle_ttl", idle_ttl)
        self._configure(key=key)

    def layer(self, key: Hashable) -> Layer:
        """The layer of `key`, made now if there is none; it counts as used now."""
        entry = self._enter(key)
        self._leave(entry)
        return entry.layer

    @contextmanager
    def using(self, key: Hashable) -> Iterator[Layer]:
        """The layer of `key`, kept for the length of the block."""
        entry = self._enter(key)
        try:
            yield entry.layer
        finally:
            self._leave(entry)

    def statistics(self) -> KeyedStatistics:
        """A consistent snapshot."""
        machine = self._machine
        with machine.lock:
            machine.caught_up_locked()
            in_use = sum(entry.calls > 0 for entry in machine.entries.values())
            return KeyedStatistics(len(machine.entries), in_use, machine.created, machine.evicted)

    @property
    def at_rest(self) -> bool:
        with self._machine.lock:
            entries = list(self._machine.entries.values())
        return all(not entry.calls and entry.layer.at_rest for entry in entries)

    def __repr__(self) -> str:
        return f"<Keyed {self.name or 'unnamed'}: {len(self._machine.entries)} of {self._max_keys} keys>"

    # -- private -------------------------------------------------------------------------------------------------------

    def _configure(self, **changes: Any) -> None:
        if "key" in changes:
            if not callable(changes["key"]):
                raise TypeError(
                    f"key must be a callable of the call's arguments, not {_arguments.shown(changes['key'])}"
                )
            self._key = changes["key"]
        super()._configure(**changes)

    def _enter(self, key: Hashable) -> _Entry:
        machine, now = self._machine, self._clock.now()
        made: Layer | None = None
        while True:
            with machine.lock:
                machine.caught_up_locked()
                entry = machine.entries.get(key)
                if entry is None and made is not None:
                    entry = machine.entries[key] = _Entry(key, made)
                    machine.created += 1
                if entry is not None:
                    machine.entries.move_to_end(key)
                    entry.calls += 1
                    entry.used = now
                    break
            made = self._factory(key)  # user code, so outside the lock; of two that race, one is dropped
            if not isinstance(made, Layer):
                raise TypeError(f"factory must return a layer, not {_arguments.shown(made)}")
        if made is not None:
            self._make_room(now)
        if machine.late or machine.outbox:
            machine.unlocked()
        return entry

    def _leave(self, entry: _Entry) -> None:
        machine = self._machine
        machine.late.append((self._leave_entry_locked, entry, Verdict.SUCCESS))
        machine.unlocked()

    def _leave_entry_locked(self, entry: _Entry, verdict: Verdict) -> Iterable[Ticket]:
        entry.calls = max(0, entry.calls - 1)  # a fork has forgotten the calls of the parent
        return ()

    def _make_room(self, now: float) -> None:
        """Forget what has been idle too long, and the least recently used idle ones beyond the bound."""
        machine = self._machine
        with machine.lock:
            entries = list(machine.entries.values())
        idle = [entry for entry in entries if not entry.calls]
        stale = [entry for entry in idle if now - entry.used >= self._idle_ttl]
        excess = len(entries) - len(stale) - self._max_keys
        surplus: list[_Entry] = []
        if excess > 0:
            rest = [entry for entry in idle if now - entry.used < self._idle_ttl]
            at_rest = [entry.layer.at_rest for entry in rest]  # asks other policies, so outside the lock
            order = [e for e, quiet in zip(rest, at_rest, strict=True) if quiet]
            order += [e for e, quiet in zip(rest, at_rest, strict=True) if not quiet]
            surplus = order[:excess]
        for entries_to_go, reason in ((stale, "idle"), (surplus, "max_keys")):
            for entry in entries_to_go:
                with machine.lock:
                    if entry.calls or machine.entries.get(entry.key) is not entry:
                        continue  # came into use meanwhile
                    del machine.entries[entry.key]
                    machine.evicted += 1
                self._note(KeyEvicted, key=entry.key, reason=reason)

    def _bound(self, entry: _Entry, fn: AnyFunction) -> AnyFunction:
        wrapped = entry.wrapped.get(id(fn))
        if wrapped is None:
            wrapped = entry.wrapped[id(fn)] = entry.layer._bind(fn)
        return wrapped

    @contextmanager
    def _function(self, fn: AnyFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[AnyFunction]:
        key = self._key(*args, **kwargs)
        if key is None:
            yield fn
            return
        entry = self._enter(key)
        try:
            yield self._bound(entry, fn)
        finally:
            self._leave(entry)

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            key = self._key(*args, **kwargs)
            if key is None:
                return fn(*args, **kwargs)
            held = _Held(self, self._enter(key))
            pending = False
            try:
                result = self._bound(held.entry, fn)(*args, **kwargs)
                pending = type(result) not in PLAIN and not finished(result, fn)
                return continued(self._rest(held, result), result, fn) if pending else result
            finally:
                if not pending:
                    held.release()

        return guarded

    async def _rest(self, held: _Held, awaitable: Any) -> Any:
        try:
            return await awaitable
        finally:
            held.release()

    def _wrap_async(self, fn: AnyFunction) -> AnyFunction:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            key = self._key(*args, **kwargs)
            if key is None:
                return await fn(*args, **kwargs)
            entry = self._enter(key)
            try:
                return await self._bound(entry, fn)(*args, **kwargs)
            finally:
                self._leave(entry)

        return guarded

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with self._function(fn, args, kwargs) as bound:
                return (yield from bound(*args, **kwargs))

        return guarded

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            with self._function(fn, args, kwargs) as bound:
                yield Stream(bound(*args, **kwargs))

        return drive(begin)


class _Held:
    """An entry in use by a call whose end may lie in an awaitable that nobody awaits; released when dropped."""

    __slots__ = ("_keyed", "entry")

    def __init__(self, keyed: Keyed, entry: _Entry) -> None:
        self._keyed: Keyed | None = keyed
        self.entry = entry

    def release(self) -> None:
        keyed, self._keyed = self._keyed, None
        if keyed is not None:
            keyed._leave(self.entry)

    def __del__(self) -> None:
        self.release()
