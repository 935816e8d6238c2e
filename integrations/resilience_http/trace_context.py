"""W3C Trace Context: which trace a request belongs to, read strictly and passed on (levels 1 and 2).

::

    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
                 version trace-id (the same everywhere)  parent-id (new  flags: 1 sampled,
                                                         at every hop)          2 random trace-id
    tracestate:  vendor=opaque,tenant@other=opaque        in order, at most 32 members

A `traceparent` that breaks a rule is as good as none, and its `tracestate` goes with it; a `tracestate` that breaks one
is dropped alone. What was received is bound to the running work by `traced`; every outgoing request then carries a
`child` of it: the same trace, a fresh parent-id.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

SAMPLED = 0x01
"""The flag that says that the caller may have recorded the trace."""

RANDOM = 0x02
"""The flag of level 2 that says that the last seven bytes of the trace-id are random."""

MOST_MEMBERS = 32
"""Members of a `tracestate`."""

_KNOWN_FLAGS = SAMPLED | RANDOM
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
# Level 2 allows a digit in front and an @ anywhere; what level 1 allows is a part of that.
_KEY = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}", re.ASCII)
_VALUE = re.compile(r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]", re.ASCII)
_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NO_TRACE, _NO_PARENT = "0" * 32, "0" * 16

State = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: `trace_id` (32 hexadecimal digits), `parent_id` (16), `flags` and the `state` members."""

    trace_id: str
    parent_id: str
    flags: int = 0
    state: State = ()

    @property
    def sampled(self) -> bool:
        """Whether the caller may have recorded this trace."""
        return bool(self.flags & SAMPLED)

    @property
    def traceparent(self) -> str:
        """The value of the `traceparent` header, version 00."""
        return f"00-{self.trace_id}-{self.parent_id}-{self.flags & _KNOWN_FLAGS:02x}"

    @property
    def tracestate(self) -> str:
        """The value of the `tracestate` header; empty if there is nothing to say."""
        return ",".join(f"{key}={value}" for key, value in self.state)

    def child(self) -> TraceContext:
        """The same trace with a fresh parent-id: for one outgoing request, for one attempt."""
        return replace(self, parent_id=_new_parent_id())

    def with_member(self, key: str, value: str) -> TraceContext:
        """With this member in front of the state, in place of an earlier one; the last goes if there are too many."""
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"key must be a tracestate key (lower case, at most 256 characters), not {key!r:.60}")
        if _VALUE.fullmatch(value) is None:
            raise ValueError(f"value must be 1 to 256 visible characters without ',' and '=', not {value!r:.60}")
        others = tuple(member for member in self.state if member[0] != key)
        return replace(self, state=((key, value), *others)[:MOST_MEMBERS])


def parse_traceparent(value: str | None) -> TraceContext | None:
    """The place in a trace that a `traceparent` header names, or None if it is missing or breaks a rule.

    Versions after 00 are read as far as they are known, and passed on as 00 without the flags that are not.
    """
    found = None if value is None else _PARENT.fullmatch(value.strip(" \t"))
    if found is None:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return None
    return TraceContext(trace_id, parent_id, int(flags, 16) & _KNOWN_FLAGS)


def parse_tracestate(values: Iterable[str]) -> State:
    """The members of the `tracestate` headers of a request, in order; none if any of them breaks a rule."""
    members: dict[str, str] = {}
    for value in values:
        for part in value.split(","):
            member = part.strip(" \t")
            if not member:  # empty members are allowed and mean nothing
                continue
            key, _, opaque = member.partition("=")
            if _KEY.fullmatch(key) is None or _VALUE.fullmatch(opaque) is None or key in members:
                return ()
            members[key] = opaque
            if len(members) > MOST_MEMBERS:
                return ()
    return tuple(members.items())


def parse_trace_context(traceparents: Iterable[str], tracestates: Iterable[str] = ()) -> TraceContext | None:
    """The trace context of a request, from all its `traceparent` and all its `tracestate` headers, in their order.

    None if there is not exactly one valid `traceparent`.
    """
    parents = list(traceparents)
    context = parse_traceparent(parents[0]) if len(parents) == 1 else None
    return None if context is None else replace(context, state=parse_tracestate(tracestates))


def begin_trace(trace_id: str | None = None, *, sampled: bool = False) -> TraceContext:
    """A new trace, under `trace_id` (a correlation id, say) if that is 32 lower-case hexadecimal digits.

    Not `sampled`, as the recommendation has it for who begins a trace and records nothing.
    """
    flags = SAMPLED if sampled else 0
    if trace_id is None or _TRACE_ID.fullmatch(trace_id) is None or trace_id == _NO_TRACE:
        trace_id, flags = secrets.token_hex(16), flags | RANDOM
    return TraceContext(trace_id, _new_parent_id(), flags)


_current: ContextVar[TraceContext | None] = ContextVar("resilience_trace_context", default=None)


def trace_context() -> TraceContext | None:
    """The trace context of the running work, or None."""
    return _current.get()


def bind_trace(context: TraceContext | None) -> Token[TraceContext | None]:
    """Make `context` that of the running work from here on; returns the token for `unbind_trace`."""
    return _current.set(context)


def unbind_trace(token: Token[TraceContext | None]) -> None:
    """Restore what was bound before; harmless in another context, as of a generator that was left behind."""
    try:
        _current.reset(token)
    except ValueError:
        pass


@contextmanager
def traced(context: TraceContext | None) -> Iterator[TraceContext | None]:
    """Bind a trace context for the length of a block."""
    token = bind_trace(context)
    try:
        yield context
    finally:
        unbind_trace(token)


def _new_parent_id() -> str:
    parent_id = secrets.token_hex(8)
    return parent_id if parent_id != _NO_PARENT else "0" * 15 + "1"
