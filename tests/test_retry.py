"""Retry: which outcomes are repeated, what tenacity's vocabulary does, and what comes out in the end."""

from __future__ import annotations

import asyncio
import traceback
from dataclasses import dataclass
from typing import Any

import pytest
import tenacity

from resilience import (
    BulkheadFullError,
    CallRejectedError,
    CircuitOpenError,
    DeadlineExceededError,
    Retry,
    RetryBudget,
    Timeout,
)
from resilience.events import RetryScheduled, RetryStopped
from resilience.testing import ManualClock, Script, recorded_events
from tests.conftest import Colour

NOW = tenacity.wait_none()


def attempts_made(colour: Colour, retry: Retry, entries: list[Any]) -> int:
    """How often the script was played until the call ended, in whatever way."""
    script = Script(entries)
    caught = None
    try:
        colour.guarded(retry, script)()
    except BaseException as error:
        caught = error
    assert caught is None or any(caught is entry or type(caught) is entry for entry in entries)
    return len(script.calls)


# --- which exceptions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "on,error,attempts",
    [
        (OSError, OSError(), 3),
        (OSError, ConnectionError(), 3),
        (OSError, ValueError(), 1),
        ((OSError, ValueError), ValueError(), 3),
        (lambda error: "again" in str(error), ValueError("again"), 3),
        (lambda error: "again" in str(error), ValueError("no"), 1),
        (tenacity.retry_if_exception_type(OSError), OSError(), 3),
        (tenacity.retry_if_exception_type(OSError), ValueError(), 1),
        (tenacity.retry_if_exception_message(match="a.*"), ValueError("again"), 3),
        (tenacity.retry_if_exception_message(match="a.*"), ValueError("never"), 1),
        (tenacity.retry_if_not_exception_type(OSError), OSError(), 1),
        (tenacity.retry_if_not_exception_type(OSError), ValueError(), 3),
        (tenacity.retry_unless_exception_type(OSError), OSError(), 1),
        (tenacity.retry_unless_exception_type(OSError), ValueError(), 3),
        (tenacity.retry_any(tenacity.retry_if_exception_type(OSError), tenacity.retry_never), OSError(), 3),
        (tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_exception_type(KeyError), KeyError(), 3),
        (tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_exception_message(match="x"), OSError("y"), 1),
        (tenacity.retry_if_exception_type(OSError) & tenacity.retry_if_exception_message(match="x"), OSError("x"), 3),
    ],
)
def test_on_names_the_exceptions_that_are_repeated(colour: Colour, on: Any, error: Exception, attempts: int) -> None:
    assert attempts_made(colour, Retry(on, wait=NOW), [error]) == attempts


@pytest.mark.parametrize(
    "on,results,final",
    [
        (tenacity.retry_if_result(lambda result: result < 3), [1, 2, 3, 4], 3),
        (tenacity.retry_if_not_result(lambda result: result == 3), [1, 2, 3], 3),
        (tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(lambda result: result < 2), [1, 2], 2),
        (tenacity.retry_if_result(lambda result: result < 9), [1, 2, 3, 4], 3),
        (tenacity.retry_unless_exception_type(OSError), [1, OSError()], OSError),
        (tenacity.retry_if_exception_type(OSError), [1, 2], 1),
    ],
)
def test_a_tenacity_condition_sees_results_too(colour: Colour, on: Any, results: list[Any], final: Any) -> None:
    guarded = colour.guarded(Retry(on, wait=NOW), Script(results))
    if final is OSError:
        with pytest.raises(OSError):
            guarded()
    else:
        assert guarded() == final


def test_retry_if_repeats_an_unwanted_result_and_returns_the_last_one(colour: Colour) -> None:
    retry = Retry(OSError, wait=NOW, retry_if=lambda result: result != "good")
    script = Script(["first", "second", "third", "good"])
    assert colour.guarded(retry, script)() == "third"
    assert colour.guarded(retry, Script(["first", "good"]))() == "good"
    assert (retry.statistics().retries, retry.statistics().given_up) == (3, 1)


