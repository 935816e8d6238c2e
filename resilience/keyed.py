"""Keyed: a layer of its own for each key (host, tenant, table), made when it is first needed.

::

    Keyed(lambda host: CircuitBreaker(host), key=lambda url: url.host)
       └─► key(call) ──► the key's layer ──► the call

The number of layers is bounded: past `max_keys` the least recently used idle one is forgotten, those at rest first.
Those that nobody used for `idle_ttl` seconds are forgotten too, when a layer is made or the statistics are read. A
layer with calls in flight is never forgotten, so if all are in use the bound is exceeded by at most those.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Hashable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from . import _arguments
from ._directory import Directory, Entry
from ._layer import PLAIN, AnyFunction, Layer, Stream, continued, drive, finished, refuse_bare
from ._machine import SUCCESS
from ._policy import Guard, Policy
from .clock import Clock
from .events import KeyEvicted, Listener
from .store import Store, noting_states


@dataclass(frozen=True, slots=True)
class KeyedStatistics:
    """Layers kept now, those with calls in flight, and how many were made and forgotten since ever."""

    keys: int
    in_use: int
    created: int
    evicted: int


class Keyed(Policy):
    """Give each key the layer that `factory(key)` makes; `key(*args, **kwargs)` finds the key of a call.

    The policies it makes are told apart by the key: their events have it, and `name`, which errors tell as `policy`,
    is "orders[eu-west]" for a Keyed or policy called "orders". `layer(key)` is a variant on the state of what the
    factory returned.

    Policies with a `store` share their state by name, so the factory has to put the key into it; a ValueError says so.

    A key of None means that this call is not guarded. At most `max_keys` layers are kept; idle ones go after
    `idle_ttl` seconds.
    """

    _machine: Directory
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
        refuse_bare(Keyed, factory, functions=True)
        super().__init__(name, clock, listeners)
        if isinstance(factory, Layer):
            raise TypeError(f"factory must make a layer for each key: write lambda key: …, not the one {factory!r}")
        if not callable(factory):
            raise TypeError(
                f"factory must be a callable that makes the layer of a key, not {_arguments.shown(factory)}"
            )
        self._factory = _arguments.plain("factory", factory, takes=1)
        self._machine = Directory()
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

    def guard(self, /, *args: Any, **kwargs: Any) -> Guard:
        """One call's guard: that of the policy which belongs to the key of these arguments."""
        return _KeyedGuard(self, args, kwargs)

    def statistics(self) -> KeyedStatistics:
        """A consistent snapshot."""
        machine = self._machine
        self._make_room(self._clock.now())
        with machine.lock:
            machine.caught_up_locked()
            result = KeyedStatistics(len(machine.entries), machine.busy, machine.created, machine.evicted)
        machine.unlocked()
        return result

    @property
    def at_rest(self) -> bool:
        machine = self._machine
        with machine.lock:
            machine.caught_up_locked()
            entries = list(machine.entries.values())
        return not any(entry.calls for entry in entries) and all(entry.layer.at_rest for entry in entries)

    def __repr__(self) -> str:
        return f"<Keyed {self.name or 'unnamed'}: {len(self._machine.entries)} of {self._max_keys} keys>"

    # -- private -------------------------------------------------------------------------------------------------------

    def _configure(self, **changes: Any) -> None:
        if "key" in changes:
            key = changes["key"]
            if not callable(key):
                raise TypeError(f"key must be a callable of the call's arguments, not {_arguments.shown(key)}")
            self._key = _arguments.plain("key", key)
        super()._configure(**changes)

    def _enter(self, key: Hashable) -> Entry:
        machine, now = self._machine, self._clock.now()
        made: Layer | None = None
        states: set[tuple[Store, str]] = set()
        while True:
            with machine.lock:
                machine.caught_up_locked()
                try:
                    entry = machine.entries.get(key)
                except TypeError as error:
                    raise TypeError(f"key must return something hashable, not {_arguments.shown(key)}") from error
                if entry is None and made is not None:
                    for _, name in states & machine.owners.keys():
                        raise ValueError(
                            f"factory must give each key a policy of its own, but names two {name!r}, which share one"
                            " state in their store: put the key into the name"
                        )
                    entry = Entry(key, made, now, states)
                    machine.add_locked(entry)
                if entry is not None:
                    machine.begin_locked(entry, now)
                    break
            with noting_states() as states:
                made = self._factory(key)  # user code, so outside the lock; of two that race, one is dropped
            if not isinstance(made, Layer):
                raise TypeError(f"factory must return a layer, not {_arguments.shown(made)}")
            made = made._changed(lambda layer: _labelled(layer, self.name, key))
        if made is not None or len(machine.entries) > max(self._max_keys, machine.busy):
            self._make_room(now)
        if machine.late or machine.outbox:
            machine.unlocked()
        return entry

    def _leave(self, entry: Entry) -> None:
        """A call has ended. It may be a finaliser that tells us, so this never blocks."""
        machine = self._machine
        machine.late.append((machine.end_locked, (entry, self._clock.now()), SUCCESS))
        machine.unlocked()

    def _make_room(self, now: float) -> None:
        """Forget what has been idle too long, and the least recently used idle ones beyond the bound."""
        machine = self._machine
        for entry, reason in machine.superfluous(now, self._max_keys, self._idle_ttl):
            with machine.lock:
                gone = machine.forget_locked(entry)
            if gone:
                self._note(KeyEvicted, key=entry.key, reason=reason)

    def _binder(self, fn: AnyFunction) -> Callable[[Entry], AnyFunction]:
        """A function that returns `fn` under the layer of an entry.

        It remembers what it has wrapped for as long as the guarded function itself lives, so that functions made for
        one call leave nothing behind; what it holds for forgotten keys is dropped whenever it has doubled.
        """
        wrapped: dict[Entry, AnyFunction] = {}
        machine, limit = self._machine, 16

        def bound(entry: Entry) -> AnyFunction:
            nonlocal limit
            wrapper = wrapped.get(entry)
            if wrapper is None:
                if len(wrapped) >= limit:
                    for known in list(wrapped):
                        if machine.entries.get(known.key) is not known:
                            wrapped.pop(known, None)
                    limit = max(16, 2 * len(wrapped))
                wrapper = wrapped[entry] = entry.layer._bind(fn)
            return wrapper

        return bound

    @contextmanager
    def _function(self, bound: Callable[[Entry], AnyFunction], fn: AnyFunction, key: Hashable) -> Iterator[AnyFunction]:
        if key is None:
            yield fn
            return
        entry = self._enter(key)
        try:
            yield bound(entry)
        finally:
            self._leave(entry)

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        bound = self._binder(fn)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            key = self._key(*args, **kwargs)
            if key is None:
                return fn(*args, **kwargs)
            held = _Held(self, self._enter(key))
            pending = False
            try:
                result = bound(held.entry)(*args, **kwargs)
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
        bound = self._binder(fn)

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            key = self._key(*args, **kwargs)
            if key is None:
                return await fn(*args, **kwargs)
            entry = self._enter(key)
            try:
                return await bound(entry)(*args, **kwargs)
            finally:
                self._leave(entry)

        return guarded

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        bound = self._binder(fn)

        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with self._function(bound, fn, self._key(*args, **kwargs)) as function:
                return (yield from function(*args, **kwargs))

        return guarded

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        bound = self._binder(fn)

        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            with self._function(bound, fn, self._key(*args, **kwargs)) as function:
                yield Stream(function(*args, **kwargs))

        return drive(begin)


