"""The resilient transport for httpx."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, ClassVar

import httpcore
import httpx
from resilience_http._binding import Binding
from resilience_http._dialect import Dialect
from resilience_http._resilient import Resilient
from resilience_http._response import Held

from ._errors import ERRORS


class _Held(Held, httpx.AsyncByteStream, httpx.SyncByteStream):
    """A response's body that gives back what its attempt holds when it is closed."""


class ResilientTransport(Resilient, httpx.AsyncBaseTransport, httpx.BaseTransport):
    """DOC"""

    dialect: ClassVar[Dialect] = Dialect.of(Binding.of(httpx, httpcore), ERRORS)
    held: ClassVar[type[Held]] = _Held

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request under all layers."""
        response: httpx.Response = self._send(request)
        return response

    # Not `async def`: that would be one more coroutine for every request to go through.
    def handle_async_request(self, request: httpx.Request) -> Coroutine[Any, Any, httpx.Response]:
        """Send one request under all layers."""
        return self._asend(request)
