"""A policy as a dependency of FastAPI, for the endpoints that name it.

    @app.get("/search", dependencies=[Depends(dependency(RateLimiter(10, key=client_address())))])
    async def search(q: str) -> list[str]: ...

It works for sync, async and WebSocket endpoints. Keys, costs and the like are called with the ASGI scope. The call ends
where FastAPI ends dependencies with `yield`; an exception of the endpoint is the call's outcome. A rejection is turned
into a response by `ResilienceMiddleware`, or by `problem_handler` as the exception handler of `ResilienceError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from resilience import Policy

from .plan import policies


def dependency(policy: Policy) -> Callable[..., AsyncIterator[None]]:
    """What to give to `Depends`: each request to the endpoint is a call under `policy`.

    TypeError for a `Retry` or `Timeout`: decorate what the endpoint calls.
    """
    from starlette.requests import HTTPConnection  # noqa: PLC0415 - whoever calls this has FastAPI

    (guarding,) = policies("policy", [policy])

    async def guarded(connection: Any) -> AsyncIterator[None]:
        async with guarding.guard(connection.scope):
            yield

    # The class itself, not its name: FastAPI would look a string up among the names of this module.
    guarded.__annotations__ = {"connection": HTTPConnection, "return": AsyncIterator[None]}
    guarded.__doc__ = f"Under {policy!r}."
    return guarded
