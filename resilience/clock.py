"""Time as an argument: the only module that reads time or sleeps.

A `Clock` has three duties: `now()` (monotonic seconds), `sleep(s)` and `await asleep(s)`. Every policy takes `clock=`;
without it, it uses `SYSTEM`, whose time source can be exchanged at run time for all policies at once
(`resilience.testing.use_clock`). Wall-clock time decides nothing, because it jumps; it only dates new ids.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from ._arguments import shown

# Seconds between two looks of a thread that waits on a clock which can only sleep.
_FIRST_TURN = 0.001
_LONGEST_TURN = 0.01


class TimerHandle(Protocol):
    """What `Clock.call_later` returns: something to cancel."""

    def cancel(self) -> object: ...


class Lockable(Protocol):
    """The part of `threading.Lock` that a thread waits on."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...


class Clock(ABC):
    """A source of monotonic time that can also wait. Subclass it with the three abstract methods."""

    @abstractmethod
    def now(self) -> float:
        """Seconds since some fixed instant; never goes back."""

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Block the calling thread for `seconds`."""

    @abstractmethod
    async def asleep(self, seconds: float) -> None:
        """Suspend the calling task for `seconds`."""

    def wait(self, lock: Lockable, seconds: float | None) -> bool:
        """Block until `lock` could be acquired (True) or `seconds` have passed (False); None waits for ever.

        This one sleeps in short turns, so that the time is this clock's; override it where the two can be had at once.
        """
        if seconds is None:
            return lock.acquire()
        end, turns = self.now() + seconds, _FIRST_TURN
        while not lock.acquire(blocking=False):
            left = end - self.now()
            if left <= 0.0:
                return False
            self.sleep(min(left, turns))
            turns = min(2.0 * turns, _LONGEST_TURN)
        return True

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> TimerHandle:
        """Run `callback` in `loop` (the running one) after `seconds`, on this clock."""

        async def ring() -> None:
            await self.asleep(seconds)
            callback()

        return loop.create_task(ring())


class SystemClock(Clock):
    """The machine's monotonic clock. There is one, `SYSTEM`; tests may put another clock behind it."""

    # A class attribute, so that one assignment exchanges the time of every policy that exists, and so that the common
    # case calls `time.monotonic` itself with nothing in between.
    now = staticmethod(time.monotonic)  # pyright: ignore[reportAssignmentType]
    _behind: Clock | None = None

    def sleep(self, seconds: float) -> None:
        if self._behind is None:
            time.sleep(seconds)
        else:
            self._behind.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        await (asyncio.sleep(seconds) if self._behind is None else self._behind.asleep(seconds))

    def wait(self, lock: Lockable, seconds: float | None) -> bool:
        if self._behind is not None:
            return self._behind.wait(lock, seconds)
        if seconds is None:
            return lock.acquire()
        return lock.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> TimerHandle:
        if self._behind is not None:
            return self._behind.call_later(loop, seconds, callback)
        return loop.call_later(seconds, callback)

    @classmethod
    def behind(cls) -> Clock | None:
        """The clock that answers in place of the machine's time, if any."""
        return cls._behind

    @classmethod
    def put_behind(cls, clock: Clock | None) -> Clock | None:
        """Let `clock` answer in place of the machine's time (None: the machine again); returns the one before."""
        if isinstance(clock, SystemClock):
            clock = None  # that is the machine's time, and it must not ask itself
        before, cls._behind = cls._behind, clock
        setattr(cls, "now", staticmethod(time.monotonic if clock is None else clock.now))  # noqa: B010 - a method
        return before


SYSTEM = SystemClock()


def give_way(seconds: float = 0.0) -> None:
    """Let another thread run; really, whatever clock the policies use."""
    time.sleep(seconds)


async def turn() -> None:
    """Let the event loop go round once."""
    await asyncio.sleep(0)


def unix_milliseconds() -> int:
    """The calendar time, for dating ids."""
    return time.time_ns() // 1_000_000


def checked(clock: object) -> Clock:
    """The clock to use for a `clock=` argument: None means the system's."""
    if clock is None:
        return SYSTEM
    if not isinstance(clock, Clock):
        raise TypeError(f"clock must be a resilience.Clock or None, not {shown(clock)}")
    return clock
