"""What comes in with a request goes out with the requests that are made for it."""

from __future__ import annotations

import httpx
from resilience_asgi import CorrelationMiddleware, ResilienceMiddleware
from resilience_asgi.protocol import Receive, Scope, Send
from resilience_httpx import ResilientTransport

from resilience.testing import ManualClock, run

from .wire import Connection, respond

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_id_trace_and_remaining_time_reach_the_service_behind_with_a_fresh_parent_each_time(clock: ManualClock) -> None:
    seen: list[httpx.Headers] = []

    def behind(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200 if len(seen) % 2 == 0 else 503)  # every first attempt fails

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await clock.asleep(1.0)
        async with httpx.AsyncClient(transport=ResilientTransport(httpx.MockTransport(behind))) as client:
            response = await client.get("http://behind/")
        await respond(send, b"", response.status_code)

    guarded = CorrelationMiddleware(ResilienceMiddleware(app, timeout=20.0))
    headers = [
        ("x-request-id", "order-7"),
        ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),
        ("tracestate", "b=2,a=1"),
        ("x-request-timeout-ms", "5000"),
    ]
    connection = Connection(guarded, headers=headers)
    run(connection.serve(), clock)
    assert (connection.status, connection.headers["x-request-id"]) == (200, "order-7")
    assert len(seen) == 2
    assert {outgoing["x-request-id"] for outgoing in seen} == {"order-7"}
    assert {outgoing["traceparent"].split("-")[1] for outgoing in seen} == {TRACE}
    parents = {outgoing["traceparent"].split("-")[2] for outgoing in seen}
    assert len(parents) == 2
    assert "b7ad6b7169203331" not in parents
    assert {outgoing["tracestate"] for outgoing in seen} == {"b=2,a=1"}
    assert all(0 < int(outgoing["x-request-timeout-ms"]) <= 4000 for outgoing in seen)


def test_an_open_circuit_of_a_client_inside_is_a_503_of_the_service(clock: ManualClock) -> None:
    def behind(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("down", request=request)

    transport = ResilientTransport(httpx.MockTransport(behind), retry=None)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with httpx.AsyncClient(transport=transport) as client:
            for _ in range(100):
                try:
                    await client.get("http://behind/")
                except httpx.ConnectError:
                    continue

    connection = Connection(CorrelationMiddleware(ResilienceMiddleware(app)))
    run(connection.serve(), clock)
    assert connection.status == 503
    assert int(connection.headers["retry-after"]) >= 1
