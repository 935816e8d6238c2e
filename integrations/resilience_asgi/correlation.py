"""One id for everything that a request causes: taken from it or made, bound, logged, and echoed on every response.

::

    X-Request-ID: 7f3a…      ─► correlation_id()  ─► logs, outgoing requests ─► X-Request-ID on the response
    traceparent, tracestate  ─► trace_context()   ─► outgoing requests, each with a parent-id of its own

A request without an acceptable id gets the trace-id of its `traceparent`, or else a new one. An invalid `traceparent`
starts a new trace, under the correlation id if that is 32 hexadecimal digits (W3C Trace Context, section 4.3).

Install it around the finished application, so that responses of the framework's own error layer carry the id::

    app = CorrelationMiddleware(Starlette(routes=…))
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any

from resilience_http.trace_context import (
    TRACEPARENT,
    TRACESTATE,
    TraceContext,
    begin_trace,
    bind_trace,
    parse_trace_context,
    unbind_trace,
)
from structlog.contextvars import bind_contextvars, reset_contextvars

from resilience import _arguments, new_id
from resilience.correlation import _SAFE, _current

from .protocol import ASGIApp, Message, Receive, Scope, Send, header_values

REQUEST_ID = "X-Request-ID"

_TRACEPARENT, _TRACESTATE = TRACEPARENT.encode("ascii"), TRACESTATE.encode("ascii")
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_safe = re.compile(_SAFE.pattern.encode("ascii")).fullmatch  # `valid_id`, for the bytes of a header
_FAILURE = b"Internal Server Error"


class CorrelationMiddleware:
    """Read the id of a request from `header`, or make one, and send it back in the same header of the response.

    Ids that are not 1 to 128 characters out of letters, digits and ``-_.~:/+=@`` are replaced. With `trust_incoming`
    False, all are: for a service that strangers reach directly. A response that has the header already keeps its own.

    The id is also bound for structlog's `merge_contextvars`, as `correlation_id`. An error that no layer inside has
    answered is answered with a plain 500 that carries the id, and raised on to the server.
    """

    def __init__(self, app: ASGIApp, *, header: str = REQUEST_ID, trust_incoming: bool = True) -> None:
        self.app = app
        self._name = field_name("header", header)
        self._trusting = _arguments.flag("trust_incoming", trust_incoming)
        self._telling = frozenset({self._name, _TRACEPARENT})  # the request headers that matter here
        self._structlog = _structlog_variable()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. Only `http` and `websocket` have an id."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        wanted = self._name
        given: bytes | None = None
        traced = False
        if self._trusting:
            telling = self._telling
            for name, value in scope.get("headers", ()):
                if name not in telling:
                    continue
                if name == wanted:
                    given = value if given is None else given
                else:
                    traced = True
        if given is not None and not _safe(given):
            given = None
        trace: TraceContext | None = None
        if traced:
            trace = parse_trace_context(header_values(scope, _TRACEPARENT), header_values(scope, _TRACESTATE))
        if given is not None:
            identity = given.decode("ascii")
        elif trace is not None:
            identity = trace.trace_id
        else:
            identity = new_id()
        if traced and trace is None:
            trace = begin_trace(identity)
        echo = (wanted, given or identity.encode("ascii"))
        started: list[None] = []  # not empty once the response has begun

        def echoing(message: Message) -> Awaitable[None]:
            # Not a coroutine function: nothing is left to do here once the server has the message.
            return _start(message, send, echo, started) if message["type"] in _STARTS else send(message)

        token = _current.set(identity)
        logged = self._structlog.set(identity)
        trace_token = None if trace is None else bind_trace(trace)
        try:
            await self.app(scope, receive, echoing)
        except Exception:
            # Where a framework is outside as well (it has put itself into the scope), its error layer will answer.
            if not started and kind == "http" and "app" not in scope:
                await _internal_server_error(scope, echoing)
            raise
        finally:
            if trace_token is not None:
                unbind_trace(trace_token)
            try:
                self._structlog.reset(logged)
                _current.reset(token)
            except ValueError:  # a finaliser runs this, and that context is gone
                pass


async def _start(message: Message, send: Send, echo: tuple[bytes, bytes], started: list[None]) -> None:
    """Send the start of a response with the id, if it has none of its own."""
    started.append(None)
    name = echo[0]
    length = len(name)
    headers = [*message.get("headers", ())]
    for other, _ in headers:
        if len(other) == length and other.lower() == name:
            break
    else:
        headers.append(echo)
        message = {**message, "headers": headers}
    await send(message)


def field_name(parameter: str, name: object) -> bytes:
    """The name of a header as ASGI spells it; an error that names `parameter` if it is none."""
    text = _arguments.text(parameter, name)
    if text is None or not text.isascii() or not all(c.isalnum() or c in "!#$%&'*+-.^_`|~" for c in text):
        raise ValueError(f"{parameter} must be the name of a header, not {_arguments.shown(name)}")
    return text.lower().encode("ascii")


def _structlog_variable() -> ContextVar[Any]:
    """The variable behind structlog's key: setting it directly costs a tenth of `bind_contextvars`."""
    tokens = bind_contextvars(correlation_id=None)
    reset_contextvars(**tokens)
    return tokens["correlation_id"].var


async def _internal_server_error(scope: Scope, send: Send) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_FAILURE))]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    body = b"" if scope.get("method") == "HEAD" else _FAILURE
    await send({"type": "http.response.body", "body": body, "more_body": False})
