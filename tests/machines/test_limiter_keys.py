"""Many keys in a small table, against a dictionary that never forgets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilience import RateLimiter, RateLimitExceededError
from resilience.events import KeysOverflowed
from resilience.testing import ManualClock

MAX_KEYS, BURST = 3, 2
KEYS = "abcdefg"


class Keys(RuleBasedStateMachine):
    """One call a second for each key, two at once. `full_at` is when a key's bucket is full again."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(1024.0)
        self.events: list[KeysOverflowed] = []
        self.limiter = RateLimiter(
            1,
            burst=BURST,
            key=lambda key: key,
            max_keys=MAX_KEYS,
            clock=self.clock,
            listeners=[lambda event: self.events.append(event) if isinstance(event, KeysOverflowed) else None],
        )
        self.payers = self.limiter.with_(charge_if=lambda outcome: True)
        self.full_at: dict[str, float] = {}
        self.shared_full_at = 0.0
        self.room_since_the_event = True

    def live(self, other_than: str = "") -> int:
        return sum(instant > self.clock.now() for key, instant in self.full_at.items() if key != other_than)

    def shares(self, key: str) -> bool:
        return self.full_at.get(key, 0.0) <= self.clock.now() and self.live(key) >= MAX_KEYS

    def full_again(self, key: str) -> float:
        return max(self.clock.now(), self.shared_full_at if self.shares(key) else self.full_at.get(key, 0.0))

    def took(self, key: str) -> None:
        if self.shares(key):
            self.shared_full_at = self.full_again(key) + 1.0
        else:
            self.full_at[key] = self.full_again(key) + 1.0

    @rule(seconds=st.sampled_from([0.125, 0.5, 1.0, 2.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(key=st.sampled_from(KEYS))
    def call(self, key: str) -> None:
        now, known, before = self.clock.now(), self.full_at.get(key, 0.0) > self.clock.now(), len(self.events)
        shares = self.shares(key)
        wait = self.full_again(key) + 1.0 - BURST - now
        if wait > 0.0:
            with pytest.raises(RateLimitExceededError) as refused:
                self.limiter.admit((key,))
            assert refused.value.retry_after == wait
        else:
            self.limiter.admit((key,))
            self.took(key)
        if not shares:
            assert len(self.events) == before
            self.room_since_the_event |= not known
        elif len(self.events) > before:
            assert len(self.events) == before + 1
            assert self.room_since_the_event
            assert self.events[-1].key == key
            assert self.events[-1].max_keys == MAX_KEYS
            self.room_since_the_event = False
        else:
            assert self.events

    @rule(key=st.sampled_from(KEYS))
    def call_that_pays_by_outcome(self, key: str) -> None:
        if self.full_again(key) + 1.0 - BURST > self.clock.now():
            return
        if not self.shares(key) and self.full_at.get(key, 0.0) <= self.clock.now():
            self.room_since_the_event = True
        permit: Any = self.payers.admit((key,))
        if self.shares(key):
            self.room_since_the_event = False
        self.payers._finish(permit, "outcome")
        self.took(key)

    @invariant()
    def the_table_is_bounded_and_live_keys_are_in_it(self) -> None:
        assert self.live() <= MAX_KEYS
        assert self.limiter.statistics().keys == self.live()
        assert len(self.limiter._machine.table) <= MAX_KEYS

    @invariant()
    def a_peek_sees_the_bucket_that_a_call_would_use(self) -> None:
        for key in KEYS:
            wait = self.full_again(key) + 1.0 - BURST - self.clock.now()
            assert self.limiter.peek(key).retry_after == max(0.0, wait)

    @invariant()
    def every_key_has_one_appointment(self) -> None:
        """Keys that came and went left appointments behind, and each visit of a live key renewed all of them."""
        table = self.limiter._machine.table
        assert sum(map(len, table._appointments.values())) + len(table._due) == len(table.states)


TestKeys = Keys.TestCase
TestKeys.settings = settings(max_examples=35, stateful_step_count=40)
