"""HTTP/2 and proxies: the library's own transport, behind a bulkhead of its size.

Its pool breaks for good when requests that queue in it are cancelled. Behind the bulkhead none ever queues there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from resilience import Bulkhead, CallRejectedError
from resilience._machine import ABANDONED
from resilience._wait import Wait

from ._options import Options

_NO_LIMIT = 2**62


class Borrowed:
    """Transports of the library, made at their first use. `proxy` is what the library takes for one.

    One serves all threads, and one each event loop, because connections die with their loop. After a fork the child
    starts afresh; what it inherited is kept, so that no destructor there touches the sockets of the parent.
    """

    def __init__(self, options: Options, proxy: Any) -> None:
        self._options = options
        self._proxy = proxy
        self._client = options.binding.client
        self._transports: dict[asyncio.AbstractEventLoop | None, Any] = {}  # None: that of the threads
        self._inherited: list[Any] = []
        self._bulkhead = Bulkhead(
            options.max_connections or _NO_LIMIT, max_queue=options.max_queue, max_wait=None, clock=options.clock
        )
        self._generation = self._bulkhead._machine.generation
        self._bodies = {
            kind: type("ResponseStream", (HeldBody, getattr(self._client, kind)), {})
            for kind in ("AsyncByteStream", "SyncByteStream")
        }

    async def ahandle(self, request: Any) -> Any:
        """Send the request of a task."""
        transport = self._transport(asyncio.get_running_loop())
        permit = self._admit(request)
        if type(permit) is Wait:
            try:
                permit = await permit.suspend()
            except CallRejectedError as error:
                raise self._refused(request) from error
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            self._bulkhead.settle(permit, ABANDONED)
            raise
        response.stream = self._bodies["AsyncByteStream"](self._bulkhead, permit, response.stream)
        return response

    def handle(self, request: Any) -> Any:
        """Send the request of a thread."""
        transport = self._transport(None)
        permit = self._admit(request)
        if type(permit) is Wait:
            try:
                permit = permit.block()
            except CallRejectedError as error:
                raise self._refused(request) from error
        try:
            response = transport.handle_request(request)
        except BaseException:
            self._bulkhead.settle(permit, ABANDONED)
            raise
        response.stream = self._bodies["SyncByteStream"](self._bulkhead, permit, response.stream)
        return response

    async def aclose(self) -> None:
        """Close what was opened for tasks of this event loop."""
        self._leave_to_the_parent()
        transport = self._transports.pop(asyncio.get_running_loop(), None)
        if transport is not None:
            await transport.aclose()

    def close(self) -> None:
        """Close what was opened for threads."""
        self._leave_to_the_parent()
        transport = self._transports.pop(None, None)
        if transport is not None:
            transport.close()

    def _admit(self, request: Any) -> Any:
        timeout = request.extensions.get("timeout", {}).get("pool")
        bulkhead = self._bulkhead if timeout is None else self._bulkhead.with_(max_wait=timeout)
        try:
            return bulkhead.admit()
        except CallRejectedError as error:
            raise self._refused(request) from error

    def _refused(self, request: Any) -> Exception:
        refused: Exception = self._client.PoolTimeout(f"no connection: {self._bulkhead!r}", request=request)
        return refused

    def _transport(self, loop: asyncio.AbstractEventLoop | None) -> Any:
        self._leave_to_the_parent()
        transport = self._transports.get(loop)
        if transport is None:
            for other in [*self._transports]:
                if other is not None and other.is_closed():
                    self._transports.pop(other, None)
            # Another thread may have been faster.
            made = self._made("HTTPTransport" if loop is None else "AsyncHTTPTransport")
            transport = self._transports.setdefault(loop, made)
        return transport

    def _leave_to_the_parent(self) -> None:
        generation = self._bulkhead._machine.generation
        if generation != self._generation:
            self._inherited.append(self._transports)
            self._transports, self._generation = {}, generation

    def _made(self, kind: str) -> Any:
        options = self._options
        return getattr(self._client, kind)(
            verify=options.context,
            http1=options.http1,
            http2=options.http2,
            limits=self._client.Limits(
                max_connections=options.max_connections,
                max_keepalive_connections=options.max_idle,
                keepalive_expiry=options.keepalive_expiry,
            ),
            proxy=self._proxy,
            uds=options.uds,
            local_address=options.local_address,
            retries=options.retries,
            socket_options=options.socket_options or None,
        )


class HeldBody:
    """The body of a response of the library. It holds the permit until it is closed, or dropped."""

    def __init__(self, bulkhead: Bulkhead, permit: Any, stream: Any) -> None:
        self._bulkhead = bulkhead
        self._permit = permit
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._give_back()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._give_back()

    def __del__(self) -> None:
        self._give_back()

    def _give_back(self) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            self._bulkhead.settle(permit)
