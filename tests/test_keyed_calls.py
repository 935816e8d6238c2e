"""Keyed: the layer of a key is in use for as long as the call lasts, in every colour and for guards."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Keyed,
    KeyEvicted,
    RateLimiter,
    Timeout,
    correlated,
)
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour


def by_key(key: object) -> object:
    return key or None


def slots(key: object) -> Bulkhead:
    return Bulkhead(1, name=str(key))


def in_use(keyed: Keyed) -> int:
    return keyed.statistics().in_use


# --- in use for as long as the call lasts ----------------------------------------------------------------------------


def test_a_layer_is_in_use_during_the_call_and_not_after_whatever_happens(colour: Colour) -> None:
    keyed = Keyed(slots, key=by_key)
    seen: list[int] = []

    def body(key: str) -> Any:
        seen.append(in_use(keyed))
        if key == "bad":
            raise OSError
        return colour.sleep(1.0)

    guarded = colour.guarded(keyed, body)
    guarded("good")
    with pytest.raises(OSError) as caught:
        guarded("bad")
    assert seen == [1, 1]
    assert in_use(keyed) == 0  # although the traceback still holds the frames of the call
    assert caught.value.__traceback__ is not None


def test_a_rejected_call_does_not_keep_its_layer_in_use(colour: Colour) -> None:
    keyed = Keyed(lambda key: RateLimiter(1, 60.0), key=by_key)
    guarded = colour.guarded(keyed, lambda key: key)
    guarded("a")
    with pytest.raises(Exception, match="rate limit"):
        guarded("a")
    assert in_use(keyed) == 0


def test_a_cancelled_call_gives_its_layer_back() -> None:
    keyed = Keyed(slots, key=by_key)

    async def hang(key: str) -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        task = asyncio.ensure_future(keyed(hang)("a"))
        await asyncio.sleep(0)
        assert in_use(keyed) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert in_use(keyed) == 0
    assert keyed.at_rest


def count(key: str) -> Iterator[int]:
    yield 1
    yield 2


async def acount(key: str) -> AsyncIterator[int]:
    yield 1
    yield 2


@pytest.mark.parametrize("ending", ["exhausted", "closed", "dropped", "thrown"])
def test_a_generator_keeps_its_layer_from_the_first_step_to_its_end(clock: ManualClock, ending: str) -> None:
    keyed = Keyed(slots, key=by_key)
    items: Any = keyed(count)("a")
    assert keyed.statistics().keys == 0
    assert next(items) == 1
    assert in_use(keyed) == 1
    with pytest.raises(BulkheadFullError):
        next(keyed(count)("a"))
    if ending == "exhausted":
        assert list(items) == [2]
    elif ending == "closed":
        items.close()
    elif ending == "thrown":
        with pytest.raises(KeyError):
            items.throw(KeyError())
    else:
        del items
        gc.collect()
    assert in_use(keyed) == 0
    assert next(keyed(count)("a")) == 1


def test_an_async_generator_keeps_its_layer_from_the_first_step_to_its_end() -> None:
    keyed = Keyed(slots, key=by_key)

    async def main() -> None:
        items: Any = keyed(acount)("a")
        assert keyed.statistics().keys == 0
        assert await anext(items) == 1
        assert in_use(keyed) == 1
        await items.aclose()
        assert in_use(keyed) == 0
        assert [item async for item in keyed(acount)("a")] == [1, 2]
        assert [item async for item in keyed(acount)("")] == [1, 2]
        assert in_use(keyed) == 0

    run(main())
    assert list(keyed(count)("")) == [1, 2]
    assert keyed.statistics().created == 1


def test_an_awaitable_returned_by_a_plain_function_keeps_the_layer_until_it_is_done() -> None:
    keyed = Keyed(slots, key=by_key)

    async def work() -> str:
        await asyncio.sleep(1)
        return "done"

    async def main() -> None:
        for make in (lambda key: work(), lambda key: asyncio.ensure_future(work())):
            rest: Any = keyed(make)("a")
            assert in_use(keyed) == 1
            assert await rest == "done"
            assert in_use(keyed) == 0

    run(main())


@pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")
def test_an_awaitable_that_is_dropped_gives_the_layer_back(clock: ManualClock) -> None:
    keyed = Keyed(slots, key=by_key)

    async def work() -> None: ...

    rest = keyed(lambda key: work())("a")
    assert in_use(keyed) == 1
    del rest
    gc.collect()
    assert in_use(keyed) == 0


def test_a_result_that_no_layer_can_follow_gives_the_layer_back(clock: ManualClock) -> None:
    keyed = Keyed(lambda key: correlated, key=by_key)
    with pytest.raises(TypeError, match="returned a generator"):
        keyed(lambda key: (letter for letter in key))("a")
    assert in_use(keyed) == 0


def test_a_colour_that_the_layer_of_a_key_refuses_gives_it_back(clock: ManualClock) -> None:
    class Refusing(Bulkhead):
        def _wrap_sync(self, fn: Any) -> Any:
            raise TypeError("not this colour")

    keyed = Keyed(lambda key: Refusing(1), key=by_key)
    with pytest.raises(TypeError, match="not this colour"):
        keyed(lambda key: key)("a")
    assert in_use(keyed) == 0


# --- guards ----------------------------------------------------------------------------------------------------------


def test_a_guard_is_that_of_the_keys_policy(colour: Colour) -> None:
    keyed = Keyed(lambda key: CircuitBreaker(key, failure_threshold=2), key=by_key)
    first = keyed.guard("a")
    colour.enter(first)
    assert in_use(keyed) == 1
    first.fail(OSError())
    colour.exit(first)
    second = keyed.guard("a")
    colour.enter(second)
    colour.exit(second, OSError())
    assert in_use(keyed) == 0
    rejected = keyed.guard("a")
    with pytest.raises(CircuitOpenError, match=r"^a: "):
        colour.enter(rejected)
    assert in_use(keyed) == 0
    colour.enter(keyed.guard("b"))
    colour.enter(keyed.guard(None))
    gc.collect()
    assert in_use(keyed) == 0


def test_a_guard_hands_the_result_on(colour: Colour) -> None:
    keyed = Keyed(lambda key: CircuitBreaker(failure_threshold=1, failure_if=lambda result: result == 500), key=by_key)
    guard = keyed.guard("a")
    colour.enter(guard)
    guard.outcome(500)
    colour.exit(guard)
    with pytest.raises(CircuitOpenError):
        colour.enter(keyed.guard("a"))


def test_a_guard_is_for_one_call_and_for_policies(colour: Colour) -> None:
    keyed = Keyed(lambda key: correlated if key == "plain" else Bulkhead(1), key=by_key)
    guard = keyed.guard("a")
    colour.enter(guard)
    with pytest.raises(RuntimeError, match="entered already"):
        colour.enter(guard)
    colour.exit(guard)
    colour.exit(guard)
    with pytest.raises(TypeError, match=r"^guard\(\) needs a policy for each key, not correlated: decorate"):
        colour.enter(keyed.guard("plain"))
    assert in_use(keyed) == 0


def test_a_guard_cancelled_while_it_waits_gives_everything_back() -> None:
    keyed = Keyed(lambda key: Bulkhead(1, max_queue=1, max_wait=None), key=by_key)

    async def main() -> None:
        waiting = keyed.guard("a")

        async def wait() -> None:
            async with waiting:
                raise AssertionError

        async with keyed.guard("a"):
            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert in_use(keyed) == 0

    run(main())
    assert keyed.at_rest


def test_a_guard_of_a_timeout_cuts_the_block_off() -> None:
    keyed = Keyed(lambda key: Timeout(2.0, name=key), key=by_key)

    async def main() -> None:
        async with keyed.guard("a"):
            await asyncio.sleep(5)

    with pytest.raises(TimeoutError, match=r"^a: the call took longer than 2 s"):
        run(main())
    assert in_use(keyed) == 0


# --- idle for too long -----------------------------------------------------------------------------------------------


def test_what_is_idle_for_exactly_the_idle_time_goes_when_a_layer_is_made(clock: ManualClock) -> None:
    keyed = Keyed(slots, key=by_key, idle_ttl=10.0)
    keyed.layer("a")
    clock.advance(5.0)
    keyed.layer("b")
    with recorded_events(KeyEvicted) as events:
        clock.advance(4.9)
        keyed.layer("c")
        assert events == []
        clock.advance(0.1)
        keyed.layer("d")
    assert [(event.key, event.reason) for event in events] == [("a", "idle")]


def test_what_goes_because_it_was_idle_makes_room_enough(clock: ManualClock) -> None:
    keyed = Keyed(slots, key=by_key, max_keys=2, idle_ttl=10.0)
    keyed.layer("a")
    clock.advance(5.0)
    keyed.layer("b")
    clock.advance(6.0)
    with recorded_events(KeyEvicted) as events:
        keyed.layer("c")
    assert [(event.key, event.reason) for event in events] == [("a", "idle")]
