"""The arithmetic of rate limits. No locks, no clock, no waiting: times come in as numbers.

**GCRA** (the generic cell rate algorithm, ITU-T I.371 Annex A, as a virtual scheduling algorithm) keeps one float per
key, the *theoretical arrival time* ``tat``: the instant at which the bucket will be full again. With interval
``T = period / rate`` and tolerance ``τ = burst · T``, a call of cost ``c`` may start at ``max(tat, now) + c·T - τ``
at the earliest, and moves ``tat`` on by ``c·T``. A call may come up to ``min(0.01·T, 2.4e-7 s · burst)`` early, which
never adds up: adding intervals to a large time rounds, and without this grain a full burst at one instant could come
out one call short. So bursts are exact while the clock is below 2**31 s and ``burst · rate · ulp(now) <= 0.02`` (13,000
a second with as large a burst after 12 days of uptime, 800 after 6 years). Beyond that they are off by up to half that
product, in calls, and a cost below ``ulp(now) / 2T`` no longer counts (0.06 calls at 1e9 a second after 12 days).

**The sliding window log** keeps the start of every call of the last `window` seconds: never more than `limit` in any
window, at O(limit) memory per key.

Both answer the same four questions: when may a call start, what is the state after it, what was it before, and when
is the state as good as new.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from . import _arguments

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Rate:
    """`limit` calls per `period` seconds, of which `burst` (default: `max(1, limit)`) may come at once."""

    limit: float
    period: float | timedelta = 1.0
    burst: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", _arguments.number("limit", self.limit))
        object.__setattr__(self, "period", _arguments.seconds("period", self.period))
        if self.burst is not None:
            object.__setattr__(self, "burst", _arguments.number("burst", self.burst, minimum=1.0))
        if not 1e-300 < self.limit / self.seconds < 1e300:
            raise ValueError(
                f"limit must be between 1e-300 and 1e300 calls per second, not {self.limit} in {self.period} s"
            )
        burst = self.burst or 1.0
        if not self.seconds / self.limit * burst < 1e300:
            raise ValueError(
                f"burst must be full again within 1e300 s, not {burst:g} calls at {self.limit:g} in {self.period} s"
            )

    @property
    def seconds(self) -> float:
        """The period in seconds."""
        return self.period.total_seconds() if isinstance(self.period, timedelta) else self.period


@dataclass(frozen=True, slots=True)
class SlidingWindow:
    """At most `limit` calls in any `window` seconds, exactly, at O(limit) memory per key."""

    limit: int
    window: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", _arguments.count("SlidingWindow.limit", self.limit))
        object.__setattr__(self, "window", _arguments.seconds("SlidingWindow.window", self.window))


class Algorithm(Protocol):
    """How one limit treats the state of one key."""

    capacity: float  # the largest cost that can ever pass

    def earliest(self, state: Any, now: float, cost: float) -> float:
        """The first instant, `now` or later, at which a call of `cost` may start."""
        ...

    def taken(self, state: Any, start: float, cost: float) -> Any:
        """The state after a call of `cost` that starts at `start`."""
        ...

    def returned(self, state: Any, before: Any) -> Any:
        """The state after the newest reservation, made in state `before`, was cancelled."""
        ...

    def fresh(self) -> Any:
        """The state of a key that has used nothing."""
        ...

    def mark(self, state: Any) -> object:
        """An object that is there as long as the newest reservation in `state` is the newest."""
        ...

    def rests_at(self, state: Any) -> float:
        """The instant from which on the state equals a fresh one."""
        ...

    def remaining(self, state: Any, now: float) -> float:
        """The largest cost that could start now."""
        ...


class Gcra:
    """One `Rate`, with one float per key."""

    __slots__ = ("allowance", "burst", "capacity", "interval", "rate", "tolerance")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.interval = rate.seconds / rate.limit
        self.burst = max(1.0, rate.limit) if rate.burst is None else rate.burst
        self.capacity = self.burst
        self.tolerance = self.burst * self.interval
        # The grain: half a last place of a time below 2**31 for each call of a burst, and that of the tolerance itself.
        self.allowance = self.tolerance + min(0.01 * self.interval, 2.0**-22 * self.burst + 2.0**-50 * self.tolerance)

    def __repr__(self) -> str:
        return f"{self.rate.limit:g} per {self.rate.seconds:g} s, burst {self.burst:g}"

    def at(self, rate: float) -> Gcra:
        """The same with another rate."""
        return Gcra(Rate(_arguments.number("rate", rate), self.rate.period, self.rate.burst))

    def fresh(self) -> float:
        return -math.inf

    def earliest(self, state: float, now: float, cost: float) -> float:
        after = max(state, now) + cost * self.interval
        return now if after - now <= self.allowance else after - self.tolerance

    def taken(self, state: float, start: float, cost: float) -> float:
        return max(state, start) + cost * self.interval

    def returned(self, state: float, before: float) -> float:
        return before

    def mark(self, state: float) -> object:
        return state

    def rests_at(self, state: float) -> float:
        return state

    def remaining(self, state: float, now: float) -> float:
        return max(0.0, (self.allowance - max(0.0, state - now)) / self.interval)

    def converted(self, state: float, now: float, old: Gcra) -> float:
        """The state of a key when the limit changes from `old` to this one: tokens used stay used, up to the burst.

        Slots reserved for later keep their times; the bucket is empty at the last of them.
        """
        debt = state - now
        if debt <= old.allowance:
            return now + min(max(debt, 0.0) / old.interval * self.interval, self.tolerance)
        return state - old.tolerance + self.tolerance


class SlidingLog:
    """One `SlidingWindow`: the log of starts, oldest first, as a deque of (start, cost)."""

    __slots__ = ("capacity", "window")

    def __init__(self, limit: SlidingWindow) -> None:
        self.capacity = float(limit.limit)
        self.window = limit.window

    def __repr__(self) -> str:
        return f"{self.capacity:g} in any {self.window:g} s"

    def fresh(self) -> deque[tuple[float, float]]:
        return deque()

    def earliest(self, state: deque[tuple[float, float]], now: float, cost: float) -> float:
        # Only what has left the window by now may go. What leaves it before a slot that lies ahead is still needed if
        # that reservation is cancelled.
        while state and state[0][0] + self.window <= now:
            state.popleft()
        # Reservations are served in order by themselves: what holds one up is in the window until its slot comes.
        start = now
        used = sum(spent for _, spent in state)
        for began, spent in state:
            if began + self.window > start:
                if used + cost <= self.capacity:
                    break
                start = began + self.window
            used -= spent
        return start

    def taken(self, state: deque[tuple[float, float]], start: float, cost: float) -> deque[tuple[float, float]]:
        # What is charged after the fact stands behind the slots reserved meanwhile: the log is in order.
        state.append((max(start, state[-1][0]) if state else start, cost))
        return state

    def returned(self, state: deque[tuple[float, float]], before: object) -> deque[tuple[float, float]]:
        state.pop()
        return state

    def mark(self, state: deque[tuple[float, float]]) -> object:
        return state[-1] if state else None

    def rests_at(self, state: deque[tuple[float, float]]) -> float:
        return state[-1][0] + self.window if state else -math.inf

    def remaining(self, state: deque[tuple[float, float]], now: float) -> float:
        return max(0.0, self.capacity - sum(spent for began, spent in state if began + self.window > now))


class All:
    """Several limits taken together or not at all; the state is a tuple of theirs."""

    __slots__ = ("capacity", "limits")

    def __init__(self, limits: tuple[Algorithm, ...]) -> None:
        self.limits = limits
        self.capacity = min(limit.capacity for limit in limits)

    def __repr__(self) -> str:
        return " and ".join(map(repr, self.limits))

    def fresh(self) -> tuple[Any, ...]:
        return tuple(limit.fresh() for limit in self.limits)

    def earliest(self, state: tuple[Any, ...], now: float, cost: float) -> float:
        return max(limit.earliest(part, now, cost) for limit, part in zip(self.limits, state, strict=True))

    def taken(self, state: tuple[Any, ...], start: float, cost: float) -> tuple[Any, ...]:
        return tuple(limit.taken(part, start, cost) for limit, part in zip(self.limits, state, strict=True))

    def returned(self, state: tuple[Any, ...], before: tuple[Any, ...]) -> tuple[Any, ...]:
        for limit, part, was in zip(self.limits, state, before, strict=True):
            limit.returned(part, was)  # a log is put right in place
        return before  # the very object that marks the reservation which is the newest now

    def mark(self, state: tuple[Any, ...]) -> object:
        return state

    def rests_at(self, state: tuple[Any, ...]) -> float:
        return max(limit.rests_at(part) for limit, part in zip(self.limits, state, strict=True))

    def remaining(self, state: tuple[Any, ...], now: float) -> float:
        return min(limit.remaining(part, now) for limit, part in zip(self.limits, state, strict=True))


def ahead(start: float, now: float) -> float:
    """Seconds from `now` to `start`, rounded up: whoever waits for so long has waited long enough."""
    wait = start - now
    return wait if now + wait >= start else math.nextafter(wait, math.inf)


def whole_calls(algorithm: Algorithm, state: Any, now: float) -> int:
    """How many calls of cost 1 could start now; 0 if and only if one would have to wait."""
    if algorithm.earliest(state, now, 1.0) > now:
        return 0
    return max(1, math.floor(algorithm.remaining(state, now) + 1e-9))
