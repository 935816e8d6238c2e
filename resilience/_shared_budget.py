"""A retry budget shared through a store: a brake for all instances together, that no retry ever waits for.

What is counted here is told in the background, and the answer brings the counts of everybody. A retry is decided at
once, on those and on what was counted here since. So the share of retries is that of all instances, late by one round
trip: between two answers each instance may allow at most what it could have allowed alone with the last of them. When
the store does not answer for as long as the window, what was counted here is all there is.
"""

from __future__ import annotations

from collections import deque

from ._courier import Operation
from ._ledger import BUCKETS, Reply
from .clock import Clock
from .store import Store

_PAUSE = 0.1  # seconds between two reports of first attempts; a retry is told at once
_PATIENCE = 1.0  # seconds after which a report counts as lost
_MOST = 100_000  # attempts waiting to be told


class SharedAccount:
    """The store's part of a budget."""

    def __init__(self, store: Store, name: str, window: float, clock: Clock) -> None:
        self.store = store
        self._name = name
        self._width = window / BUCKETS
        self._clock = clock
        self._untold: deque[bool] = deque(maxlen=_MOST)  # False: a first attempt, True: a retry
        self._telling_until = self._next_report = self._heard_until = -float("inf")
        self._totals = (0.0, 0.0)
        self._under_way = (0, 0)

    def count_locked(self, retry: bool) -> None:
        """One more first attempt, or retry."""
        self._untold.append(retry)

    def refresh(self) -> None:
        """Hear what the others have counted, where that costs no time."""
        if self.store.immediate:
            self.store.tell(self)

    def tell(self, now: float, retry: bool) -> None:
        """Say so, if it is time."""
        if now >= self._telling_until and (retry or now >= self._next_report):
            self._telling_until = now + _PATIENCE
            self._next_report = now + _PAUSE
            self.store.tell(self)

    def counts(self, now: float) -> tuple[float, float] | None:
        """First attempts and retries of all instances inside the window; None if nobody knows."""
        if now >= self._heard_until or self.store.refuses:
            return None
        untold = tuple(self._untold)
        retries = sum(untold) + self._under_way[1]
        return (
            self._totals[0] + len(untold) - sum(untold) + self._under_way[0],
            self._totals[1] + retries,
        )

    # -- as a report ---------------------------------------------------------------------------------------------------

    def operation(self) -> Operation | None:
        deposits = withdrawals = 0
        while self._untold:
            if self._untold.popleft():
                withdrawals += 1
            else:
                deposits += 1
        self._under_way = (deposits, withdrawals)
        arguments = (self._width, float(deposits), float(withdrawals))
        return Operation("budget", "exchange", self._name, "none", arguments)

    def heard(self, reply: Reply) -> None:
        self._totals = (reply[0], reply[1])
        self._under_way = (0, 0)
        self._heard_until = self._clock.now() + self._width * BUCKETS
        self._telling_until = -float("inf")

    def lost(self) -> None:
        self._under_way = (0, 0)
        self._telling_until = -float("inf")

    def forked(self) -> None:
        """What the parent has not told is its own to tell."""
        self._untold.clear()
        self.lost()
