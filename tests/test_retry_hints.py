"""Retry-After, and what runs between two attempts."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import tenacity

from resilience import CircuitBreaker, Retry, Timeout
from resilience.correlation import FURTHER, attempt_id, attempt_number, bound, correlation_id
from resilience.events import RetryScheduled
from resilience.testing import ManualClock, Script, recorded_events, run
from tests.conftest import Colour
from tests.sweep import Ending, sweep
from tests.test_retry import NOW, attempts_made


class HintError(Exception):
    """An error that knows when to come back."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__()
        self.retry_after = retry_after


class Hint:
    """A result that knows when to come back."""

    retry_after = 4.0


# --- how long to wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hint", [1, 2.5, 30, timedelta(seconds=3)])
def test_an_attempt_never_comes_earlier_than_asked(colour: Colour, hint: Any) -> None:
    """R5: nopanic and httpx-retries clamp the wait down and come back too early."""
    asked = hint.total_seconds() if isinstance(hint, timedelta) else hint
    for _ in range(20):
        attempts_made(colour, Retry(HintError, wait=NOW, attempts=2), [HintError(hint)])
    waits = colour.clock.sleeps
    assert len(set(waits)) == 20
    assert all(asked <= wait <= asked + min(0.1 * asked, 1.0) for wait in waits)


def test_a_longer_backoff_covers_the_wish(colour: Colour) -> None:
    attempts_made(colour, Retry(HintError, wait=tenacity.wait_fixed(9), attempts=2), [HintError(3)])
    assert colour.clock.sleeps == [9.0]


@pytest.mark.parametrize(
    "hint", [None, 0, 0.0, -1, math.nan, math.inf, -math.inf, True, "5", b"5", object(), 10**400, -(10**400), [5]]
)
def test_an_absurd_wish_is_ignored(colour: Colour, hint: Any) -> None:
    """An int too large for a float once raised OverflowError in place of the user's exception."""
    assert attempts_made(colour, Retry(HintError, wait=tenacity.wait_fixed(1)), [HintError(hint)]) == 3
    assert attempts_made(colour, Retry(OSError, wait=NOW, retry_after=lambda outcome: hint), [OSError()]) == 3
    assert colour.clock.sleeps == [1.0, 1.0]


def test_a_wish_beyond_the_limit_ends_the_call_now(colour: Colour) -> None:
    retry = Retry(HintError, wait=NOW, retry_after_limit=timedelta(seconds=5))
    assert attempts_made(colour, retry, [HintError(5.001)]) == 1
    assert attempts_made(colour, retry, [HintError(1e300)]) == 1
    assert attempts_made(colour, retry, [HintError(5)]) == 3
    assert attempts_made(colour, Retry(HintError, wait=NOW, retry_after_limit=0), [HintError(0.1)]) == 1


def test_a_wish_beyond_the_deadline_ends_the_call_now(colour: Colour) -> None:
    def made(seconds: float, hint: float, wait: float = 0.0) -> int:
        script = Script([HintError(hint)])
        retry = Retry(HintError, wait=tenacity.wait_fixed(wait), attempts=2)
        with pytest.raises(HintError):
            colour.runner(Timeout(seconds)(retry(colour.function(script))))()
        return len(script.calls)

    assert made(5.0, 6.0) == 1
    assert made(5.0, 5.0) == 1
    assert made(5.0, 4.9) == 2  # perhaps without the jitter
    assert made(5.0, 1.0, wait=6.0) == 1  # the backoff does not fit, whatever the server asks for
    assert made(5.0, 4.9, wait=4.95) == 2


