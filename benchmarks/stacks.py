"""Rows for several layers around a call that succeeds, in the same order for everybody."""

from __future__ import annotations

import nopanic
import pyresilience

from resilience import Bulkhead, CircuitBreaker, Pipeline, RateLimiter, Retry, Timeout

from .measure import BARE, OURS, Bar, Case, Colour, Row
from .subjects import Function, nothing, wrapped

UNLIMITED = 10**9


def four(colour: Colour) -> list[Case]:
    ours = Pipeline(Retry(on=ValueError), CircuitBreaker(), RateLimiter(rate=UNLIMITED), Bulkhead(10))
    theirs = nopanic.compose(
        nopanic.retry(on=ValueError),
        nopanic.circuit_breaker(),
        nopanic.rate_limit(UNLIMITED),
        nopanic.bulkhead(10),
    )
    return [
        Case(BARE, nothing(colour)),
        Case(OURS, ours(nothing(colour))),
        Case("nopanic", theirs(nothing(colour))),
        Case("pyresilience", _pyresilience(colour, None)),
        Case("no-op wrappers", _wrappers(colour, 4)),
    ]


def five_total(colour: Colour) -> list[Case]:
    """The timeout outermost: one limit for all attempts together."""
    ours = Pipeline(Timeout(10), Retry(on=ValueError), CircuitBreaker(), RateLimiter(rate=UNLIMITED), Bulkhead(10))
    limits = {"nopanic": nopanic.timeout(10), "nopanic with deadline": nopanic.deadline(10)}
    theirs = {
        name: nopanic.compose(
            limit,
            nopanic.retry(on=ValueError),
            nopanic.circuit_breaker(),
            nopanic.rate_limit(UNLIMITED),
            nopanic.bulkhead(10),
        )
        for name, limit in limits.items()
        if colour == "sync" or name == "nopanic"
    }
    return [
        Case(BARE, nothing(colour)),
        Case(OURS, ours(nothing(colour))),
        *(Case(name, stack(nothing(colour))) for name, stack in theirs.items()),
        Case("pyresilience", _pyresilience(colour, pyresilience.TimeoutConfig(seconds=10, per_attempt=False))),
        Case("no-op wrappers", _wrappers(colour, 5)),
    ]


def five_attempt(colour: Colour) -> list[Case]:
    """The timeout innermost: one limit for each attempt."""
    ours = Pipeline(Retry(on=ValueError), CircuitBreaker(), RateLimiter(rate=UNLIMITED), Bulkhead(10), Timeout(10))
    theirs = nopanic.compose(
        nopanic.retry(on=ValueError),
        nopanic.circuit_breaker(),
        nopanic.rate_limit(UNLIMITED),
        nopanic.bulkhead(10),
        nopanic.timeout(10),
    )
    return [
        Case(BARE, nothing(colour)),
        Case(OURS, ours(nothing(colour))),
        Case("nopanic", theirs(nothing(colour))),
        Case("pyresilience", _pyresilience(colour, pyresilience.TimeoutConfig(seconds=10, per_attempt=True))),
        Case("no-op wrappers", _wrappers(colour, 5)),
    ]


def _pyresilience(colour: Colour, timeout: pyresilience.TimeoutConfig | None) -> Function:
    decorated: Function = pyresilience.resilient(
        retry=pyresilience.RetryConfig(retry_on=(ValueError,)),
        circuit_breaker=pyresilience.CircuitBreakerConfig(),
        rate_limiter=pyresilience.RateLimiterConfig(max_calls=UNLIMITED),
        bulkhead=pyresilience.BulkheadConfig(max_concurrent=10),
        timeout=timeout,
    )(nothing(colour))
    return decorated


def _wrappers(colour: Colour, depth: int) -> Function:
    function = nothing(colour)
    for _ in range(depth):
        function = wrapped(function, colour)
    return function


GROUP = "success path, several layers"
THREADS = "sync: ours and nopanic.deadline are cooperative; nopanic.timeout and pyresilience pay for a worker thread"
ROWS = (
    Row(
        GROUP,
        "four layers",
        four,
        (Bar("nopanic", 0.5),),
        note="Retry, CircuitBreaker, RateLimiter, Bulkhead, outermost first",
    ),
    Row(GROUP, "five layers, total timeout", five_total, (Bar("nopanic", 0.4),), note=THREADS),
    Row(GROUP, "five layers, attempt timeout", five_attempt, (Bar("nopanic", 0.4),), note=THREADS),
)
