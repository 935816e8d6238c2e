"""Retry against a naive model: what each answer depends on, in order, and who is charged for it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from resilience import Retry, RetryBudget
from resilience._attempts import Attempt
from resilience.correlation import attempt_number
from resilience.deadline import Deadline, ambient
from resilience.events import Event, RetryScheduled, RetryStopped
from resilience.testing import ManualClock, use_clock
from tests.conftest import Colour


class PassingError(Exception):
    """A failure that may pass, perhaps with a wish."""

    def __init__(self, retry_after: Any = None) -> None:
        super().__init__()
        self.retry_after = retry_after


class LastingError(Exception):
    """A failure that will not pass."""


class Loaded(random.Random):
    """Chance that always falls at the same share of a range."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def uniform(self, a: float, b: float) -> float:
        return a + self.share * (b - a)


@dataclass
class Unwanted:
    """A result that `retry_if` turns down."""

    retry_after: Any = None


@dataclass
class Case:
    """One call: its settings, and how each of its attempts goes."""

    attempts: int
    waits: list[float]
    stop_after: float | None
    limit: float
    deadline: float | None
    allowance: int | None
    share: float
    script: list[tuple[str, float, Any]]  # kind, duration, retry_after


@dataclass
class Told:
    """What is to be seen of one call."""

    starts: list[float] = field(default_factory=list[float])
    waits: list[float] = field(default_factory=list[float])
    reason: str | None = None
    ending: str = ""
    withdrawn: int = 0


times = st.integers(0, 12).map(lambda halves: halves / 2)  # few, so that they often meet exactly
wishes = st.one_of(
    st.none(), times, st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 0, True, "2", 10**400, 1e300, None, 1, 3])
)
cases = st.builds(
    Case,
    attempts=st.integers(1, 5),
    waits=st.lists(times, min_size=5, max_size=5),
    stop_after=st.none() | times.filter(bool),
    limit=times,
    deadline=st.none() | times.filter(bool),
    allowance=st.none() | st.integers(0, 3),
    share=st.sampled_from([0.0, 0.5, 1.0]),
    script=st.lists(
        st.tuples(st.sampled_from(["pass", "pass", "pass", "unwanted", "last", "good"]), times, wishes),
        min_size=5,
        max_size=5,
    ),
)


def model(case: Case) -> Told:
    """The contract, word for word."""
    told = Told()
    clock = 0.0
    allowance = case.allowance
    for number in range(1, 6):
        kind, duration, wish = case.script[number - 1]
        told.starts.append(clock)
        clock += duration
        told.ending = kind
        if kind in {"last", "good"}:
            return told
        if number == case.attempts:
            told.reason = "attempts"
            return told
        if case.stop_after is not None and clock >= case.stop_after:
            told.reason = "stop"
            return told
        backoff = case.waits[number - 1]
        usable = type(wish) in (int, float) and 0 < wish < 1e308
        if usable and wish > case.limit:
            told.reason = "retry_after"
            return told
        shortest = max(backoff, wish) if usable else backoff
        wait = max(backoff, wish + case.share * min(wish / 10, 1)) if usable else backoff
        if case.deadline is not None:
            left = max(0.0, case.deadline - clock)
            if shortest >= left:
                told.reason = "deadline"
                return told
            if wait >= left:
                wait = shortest
        if allowance is not None:
            if allowance == 0:
                told.reason = "budget"
                return told
            allowance -= 1
        told.withdrawn += 1
        told.waits.append(wait)
        clock += wait
    raise AssertionError("five attempts at most")


def reality(case: Case, colour_name: str) -> tuple[Told, Any, Any]:
    """The same, by the library."""
    clock = ManualClock(1000.0)
    with use_clock(clock):
        colour = Colour(colour_name, clock)
        told = Told()
        budget = None
        if case.allowance is not None:
            budget = RetryBudget(ratio=0.001, minimum_per_second=(case.allowance + 0.5) / 1e6, window=1e6)
        events: list[Event] = []

        def body() -> Any:
            kind, duration, wish = case.script[len(told.starts)]
            told.starts.append(clock.now() - 1000.0)
            told.ending = kind
            nap = colour.sleep(duration)

            def after() -> Any:
                if kind == "pass":
                    raise PassingError(wish)
                if kind == "last":
                    raise LastingError
                return Unwanted(wish) if kind == "unwanted" else "good"

            async def later() -> Any:
                await nap
                return after()

            return later() if colour.is_async else after()

        retry = Retry(
            PassingError,
            attempts=case.attempts,
            wait=lambda state: case.waits[state.attempt_number - 1],
            stop=None if case.stop_after is None else tenacity.stop_after_delay(case.stop_after),
            retry_if=lambda result: isinstance(result, Unwanted),
            retry_after_limit=case.limit,
            budget=budget,
            rng=Loaded(case.share),
            listeners=[events.append],
        )
        token = ambient.set(None if case.deadline is None else Deadline(1000.0 + case.deadline, clock))
        try:
            guarded = colour.guarded(retry, body)
            try:
                result = guarded()
            except PassingError:
                assert told.ending == "pass"
            except LastingError:
                assert told.ending == "last"
            else:
                assert told.ending == ("good" if result == "good" else "unwanted")
        finally:
            ambient.reset(token)
            colour.close()
        told.waits = [event.wait for event in events if isinstance(event, RetryScheduled)]
        told.withdrawn = len(told.waits)
        stops = [event.reason for event in events if isinstance(event, RetryStopped)]
        told.reason = stops[0] if stops else None
        assert len(stops) <= 1
        return told, retry.statistics(), None if budget is None else budget.statistics()