def test_an_unwanted_result_and_an_exception_may_take_turns(colour: Colour) -> None:
    error = OSError("third")
    retry = Retry(OSError, wait=NOW, retry_if=lambda result: result is None)
    with pytest.raises(OSError, match="third") as caught:
        colour.guarded(retry, Script([None, OSError("second"), error]))()
    assert caught.value.__notes__ == [
        "resilience: attempt 1 of 3 returned None",
        "resilience: attempt 2 of 3 raised OSError('second')",
        "resilience: attempt 3 of 3 raised OSError('third')",
    ]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_cancellation_and_its_like_are_never_repeated(clock: ManualClock, kind: type[BaseException]) -> None:
    """R3: tenacity (#529) retried cancellation."""
    script = Script([kind])
    with pytest.raises(kind):
        Retry(Exception, wait=NOW)(script)()

    async def main() -> None:
        with pytest.raises(kind):
            Retry(lambda _: True, wait=NOW)(script.asynchronous)().send(None)

    asyncio.run(main())
    assert len(script.calls) == 2


@pytest.mark.parametrize(
    "leaves,attempts",
    [
        ([OSError(), ConnectionError()], 3),
        ([OSError(), ValueError()], 1),
        ([ValueError(), OSError()], 1),
        ([OSError(), ExceptionGroup("inner", [OSError(), OSError()])], 3),
        ([OSError(), ExceptionGroup("inner", [OSError(), ValueError()])], 1),
        ([OSError(), CircuitOpenError()], 1),
    ],
)
@pytest.mark.parametrize("on", [OSError, tenacity.retry_if_exception_type(OSError), lambda e: isinstance(e, OSError)])
def test_a_group_is_repeated_only_if_all_its_leaves_would_be(
    colour: Colour, on: Any, leaves: list[Exception], attempts: int
) -> None:
    """A tenacity condition was once shown the first leaf only, and a group with a hopeless second one was repeated."""
    assert attempts_made(colour, Retry(on, wait=NOW), [ExceptionGroup("all", leaves)]) == attempts


def test_the_strategies_see_the_group_itself_and_not_a_leaf(colour: Colour) -> None:
    group = ExceptionGroup("all", [OSError()])
    seen: list[Any] = []

    def look(state: tenacity.RetryCallState) -> float:
        seen.append(state.outcome and state.outcome.exception())
        return 0.0

    attempts_made(colour, Retry(tenacity.retry_if_exception_type(OSError), wait=look), [group])
    assert seen == [group, group]


@pytest.mark.parametrize("error", [CircuitOpenError(), BulkheadFullError(), CallRejectedError()])
def test_a_local_rejection_is_repeated_only_on_request(colour: Colour, error: Exception) -> None:
    assert attempts_made(colour, Retry(Exception, wait=NOW), [error]) == 1
    assert attempts_made(colour, Retry(OSError, wait=NOW, retry_rejections=True), [error]) == 3


def test_a_missed_deadline_is_never_repeated(colour: Colour) -> None:
    error = DeadlineExceededError()
    assert attempts_made(colour, Retry(Exception, wait=NOW, retry_rejections=True), [error]) == 1
    assert attempts_made(colour, Retry(Exception, wait=NOW, retry_rejections=True), [ExceptionGroup("", [error])]) == 1


# --- what comes out --------------------------------------------------------------------------------------------------


def test_the_last_exception_comes_out_as_it_is_with_a_note_for_each_attempt(colour: Colour) -> None:
    errors = [OSError("one"), OSError("two"), OSError("three")]
    with pytest.raises(OSError) as caught:
        colour.guarded(Retry(OSError, wait=NOW), Script(errors))()
    assert caught.value is errors[2]
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert caught.value.__notes__ == [
        "resilience: attempt 1 of 3 raised OSError('one')",
        "resilience: attempt 2 of 3 raised OSError('two')",
        "resilience: attempt 3 of 3 raised OSError('three')",
    ]
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "sync"  # where the script raised it


def test_a_failure_that_is_not_repeated_has_no_notes_unless_others_came_before(colour: Colour) -> None:
    only = ValueError()
    attempts_made(colour, Retry(OSError, wait=NOW), [only])
    assert not hasattr(only, "__notes__")
    last = ValueError("no")
    attempts_made(colour, Retry(OSError, wait=NOW), [OSError("yes"), last])
    assert last.__notes__ == [
        "resilience: attempt 1 of 3 raised OSError('yes')",
        "resilience: attempt 2 of 3 raised ValueError('no')",
    ]


