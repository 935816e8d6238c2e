"""Rows for a call that is refused: what the caller pays from the call to the end of its `except` block.

Nothing is subtracted. The reference is a function that raises an exception with two fields.
"""

from __future__ import annotations

import circuitbreaker
import nopanic
import pyresilience

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    RateLimiter,
    RateLimitExceededError,
)

from .measure import OURS, Bar, Case, Colour, Row
from .subjects import TwoFieldError, failing, nothing, occupy, stoppable, two_field_failing

REFERENCE = "raise and catch"
HOUR = 3_600.0


def open_breaker(colour: Colour) -> list[Case]:
    """The first call of each case fails and opens its breaker."""
    ours = CircuitBreaker(failure_threshold=1, recovery_time=HOUR, max_recovery_time=HOUR)
    theirs = nopanic.circuit_breaker(min_calls=1, reset_timeout=HOUR)
    other = circuitbreaker.CircuitBreaker(failure_threshold=1, recovery_timeout=HOUR)
    config = pyresilience.CircuitBreakerConfig(failure_threshold=1, recovery_timeout=HOUR)
    return [
        _reference(colour),
        Case(OURS, ours(failing(colour)), raises=CircuitOpenError),
        Case("nopanic", theirs(failing(colour)), raises=nopanic.CircuitOpen),
        Case("circuitbreaker", other(failing(colour)), raises=circuitbreaker.CircuitBreakerError),
        Case(
            "pyresilience",
            pyresilience.resilient(circuit_breaker=config)(failing(colour)),
            raises=pyresilience.CircuitOpenError,
        ),
    ]


def full_bulkhead(colour: Colour) -> list[Case]:
    """The only place is taken by a call that does not end."""
    config = pyresilience.BulkheadConfig(max_concurrent=1)
    cases = [
        Case(OURS, Bulkhead(1)(stoppable(colour)), raises=BulkheadFullError),
        Case("nopanic", nopanic.bulkhead(1, max_wait=0)(stoppable(colour)), raises=nopanic.BulkheadFull),
        Case(
            "pyresilience",
            pyresilience.resilient(bulkhead=config)(stoppable(colour)),
            raises=pyresilience.BulkheadFullError,
        ),
    ]
    for case in cases:
        occupy(colour, case.call)
    return [_reference(colour), *cases]


def exhausted_limiter(colour: Colour) -> list[Case]:
    """The first call of each case takes the only token of the hour."""
    config = pyresilience.RateLimiterConfig(max_calls=1, period=HOUR)
    return [
        _reference(colour),
        Case(OURS, RateLimiter(1, HOUR)(nothing(colour)), raises=RateLimitExceededError),
        Case("nopanic", nopanic.rate_limit(1, HOUR, max_wait=0)(nothing(colour)), raises=nopanic.RateLimited),
        Case(
            "pyresilience",
            pyresilience.resilient(rate_limiter=config)(nothing(colour)),
            raises=pyresilience.RateLimitExceededError,
        ),
    ]


def _reference(colour: Colour) -> Case:
    return Case(REFERENCE, two_field_failing(colour), raises=TwoFieldError)


GROUP = "rejection path"
BARS = (Bar(REFERENCE, 1.4),)
ROWS = (
    Row(
        GROUP, "open breaker", open_breaker, BARS, note="ours and nopanic tell how long to wait; pyresilience does not"
    ),
    Row(GROUP, "full bulkhead", full_bulkhead, BARS),
    Row(GROUP, "exhausted limiter", exhausted_limiter, BARS),
)
