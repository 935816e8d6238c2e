"""Retry's strategies: every wait and every stop of tenacity, and the default backoff."""

from __future__ import annotations

import random
import re
from datetime import timedelta
from typing import Any

import pytest
import tenacity
import tenacity.wait

from resilience import CircuitOpenError, Retry, _arguments
from resilience._attempts import Run, looks_at_times
from resilience.events import RetryScheduled
from resilience.testing import ManualClock, Script, recorded_events
from tests.conftest import Colour
from tests.test_retry import NOW, attempts_made


def pauses(colour: Colour, retry: Retry, entries: list[Any]) -> list[float]:
    attempts_made(colour, retry, entries)
    return colour.clock.sleeps


# --- waits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wait,expected",
    [
        (tenacity.wait_fixed(2), [2, 2, 2]),
        (tenacity.wait_fixed(timedelta(seconds=2)), [2, 2, 2]),
        (tenacity.wait_incrementing(1, 2), [1, 3, 5]),
        (tenacity.wait_exponential(multiplier=1, max=3), [1, 2, 3]),
        (tenacity.wait_fixed(1) + tenacity.wait_exponential(multiplier=1), [2, 3, 5]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5)), [1, 5, 5]),
        (tenacity.wait_combine(tenacity.wait_fixed(1), tenacity.wait_fixed(2)), [3, 3, 3]),
        (tenacity.wait_exponential_jitter(initial=1, jitter=0), [1, 2, 4]),
        (tenacity.wait.wait_exception(lambda error: error.args[0]), [7, 7, 7]),
        (lambda state: state.attempt_number + state.idle_for, [1, 3, 7]),
        (lambda state: -1.0, []),
    ],
)
def test_every_wait_of_tenacity_works(colour: Colour, wait: Any, expected: list[float]) -> None:
    assert pauses(colour, Retry(OSError, attempts=4, wait=wait), [OSError(7)]) == expected


def test_a_wait_below_zero_is_none_at_all(colour: Colour) -> None:
    with recorded_events(RetryScheduled) as events:
        attempts_made(colour, Retry(OSError, wait=lambda state: -5.0, attempts=2), [OSError()])
    assert [event.wait for event in events] == [0.0]


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), None, "soon", timedelta(1), 10**400], ids=type)
def test_a_wait_that_is_no_time_is_an_error_that_names_it(colour: Colour, answer: Any) -> None:
    retry = Retry(OSError, wait=lambda state: answer)
    told = re.escape(_arguments.shown(answer))
    with pytest.raises(ValueError, match=rf"^wait must return seconds; <function .* returned {told}$"):
        colour.guarded(retry, Script([OSError]))()


@pytest.mark.parametrize(
    "around",
    [
        lambda wait: wait,
        lambda wait: tenacity.wait_combine(tenacity.wait_none(), wait),
        lambda wait: tenacity.wait_chain(tenacity.wait_chain(wait)),
    ],
    ids=["itself", "combined", "chained"],
)
def test_a_wait_may_look_at_how_long_the_call_has_run(colour: Colour, around: Any) -> None:
    """The first attempt is part of the call, though nothing is kept of it in the common case."""
    began, ages = colour.clock.now(), []

    def wait(retry_state: tenacity.RetryCallState) -> float:
        ages.append((retry_state.start_time - began, retry_state.seconds_since_start))
        return 2.0

    def attempt() -> None:
        colour.clock.advance(8.0)
        raise OSError

    with pytest.raises(OSError):
        colour.guarded(Retry(OSError, wait=around(wait)), Script([attempt]))()
    assert ages == [(0.0, 8.0), (0.0, 18.0)]


def test_the_usual_waits_keep_nothing_of_a_first_attempt() -> None:
    usual = tenacity.wait_fixed(1) + tenacity.wait_random(0, 1)
    for wait in (usual, tenacity.wait_chain(usual, tenacity.wait_none()), Retry(OSError)._wait):
        assert not looks_at_times(wait)


def test_the_default_wait_is_full_jitter_without_a_point_of_its_own(colour: Colour) -> None:
    """R4 and R9: at the cap, stamina and tenacity make every client wait exactly that long; others retry at once."""
    retry = Retry(OSError, attempts=40, rng=random.Random(1))
    waited = pauses(colour, retry, [OSError()])
    assert len(set(waited)) == 39
    assert all(0.0 <= wait <= 5.0 for wait in waited)
    assert max(waited[:3]) <= 0.4
    late = sorted(waited[8:])
    assert late[0] < 1.5
    assert late[-1] > 3.5


def test_the_chance_of_two_retries_differs_unless_it_is_given(colour: Colour) -> None:
    first = pauses(colour, Retry(OSError, rng=random.Random(7)), [OSError()])[:]
    again = pauses(colour, Retry(OSError, rng=random.Random(7)), [OSError()])[2:]
    other = pauses(colour, Retry(OSError), [OSError()])[4:]
    assert first == again != other


