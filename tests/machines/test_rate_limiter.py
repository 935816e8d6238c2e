"""The rate limiter against token buckets that are simulated from scratch.

All numbers are dyadic fractions, on which floats are exact, so the two must agree to the last bit: every decision, wait
and `peek`. The model keeps the list of what was taken and replays it for every question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from resilience import (
    CallRejectedError,
    DeadlineExceededError,
    Rate,
    RateLimiter,
    RateLimitExceededError,
    Reservation,
    Verdict,
)
from resilience._wait import Wait
from resilience.deadline import Deadline, ambient
from resilience.testing import ManualClock

KEYS = ("a", "b", "c")
COSTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 2.0, 3.0, 5.0, 100.0])
RATES = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])
PERIODS = st.sampled_from([1.0, 2.0, 4.0])
BURSTS = st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0])
STEPS = st.integers(0, 64).map(lambda eighths: eighths / 8)
INDEX = st.integers(0, 1000)


class Bucket:
    """One limit of one key: tokens at a time, found by replaying what was taken since `base`."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second = per_second
        self.burst = burst
        self.base = (0.0, burst)

    def tokens(self, taken: list[tuple[float, float]], at: float) -> float:
        time, level = self.base
        for start, cost in taken:
            level = min(self.burst, level + (start - time) * self.per_second) - cost
            time = start
        return min(self.burst, level + (at - time) * self.per_second)


class Account:
    """One key: its buckets, and the list of (start, cost) that all of them replay."""

    def __init__(self, buckets: list[Bucket]) -> None:
        self.buckets = buckets
        self.taken: list[tuple[float, float]] = []
        self.handles: list[object] = []  # who made the entry; parallel to `taken`
        self.history: list[tuple[float, float]] | None = []  # None once debts or changes break the promise

    def newest(self, now: float) -> float:
        return max([now, *(start for start, _ in self.taken), *(bucket.base[0] for bucket in self.buckets)])

    def earliest(self, now: float, cost: float) -> float | None:
        if any(cost > bucket.burst for bucket in self.buckets):
            return None
        at = self.newest(now)
        waits = [(cost - bucket.tokens(self.taken, at)) / bucket.per_second for bucket in self.buckets]
        return at + max([0.0, *waits])

    def take(self, start: float, cost: float, handle: object) -> None:
        self.taken.append((start, cost))
        self.handles.append(handle)
        if self.history is not None:
            self.history.append((start, cost))

    def full_at(self, now: float) -> float:
        at = self.newest(now)
        return max(at + (b.burst - b.tokens(self.taken, at)) / b.per_second for b in self.buckets)

    def full(self, now: float) -> bool:
        return not (self.newest(now) > now or self.full_at(now) > now)


