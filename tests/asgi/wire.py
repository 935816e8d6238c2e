"""A server of one connection for tests: it is as strict as real ones, plays the client's side, and keeps what was sent.

::

    connection = Connection(app, path="/search")
    run(connection.serve(), clock)
    assert (connection.status, connection.body) == (200, b"found")
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

from resilience_asgi.protocol import ASGIApp, Message, Receive, Scope, Send

from resilience.testing import ManualClock, run


class Connection:
    """One request, or one WebSocket. `serve()` calls the application as a server would."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        kind: str = "http",
        path: str = "/",
        method: str = "GET",
        headers: Iterable[tuple[str, str | bytes]] = (),
        body: Sequence[bytes] = (b"",),
        client: Any = ("203.0.113.7", 50000),
        extensions: Iterable[str] = (),
        **more: Any,
    ) -> None:
        self.app = app
        raw = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers]
        self.scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "path": path,
            "query_string": b"",
            "root_path": "",
            "headers": raw,
            "client": client,
            "extensions": {name: {} for name in extensions},
            **more,
        }
        if kind == "http":
            self.scope["method"] = method
        self.sent: list[Message] = []
        self.received = 0  # calls of receive()
        self.receiving = 0  # calls that are in receive() now
        self.broken: Exception | None = None  # what send() raises
        self._parts = list(body) if kind == "http" else [b"connect"]
        self._gone = asyncio.Event()

    async def serve(self) -> None:
        """Call the application."""
        await self.app(self.scope, self.receive, self.send)

    def disconnect(self) -> None:
        """The client goes away."""
        self._gone.set()

    async def receive(self) -> Message:
        self.received += 1
        self.receiving += 1
        assert self.receiving == 1, "two calls of receive() at a time"
        try:
            if self._parts:
                part = self._parts.pop(0)
                if self.scope["type"] == "websocket":
                    return {"type": "websocket.connect"}
                return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
            await self._gone.wait()
            return {"type": f"{self.scope['type']}.disconnect"}
        finally:
            self.receiving -= 1

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self.broken is not None:
            raise self.broken
        kind = message["type"]
        if kind.startswith("http.response") and self.complete:
            raise RuntimeError(f"{kind} after the end of the response")
        if kind == "http.response.start" and self.sent:
            raise RuntimeError("a second http.response.start")
        if kind == "http.response.body" and not self.sent:
            raise RuntimeError("http.response.body before the start")
        self.sent.append(message)

    @property
    def complete(self) -> bool:
        return bool(self.sent) and self.sent[-1]["type"] == "http.response.body" and not self.sent[-1].get("more_body")

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        pairs = list(self.sent[0].get("headers", ()))
        assert len({name for name, _ in pairs}) == len(pairs), f"a header twice: {pairs}"
        return {name.decode(): value.decode() for name, value in pairs}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def problem(self) -> Any:
        """The body as the problem document that it is."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["content-length"] == str(len(self.body))
        return json.loads(self.body)

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.sent]


def served(app: ASGIApp, clock: ManualClock, **facts: Any) -> Connection:
    """A connection after `app` has served it in virtual time."""
    connection = Connection(app, **facts)
    run(connection.serve(), clock)
    return connection


def answering(body: bytes = b"ok", status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> ASGIApp:
    """An application that gives one answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, body, status, headers)

    return app


async def respond(
    send: Send, body: bytes = b"ok", status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


def raising(error: BaseException) -> ASGIApp:
    """An application that fails before it has answered."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app
