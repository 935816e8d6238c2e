"""Both sliding windows against a list of everything that was ever recorded."""

from __future__ import annotations

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilience import CountWindow, TimeWindow
from resilience._window import Counts

Record = tuple[float, bool, bool]
# Whole quarters, so that sums are exact and the edges of buckets are met exactly.
pauses = st.one_of(st.just(0.0), st.integers(1, 8).map(lambda n: n / 4), st.sampled_from([10.0, 19.75, 20.0, 1e6]))


class Windows(RuleBasedStateMachine):
    """Feeds the same records to a window and to a plain list; subclasses say which records count."""

    window: Counts

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.looking = True  # whether somebody asks for the counts, or the next record is the first to see the time
        self.records: list[Record] = []

    def inside(self) -> list[Record]:
        raise NotImplementedError

    @rule(failed=st.booleans(), slow=st.booleans())
    def record(self, failed: bool, slow: bool) -> None:
        self.window.record(self.now, failed, slow)
        self.records.append((self.now, failed, slow))

    @rule(times=st.integers(1, 6))
    def record_successes_the_quick_way(self, times: int) -> None:
        """The way that is open before `edge`, and that the breaker takes."""
        for _ in range(times):
            if self.now < self.window.edge:
                self.window.calls += 1
                self.window.current[0] += 1
            else:
                self.window.record(self.now, False, False)
            self.records.append((self.now, False, False))

    @rule(failed=st.booleans(), lateness=st.integers(1, 4))
    def record_what_ended_a_moment_ago(self, failed: bool, lateness: int) -> None:
        """A result that was handed over counts when it is applied, if a newer one was seen by then."""
        if self.records:
            then = max(self.records[-1][0], self.now - lateness / 4)
            seen = max(self.seen, then)
            self.window.record(then, failed, False)
            self.records.append((seen, failed, False))

    @rule(pause=pauses, look=st.booleans())
    def pass_time(self, pause: float, look: bool) -> None:
        self.now += pause
        self.looking = look

    @property
    def seen(self) -> float:
        """The latest instant that the window was told of."""
        return max(self._looked, *(record[0] for record in self.records), -math.inf)

    _looked = -math.inf

    @invariant()
    def the_window_knows_what_the_list_knows(self) -> None:
        if not self.looking:
            self.looking = True
            return
        self.window.catch_up(self.now)
        self._looked = self.now
        inside = self.inside()
        assert self.window.calls == len(inside)
        assert self.window.failures == sum(failed for _, failed, _ in inside)
        assert self.window.slow == sum(slow for _, _, slow in inside)


# Buckets of whole quarters again.
SHAPES = [(1.0, 1), (1.0, 2), (1.0, 4), (5.0, 2), (5.0, 5), (5.0, 10), (20.0, 10), (20.0, 80)]


class CountWindows(Windows):
    @initialize(size=st.integers(1, 7))
    def start(self, size: int) -> None:
        self.size = size
        self.window = CountWindow(size).start()

    def inside(self) -> list[Record]:
        return self.records[-self.size :]


class TimeWindows(Windows):
    @initialize(shape=st.sampled_from(SHAPES), now=st.sampled_from([0, 3.5, 1e9, -7.25]))
    def start(self, shape: tuple[float, int], now: float) -> None:
        self.seconds, self.buckets = seconds, buckets = shape
        self.now = now
        self.window = TimeWindow(seconds, buckets).start()

    def bucket(self, when: float) -> int:
        return math.floor(when * self.buckets / self.seconds)

    def inside(self) -> list[Record]:
        return [record for record in self.records if self.bucket(record[0]) > self.bucket(self.now) - self.buckets]

    @invariant()
    def the_window_reaches_back_as_far_as_it_says(self) -> None:
        if self._looked < self.now:
            return
        ages = [self.now - when for when, _, _ in self.records]
        within = sum(age < self.seconds * (1 - 1 / self.buckets) for age in ages)
        without = sum(age >= self.seconds for age in ages)
        assert within <= self.window.calls <= len(ages) - without


TestCountWindows = CountWindows.TestCase
TestTimeWindows = TimeWindows.TestCase
TestCountWindows.settings = TestTimeWindows.settings = settings(max_examples=60, stateful_step_count=30)
