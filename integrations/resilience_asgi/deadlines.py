"""How long a client will wait for its answer: `X-Request-Timeout-Ms` and `grpc-timeout`, read from the request.

A client can only shorten what the server allows, never lengthen it. What does not parse is no limit at all; zero means
that the client has gone already.
"""

from __future__ import annotations

from resilience_http.deadlines import GRPC_TIMEOUT, REQUEST_TIMEOUT, parse_grpc_timeout, parse_timeout_ms

from .protocol import RawHeaders

_MILLISECONDS = REQUEST_TIMEOUT.lower().encode("ascii")
_GRPC = GRPC_TIMEOUT.lower().encode("ascii")
DEADLINES = frozenset({_MILLISECONDS, _GRPC})
_LONGEST = 86_400.0  # seconds; a client that would wait longer sets no limit


def shortened(limit: float | None, headers: RawHeaders) -> float | None:
    """The limit (seconds) that holds: `limit`, or what the client allows if that is less."""
    allowed = incoming_timeout(headers)
    return allowed if allowed is not None and (limit is None or allowed < limit) else limit


def incoming_timeout(headers: RawHeaders) -> float | None:
    """The seconds that the client of a request with these headers allows (0.0: none left); None if it does not say.

    The nearest one counts of several, which a proxy may have added to that of its client.
    """
    nearest = None
    for name, value in headers:
        if name == _MILLISECONDS:
            allowed = parse_timeout_ms(value.decode("latin-1"))
        elif name == _GRPC:
            allowed = parse_grpc_timeout(value.decode("latin-1"))
        else:
            continue
        if allowed is not None and (nearest is None or allowed < nearest):
            nearest = allowed
    return nearest if nearest is not None and nearest <= _LONGEST else None
