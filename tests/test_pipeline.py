"""Pipeline: written order is outside-in, in every colour; orders that cannot mean what was written warn."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterator
from typing import Any, assert_type

import aiolimiter
import pytest
import tenacity

from resilience import (
    Bulkhead,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpenError,
    Keyed,
    Layer,
    Pipeline,
    PipelineWarning,
    RateLimiter,
    Retry,
    RetryBudget,
    Throttle,
    Timeout,
    correlated,
    correlation_id,
)
from resilience.testing import run
from tests.conftest import Colour


class Tracing(Layer):
    """A layer that notes when a call goes in and comes out."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def _wrap_sync(self, fn: Any) -> Any:
        def traced(*args: Any, **kwargs: Any) -> Any:
            self.log.append(f"{self.name} in")
            try:
                return fn(*args, **kwargs)
            finally:
                self.log.append(f"{self.name} out")

        return traced

    def _wrap_async(self, fn: Any) -> Any:
        async def traced(*args: Any, **kwargs: Any) -> Any:
            self.log.append(f"{self.name} in")
            try:
                return await fn(*args, **kwargs)
            finally:
                self.log.append(f"{self.name} out")

        return traced

    _wrap_generator = _wrap_async_generator = _wrap_sync


def standard(attempts: int = 3) -> Pipeline:
    return Pipeline(
        correlated,
        Timeout(30.0, name="total"),
        Retry(OSError, attempts=attempts, wait=tenacity.wait_fixed(1.0), retry_after_limit=0.0),
        CircuitBreaker("service"),
        RateLimiter(100, max_wait=2.0),
        Bulkhead(10, max_queue=5, max_wait=1.0),
        Timeout(3.0, name="attempt"),
        name="standard",
    )


def codes(*layers: Layer) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Pipeline(*layers)
    assert all(isinstance(warning.message, PipelineWarning) for warning in caught)
    assert all(warning.filename == __file__ for warning in caught)
    return [warning.message.code for warning in caught if isinstance(warning.message, PipelineWarning)]


# --- order -----------------------------------------------------------------------------------------------------------


def test_layers_are_written_from_the_outside_in(colour: Colour) -> None:
    log: list[str] = []
    a, b, c = (Tracing(name, log) for name in "abc")

    def body(x: int) -> int:
        log.append("call")
        return x

    assert colour.guarded(Pipeline(a, b, c), body)(7) == 7
    assert log == ["a in", "b in", "c in", "call", "c out", "b out", "a out"]


def test_a_pipeline_means_the_same_as_its_layers_one_around_the_other(colour: Colour) -> None:
    log: list[str] = []
    a, b, c = (Tracing(name, log) for name in "abc")
    fn = colour.function(lambda: None)
    logs: list[list[str]] = []
    for guarded in (
        a(b(c(fn))),
        Pipeline(a, b, c)(fn),
        Pipeline(a, Pipeline(b, c))(fn),
        Pipeline(Pipeline(a), b)(c(fn)),
    ):
        colour.runner(guarded)()
        logs.append(log.copy())
        log.clear()
    assert len(logs[0]) == 6
    assert logs == [logs[0]] * 4


def test_it_is_a_layer_for_a_single_call_too(colour: Colour) -> None:
    def add(a: int, *, b: int) -> int:
        return a + b

    assert colour.run(Pipeline(Bulkhead(1), Timeout(1.0)).call(colour.function(add), 1, b=2)) == 3


def test_an_outcome_passes_through_all_layers(colour: Colour) -> None:
    calls: list[str | None] = []

    def body() -> str:
        calls.append(correlation_id())
        if len(calls) < 3:
            raise OSError
        return "done"

    assert colour.guarded(standard(), body)() == "done"
    assert len(calls) == 3
    assert len(set(calls)) == 1
    assert calls[0] is not None


def test_an_inner_rejection_is_neither_repeated_nor_counted(colour: Colour) -> None:
    breaker = CircuitBreaker("service", failure_threshold=2)

    def fail() -> None:
        raise OSError

    guarded = colour.guarded(Pipeline(Retry(OSError, attempts=5, wait=tenacity.wait_none()), breaker), fail)
    with pytest.raises(CircuitOpenError):
        guarded()
    assert breaker.statistics().rejected == 1


