"""Resilient and pooled transports for httpx2."""

try:
    import httpx2 as _library  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("resilience_httpx2 needs httpx2: pip install 'resilience-patterns[httpx2]'") from error

from ._errors import (
    HTTPBulkheadFullError,
    HTTPCallRejectedError,
    HTTPCallTimeoutError,
    HTTPCircuitOpenError,
    HTTPDeadlineExceededError,
    HTTPPoolExhaustedError,
    HTTPRateLimitExceededError,
)
from ._pooled import PooledTransport
from ._resilient import ResilientTransport

__all__ = [
    "HTTPBulkheadFullError",
    "HTTPCallRejectedError",
    "HTTPCallTimeoutError",
    "HTTPCircuitOpenError",
    "HTTPDeadlineExceededError",
    "HTTPPoolExhaustedError",
    "HTTPRateLimitExceededError",
    "PooledTransport",
    "ResilientTransport",
]
