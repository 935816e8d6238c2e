"""Resilient and pooled transports for httpx."""

try:
    import httpx as _library  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("resilience_httpx needs httpx: pip install 'resilience-patterns[httpx]'") from error

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
