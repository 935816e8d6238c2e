"""A rejection as a response: status, `application/problem+json` (RFC 9457), `Retry-After`, the correlation id.

::

    RateLimitExceededError                                     429
    CircuitOpenError  BulkheadFullError  PoolExhaustedError    503
    CallTimeoutError  DeadlineExceededError                    504
    anything else                                              not ours: it goes on to the framework

`ResilienceMiddleware` does this by itself. Where a framework turns exceptions into responses before a middleware sees
them (Django, Quart, Litestar), call `problem_response(error)` in its exception handler::

    @app.errorhandler(ResilienceError)                          # Quart
    async def rejected(error):
        response = problem_response(error, scope=request.scope)
        return response.body, response.status, response.headers

    def process_exception(self, request, error):                # a Django middleware
        response = problem_response(error, scope=request.scope)
        return response and HttpResponse(response.body, status=response.status, headers=response.headers)

For Starlette, FastAPI and Litestar there is `problem_handler`, which is an exception handler as it stands. Register it
for an application that is mounted in another one, too: with an error layer of its own, it answers 500 to whatever it
has no handler for, before a middleware of the outer one sees the rejection.

The handlers are told the scope, because a rejection is no failure of the service: a circuit breaker in the middleware
outside finds in there that the response is one, and does not count it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from resilience_http.problem import MEDIA_TYPE, Problem, problem_for
from resilience_http.retry_after import RATE_LIMIT, RETRY_AFTER, format_rate_limit, format_retry_after

from resilience import correlation_id
from resilience.exceptions import CallRejectedError, RateLimitExceededError

from .protocol import Message, RawHeaders, Receive, Scope, Send

REFUSED = "resilience_asgi.refused"
"""The key of a scope under which the status of a rendered rejection is, for the layers further outside."""

_TRY_AGAIN_LATER = 1013  # the close code of the IANA registry for what 503 is in HTTP


@dataclass(frozen=True, slots=True)
class ProblemResponse:
    """A whole response: `status`, `headers`, `body`. It is an ASGI application too, so Starlette can return it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def with_headers(self, headers: Mapping[str, str]) -> ProblemResponse:
        """The same with `headers` added, those that it has already left alone."""
        known = {_raw(name) for name in self.headers}
        added = {name: value for name, value in headers.items() if _raw(name) not in known}
        return ProblemResponse(self.status, {**self.headers, **added}, self.body) if added else self

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI has them, the length of the body included."""
        headers = {_raw(name): value.encode("latin-1") for name, value in self.headers.items()}
        headers[b"content-length"] = b"%d" % len(self.body)
        return [*headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a connection with it."""
        await self.deliver(scope, send)

    async def deliver(self, scope: Scope, send: Send) -> None:
        """Send it: as a response, or as the refusal of a WebSocket that was not accepted yet."""
        if scope["type"] != "websocket":
            await send(_start("http.response.start", self.status, self.raw_headers()))
            body = b"" if scope.get("method") == "HEAD" else self.body
            await send({"type": "http.response.body", "body": body, "more_body": False})
        elif "websocket.http.response" in (scope.get("extensions") or ()):
            await send(_start("websocket.http.response.start", self.status, self.raw_headers()))
            await send({"type": "websocket.http.response.body", "body": self.body, "more_body": False})
        else:
            await self.close(send)

    def to_asgi_response(self, *_: Any, **__: Any) -> ProblemResponse:
        """Itself: Litestar asks this of what an exception handler returns."""
        return self

    async def closing(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """End a WebSocket that was accepted, as an ASGI application."""
        await self.close(send)

    async def close(self, send: Send) -> None:
        """Close a WebSocket for this reason. Before it was accepted, the client sees a 403."""
        await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": f"{self.status}"})


Render = Callable[[Problem, Scope], ProblemResponse]


def problem_json(problem: Problem, _scope: Scope) -> ProblemResponse:
    """The default rendering: the problem document of RFC 9457."""
    return ProblemResponse(problem.status, {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"}, problem.content())


def problem_of(error: BaseException) -> Problem | None:
    """The problem that an error means for the client, with the correlation id; None if it is no rejection of ours.

    A group of errors is one if all of them are, and then the first counts.
    """
    if isinstance(error, BaseExceptionGroup):
        problems = [problem_of(leaf) for leaf in error.exceptions]
        return problems[0] if None not in problems else None
    identity = correlation_id()
    return problem_for(error, extensions=None if identity is None else {"correlation_id": identity})


def response_to(
    error: BaseException, scope: Scope | None = None, render: Render = problem_json
) -> ProblemResponse | None:
    """The response that an error means for the client, or None if it is no rejection of ours."""
    problem = problem_of(error)
    if problem is None:
        return None
    response = render(problem, {} if scope is None else scope)
    if problem.retry_after is not None:
        response = response.with_headers({RETRY_AFTER: format_retry_after(problem.retry_after)})
    if scope is not None and _only_rejections(error):
        scope[REFUSED] = response.status
    return response


def problem_response(
    error: BaseException, *, scope: Scope | None = None, rate_limit_fields: bool = False
) -> ProblemResponse | None:
    """The response that `error` means for the client, or None if it is no rejection of ours.

    With the `scope` of the request, layers of a `ResilienceMiddleware` outside do not count a rejection as a failure.
    With `rate_limit_fields`, one to a `RateLimitExceededError` has the `RateLimit` field of the IETF draft as well.
    """
    response = response_to(error, scope)
    if response is not None and rate_limit_fields:
        response = response.with_headers(fields_of(error))
    return response


def problem_handler(request: Any, error: Exception) -> Any:
    """An exception handler for Starlette, FastAPI and Litestar: register it for `ResilienceError`.

    It returns a `ProblemResponse`, which is a response for each of them without inheriting from theirs; for a WebSocket
    that Starlette has accepted, what closes it.
    """
    response = response_to(error, getattr(request, "scope", None))
    if response is None:
        raise error
    accepted = getattr(getattr(request, "application_state", None), "name", None) == "CONNECTED"
    return response.closing if accepted else response


def fields_of(error: BaseException) -> dict[str, str]:
    """The `RateLimit` field that a refusal itself knows; none for anything but a rate limit."""
    if not isinstance(error, RateLimitExceededError) or error.remaining is None:
        return {}
    name = error.policy or "limit"
    return {RATE_LIMIT: format_rate_limit(name, error.remaining, error.retry_after)}


def _only_rejections(error: BaseException) -> bool:
    """Whether no call has failed, as `Policy.judge` sees it; one that was cut off has."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_only_rejections, error.exceptions))
    return isinstance(error, CallRejectedError)


@lru_cache(maxsize=256)
def _raw(name: str) -> bytes:
    """The name of a header as ASGI has it."""
    return name.lower().encode("latin-1")


def _start(kind: str, status: int, headers: RawHeaders) -> Message:
    return {"type": kind, "status": status, "headers": headers}