def test_the_total_timeout_covers_the_backoff_and_the_attempt_timeout_is_an_outcome() -> None:
    starts: list[float] = []

    async def hang() -> None:
        starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(60)

    attempts = Retry(CallTimeoutError, attempts=10, wait=tenacity.wait_fixed(2.0))
    pipeline = Pipeline(Timeout(8.0, name="total"), attempts, Timeout(3.0, name="attempt"))
    with pytest.raises(CallTimeoutError, match=r"^total: "):
        run(pipeline.call(hang))
    assert starts == pytest.approx([0.0, 5.0], abs=0.2)


# --- colours ---------------------------------------------------------------------------------------------------------


def echo(items: int) -> Generator[object, str, str]:
    told: object = None
    for number in range(items):
        told = yield (number, told)
    return "end"


async def aecho(items: int) -> AsyncGenerator[object, str]:
    told: object = None
    try:
        for number in range(items):
            told = yield (number, told)
    finally:
        await asyncio.sleep(0)


PIPELINES = {"empty": Pipeline, "one": lambda: Pipeline(Bulkhead(1)), "standard": standard}


@pytest.mark.parametrize("which", PIPELINES)
def test_generators_keep_their_protocol(which: str) -> None:
    items = PIPELINES[which]()(echo)(2)
    assert next(items) == (0, None)
    assert items.send("told") == (1, "told")
    with pytest.raises(StopIteration) as stop:
        next(items)
    assert stop.value.value == "end"


@pytest.mark.parametrize("which", PIPELINES)
def test_async_generators_keep_their_protocol(which: str) -> None:
    """The generator of an empty pipeline once lost what was sent, and was not closed with its consumer."""
    closed: list[str] = []

    async def closing() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)
            closed.append("inner")

    async def main() -> None:
        items = PIPELINES[which]()(aecho)(2)
        assert await anext(items) == (0, None)
        assert await items.asend("told") == (1, "told")
        with pytest.raises(KeyError):
            await items.athrow(KeyError())
        short = PIPELINES[which]()(closing)()
        assert await anext(short) == 1
        await short.aclose()
        closed.append("outer")

    run(main())
    assert closed == ["inner", "outer"]


@pytest.mark.parametrize("which", PIPELINES)
def test_an_awaitable_from_a_plain_function_passes_every_layer(which: str) -> None:
    async def work() -> str:
        await asyncio.sleep(1)
        return "done"

    def plain() -> Awaitable[str]:
        return work()

    async def main() -> str:
        return await PIPELINES[which]()(plain)()

    assert run(main()) == "done"


@pytest.mark.parametrize("which", PIPELINES)
def test_a_guarded_function_looks_like_the_function(colour: Colour, which: str) -> None:
    def body(x: int) -> int:
        """What it does."""
        return x

    guarded = PIPELINES[which]()(colour.function(body))
    assert guarded is not body
    assert (guarded.__name__, guarded.__doc__) == ("body", "What it does.")
    assert asyncio.iscoroutinefunction(guarded) == colour.is_async
    assert colour.runner(guarded)(3) == 3


def test_types_pass_through() -> None:
    pipeline = Pipeline(Timeout(1.0), Bulkhead(1))

    def plain(a: int, *, b: str = "") -> float:
        return a / 2

    async def coroutine(a: int) -> str:
        return str(a)

    def generator(a: int) -> Iterator[int]:
        yield a

    async def async_generator(a: int) -> AsyncIterator[str]:
        yield str(a)

    assert_type(pipeline(plain)(1, b=""), float)
    assert_type(next(pipeline(generator)(1)), int)
    assert_type(pipeline.call(plain, 1, b=""), float)

    async def main() -> None:
        assert_type(await pipeline(coroutine)(1), str)
        async for item in pipeline(async_generator)(1):
            assert_type(item, str)

    run(main())