class Limiters(RuleBasedStateMachine):
    """One shared state, used through variants: at once, waiting, of constant cost, paying by outcome."""

    also: tuple[Rate, ...] = ()
    tiers: dict[str, float] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(1024.0)
        self.rate, self.period, self.burst = 2.0, 1.0, 2.0
        self.limiter = RateLimiter(
            self.rate if self.tiers is None else by_key(self.tiers),
            self.period,
            burst=self.burst,
            also=self.also,
            key=lambda key, cost=1.0: key,
            cost=lambda key, cost=1.0: cost,
            clock=self.clock,
        )
        self.ones = self.limiter.with_(cost=1)
        self.halves = self.limiter.with_(cost=0.5, max_wait=2)
        self.payers = self.limiter.with_(charge_if=lambda outcome: True)
        self.rates: dict[str, float] = dict.fromkeys(KEYS, self.rate) if self.tiers is None else dict(self.tiers)
        self.accounts: dict[Hashable, Account] = {}
        self.waits: list[tuple[str, Any]] = []
        self.charges: list[tuple[str, Any, float]] = []
        self.rejected = 0

    # -- the model -----------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.clock.now()

    def account(self, key: str) -> Account:
        if key not in self.accounts:
            first = Bucket(self.rates[key] / self.period, self.burst)
            more = [Bucket(r.limit / r.seconds, r.burst or r.limit) for r in self.also]
            self.accounts[key] = Account([first, *more])
        return self.accounts[key]

    def expect(self, key: str, cost: float, limit: float, left: float | None = None) -> float | type[Exception]:
        """The start of a call, or the error that refuses it."""
        start = self.account(key).earliest(self.now, cost)
        if start is None or start - self.now > limit:
            return RateLimitExceededError
        return start if left is None or start - self.now <= left else DeadlineExceededError

    def agree(self, key: str, cost: float, expected: Any, outcome: Any) -> None:
        """Compare what happened with what was expected, and take over what was taken."""
        account, now = self.account(key), self.now
        if isinstance(expected, float):
            assert not isinstance(outcome, Exception), outcome
            seconds: Any = outcome.seconds if type(outcome) is Wait else getattr(outcome, "delay", 0.0)
            assert now + seconds == expected
            account.take(expected, cost, outcome if type(outcome) in (Wait, Reservation) else None)
            if type(outcome) in (Wait, Reservation):
                self.waits.append((key, outcome))
            return
        assert type(outcome) is expected, outcome
        self.rejected += 1
        start = account.earliest(now, cost)
        assert outcome.retry_after == (None if start is None else start - now)
        if expected is RateLimitExceededError:
            self.agree_on_what_is_left(account, outcome.limit, outcome.remaining, outcome.reset_after)

    def agree_on_what_is_left(self, account: Account, limit: Any, remaining: Any, reset_after: Any) -> None:
        now = self.now
        assert limit == min(bucket.burst for bucket in account.buckets)
        least = min(bucket.tokens(account.taken, account.newest(now)) for bucket in account.buckets)
        assert remaining == (max(0, math.floor(least)) if account.newest(now) == now else 0)
        assert reset_after == max(0, account.full_at(now) - now)

    # -- calls ---------------------------------------------------------------------------------------------------------

    @rule(seconds=STEPS)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(key=st.sampled_from(KEYS), cost=COSTS)
    def call(self, key: str, cost: float) -> None:
        expected = self.expect(key, cost, 0.0)
        self.agree(key, cost, expected, outcome_of(self.limiter.admit, (key, cost)))

    @rule(key=st.sampled_from(KEYS), times=st.integers(1, 4))
    def call_of_constant_cost(self, key: str, times: int) -> None:
        for _ in range(times):
            expected = self.expect(key, 1.0, 0.0)
            self.agree(key, 1.0, expected, outcome_of(self.ones.admit, (key,)))

    @rule(key=st.sampled_from(KEYS))
    def call_that_waits(self, key: str) -> None:
        expected = self.expect(key, 0.5, 2.0)
        self.agree(key, 0.5, expected, outcome_of(self.halves.admit, (key,)))

    @rule(key=st.sampled_from(KEYS), left=STEPS)
    def call_with_a_deadline(self, key: str, left: float) -> None:
        expected = self.expect(key, 0.5, 2.0, left)
        token = ambient.set(Deadline(self.clock.now() + left, self.clock))
        try:
            outcome = outcome_of(self.halves.admit, (key,))
        finally:
            ambient.reset(token)
        self.agree(key, 0.5, expected, outcome)

    @rule(key=st.sampled_from(KEYS), cost=COSTS, limit=st.none() | STEPS)
    def reserve(self, key: str, cost: float, limit: float | None) -> None:
        expected = self.expect(key, cost, math.inf if limit is None else limit)
        self.agree(key, cost, expected, outcome_of(self.limiter.reserve, key, cost, limit))

    @rule()
    def exempt_call(self) -> None:
        assert not isinstance(outcome_of(self.limiter.admit, (None, 100.0)), Exception)

    @precondition(lambda self: self.waits)
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        """The newest returns its tokens, an earlier one forfeits its slot, and once is enough."""
        key, handle = self.waits.pop(index % len(self.waits))
        account = self.account(key)
        newest = bool(account.handles) and account.handles[-1] is handle
        forgotten = account.full(self.now)  # perhaps: then there is nothing left to return
        if newest:
            account.handles.pop()
            account.taken.pop()
            if account.history is not None:
                account.history.pop()
        elif any(entry is handle for entry in account.handles):
            account.handles[[entry is handle for entry in account.handles].index(True)] = None
        if type(handle) is Wait:
            self.halves._forsake(handle)
        else:
            assert handle.cancel() is newest or forgotten
            assert handle.cancel() is False

    # -- paying by outcome ---------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), cost=COSTS)
    def call_that_may_pay(self, key: str, cost: float) -> None:
        expected = self.expect(key, cost, 0.0)
        outcome = outcome_of(self.payers.admit, (key, cost))
        if isinstance(expected, float):
            self.charges.append((key, outcome, cost / (1.0 if self.tiers is None else self.rates[key])))
        else:
            self.agree(key, cost, expected, outcome)

    @precondition(lambda self: self.charges)
    @rule(index=INDEX, pays=st.booleans())
    def settle(self, index: int, pays: bool) -> None:
        key, charge, cost = self.charges.pop(index % len(self.charges))
        self.payers._finish(charge, "outcome") if pays else self.payers.settle(charge, Verdict.ABANDONED)
        if pays:
            account = self.account(key)
            # What a call pays after the fact is the price of its tier when it began.
            paid = cost * (1.0 if self.tiers is None else self.rates[key])
            account.take(account.newest(self.now), paid, None)
            account.history = None

    # -- changes -------------------------------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS))
    def reset(self, key: str) -> None:
        self.limiter.reset(key)
        self.accounts.pop(key, None)

    @precondition(lambda self: not (self.also and any(a.newest(self.now) > self.now for a in self.accounts.values())))
    @rule(rate=st.none() | RATES, period=st.none() | PERIODS, burst=st.none() | BURSTS)
    def update(self, rate: float | None, period: float | None, burst: float | None) -> None:
        """Tokens used stay used up to the burst; after reserved slots the bucket is empty."""
        if rate is not None:
            self.rates = {key: rate if self.tiers is None else rate * self.tiers[key] for key in KEYS}
        self.limiter.update(rate if self.tiers is None or rate is None else by_key(self.rates), period, burst)
        self.period, self.burst = period or self.period, burst or self.burst
        for key, account in self.accounts.items():
            at = account.newest(self.now)
            for bucket in account.buckets:
                bucket.base = (at, bucket.tokens(account.taken, at))
            account.taken, account.handles, account.history = [], [], None
            bucket = account.buckets[0]
            at, level = bucket.base
            if at > self.now or level < 0:
                bucket.base = (at - level / bucket.per_second, 0.0)
            else:
                bucket.base = (at, max(0, self.burst - (bucket.burst - level)))
            bucket.per_second, bucket.burst = self.rates[str(key)] / self.period, self.burst

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def a_peek_sees_what_is_left_and_changes_nothing(self) -> None:
        for key in KEYS:
            first, second = self.limiter.peek(key), self.limiter.peek(key)
            assert first == second
            account, now = self.account(key), self.now
            self.agree_on_what_is_left(account, first.limit, first.remaining, first.reset_after)
            earliest = account.earliest(now, 1)
            assert earliest is not None
            assert first.retry_after == earliest - now

    @invariant()
    def the_statistics_count_live_keys(self) -> None:
        statistics = self.limiter.statistics()
        assert statistics.keys == sum(not account.full(self.now) for account in self.accounts.values())
        assert statistics.rejected == self.rejected
        assert not statistics.overflowing
        assert self.limiter.at_rest == (statistics.keys == 0)

    @invariant()
    def no_window_holds_more_than_the_rate_allows(self) -> None:
        for account in self.accounts.values():
            if account.history:
                last = account.history[-1][0]
                total = 0.0
                for start, cost in reversed(account.history):
                    total += cost
                    for bucket in account.buckets:
                        assert total <= bucket.burst + (last - start) * bucket.per_second


class LimitersWithMore(Limiters):
    also = (Rate(4.0, 8.0), Rate(8.0, 32.0, 4.0))


class LimitersByTier(Limiters):
    tiers = {"a": 0.5, "b": 2.0, "c": 4.0}  # noqa: RUF012


def by_key(rates: dict[str, float]) -> Callable[[Any], float]:
    kept = dict(rates)
    return lambda key: kept[key]


def outcome_of(fn: Any, *args: Any) -> Any:
    try:
        return fn(*args)
    except CallRejectedError as error:
        return error


@pytest.mark.parametrize("machine", [Limiters, LimitersWithMore, LimitersByTier])
def test_a_limiter_agrees_with_token_buckets_to_the_last_bit(machine: type[Limiters]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=30))
