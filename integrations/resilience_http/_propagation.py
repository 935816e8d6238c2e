"""What travels along with a request: who asks, in which trace, which attempt it is, and how long there is still time.

The caller's request is never changed, because redirects copy its headers and the next attempt starts from it; what goes
out is a copy. A header that the caller or an instrumentation has set stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilience import correlation_id

from ._headers import extended, names_of
from .deadlines import REQUEST_TIMEOUT, format_timeout_ms
from .trace_context import TRACEPARENT, TRACESTATE, trace_context

REQUEST_ID = "X-Request-ID"
"""The header of the correlation id."""

ATTEMPT = "X-Request-Attempt"
"""The header that numbers the attempts of a request, from the second one on."""

# As the names of a request's headers are compared.
_REQUEST_ID, _ATTEMPT, _REQUEST_TIMEOUT, _TRACEPARENT, _TRACESTATE = (
    name.lower().encode("ascii") for name in (REQUEST_ID, ATTEMPT, REQUEST_TIMEOUT, TRACEPARENT, TRACESTATE)
)
_PHASES = ("connect", "read", "write", "pool")
_SHORTEST = 0.001  # seconds; to a socket, 0 means "do not wait" and not "no time"


def prepared(request: Any, number: int, left: float | None, propagate: bool) -> Any:
    """The request to send as attempt `number` with `left` seconds to go (None: no limit).

    That is `request` itself if there is nothing to add and no timeout to shorten.
    """
    clamped = None if left is None else clamped_timeouts(request.extensions.get("timeout"), left)
    headers = travelling(request.headers, number, left) if propagate else None
    if clamped is None and headers is None:
        return request
    # A shallow copy that shares the body. `copy.copy` would lose it, and a new request costs five times as much.
    copy = object.__new__(type(request))
    copy.__dict__.update(request.__dict__)
    if clamped is not None:
        copy.extensions = {**request.extensions, "timeout": clamped}
    if headers is not None:
        copy.headers = headers
    return copy


def clamped_timeouts(timeouts: Mapping[str, float | None] | None, left: float) -> dict[str, float | None] | None:
    """The timeouts of the phases, none longer than `left` seconds; None if they are so already."""
    if timeouts is None:
        timeouts = {}
    for phase in _PHASES:
        seconds = timeouts.get(phase)
        if seconds is None or seconds > left:
            break
    else:
        return None
    left = max(left, _SHORTEST)
    return {phase: left if (seconds := timeouts.get(phase)) is None or seconds > left else seconds for phase in _PHASES}


def loosen(sent: Any, request: Any, left: float | None) -> None:
    """Let the limit of the attempt go: from now on the phases of `sent`, made of `request`, are cut to `left` only.

    Both libraries look the timeouts of a request up again when they begin to read the body of its response.
    """
    timeouts = request.extensions.get("timeout") or {}
    sent.extensions["timeout"] = timeouts if left is None else clamped_timeouts(timeouts, left) or timeouts


def travelling(headers: Any, number: int, left: float | None) -> Any:
    """A copy of `headers` with what travels along, or None if there is nothing to add."""
    present = names_of(headers)
    more: list[tuple[str, bytes, str]] = []
    identity = correlation_id()
    if identity is not None and _REQUEST_ID not in present:
        more.append((REQUEST_ID, _REQUEST_ID, identity))
    trace = trace_context()
    if trace is not None and _TRACEPARENT not in present:
        child = trace.child()
        more.append((TRACEPARENT, _TRACEPARENT, child.traceparent))
        if child.state and _TRACESTATE not in present:
            more.append((TRACESTATE, _TRACESTATE, child.tracestate))
    if left is not None and _REQUEST_TIMEOUT not in present:
        more.append((REQUEST_TIMEOUT, _REQUEST_TIMEOUT, format_timeout_ms(left)))
    if number > 1 and _ATTEMPT not in present:
        more.append((ATTEMPT, _ATTEMPT, str(number)))
    return extended(headers, more) if more else None
