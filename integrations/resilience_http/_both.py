"""The library's own transports, one for each colour, made when they are first needed."""

from __future__ import annotations

import functools
from typing import Any


class Both:
    """A pair of transports behind one face."""

    def __init__(self, client: Any, options: dict[str, Any]) -> None:
        self._client = client
        self._options = options

    @functools.cached_property
    def _sync(self) -> Any:
        return self._client.HTTPTransport(**self._options)

    @functools.cached_property
    def _async(self) -> Any:
        return self._client.AsyncHTTPTransport(**self._options)

    def handle_request(self, request: Any) -> Any:
        """Send one request."""
        return self._sync.handle_request(request)

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request."""
        return await self._async.handle_async_request(request)

    def __enter__(self) -> Any:
        return self._sync.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._sync.__exit__(*error)

    async def __aenter__(self) -> Any:
        return await self._async.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await self._async.__aexit__(*error)

    def close(self) -> None:
        """Close the transport for threads."""
        self._sync.close()

    async def aclose(self) -> None:
        """Close the transport for tasks."""
        await self._async.aclose()
