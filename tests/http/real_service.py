"""A real HTTP service on loopback: uvicorn in a thread, with a small application that can misbehave."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

import uvicorn


class Application:
    """Plain ASGI. `seen` counts requests by path; `headers` are those of the last request to each path."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.headers: dict[str, list[dict[str, str]]] = {}
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.seen[path] += 1
        self.headers.setdefault(path, []).append(headers)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        status, extra, content = 200, {}, body or path.encode()
        if path.startswith("/flaky") and self.seen[path] <= int(query.get("failures", 2)):
            status, extra = 503, {"Retry-After": "0"}
        elif path == "/redirect":
            status, extra = 307, {"Location": "/target"}
        elif path == "/login":
            extra = {"Set-Cookie": "session=abc; Path=/"}
        elif path == "/cookies":
            content = headers.get("cookie", "none").encode()
        elif path == "/private" and "authorization" not in headers:
            status, extra = 401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'}
        elif path == "/never":
            await asyncio.Event().wait()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in extra.items()],
            }
        )
        if path == "/drip":
            while True:
                await send({"type": "http.response.body", "body": b"drop", "more_body": True})
                await asyncio.sleep(0.02)
        if path == "/stuck":
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await asyncio.Event().wait()
        await send({"type": "http.response.body", "body": content})


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, Application]]:
    """The URL of a running service, and its application. Whatever still hangs in it is torn down at the end."""
    application = Application()
    config = uvicorn.Config(application, port=0, log_level="critical", lifespan="off", access_log=False, ws="none")
    config.ssl_context_factory = None if tls is None else (lambda config, standard: tls)
    server = uvicorn.Server(config)
    server.force_exit = True
    started = threading.Event()
    startup = server.startup

    async def noted_startup(sockets: Any = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = noted_startup  # type: ignore[method-assign]
    # `asyncio.run` cancels what still hangs in the application when the server has stopped.
    thread = threading.Thread(target=lambda: asyncio.run(server._serve()), daemon=True)
    thread.start()
    assert started.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", application
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
