"""How long a client will wait for its answer: `X-Request-Timeout-Ms` and `grpc-timeout`, read from the request.

A client can only shorten what the server allows, never lengthen it. What does not parse is no limit at all; zero means
that the client has gone already.
"""

from __future__ import annotations

from resilience_http.deadlines import GRPC_TIMEOUT, REQUEST_TIMEOUT, nearest_timeout

from .protocol import RawHeaders

_MILLISECONDS = REQUEST_TIMEOUT.lower().encode("ascii")
_GRPC = GRPC_TIMEOUT.lower().encode("ascii")
DEADLINES = frozenset({_MILLISECONDS, _GRPC})
_LONGEST = 86_400.0  # seconds; a client that would wait longer sets no limit


def incoming_timeout(headers: RawHeaders) -> float | None:
    """The seconds that the client of a request with these headers allows (0.0: none left); None if it does not say."""
    milliseconds = grpc = None
    for name, value in headers:
        if name == _MILLISECONDS:
            milliseconds = value.decode("latin-1")
        elif name == _GRPC:
            grpc = value.decode("latin-1")
    allowed = nearest_timeout(milliseconds, grpc)
    return allowed if allowed is not None and allowed <= _LONGEST else None
