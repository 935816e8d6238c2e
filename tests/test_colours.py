"""Every layer on every colour of callable: guarded, with an effect that shows it, or refused with a reason."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import AsyncMock

import aiolimiter
import pytest
import tenacity

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Keyed,
    Layer,
    Pipeline,
    RateLimiter,
    RateLimitExceededError,
    Retry,
    Throttle,
    Timeout,
    correlated,
    correlation_id,
)
from resilience.deadline import remaining
from resilience.testing import ManualClock, VirtualLoop

Body = Callable[..., Any]

# -- the colours: each turns a plain body into a callable of its kind, already guarded ---------------------------------


class Methods:
    """An object whose methods run a body."""

    def __init__(self, body: Body) -> None:
        self.body = body

    def plain(self, x: int) -> Any:
        return self.body(x)

    async def coroutine(self, x: int) -> Any:
        return self.body(x)


class Plain(Methods):
    def __call__(self, x: int) -> Any:
        return self.body(x)


class Asynchronous(Methods):
    async def __call__(self, x: int) -> Any:
        return self.body(x)


class Generating(Methods):
    def __call__(self, x: int) -> Iterator[Any]:
        yield self.body(x)


class AsynchronouslyGenerating(Methods):
    async def __call__(self, x: int) -> AsyncIterator[Any]:
        yield self.body(x)


def plain_function(body: Body) -> Body:
    def fn(x: int) -> Any:
        return body(x)

    return fn


def coroutine_function(body: Body) -> Body:
    async def fn(x: int, **_: Any) -> Any:
        return body(x)

    return fn


def returning_future(body: Body) -> Body:
    def fn(x: int) -> Any:
        future = asyncio.get_running_loop().create_future()
        try:
            future.set_result(body(x))
        except Exception as error:
            future.set_exception(error)
        return future

    return fn


def generator(body: Body) -> Body:
    def fn(x: int) -> Iterator[Any]:
        yield body(x)

    return fn


def async_generator(body: Body) -> Body:
    async def fn(x: int) -> AsyncIterator[Any]:
        yield body(x)

    return fn


def method_of_a_class(layer: Layer, body: Body) -> Body:
    class Service:
        @layer
        def fetch(self, x: int) -> Any:
            assert type(self) is Service
            return body(x)

    return Service().fetch


def async_method_of_a_class(layer: Layer, body: Body) -> Body:
    class Service:
        @staticmethod
        @layer
        async def fetch(x: int) -> Any:
            return body(x)

    return Service().fetch


PLAIN: dict[str, Callable[[Body], Body]] = {
    "function": plain_function,
    "partial": lambda body: functools.partial(lambda x, y: body(x), y=1),
    "bound method": lambda body: Methods(body).plain,
    "callable object": Plain,
    "generator": generator,
    "callable object that generates": Generating,
    "lambda that returns a coroutine": lambda body: lambda x: coroutine_function(body)(x, y=1),
    "function that returns a task": lambda body: lambda x: asyncio.ensure_future(coroutine_function(body)(x)),
    "function that returns a future": returning_future,
}
ASYNCHRONOUS: dict[str, Callable[[Body], Body]] = {
    "coroutine function": coroutine_function,
    "partial of a coroutine function": lambda body: functools.partial(coroutine_function(body), y=1),
    "partial of a partial": lambda body: functools.partial(functools.partial(coroutine_function(body), y=1), z=1),
    "bound coroutine method": lambda body: Methods(body).coroutine,
    "callable object, asynchronous": Asynchronous,
    "async generator": async_generator,
    "callable object that generates asynchronously": AsynchronouslyGenerating,
    "AsyncMock": lambda body: AsyncMock(side_effect=body),
}
Guarding = Callable[[Layer, Body], Body]


def guarding(make: Callable[[Body], Body]) -> Guarding:
    return lambda layer, body: layer(make(body))


COLOURS: dict[str, Guarding] = {name: guarding(make) for name, make in (PLAIN | ASYNCHRONOUS).items()}
COLOURS["method of a class"] = method_of_a_class
COLOURS["static async method of a class"] = async_method_of_a_class
REFUSED_BY_THROTTLE = {*PLAIN, "method of a class"}

# -- the layers: what each must do to calls --------------------------------------------------------------------------


@dataclass
class Bench:
    """A guarded callable on trial: `make(layer, body)` guards a body, `run` makes one call and returns its outcome."""

    make: Guarding
    loop: asyncio.AbstractEventLoop

    def run(self, guarded: Body, x: int = 1) -> Any:
        async def call() -> Any:
            result = guarded(x)
            if hasattr(result, "__anext__"):
                return [item async for item in result][-1]
            if hasattr(result, "__await__"):
                return await result
            return list(result)[-1] if hasattr(result, "__next__") else result

        return self.loop.run_until_complete(call())


def fail(x: int) -> Any:
    raise ValueError(x)


def an_open_breaker_rejects(bench: Bench) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    with pytest.raises(ValueError):
        bench.run(bench.make(breaker, fail))
    with pytest.raises(CircuitOpenError):
        bench.run(bench.make(breaker, lambda _: pytest.fail("called although the circuit is open")))


def a_retry_repeats(bench: Bench) -> None:
    calls: list[int] = []

    def fails_twice(x: int) -> int:
        calls.append(x)
        if len(calls) < 3:
            raise ValueError(x)
        return 10 * x

    retry = Retry(on=ValueError, attempts=3, wait=tenacity.wait_none())
    assert bench.run(bench.make(retry, fails_twice), 7) == 70
    assert calls == [7, 7, 7]


def a_timeout_sets_the_deadline(bench: Bench) -> None:
    assert bench.run(bench.make(Timeout(5.0), lambda _: remaining())) == pytest.approx(5.0)
    assert remaining() is None


def a_full_bulkhead_rejects(bench: Bench) -> None:
    bulkhead = Bulkhead(1)

    def body(x: int) -> int:
        assert bulkhead.statistics().in_use == 1
        return x

    guarded = bench.make(bulkhead, body)
    assert bench.run(guarded, 7) == 7
    permit = bulkhead.admit()
    with pytest.raises(BulkheadFullError):
        bench.run(guarded)
    bulkhead.settle(permit)
    with pytest.raises(ValueError):
        bench.run(bench.make(bulkhead, fail))
    assert bulkhead.statistics().in_use == 0


def an_exhausted_limiter_rejects(bench: Bench) -> None:
    guarded = bench.make(RateLimiter(1, 60.0), lambda x: x)
    assert bench.run(guarded, 7) == 7
    with pytest.raises(RateLimitExceededError):
        bench.run(guarded)


def an_outcome_that_is_charged_exhausts_a_limiter(bench: Bench) -> None:
    limiter = RateLimiter(1, 60.0, charge_if=lambda outcome: isinstance(outcome, ValueError))
    assert bench.run(bench.make(limiter, lambda x: x), 7) == 7
    with pytest.raises(ValueError):
        bench.run(bench.make(limiter, fail))
    with pytest.raises(RateLimitExceededError):
        bench.run(bench.make(limiter, lambda x: x))


def an_exhausted_throttle_rejects(bench: Bench) -> None:
    guarded = bench.make(Throttle(aiolimiter.AsyncLimiter(1, 60.0), max_wait=1.0), lambda x: x)
    assert bench.run(guarded, 7) == 7
    with pytest.raises(RateLimitExceededError):
        bench.run(guarded)


def a_call_gets_a_correlation_id(bench: Bench) -> None:
    identity = bench.run(bench.make(correlated, lambda _: correlation_id()))
    assert isinstance(identity, str)
    assert correlation_id() is None
    assert bench.run(bench.make(correlated, lambda _: correlation_id())) != identity


def each_key_has_a_limit_of_its_own(bench: Bench) -> None:
    keyed = Keyed(lambda _: RateLimiter(1, 60.0), key=lambda *args: args[-1] % 10 or None)
    guarded = bench.make(keyed, lambda x: x)
    assert [bench.run(guarded, x) for x in (1, 2)] == [1, 2]
    with pytest.raises(RateLimitExceededError):
        bench.run(guarded, 11)
    assert [bench.run(guarded, x) for x in (10, 20)] == [10, 20], "a key of None is not guarded"
    assert keyed.statistics().in_use == 0


def a_pipeline_guards_with_all_its_layers(bench: Bench) -> None:
    bulkhead = Bulkhead(1)
    guarded = bench.make(
        Pipeline(correlated, Timeout(5.0), RateLimiter(1, 60.0), bulkhead),
        lambda _: (correlation_id() is not None, remaining(), bulkhead.statistics().in_use),
    )
    assert bench.run(guarded) == (True, pytest.approx(5.0), 1)
    with pytest.raises(RateLimitExceededError):
        bench.run(guarded)


def an_empty_pipeline_calls(bench: Bench) -> None:
    assert bench.run(bench.make(Pipeline(), lambda x: x), 7) == 7


EFFECTS: list[Callable[[Bench], None]] = [
    an_open_breaker_rejects,
    a_retry_repeats,
    a_timeout_sets_the_deadline,
    a_full_bulkhead_rejects,
    an_exhausted_limiter_rejects,
    an_outcome_that_is_charged_exhausts_a_limiter,
    a_call_gets_a_correlation_id,
    each_key_has_a_limit_of_its_own,
    a_pipeline_guards_with_all_its_layers,
    an_empty_pipeline_calls,
]


@pytest.fixture
def loop(clock: ManualClock) -> Iterator[VirtualLoop]:
    loop = VirtualLoop(clock)
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda effect: effect.__name__)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_layer_guards_every_colour(colour: str, effect: Callable[[Bench], None], loop: VirtualLoop) -> None:
    """Decorators that silently do nothing for a colour were seen in pybreaker, tenacity and backoff (B14)."""
    effect(Bench(COLOURS[colour], loop))


@pytest.mark.parametrize("colour", COLOURS)
def test_a_throttle_guards_what_is_asynchronous_and_refuses_the_rest(colour: str, loop: VirtualLoop) -> None:
    if colour in REFUSED_BY_THROTTLE:
        throttle = Throttle(aiolimiter.AsyncLimiter(1, 60.0))
        with pytest.raises(TypeError, match=r"Throttle paces coroutine functions only.*RateLimiter\(rate, period"):
            COLOURS[colour](throttle, lambda x: x)
    else:
        an_exhausted_throttle_rejects(Bench(COLOURS[colour], loop))


@pytest.mark.parametrize("colour", COLOURS)
def test_call_runs_a_callable_once_under_a_layer(colour: str, loop: VirtualLoop) -> None:
    bulkhead = Bulkhead(1)

    class Direct(Layer):
        """Stands where a layer does, to get at the bare callable of a colour."""

        def _bind(self, fn: Body) -> Body:
            return lambda *args: bulkhead.call(fn, *args)

        _wrap_sync = _wrap_async = _wrap_generator = _wrap_async_generator = _bind

    bench = Bench(lambda layer, body: COLOURS[colour](Direct(), body), loop)
    assert bench.run(bench.make(bulkhead, lambda _: bulkhead.statistics().in_use)) == 1
    assert bulkhead.statistics().in_use == 0
