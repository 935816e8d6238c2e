"""The retry budget against plain lists of the instants of first attempts and retries."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilience import RetryBudget
from resilience.testing import ManualClock

WINDOW, BUCKETS = 10.0, 10


class Budgets(RuleBasedStateMachine):
    @initialize(ratio=st.sampled_from([0.25, 0.5, 1.0, 2.0]), minimum=st.sampled_from([0.0, 0.0625, 0.25]))
    def start(self, ratio: float, minimum: float) -> None:
        self.clock = ManualClock(1024.0)
        self.budget = RetryBudget(ratio, minimum, WINDOW, clock=self.clock)
        self.ratio, self.free = ratio, minimum * WINDOW
        self.deposits: list[float] = []
        self.withdrawals: list[float] = []
        self.refused = 0

    def inside(self, instants: list[float]) -> int:
        """How many of `instants` lie in the tenth of the window that runs now, or in the nine before."""
        current = int(self.clock.now() // (WINDOW / BUCKETS))
        return sum(int(instant // (WINDOW / BUCKETS)) > current - BUCKETS for instant in instants)

    def balance(self) -> float:
        return self.ratio * self.inside(self.deposits) + self.free - self.inside(self.withdrawals)

    @rule(seconds=st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0, 9.0, 9.75, 10.0, 11.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(times=st.integers(1, 5))
    def first_attempts(self, times: int) -> None:
        for _ in range(times):
            self.budget.deposit()
            self.deposits.append(self.clock.now())

    @rule(times=st.integers(1, 5))
    def retries(self, times: int) -> None:
        for _ in range(times):
            allowed = self.balance() >= 1.0
            assert self.budget.withdraw() is allowed
            if allowed:
                self.withdrawals.append(self.clock.now())
            else:
                self.refused += 1

    @invariant()
    def the_statistics_are_those_of_the_window(self) -> None:
        statistics = self.budget.statistics()
        assert statistics.deposits == self.inside(self.deposits)
        assert statistics.withdrawals == self.inside(self.withdrawals)
        assert statistics.balance == max(0.0, self.balance())
        assert statistics.refused == self.refused

    @invariant()
    def retries_never_exceed_their_share_of_any_window(self) -> None:
        """When a retry is allowed, those of the last window are covered by the first attempts of that window."""
        if self.withdrawals and self.withdrawals[-1] == self.clock.now():
            assert self.inside(self.withdrawals) <= self.ratio * self.inside(self.deposits) + self.free


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=50, stateful_step_count=30)
