"""Any layer around a web application, as ASGI middleware for any framework.

::

    app.add_middleware(
        ResilienceMiddleware,
        layers=[CircuitBreaker("app"), RateLimiter(100, 60.0, key=client_address()), Bulkhead(200, max_queue=100)],
        timeout=10.0,
    )

A layer's key, cost and the like are called with the ASGI scope. The guarded call begins with the request and ends when
the last part of the response was sent; a status of 500 and above is a failure. Rejections and timeouts, of these layers
or of decorated functions anywhere inside, become responses (see `rendering`).

Put it inside the framework's error layer, where `add_middleware` puts it, and `CorrelationMiddleware` around the
finished application. Around a finished application, or one that is mounted in another, this middleware refuses and
times out as well, but what is raised further inside meets that application's own error layer first, which answers 500
unless it has a handler (see `problem_handler`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resilience import Clock, Keyed, Layer, RateLimiter, Timeout, _arguments
from resilience._timers import grain_of

from .exchange import Exchange
from .paths import matcher, path_inside
from .permits import door, judges
from .plan import Plan, Rule, Seconds, policies
from .protocol import ASGIApp, Receive, Scope, Send
from .rendering import Render, problem_json


class ResilienceMiddleware:
    """Guard the requests to `app` by `layers`, outermost first.

    `timeout` (seconds) ends when the response starts; `body_timeout` begins then, and aborts the connection. A client
    that sends `X-Request-Timeout-Ms` or `grpc-timeout` can shorten the first. What is cut off counts as a failure of
    what it waited for, so where strangers are the clients and circuit breakers are inside, say
    `incoming_deadline=False`. It is none if that was the client, which did not send the body or read the response. But
    what a client takes to do so is a part of the request: where clients are slow, so are calls for the
    `slow_call_duration` of a breaker among the layers.

    Once a request has lasted `watch_after` seconds, it is cancelled when its client disconnects; None lets it run to
    its end.

    No thread can be cancelled: that of a sync endpoint runs on when its request was answered and its permit given back.
    To limit such threads, decorate the endpoint itself with the `Bulkhead`. A `BaseHTTPMiddleware` of Starlette inside
    waits for the thread, so the answer that it took too long comes when the thread has ended; one outside makes a
    complete response of a body that was cut off. Middleware that is pure ASGI does neither.

    `exempt` paths pass untouched, and `rules` change the settings for some paths. `render(problem, scope)` makes the
    body of a refusal. With `rate_limit_fields`, responses tell what is left of the limits.

    `Retry` and `Timeout` among the layers are a TypeError, as is everything that cannot admit and settle.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        layers: Iterable[Layer] = (),
        timeout: Seconds = None,
        body_timeout: Seconds = None,
        watch_after: Seconds = 1.0,
        rules: Iterable[Rule] = (),
        exempt: Iterable[str] = ("/healthz", "/readyz"),
        incoming_deadline: bool = True,
        rate_limit_fields: bool = False,
        render: Render = problem_json,
        name: str | None = "request",
        clock: Clock | None = None,
    ) -> None:
        self.app = app
        self._exempt = matcher("exempt", exempt)
        common: dict[str, Any] = {
            "timeout": (timing := Timeout(None, name=name, clock=clock)),
            "name": timing.name,
            "clock": timing._clock,
            "incoming_deadline": _arguments.flag("incoming_deadline", incoming_deadline),
            "shows_quotas": _arguments.flag("rate_limit_fields", rate_limit_fields),
            "render": _arguments.function("render", render) or problem_json,
        }
        own = policies("layers", layers)
        settings = {
            "timeout": _arguments.optional_seconds("timeout", timeout),
            "body_timeout": _arguments.optional_seconds("body_timeout", body_timeout),
            "watch_after": _arguments.optional_seconds("watch_after", watch_after, zero=True),
        }
        self._plan = _plan(common, own, settings)
        self._rules: list[tuple[Rule, Plan]] = []
        for rule in rules:
            if not isinstance(rule, Rule):
                raise TypeError(f"rules must hold Rule objects, not {_arguments.shown(rule)}")
            self._rules.append((rule, _plan(common, own + rule.policies, settings | rule.settings)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. Only `http` and `websocket` are guarded."""
        kind = scope["type"]
        if (kind != "http" and kind != "websocket") or self._exempt(path := path_inside(scope)):  # noqa: PLR1714
            await self.app(scope, receive, send)
            return
        plan = self._plan
        for rule, other in self._rules:
            if rule.covers(path, scope.get("method")):
                plan = other
                break
        exchange = Exchange()
        try:
            waiting = exchange.begin(plan, scope, receive, send)
            if plan.judged or exchange.watched_in is not None:
                # Where nobody watches, it may count all the same whether the application is told of a disconnect.
                receive = exchange.receive
            if waiting is not None:
                await waiting
            await self.app(scope, receive, exchange.send)
        except BaseException as error:
            refusal = exchange.fail(error)
            if refusal is None:
                raise
        else:
            exchange.end()
            return
        await exchange.refuse(refusal)

    def __repr__(self) -> str:
        return f"<ResilienceMiddleware: {', '.join(map(repr, self._plan.policies)) or 'no layers'}>"


def _plan(common: dict[str, Any], own: tuple[Any, ...], settings: dict[str, float | None]) -> Plan:
    return Plan(
        policies=own,
        judged=any(map(judges, own)),
        seconds=settings["timeout"],
        body_seconds=settings["body_timeout"],
        watch_after=settings["watch_after"],
        grain=grain_of(settings["timeout"] or 0.0),
        watch_grain=grain_of(settings["watch_after"] or 0.0),
        doors=tuple(map(door, own)),
        uniform=not any(type(policy) is Keyed or policy._judges_results for policy in own),
        limiters=tuple(policy for policy in own if isinstance(policy, RateLimiter)),
        **common,
    )
