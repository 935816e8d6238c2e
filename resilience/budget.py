"""Retry budget: a limit on retries as a share of the first attempts, so that an outage is not met with a storm.

Over a sliding window, retries may be `ratio` of the first attempts, and `minimum_per_second` on top so that little
traffic can retry at all::

    allowed = ratio · first attempts + minimum_per_second · window        over the last `window` seconds

Every first attempt deposits, every retry withdraws when it is decided; nothing is refunded. The idea is that of
Finagle's RetryBudget and of the client throttling in the Google SRE book (chapter "Handling Overload").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from . import _arguments
from ._machine import Machine
from ._shared_budget import SharedAccount
from .clock import Clock, checked
from .store import Store, checked_store

_BUCKETS = 10


@dataclass(frozen=True, slots=True)
class RetryBudgetStatistics:
    """Inside the window: first attempts, retries, and how many more are allowed; `refused` counts since ever."""

    deposits: int
    withdrawals: int
    balance: float
    refused: int


class _Account(Machine):
    """Two counts in each of ten buckets; what leaves the window leaves it a bucket at a time."""

    __slots__ = ("_buckets", "_edge", "_index", "_width", "deposits", "refused", "shared", "withdrawals")

    def __init__(self, width: float) -> None:
        super().__init__()
        self._width = width
        self._buckets = [[0, 0] for _ in range(_BUCKETS)]
        self._index = 0
        self._edge = -math.inf
        self.deposits = self.withdrawals = self.refused = 0
        self.shared: SharedAccount | None = None

    def forked(self) -> None:
        super().forked()
        if self.shared is not None:
            self.shared.forked()

    def bucket_locked(self, now: float) -> list[int]:
        if now >= self._edge:
            index = math.floor(now / self._width)
            for step in range(min(index - self._index, _BUCKETS)):
                bucket = self._buckets[(index - step) % _BUCKETS]
                self.deposits -= bucket[0]
                self.withdrawals -= bucket[1]
                bucket[:] = (0, 0)
            self._index = index
            self._edge = (index + 1) * self._width
        return self._buckets[self._index % _BUCKETS]


class RetryBudget:
    """A shared allowance for retries; give the same object to several `Retry` layers.

    `ratio` is retries per first attempt, `minimum_per_second` the retries per second allowed regardless of traffic,
    `window` the seconds looked back on. With a `store` all budgets of that `name` are one; see `_shared_budget.py` for
    how exactly.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        minimum_per_second: float = 1.0,
        window: float | timedelta = 10.0,
        name: str | None = None,
        *,
        store: Store | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.ratio = _arguments.number("ratio", ratio, zero=True, maximum=1000.0)
        self.minimum_per_second = _arguments.number("minimum_per_second", minimum_per_second, zero=True)
        self.window = _arguments.seconds("window", window)
        if self.window < 1e-3:  # the number of a bucket must stay within what a float can tell apart
            raise ValueError(f"window must be at least 0.001 s, not {_arguments.shown(window)}")
        self.name = _arguments.text("name", name)
        self._clock = checked(clock)
        self._free = self.minimum_per_second * self.window
        if self.ratio == 0.0 and self._free < 1.0:
            raise ValueError(
                "ratio must be above 0 if minimum_per_second * window is below 1, or nothing is ever retried"
            )
        self._account = _Account(self.window / _BUCKETS)
        store = checked_store(store, self.name)
        self._shared = None if store is None else SharedAccount(store, str(self.name), self.window, self._clock)
        self._account.shared = self._shared

    def deposit(self) -> None:
        """Record a first attempt."""
        account, shared, now = self._account, self._shared, self._clock.now()
        with account.lock:
            account.bucket_locked(now)[0] += 1
            account.deposits += 1
            if shared is not None:
                shared.count_locked(retry=False)
        if shared is not None:
            shared.tell(now, retry=False)

    def withdraw(self) -> bool:
        """Take the allowance for one retry; False if there is none left."""
        account, shared = self._account, self._shared
        if shared is not None:
            shared.refresh()
        now = self._clock.now()
        with account.lock:
            bucket = account.bucket_locked(now)
            if self._balance_locked(now) < 1.0 - 1e-9:
                account.refused += 1
                return False
            bucket[1] += 1
            account.withdrawals += 1
            if shared is not None:
                shared.count_locked(retry=True)
        if shared is not None:
            shared.tell(now, retry=True)
        return True

    def statistics(self) -> RetryBudgetStatistics:
        """A consistent snapshot."""
        account, now = self._account, self._clock.now()
        with account.lock:
            account.bucket_locked(now)
            return RetryBudgetStatistics(
                account.deposits, account.withdrawals, max(0.0, self._balance_locked(now)), account.refused
            )

    def __repr__(self) -> str:
        return (
            f"<RetryBudget {self.name or 'unnamed'}: {self.ratio:g} of first attempts"
            f" and {self.minimum_per_second:g} a second>"
        )

    def _balance_locked(self, now: float) -> float:
        deposits: float = self._account.deposits
        withdrawals: float = self._account.withdrawals
        if self._shared is not None:
            if not self._shared.store.available:
                match self._shared.store.on_error:
                    case "open":
                        return math.inf
                    case "closed":
                        return 0.0
                    case _:
                        pass
            deposits, withdrawals = self._shared.counts(now) or (deposits, withdrawals)
        return self.ratio * deposits + self._free - withdrawals


def checked_budget(value: Any) -> RetryBudget | None:
    """A RetryBudget or None."""
    if value is not None and not isinstance(value, RetryBudget):
        raise TypeError(f"budget must be a RetryBudget or None, not {_arguments.shown(value)}")
    return value
