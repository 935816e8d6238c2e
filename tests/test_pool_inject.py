"""Injection: functions of every colour get a resource first, alone and in a pipeline."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import tenacity

from resilience import CircuitBreaker, Pipeline, PipelineWarning, Pool, Retry, Timeout
from resilience.testing import ManualClock, run
from tests.conftest import Colour
from tests.pooled import Works

Decorator = Callable[[Any], Any]


def numbered(**settings: Any) -> Pool[int]:
    numbers = iter(range(1, 99))
    return Pool(lambda: next(numbers), **settings)


def numbered_later(**settings: Any) -> Pool[int]:
    numbers = iter(range(1, 99))

    async def make() -> int:
        return next(numbers)

    return Pool(make, **settings)


def test_a_plain_function_gets_a_resource_first() -> None:
    pool = numbered()

    @pool.inject
    def fetch(resource: int, row: str, *, times: int = 1) -> str:
        """What it does."""
        assert pool.statistics().in_use == 1
        return f"{resource}{row * times}"

    assert fetch("a", times=2) == "1aa"
    assert pool.call(lambda resource: resource + 1) == 2
    assert pool(lambda resource: resource)() == 1
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "What it does.")
    assert str(inspect.signature(fetch)) == "(row: 'str', *, times: 'int' = 1) -> 'str'"
    assert pool.statistics().in_use == 0


def test_a_plain_function_that_raises_has_its_resource_closed_where_nothing_can_check_it() -> None:
    pool = numbered()

    @pool.inject
    def fails(resource: int) -> None:
        raise KeyError(resource)

    for number in (1, 2):
        with pytest.raises(KeyError, match=str(number)):
            fails()
        assert pool.statistics().in_use == 0


def test_a_plain_function_waits_for_its_turn(clock: ManualClock) -> None:
    pool = numbered(max_size=1)
    lease = pool.acquire()
    lease.__enter__()
    with pytest.raises(Exception, match="exhausted"):
        pool.inject(lambda resource: None)()
    lease.__exit__(None, None, None)


@pytest.mark.parametrize("make", [numbered, numbered_later])
def test_a_coroutine_function_gets_a_resource_first(make: Any) -> None:
    pool: Pool[int] = make()

    @pool.inject
    async def fetch(resource: int, row: str) -> str:
        assert pool.statistics().in_use == 1
        await asyncio.sleep(0)
        return f"{resource}{row}"

    @pool.inject
    async def fails(resource: int) -> None:
        raise KeyError(resource)

    async def main() -> None:
        assert await fetch("a") == await fetch("a") == "1a"
        with pytest.raises(KeyError):
            await fails()
        assert await pool.call(inspect.unwrap(fetch), "b") == "2b"

    asyncio.run(main())
    assert pool.statistics().in_use == 0


def test_what_a_plain_function_returns_to_be_awaited_keeps_the_resource_until_then() -> None:
    pool = numbered()

    async def work(resource: int) -> int:
        assert pool.statistics().in_use == 1
        return resource

    def plain(resource: int) -> Awaitable[int]:
        return work(resource)

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="blocks the event loop"):
            waiting = pool.inject(plain)()
        assert pool.statistics().in_use == 1
        assert await waiting == 1
        assert pool.statistics().in_use == 0

    asyncio.run(main())


def test_a_generator_holds_its_resource_until_it_ends() -> None:
    pool = numbered()

    @pool.inject
    def rows(resource: int, count: int) -> Iterator[int]:
        for _ in range(count):
            yield resource

    stream = rows(2)
    assert pool.statistics().in_use == 0, "nothing is borrowed before the first step"
    assert next(stream) == 1
    assert pool.statistics().in_use == 1
    assert list(stream) == [1]
    assert pool.statistics().idle == 1


@pytest.mark.parametrize("make", [numbered, numbered_later])
def test_an_async_generator_holds_its_resource_until_it_ends(make: Any) -> None:
    pool: Pool[int] = make()

    @pool.inject
    async def rows(resource: int, count: int) -> AsyncIterator[int]:
        for _ in range(count):
            yield resource

    async def main() -> None:
        assert [row async for row in rows(3)] == [1, 1, 1]
        assert pool.statistics().idle == 1
        stream: Any = rows(3)
        await anext(stream)
        assert pool.statistics().in_use == 1
        await stream.aclose()
        assert pool.statistics().size == 0, "nobody knows what was still to come"

    asyncio.run(main())


def test_what_cannot_wait_for_an_asynchronous_create_is_refused_at_decoration() -> None:
    pool = numbered_later(name="db")

    def plain(resource: int) -> None: ...

    def generator(resource: int) -> Iterator[int]:
        yield resource

    for fn in (plain, generator):
        with pytest.raises(
            TypeError, match=rf"^the pool 'db' creates .*, which the plain function .*{fn.__name__} cannot"
        ):
            pool.inject(fn)


def test_what_takes_no_resource_is_refused_at_decoration() -> None:
    pool = numbered()
    wrong: list[Any] = [lambda: None, lambda *, resource: None, lambda **kwargs: None]
    for fn in wrong:
        with pytest.raises(TypeError, match=r"must take the resource of the pool as its first positional argument$"):
            pool.inject(fn)
    with pytest.raises(TypeError, match="cannot guard 3: it is not callable"):
        pool.inject(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(TypeError, match="cannot guard the class"):
        pool.inject(int)


@pytest.mark.parametrize("make", [numbered, numbered_later])
@pytest.mark.parametrize("how", ["call", "inject", "in a pipeline", "around a layer", "within a layer"])
def test_a_method_gets_a_resource_after_its_self(how: str, make: Any) -> None:
    pool: Pool[int] = make()
    retry = Retry(OSError)
    ways: dict[str, tuple[Decorator, Decorator]] = {
        "call": (pool, Timeout(None)),
        "inject": (pool.inject, Timeout(None)),
        "in a pipeline": (Timeout(None), Pipeline(retry, pool)),
        "around a layer": (pool, breaker := CircuitBreaker()),
        "within a layer": (breaker, pool),
    }
    outer, inner = ways[how]

    class Repository:
        def __init__(self, name: str) -> None:
            self.name = name

        if make is numbered:

            @outer
            @inner
            def plain(self, resource: int, row: str, *, times: int = 1) -> str:
                """What it does."""
                return f"{self.name}{resource}{row * times}"

            @outer
            @inner
            def rows(self, resource: int, row: str) -> Iterator[str]:
                yield f"{self.name}{resource}{row}"

        @outer
        @inner
        async def later(self, resource: int, row: str) -> str:
            assert pool.statistics().in_use == 1
            await asyncio.sleep(0)
            return f"{self.name}{resource}{row}"

        @outer
        @inner
        async def stream(self, resource: int, row: str) -> AsyncIterator[str]:
            yield f"{self.name}{resource}{row}"

        @classmethod
        @outer
        @inner
        async def of_the_class(cls, resource: int, *more: str) -> tuple[object, int, tuple[str, ...]]:
            return cls, resource, more

    repository: Any = Repository("r")

    async def main() -> None:
        assert await repository.later("a") == await repository.later(row="a") == "r1a"
        assert [row async for row in repository.stream("a")] == ["r1a"]
        assert await repository.of_the_class("a", "b") == (Repository, 1, ("a", "b"))

    asyncio.run(main())
    if make is numbered:
        assert repository.plain("a", times=2) == Repository("s").plain("a", times=2).replace("s", "r") == "r1aa"
        assert list(repository.rows("a")) == ["r1a"]
        assert (repository.plain.__name__, repository.plain.__doc__) == ("plain", "What it does.")
        assert str(inspect.signature(repository.plain)) == "(row: 'str', *, times: 'int' = 1) -> 'str'"
    assert inspect.iscoroutinefunction(Repository.later)
    assert pool.statistics().in_use == 0


def test_a_method_that_takes_no_resource_is_refused() -> None:
    inject: Decorator = numbered().inject
    with pytest.raises(TypeError, match=r"Wrong\.read must take the resource .* as its first .* argument after self$"):

        class Wrong:  # pyright: ignore[reportUnusedClass]
            @inject
            def read(self, *, row: str) -> None: ...

    later: Decorator = numbered_later()
    with pytest.raises(TypeError, match=r"the plain function .*Blocking\.read cannot"):

        class Blocking:  # pyright: ignore[reportUnusedClass]
            @later
            def read(self, resource: int) -> None: ...


def test_a_method_takes_whatever_else_it_likes() -> None:
    pool = numbered()

    class Repository:
        @pool.inject
        def all(self, *args: object) -> tuple[object, ...]:
            return args

        @staticmethod
        @pool.inject
        def apart(resource: int, row: str) -> tuple[int, str]:
            return resource, row

    got: Any = Repository().all
    assert got("a") == (1, "a")
    assert str(inspect.signature(got)) == "(*args: 'object') -> 'tuple[object, ...]'"
    assert Repository.apart("a") == (1, "a")


def test_a_method_of_the_resource_itself_may_be_what_is_called() -> None:
    class Connection:
        def ask(self, question: str) -> tuple[object, str]:
            return type(self), question

    pool = Pool(Connection)
    assert pool.inject(Connection.ask)("why") == (Connection, "why")

    @pool.inject
    def ask(self: Connection, question: str) -> tuple[object, str]:
        return self.ask(question)

    assert ask("why not") == (Connection, "why not")


def test_functions_without_a_signature_and_with_many_arguments_are_taken_as_they_are() -> None:
    pool = numbered()
    got: Any = pool.inject(lambda *args: args)
    assert got(7) == (1, 7)
    assert str(inspect.signature(pool.inject(lambda *args: args))) == "(*args)"
    inject: Decorator = pool
    assert inject(functools.partial(max, 0))(5) == 5
    got = inject(getattr)  # one that tells nothing about its parameters
    assert got("real") == 1


def test_callables_of_other_shapes_get_a_resource_too() -> None:
    pool = numbered()

    class Service:
        async def __call__(self, resource: int, row: str) -> str:
            return f"{resource}{row}"

        def fetch(self, resource: int, row: str) -> str:
            return f"{resource}{row}"

    async def fetch(prefix: str, resource: int, row: str) -> str:
        return f"{prefix}{resource}{row}"

    async def main() -> None:
        assert await pool.inject(Service())("a") == "1a"
        assert await pool.inject(functools.partial(fetch, "x"))("a") == "x1a"

    asyncio.run(main())
    assert pool.inject(Service().fetch)("a") == "1a"
    for wrong in (staticmethod(fetch), fetch("x", 1, "a")):
        with pytest.raises(TypeError, match="cannot guard"):
            pool.inject(wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
        getattr(wrong, "close", int)()


def test_a_pool_is_the_innermost_layer_of_a_pipeline(colour: Colour) -> None:
    works = Works(colour)
    pool = works.pool(name="db")
    breaker = CircuitBreaker("db")
    retry = Retry(OSError, attempts=3, wait=tenacity.wait_none())
    pipeline = Pipeline(Timeout(20.0), retry, breaker, pool)
    seen: list[tuple[int, str]] = []

    def fetch(resource: int, row: str) -> str:
        seen.append((resource, row))
        if len(seen) < 3:
            works.broken.add(resource)
            raise ConnectionResetError
        return f"{resource}: {row}"

    assert colour.runner(pipeline(colour.function(fetch)))("a") == "3: a"
    assert seen == [(1, "a"), (2, "a"), (3, "a")]
    assert breaker.statistics().calls == 3
    assert pipeline.describe().worst_case_attempts == 3
    assert pipeline.describe().worst_case_duration == 20.0
    assert not pipeline.at_rest


def test_a_pipeline_knows_how_long_a_pool_can_wait() -> None:
    timeout = Timeout(5.0)
    assert Pipeline(numbered(max_wait=7.0), timeout).describe().worst_case_duration == 12.0
    assert Pipeline(numbered(max_wait=None), timeout).describe().worst_case_duration is None


def test_a_pool_outside_a_retry_is_warned_about() -> None:
    with pytest.warns(PipelineWarning, match=r"^\[pool-outside-retry\] A Pool outside Retry keeps its resource"):
        Pipeline(numbered(), Retry(OSError))


def test_the_layers_inside_get_the_resource_too() -> None:
    pool = numbered()
    timeout = Timeout(lambda resource, row: 5.0)

    def both(resource: int, row: str) -> tuple[int, str]:
        return resource, row

    guarded: Any = Pipeline(pool, timeout)(both)
    assert guarded("a") == (1, "a")


def test_a_task_that_is_cancelled_in_the_block_has_its_resource_closed() -> None:
    pool = numbered_later()

    @pool.inject
    async def hang(resource: int) -> None:
        await asyncio.sleep(3600.0)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await Timeout(1.0)(hang)()
        assert pool.statistics().size == 0

    run(main())