def test_an_exception_object_raised_again_and_again_does_not_grow(colour: Colour) -> None:
    """B9: purgatory raises one instance for ever, and every call makes it longer."""
    error = OSError("the same")
    error.add_note("a note of the user's")
    guarded = colour.guarded(Retry(OSError, wait=NOW), Script([error]))
    for _ in range(5):
        with pytest.raises(OSError):
            guarded()
        assert len(error.__notes__) == 4
        error.__traceback__ = None
    assert error.__notes__[0] == "a note of the user's"


@dataclass(frozen=True)
class FrozenError(Exception):
    """A frozen dataclass takes no notes."""

    code: int


def test_an_exception_that_takes_no_notes_comes_out_all_the_same(colour: Colour) -> None:
    """The FrozenInstanceError of the attempt to add a note once came out in place of the user's exception."""
    error = FrozenError(7)
    with pytest.raises(FrozenError) as caught:
        colour.guarded(Retry(FrozenError, wait=NOW), Script([error]))()
    assert caught.value is error


def test_notes_that_are_no_strings_are_left_alone(colour: Colour) -> None:
    error = OSError()
    setattr(error, "__notes__", [17])  # noqa: B010 - the type checkers know better
    attempts_made(colour, Retry(OSError, wait=NOW, attempts=1), [error])
    assert error.__notes__ == [17, "resilience: attempt 1 of 1 raised OSError()"]


def test_the_notes_of_very_many_attempts_are_bounded(colour: Colour) -> None:
    error = OSError()
    assert attempts_made(colour, Retry(OSError, wait=NOW, attempts=1000), [error]) == 1000
    numbers = [int(note.split()[2]) for note in error.__notes__]
    assert len(numbers) == 100
    assert numbers[:3] == [1, 2, 3]
    assert numbers[-3:] == [998, 999, 1000]


# --- events and settings ---------------------------------------------------------------------------------------------


def test_each_further_attempt_and_each_surrender_is_an_event(colour: Colour) -> None:
    error = OSError()
    retry = Retry(OSError, attempts=2, wait=tenacity.wait_fixed(1), name="search")
    with recorded_events(RetryScheduled, RetryStopped) as events:
        attempts_made(colour, retry, [error])
    assert events == [
        RetryScheduled(policy="search", time=1000.0, attempt=1, wait=1.0, error=error),
        RetryStopped(policy="search", time=1001.0, attempts=2, reason="attempts", error=error),
    ]


def test_a_variant_has_settings_of_its_own_and_shares_the_statistics(colour: Colour) -> None:
    retry = Retry(OSError, wait=NOW, name="one")
    variant = retry.with_(attempts=5, on=ValueError, name="two")
    assert attempts_made(colour, variant, [ValueError()]) == 5
    assert attempts_made(colour, retry, [OSError()]) == 3
    assert retry.statistics() == variant.statistics()
    assert retry.statistics().retries == 6
    assert repr(retry) == "<Retry one: 3 attempts>"
    assert repr(variant) == "<Retry two: 5 attempts>"
    assert repr(Retry(OSError)) == "<Retry unnamed: 3 attempts>"
    with pytest.raises(TypeError, match="clock"):
        retry.with_(clock=None)


def test_a_budget_is_charged_for_each_retry_and_nothing_else(colour: Colour) -> None:
    """R14: budgets that are never refilled, or charged once the call is over."""
    budget = RetryBudget(ratio=0.5, minimum_per_second=0.2, window=10.0)
    retry = Retry(OSError, wait=NOW, budget=budget)
    assert [attempts_made(colour, retry, ["good"]) for _ in range(4)] == [1, 1, 1, 1]
    assert budget.statistics().balance == pytest.approx(4.0)
    assert [attempts_made(colour, retry, [OSError()]) for _ in range(4)] == [3, 3, 2, 2]
    account = budget.statistics()
    assert (account.deposits, account.withdrawals, account.refused) == (8, 6, 2)


def test_a_wait_that_would_pass_the_deadline_ends_the_call_now(colour: Colour) -> None:
    """R6: with "timeout 0.1" and a wait of 2 s, stamina takes the 2 s."""
    retry = Retry(OSError, wait=tenacity.wait_fixed(2))
    with pytest.raises(OSError):
        colour.runner(Timeout(2.0)(retry(colour.function(Script([OSError])))))()
    assert colour.clock.now() == 1000.0
    with pytest.raises(OSError):
        colour.runner(Timeout(2.5)(retry(colour.function(Script([OSError])))))()
    assert colour.clock.now() == 1002.0
