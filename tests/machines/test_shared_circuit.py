"""A circuit that is shared through a store against the local one, which has a reference model of its own.

Two shared breakers take turns: together they must admit, refuse and answer exactly like one local breaker.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from resilience import CircuitBreaker, CircuitOpenError, MemoryStore, TimeWindow
from resilience._machine import ABANDONED, FAILURE, SUCCESS
from resilience._wait import meter
from resilience.testing import ManualClock

VERDICTS = st.sampled_from([SUCCESS, SUCCESS, FAILURE, FAILURE, ABANDONED])
INSTANCE = st.booleans()


class SharedCircuitMachine(RuleBasedStateMachine):
    @initialize(
        failure_rate=st.sampled_from([None, 0.5, 1.0]),
        minimum_calls=st.integers(1, 4),
        failure_threshold=st.sampled_from([None, 2, 3]),
        slow_after=st.sampled_from([None, 0.5]),
        places=st.integers(1, 3),
        threshold=st.integers(1, 3),
        longest=st.sampled_from([4.0, 64.0]),
    )
    def start(
        self,
        failure_rate: float | None,
        minimum_calls: int,
        failure_threshold: int | None,
        slow_after: float | None,
        places: int,
        threshold: int,
        longest: float,
    ) -> None:
        if failure_rate is None and slow_after is None:  # it could never open
            failure_threshold = failure_threshold or 2
        self.clock = ManualClock(1024.0)
        options: dict[str, Any] = {
            "window": TimeWindow(16.0, buckets=4),
            "failure_rate": failure_rate,
            "minimum_calls": minimum_calls,
            "failure_threshold": failure_threshold,
            "slow_call_duration": slow_after,
            "recovery_time": 4.0,
            "max_recovery_time": longest,
            "jitter": 0.0,
            "half_open_max_calls": places,
            "success_threshold": min(threshold, places),
            "probe_lease": 8.0,
            "clock": self.clock,
        }
        store = MemoryStore(clock=self.clock)
        self.local = CircuitBreaker("local", **options)
        self.shared = [CircuitBreaker("shared", store=store, **options) for _ in range(2)]
        self.calls: list[tuple[Any, CircuitBreaker, Any]] = []

    @rule(
        calls=st.lists(
            st.tuples(
                INSTANCE, st.booleans(), st.integers(0, 100), VERDICTS, st.sampled_from([None, None, 6.0, 1000.0])
            ),
            min_size=1,
            max_size=5,
        )
    )
    def calls_come_and_end(self, calls: list[Any]) -> None:
        for second, comes, which, verdict, asked_for in calls:
            if comes:
                self.a_call_comes(second)
            else:
                self.a_call_ends(which, verdict, asked_for)

    def a_call_comes(self, second: bool) -> None:
        shared = self.shared[second]
        outcomes: list[tuple[Any, float | None]] = []
        for breaker in (self.local, shared):
            try:
                outcomes.append((breaker.admit(), None))
            except CircuitOpenError as error:
                outcomes.append((None, error.retry_after))
        (local, wait), (permit, shared_wait) = outcomes
        assert (local is None, wait) == (permit is None, shared_wait)
        if local is not None:
            self.calls.append((local, shared, permit))

    def a_call_ends(self, which: int, verdict: Any, asked_for: float | None) -> None:
        if self.calls:
            local, shared, permit = self.calls.pop(which % len(self.calls))
            self.local._record(local, verdict, None, asked_for if verdict is FAILURE else None)
            shared._record(permit, verdict, None, asked_for if verdict is FAILURE else None)

    @rule(eighths=st.sampled_from([0, 1, 8, 16, 32, 32, 33, 64, 100]))
    def time_passes(self, eighths: int) -> None:
        self.clock.advance(eighths / 8)

    @rule(second=INSTANCE, what=st.sampled_from([*[""] * 8, "isolate", "reset"]))
    def somebody_intervenes(self, second: bool, what: str) -> None:
        if what == "":
            self.clock.advance(4.0)
            return
        getattr(self.local, what)()
        getattr(self.shared[second], what)()

    def teardown(self) -> None:
        meter.set(None)


TestSharedCircuitMachine = SharedCircuitMachine.TestCase
TestSharedCircuitMachine.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
