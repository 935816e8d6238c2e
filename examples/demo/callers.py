"""The callers: three ways to ask the same service for the same thing."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpx
from tenacity import wait_random_exponential

from resilience import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    Pipeline,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    TimeWindow,
    correlated,
    correlation_id,
)

from .script import Script

Quote = Callable[[int], Awaitable[None]]
Listener = Callable[[Any], object]

TRIES = 3


def path(number: int) -> str:
    """Where call number n sends its requests."""
    return f"/quote/{number}"


def naked(client: httpx.AsyncClient, script: Script) -> Quote:
    """httpx with a timeout."""

    async def quote(number: int) -> None:
        response = await client.get(path(number), timeout=script.patience)
        response.raise_for_status()

    return quote


def stubborn(client: httpx.AsyncClient, script: Script) -> Quote:
    """The loop that gets written when the first call has failed in production."""

    async def quote(number: int) -> None:
        for left in reversed(range(TRIES)):
            try:
                response = await client.get(path(number), timeout=script.patience)
                response.raise_for_status()
                return
            except httpx.HTTPError:
                if not left:
                    raise

    return quote


def guarded(
    client: httpx.AsyncClient, script: Script, listeners: Iterable[Listener] = (), rng: random.Random | None = None
) -> Quote:
    """A decorated function."""
    pipeline = standard(script, listeners, rng)

    @pipeline
    async def quote(number: int) -> None:
        headers = {"X-Request-ID": correlation_id() or ""}
        response = await client.get(path(number), headers=headers, timeout=script.patience)
        response.raise_for_status()

    return quote


def standard(script: Script, listeners: Iterable[Listener] = (), rng: random.Random | None = None) -> Pipeline:
    """The standard pipeline, outermost layer first. `listeners` hear what the breaker does; `rng` draws the jitter."""
    scale = script.scale
    return Pipeline(
        correlated,
        Timeout(script.patience, name="total"),
        Retry(
            (httpx.HTTPError, CallTimeoutError),
            attempts=TRIES,
            wait=wait_random_exponential(multiplier=0.15 * scale, max=0.7 * scale),
            budget=RetryBudget(ratio=0.4, window=15.0 * scale),
            rng=rng,
        ),
        CircuitBreaker(
            "quotes",
            window=TimeWindow(1.5 * scale),
            failure_rate=0.5,
            failure_threshold=12,
            recovery_time=0.25 * scale,
            max_recovery_time=0.35 * scale,
            listeners=listeners,
            rng=rng,
        ),
        RateLimiter(1.5 * script.rate, burst=0.3 * script.rate, max_wait=0.15 * scale),
        Bulkhead(script.workers),
        Timeout(script.attempt, name="attempt"),
    )