# --- what it is made of ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, 3, Retry, lambda fn: fn, "Timeout", [Timeout(1.0)]], ids=repr)
def test_only_layers_make_a_pipeline(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^a Pipeline takes layers, not "):
        Pipeline(Timeout(1.0), wrong)


def test_a_pipeline_has_a_name_and_shows_its_order() -> None:
    pipeline = Pipeline(Timeout(2.0, name="total"), Bulkhead(3), name="orders")
    assert repr(pipeline) == (
        "<Pipeline orders: <Timeout total: 2 s> > <Bulkhead unnamed: 0 of 3 in use, 0 of 0 waiting>>"
    )
    assert repr(Pipeline()) == "<Pipeline unnamed: empty>"
    with pytest.raises(ValueError, match="name must be"):
        Pipeline(name="")


def test_it_is_at_rest_when_all_its_layers_are() -> None:
    bulkhead = Bulkhead(1)
    pipeline = Pipeline(Timeout(1.0), bulkhead)
    assert Pipeline().at_rest
    assert pipeline.at_rest
    permit = bulkhead.admit()
    assert not pipeline.at_rest
    bulkhead.settle(permit)
    assert pipeline.at_rest


# --- warnings --------------------------------------------------------------------------------------------------------

RETRY = Retry(OSError)


def test_the_standard_order_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        standard()
        Pipeline(correlated, Pipeline(correlated, Timeout(2.0), Retry(OSError), CircuitBreaker(), Timeout(1.0)))
        Pipeline(Timeout(None), Timeout(5.0), Timeout(lambda: 9.0))
        Pipeline(Retry(OSError), Throttle(aiolimiter.AsyncLimiter(5)), Bulkhead(2))
        Pipeline(CircuitBreaker(), Timeout(2.0), CircuitBreaker())


@pytest.mark.parametrize(
    "code,layers",
    [
        ("timeout-order", lambda: [Timeout(2.0), Retry(OSError), Timeout(2.0)]),
        ("timeout-order", lambda: [Timeout(2.0), Pipeline(Timeout(2.5))]),
        ("retry-inside-breaker", lambda: [CircuitBreaker(), Retry(OSError)]),
        ("retry-inside-breaker", lambda: [CircuitBreaker(failure_on=ConnectionError), Timeout(1.0), Retry(OSError)]),
        ("retry-inside-breaker", lambda: [CircuitBreaker(failure_on=OSError), Retry((KeyError, ConnectionError))]),
        ("retry-inside-breaker", lambda: [CircuitBreaker(failure_on=KeyError), Retry(lambda error: True)]),
        ("retry-inside-breaker", lambda: [CircuitBreaker(failure_on=lambda error: True), Retry(KeyError)]),
        ("limiter-outside-retry", lambda: [RateLimiter(5), Retry(OSError)]),
        ("limiter-outside-retry", lambda: [Throttle(aiolimiter.AsyncLimiter(5)), Retry(OSError)]),
        ("bulkhead-outside-retry", lambda: [Bulkhead(5), Retry(OSError)]),
        ("nested-retry", lambda: [Retry(OSError), Timeout(1.0), Retry(OSError)]),
        ("breaker-inside-quota", lambda: [RateLimiter(5), CircuitBreaker()]),
        ("breaker-inside-quota", lambda: [Throttle(aiolimiter.AsyncLimiter(5)), CircuitBreaker()]),
        ("breaker-inside-quota", lambda: [Bulkhead(5), CircuitBreaker()]),
        ("late-correlation", lambda: [Timeout(5.0), correlated]),
    ],
)
def test_an_order_that_cannot_mean_what_was_written_warns(code: str, layers: Any) -> None:
    assert codes(*layers()) == [code]


def test_a_layer_that_is_there_twice_warns() -> None:
    bulkhead = Bulkhead(5)
    assert codes(bulkhead, Timeout(1.0), Pipeline(bulkhead)) == ["layer-twice"]
    assert codes(RETRY, RETRY) == ["layer-twice", "nested-retry"]


def test_a_retry_of_other_failures_inside_a_breaker_is_no_mistake() -> None:
    assert codes(CircuitBreaker(failure_on=ConnectionError), Retry(KeyError)) == []
    assert codes(CircuitBreaker(failure_on=(ConnectionError, ValueError)), Retry((KeyError, AttributeError))) == []


def test_every_warning_is_a_sentence_that_says_what_is_wrong() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        budget = RetryBudget()
        retry = Retry(OSError, attempts=4, budget=budget)
        Pipeline(Bulkhead(1), Timeout(1.0), RateLimiter(1), retry, Retry(OSError, attempts=3), Timeout(1.5))
    texts = {str(warning.message).partition("] ")[0][1:]: str(warning.message) for warning in caught}
    assert "(1.5 s) is not shorter than the outer (1 s)" in texts["timeout-order"]
    assert "up to 12 attempts per call" in texts["nested-retry"]
    assert "RateLimiter outside Retry" in texts["limiter-outside-retry"]
    assert all(text.endswith(".") for text in texts.values())


def test_a_warning_can_be_made_an_error_by_its_category() -> None:
    with pytest.raises(PipelineWarning, match=r"^\[bulkhead-outside-retry\] A Bulkhead outside Retry"):
        Pipeline(Bulkhead(5), Retry(OSError))


def test_a_keyed_layer_is_opaque_and_never_warns() -> None:
    assert codes(Keyed(lambda key: Bulkhead(1), lambda: "a"), Retry(OSError), Keyed(lambda key: RETRY, lambda: 1)) == []
