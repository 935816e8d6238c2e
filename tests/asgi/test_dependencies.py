"""Policies as dependencies of FastAPI: what an exception of the endpoint means for them."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket, WebSocketException
from fastapi.testclient import TestClient
from resilience_asgi import ResilienceMiddleware, ResponseOutcome, client_address, dependency, path_key, problem_handler
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    Keyed,
    Pipeline,
    Policy,
    RateLimiter,
    ResilienceError,
)


def breaking(errors: dict[str, Exception], policy: Policy) -> TestClient:
    """An app whose endpoints raise."""
    app = FastAPI()
    app.add_middleware(ResilienceMiddleware)
    guard = Depends(dependency(policy))

    @app.get("/{name}", dependencies=[guard])
    def endpoint(name: str, number: int = 0) -> str:
        raise errors[name]

    @app.websocket("/ws/{name}", dependencies=[guard])
    async def socket(websocket: WebSocket, name: str, number: int = 0) -> None:
        await websocket.accept()
        if name != "leave":
            raise errors[name]
        await websocket.receive_text()

    return TestClient(app, raise_server_exceptions=False)


def test_what_the_client_did_wrong_is_no_failure() -> None:
    """A circuit must not open because somebody asks for what does not exist, or sends nonsense."""
    breaker = CircuitBreaker("app", failure_threshold=1)
    errors: dict[str, Exception] = {
        "missing": HTTPException(404),
        "gone": ClientDisconnect(),
        "policy": WebSocketException(1008),
    }
    client = breaking(errors, breaker)
    assert [client.get(path).status_code for path in ("/missing", "/x?number=nonsense")] == [404, 422]
    client.get("/gone")
    for path in ("/ws/policy", "/ws/x?number=nonsense", "/ws/leave"):
        try:
            with client.websocket_connect(path) as websocket:
                if path == "/ws/policy":
                    websocket.receive_text()
        except Exception:
            pass
    assert (breaker.state.value, breaker.statistics().failures) == ("closed", 0)
    assert breaker.statistics().calls >= 4


@pytest.mark.parametrize("error", [HTTPException(500), HTTPException(503), ValueError("broken")])
def test_what_the_endpoint_did_wrong_is_a_failure(error: Exception) -> None:
    breaker = CircuitBreaker("app", failure_threshold=1)
    breaking({"broken": error}, breaker).get("/broken")
    assert breaker.state.value == "open"


def test_a_websocket_that_is_closed_for_an_internal_error_is_a_failure() -> None:
    breaker = CircuitBreaker("app", failure_threshold=1)
    client = breaking({"broken": WebSocketException(1011)}, breaker)
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws/broken") as websocket:
        websocket.receive_text()
    assert breaker.state.value == "open"


@pytest.mark.parametrize("keyed", [False, True])
def test_a_layer_that_looks_at_results_sees_the_response_that_an_exception_means(keyed: bool) -> None:
    seen: list[Any] = []

    def failed_login(outcome: Any) -> bool:
        seen.append(outcome)
        return isinstance(outcome, ResponseOutcome) and outcome.status == 401

    logins = RateLimiter(1, 60.0, charge_if=failed_login)
    policy = Keyed(lambda _: logins, key=path_key()) if keyed else logins
    client = breaking({"login": HTTPException(401, headers={"WWW-Authenticate": "Basic"})}, policy)
    assert [client.get("/login").status_code for _ in range(2)] == [401, 429]
    assert seen == [ResponseOutcome(401, [(b"www-authenticate", b"Basic")])]


def test_a_key_function_serves_a_decorated_endpoint() -> None:
    """FastAPI calls it with named arguments."""
    app = FastAPI(exception_handlers={ResilienceError: problem_handler})
    limiter = RateLimiter(1, 60.0, key=client_address())

    @app.get("/async")
    @limiter
    async def asynchronous(request: Request) -> str:
        return "async"

    @app.get("/sync")
    @limiter.with_(name="sync")
    def synchronous(number: int, asked: Request) -> str:
        return "sync"

    client = TestClient(app)
    assert [client.get(path).status_code for path in ("/async", "/sync?number=1")] == [200, 429]


def test_the_handler_closes_a_websocket_that_was_accepted() -> None:
    app = FastAPI(exception_handlers={ResilienceError: problem_handler})

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        raise BulkheadFullError("db")

    with TestClient(app).websocket_connect("/ws") as websocket:
        assert websocket.receive() == {"type": "websocket.close", "code": 1013, "reason": "503"}


def test_several_policies_are_several_dependencies() -> None:
    several: Any = Pipeline(CircuitBreaker(), Bulkhead(1))
    with pytest.raises(TypeError, match=r"policy must be a single one, not <Pipeline.*give each a Depends"):
        dependency(several)
    single: Any = Pipeline(Bulkhead(1))
    assert dependency(single).__doc__
