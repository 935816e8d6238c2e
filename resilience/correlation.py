"""Correlation ids: one name for everything that happens on behalf of one request.

The id lives in one context variable, so it follows tasks and `asyncio.to_thread` by itself, other threads with
`carried`. `new_id()` is a UUIDv7 (RFC 9562, section 5.7) as 32 lower-case hexadecimal digits: sortable by time, and a
valid W3C trace-id as it stands. Attempts of a retried call share the id and differ in `attempt_id()`.

Ids that come from outside are checked: 1 to 128 characters out of letters, digits and ``-_.~:/+=@``; anything else is
replaced by a fresh id and never echoed.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Generator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar, Token, copy_context
from typing import Any, ParamSpec, TypeVar

from . import clock
from ._arguments import shown
from ._layer import PLAIN, AnyFunction, Layer, Stream, colour_of, continued, drive, finished, name_of, restore, stepped

P = ParamSpec("P")
R = TypeVar("R")

_SAFE = re.compile(r"[A-Za-z0-9\-_.~:/+=@]{1,128}")
_current: ContextVar[str | None] = ContextVar("resilience_correlation_id", default=None)
_attempt: ContextVar[numbered | None] = ContextVar("resilience_attempt", default=None)
# The ends of ids to come: asking the system for the chance in each alone would cost more than all the rest. A child
# process has none, so that it repeats none of its parent's.
_ends: list[str] = []
_AT_ONCE = 32
_VERSION = bytes(0x70 | byte & 0x0F for byte in range(256))
_VARIANT = bytes(0x80 | byte & 0x3F for byte in range(256))
os.register_at_fork(after_in_child=_ends.clear)
# One entry for each further attempt that runs anywhere in this process. Without any, no call has to ask which it is in.
# (After a fork the entries of other threads stay in the child, where calls then do ask.)
FURTHER: list[None] = []


def correlation_id() -> str | None:
    """The id of the running work, or None outside any."""
    return _current.get()


def attempt_number() -> int:
    """Which attempt of the innermost retried call is running; 1 outside a retry."""
    running = _attempt.get()
    return 1 if running is None else running.number


def attempt_id() -> str | None:
    """The correlation id with the attempt's number, `"<id>-2"`: stable within an attempt, different for each."""
    identity = _current.get()
    return None if identity is None else f"{identity}-{attempt_number()}"


class numbered:  # noqa: N801 - to be read as a verb: `with numbered(2):`
    """Let `attempt_number()` be `number` in the block, and 1 again for what it has started and left running."""

    __slots__ = ("_further", "_token", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._further = number > 1

    def __enter__(self) -> None:
        if self._further:
            FURTHER.append(None)
        self._token = _attempt.set(self)

    def __exit__(self, *_: object) -> None:
        restore(_attempt, self._token)
        del self._token  # it holds the context it was made in
        self.number = 1
        if self._further:
            FURTHER.pop()


def new_id() -> str:
    """A new id: a UUIDv7 as 32 lower-case hexadecimal digits."""
    try:
        end = _ends.pop()
    except IndexError:
        end = _new_end()
    return (clock.unix_milliseconds() & 0xFFFF_FFFF_FFFF).to_bytes(6).hex() + end


def _new_end() -> str:
    """What comes after the time: the version, 12 bits of chance, the variant, 62 bits. Others are put aside."""
    source = bytearray(os.urandom(10 * _AT_ONCE))
    source[::10] = source[::10].translate(_VERSION)
    source[2::10] = source[2::10].translate(_VARIANT)
    end, *others = source.hex(" ", 10).split()
    _ends.extend(others)
    return end


def valid_id(candidate: object) -> bool:
    """Whether an id from outside may be used as it is."""
    return isinstance(candidate, str) and _SAFE.fullmatch(candidate) is not None


def bind(identity: str | None = None) -> Token[str | None]:
    """Make `identity` the id from here on in this context; a new one if it is None or not acceptable.

    Returns the token that `unbind` takes. Prefer `bound`, which cannot be forgotten.
    """
    return _current.set(identity if identity is not None and valid_id(identity) else new_id())


def unbind(token: Token[str | None]) -> None:
    """Restore what was bound before `bind` returned `token`."""
    restore(_current, token)


@contextmanager
def bound(identity: str | None = None) -> Iterator[str]:
    """Bind an id for the length of a block, and yield the one in force."""
    token = bind(identity)
    try:
        yield _current.get() or ""
    finally:
        restore(_current, token)


def carried(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn`, to be run in another thread with the context (correlation id, deadline) of this moment.

    Each call runs in a copy of its own, so the function may run in several threads at once. Coroutine and generator
    functions are refused with a TypeError, because their bodies run after the call and in the context of whoever drives
    them.
    """
    if not callable(fn):
        raise TypeError(f"carried needs a callable, not {shown(fn)}")
    target: object = fn
    if not isinstance(target, type) and colour_of(target) != "sync":
        raise TypeError(f"carried takes plain functions: the body of {name_of(fn)} does not run when it is called")
    context = copy_context()

    @functools.wraps(fn, updated=())
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.copy().run(fn, *args, **kwargs)

    return run


class CorrelationFilter(logging.Filter):
    """A filter for stdlib logging handlers that gives every record a `correlation_id` (``"-"`` outside any work).

    A record that has one keeps it: it may have passed a filter in the thread that logged it and be in another now.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "correlation_id"):
            record.correlation_id = _current.get() or "-"
        return True


def add_correlation(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that adds `correlation_id` to the event, unless the caller set one or there is none."""
    identity = _current.get()
    if identity is not None:
        event.setdefault("correlation_id", identity)
    return event


class _Correlated(Layer):
    """A layer that gives each call without a correlation id a new one for its length."""

    def __repr__(self) -> str:
        return "correlated"

    @property
    def _indifferent(self) -> bool:
        return True

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if _current.get() is not None:
                return fn(*args, **kwargs)
            token = _current.set(new_id())
            try:
                result = fn(*args, **kwargs)
                if type(result) in PLAIN or finished(result, fn):
                    return result
                return continued(self._finish(result, _current.get()), result, fn)
            finally:
                restore(_current, token)

        return guarded

    async def _finish(self, awaitable: Any, identity: str | None) -> Any:
        token = _current.set(identity)
        try:
            return await awaitable
        finally:
            restore(_current, token)

    def _wrap_async(self, fn: AnyFunction) -> AnyFunction:
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            if _current.get() is not None:
                return await fn(*args, **kwargs)
            token = _current.set(new_id())
            try:
                return await fn(*args, **kwargs)
            finally:
                restore(_current, token)

        return guarded

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            identity = _current.get() or new_id()
            return (yield from stepped(fn(*args, **kwargs), lambda: bound(identity)))

        return guarded

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            identity = _current.get() or new_id()
            yield Stream(fn(*args, **kwargs), lambda: bound(identity))

        return drive(begin)


correlated: Layer = _Correlated()
