"""Which requests may be sent twice, and which answers ask for it.

A method is idempotent if several identical requests have the same intended effect as one (RFC 9110, section 9.2.2). An
`Idempotency-Key` header (IETF draft of that name) makes any request so. Everything else is sent once: a POST that is
repeated may order twice.
"""

from __future__ import annotations

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing on the server (RFC 9110, section 9.2.1)."""

IDEMPOTENT_METHODS = SAFE_METHODS | {"PUT", "DELETE"}
"""Methods that may be repeated."""

IDEMPOTENCY_KEY = "Idempotency-Key"
"""The header by which a client promises that the server recognises a repetition."""

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may pass: the request timed out, came too often, or met a server in trouble."""


def is_idempotent(method: str, idempotency_key: str | None = None) -> bool:
    """Whether a request may be repeated, by its method or by the value of its `Idempotency-Key` header.

    Methods are case-sensitive (RFC 9110, section 9.1), so `get` is an unknown method and not repeated.
    """
    return method in IDEMPOTENT_METHODS or bool(idempotency_key and idempotency_key.strip())


def is_server_failure(status: int) -> bool:
    """Whether a status says that the server is in trouble (5xx); 4xx says that the client is."""
    return 500 <= status <= 599
