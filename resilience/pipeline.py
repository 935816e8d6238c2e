"""Pipeline: several layers as one, in written order from the outside in.

``Pipeline(a, b, c)(fn)`` means ``a(b(c(fn)))``. The standard order, outermost first, and why:

    correlated        one id for everything that follows
    Timeout           the total: covers queueing and backoff
    Retry             every attempt is admitted and counted below
    CircuitBreaker    before quota and slots, so that a refused call spends neither
    RateLimiter       or Throttle
    Bulkhead
    Timeout           of the attempt: innermost, so that breaker and retry see it as an outcome
    Pool              if any: gives the function what it works with

Orders that cannot mean what was written warn with a `PipelineWarning` when the pipeline is made.
"""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import tenacity
from tenacity import wait as waits

from . import _arguments
from ._layer import AnyFunction, Layer, Stream, drive, refuse_bare
from .bulkhead import Bulkhead
from .circuit_breaker import CircuitBreaker
from .correlation import correlated
from .exceptions import PipelineWarning
from .pool import Pool
from .rate_limiter import RateLimiter
from .retry import Retry
from .throttle import Throttle
from .timeout import Timeout

Unknown = Literal["unknown"]
_UNKNOWN: Unknown = "unknown"
_TRANSPARENT = (CircuitBreaker, RateLimiter, Throttle, Bulkhead, Timeout, Pool)  # they call the function at most once
_COMPUTED = 1_000  # attempts whose pauses are added up


@dataclass(frozen=True, slots=True)
class PipelineDescription:
    """A pipeline as data: the layers' reprs, outermost first, and the worst case of one call.

    `worst_case_attempts` is how often the guarded function can be called, `worst_case_duration` the seconds one call
    can take (None: nothing bounds it). Both are "unknown" where a layer or strategy cannot be computed beforehand.

    Pauses count as long as they can get, a Retry-After up to the `retry_after_limit` of the Retry included. A Timeout
    bounds what it cuts off: asynchronous functions, and plain ones with `abandon=True`.
    """

    name: str | None
    layers: tuple[str, ...]
    worst_case_attempts: int | Unknown
    worst_case_duration: float | Unknown | None


