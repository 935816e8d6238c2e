"""The pool of one event loop. A cancellation at any point leaks nothing: what has to happen then never awaits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from resilience._layer import require_asyncio
from resilience._wait import metered
from resilience.clock import turn

from ._connections import Place, Waiter
from ._dial_async import connect
from ._exchange import SECURE, Pool, delays
from ._options import Options
from ._stream_async import AsyncStream


class AsyncPool(Pool):
    """Requests of tasks. It belongs to one running event loop; another may take over once that one is closed."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generation = 0
        self._body: type[Body] = type("ResponseStream", (Body, self.binding.client.AsyncByteStream), {})

    async def handle(self, request: Any) -> Any:
        """Send the request; returns the response as soon as its headers are there."""
        require_asyncio()
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._generation != self.connections.generation:
            self._move_in(loop)
        prepared, key = self.prepared(request)
        place = self.connections.acquire(key)
        if self.connections.doomed:
            self.tidy()
        if type(place) is not Place:
            place = await self._wait(place, request)
        try:
            response = await self._exchange(place, request, prepared)
        except BaseException as error:
            self.release(place, False)
            if isinstance(error, asyncio.CancelledError) and (place.stream is None or not place.stream.sent):
                self.explain(error, self.binding.client.ConnectTimeout("nothing was sent in time", request=request))
            self.translate(error, request)
            raise
        return self.binding.client.Response(
            response.status,
            headers=response.headers,
            stream=self._body(self, place, request, response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close everything at once. The sockets are closed when this returns."""
        self.forget()
        for _ in range(2):  # one turn for the encryption, one for the socket below
            await turn()

    def drop(self, place: Place) -> None:
        """Give back the place of a response that nobody closed, from its finaliser, in any thread."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(self.release, place, False)
        except RuntimeError:
            pass  # the loop is closed, and everything that belongs to it is forgotten at the next request

    def _move_in(self, loop: asyncio.AbstractEventLoop) -> None:
        before, connections = self._loop, self.connections
        if before is not None and before is not loop and self._generation == connections.generation:
            if connections.places and not before.is_closed():
                raise RuntimeError(
                    "this transport has connections that belong to another event loop, which is not closed:"
                    " use one transport per loop, or close it first"
                )
            self.forget()
        self._loop, self._generation = loop, connections.generation

    async def _wait(self, waiter: Waiter | None, request: Any) -> Place:
        if waiter is None:
            raise self.in_vain("too many requests wait for a connection", request)
        clock = self.options.clock
        began = clock.now()
        try:
            granted = await waiter.suspend(clock, self.patience(request))
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self.explain(error, self.in_vain("no connection became free in time", request))
            self.connections.leave(waiter)
            self.tidy()
            raise
        metered(clock.now() - began)
        return self.granted(waiter, granted, request)

    async def _exchange(self, place: Place, request: Any, prepared: Any) -> Any:
        connection = place.connection
        if connection is not None:
            if connection.has_expired():  # the server has closed it
                self.disconnect(place)
            else:
                place.stream.begin()
                try:
                    return await connection.handle_async_request(prepared)
                except Exception as error:
                    if not self.may_repeat(request, place, error):
                        raise
                self.disconnect(place)
        connection = await self._connect(place, prepared)
        return await connection.handle_async_request(prepared)

    async def _connect(self, place: Place, prepared: Any) -> Any:
        pauses = delays(self.options.retries)
        while True:
            # What was closed in this turn of the loop is really closed in the next, so the cap holds on the wire.
            await turn()
            try:
                await self._open(place, prepared)
            except (self.core.ConnectError, self.core.ConnectTimeout):
                place.stream = None
                pause = next(pauses, None)
                if pause is None:
                    raise
                async with Traced(prepared, "retry", {}):
                    await self.options.clock.asleep(pause)
            else:
                return self.connected(place, prepared, self.core.AsyncHTTP11Connection)

    async def _open(self, place: Place, prepared: Any) -> None:
        options, origin, extensions = self.options, prepared.url.origin, prepared.extensions
        timeout = extensions.get("timeout", {}).get("connect")
        host = origin.host.decode("ascii")
        facts = {"host": host, "port": origin.port} if options.uds is None else {"path": options.uds}
        step = "connect_tcp" if options.uds is None else "connect_unix_socket"
        async with Traced(prepared, step, {**facts, "timeout": timeout}) as trace:
            place.stream = trace.result = await connect(
                self.core,
                host,
                origin.port,
                uds=options.uds,
                local_address=options.local_address,
                options=options.socket_options,
                timeout=timeout,
            )
        if origin.scheme in SECURE:
            stream: AsyncStream = place.stream
            name = extensions.get("sni_hostname") or host
            options.context.set_alpn_protocols(["http/1.1"])
            async with Traced(prepared, "start_tls", {"server_hostname": name, "timeout": timeout}) as trace:
                trace.result = await stream.start_tls(options.context, name, timeout)


class Body:
    """The body of a response. It holds the place until closed; one that broke or was not read ends the connection."""

    def __init__(self, pool: AsyncPool, place: Place, request: Any, stream: Any) -> None:
        self._pool = pool
        self._place: Place | None = place
        self._request = request
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except BaseException as error:
            place, self._place = self._place, None
            if place is not None:
                self._pool.release(place, False)
            self._pool.translate(error, self._request)
            raise

    async def aclose(self) -> None:
        place, self._place = self._place, None
        if place is None:
            return
        try:
            await self._stream.aclose()
            reusable = self._pool.reusable(place)
        except BaseException as error:
            self._pool.release(place, False)
            self._pool.translate(error, self._request)
            raise
        self._pool.release(place, reusable)

    def __del__(self) -> None:
        if self._place is not None:
            self._pool.drop(self._place)


class Traced:
    """One step of connecting, told to the `trace` extension of the request if it has one."""

    __slots__ = ("_facts", "_step", "_tell", "result")

    def __init__(self, prepared: Any, step: str, facts: dict[str, Any]) -> None:
        self._tell = prepared.extensions.get("trace")
        self._step = f"connection.{step}"
        self._facts = facts
        self.result: Any = None

    async def __aenter__(self) -> Traced:
        if self._tell is not None:
            await self._tell(f"{self._step}.started", self._facts)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._tell is None:
            return
        if error is None:
            await self._tell(f"{self._step}.complete", {"return_value": self.result})
        else:
            await self._tell(f"{self._step}.failed", {"exception": error})