@pytest.mark.parametrize("colour_name", ["sync", "async"])
@settings(max_examples=250)
@given(case=cases)
def test_every_decision_is_the_one_the_contract_asks_for(colour_name: str, case: Case) -> None:
    expected = model(case)
    told, statistics, account = reality(case, colour_name)
    assert told.starts == pytest.approx(expected.starts)
    assert told.waits == pytest.approx(expected.waits)
    assert (told.reason, told.ending) == (expected.reason, expected.ending)
    assert (statistics.retries, statistics.given_up) == (expected.withdrawn, int(expected.reason is not None))
    if account is not None:
        assert account.deposits == 1
        assert account.withdrawals == expected.withdrawn
        assert account.refused == int(expected.reason == "budget")


@dataclass
class Call:
    """One call of the machine, in the model and in reality."""

    iterator: Iterator[Attempt]
    attempt: Attempt
    context: Context
    number: int = 1

    def enter(self) -> None:
        self.context.run(self.attempt.__enter__)

    def leave(self, error: BaseException | None = None) -> bool:
        kind = None if error is None else type(error)
        return self.context.run(self.attempt.__exit__, kind, error, None)


class Sharing(RuleBasedStateMachine):
    """Many calls at once under one Retry and one budget: each counts its own attempts, all draw on one account.

    tenacity's shared AsyncRetrying mixed the attempts of concurrent calls (R1) and their statistics (R2).
    """

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.budget = RetryBudget(ratio=0.5, minimum_per_second=2e-6, window=1e6, clock=self.clock)
        self.retry = Retry(
            PassingError,
            attempts=3,
            wait=tenacity.wait_fixed(1),
            retry_if=lambda result: result == "unwanted",
            budget=self.budget,
            clock=self.clock,
        )
        self.deposits = self.withdrawals = self.refused = self.retries = self.given_up = 0
        self.now = 0.0

    @rule(target=calls)
    def start(self) -> Call:
        iterator = iter(self.retry)
        self.deposits += 1
        call = Call(iterator, next(iterator), copy_context())
        call.enter()
        return call

    @rule(target=calls, call=consumes(calls), unwanted=st.booleans())
    def fail(self, call: Call, unwanted: bool) -> Any:
        error = None if unwanted else PassingError()
        if unwanted:
            call.attempt.set_result("unwanted")
        swallowed = call.leave(error)
        allowed = 0.5 * self.deposits + 2 - self.withdrawals >= 1
        if call.number == 3 or not allowed:
            self.given_up += 1
            self.refused += call.number < 3
            assert not swallowed
            assert next(call.iterator, None) is None
            return self.start()
        self.withdrawals += 1
        self.retries += 1
        assert swallowed is (error is not None)
        call.attempt = next(call.iterator)
        call.number += 1
        self.now += 1.0
        call.enter()
        return call

    @rule(call=consumes(calls), result=st.sampled_from([None, "wanted"]))
    def succeed(self, call: Call, result: str | None) -> None:
        if result is not None:
            call.attempt.set_result(result)
        assert not call.leave()
        assert next(call.iterator, None) is None
        assert next(call.iterator, None) is None

    @rule(call=consumes(calls), error=st.sampled_from([LastingError(), KeyboardInterrupt(), GeneratorExit()]))
    def end(self, call: Call, error: BaseException) -> None:
        assert not call.leave(error)
        assert next(call.iterator, None) is None

    @rule(call=consumes(calls))
    def drop(self, call: Call) -> None:
        call.leave()

    @rule(target=calls, call=consumes(calls))
    def number_is_its_own(self, call: Call) -> Call:
        assert call.attempt.number == call.context.run(attempt_number) == call.number
        return call

    @invariant()
    def books_balance(self) -> None:
        account, statistics = self.budget.statistics(), self.retry.statistics()
        assert (account.deposits, account.withdrawals, account.refused) == (
            self.deposits,
            self.withdrawals,
            self.refused,
        )
        assert account.balance == pytest.approx(0.5 * self.deposits + 2 - self.withdrawals)
        assert (statistics.retries, statistics.given_up) == (self.retries, self.given_up)
        assert self.clock.now() == self.now


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=40, stateful_step_count=30)
