"""Sliding windows over call outcomes: the last N calls, or the last T seconds. O(1) per record, fixed memory.

`CountWindow` and `TimeWindow` are what users write; `start()` makes the counter that a breaker keeps. Both counters
know the calls, failures and slow calls inside the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from . import _arguments


class Counts(Protocol):
    """What a breaker asks of its window."""

    calls: int
    failures: int
    slow: int
    edge: float  # before this instant a success may be counted as `calls += 1; current[0] += 1`
    current: list[int]

    def record(self, now: float, failed: bool, slow: bool) -> None: ...

    def catch_up(self, now: float) -> None: ...


@dataclass(frozen=True)
class CountWindow:
    """The last `size` calls."""

    size: int

    def __post_init__(self) -> None:
        _arguments.count("CountWindow.size", self.size)
        if self.size > 1_000_000:
            raise ValueError(f"CountWindow.size must be at most 1000000, not {self.size}")

    def start(self) -> Counts:
        return _LastCalls(self.size)


@dataclass(frozen=True)
class TimeWindow:
    """The last `seconds`, in `buckets` steps: what leaves the window leaves it a bucket at a time.

    The window reaches back at least `seconds * (1 - 1/buckets)` and at most `seconds`.
    """

    seconds: float
    buckets: int

    def __init__(self, seconds: float | timedelta, buckets: int = 10) -> None:
        object.__setattr__(self, "seconds", _arguments.seconds("TimeWindow.seconds", seconds))
        object.__setattr__(self, "buckets", _arguments.count("TimeWindow.buckets", buckets))
        if buckets > 10_000:
            raise ValueError(f"TimeWindow.buckets must be at most 10000, not {buckets}")
        if self.seconds / buckets < 1e-6:  # far below, the numbers of the buckets would overflow
            raise ValueError(f"TimeWindow.seconds must be at least a microsecond per bucket, not {self.seconds}")

    def start(self) -> Counts:
        return _LastSeconds(self.seconds / self.buckets, self.buckets)


class _LastCalls:
    __slots__ = ("_marks", "_next", "_size", "calls", "current", "edge", "failures", "slow")

    def __init__(self, size: int) -> None:
        self._marks = bytearray(size)  # bit 0: failed, bit 1: slow
        self._size = size
        self._next = 0
        self.edge = -math.inf
        self.current = [0]
        self.calls = self.failures = self.slow = 0

    def record(self, now: float, failed: bool, slow: bool) -> None:
        place = self._next
        if self.calls == self._size:
            leaving = self._marks[place]
            self.failures -= leaving & 1
            self.slow -= leaving >> 1
        else:
            self.calls += 1
        self._marks[place] = failed | slow << 1
        self.failures += failed
        self.slow += slow
        self._next = place + 1 if place + 1 < self._size else 0

    def catch_up(self, now: float) -> None:
        """Nothing leaves a window of calls by the passing of time."""


class _LastSeconds:
    __slots__ = ("_buckets", "_index", "_width", "calls", "current", "edge", "failures", "slow")

    def __init__(self, width: float, buckets: int) -> None:
        self._width = width
        self._buckets = [[0, 0, 0] for _ in range(buckets)]
        self._index = 0  # number of the current bucket, counted from the clock's zero
        self.current = self._buckets[0]
        self.edge = -math.inf  # where the current bucket ends
        self.calls = self.failures = self.slow = 0

    def record(self, now: float, failed: bool, slow: bool) -> None:
        if now >= self.edge:
            self.catch_up(now)
        bucket = self.current
        bucket[0] += 1
        self.calls += 1
        if failed:
            bucket[1] += 1
            self.failures += 1
        if slow:
            bucket[2] += 1
            self.slow += 1

    def catch_up(self, now: float) -> None:
        """Drop the buckets that have left the window by `now`; costs at most one step per bucket."""
        if now < self.edge:
            return
        index = math.floor(now / self._width)
        for step in range(min(index - self._index, len(self._buckets))):
            bucket = self._buckets[(index - step) % len(self._buckets)]
            self.calls -= bucket[0]
            self.failures -= bucket[1]
            self.slow -= bucket[2]
            bucket[:] = (0, 0, 0)
        self._index = index
        self.current = self._buckets[index % len(self._buckets)]
        self.edge = (index + 1) * self._width
