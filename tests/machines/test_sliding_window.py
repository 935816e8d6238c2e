"""The sliding window against a plain list of everything that was ever taken."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilience import RateLimiter, RateLimitExceededError, Reservation, SlidingWindow, Verdict
from resilience.testing import ManualClock

LIMIT, WINDOW = 4, 8.0
COSTS = st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 3.0, 5.0])


class Windows(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(1024.0)
        self.limiter = RateLimiter(limiter=SlidingWindow(LIMIT, WINDOW), cost=lambda cost: cost, clock=self.clock)
        self.payers = self.limiter.with_(charge_if=lambda outcome: True)
        self.taken: list[tuple[float, float, Reservation | None]] = []  # start, cost, who could cancel it
        self.reservations: list[Reservation] = []
        self.charges: list[tuple[Any, float]] = []
        self.debts = False

    def used(self, at: float) -> float:
        """What the window that ends at `at` holds."""
        return sum(cost for start, cost, _ in self.taken if at - WINDOW < start <= at)

    def earliest(self, cost: float) -> float | None:
        if cost > LIMIT:
            return None
        newest = max([self.clock.now(), *(start for start, _, _ in self.taken)])
        instants = sorted([newest, *(start + WINDOW for start, _, _ in self.taken if start + WINDOW > newest)])
        return next(at for at in instants if self.used(at) + cost <= LIMIT)

    def agree(self, cost: float, limit: float, outcome: Any) -> None:
        now, start = self.clock.now(), self.earliest(cost)
        if start is not None and start - now <= limit:
            delay = outcome.delay if isinstance(outcome, Reservation) else 0.0
            assert now + delay == start
            self.taken.append((start, cost, outcome if isinstance(outcome, Reservation) else None))
        else:
            assert isinstance(outcome, RateLimitExceededError)
            assert outcome.retry_after == (None if start is None else start - now)
            assert outcome.limit == LIMIT
            assert outcome.reset_after == self.reset_after()

    def reset_after(self) -> float:
        return max([0.0, *(start + WINDOW - self.clock.now() for start, _, _ in self.taken)])

    @rule(seconds=st.integers(0, 40).map(lambda quarters: quarters / 4))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(cost=COSTS)
    def call(self, cost: float) -> None:
        self.agree(cost, 0.0, outcome_of(self.limiter.admit, (cost,)))

    @rule(cost=COSTS, limit=st.sampled_from([0.0, 3.0, 100.0]))
    def reserve(self, cost: float, limit: float) -> None:
        outcome = outcome_of(self.limiter.reserve, None, cost, limit)
        self.agree(cost, limit, outcome)
        if isinstance(outcome, Reservation):
            self.reservations.append(outcome)

    @precondition(lambda self: self.reservations)
    @rule(index=st.integers(0, 100))
    def cancel(self, index: int) -> None:
        reservation = self.reservations.pop(index % len(self.reservations))
        newest = bool(self.taken) and self.taken[-1][2] is reservation
        # An entry that has left the window is gone, and cancelling it would change nothing.
        if newest and self.taken[-1][0] + WINDOW <= self.clock.now():
            reservation.cancel()
        else:
            assert reservation.cancel() is newest
        if newest:
            self.taken.pop()

    @rule(cost=COSTS)
    def call_that_may_pay(self, cost: float) -> None:
        start = self.earliest(cost)
        outcome = outcome_of(self.payers.admit, (cost,))
        if start == self.clock.now():
            self.charges.append((outcome, cost))
        else:
            self.agree(cost, 0.0, outcome)

    @precondition(lambda self: self.charges)
    @rule(index=st.integers(0, 100), pays=st.booleans())
    def settle(self, index: int, pays: bool) -> None:
        charge, cost = self.charges.pop(index % len(self.charges))
        self.payers.settle(charge, Verdict.FAILURE if pays else Verdict.SUCCESS)
        if pays:
            newest = max([self.clock.now(), *(start for start, _, _ in self.taken)])
            self.taken.append((newest, cost, None))
            self.debts = True

    @rule()
    def reset(self) -> None:
        self.limiter.reset()
        self.taken.clear()
        self.debts = False

    @invariant()
    def no_window_holds_more_than_the_limit(self) -> None:
        assert self.debts or all(self.used(start) <= LIMIT for start, _, _ in self.taken)

    @invariant()
    def a_peek_sees_what_is_left_and_changes_nothing(self) -> None:
        quota, now, earliest = self.limiter.peek(), self.clock.now(), self.earliest(1.0)
        assert quota == self.limiter.peek()
        assert earliest is not None
        assert quota.retry_after == earliest - now
        assert quota.limit == LIMIT
        if earliest > now:
            assert quota.remaining == 0
        else:
            assert quota.remaining == int(LIMIT - self.used(now))
        assert quota.reset_after == self.reset_after()
        assert self.limiter.statistics().keys == (self.reset_after() > 0.0)


def outcome_of(fn: Any, *args: Any) -> Any:
    try:
        return fn(*args)
    except RateLimitExceededError as error:
        return error


TestWindows = Windows.TestCase
TestWindows.settings = settings(max_examples=60, stateful_step_count=30)
