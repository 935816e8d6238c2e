"""A small service for tests with real servers; `/state` tells what goes on in it."""

from __future__ import annotations

import asyncio
import json
from signal import SIGTERM
from typing import Any
from urllib.parse import parse_qs

from resilience_asgi import (
    CorrelationMiddleware,
    GracefulShutdown,
    HealthEndpoints,
    ResilienceMiddleware,
    Rule,
    client_address,
    path_key,
)
from resilience_asgi.protocol import Message, Receive, Scope, Send

from resilience import Bulkhead, RateLimiter, correlation_id

slots = Bulkhead(2, name="slots")
state: dict[str, Any] = {"cancelled": 0, "finished": 0, "background": 0, "body": 0, "client": None}


async def respond(send: Send, body: bytes, status: int = 200, kind: bytes = b"text/plain") -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hang(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after some seconds."""
    seconds = float(parse_qs(scope["query_string"].decode()).get("seconds", ["600"])[0])
    await asyncio.sleep(seconds)
    await respond(send, b"late")


async def upload(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, and answer with its length."""
    size, message = 0, await receive()
    while message["type"] == "http.request":
        size += len(message["body"])
        state["body"] = size
        if not message["more_body"]:
            await respond(send, b"%d" % size)
            return
        message = await receive()


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Send parts without an end: small ones now and then, or large ones at once."""
    large = scope["path"] == "/flood"
    kind = b"application/octet-stream" if large else b"text/event-stream"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    while True:
        await send(
            {"type": "http.response.body", "body": b"x" * 500_000 if large else b"data: x\n\n", "more_body": True}
        )
        await asyncio.sleep(0.0 if large else 0.05)


async def background(scope: Scope, receive: Receive, send: Send) -> None:
    """Go on after the response, for longer than the timeout of this path."""
    await respond(send, b"accepted")
    await asyncio.sleep(0.6)
    state["background"] += 1


async def torn(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail in the middle of a response."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b"x" * 10, "more_body": True})
    raise ValueError("in the middle")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket that repeats what it hears."""
    message: Message = await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{correlation_id()} {message.get('text')}"})


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """The state of this service."""
    state["client"] = client_address()(scope)
    document = state | {"in_use": slots.statistics().in_use}
    await respond(send, json.dumps(document).encode(), kind=b"application/json")


PATHS = {
    "/hang": hang,
    "/upload": upload,
    "/events": stream,
    "/flood": stream,
    "/background": background,
    "/torn": torn,
    "/state": tell,
    "/limited": tell,
    "/ws": echo,
    "/ws-limited": echo,
}


async def service(scope: Scope, receive: Receive, send: Send) -> None:
    """All of it."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    try:
        await PATHS[scope["path"]](scope, receive, send)
    except asyncio.CancelledError:
        state["cancelled"] += 1
        raise
    state["finished"] += 1


guarded = ResilienceMiddleware(
    service,
    exempt=["/state"],
    rules=[
        Rule("/background", layers=[slots], timeout=0.2),
        Rule("/limited", layers=[RateLimiter(1, 600.0, key=path_key())]),
        Rule("/ws-limited", layers=[RateLimiter(1, 600.0, key=path_key())]),
        Rule("*", layers=[slots]),
    ],
    timeout=30.0,
    watch_after=0.1,
)
shutdown = GracefulShutdown(CorrelationMiddleware(guarded), drain_timeout=10.0, signals=[SIGTERM])
app = HealthEndpoints(shutdown, checks={"serving": lambda: shutdown.ready})
