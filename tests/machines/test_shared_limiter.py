"""A limiter that is shared through a store against the local one, which has a reference model of its own.

Two instances of the shared limiter take turns, so the pair must be as good as one. All numbers are dyadic fractions.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from resilience import CallRejectedError, MemoryStore, Rate, RateLimiter, RateLimitExceededError, Reservation, Verdict
from resilience._wait import Wait
from resilience.testing import ManualClock

COSTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 3.0, 100.0])
KEYS = st.sampled_from(["a", "b", 1])
INSTANCE = st.booleans()


class SharedLimiterMachine(RuleBasedStateMachine):
    @initialize(
        rate=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
        burst=st.sampled_from([1.0, 1.5, 2.0, 4.0]),
        also=st.sampled_from([(), (Rate(4.0, 8.0),), (Rate(4.0, 8.0, 2.0), Rate(8.0, 32.0))]),
        max_wait=st.sampled_from([0.0, 0.5, 2.0, None]),
    )
    def start(self, rate: float, burst: float, also: Any, max_wait: float | None) -> None:
        self.clock = ManualClock(1024.0)
        options: dict[str, Any] = {"also": also, "clock": self.clock, "key": lambda key: key}
        store = MemoryStore(clock=self.clock)
        self.local = RateLimiter(rate, 1.0, burst=burst, max_wait=max_wait, name="shared", **options)
        self.shared = [
            RateLimiter(rate, 1.0, burst=burst, max_wait=max_wait, name="shared", store=store, **options)
            for _ in range(2)
        ]
        self.payers = [
            limiter.with_(max_wait=0.0).with_(charge_if=lambda outcome: True) for limiter in (self.local, *self.shared)
        ]
        self.reservations: list[tuple[Reservation, Reservation]] = []

    @rule(key=KEYS, cost=COSTS, second=INSTANCE)
    def a_call_comes(self, key: Any, cost: float, second: bool) -> None:
        results = [
            self.outcome(limiter.with_(cost=lambda key: cost), key) for limiter in (self.local, self.shared[second])
        ]
        assert results[0] == results[1]

    @rule(key=KEYS, cost=COSTS, max_wait=st.sampled_from([None, 0.0, 1.0]), second=INSTANCE)
    def tokens_are_reserved(self, key: Any, cost: float, max_wait: float | None, second: bool) -> None:
        results: list[Any] = []
        for limiter in (self.local, self.shared[second]):
            try:
                results.append(limiter.reserve(key, cost, max_wait))
            except RateLimitExceededError as error:
                results.append(error.args[1:])
        if isinstance(results[0], Reservation):
            assert isinstance(results[1], Reservation)
            assert [(r.key, r.cost, r.delay) for r in results] == [(results[0].key, cost, results[0].delay)] * 2
            if cost:  # of a reservation of nothing nobody can tell whether it is the newest
                self.reservations.append((results[0], results[1]))
        else:
            assert results[0] == results[1]

    @rule(which=st.integers(0, 100))
    def a_reservation_is_cancelled(self, which: int) -> None:
        if self.reservations:
            local, shared = self.reservations[-1 - which % min(3, len(self.reservations))]
            # Whether tokens that are back anyway were given back is all one.
            assert local.cancel() >= shared.cancel()
            assert self.local.peek(local.key) == self.shared[0].peek(local.key)

    @rule(key=KEYS, second=INSTANCE, verdict=st.sampled_from(list(Verdict)))
    def a_call_pays_by_outcome(self, key: Any, second: bool, verdict: Verdict) -> None:
        permits = []
        for payer in (self.payers[0], self.payers[1 + second]):
            try:
                permits.append((payer, payer.admit((key,))))
            except CallRejectedError as error:
                permits.append((payer, error.args[1:]))
        assert isinstance(permits[0][1], Verdict) == isinstance(permits[1][1], Verdict)
        for payer, permit in permits:
            payer.settle(permit, verdict)

    @rule(key=KEYS)
    def a_key_is_reset(self, key: Any) -> None:
        self.local.reset(key)
        self.shared[0].reset(key)

    @rule(eighths=st.integers(0, 40))
    def time_passes(self, eighths: int) -> None:
        self.clock.advance(eighths / 8)

    @rule(key=KEYS, second=INSTANCE)
    def both_say_the_same_is_left(self, key: Any, second: bool) -> None:
        assert self.local.peek(key) == self.shared[second].peek(key)

    def outcome(self, limiter: RateLimiter, key: Any) -> Any:
        try:
            permit = limiter.admit((key,))
        except CallRejectedError as error:
            return type(error), error.args
        return permit.seconds if type(permit) is Wait else permit


TestSharedLimiterMachine = SharedLimiterMachine.TestCase
TestSharedLimiterMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, report_multiple_bugs=False
)
