"""Events: what policies did, in the past tense, as frozen objects.

`subscribe(listener, *types)` hears every policy of the process, `listeners=` one policy. Without listeners no event
object is made. A listener is called outside all locks, in the order of the decisions, by the thread that decided or by
one that was already delivering; if it raises, that is logged once for that listener and changes nothing else.
"""

from __future__ import annotations

import inspect
import logging
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import Any

import structlog

from ._arguments import listener as checked_listener
from ._arguments import shown

Listener = Callable[[Any], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have in common.

    `policy` is the policy's name (None if it has none), `time` monotonic seconds on the policy's clock, `key` the key
    of a keyed policy.
    """

    policy: str | None
    time: float
    correlation_id: str | None = None
    key: Hashable = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitOpened(Event):
    """The breaker opened for `recovery_time` seconds; None when it was isolated by hand."""

    reason: str
    recovery_time: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitHalfOpened(Event):
    """The breaker lets probes through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitClosed(Event):
    """The breaker closed: after enough successful probes, or by hand."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRejected(Event):
    """A call was refused before it ran (in shadow mode: would have been)."""

    retry_after: float | None = None
    shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallQueued(Event):
    """A call has to wait; `seconds` is the exact wait, or its limit where the length is not known (None: no limit)."""

    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSucceeded(Event):
    """A call that passed a breaker succeeded after `duration` seconds; `slow` if that was too long."""

    duration: float
    slow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailed(Event):
    """A call that passed a breaker failed after `duration` seconds; `error` is None when a result was the failure."""

    duration: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeExpired(Event):
    """A half-open probe did not come back within its lease and counts as a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """Attempt number `attempt` failed and another one follows in `wait` seconds."""

    attempt: int
    wait: float
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryStopped(Event):
    """A call that wanted another attempt ends after `attempts` of them; `reason` is a short word."""

    attempts: int
    reason: str
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTimedOut(Event):
    """A call was cut off; `timeout` is the length of the limit in seconds."""

    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysOverflowed(Event):
    """A keyed policy holds `max_keys` live keys; new ones share one overflow state until some are free again."""

    max_keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvicted(Event):
    """A `Keyed` layer forgot the layer of `key` to stay within its bounds."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUnavailable(Event):
    """A store of shared state (`policy` is its name) fails; until it recovers its policies do as `on_error` says."""

    error: BaseException | None
    on_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecovered(Event):
    """A store of shared state answers again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(Event):
    """A slot of a shared bulkhead was not renewed in time and may be somebody else's, while its call goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolResourceCreated(Event):
    """A pool created a resource, which took `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCreationFailed(Event):
    """A pool could not create a resource."""

    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolResourceClosed(Event):
    """A pool gave up a resource that was `age` seconds old, and has it closed; `reason` is a short word."""

    reason: str
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolResourceLeaked(Event):
    """A borrowed resource has not come back for `seconds`; None: its borrower dropped it, and that is all one knows.

    `stack` is the borrower's, as text, if the pool watches for leaks (`leak_after`).
    """

    seconds: float | None
    stack: str | None


class Subscription:
    """A running subscription; `cancel()` ends it, and it works as a context manager."""

    def __init__(self, listener: Listener, types: tuple[type[Event], ...]) -> None:
        self._listener = listener
        self._types = types or (Event,)

    def __call__(self, event: Event) -> None:
        if isinstance(event, self._types):
            self._listener(event)

    def cancel(self) -> None:
        """Stop listening; harmless when repeated."""
        try:
            SUBSCRIBERS.remove(self)
        except ValueError:  # cancelled before, perhaps by another thread a moment ago
            pass

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        return f"<Subscription of {shown(self._listener)} to {', '.join(kind.__name__ for kind in self._types)}>"


# Read on every hot path (as `if SUBSCRIBERS or own_listeners`), hence a bare list that is changed in place.
SUBSCRIBERS: list[Subscription] = []


def subscribe(listener: Listener, /, *types: type[Event]) -> Subscription:
    """Call `listener(event)` for the events of every policy, all or only those of the given types (and subtypes)."""
    checked_listener(listener)
    kinds: tuple[Any, ...] = types
    for kind in kinds:
        if not (inspect.isclass(kind) and issubclass(kind, Event)):
            raise TypeError(f"subscribe takes event types such as CircuitOpened, not {shown(kind)}")
    subscription = Subscription(listener, types)
    SUBSCRIBERS.append(subscription)
    return subscription


_log = logging.getLogger("resilience")
# The listeners whose failure was logged last. They are held themselves, because the id of a dead one would soon be the
# id of another; appending and copying a deque are atomic.
_reported: deque[Listener] = deque(maxlen=64)


def deliver(event: Event, listeners: tuple[Listener, ...]) -> None:
    """Hand `event` to `listeners` and all subscribers; what they raise goes to the log, once for each of them."""
    audience: tuple[Listener, ...] = (*listeners, *SUBSCRIBERS)
    for listener in audience:
        try:
            listener(event)
        except (Exception, CancelledError):  # noqa: BLE001 - whatever a listener does, the call goes on
            if not any(listener is known for known in tuple(_reported)):
                _reported.append(listener)
                _log.exception("listener %s failed on %s; reported once", shown(listener), type(event).__name__)


_LEVELS: dict[type[Event], str] = {
    CircuitOpened: "warning",
    CircuitHalfOpened: "info",
    CircuitClosed: "info",
    ProbeExpired: "warning",
    CallRejected: "info",
    RetryScheduled: "info",
    RetryStopped: "warning",
    CallTimedOut: "warning",
    KeysOverflowed: "warning",
    StoreUnavailable: "warning",
    StoreRecovered: "info",
    LeaseLost: "warning",
    PoolCreationFailed: "warning",
    PoolResourceLeaked: "warning",
}


def log_events(logger: Any = None) -> Listener:
    """A listener that writes events as structured logs: `subscribe(log_events())`.

    `logger` is a structlog logger (default: `structlog.get_logger("resilience")`). Trouble is a warning, changes and
    rejections are info, single calls are debug. The event name is the event's class in snake case.
    """
    if isinstance(logger, logging.Logger):
        raise TypeError("logger must be a structlog logger: wrap a standard one with structlog.wrap_logger(logger)")
    if logger is not None and not all(callable(getattr(logger, level, None)) for level in ("debug", "info", "warning")):
        raise TypeError(f"logger must be a structlog logger, not {shown(logger)}")
    target = structlog.get_logger("resilience") if logger is None else logger
    names: dict[type, tuple[str, str, tuple[str, ...]]] = {}

    def write(event: Event) -> None:
        kind = type(event)
        if kind not in names:
            snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("_")
            level = next((_LEVELS[base] for base in kind.__mro__ if base in _LEVELS), "debug")
            names[kind] = (snake, level, tuple(field.name for field in fields(kind)))
        name, level, keys = names[kind]
        facts = {key: value for key in keys if (value := getattr(event, key)) is not None}
        if isinstance(facts.get("error"), BaseException):
            facts["error"] = repr(facts["error"])
        getattr(target, level)(name, **facts)

    return write


# Forgetting its parentheses would make a listener that makes listeners, and logs nothing for ever.
log_events.makes_a_listener = True  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
