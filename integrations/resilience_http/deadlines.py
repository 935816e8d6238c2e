"""The time that a caller still has, as a header: a deadline that travels with the request.

Two spellings are understood. `X-Request-Timeout-Ms: 1500` counts milliseconds; `grpc-timeout: 1500m` is at most eight
digits and a unit (gRPC over HTTP/2, "Timeout"). Both are lengths, not instants, so the clocks of the two sides need not
agree. What does not parse is no deadline at all: a header from outside must never break a request.
"""

from __future__ import annotations

import re

REQUEST_TIMEOUT = "X-Request-Timeout-Ms"
"""The header in whole milliseconds."""

GRPC_TIMEOUT = "grpc-timeout"
"""The header of gRPC."""

_MILLISECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)
_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST_DIGITS = 99_999_999
_LONGEST = 1e12  # seconds
_MOST_MILLISECONDS = "9" * 15


def parse_timeout_ms(value: str | None) -> float | None:
    """The seconds in an `X-Request-Timeout-Ms` header (0.0: none left), or None if it is missing or malformed."""
    if value is None or _MILLISECONDS.fullmatch(value := value.strip()) is None:
        return None
    return int(value) / 1000.0


def parse_grpc_timeout(value: str | None) -> float | None:
    """The seconds in a `grpc-timeout` header (0.0: none left), or None if it is missing or malformed."""
    found = None if value is None else _GRPC.fullmatch(value.strip())
    return None if found is None else int(found[1]) * _UNITS[found[2]]


def nearest_timeout(timeout_ms: str | None, grpc_timeout: str | None) -> float | None:
    """The seconds that a caller allows by either header, the nearer one if it sent both; None if by neither."""
    one, other = parse_timeout_ms(timeout_ms), parse_grpc_timeout(grpc_timeout)
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def format_timeout_ms(seconds: float) -> str:
    """`seconds` as an `X-Request-Timeout-Ms` value: rounded down, so that the server gives up before the caller."""
    if 0.0 < seconds < _LONGEST:
        return str(int(seconds * 1000.0))
    return _MOST_MILLISECONDS if seconds > 0.0 else "0"


def format_grpc_timeout(seconds: float) -> str:
    """`seconds` as a `grpc-timeout` value: rounded down, in the finest unit that eight digits have room for."""
    seconds = _within(seconds)
    for unit in "numSM":
        count = int(seconds / _UNITS[unit])
        if count <= _MOST_DIGITS:
            return f"{count}{unit}"
    return f"{min(int(seconds / _UNITS['H']), _MOST_DIGITS)}H"


def _within(seconds: float) -> float:
    """Between none and more than any header can say, infinity included."""
    return max(0.0, min(seconds, _LONGEST))