def _labelled(layer: Layer, keyed: str | None, key: Hashable) -> Layer:
    """The variant of a policy that names `key`; `keyed` is the name of the Keyed."""
    if not isinstance(layer, Policy) or "name" not in layer._variable or layer._belongs_to is not None:
        return layer  # nothing to name, or another Keyed's own
    told = _arguments.shown(key)
    if not told.isprintable():
        told = "".join(character if character.isprintable() else "?" for character in told)
    if type(key) is str and key.isprintable() and told == repr(key):
        told = key  # in full, and with nothing odd in it: no need for quotes
    name = keyed if layer.name is not None and layer.name in (key, told) else layer.name or keyed or "keyed"
    variant = layer.with_(name=told if name is None else f"{name}[{told}]")
    variant._belongs_to = key
    return variant


class _Held:
    """An entry in use by a call whose end may lie in an awaitable that nobody awaits; released when dropped."""

    __slots__ = ("_keyed", "entry")

    def __init__(self, keyed: Keyed, entry: Entry) -> None:
        self._keyed: Keyed | None = keyed
        self.entry = entry

    def release(self) -> None:
        keyed, self._keyed = self._keyed, None
        if keyed is not None:
            keyed._leave(self.entry)

    def __del__(self) -> None:
        self.release()


class _KeyedGuard(Guard):
    """The guard of the layer that belongs to a call's key; that layer is in use as long as the block is."""

    __slots__ = ("_held", "_inner", "_keyed")

    def __init__(self, keyed: Keyed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__(keyed, args, kwargs)
        self._keyed = keyed
        self._held: _Held
        self._inner: Guard | None = None

    def __enter__(self) -> Self:
        inner = self._begin()
        if inner is not None:
            try:
                inner.__enter__()
            except BaseException:
                self._end()
                raise
        return self

    async def __aenter__(self) -> Self:
        inner = self._begin()
        if inner is not None:
            try:
                await inner.__aenter__()
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        inner = self._told()
        if inner is not None:
            try:
                inner.__exit__(kind, error, traceback)
            finally:
                self._end()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _begin(self) -> Guard | None:
        """The guard to enter, or None for a call without a key."""
        self._spend()
        key = self._keyed._key(*self._args, **self._kwargs)
        if key is None:
            return None
        self._held = _Held(self._keyed, self._keyed._enter(key))
        layer = self._held.entry.layer
        if not isinstance(layer, Policy):
            self._end()
            raise TypeError(f"guard() needs a policy for each key, not {layer!r}: decorate a function instead")
        self._inner = layer.guard(*self._args, **self._kwargs)
        return self._inner

    def _told(self) -> Guard | None:
        """The guard to leave, knowing what this one was told."""
        inner, self._inner = self._inner, None
        if inner is not None:
            inner._error, inner._result = self._error, self._result
        return inner

    def _end(self) -> None:
        self._inner = None
        self._held.release()