class Loaded(random.Random):
    """Chance that always falls at the far end of a range."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_jitter_that_does_not_fit_the_deadline_is_left_out(colour: Colour) -> None:
    retry = Retry(HintError, wait=NOW, attempts=2, rng=Loaded())
    for seconds in (5.0, 5.4):
        with pytest.raises(HintError):
            colour.runner(Timeout(seconds)(retry(colour.function(Script([HintError(4.9)])))))()
    assert colour.clock.sleeps == [4.9, pytest.approx(5.39)]


def test_the_extractor_speaks_first_and_the_outcome_itself_otherwise(colour: Colour) -> None:
    def extract(outcome: Any) -> float | None:
        return 7.0 if isinstance(outcome, OSError) else None

    retry = Retry((HintError, OSError), wait=NOW, attempts=2, retry_after=extract, retry_if=lambda r: r is not None)
    attempts_made(colour, retry, [OSError()])
    attempts_made(colour, retry, [HintError(3)])
    attempts_made(colour, retry, [Hint(), Hint()])
    waits = colour.clock.sleeps
    assert len(waits) == 3
    assert [math.floor(wait) for wait in waits] == [7, 3, 4]


# --- before_retry ----------------------------------------------------------------------------------------------------


def test_preparations_run_after_the_pause_and_before_each_further_attempt(colour: Colour) -> None:
    seen: list[Any] = []
    error = OSError()

    def body() -> Any:
        seen.append("attempt")
        raise error

    def prepare() -> None:
        seen.append(colour.clock.now())

    with pytest.raises(OSError):
        colour.guarded(Retry(OSError, wait=tenacity.wait_fixed(1), before_retry=prepare), body)()
    assert seen == ["attempt", 1001.0, "attempt", 1002.0, "attempt"]


@pytest.mark.parametrize("style", ["one", "any", "optional"])
def test_preparations_may_hear_what_is_going_on(colour: Colour, style: str) -> None:
    heard: list[Any] = []
    takers: dict[str, Callable[..., Any]] = {
        "one": heard.append,
        "any": lambda *args: heard.extend(args),
        "optional": lambda event=None: heard.append(event),
    }
    error = OSError()
    retry = Retry(OSError, wait=tenacity.wait_fixed(1), attempts=2, before_retry=takers[style], name="n")
    attempts_made(colour, retry, [error])
    assert heard == [RetryScheduled(policy="n", time=1000.0, attempt=1, wait=1.0, error=error)]


def test_preparations_without_a_signature_are_called_with_nothing(colour: Colour) -> None:
    seen: dict[str, int] = {}
    retry = Retry(OSError, wait=NOW, attempts=2, before_retry=seen.clear)
    assert attempts_made(colour, retry, [OSError()]) == 2
    assert attempts_made(colour, Retry(OSError, wait=NOW, attempts=2, before_retry=dict), [OSError()]) == 2


def test_preparations_may_be_asynchronous_for_tasks(clock: ManualClock) -> None:
    seen: list[str] = []

    async def prepare() -> None:
        await clock.asleep(1.0)
        seen.append("prepared")

    script = Script([OSError(), "good"])
    assert run(Retry(OSError, wait=NOW, before_retry=prepare)(script.asynchronous)(), clock) == "good"
    assert seen == ["prepared"]
    assert clock.now() == 1001.0


def test_asynchronous_preparations_of_a_plain_function_are_refused(clock: ManualClock) -> None:
    async def prepare() -> None: ...

    retry = Retry(OSError, wait=NOW, before_retry=prepare)
    with pytest.raises(TypeError, match="before_retry is asynchronous"):
        retry(lambda: None)

    def generator() -> Any:
        yield 1

    with pytest.raises(TypeError, match="before_retry is asynchronous"):
        retry(generator)

    def disguised() -> Any:
        return prepare()

    hidden = Retry(OSError, wait=NOW, before_retry=disguised)
    with pytest.raises(TypeError, match="before_retry is asynchronous"):
        hidden(Script([OSError]).sync)()
    with asyncio.Runner() as runner:
        future = runner.get_loop().create_future()
        future.set_result(None)
        with pytest.raises(TypeError, match="before_retry is asynchronous"):
            Retry(OSError, wait=NOW, before_retry=lambda: future)(Script([OSError]).sync)()


def test_preparations_that_fail_end_the_call(colour: Colour) -> None:
    def prepare() -> None:
        raise KeyError("no token")

    script = Script([OSError()])
    with pytest.raises(KeyError, match="no token"):
        colour.guarded(Retry(OSError, wait=NOW, before_retry=prepare), script)()
    assert len(script.calls) == 1


# --- context ---------------------------------------------------------------------------------------------------------


def test_attempts_are_numbered_and_share_the_correlation_id(colour: Colour) -> None:
    seen: list[Any] = []

    def body() -> Any:
        seen.append((attempt_number(), attempt_id(), correlation_id()))
        raise OSError

    for retry in (Retry(OSError, wait=NOW), Retry(OSError, wait=NOW, stop=tenacity.stop_never)):
        with bound("request"), recorded_events() as events, pytest.raises(OSError):
            colour.guarded(retry, body)()
        assert seen == [(n, f"request-{n}", "request") for n in (1, 2, 3)]
        assert {event.correlation_id for event in events} == {"request"}
        assert attempt_number() == 1
        seen.clear()


def test_a_retry_within_a_retry_counts_for_itself(colour: Colour) -> None:
    """The first attempt of an inner Retry once had the number of the outer attempt, and with it its id."""
    seen: list[int] = []

    def body() -> Any:
        seen.append(attempt_number())
        raise OSError

    inner = Retry(OSError, wait=NOW, attempts=2)
    outer = Retry(OSError, wait=NOW, attempts=3)
    with pytest.raises(OSError):
        colour.runner(outer(inner(colour.function(body))))()
    assert seen == [1, 2, 1, 2, 1, 2]


def test_no_call_has_to_ask_for_its_attempt_while_all_are_first_ones(colour: Colour) -> None:
    """Whoever retries nothing does not pay for numbering; blocks may well have numbered their first attempts."""
    before, seen = len(FURTHER), []

    def body() -> Any:
        seen.append(len(FURTHER) - before)
        raise OSError

    with pytest.raises(OSError):
        colour.guarded(Retry(OSError, wait=NOW), body)()
    attempts: list[int] = []
    for attempt in Retry(OSError, wait=NOW, attempts=2):
        with attempt:
            attempts.append(len(FURTHER) - before)
            if len(attempts) == 1:
                raise OSError
    assert (seen, attempts, len(FURTHER)) == ([0, 1, 1], [0, 1], before)


def test_what_a_further_attempt_has_left_running_belongs_to_no_attempt(clock: ManualClock) -> None:
    """A task started by the second attempt keeps its context, but when the attempt is over the number means nothing."""
    seen: list[int] = []
    before = len(FURTHER)  # blocks that other tests have entered and, on purpose, never left
    inner = Retry(OSError, wait=NOW)

    @inner
    async def note() -> None:
        seen.append(attempt_number())

    async def background(gate: asyncio.Event) -> None:
        seen.append(attempt_number())
        await note()
        await gate.wait()
        seen.append(attempt_number())
        await note()

    async def main() -> None:
        gate, tasks = asyncio.Event(), []

        @Retry(OSError, wait=NOW)
        async def call() -> None:
            if attempt_number() == 1:
                raise OSError
            tasks.append(asyncio.ensure_future(background(gate)))
            await asyncio.sleep(1.0)

        await call()
        gate.set()
        await asyncio.gather(*tasks)

    run(main(), clock)
    assert seen == [2, 1, 1, 1]
    assert len(FURTHER) == before


def test_a_breaker_around_does_not_count_the_pauses_as_slowness(colour: Colour) -> None:
    breaker = CircuitBreaker(slow_call_duration=5.0, slow_call_rate=0.5, minimum_calls=1, failure_rate=None)
    retry = Retry(OSError, wait=tenacity.wait_fixed(10))
    script = Script([OSError(), OSError(), "good"])
    assert colour.runner(breaker(retry(colour.function(script))))() == "good"
    assert colour.clock.now() == 1020.0
    assert breaker.state.value == "closed"


def test_a_plain_function_that_pauses_in_a_loop_warns_once(clock: ManualClock) -> None:
    guarded = Retry(OSError, wait=tenacity.wait_fixed(1))(Script([OSError]).sync)

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="async def"), pytest.raises(OSError):
            guarded()

    run(main(), clock)


# --- cancellation ----------------------------------------------------------------------------------------------------


def test_a_retry_cancelled_anywhere_ends_there_and_leaves_nothing() -> None:
    def scenario(clock: ManualClock) -> Any:
        calls: list[float] = []

        async def body() -> str:
            calls.append(clock.now())
            await clock.asleep(1.0)
            if len(calls) < 3:
                raise OSError
            return "good"

        async def prepare(event: RetryScheduled) -> None:
            await clock.asleep(0.5)

        retry = Retry(OSError, wait=tenacity.wait_fixed(2), before_retry=prepare, clock=clock)
        return retry(body)(), (retry, calls)

    def check(ending: Ending[tuple[Retry, list[float]]]) -> None:
        retry, calls = ending.state
        if ending.error is None:
            assert ending.result == "good"
        else:
            assert isinstance(ending.error, asyncio.CancelledError)
            # attempt 1, pause, preparation, attempt 2, pause, preparation, attempt 3
            assert len(calls) == [1, 1, 1, 2, 2, 2, 3][ending.point - 1]
        assert ending.clock.next_timer() == math.inf
        assert attempt_number() == 1
        assert retry.statistics().given_up == 0

    assert sweep(scenario, check) == 14
