"""One timer for many deadlines: at most one armed per event loop and clock, for the earliest slot.

Deadlines are rounded up to slots of 10 ms, or of 2 % of their length where that is more, so they are never early, at
most that much late, and share slots. Setting and clearing one costs a set operation; the event loop's own heap sees a
timer only when a new slot is earlier than the armed one. Slots that have emptied are dropped when the timer rings.
The idea is that of hashed timing wheels (Varghese and Lauck, 1987), without the wheel.

A timer that rings late tells of a loop that was blocked, and then what has arrived meanwhile lies there unseen. It is
let in first: deadlines fire a few turns of the loop later, so that a caller's own delay is not put down to the
dependency.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import sys
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, Protocol, cast

from ._layer import require_asyncio
from .clock import Clock, TimerHandle

# What `asyncio.current_task(loop)` answers. It is C from 3.12 on; on 3.11 it is Python code around one dict look-up.
current_task: Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else cast("Any", asyncio.tasks)._current_tasks.get
)

PER_SECOND = 100  # the finest slots
_LATE = 0.05  # seconds; an event loop that is not blocked is never this late
_GRACE = 3  # turns of a loop that was: a result wakes a task, and that task the one that waits for it
_LONGEST_TIMER = (
    86_400.0  # event loops do not take arbitrarily long timers; a ring that finds nothing due sets the next
)


class Due(Protocol):
    """What waits for an instant: a `Deadline`, say."""

    when: float  # on the clock of the timers

    def fire(self) -> None:
        """The instant has come."""


Slot = dict[Due, None]  # an ordered set


class Timers:
    """The deadlines of one event loop on one clock. Used by the loop's own thread only."""

    __slots__ = ("__weakref__", "_armed", "_clock", "_handle", "_heap", "loop", "ref", "slots")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self.loop = loop
        self.ref = weakref.ref(self)
        self._clock = clock
        # In the order of arming: at one instant an owner has to fire before the guardians of its child tasks.
        self.slots: dict[int, Slot] = {}
        self._heap: list[int] = []
        self._armed: float = math.inf  # the slot that the timer is set for
        self._handle: TimerHandle | None = None

    def add(self, due: Due, grain: int) -> Slot:
        """Fire `due` when its time has come; to prevent that, take it out of the slot returned."""
        slot = (int(due.when * PER_SECOND) // grain + 1) * grain
        waiting = self.slots.get(slot)
        if waiting is None:
            waiting = self.opened(slot)
        waiting[due] = None
        return waiting

    def opened(self, slot: int) -> Slot:
        """A new slot, with the timer set for it if it is the earliest."""
        waiting: Slot = {}
        self.slots[slot] = waiting
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

    def _ring(self, grace: int = _GRACE) -> None:
        now = self._clock.now()
        if grace and now - self._armed / PER_SECOND > _LATE:
            self.loop.call_soon(self._ring, grace - 1)
            return
        self._handle = None
        self._armed = math.inf
        while self._heap and self._heap[0] / PER_SECOND <= now:
            slot = self.slots.pop(heapq.heappop(self._heap))
            for due in slot:
                due.fire()
            slot.clear()  # whoever is still busy remembers the slot, and must not keep all the others that were in it
        if not all(self.slots.values()):
            self.slots = {slot: waiting for slot, waiting in self.slots.items() if waiting}
            self._heap = sorted(self.slots)
        if self._heap:
            self._arm(self._heap[0])


# By the identity of the loop, and weakly: what keeps the timers of a loop alive is the timer that is set in it. They go
# with the loop, and with them the tasks that were pending when it was closed.
_all: weakref.WeakValueDictionary[tuple[int, Clock], Timers] = weakref.WeakValueDictionary()


def timers_of(loop: asyncio.AbstractEventLoop, clock: Clock) -> Timers:
    """The timers of a loop."""
    timers = _all.get((id(loop), clock))
    if timers is None or timers.loop is not loop:
        timers = _all[id(loop), clock] = Timers(loop, clock)
    return timers


def grain_of(seconds: float) -> int:
    """The slot size for a deadline of that length, in finest slots: the largest power of two within 2 % of it."""
    return 1 << max(int(2.0 * seconds).bit_length() - 1, 0)


def running_task() -> tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]:
    """The running event loop and task; RuntimeError where there is none, because there would be nothing to cancel."""
    try:
        task = current_task(loop := asyncio.get_running_loop())
    except RuntimeError:
        no_task()
    if task is None:
        no_task()
    return loop, task


def no_task() -> NoReturn:
    """Raise RuntimeError: a time limit has no task here that it could cut off."""
    require_asyncio()
    raise RuntimeError("Timeout must be used inside a task")
