"""What went wrong, in the words of errors and notes: the message says what to look at."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import aiolimiter
import pytest
import tenacity

from resilience import (
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Pipeline,
    Rate,
    RateLimiter,
    RateLimitExceededError,
    Retry,
    RetryBudget,
    Throttle,
    Timeout,
)
from resilience.testing import ManualClock, Script, run

from .conftest import Colour

NOW = tenacity.wait_none()


def test_a_cost_above_the_burst_says_that_it_never_passes(colour: Colour) -> None:
    call = colour.guarded(RateLimiter(2, cost=lambda cost: cost, name="search"), lambda cost: cost)
    assert call(2) == 2
    with pytest.raises(RateLimitExceededError) as refused:
        call(2.5)
    assert str(refused.value) == "search: a cost of 2.5 is above the burst (2) and never passes"
    assert (refused.value.retry_after, refused.value.limit) == (None, 2)
    with pytest.raises(RateLimitExceededError, match=r"^search: the rate limit is exceeded; retry after 0\.500 s$"):
        call(1)


def test_a_throttled_cost_above_the_rate_says_that_it_never_passes() -> None:
    throttle = Throttle(aiolimiter.AsyncLimiter(2), cost=lambda: 3, name="search")

    async def body() -> None:
        raise AssertionError("never called")

    with pytest.raises(RateLimitExceededError) as refused:
        run(throttle(body)())
    assert str(refused.value) == "search: a cost of 3 is above the limiter's max_rate (2) and never passes"
    assert refused.value.limit == 2


def test_an_isolated_breaker_says_so(colour: Colour) -> None:
    breaker = CircuitBreaker("payments", failure_threshold=1)
    call = colour.guarded(breaker, lambda: None)
    breaker.isolate()
    with pytest.raises(CircuitOpenError) as refused:
        call()
    assert str(refused.value) == "payments: the circuit is isolated until it is reset"
    assert refused.value.retry_after is None
    breaker.reset()
    breaker.settle(breaker.admit())
    assert call() is None


@pytest.mark.parametrize("kind", [BulkheadFullError, RateLimitExceededError])
def test_the_reason_of_a_rejection_travels_with_it(kind: Any) -> None:
    error = kind("db", None, reason="too many of them")
    error.add_note("a note")
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is kind
        assert str(copied) == str(error) == "db: too many of them"
        assert copied.__notes__ == ["a note"]
    assert "too many" not in str(kind("db"))


def test_a_key_that_no_table_can_hold_is_named(colour: Colour) -> None:
    settings: dict[str, Any]
    for settings in ({}, {"charge_if": bool}, {"cost": lambda key: 1}, {"max_wait": 1.0}):
        limiter = RateLimiter(1, key=lambda key: key, **settings)
        with pytest.raises(TypeError, match=r"^key must return something hashable, not \['a'\]$"):
            colour.guarded(limiter, lambda key: key)(["a"])
        methods: list[Any] = [limiter.peek, limiter.reserve, limiter.reset]
        for method in methods:
            with pytest.raises(TypeError, match=r"^key must return something hashable, not \['a'\]$"):
                method(["a"])


def test_an_error_in_the_hash_of_a_key_is_no_news_about_hashing() -> None:
    class Once:
        hashed = 0

        def __hash__(self) -> int:
            self.hashed += 1
            if self.hashed == 1:
                raise TypeError("only once")
            return 1

    with pytest.raises(TypeError, match=r"^only once$"):
        RateLimiter(1, key=lambda key: key).admit((Once(),))


def test_a_rate_names_its_own_field() -> None:
    with pytest.raises(ValueError, match=r"^limit must be a finite number above 0, not -1$"):
        Rate(limit=-1)
    with pytest.raises(ValueError, match=r"^rate must be a finite number above 0, not -1$"):
        RateLimiter(-1)
    with pytest.raises(ValueError, match=r"^rate must be a finite number above 0, not -1$"):
        RateLimiter(1).update(-1)
    with pytest.raises(TypeError, match=r"^rate must be a finite number above 0, not None$"):
        RateLimiter()


def test_a_pipeline_has_no_guard_and_says_what_to_use() -> None:
    with pytest.raises(TypeError, match=r"^Pipeline has no guard\(\), .* pipeline\.call\(fn, …\)"):
        Pipeline(Timeout(1)).guard()


# --- why a retry stopped ---------------------------------------------------------------------------------------------


class AskingError(Exception):
    retry_after = 60.0


def notes(colour: Colour, layer: Any, error: Exception) -> list[str]:
    with pytest.raises(type(error)):
        colour.guarded(layer, Script([error]))()
    return list(error.__notes__)


def test_a_retry_that_gives_up_early_says_why(colour: Colour) -> None:
    first = "resilience: attempt 1 of 3 raised OSError()"
    tight = RetryBudget(0.2, 0.0, name="tight")
    for retry, why in (
        (Retry(OSError, wait=NOW, stop=tenacity.stop_after_attempt(1)), "`stop` said so"),
        (Retry(OSError, wait=tenacity.wait_fixed(5), stop=tenacity.stop_before_delay(1)), "`stop` said so"),
        (
            Pipeline(Timeout(2.0), Retry(OSError, wait=tenacity.wait_fixed(5))),
            "a wait of 5.000 s is too long for the deadline in 2.000 s",
        ),
        (
            Retry(OSError, wait=NOW, budget=tight),
            "the <RetryBudget tight: 0.2 of first attempts and 0 a second> is used up",
        ),
    ):
        assert notes(colour, retry, OSError()) == [first, f"resilience: attempt 2 of 3 was not made: {why}"]
    assert notes(colour, Retry(AskingError, wait=NOW), AskingError()) == [
        "resilience: attempt 1 of 3 raised AskingError()",
        "resilience: attempt 2 of 3 was not made: asked to wait 60 s, above retry_after_limit (30 s)",
    ]


def test_a_retry_that_made_all_its_attempts_has_nothing_to_explain(colour: Colour) -> None:
    found = notes(colour, Retry(OSError, wait=NOW, attempts=2), OSError())
    assert found == [f"resilience: attempt {number} of 2 raised OSError()" for number in (1, 2)]


# --- a retry inside a retry ------------------------------------------------------------------------------------------


def test_the_notes_of_an_inner_retry_stay_before_those_of_the_outer(colour: Colour) -> None:
    error = OSError()
    error.add_note("a note of the user's")
    inner, outer = Retry(OSError, wait=NOW, attempts=2), Retry(OSError, wait=NOW, attempts=3)
    guarded = colour.runner(outer(inner(colour.function(Script([error])))))
    for _ in range(3):  # the same object again does not grow
        with pytest.raises(OSError):
            guarded()
        assert error.__notes__ == [
            "a note of the user's",
            *(f"resilience: attempt {number} of 2 raised OSError()" for number in (1, 2)),
            *(f"resilience: attempt {number} of 3 raised OSError()" for number in (1, 2, 3)),
        ]
        error.__traceback__ = None


def test_the_notes_of_a_retry_that_is_gone_are_replaced(colour: Colour) -> None:
    error = OSError()
    for _ in range(3):
        found = notes(colour, Retry(OSError, wait=NOW, attempts=2), error)
        error.__traceback__ = None
        gc.collect()
        assert len(found) == 2


def test_the_notes_of_many_retries_are_bounded(clock: ManualClock) -> None:
    error = OSError()
    retries = [Retry(OSError, wait=NOW, attempts=30) for _ in range(10)]
    for retry in retries:
        with pytest.raises(OSError):
            retry(Script([error]))()
    assert len(error.__notes__) == 100 + 30


def test_notes_survive_pickling_as_plain_text_and_are_replaced_later(colour: Colour) -> None:
    error = OSError()
    retry = Retry(OSError, wait=NOW, attempts=2)
    notes(colour, retry, error)
    copied = pickle.loads(pickle.dumps(error))
    assert copied.__notes__ == error.__notes__
    assert {type(note) for note in copied.__notes__} == {str}
    assert len(notes(colour, retry, copied)) == 2
