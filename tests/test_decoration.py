"""What a decorated function still tells about itself, what cannot be decorated, and what may not be returned."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import inspect
import types
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    CircuitBreaker,
    Keyed,
    Layer,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    correlated,
)
from resilience import _layer as layers
from resilience.testing import ManualClock, VirtualLoop, run

LAYERS: dict[str, Callable[[], Layer]] = {
    "bulkhead": lambda: Bulkhead(1),
    "breaker": lambda: CircuitBreaker(failure_threshold=1),
    "limiter": lambda: RateLimiter(1000),
    "limiter that charges by outcome": lambda: RateLimiter(1000, charge_if=bool),
    "timeout": lambda: Timeout(5.0),
    "retry": lambda: Retry(on=ValueError),
    "correlated": lambda: correlated,
    "keyed": lambda: Keyed(lambda _: Bulkhead(1), key=lambda *_: "key"),
    "pipeline": lambda: Pipeline(Bulkhead(1), Timeout(5.0)),
    "empty pipeline": Pipeline,
}
every_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS.keys())


def plain(x: int, *, y: str = "y") -> str:
    """Adds up."""
    return f"{x}{y}"


async def coroutine(x: int, *, y: str = "y") -> str:
    """Adds up."""
    return f"{x}{y}"


def generator(x: int, *, y: str = "y") -> Iterator[str]:
    """Adds up."""
    yield f"{x}{y}"


async def async_generator(x: int, *, y: str = "y") -> AsyncIterator[str]:
    """Adds up."""
    yield f"{x}{y}"


@every_layer
@pytest.mark.parametrize("fn", [plain, coroutine, generator, async_generator])
def test_a_guarded_function_keeps_name_signature_and_colour(make: Callable[[], Layer], fn: Any) -> None:
    fn.__dict__["marked"] = True
    guarded: Any = make()(fn)
    assert guarded is not fn
    assert (guarded.__name__, guarded.__qualname__, guarded.__module__) == (fn.__name__, fn.__qualname__, __name__)
    assert (guarded.__doc__, guarded.marked) == ("Adds up.", True)
    assert inspect.unwrap(guarded) is fn
    assert inspect.signature(guarded) == inspect.signature(fn)
    for question in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert question(guarded) == question(fn)


def test_the_state_of_a_callable_object_does_not_move_into_its_wrapper() -> None:
    class Client:
        def __init__(self) -> None:
            self.secret = "s"

        def __call__(self) -> str:
            return self.secret

    guarded: Any = Bulkhead(1)(Client())
    assert guarded() == "s"
    assert not hasattr(guarded, "secret")


@every_layer
def test_a_function_decorated_outside_any_loop_works_in_one_loop_after_another(make: Callable[[], Layer]) -> None:
    """Decorating at import failed, or bound to the first loop, in hyx and aiolimiter (T5)."""
    guarded = make()(coroutine)
    assert [asyncio.run(guarded(1)) for _ in range(2)] == ["1y", "1y"]


# -- what cannot be guarded --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def manager() -> Iterator[None]:
    yield


@contextlib.asynccontextmanager
async def async_manager() -> AsyncIterator[None]:
    yield


@types.coroutine
def old_style() -> Generator[None, None, None]:
    yield


class Service:
    @classmethod
    def make(cls) -> Service:
        return cls()

    @contextlib.contextmanager
    def manager(self) -> Iterator[None]:
        yield


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "class": (lambda: Service, "class Service: decorate its methods"),
    "staticmethod": (lambda: staticmethod(plain), "put the layer below @staticmethod"),
    "classmethod": (lambda: Service.__dict__["make"], "put the layer below @classmethod"),
    "property": (lambda: property(plain), "put the layer below @property"),
    "cached property": (lambda: functools.cached_property(plain), "put the layer below @cached_property"),
    "generator object": (lambda: generator(1), "pass the function, not what calling it returned"),
    "async generator object": (lambda: async_generator(1), "pass the function, not what calling it returned"),
    "context manager": (lambda: manager, "use `with policy.guard"),
    "async context manager": (lambda: async_manager, "use `with policy.guard"),
    "method that is a context manager": (lambda: Service().manager, "use `with policy.guard"),
    "partial of a context manager": (lambda: functools.partial(manager), "use `with policy.guard"),
    "types.coroutine": (lambda: old_style, "write an `async def` in place of types.coroutine"),
    "layer": (lambda: Bulkhead(1), "it is a layer too, so write Pipeline(outer, inner)"),
    "pipeline": (Pipeline, "it is a layer too"),
    "number": (lambda: 7, "cannot guard 7: it is not callable"),
    "nothing": (lambda: None, "cannot guard None: it is not callable"),
}


@every_layer
@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_guarded_is_refused_at_decoration_with_the_reason(make: Callable[[], Layer], what: str) -> None:
    """Seen elsewhere: nothing is guarded and nobody says so (B14)."""
    subject, reason = REFUSED[what]
    layer: Any = make()
    with pytest.raises(TypeError, match="cannot guard") as caught:
        layer(subject())
    assert reason in str(caught.value)


def test_a_coroutine_object_is_refused() -> None:
    subject: Any = coroutine(1)
    with pytest.raises(TypeError, match="pass the function, not what calling it returned"):
        Bulkhead(1)(subject)
    subject.close()


# -- what may not be returned ------------------------------------------------------------------------------------------


class Awaiting:
    def __await__(self) -> Generator[Any, None, int]:
        return coroutine(1).__await__()  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


UNGUARDABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "generator": (lambda: generator(1), "returned a generator: decorate the generator function itself"),
    "async generator": (lambda: async_generator(1), "returned a generator: decorate the generator function itself"),
    "concurrent future": (concurrent.futures.Future, "decorate the function that the executor runs"),
    "other awaitable": (Awaiting, "an awaitable of type Awaiting: write an `async def` that awaits it"),
}


def returning(what: str) -> Callable[[], Any]:
    def fetch() -> Any:
        return UNGUARDABLE[what][0]()

    return fetch


# An empty pipeline has no layer that could see anything.
@pytest.mark.parametrize("make", [make for make in LAYERS.values() if make is not Pipeline])
@pytest.mark.parametrize("what", UNGUARDABLE)
def test_a_result_that_runs_later_out_of_sight_is_refused(make: Callable[[], Layer], what: str) -> None:
    guarded = make()(returning(what))
    with pytest.raises(TypeError, match="fetch returned a") as caught:
        guarded()
    assert UNGUARDABLE[what][1] in str(caught.value)


@pytest.mark.parametrize("what", UNGUARDABLE)
def test_a_refused_result_gives_the_permit_back_while_its_error_is_still_around(what: str) -> None:
    """The first version gave it back when the traceback, which held the permit, was dropped."""
    bulkhead = Bulkhead(1)
    with pytest.raises(TypeError) as caught:
        bulkhead(returning(what))()
    assert bulkhead.statistics().in_use == 0
    assert caught.value.__traceback__ is not None


@pytest.mark.parametrize("what", UNGUARDABLE)
def test_a_refused_result_is_not_a_failure_of_the_dependency(what: str) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    with pytest.raises(TypeError):
        breaker(returning(what))()
    statistics = breaker.statistics()
    assert (statistics.calls, statistics.failures) == (0, 0)


def test_a_generator_that_is_refused_as_a_result_is_closed() -> None:
    made: list[Generator[int, None, None]] = []

    def fetch() -> Any:
        made.append(number for number in range(3))
        return made[0]

    with pytest.raises(TypeError):
        Bulkhead(1)(fetch)()
    assert inspect.getgeneratorstate(made[0]) == "GEN_CLOSED"


def test_messages_name_the_function_inside_partials() -> None:
    with pytest.raises(TypeError, match=r"^generator returned a generator"):
        layers.finished(generator(1), functools.partial(functools.partial(generator)))
    assert layers.name_of(functools.partial(plain)) == "plain"
    assert layers.name_of(Awaiting()).startswith("<tests.test_decoration.Awaiting object")


def test_types_of_plain_results_are_learned_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that creates classes at run time must not be kept alive by their results."""
    known: set[type] = {int}
    monkeypatch.setattr(layers, "PLAIN", known)
    monkeypatch.setattr(layers, "_PLAIN_LIMIT", 2)
    first, second = type("First", (), {}), type("Second", (), {})
    for kind in (first, second):
        assert layers.finished(kind(), plain)
    assert known == {int, first}


