"""A server that plays a script behind either library, and requests to it in either colour."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

from resilience.testing import ManualClock
from tests.conftest import Colour

URL = "https://api.example.com/things"
ORIGIN = "https://api.example.com"
LIBRARIES = ("httpx", "httpx2")


class Chunks:
    """A response body: strings and bytes are sent, numbers are pauses in seconds, exceptions are raised.

    `played` is how far a reader has come.
    """

    def __init__(self, server: Server, entries: tuple[Any, ...]) -> None:
        self._server = server
        self._entries = entries
        self.closed = False
        self.played: list[Any] = []

    def __iter__(self) -> Iterator[bytes]:
        for entry in self._entries:
            self.played.append(entry)
            if isinstance(entry, (int, float)):
                self._server.clock.sleep(entry)
            else:
                yield self._played(entry)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for entry in self._entries:
            self.played.append(entry)
            if isinstance(entry, (int, float)):
                await self._server.clock.asleep(entry)
            else:
                yield self._played(entry)

    def close(self) -> None:
        self.closed = True
        self._server.log.append("closed")

    async def aclose(self) -> None:
        self.close()

    def _played(self, entry: Any) -> bytes:
        if isinstance(entry, BaseException):
            raise entry
        return entry.encode() if isinstance(entry, str) else entry


class Answer:
    """A response to be: `status`, `headers`, the entries of its body, and the seconds until its headers are sent."""

    def __init__(
        self, status: int = 200, *body: Any, headers: dict[str, str] | None = None, after: float = 0.0
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers or {}
        self.after = after


class Server:
    """An inner transport of one library that plays a script, one entry a request; the last one is repeated.

    Entries are answers, exceptions, or functions of the request that return either. `requests` is what arrived, with
    the `bodies` that came along and the `phases`, its timeouts, as they were then; `log` has the order of events.
    """

    def __init__(self, library: ModuleType, clock: ManualClock, script: tuple[Any, ...]) -> None:
        self.clock = clock
        self.library = library
        self.script = script
        self.requests: list[Any] = []
        self.bodies: list[bytes] = []
        self.phases: list[dict[str, float | None]] = []
        self.streams: list[Any] = []
        self.log: list[str] = []

    def handle_request(self, request: Any) -> Any:
        answer = self._next(request)
        if answer.after:
            self.clock.sleep(answer.after)
        self.bodies.append(b"".join(request.stream))
        return self._response(answer)

    async def handle_async_request(self, request: Any) -> Any:
        answer = self._next(request)
        if answer.after:
            await self.clock.asleep(answer.after)
        self.bodies.append(b"".join([chunk async for chunk in request.stream]))
        return self._response(answer)

    def __enter__(self) -> Server:
        self.log.append("enter")
        return self

    def __exit__(self, *error: object) -> None:
        self.log.append("exit")

    async def __aenter__(self) -> Server:
        return self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__()

    def close(self) -> None:
        self.log.append("close")

    async def aclose(self) -> None:
        self.close()

    def _next(self, request: Any) -> Answer:
        entry = self.script[min(len(self.requests), len(self.script) - 1)]
        self.requests.append(request)
        self.phases.append(request.extensions.get("timeout", {}))
        self.log.append("request")
        if callable(entry):
            entry = entry(request)
        if isinstance(entry, BaseException):
            raise entry
        assert isinstance(entry, Answer)
        return entry

    def _response(self, answer: Answer) -> Any:
        kind = type("Stream", (Chunks, self.library.AsyncByteStream, self.library.SyncByteStream), {})
        stream = kind(self, answer.body)
        self.streams.append(stream)
        return self.library.Response(answer.status, headers=answer.headers, stream=stream)


class Kit:
    """Everything a scenario needs, for one library in one colour."""

    def __init__(self, name: str, colour: Colour) -> None:
        self.name = name
        self.library = importlib.import_module(name)
        self.package = importlib.import_module(f"resilience_{name}")
        self.colour = colour
        self.clock = colour.clock

    def server(self, *script: Any) -> Server:
        return Server(self.library, self.clock, script)

    def error(self, name: str, message: str = "scripted") -> Any:
        """An exception of the library, by its name."""
        return getattr(self.library, name)(message)

    def transport(self, inner: Any, **settings: Any) -> Any:
        return self.package.ResilientTransport(inner, **settings)

    def client(self, transport: Any, **settings: Any) -> Any:
        kind = self.library.AsyncClient if self.colour.is_async else self.library.Client
        return kind(transport=transport, **settings)

    def request(self, transport: Any, method: str = "GET", url: str = URL, **settings: Any) -> Any:
        """One request through a client of its own; the response's body has been read."""
        return self.colour.run(self.client(transport).request(method, url, **settings))

    def open(self, transport: Any, method: str = "GET", url: str = URL, **settings: Any) -> Any:
        """The same, with the body not read yet."""
        client = self.client(transport)
        return self.colour.run(client.send(client.build_request(method, url, **settings), stream=True))

    def read(self, response: Any) -> bytes:
        result: bytes = self.colour.run(response.aread() if self.colour.is_async else response.read())
        return result

    def close(self, response: Any) -> None:
        self.colour.run(response.aclose() if self.colour.is_async else response.close())

    def under(self, layer: Any, call: Callable[[], Any]) -> Any:
        """The outcome of `call`, which returns what a client of this colour returns, under a layer."""
        return self.colour.run(layer(self.colour.function(call))())
