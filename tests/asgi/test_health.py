"""Liveness says that the process runs, readiness that it wants requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from resilience_asgi import GracefulShutdown, HealthEndpoints

from resilience import CircuitBreaker
from resilience.testing import ManualClock

from .wire import Connection, answering, served


def get(app: Any, clock: ManualClock, path: str, method: str = "GET") -> tuple[int, Any]:
    connection = served(app, clock, path=path, method=method)
    assert connection.headers["cache-control"] == "no-store"
    return connection.status, json.loads(connection.body) if connection.body else None


def test_everything_but_the_two_paths_goes_to_the_application(clock: ManualClock) -> None:
    app = HealthEndpoints(answering(b"app"))
    for facts in ({"path": "/"}, {"path": "/healthz/x"}, {"path": "/healthz", "method": "POST"}):
        assert served(app, clock, **facts).body == b"app"
    seen: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    for kind in ("websocket", "lifespan"):
        served(HealthEndpoints(inner), clock, kind=kind, path="/healthz")
    assert seen == ["websocket", "lifespan"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_the_paths_are_those_inside_the_application(clock: ManualClock, path: str) -> None:
    """Servers with a root path put it in front, for requests that came around the proxy as well."""
    app = HealthEndpoints(answering(b"app"))
    assert served(app, clock, path=f"/api{path}", root_path="/api").body.startswith(b'{"status":"ok"')
    assert served(app, clock, path=f"/api{path}", root_path="").body == b"app"


def test_liveness_looks_at_nothing(clock: ManualClock) -> None:
    """Breakers wired into liveness have taken whole fleets down."""
    breaker = CircuitBreaker("db")
    breaker.isolate()
    app = HealthEndpoints(answering(), checks={"db": lambda: breaker.state.value != "isolated"})
    assert get(app, clock, "/healthz") == (200, {"status": "ok"})
    assert get(app, clock, "/healthz", "HEAD") == (200, None)
    assert get(app, clock, "/readyz") == (503, {"status": "unavailable", "checks": {"db": "failed"}})


def test_readiness_takes_sync_and_async_checks(clock: ManualClock) -> None:
    async def ping() -> bool:
        await clock.asleep(0.1)
        return True

    async def broken() -> bool:
        raise OSError("secret.host refused")

    app = HealthEndpoints(answering(), checks={"cache": lambda: 1, "db": ping})
    assert get(app, clock, "/readyz") == (200, {"status": "ok", "checks": {"cache": "ok", "db": "ok"}})
    app = HealthEndpoints(answering(), checks={"cache": lambda: None, "db": broken, "queue": lambda: 1 / 0})
    results = {"cache": "failed", "db": "failed", "queue": "failed"}
    assert get(app, clock, "/readyz") == (503, {"status": "unavailable", "checks": results})


def test_without_checks_a_service_is_ready(clock: ManualClock) -> None:
    app = HealthEndpoints(answering(), liveness="/live", readiness="/ready")
    assert get(app, clock, "/ready") == (200, {"status": "ok", "checks": {}})
    assert get(app, clock, "/live")[0] == 200


def test_checks_that_hang_are_cut_off(clock: ManualClock) -> None:
    async def hanging() -> bool:
        await clock.asleep(60.0)
        return True

    app = HealthEndpoints(answering(), checks={"ok": lambda: True, "db": hanging, "queue": lambda: True}, timeout=2.0)
    results = {"ok": "ok", "db": "not checked", "queue": "not checked"}
    assert get(app, clock, "/readyz") == (503, {"status": "unavailable", "checks": results})
    assert clock.now() == pytest.approx(1002.0, abs=0.1)


def test_readiness_flips_with_the_shutdown_and_liveness_does_not(clock: ManualClock) -> None:
    shutdown = GracefulShutdown(answering(), notice=10.0)
    app = HealthEndpoints(shutdown, checks={"serving": lambda: shutdown.ready})
    assert get(app, clock, "/readyz")[0] == 200
    shutdown.begin()
    assert get(app, clock, "/readyz")[0] == 503
    assert get(app, clock, "/healthz")[0] == 200


def test_a_check_that_is_cancelled_from_outside_is_not_a_failed_check(clock: ManualClock) -> None:
    from resilience.testing import run

    async def hanging() -> bool:
        await clock.asleep(60.0)
        return True

    async def main() -> bool:
        connection = Connection(HealthEndpoints(answering(), checks={"db": hanging}, timeout=50.0), path="/readyz")
        task = asyncio.ensure_future(connection.serve())
        await clock.asleep(1.0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert run(main(), clock)
