"""The public types, checked by mypy and Pyright: a layer changes nothing about the function it guards.

Nothing here is a test that runs; `test_typed_api.py` imports the module, so that it is also known to work.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import assert_type

import aiolimiter

from resilience import (
    Attempt,
    Bulkhead,
    BulkheadStatistics,
    CircuitBreaker,
    Guard,
    Keyed,
    Layer,
    Lease,
    Listener,
    Mode,
    Pipeline,
    Pool,
    PoolStatistics,
    RateLimiter,
    Retry,
    Strategy,
    Throttle,
    Timeout,
    correlated,
    log_events,
    subscribe,
)
from resilience.deadline import remaining
from resilience.testing import ManualClock, use_clock

bulkhead = Bulkhead(5)
breaker = CircuitBreaker("payments")
limiter = RateLimiter(1000)
retry = Retry(on=ValueError)
timeout = Timeout(5.0)
throttle = Throttle(aiolimiter.AsyncLimiter(10))
keyed = Keyed(lambda _: Bulkhead(1), key=lambda *_: "key")
pipeline = Pipeline(correlated, timeout, retry, breaker, limiter, bulkhead)


class Client:
    def __init__(self) -> None:
        self.open = True

    def close(self) -> None:
        self.open = False


async def connect() -> Client:
    return Client()


clients = Pool(Client, close=Client.close)
connections = Pool(connect, close=Client.close, check=lambda client: client.open)

# -- decorators keep signatures ----------------------------------------------------------------------------------------


@bulkhead
def plain(x: int, *, y: str = "y") -> float:
    return float(f"{x}")


@pipeline
async def coroutine(x: int, *, y: str = "y") -> float:
    return float(f"{x}")


@timeout
def generator(x: int) -> Iterator[str]:
    yield str(x)


@retry
async def async_generator(x: int) -> AsyncIterator[str]:
    yield str(x)


@throttle
async def paced(x: int) -> bool:
    return bool(x)


@clients.inject
def fetched(client: Client, x: int, *, y: str = "y") -> float:
    return float(f"{x}")


@connections.inject
async def afetched(client: Client, x: int) -> float:
    return float(f"{x}")


class Service:
    @limiter
    def fetch(self, x: int) -> str:
        return str(x)

    @breaker
    async def afetch(self, x: int) -> str:
        return str(x)

    @clients.inject
    def injected(self, client: Client, x: int) -> str:
        return str(x)

    @connections
    async def ainjected(self, client: Client, x: int) -> str:
        return str(x)

    @staticmethod
    @keyed
    def parse(x: str) -> int:
        return int(x)

    @classmethod
    @correlated
    def make(cls) -> Service:
        return cls()


def with_client(client: Client, x: int) -> int:
    return x


def generic(item: list[int]) -> int:
    return item[0]


assert_type(bulkhead(generic)([1]), int)
assert_type(plain(1, y="z"), float)
assert_type(clients, Pool[Client])
assert_type(connections, Pool[Client])
assert_type(clients.acquire(), Lease[Client])
assert_type(fetched(1, y="z"), float)
assert_type(clients(with_client)(1), int)
assert_type(clients.call(with_client, 1), int)
assert_type(plain(x=1), float)
assert_type(generator(1), Iterator[str])
assert_type(async_generator(1), AsyncIterator[str])
assert_type(Service().fetch(1), str)
assert_type(Service().injected(1), str)
assert_type(Service.parse("1"), int)
assert_type(Service.make(), Service)
assert_type(bulkhead(functools.partial(generic, [1]))(), int)
assert_type(Pipeline(bulkhead, timeout)(plain)(1), float)

# -- a wrong call is an error ------------------------------------------------------------------------------------------


def mistakes() -> None:
    """Every line is an error to both type checkers; if it were not, the comment would be."""
    fetched("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fetched(Client(), 1)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]
    clients.inject(generic)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    Service().injected("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Pool(Client, close=generic)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    plain("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain(1, z=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Service().fetch("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bulkhead.call(generic, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bulkhead(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    breaker.mode = "off"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    CircuitBreaker(mode="off")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Pipeline(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- calls, guards, values ---------------------------------------------------------------------------------------------


async def asynchronous() -> None:
    assert_type(await coroutine(1, y="z"), float)
    assert_type(await Service().afetch(1), str)
    assert_type(await paced(1), bool)
    assert_type([item async for item in async_generator(1)], list[str])
    assert_type(await bulkhead.call(coroutine, 1), float)
    assert_type(await afetched(1), float)
    async with connections.acquire() as connection:
        assert_type(connection, Client)
    async with connections as pool:
        assert_type(pool, Pool[Client])
    async with breaker.guard() as guard:
        assert_type(guard, Guard)
    async for attempt in retry:
        with attempt:
            assert_type(attempt, Attempt)
            assert_type(attempt.number, int)


def synchronous() -> None:
    assert_type(pipeline.call(generic, [1]), int)
    assert_type(bulkhead.call(plain, 1, y="z"), float)
    assert_type(list(bulkhead.call(generator, 1)), list[str])
    with bulkhead.guard() as guard:
        assert_type(guard, Guard)
        assert_type(guard.fail(ValueError()), None)
    with clients.acquire() as client:
        assert_type(client, Client)
    assert_type(clients.statistics(), PoolStatistics)
    assert_type(clients.with_(max_wait=1), Pool[Client])
    assert_type(bulkhead.statistics(), BulkheadStatistics)
    assert_type(bulkhead.with_(max_wait=1), Bulkhead)
    assert_type(breaker.with_(name="other"), CircuitBreaker)
    assert_type(remaining(), float | None)
    assert_type(keyed.layer("key"), Layer)
    assert_type(pipeline.layers, tuple[Layer, ...])
    assert_type(breaker.mode, Mode)
    assert_type(breaker.statistics().mode, Mode)
    with use_clock(ManualClock()) as clock:
        assert_type(clock, ManualClock)
        assert_type(clock.sleeps, list[float])


def takes_any_layer(layer: Layer) -> Callable[[int], Awaitable[float]]:
    return layer(coroutine)


def annotated(listener: Listener, wait: Strategy, mode: Mode) -> Pipeline:
    """What a user has to name in functions around the constructors."""
    subscribe(listener).cancel()
    for attempt in Retry(OSError, wait=wait, listeners=[log_events()]):
        work(attempt)
    return Pipeline(CircuitBreaker(mode=mode, listeners=[listener]))


def work(attempt: Attempt) -> None:
    with attempt:
        attempt.set_result(attempt.number)