class Pipeline(Layer):
    """Layers as one layer, outermost first. Warns with `PipelineWarning` about orders that make no sense."""

    def __init__(self, *layers: Layer, name: str | None = None) -> None:
        refuse_bare(Pipeline, layers[0] if layers else None)
        self.name = _arguments.text("name", name)
        for layer in layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"a Pipeline takes layers, not {_arguments.shown(layer)}")
        self.layers: tuple[Layer, ...] = layers
        for code, sentence in _oddities(_flat(layers)):
            warnings.warn(PipelineWarning(code, sentence), stacklevel=2)

    def describe(self) -> PipelineDescription:
        """The order and the worst case, as data."""
        flat = _flat(self.layers)
        return PipelineDescription(self.name, tuple(repr(layer) for layer in flat), _attempts(flat), _duration(flat))

    def guard(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise TypeError: not every layer can guard a block."""
        raise TypeError(
            "Pipeline has no guard(), because some layers need a function: decorate one, use pipeline.call(fn, …), or"
            " enter the guard() of each policy in one `with`"
        )

    @property
    def at_rest(self) -> bool:
        return all(layer.at_rest for layer in self.layers)

    def __repr__(self) -> str:
        return f"<Pipeline {self.name or 'unnamed'}: {' > '.join(repr(layer) for layer in self.layers) or 'empty'}>"

    def _changed(self, change: Callable[[Layer], Layer]) -> Layer:
        changed = object.__new__(type(self))  # the warnings were given when this one was made
        vars(changed).update(vars(self), layers=tuple(layer._changed(change) for layer in self.layers))
        return changed

    def _bind(self, fn: AnyFunction) -> AnyFunction:
        # Each layer dresses its wrapper as the function, so that the next one finds the same colour.
        bound = super()._bind(fn) if not self.layers else fn
        for layer in reversed(self.layers):
            bound = layer(bound)
        return bound

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        def unguarded(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return unguarded

    def _wrap_async(self, fn: AnyFunction) -> AnyFunction:
        async def unguarded(*args: Any, **kwargs: Any) -> Any:
            return await fn(*args, **kwargs)

        return unguarded

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        def unguarded(*args: Any, **kwargs: Any) -> Any:
            return (yield from fn(*args, **kwargs))

        return unguarded

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            yield Stream(fn(*args, **kwargs))

        return drive(begin)


def _flat(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers with nested pipelines opened."""
    return tuple(
        inner for layer in layers for inner in (_flat(layer.layers) if isinstance(layer, Pipeline) else (layer,))
    )


def _oddities(layers: tuple[Layer, ...]) -> list[tuple[str, str]]:
    """Pairs of a code and a sentence for whatever cannot mean what was written."""
    found = []
    for place, outer in enumerate(layers):
        inside = layers[place + 1 :]
        if outer in inside and outer is not correlated:
            found.append(("layer-twice", f"{outer!r} is in the pipeline twice and will count every call twice."))
        if outer is correlated and layers[0] is not correlated:
            found.append(
                ("late-correlation", "correlated is not outermost, so the layers around it have no id to log.")
            )
        for inner in inside:
            found += _odd_pair(outer, inner)
    return found


def _odd_pair(outer: Layer, inner: Layer) -> list[tuple[str, str]]:
    if isinstance(outer, Timeout) and isinstance(inner, Timeout):
        if outer.seconds is not None and inner.seconds is not None and inner.seconds >= outer.seconds:
            return [
                (
                    "timeout-order",
                    (
                        f"The inner timeout ({inner.seconds:g} s) is not shorter than the outer ({outer.seconds:g} s)"
                        " and never fires."
                    ),
                )
            ]
    elif isinstance(outer, CircuitBreaker) and isinstance(inner, Retry):
        if _disjoint(outer._failures, inner._on):
            return []
        return [
            (
                "retry-inside-breaker",
                (
                    "Retry inside a CircuitBreaker hides failed attempts from it and goes on while it should open:"
                    " put the breaker inside the Retry."
                ),
            )
        ]
    elif isinstance(outer, (RateLimiter, Throttle)) and isinstance(inner, Retry):
        return [
            (
                "limiter-outside-retry",
                (
                    f"{type(outer).__name__} outside Retry counts a call once however often it is repeated:"
                    " put it inside the Retry."
                ),
            )
        ]
    elif isinstance(outer, Bulkhead) and isinstance(inner, Retry):
        return [
            ("bulkhead-outside-retry", "A Bulkhead outside Retry holds its slot during the backoff: put it inside.")
        ]
    elif isinstance(outer, Pool) and isinstance(inner, Retry):
        return [
            (
                "pool-outside-retry",
                "A Pool outside Retry keeps its resource during the backoff, broken or not: put it inside.",
            )
        ]
    elif isinstance(outer, Retry) and isinstance(inner, Retry):
        return [
            ("nested-retry", f"Two Retry layers multiply: up to {outer.attempts * inner.attempts} attempts per call.")
        ]
    elif isinstance(outer, (RateLimiter, Throttle, Bulkhead)) and isinstance(inner, CircuitBreaker):
        return [
            (
                "breaker-inside-quota",
                (
                    f"{type(outer).__name__} outside a CircuitBreaker spends quota or slots on calls that the breaker"
                    " refuses: put the breaker outside."
                ),
            )
        ]
    return []


def _disjoint(failures: object, retried: object) -> bool:
    """Whether no exception can be both, as far as types tell; a predicate may say yes to anything."""
    kinds = []
    for test in (failures, retried):
        kinds.append(test if isinstance(test, tuple) else (test,))
        if not all(isinstance(kind, type) for kind in kinds[-1]):
            return False
    return not any(issubclass(a, b) or issubclass(b, a) for a in kinds[0] for b in kinds[1])


def _attempts(layers: tuple[Layer, ...]) -> int | Unknown:
    attempts = 1
    for layer in layers:
        if isinstance(layer, Retry):
            attempts *= layer.attempts
        elif not isinstance(layer, _TRANSPARENT) and layer is not correlated:
            return _UNKNOWN
    return attempts


def _duration(layers: tuple[Layer, ...]) -> float | Unknown | None:
    """Seconds that a call through `layers` can take: built from the inside out, each layer adding or capping."""
    worst: float | Unknown | None = None
    for layer in reversed(layers):
        if isinstance(layer, Timeout):
            if layer._computed is not None:
                worst = _UNKNOWN
            elif layer.seconds is not None:
                worst = min(worst, layer.seconds) if isinstance(worst, float) else layer.seconds
        elif isinstance(layer, Retry):
            pauses = _longest_pauses(layer)
            if isinstance(worst, float):
                worst = _UNKNOWN if pauses == _UNKNOWN else worst * layer.attempts + pauses
        elif isinstance(layer, (Bulkhead, RateLimiter, Throttle, Pool)):
            wait = layer._longest_wait()
            if isinstance(worst, float):
                worst = None if wait is None else worst + wait
        elif not isinstance(layer, _TRANSPARENT) and layer is not correlated:
            worst = _UNKNOWN
    return worst


def _longest_pauses(retry: Retry) -> float | Unknown:
    """All pauses of a Retry at their longest; "unknown" where the strategy is opaque or user code runs in between."""
    limit = retry._retry_after_limit
    asked = limit + min(0.1 * limit, 1.0)  # an outcome may ask for that much, and gets jitter on top
    total = 0.0
    for attempt in range(1, retry.attempts):
        pause = _longest_pause(retry._wait, attempt) if attempt <= _COMPUTED and retry._before_retry is None else None
        if pause is None:
            return _UNKNOWN
        total += max(pause, asked)
    return total


def _longest_pause(strategy: Any, attempt: int) -> float | None:
    """The longest pause after an attempt under a strategy of tenacity; None where that cannot be told."""
    kind = type(strategy)
    if kind in (waits.wait_fixed, waits.wait_none):
        return float(strategy.wait_fixed)
    if kind is waits.wait_random:
        return float(strategy.wait_random_max)
    if kind in (waits.wait_exponential, waits.wait_random_exponential):
        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = attempt
        return float(waits.wait_exponential.__call__(strategy, state))
    return None
