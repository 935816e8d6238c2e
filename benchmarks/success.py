"""Rows for one pattern around a call that succeeds.

Peers that are decorators decorate; the others stand as a block in a small function of their own, the way their
documentation shows them. Where a peer has a faster idiom as well, it is shown beside the documented one.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from itertools import cycle
from typing import Any

import circuitbreaker
import nopanic
import pyresilience
import stamina
import tenacity
from aiolimiter import AsyncLimiter
from limits import RateLimitItemPerDay, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage as AsyncMemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter as AsyncFixedWindowRateLimiter
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from resilience import Bulkhead, CircuitBreaker, Pool, RateLimiter, Retry, Timeout

from .measure import BARE, OURS, Bar, Case, Colour, Row
from .subjects import Function, nothing, nothing_for_key, wrapped

UNLIMITED = 10**9
KEYS, BURST, HOUR = 10_000, 1_000, 3_600.0
CROWD = 1_000
LIMITS_REST = 0.02
"""In sync rows `limits` sweeps its memory on a timer thread that is started by a call and ends 10 ms later."""


def wrapper(colour: Colour) -> list[Case]:
    return [Case(BARE, nothing(colour)), Case("no-op wrapper", wrapped(nothing(colour), colour))]


def breaker(colour: Colour) -> list[Case]:
    config = pyresilience.CircuitBreakerConfig()
    return [
        Case(BARE, nothing(colour)),
        Case(OURS, CircuitBreaker()(nothing(colour))),
        Case("nopanic", nopanic.circuit_breaker()(nothing(colour))),
        Case("circuitbreaker", circuitbreaker.CircuitBreaker()(nothing(colour))),
        Case("pyresilience", pyresilience.resilient(circuit_breaker=config)(nothing(colour))),
    ]


def limiter(colour: Colour) -> list[Case]:
    config = pyresilience.RateLimiterConfig(max_calls=UNLIMITED)
    return [
        Case(BARE, nothing(colour)),
        Case(OURS, RateLimiter(rate=UNLIMITED)(nothing(colour))),
        Case("nopanic", nopanic.rate_limit(UNLIMITED)(nothing(colour))),
        Case("pyresilience", pyresilience.resilient(rate_limiter=config)(nothing(colour))),
        *(_aiolimiter() if colour == "async" else ()),
        _limits(colour),
    ]


def _aiolimiter() -> list[Case]:
    documented, direct = AsyncLimiter(UNLIMITED, 1.0), AsyncLimiter(UNLIMITED, 1.0)
    first, second = nothing("async"), nothing("async")

    async def block() -> object:
        async with documented:
            return await first()

    async def acquire() -> object:
        await direct.acquire()
        return await second()

    return [Case("aiolimiter", block), Case("aiolimiter, acquire()", acquire)]


def _limits(colour: Colour) -> Case:
    item, function = RateLimitItemPerSecond(UNLIMITED), nothing(colour)
    if colour == "sync":
        hit = FixedWindowRateLimiter(MemoryStorage()).hit

        def call() -> object:
            if not hit(item):
                raise RuntimeError("limited")
            return function()

        return Case("limits", call, rest=LIMITS_REST)
    ahit = AsyncFixedWindowRateLimiter(AsyncMemoryStorage()).hit

    async def acall() -> object:
        if not await ahit(item):
            raise RuntimeError("limited")
        return await function()

    return Case("limits", acall)


def keyed_limiter(colour: Colour) -> list[Case]:
    """10,000 keys, taken in turn, that all stay live: a token takes an hour to come back.

    `limits` is in the sync row only: its async storage looks at all keys again in every turn of the event loop.
    """
    keys = [f"customer-{number}" for number in range(KEYS)]

    def in_turn(name: str, function: Function, rest: float = 0.0) -> Case:
        next_key = cycle(keys).__next__
        return Case(name, lambda: function(next_key()), rest=rest, primes=KEYS)

    ours = RateLimiter(BURST, BURST * HOUR, key=lambda key: key, max_keys=2 * KEYS)
    theirs = nopanic.keyed(
        lambda _: nopanic.rate_limit(BURST, BURST * HOUR),
        key=lambda key: key,
        maxsize=2 * KEYS,
    )
    return [
        in_turn(BARE, nothing_for_key(colour)),
        in_turn(OURS, ours(nothing_for_key(colour))),
        in_turn("nopanic", theirs(nothing_for_key(colour))),
        *([in_turn("limits", _keyed_limits(), LIMITS_REST)] if colour == "sync" else []),
    ]


def _keyed_limits() -> Function:
    hit, item, function = (
        FixedWindowRateLimiter(MemoryStorage()).hit,
        RateLimitItemPerDay(BURST),
        nothing_for_key("sync"),
    )

    def call(key: str) -> object:
        if not hit(item, key):
            raise RuntimeError("limited")
        return function(key)

    return call


def bulkhead(colour: Colour) -> list[Case]:
    config = pyresilience.BulkheadConfig(max_concurrent=10)
    return [
        Case(BARE, nothing(colour)),
        Case(OURS, Bulkhead(10)(nothing(colour))),
        Case("nopanic", nopanic.bulkhead(10)(nothing(colour))),
        Case("pyresilience", pyresilience.resilient(bulkhead=config)(nothing(colour))),
        *(_asyncio_semaphore() if colour == "async" else _threading_semaphore()),
    ]


def _asyncio_semaphore() -> list[Case]:
    documented, direct = asyncio.Semaphore(10), asyncio.Semaphore(10)
    first, second = nothing("async"), nothing("async")

    async def block() -> object:
        async with documented:
            return await first()

    async def acquire() -> object:
        await direct.acquire()
        try:
            return await second()
        finally:
            direct.release()

    return [Case("asyncio.Semaphore", block), Case("asyncio.Semaphore, acquire()", acquire)]


def _threading_semaphore() -> list[Case]:
    semaphore, function = threading.Semaphore(10), nothing("sync")

    def block() -> object:
        with semaphore:
            return function()

    return [Case("threading.Semaphore", block)]


def retry(colour: Colour) -> list[Case]:
    config = pyresilience.RetryConfig(retry_on=(ValueError,))
    options: dict[str, Any] = {
        "retry": tenacity.retry_if_exception_type(ValueError),
        "stop": tenacity.stop_after_attempt(3),
        "reraise": True,
    }
    cases = [
        Case(BARE, nothing(colour)),
        Case(OURS, Retry(on=ValueError)(nothing(colour))),
        Case("nopanic", nopanic.retry(on=ValueError)(nothing(colour))),
        Case("pyresilience", pyresilience.resilient(retry=config)(nothing(colour))),
        Case("tenacity", tenacity.retry(**options)(nothing(colour))),
        Case("stamina", stamina.retry(on=ValueError, attempts=3)(nothing(colour))),
    ]
    if colour == "sync":
        # Without the copy that the decorator makes per call. An AsyncRetrying cannot be shared by tasks.
        retrying, function = tenacity.Retrying(**options), nothing(colour)
        cases.append(Case("tenacity, one Retrying", lambda: retrying(function)))
    return cases


def timeout(colour: Colour) -> list[Case]:
    config = pyresilience.TimeoutConfig(seconds=10)
    return [
        Case(BARE, nothing(colour)),
        Case(OURS, Timeout(10)(nothing(colour))),
        Case("nopanic", nopanic.timeout(10)(nothing(colour))),
        *([Case("nopanic.deadline", nopanic.deadline(10)(nothing(colour)))] if colour == "sync" else []),
        Case("pyresilience", pyresilience.resilient(timeout=config)(nothing(colour))),
        *([Case("asyncio.timeout", _asyncio_timeout(nothing(colour)))] if colour == "async" else []),
    ]


def _asyncio_timeout(function: Function) -> Function:
    async def block(*args: object) -> object:
        async with asyncio.timeout(10):
            return await function(*args)

    return block


def timeout_crowd(_: Colour) -> list[Case]:
    """1,000 tasks are inside the timeout at once; the last one to start lets them all go."""

    def crowd(name: str, guard: Callable[[Function], Function]) -> Case:
        async def wait(gate: asyncio.Future[None]) -> None:
            await gate

        guarded = guard(wait)

        async def all_at_once() -> None:
            gate = asyncio.get_running_loop().create_future()

            async def let_go() -> None:
                gate.set_result(None)

            await asyncio.gather(*[guarded(gate) for _ in range(CROWD)], let_go())

        return Case(name, all_at_once, calls=CROWD)

    config = pyresilience.TimeoutConfig(seconds=10)
    return [
        crowd(BARE, lambda function: function),
        crowd(OURS, Timeout(10)),
        crowd("nopanic", nopanic.timeout(10)),
        crowd("pyresilience", pyresilience.resilient(timeout=config)),
        crowd("asyncio.timeout", _asyncio_timeout),
    ]


def pool(colour: Colour) -> list[Case]:
    return [
        Case(BARE, nothing(colour)),
        *(_async_loans() if colour == "async" else _loans()),
    ]


def _loans() -> list[Case]:
    ours, injected, idle = Pool(object), Pool(object), queue.LifoQueue[object]()
    first, second, third = nothing("sync"), nothing_for_key("sync"), nothing("sync")
    idle.put(object())

    def block() -> object:
        with ours.acquire():
            return first()

    def get() -> object:
        resource = idle.get()
        try:
            return third()
        finally:
            idle.put(resource)

    return [Case(OURS, block), Case(f"{OURS}, inject", injected.inject(second)), Case("queue.LifoQueue", get)]


def _async_loans() -> list[Case]:
    async def create() -> object:
        return object()

    ours, injected, idle = Pool(create), Pool(create), asyncio.LifoQueue[object]()
    first, second, third = nothing("async"), nothing_for_key("async"), nothing("async")
    idle.put_nowait(object())

    async def block() -> object:
        async with ours.acquire():
            return await first()

    async def get() -> object:
        resource = await idle.get()
        try:
            return await third()
        finally:
            idle.put_nowait(resource)

    return [Case(OURS, block), Case(f"{OURS}, inject", injected.inject(second)), Case("asyncio.LifoQueue", get)]


GROUP = "success path, one pattern"
ROWS = (
    Row(GROUP, "one wrapper", wrapper, note="the floor: a decorator that only forwards its arguments"),
    Row(GROUP, "breaker", breaker, (Bar("nopanic", 0.6), Bar("circuitbreaker", 1.0))),
    Row(GROUP, "limiter", limiter, (Bar("nopanic", 0.7),)),
    Row(GROUP, "keyed limiter, 10,000 keys", keyed_limiter),
    Row(
        GROUP,
        "bulkhead",
        bulkhead,
        (Bar("nopanic", 0.6), Bar("asyncio.Semaphore", 1.0), Bar("threading.Semaphore", 1.0)),
    ),
    Row(GROUP, "pool, one at a time", pool, note="the queues check, replace, limit and watch nothing"),
    Row(GROUP, "retry", retry, (Bar("nopanic", 0.5),)),
    Row(
        GROUP,
        "timeout, one at a time",
        timeout,
        (Bar("asyncio.timeout", 0.4),),
        note="sync: ours and nopanic.deadline are cooperative, they bound what is inside but cannot cut a function off;"
        " nopanic and pyresilience run each call on a worker thread, which can",
    ),
    Row(GROUP, "timeout, 1,000 at once", timeout_crowd, (Bar("asyncio.timeout", 0.4),), colours=("async",)),
)
