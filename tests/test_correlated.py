"""`correlated`: a layer that gives each call without an id a new one, in every colour of function."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from typing import Any

import pytest

from resilience import Layer, Pipeline, bind, bound, correlated, correlation_id, unbind
from resilience.testing import run
from tests.conftest import Colour


def test_a_call_without_an_id_gets_a_new_one_for_its_length(colour: Colour) -> None:
    guarded = colour.guarded(correlated, lambda: colour.sleep(1.0, correlation_id()))
    first, second = guarded(), guarded()
    assert first is not None
    assert len({first, second, None}) == 3
    assert correlation_id() is None


def test_a_call_with_an_id_keeps_it(colour: Colour) -> None:
    guarded = colour.guarded(correlated, lambda: colour.sleep(1.0, correlation_id()))
    with bound("request"):
        assert guarded() == "request"
    assert correlation_id() is None


def test_calls_inside_share_the_id_of_the_outermost(colour: Colour) -> None:
    inner = correlated(colour.function(correlation_id))

    def body() -> Any:
        async def both() -> tuple[str | None, str | None]:
            return correlation_id(), await inner()

        return both() if colour.is_async else (correlation_id(), inner())

    outer, nested = colour.guarded(correlated, body)()
    assert outer == nested
    assert outer is not None


@pytest.mark.parametrize("bound_outside", [False, True])
def test_an_id_does_not_outlive_a_call_that_raises(colour: Colour, bound_outside: bool) -> None:
    def body() -> None:
        raise KeyError(correlation_id())

    token = bind("request") if bound_outside else None
    with pytest.raises(KeyError):
        colour.guarded(correlated, body)()
    assert correlation_id() == ("request" if bound_outside else None)
    if token is not None:
        unbind(token)


def test_an_awaitable_returned_by_a_plain_function_runs_under_the_id_of_the_call() -> None:
    async def work(seen: list[str | None]) -> str:
        seen.append(correlation_id())
        await asyncio.sleep(1)
        seen.append(correlation_id())
        return "done"

    def coroutine(seen: list[str | None]) -> Awaitable[str]:
        seen.append(correlation_id())
        return work(seen)

    def task(seen: list[str | None]) -> Awaitable[str]:
        seen.append(correlation_id())
        return asyncio.ensure_future(work(seen))

    async def main() -> None:
        for fn in (coroutine, task):
            seen: list[str | None] = []
            rest = correlated(fn)(seen)
            assert correlation_id() is None
            assert await rest == "done"
            assert correlation_id() is None
            assert len(seen) == 3
            assert None not in seen
            assert len(set(seen)) == 1

    run(main())


def test_an_awaitable_that_raises_leaves_nothing_bound() -> None:
    async def fail() -> None:
        raise OSError

    async def main() -> None:
        with pytest.raises(OSError):
            await correlated(lambda number: fail())(1)
        assert correlation_id() is None

    run(main())


def count_with_ids(items: int) -> Generator[str | None, str | None, str]:
    told = None
    for _ in range(items):
        told = yield correlation_id() if told is None else told
    return "end"


def test_a_coroutine_leaves_nothing_bound_in_the_task_that_awaits_it() -> None:
    async def work() -> str | None:
        return correlation_id()

    async def main() -> tuple[str | None, str | None, str | None]:
        return await correlated(work)(), correlation_id(), await correlated(work)()

    first, between, second = run(main())
    assert between is None
    assert len({first, second, None}) == 3


async def acount_with_ids(items: int) -> AsyncIterator[str | None]:
    for _ in range(items):
        yield correlation_id()
        await asyncio.sleep(1)
    assert correlation_id() is not None


def test_a_generator_has_one_id_and_nothing_stays_bound_across_a_yield() -> None:
    """OpenTelemetry held a context variable's token across `yield`: it leaked into the consumer (T6)."""
    items = correlated(count_with_ids)(3)
    first = next(items)
    assert correlation_id() is None
    token = bind("consumer")
    assert next(items) == first
    assert correlation_id() == "consumer"
    unbind(token)
    assert items.send("told") == "told"
    with pytest.raises(StopIteration) as stop:
        next(items)
    assert stop.value.value == "end"
    assert first is not None


def test_a_generator_inherits_the_id_of_the_moment_of_its_first_step() -> None:
    items = correlated(count_with_ids)(2)
    with bound("request"):
        assert next(items) == "request"
    assert next(items) == "request"
    assert correlation_id() is None


def test_two_generators_taken_in_turns_keep_their_ids_apart() -> None:
    one, two = correlated(count_with_ids)(3), correlated(count_with_ids)(3)
    pairs = list(zip(one, two, strict=True))
    assert len(set(pairs)) == 1
    assert len(set(pairs[0])) == 2


def test_a_generator_may_be_stepped_and_closed_in_different_contexts() -> None:
    """A token may only be reset in the context it was made in: asyncio closes generators in another one."""

    async def main() -> list[str | None]:
        items: Any = correlated(acount_with_ids)(5)
        seen = [await asyncio.create_task(anext(items)) for _ in range(2)]
        await asyncio.create_task(items.aclose())
        return [*seen, correlation_id()]

    first, second, after = run(main())
    assert first == second
    assert first is not None
    assert after is None


def test_an_async_generator_has_one_id_and_nothing_stays_bound_across_a_yield() -> None:
    async def main() -> set[str | None]:
        seen: set[str | None] = set()
        async for identity in correlated(acount_with_ids)(3):
            assert correlation_id() is None
            seen.add(identity)
        return seen

    ids = run(main())
    assert len(ids) == 1
    assert None not in ids


def test_a_generator_dropped_halfway_leaves_nothing_bound() -> None:
    items: Iterator[Any] = correlated(count_with_ids)(3)
    next(items)
    del items
    gc.collect()
    assert correlation_id() is None


def test_concurrent_calls_have_ids_of_their_own() -> None:
    async def work() -> str | None:
        before = correlation_id()
        await asyncio.sleep(1)
        assert correlation_id() == before
        return before

    async def main() -> list[str | None]:
        return await asyncio.gather(*(correlated(work)() for _ in range(20)))

    assert len({*run(main()), None}) == 21


def test_it_reads_as_its_name_and_composes_like_any_layer(colour: Colour) -> None:
    assert repr(correlated) == "correlated"
    assert isinstance(correlated, Layer)
    assert correlated.at_rest
    assert colour.guarded(Pipeline(correlated), correlation_id)() is not None