def test_an_object_of_a_class_never_seen_before_is_a_result() -> None:
    class Answer:
        pass

    bulkhead = Bulkhead(1)
    answers = [bulkhead(Answer.__call__)() for _ in range(2)]
    assert all(type(answer) is Answer for answer in answers)
    assert bulkhead.statistics().in_use == 0


# -- plain functions whose result is still to come ---------------------------------------------------------------------


def test_a_returned_coroutine_is_settled_when_it_has_been_awaited(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)
    guarded: Callable[[int], Awaitable[str]] = bulkhead(lambda x: coroutine(x, y="y"))

    async def main() -> None:
        pending = guarded(1)
        assert asyncio.iscoroutine(pending)
        assert bulkhead.statistics().in_use == 1
        assert await pending == "1y"
        assert bulkhead.statistics().in_use == 0

    run(main(), clock)


def test_a_returned_coroutine_that_fails_is_a_failure(clock: ManualClock) -> None:
    """pybreaker and interlock recorded a success as soon as the coroutine object was there (B14)."""
    breaker = CircuitBreaker(failure_threshold=1)

    async def fails(x: str) -> None:
        raise ValueError

    async def main() -> None:
        pending = breaker(lambda: fails("x"))()
        assert breaker.state.value == "closed"
        with pytest.raises(ValueError):
            await pending
        assert breaker.state.value == "open"

    run(main(), clock)