@pytest.mark.parametrize("number", [1, 2, 64, 1024, 10**4, 10**6])
def test_no_attempt_number_is_too_high_for_the_arithmetic(clock: ManualClock, number: int) -> None:
    """R11: Polly (#2163) and cockatiel (#86) overflow, or wait NaN, at high attempts."""
    run = Run(Retry(OSError, attempts=10**6 + 1), None, (), {})
    run.number = number
    wait = run.failed(OSError())
    assert wait is not None
    assert 0.0 <= wait <= 5.0


# --- stops -----------------------------------------------------------------------------------------------------------


def test_stop_after_delay_counts_from_the_beginning_of_the_call(colour: Colour) -> None:
    retry = Retry(OSError, attempts=9, wait=tenacity.wait_fixed(2), stop=tenacity.stop_after_delay(5))
    calls: list[float] = []

    def slow() -> Any:
        calls.append(colour.clock.now())
        return colour.sleep(1.0, None)

    retry_if = retry.with_(retry_if=lambda result: result is None)
    assert colour.guarded(retry_if, slow)() is None
    assert calls == [1000.0, 1003.0, 1006.0]  # at 1004 four seconds had passed, at 1007 more than five
    assert attempts_made(colour, retry, [OSError()]) == 4  # 0, 2, 4, 6


@pytest.mark.parametrize(
    "stop,attempts",
    [
        (tenacity.stop_after_attempt(2), 2),
        (tenacity.stop_after_attempt(2) | tenacity.stop_after_delay(100), 2),
        (tenacity.stop_after_attempt(2) & tenacity.stop_after_delay(6), 4),
        (tenacity.stop_never, 9),
        (tenacity.stop_after_delay(6), 4),
        (tenacity.stop_before_delay(6), 3),
        (tenacity.stop_after_attempt(8) | tenacity.stop_before_delay(6), 3),
        (tenacity.stop_before_delay(6) & tenacity.stop_after_attempt(5), 5),
        (lambda state: state.attempt_number == 3, 3),
    ],
)
def test_every_stop_of_tenacity_works(colour: Colour, stop: Any, attempts: int) -> None:
    retry = Retry(OSError, attempts=9, wait=tenacity.wait_fixed(2), stop=stop)
    assert attempts_made(colour, retry, [OSError()]) == attempts


def test_the_time_of_the_first_attempt_counts_for_the_stop(colour: Colour) -> None:
    calls: list[float] = []

    def body() -> Any:
        calls.append(colour.clock.now())
        colour.clock.advance(3.0)
        raise OSError

    with pytest.raises(OSError):
        colour.guarded(Retry(OSError, wait=NOW, stop=tenacity.stop_after_delay(3)), body)()
    assert calls == [1000.0]


def test_a_long_wait_that_is_over_does_not_count_as_a_coming_one(colour: Colour) -> None:
    retry = Retry(
        OSError, wait=lambda state: 5.0 if state.attempt_number == 1 else 0.0, stop=tenacity.stop_before_delay(6)
    )
    assert attempts_made(colour, retry, [OSError()]) == 3


def test_a_stop_is_asked_before_the_wait_and_neither_after_the_last_attempt(colour: Colour) -> None:
    """R13: tenacity computes a wait for an attempt that will never come, and charges it."""
    asked: list[str] = []

    def wait(state: tenacity.RetryCallState) -> float:
        asked.append(f"wait {state.attempt_number}")
        return 0.0

    def stop(state: tenacity.RetryCallState) -> bool:
        asked.append(f"stop {state.attempt_number}")
        return False

    attempts_made(colour, Retry(OSError, wait=wait, stop=stop), [OSError()])
    assert asked == ["stop 1", "wait 1", "stop 2", "wait 2"]


def test_the_strategies_see_the_call_as_tenacity_shows_it(colour: Colour) -> None:
    seen: list[Any] = []

    def look(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        seen.append((state.fn, state.args, state.kwargs, state.attempt_number, state.outcome.failed))
        return 0.0

    def body(*args: int, **kwargs: int) -> int:
        raise OSError

    retry = Retry(OSError, wait=look)
    fn = colour.function(body)
    with pytest.raises(OSError):
        colour.runner(retry(fn))(1, two=2)
    assert seen == [(fn, (1,), {"two": 2}, 1, True), (fn, (1,), {"two": 2}, 2, True)]


def test_a_rejection_is_waited_out_in_full(colour: Colour) -> None:
    retry = Retry(OSError, wait=NOW, retry_rejections=True, attempts=2)
    assert pauses(colour, retry, [CircuitOpenError("breaker", 4.0)])[0] >= 4.0
