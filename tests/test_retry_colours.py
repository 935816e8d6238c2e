"""Retry in every colour: loops, generators, and plain functions that return something to await."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any

import pytest
import tenacity

from resilience import Retry, RetryBudget
from resilience.correlation import attempt_number
from resilience.testing import ManualClock, Script, run
from tests.conftest import Colour
from tests.test_retry import NOW

PAUSE = tenacity.wait_fixed(1)


def looped(colour: Colour, retry: Retry, script: Script, judged: bool = False) -> Any:
    """The script in the body of a loop of this colour."""
    if not colour.is_async:
        result = None
        for attempt in retry:
            with attempt:
                assert attempt.number == attempt_number()
                result = script()
                if judged:
                    attempt.set_result(result)
        return result

    async def main() -> Any:
        result = None
        async for attempt in retry:
            with attempt:
                assert attempt.number == attempt_number()
                result = script()
                if judged:
                    attempt.set_result(result)
        return result

    return colour.run(main())


# --- loops -----------------------------------------------------------------------------------------------------------


def test_a_loop_repeats_its_block_until_it_succeeds(colour: Colour) -> None:
    script = Script([OSError(), OSError(), "good"])
    assert looped(colour, Retry(OSError, wait=PAUSE), script) == "good"
    assert len(script.calls) == 3
    assert colour.clock.now() == 1002.0


def test_a_loop_lets_the_last_error_out_with_its_notes(colour: Colour) -> None:
    error = OSError()
    with pytest.raises(OSError) as caught:
        looped(colour, Retry(OSError, wait=NOW, attempts=2), Script([error]))
    assert caught.value is error
    assert len(error.__notes__) == 2


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_loop_lets_everything_else_out_at_once(clock: ManualClock, kind: type[BaseException]) -> None:
    script = Script([kind])
    with pytest.raises(kind):
        for attempt in Retry(lambda error: not isinstance(error, ValueError), wait=NOW):
            with attempt:
                script()
    assert len(script.calls) == 1


def test_a_loop_judges_the_result_it_is_shown(colour: Colour) -> None:
    retry = Retry(OSError, wait=NOW, retry_if=lambda result: result != "good")
    assert looped(colour, retry, Script(["bad", "good", "never"]), judged=True) == "good"
    assert looped(colour, retry, Script(["bad"]), judged=True) == "bad"
    assert looped(colour, retry, Script(["bad", "never"])) == "bad"
    assert looped(colour, Retry(OSError, wait=NOW), Script(["bad", "never"]), judged=True) == "bad"
    assert retry.statistics().given_up == 1


def test_a_loop_deposits_its_first_attempt(colour: Colour) -> None:
    budget = RetryBudget()
    looped(colour, Retry(OSError, wait=NOW, budget=budget), Script([OSError(), "good"]))
    account = budget.statistics()
    assert (account.deposits, account.withdrawals) == (1, 1)


def test_a_loop_whose_block_is_missing_or_entered_twice_says_so(clock: ManualClock) -> None:
    retry = Retry(OSError, wait=NOW)
    with pytest.raises(RuntimeError, match="with attempt"):
        for _ in retry:
            pass
    attempts = iter(retry)
    assert iter(attempts) is attempts
    attempt = next(attempts)
    assert repr(attempt) == "<Attempt 1 of 3>"
    with attempt:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        attempt.__enter__()


def test_an_async_loop_needs_asyncio(clock: ManualClock) -> None:
    with pytest.raises(RuntimeError, match="asyncio only"):
        aiter(Retry(OSError))


def test_a_loop_left_early_leaves_nothing_behind(clock: ManualClock) -> None:
    """`async for` over an async generator that is left by `return` or an error needs a task to finalise it."""

    async def main() -> None:
        retry = Retry(OSError, wait=NOW)
        attempts = aiter(retry)
        assert aiter(attempts) is attempts
        made: list[Any] = []

        def factory(loop: Any, coroutine: Any, **settings: Any) -> asyncio.Task[Any]:
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **settings)

        asyncio.get_running_loop().set_task_factory(factory)
        for _ in range(3):
            async for attempt in retry:
                with attempt:
                    break
            with pytest.raises(ValueError):
                async for attempt in retry:
                    with attempt:
                        raise ValueError
        gc.collect()
        await asyncio.sleep(0)
        assert made == []
        asyncio.get_running_loop().set_task_factory(None)

    run(main(), clock)


# --- generators ------------------------------------------------------------------------------------------------------


def items(colour: Colour, layer: Retry, script: Script) -> list[Any]:
    """What a generator of this colour yields that plays the script for its first item, and then goes on with two more.

    An item `StopIteration` ends it empty.
    """

    def generator() -> Iterator[Any]:
        first = script()
        if first is StopIteration:
            return
        yield first
        yield attempt_number()
        if first == "breaks":
            raise OSError("late")
        yield "last"

    async def async_generator() -> AsyncIterator[Any]:
        for item in generator():
            await asyncio.sleep(0)
            yield item

    seen: list[Any] = []

    async def main() -> None:
        async for item in layer(async_generator)():
            seen.append(item)  # noqa: PERF401 - what came before an error counts

    try:
        if colour.is_async:
            colour.run(main())
        else:
            for item in layer(generator)():
                seen.append(item)  # noqa: PERF402
    except OSError as error:
        seen.append(str(error))
    return seen


def test_a_generator_is_repeated_before_its_first_item(colour: Colour) -> None:
    script = Script([OSError(), OSError(), "good"])
    assert items(colour, Retry(OSError, wait=PAUSE), script) == ["good", 3, "last"]
    assert colour.clock.now() == 1002.0


def test_a_generator_is_never_repeated_after_its_first_item(colour: Colour) -> None:
    script = Script([OSError(), "breaks"])
    assert items(colour, Retry(OSError, wait=NOW), script) == ["breaks", 2, "late"]
    assert len(script.calls) == 2


def test_a_generator_may_be_empty_and_may_fail_for_good(colour: Colour) -> None:
    assert items(colour, Retry(OSError, wait=NOW), Script([lambda: StopIteration])) == []
    assert items(colour, Retry(OSError, wait=NOW), Script([OSError("always")])) == ["always"]


def test_a_generator_is_sent_thrown_and_closed_through_the_retry(clock: ManualClock) -> None:
    seen: list[Any] = []
    script = Script([OSError(), None])

    @Retry(OSError, wait=NOW)
    def echo() -> Generator[Any, Any, str]:
        script()
        try:
            sent = yield "ready"
            try:
                yield f"got {sent}"
            except KeyError:
                yield "caught"
            return "returned"
        finally:
            seen.append("closed")

    talk = echo()
    assert next(talk) == "ready"
    assert talk.send("hello") == "got hello"
    assert talk.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(talk)
    assert stop.value.value == "returned"
    talk = echo()
    next(talk)
    talk.close()
    assert seen == ["closed", "closed"]
    assert attempt_number() == 1


def test_an_empty_generator_returns_its_value(clock: ManualClock) -> None:
    def empty() -> Generator[Any, Any, str]:
        return "value"
        yield

    with pytest.raises(StopIteration) as stop:
        next(Retry(OSError, wait=NOW)(empty)())
    assert stop.value.value == "value"


def test_an_async_generator_is_sent_thrown_and_closed_through_the_retry(clock: ManualClock) -> None:
    seen: list[Any] = []
    script = Script([OSError(), None])

    @Retry(OSError, wait=NOW)
    async def echo() -> AsyncGenerator[Any, Any]:
        script()
        try:
            sent = yield "ready"
            try:
                yield f"got {sent}"
            except KeyError:
                yield "caught"
        finally:
            seen.append("closed")

    async def main() -> None:
        talk = echo()
        assert await anext(talk) == "ready"
        assert await talk.asend("hello") == "got hello"
        assert await talk.athrow(KeyError()) == "caught"
        assert await anext(talk, "over") == "over"
        talk = echo()
        await anext(talk)
        await talk.aclose()
        assert seen == ["closed", "closed"]
        assert attempt_number() == 1

    run(main(), clock)


# --- plain functions that return something to await ------------------------------------------------------------------


def playing(script: Script, style: str) -> Any:
    """A plain function that plays the script inside what it returns: a coroutine, a Task or a Future."""

    def fn() -> Any:
        if style == "coroutine":
            return script.asynchronous()
        if style == "task":
            return asyncio.ensure_future(script.asynchronous())
        future = asyncio.get_running_loop().create_future()
        try:
            future.set_result(script())
        except OSError as error:
            future.set_exception(error)
        return future

    return fn


@pytest.mark.parametrize("style", ["coroutine", "task", "future"])
@pytest.mark.parametrize("settings", [{}, {"stop": tenacity.stop_never}, {"retry_if": lambda result: result == "bad"}])
def test_what_a_plain_function_returns_is_awaited_and_repeated(
    clock: ManualClock, style: str, settings: dict[str, Any]
) -> None:
    async def main() -> None:
        def retry(**more: Any) -> Retry:
            return Retry(OSError, wait=PAUSE, **settings, **more)

        budget = RetryBudget()
        script = Script([OSError(), "bad", "good"])
        answer = retry(budget=budget)(playing(script, style))()
        assert asyncio.isfuture(answer) is (style != "coroutine")
        assert await answer == ("good" if "retry_if" in settings else "bad")
        assert budget.statistics().deposits == 1
        assert budget.statistics().withdrawals == len(script.calls) - 1
        error = OSError()
        with pytest.raises(OSError) as caught:
            await retry()(playing(Script([error]), style))()
        assert caught.value is error
        assert len(error.__notes__) == 3
        with pytest.raises(ValueError):
            await retry()(playing(Script([ValueError]), "coroutine"))()

    run(main(), clock)


def test_a_plain_function_may_fail_before_it_returns_a_coroutine_and_may_stop_doing_so(clock: ManualClock) -> None:
    async def failing() -> None:
        raise OSError

    async def main() -> None:
        script = Script([OSError(), failing, "plain"])
        assert await Retry(OSError, wait=NOW)(script.sync)() == "plain"
        assert len(script.calls) == 3

    run(main(), clock)


def test_attempts_of_a_returned_coroutine_are_numbered(clock: ManualClock) -> None:
    seen: list[int] = []

    async def failing() -> None:
        seen.append(attempt_number())
        raise OSError

    def returning() -> Any:
        return failing()

    async def main() -> None:
        inner = Retry(OSError, wait=NOW, attempts=2)(returning)
        with pytest.raises(OSError):
            await Retry(OSError, wait=NOW, attempts=2)(inner)()

    run(main(), clock)
    assert seen == [1, 2, 1, 2]


@pytest.mark.parametrize("settings", [{}, {"stop": tenacity.stop_never}])
def test_what_could_not_be_repeated_is_refused_when_it_appears(clock: ManualClock, settings: dict[str, Any]) -> None:
    """B14: a decorator that does not understand what it got must say so."""
    calls: list[int] = []

    def fn() -> Any:
        calls.append(1)
        return (call for call in calls)

    with pytest.raises(TypeError, match="returned a generator"):
        Retry(Exception, wait=NOW, **settings)(fn)()
    assert calls == [1]


def test_concurrent_calls_keep_their_attempts_apart(clock: ManualClock) -> None:
    """R1: tenacity's shared AsyncRetrying mixed the attempts of concurrent calls."""
    counts: dict[int, int] = {}

    async def body(call: int) -> int:
        counts[call] = counts.get(call, 0) + 1
        assert attempt_number() == counts[call]
        await clock.asleep(0.1 * call)
        if counts[call] < 3:
            raise OSError
        return call

    async def main() -> list[int]:
        guarded = Retry(OSError, wait=PAUSE)(body)
        return await asyncio.gather(*(guarded(call) for call in range(20)))

    assert run(main(), clock) == list(range(20))
    assert set(counts.values()) == {3}
