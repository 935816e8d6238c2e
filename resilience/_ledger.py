"""What a store keeps for a shared policy: one small machine for each kind, whose every operation is atomic.

Pure arithmetic, without locks, clocks or chance: the store says what time it is, the caller sends its settings along,
so instances share a state but no configuration. An operation answers with a tuple of floats. `expires_at` is the
instant, in the store's time, from which on the machine is as good as new and may be forgotten.

A store in another process runs these machines in its own language; what is here is the reference.

* `Cells`, a rate limit: GCRA as in `_limits.py`, one theoretical arrival time for each of the limits taken together.
* `Tallies`, a retry budget: first attempts and retries of the last ten buckets.
* `Leases`, a bulkhead: who holds a slot until when, with a fencing number that only ever grows (Martin Kleppmann,
  "How to do distributed locking", 2016).
"""

from __future__ import annotations

import math
from typing import Protocol

Reply = tuple[float, ...]
Argument = float | str

BUCKETS = 10  # of a budget's window


class Ledger(Protocol):
    """A machine; its verbs are methods `verb(now, *arguments)` that answer with a Reply."""

    expires_at: float

    def forked(self) -> None:
        """In the child of a fork: what the parent's calls hold is not the child's."""
        ...


class Cells:
    """The arrival times of one key. Limits come as triples: interval, tolerance, and the tolerance with its grain."""

    __slots__ = ("expires_at", "tats")

    def __init__(self) -> None:
        self.tats: list[float] = []
        self.expires_at = -math.inf

    def take(self, now: float, take: float, cost: float, max_wait: float, left: float, *limits: float) -> Reply:
        """Take `cost` for the first instant within `max_wait` and `left` seconds; only look unless `take` is 1.

        Answers: whether that can be, the seconds until then, the largest cost that could start now and the seconds
        until a cost of 1 could (after the decision), the seconds until all is back, the arrival times, and those
        before.
        """
        rules = [limits[place : place + 3] for place in range(0, len(limits), 3)]
        self._fit(len(rules), now)
        before = self.tats
        start = self._earliest(rules, now, cost)
        wait = start - now
        admitted = wait <= max_wait and wait <= left
        if admitted and take:
            self.tats = [max(tat, start) + cost * rule[0] for tat, rule in zip(before, rules, strict=True)]
            self.expires_at = max(self.tats)
        tats = self.tats
        room = min(max(0.0, (rule[2] - max(0.0, tat - now)) / rule[0]) for rule, tat in zip(rules, tats, strict=True))
        next_one = self._earliest(rules, now, 1.0) - now
        return (float(admitted), wait, room, next_one, max(0.0, max(tats) - now), *tats, *before)

    def charge(self, now: float, cost: float, *intervals: float) -> Reply:
        """Take `cost` after the fact, even if that leaves a debt."""
        self._fit(len(intervals), now)
        self.tats = [max(tat, now) + cost * interval for tat, interval in zip(self.tats, intervals, strict=True)]
        self.expires_at = max(self.tats)
        return ()

    def refund(self, now: float, *marks: float) -> Reply:
        """Undo the newest `take`, known by the arrival times after it, with those before it behind them.

        An earlier one forfeits its slot.
        """
        count = len(marks) // 2
        if tuple(self.tats) != marks[:count]:
            return (0.0,)
        self.tats = list(marks[count:])
        self.expires_at = max(self.tats)
        return (1.0,)

    def reset(self, now: float) -> Reply:
        """Give the full burst back."""
        self.tats, self.expires_at = [], -math.inf
        return ()

    def forked(self) -> None:
        """Tokens are spent for good."""

    def _fit(self, count: int, now: float) -> None:
        """As many arrival times as there are limits; a limiter that was given other limits starts anew."""
        if len(self.tats) != count:
            self.tats = [now] * count

    def _earliest(self, rules: list[tuple[float, ...]], now: float, cost: float) -> float:
        start = now
        for (interval, tolerance, allowance), tat in zip(rules, self.tats, strict=True):
            after = max(tat, now) + cost * interval
            if after - now > allowance:
                start = max(start, after - tolerance)
        return start


class Tallies:
    """First attempts and retries, by the number of the bucket they fell into."""

    __slots__ = ("buckets", "expires_at")

    def __init__(self) -> None:
        self.buckets: dict[int, list[float]] = {}
        self.expires_at = -math.inf

    def exchange(self, now: float, width: float, deposits: float, withdrawals: float) -> Reply:
        """Add what one instance has counted; answers with the sums of all over the last ten buckets."""
        index = math.floor(now / width)
        for old in [number for number in self.buckets if number <= index - BUCKETS]:
            del self.buckets[old]
        if deposits or withdrawals:
            bucket = self.buckets.setdefault(index, [0.0, 0.0])
            bucket[0] += deposits
            bucket[1] += withdrawals
            self.expires_at = (index + BUCKETS) * width
        return (
            sum(bucket[0] for bucket in self.buckets.values()),
            sum(bucket[1] for bucket in self.buckets.values()),
        )

    def forked(self) -> None:
        """What was counted stays counted."""


class Leases:
    """The slots that are out: whose, and until when."""

    __slots__ = ("expires_at", "fence", "leases")

    def __init__(self) -> None:
        self.leases: dict[str, float] = {}
        self.fence = 0.0
        self.expires_at = -math.inf

    def acquire(self, now: float, owner: str, seconds: float, capacity: float) -> Reply:
        """A slot for `owner` for so many seconds; asking twice renews.

        Answers: whether there is one, its fencing number, the slots in use, and the seconds until one expires.
        """
        self._pass_time(now)
        if owner in self.leases or len(self.leases) < capacity:
            # The time in microseconds is a floor, so that the numbers grow on when this machine was forgotten.
            self.fence = max(self.fence + 1.0, float(math.floor(now * 1e6)))
            self._lease(owner, now + seconds)
            return (1.0, self.fence, float(len(self.leases)), 0.0)
        return (0.0, 0.0, float(len(self.leases)), min(self.leases.values()) - now)

    def renew(self, now: float, seconds: float, *owners: str) -> Reply:
        """Longer leases for those that still have one; answers who does."""
        self._pass_time(now)
        held = [owner in self.leases for owner in owners]
        for owner, has_one in zip(owners, held, strict=True):
            if has_one:
                self._lease(owner, now + seconds)
        return tuple(map(float, held))

    def release(self, now: float, *owners: str) -> Reply:
        """Give slots back; those that have expired are nobody's business any more."""
        for owner in owners:
            self.leases.pop(owner, None)
        return ()

    def count(self, now: float) -> Reply:
        """The slots in use."""
        self._pass_time(now)
        return (float(len(self.leases)),)

    def forked(self) -> None:
        self.leases.clear()

    def _lease(self, owner: str, until: float) -> None:
        self.leases[owner] = until
        self.expires_at = max(self.expires_at, until)

    def _pass_time(self, now: float) -> None:
        for owner in [owner for owner, until in self.leases.items() if until <= now]:
            del self.leases[owner]
