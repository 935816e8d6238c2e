"""The wire: the httpx transport under all callers, which remembers what it has sent."""

from __future__ import annotations

import sys

import httpx

POOLS = 16

# Without sniffio installed, httpcore tries to import it several times a request, which costs more than the request.
# Told for good that it is not there, it assumes asyncio, which is right.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Wire(httpx.AsyncBaseTransport):
    """Spreads requests over several connection pools, and keeps the paths of all that were sent.

    A pool looks at each of its connections for each request, so one pool with the hundreds of connections of an outage
    would be what is measured.
    """

    def __init__(self) -> None:
        self.sent: set[str] = set()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=4)
        # Without TLS there is nothing to verify, and loading the certificates takes long.
        self._pools = [httpx.AsyncHTTPTransport(verify=False, limits=limits) for _ in range(POOLS)]
        self._turn = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.add(request.url.path)
        self._turn = (self._turn + 1) % POOLS
        return await self._pools[self._turn].handle_async_request(request)

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()
