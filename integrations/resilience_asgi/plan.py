"""What is done for a request: the settings of the middleware, and rules that change them for some paths.

    rules=[
        Rule("/search", layers=[RateLimiter(10, key=client_address())], timeout=2.0),
        Rule("/events", timeout=None, body_timeout=3600.0),
        Rule("/reports/*", methods=["POST"], watch_after=None),       # goes on when the client has gone
    ]

The first rule whose path and method match counts. Its layers come inside those of the middleware; its other settings
replace those of the middleware, where it has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from resilience import Clock, Keyed, Layer, Pipeline, Policy, RateLimiter, Retry, Timeout, _arguments
from resilience._timers import Timers, timers_of
from resilience.correlation import correlated

from .paths import matcher, single_slashes, with_or_without_slash
from .permits import Door
from .rendering import Render

Seconds = float | timedelta | None
INHERITED: Any = object()  # a setting that a rule leaves as the middleware has it


class Rule:
    """Other settings for the requests to `path`, a pattern (see `resilience_asgi.paths`), by one of `methods`.

    A slash at the end and slashes in a row make no difference, because for some routers (Litestar's) they make none.
    `methods` of None means all, WebSockets included; GET means HEAD as well, as in a router. `layers`, `timeout`,
    `body_timeout` and `watch_after` are as in `ResilienceMiddleware`.
    """

    def __init__(
        self,
        path: str,
        *,
        methods: Iterable[str] | None = None,
        layers: Iterable[Layer] = (),
        timeout: Seconds = INHERITED,
        body_timeout: Seconds = INHERITED,
        watch_after: Seconds = INHERITED,
    ) -> None:
        self.path = path
        self._matches = matcher("path", with_or_without_slash(path))
        self._methods = _methods(methods)
        self.policies = policies("layers", layers)
        self.settings = {
            name: _arguments.optional_seconds(name, value, zero=name == "watch_after")
            for name, value in {"timeout": timeout, "body_timeout": body_timeout, "watch_after": watch_after}.items()
            if value is not INHERITED
        }

    def covers(self, path: str, method: str | None) -> bool:
        """Whether this rule is for a request to `path` by `method` (None: a WebSocket)."""
        if not self._matches(path) and ("//" not in path or not self._matches(single_slashes(path))):
            return False
        return self._methods is None or method in self._methods

    def __repr__(self) -> str:
        return f"<Rule for {self.path}>"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that an exchange needs to know, decided when the middleware is made."""

    policies: tuple[Policy, ...]
    judged: bool  # whether it matters to any of them how a call has ended
    timeout: Timeout  # does the arming; has no limit itself
    name: str | None  # in the errors
    clock: Clock
    seconds: float | None
    body_seconds: float | None
    watch_after: float | None
    grain: int  # the size of the timer's slots for `seconds`, and for `watch_after`
    watch_grain: int
    incoming_deadline: bool
    shows_quotas: bool
    render: Render
    limiters: tuple[RateLimiter, ...]  # those among the policies
    doors: tuple[Door, ...]  # the policies with their methods
    uniform: bool  # whether a success is the same to all of them: none judges results or is behind a Keyed

    def timers(self, loop: asyncio.AbstractEventLoop) -> Timers:
        """The shared timers of a loop; those used last are remembered, weakly."""
        timers = self.timeout._timers()
        if timers is None or timers.loop is not loop:
            timers = timers_of(loop, self.clock)
            self.timeout._timers = timers.ref
        return timers


def policies(name: str, layers: object) -> tuple[Policy, ...]:
    """The policies of a middleware with pipelines opened; a TypeError for what cannot guard a request."""
    if not isinstance(layers, Iterable):
        raise TypeError(f"{name} must be a collection of layers, not {_arguments.shown(layers)}")
    found: list[Policy] = []
    for layer in layers:
        if isinstance(layer, Pipeline):
            found += policies(name, layer.layers)
        else:
            found.append(_guarding(name, layer))
    return tuple(found)


def _guarding(name: str, layer: object) -> Policy:
    if isinstance(layer, Retry):
        raise TypeError(f"{name} must not hold {layer!r}: what a request has sent already cannot be taken back")
    if isinstance(layer, Timeout):
        raise TypeError(f"{name} must not hold {layer!r}: use timeout=, which ends when the response starts")
    if layer is correlated:
        raise TypeError(f"{name} must not hold correlated: put CorrelationMiddleware around the application")
    if not isinstance(layer, Policy) or (type(layer).admit is Policy.admit and type(layer) is not Keyed):
        raise TypeError(f"{name} must hold policies that admit and settle calls, not {_arguments.shown(layer)}")
    return layer


def _methods(methods: object) -> frozenset[str] | None:
    if methods is None:
        return None
    if not isinstance(methods, Iterable) or isinstance(methods, (str, bytes)):
        raise TypeError(f"methods must be a collection of names or None, not {_arguments.shown(methods)}")
    names: list[str] = []
    for method in methods:
        if not isinstance(method, str) or not method:
            raise TypeError(f"methods must hold names such as 'GET', not {_arguments.shown(method)}")
        names.append(method.upper())
    if "GET" in names:  # routers let an endpoint for one answer the other, and a limit must not be got around by it
        names.append("HEAD")
    return frozenset(names)
