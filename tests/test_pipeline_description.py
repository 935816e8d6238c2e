"""What a pipeline says about itself: the layers, how often the function can be called, and how long it can take."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiolimiter
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from resilience import (
    Bulkhead,
    CircuitBreaker,
    Keyed,
    Layer,
    Pipeline,
    RateLimiter,
    Retry,
    Throttle,
    Timeout,
    correlated,
)
from resilience.testing import run

UNKNOWN = "unknown"


def retry(attempts: int, wait: Any, retry_after_limit: float = 0.0, **settings: Any) -> Retry:
    return Retry(OSError, attempts=attempts, wait=wait, retry_after_limit=retry_after_limit, **settings)


def worst(*layers: Layer) -> float | str | None:
    return Pipeline(*layers).describe().worst_case_duration


def attempts(*layers: Layer) -> int | str:
    return Pipeline(*layers).describe().worst_case_attempts


class Largest(random.Random):
    """Chance at its most extreme."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_a_description_names_the_layers_in_order_with_nested_pipelines_opened() -> None:
    breaker, timeout = CircuitBreaker("service"), Timeout(2.0)
    described = Pipeline(correlated, Pipeline(breaker, Pipeline(timeout)), name="orders").describe()
    assert described.name == "orders"
    assert described.layers == ("correlated", repr(breaker), repr(timeout))
    assert (described.worst_case_attempts, described.worst_case_duration) == (1, 2.0)


def test_an_empty_pipeline_calls_once_and_bounds_nothing() -> None:
    described = Pipeline().describe()
    assert (described.name, described.layers) == (None, ())
    assert (described.worst_case_attempts, described.worst_case_duration) == (1, None)


@pytest.mark.filterwarnings("ignore::resilience.PipelineWarning")
def test_attempts_multiply() -> None:
    fixed = tenacity.wait_fixed(1.0)
    assert attempts(retry(3, fixed)) == 3
    assert attempts(retry(3, fixed), Timeout(1.0), retry(4, fixed)) == 12


@pytest.mark.filterwarnings("ignore::resilience.PipelineWarning")
def test_without_a_limit_on_the_call_nothing_is_bounded_but_what_a_timeout_cuts_off() -> None:
    fixed = tenacity.wait_fixed(1.0)
    assert worst(retry(3, fixed)) is None
    assert worst(Bulkhead(1, max_queue=1), CircuitBreaker()) is None
    assert worst(Timeout(9.0), retry(3, fixed)) == 9.0
    assert worst(Timeout(9.0), Timeout(None)) == 9.0
    assert worst(Timeout(9.0), Timeout(20.0)) == 9.0


def test_waits_in_front_of_a_call_add_to_it() -> None:
    throttle = Throttle(aiolimiter.AsyncLimiter(5), max_wait=4.0)
    assert worst(RateLimiter(5, max_wait=3.0), throttle, Bulkhead(1, max_queue=2, max_wait=2.0), Timeout(1.0)) == 10.0
    assert worst(Bulkhead(1, max_wait=2.0), Timeout(1.0)) == 1.0
    assert worst(Bulkhead(1, max_queue=1, max_wait=None), Timeout(1.0)) is None
    assert worst(Timeout(9.0), Bulkhead(1, max_queue=1, max_wait=None), Timeout(1.0)) == 9.0
    assert worst(correlated, CircuitBreaker(), Timeout(1.0)) == 1.0


@pytest.mark.parametrize(
    "wait,pauses",
    [
        (tenacity.wait_none(), 0.0),
        (tenacity.wait_fixed(1.5), 4.5),
        (tenacity.wait_random(1.0, 2.0), 6.0),
        (tenacity.wait_exponential(multiplier=1.0, max=3.0), 1.0 + 2.0 + 3.0),
        (tenacity.wait_random_exponential(multiplier=0.5, max=60.0), 0.5 + 1.0 + 2.0),
        (tenacity.wait_random_exponential(multiplier=0.1, max=5.0, min=0.3), 0.3 + 0.3 + 0.4),
    ],
)
def test_pauses_count_at_their_longest(wait: Any, pauses: float) -> None:
    assert worst(retry(4, wait), Timeout(2.0)) == pytest.approx(4 * 2.0 + pauses)


def test_a_retry_after_counts_at_its_limit_with_its_jitter() -> None:
    fixed = tenacity.wait_fixed(1.0)
    assert worst(retry(3, fixed, retry_after_limit=4.0), Timeout(2.0)) == pytest.approx(6.0 + 2 * 4.4)
    assert worst(retry(3, fixed, retry_after_limit=30.0), Timeout(2.0)) == pytest.approx(6.0 + 2 * 31.0)
    assert worst(retry(3, tenacity.wait_fixed(50.0), retry_after_limit=30.0), Timeout(2.0)) == pytest.approx(106.0)
    assert worst(retry(1, fixed, retry_after_limit=30.0), Timeout(2.0)) == 2.0


