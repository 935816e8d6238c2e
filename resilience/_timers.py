"""One timer for many deadlines: at most one armed per event loop and clock, for the earliest slot.

Deadlines are rounded up to slots of 10 ms, or of 2 % of their length where that is more, so they are never early, at
most that much late, and share slots. Setting and clearing one costs a set operation; the event loop's own heap sees a
timer only when a new slot is earlier than the armed one. Slots that have emptied are dropped when the timer rings.
The idea is that of hashed timing wheels (Varghese and Lauck, 1987), without the wheel.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import sys
from collections.abc import Callable
from typing import Any, cast

from .clock import Clock, TimerHandle
from .deadline import Deadline

# What `asyncio.current_task(loop)` answers. It is C from 3.12 on; on 3.11 it is Python code around one dict look-up.
current_task: Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else cast("Any", asyncio.tasks)._current_tasks.get
)

PER_SECOND = 100  # the finest slots
_LONGEST_TIMER = (
    86_400.0  # event loops do not take arbitrarily long timers; a ring that finds nothing due sets the next
)


class Timers:
    """The deadlines of one event loop on one clock. Used by the loop's own thread only."""

    __slots__ = ("_armed", "_clock", "_handle", "_heap", "loop", "slots")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.loop = loop
        self._clock = clock
        self.slots: dict[int, set[Deadline]] = {}
        self._heap: list[int] = []
        self._armed: float = math.inf  # the slot that the timer is set for
        self._handle: TimerHandle | None = None

    def add(self, deadline: Deadline, grain: int) -> set[Deadline]:
        """Fire `deadline` when its time has come; to prevent that, discard it from the set returned."""
        slot = (int(deadline.when * PER_SECOND) // grain + 1) * grain
        waiting = self.slots.get(slot)
        if waiting is None:
            waiting = self.opened(slot)
        waiting.add(deadline)
        return waiting

    def opened(self, slot: int) -> set[Deadline]:
        """A new slot, with the timer set for it if it is the earliest."""
        waiting = self.slots[slot] = set()
        heapq.heappush(self._heap, slot)
        if slot < self._armed:
            self._arm(slot)
        return waiting

    def _arm(self, slot: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = slot
        delay = min(slot / PER_SECOND - self._clock.now(), _LONGEST_TIMER)
        self._handle = self._clock.call_later(self.loop, max(0.0, delay), self._ring)

    def _ring(self) -> None:
        self._handle = None
        self._armed = math.inf
        now = self._clock.now()
        while self._heap and self._heap[0] / PER_SECOND <= now:
            for deadline in self.slots.pop(heapq.heappop(self._heap)):
                deadline.fire()
        if not all(self.slots.values()):
            self.slots = {slot: waiting for slot, waiting in self.slots.items() if waiting}
            self._heap = sorted(self.slots)
        if self._heap:
            self._arm(self._heap[0])


_all: dict[tuple[asyncio.AbstractEventLoop, Clock], Timers] = {}


def timers_of(loop: asyncio.AbstractEventLoop, clock: Clock) -> Timers:
    """The timers of a loop; those of closed loops are forgotten on the way."""
    timers = _all.get((loop, clock))
    if timers is None:
        for known in [key for key in list(_all) if key[0].is_closed()]:
            _all.pop(known, None)
        timers = _all[loop, clock] = Timers(loop, clock)
    return timers


def grain_of(seconds: float) -> int:
    """The slot size for a deadline of that length, in finest slots: the largest power of two within 2 % of it."""
    return 1 << max(int(2.0 * seconds).bit_length() - 1, 0)
