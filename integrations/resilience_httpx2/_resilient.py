"""The resilient transport for httpx2."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, ClassVar

import httpcore2
import httpx2
from resilience_http._binding import Binding
from resilience_http._dialect import Dialect
from resilience_http._resilient import Resilient
from resilience_http._response import Held

from ._errors import ERRORS


class _Held(Held, httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A response's body that gives back what its attempt holds when it is closed."""


class ResilientTransport(Resilient, httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """DOC"""

    dialect: ClassVar[Dialect] = Dialect.of(Binding.of(httpx2, httpcore2), ERRORS)
    held: ClassVar[type[Held]] = _Held

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request under all layers."""
        response: httpx2.Response = self._send(request)
        return response

    # Not `async def`: that would be one more coroutine for every request to go through.
    def handle_async_request(self, request: httpx2.Request) -> Coroutine[Any, Any, httpx2.Response]:
        """Send one request under all layers."""
        return self._asend(request)