@pytest.mark.parametrize(
    "opaque",
    [
        lambda: retry(3, lambda state: 1.0),
        lambda: retry(3, tenacity.wait_fixed(1.0) + tenacity.wait_fixed(1.0)),
        lambda: retry(3, tenacity.wait_fixed(1.0), before_retry=lambda: None),
        lambda: retry(2000, tenacity.wait_fixed(1.0)),
        lambda: Timeout(lambda: 1.0),
        lambda: Keyed(lambda key: Timeout(1.0), lambda: "a"),
    ],
)
@pytest.mark.filterwarnings("ignore::resilience.PipelineWarning")
def test_what_cannot_be_computed_is_unknown_until_a_timeout_bounds_it(opaque: Any) -> None:
    layer = opaque()
    assert worst(layer, Timeout(1.0)) == UNKNOWN
    assert worst(Bulkhead(1, max_queue=1), retry(3, tenacity.wait_none()), layer, Timeout(1.0)) == UNKNOWN
    assert worst(Timeout(60.0), layer, Timeout(1.0)) == 60.0


def test_a_layer_of_somebody_else_is_opaque() -> None:
    class Own(Layer):
        def _wrap_sync(self, fn: Any) -> Any:
            return fn

        _wrap_async = _wrap_generator = _wrap_async_generator = _wrap_sync

    own: Any = Own()
    assert attempts(own) == attempts(retry(3, tenacity.wait_none()), own) == UNKNOWN
    assert attempts(Keyed(lambda key: Timeout(1.0), lambda: "a")) == UNKNOWN
    assert worst(own, Timeout(1.0)) == UNKNOWN


# --- against the clock -----------------------------------------------------------------------------------------------


class BusyError(OSError):
    retry_after = 30.0


async def seconds_of(pipeline: Pipeline, error: Exception) -> tuple[float, int]:
    """How long a call takes that fails as late as its attempt may, and how often the function runs."""
    calls = 0

    async def fail_late() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(1.999)
        raise error

    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(OSError):
        await pipeline.call(fail_late)
    return loop.time() - began, calls


@pytest.mark.parametrize(
    "error,first",
    [
        (OSError, lambda: retry(3, tenacity.wait_fixed(1.0))),
        (OSError, lambda: retry(4, tenacity.wait_exponential(multiplier=0.5, max=1.5))),
        (OSError, lambda: retry(5, tenacity.wait_random_exponential(multiplier=0.1, max=5.0), rng=Largest())),
        (BusyError, lambda: retry(3, tenacity.wait_fixed(1.0), retry_after_limit=30.0, rng=Largest())),
    ],
)
def test_the_worst_case_is_what_a_call_can_take_in_virtual_time(error: type[OSError], first: Any) -> None:
    pipeline = Pipeline(correlated, first(), CircuitBreaker(), Timeout(2.0))
    described = pipeline.describe()
    seconds, calls = run(seconds_of(pipeline, error()))
    assert calls == described.worst_case_attempts
    assert seconds == pytest.approx(described.worst_case_duration, abs=0.01)


LAYERS = st.lists(
    st.one_of(
        st.tuples(st.just("timeout"), st.integers(1, 50)),
        st.tuples(st.just("wait"), st.integers(0, 10)),
        st.tuples(st.just("retry"), st.integers(1, 4)),
        st.tuples(st.just("nothing"), st.just(0)),
    ),
    max_size=6,
)


def made(kind: str, size: int) -> Layer:
    if kind == "timeout":
        return Timeout(float(size))
    if kind == "wait":
        return RateLimiter(5, max_wait=float(size))
    return retry(size, tenacity.wait_fixed(2.0)) if kind == "retry" else CircuitBreaker()


def longest(layers: list[tuple[str, int]]) -> float:
    """The longest run of the first layer around the others, told one attempt after the other; infinity for no end."""
    if not layers:
        return float("inf")
    (kind, size), inside = layers[0], longest(layers[1:])
    if kind == "timeout":
        return min(float(size), inside)
    if kind == "wait":
        return size + inside
    return sum([inside] + [2.0 + inside] * (size - 1)) if kind == "retry" else inside


@pytest.mark.filterwarnings("ignore::resilience.PipelineWarning")
@given(LAYERS)
def test_the_worst_case_of_any_order_is_that_of_a_naive_reckoning(layers: list[tuple[str, int]]) -> None:
    described = worst(*(made(kind, size) for kind, size in layers))
    assert (float("inf") if described is None else described) == longest(layers)
