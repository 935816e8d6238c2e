"""Liveness and readiness: `/healthz` says that the process runs, `/readyz` that it wants requests.

::

    shutdown = GracefulShutdown(app, signals=[signal.SIGTERM])
    app = HealthEndpoints(shutdown, checks={"serving": lambda: shutdown.ready, "database": ping})

Liveness has no checks, on purpose: who restarts a process because something that it depends on is down takes the whole
fleet down with it. An open circuit is no reason to be unready either, unless a check of yours says so.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from resilience import Clock, Timeout, _arguments
from resilience.exceptions import CallTimeoutError

from .paths import path_inside
from .protocol import ASGIApp, Receive, Scope, Send
from .rendering import ProblemResponse

Check = Callable[[], Any]


class HealthEndpoints:
    """Answer GET and HEAD of the two paths; everything else goes to `app`.

    `checks` maps names to functions, sync or async, that return something false or raise when the service is not ready.
    They run one after the other, for each request, and have `timeout` seconds together. Sync ones run in the event
    loop, where nothing can cut them off: what asks over a network belongs into async ones. An unready service answers
    503 with the names of the checks, never with their errors.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        checks: Mapping[str, Check] | None = None,
        liveness: str = "/healthz",
        readiness: str = "/readyz",
        timeout: float | timedelta = 5.0,
        clock: Clock | None = None,
    ) -> None:
        self.app = app
        self._checks = _checked(checks or {})
        self._liveness = _path("liveness", liveness)
        self._readiness = _path("readiness", readiness)
        self._timeout = Timeout(_arguments.seconds("timeout", timeout), name="readiness", clock=clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            path = path_inside(scope)
            if path == self._liveness:
                await _answer({"status": "ok"}, 200)(scope, receive, send)
                return
            if path == self._readiness:
                await (await self._readiness_answer())(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _readiness_answer(self) -> ProblemResponse:
        results = dict.fromkeys(self._checks, "not checked")
        try:
            async with self._timeout.guard():
                for name, check in self._checks.items():
                    results[name] = "ok" if await _passes(check) else "failed"
        except CallTimeoutError:
            pass  # the check that took too long, and those behind it, stay as they were
        ready = all(result == "ok" for result in results.values())
        return _answer({"status": "ok" if ready else "unavailable", "checks": results}, 200 if ready else 503)


async def _passes(check: Check) -> bool:
    try:
        result = check()
        return bool(await result if inspect.isawaitable(result) else result)
    except Exception:  # noqa: BLE001 - whatever it is, the service is not ready
        return False


def _answer(document: Mapping[str, Any], status: int) -> ProblemResponse:
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return ProblemResponse(status, headers, json.dumps(document, separators=(",", ":")).encode("ascii"))


def _checked(checks: object) -> dict[str, Check]:
    if not isinstance(checks, Mapping):
        raise TypeError(f"checks must be a mapping of names to functions, not {_arguments.shown(checks)}")
    for name, check in checks.items():
        if not isinstance(name, str) or not callable(check):
            raise TypeError(f"checks must map names to functions, not {_arguments.shown(name)} to {check!r:.60}")
    return dict(checks)


def _path(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"{name} must be a path that starts with '/', not {_arguments.shown(value)}")
    return value
