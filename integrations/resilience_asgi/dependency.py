"""A policy as a dependency of FastAPI, for the endpoints that name it.

    @app.get("/search", dependencies=[Depends(dependency(RateLimiter(10, key=client_address())))])
    async def search(q: str) -> list[str]: ...

It works for sync, async and WebSocket endpoints. Keys, costs and the like are called with the ASGI scope. The call ends
where FastAPI ends dependencies with `yield`. An exception of the endpoint is the call's outcome, but one that means a
status below 500 (`HTTPException(404)`, input that does not validate, a client that has gone) is no failure: the layer
gets a `ResponseOutcome` with that status, as in the middleware. A response that is returned is a success whatever its
status, because FastAPI shows it to no dependency: raise for what shall count. A rejection is turned into a response by
`ResilienceMiddleware`, or by `problem_handler` as the exception handler of `ResilienceError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from resilience import Policy

from .permits import ResponseOutcome
from .plan import policies

_INTERNAL_ERROR = 1011  # the close code by which an endpoint of a WebSocket says that it has failed


def dependency(policy: Policy) -> Callable[..., AsyncIterator[None]]:
    """What to give to `Depends`: each request to the endpoint is a call under `policy`.

    TypeError for a `Retry` or `Timeout`: decorate what the endpoint calls.
    """
    from starlette.requests import HTTPConnection  # noqa: PLC0415 - whoever calls this has FastAPI

    found = policies("policy", [policy])
    if len(found) != 1:
        raise TypeError(f"policy must be a single one, not {policy!r}: give each a Depends of its own, outermost first")
    guarding = found[0]

    async def guarded(connection: Any) -> AsyncIterator[None]:
        async with guarding.guard(connection.scope) as guard:
            try:
                yield
                return
            except Exception as error:
                status = _status_of(error)
                if status is None:
                    raise
                answer = error
            guard.outcome(ResponseOutcome(status, _headers_of(answer)))
        try:
            raise answer
        finally:
            del answer  # its traceback holds this frame

    # The class itself, not its name: FastAPI would look a string up among the names of this module.
    guarded.__annotations__ = {"connection": HTTPConnection, "return": AsyncIterator[None]}
    guarded.__doc__ = f"Under {policy!r}."
    return guarded


def _status_of(error: Exception) -> int | None:
    """The status below 500 that FastAPI makes of an exception (for WebSockets, what it means in HTTP); None if none."""
    from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError  # noqa: PLC0415
    from starlette.exceptions import HTTPException, WebSocketException  # noqa: PLC0415
    from starlette.requests import ClientDisconnect  # noqa: PLC0415
    from starlette.websockets import WebSocketDisconnect  # noqa: PLC0415

    if isinstance(error, HTTPException):
        return error.status_code if error.status_code < 500 else None
    if isinstance(error, WebSocketException):
        return None if error.code == _INTERNAL_ERROR else 403
    if isinstance(error, (RequestValidationError, WebSocketRequestValidationError)):
        return 422
    return 499 if isinstance(error, (ClientDisconnect, WebSocketDisconnect)) else None


def _headers_of(error: Exception) -> list[tuple[bytes, bytes]]:
    headers: Mapping[str, str] = getattr(error, "headers", None) or {}
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
