"""The errors that are both the toolkit's and httpx's.

::

    httpx.TransportError
    ├── HTTPCallRejectedError         also a resilience.CallRejectedError, as are the next four
    │   ├── HTTPCircuitOpenError      and resilience.CircuitOpenError
    │   ├── HTTPBulkheadFullError     and resilience.BulkheadFullError
    │   └── HTTPRateLimitExceededError  and resilience.RateLimitExceededError
    └── httpx.TimeoutException
        ├── HTTPPoolExhaustedError    a httpx.PoolTimeout, and resilience.PoolExhaustedError
        ├── HTTPDeadlineExceededError and resilience.DeadlineExceededError: the request was not sent
        └── HTTPCallTimeoutError      and resilience.CallTimeoutError: the request was cut off

So `except httpx.HTTPError` keeps working. All of them have a `.request` and can be pickled.
"""

from __future__ import annotations

from typing import Any

import httpx
from resilience_http._translation import TranslatedError

from resilience import exceptions


class HTTPCallRejectedError(TranslatedError, exceptions.CallRejectedError, httpx.TransportError):
    """The request was not sent: a layer refused it."""


class HTTPCircuitOpenError(HTTPCallRejectedError, exceptions.CircuitOpenError):
    """The request was not sent: the circuit of its origin is open."""


class HTTPBulkheadFullError(HTTPCallRejectedError, exceptions.BulkheadFullError):
    """The request was not sent: too many to its origin are under way."""


class HTTPRateLimitExceededError(HTTPCallRejectedError, exceptions.RateLimitExceededError):
    """The request was not sent: the rate limit has no room for it now."""


class HTTPPoolExhaustedError(HTTPCallRejectedError, exceptions.PoolExhaustedError, httpx.PoolTimeout):
    """The request was not sent: no connection became free in time."""


class HTTPDeadlineExceededError(HTTPCallRejectedError, exceptions.DeadlineExceededError, httpx.TimeoutException):
    """The request was not sent: the time left was not enough for it."""


class HTTPCallTimeoutError(TranslatedError, exceptions.CallTimeoutError, httpx.TimeoutException):
    """The request was sent and took too long."""


ERRORS: dict[type[exceptions.ResilienceError], Any] = {
    exceptions.CallRejectedError: HTTPCallRejectedError,
    exceptions.CircuitOpenError: HTTPCircuitOpenError,
    exceptions.BulkheadFullError: HTTPBulkheadFullError,
    exceptions.RateLimitExceededError: HTTPRateLimitExceededError,
    exceptions.PoolExhaustedError: HTTPPoolExhaustedError,
    exceptions.DeadlineExceededError: HTTPDeadlineExceededError,
    exceptions.CallTimeoutError: HTTPCallTimeoutError,
}