def test_results_that_come_later_are_judged_when_they_come(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, failure_if=lambda result: result == "1y")
    assert run(breaker(lambda: coroutine(1))(), clock) == "1y"
    assert breaker.state.value == "open"


def test_a_returned_future_is_answered_by_a_task_of_the_running_loop(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        pending = bulkhead(lambda: future)()
        assert isinstance(pending, asyncio.Task)
        await asyncio.sleep(0)
        assert bulkhead.statistics().in_use == 1
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        assert future.cancelled()
        assert bulkhead.statistics().in_use == 0

    run(main(), clock)


def test_a_returned_future_can_be_awaited_later_where_no_loop_was_running(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1)
    loop = VirtualLoop(clock)
    future = loop.create_future()
    pending = bulkhead(lambda: future)()
    assert bulkhead.statistics().in_use == 1
    loop.call_soon(future.set_result, 7)
    assert loop.run_until_complete(pending) == 7
    assert bulkhead.statistics().in_use == 0
    loop.close()


@every_layer
def test_a_returned_coroutine_nobody_awaits_gives_its_permit_back_and_is_named(make: Callable[[], Layer]) -> None:
    layer = make()

    def fetch_later() -> Any:
        return coroutine(1)

    fetch: Any = layer(fetch_later)
    messages: set[str] = set()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        messages.add(str(message).partition("\n")[0])

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # A recorded warning would keep the coroutine that it is about.
        warnings.showwarning = note
        fetch()
        gc.collect()
    expected = {"coroutine 'coroutine' was never awaited"}
    if make is not LAYERS["limiter"] and make is not Pipeline:  # these hand out the coroutine itself
        expected.add(f"coroutine '{fetch.__qualname__}' was never awaited")
    assert messages == expected
    policies: list[Any] = [layer, *getattr(layer, "layers", ())]
    for policy in policies:
        assert not hasattr(policy, "statistics") or getattr(policy.statistics(), "in_use", 0) == 0


def test_a_layer_has_nothing_to_forget_unless_it_says_so() -> None:
    assert correlated.at_rest
