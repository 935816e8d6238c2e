"""For tests of code that uses the toolkit: virtual time, recorded events, scripted callables.

Nothing here sleeps. `ManualClock` is a clock that you move; `use_clock` puts a clock behind every existing policy;
`run` runs a coroutine in an event loop whose time is such a clock's and jumps ahead whenever nothing is left to do.

    result = run(main())      # a minute of backoff takes no time

    with use_clock(ManualClock()) as clock:
        client.fetch()
        assert clock.sleeps == [0.5, 1.0]
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import selectors
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from . import _arguments
from .clock import Clock, Lockable, SystemClock, TimerHandle, turn
from .events import Event, subscribe

R = TypeVar("R")
C = TypeVar("C", bound=Clock)
E = TypeVar("E", bound=Event)

_REAL_STEP = 0.001  # real seconds between two looks of a thread that waits for somebody else to move the clock
_PATIENCE = 30.0  # real seconds after which a virtual loop in which nothing can happen any more gives up


class _Timer:
    """A callback in an event loop at an instant of a manual clock."""

    __slots__ = ("_callback", "_loop", "cancelled", "when")

    def __init__(self, when: float, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self.when = when
        self._loop = loop
        self._callback = callback
        self.cancelled = False

    def ring(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
            self._loop.call_soon_threadsafe(self._call)

    def _call(self) -> None:
        if not self.cancelled:
            self._callback()

    def cancel(self) -> None:
        self.cancelled = True


class ManualClock(Clock):
    """A clock that moves when told to.

    With `auto=True` (the default) a thread that sleeps or waits with a time limit moves the clock itself, so plain
    code never blocks. With `auto=False` it waits until another thread calls `advance`. Tasks always wait for
    `advance`; `resilience.testing.run` calls it whenever a loop has nothing else to do.
    """

    def __init__(self, start: float = 0.0, *, auto: bool = True) -> None:
        self._now = _arguments.number("start", start, zero=True)
        self._auto = _arguments.flag("auto", auto)
        self._lock = threading.RLock()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._order = itertools.count()
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock on by `seconds`, ringing the timers on the way, each at its own time."""
        seconds = _arguments.seconds("seconds", seconds, zero=True)
        with self._lock:
            self.move_to(self._now + seconds)

    def move_to(self, instant: float) -> None:
        """Move the clock on to `instant`, as `advance` does; an instant that has passed changes nothing."""
        with self._lock:  # all the way, so that two threads that advance the clock get both their times
            while self._timers and self._timers[0][0] <= instant:
                when, _, timer = heapq.heappop(self._timers)
                self._now = max(self._now, when)
                if not timer.cancelled:
                    timer.ring()  # never blocks: it tells an event loop
            self._now = max(self._now, instant)

    def next_timer(self) -> float:
        """The instant of the next timer; infinity if there is none."""
        with self._lock:
            while self._timers and self._timers[0][2].cancelled:
                heapq.heappop(self._timers)
            return self._timers[0][0] if self._timers else math.inf

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.wait(_Never(), max(0.0, seconds))

    async def asleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        if seconds <= 0.0:
            await turn()
            return
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        timer = self.call_later(loop, seconds, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            timer.cancel()

    def wait(self, lock: Lockable, seconds: float | None) -> bool:
        if seconds is None:
            return lock.acquire()
        end = self._now + seconds
        while not lock.acquire(blocking=False):
            if self._now >= end:
                return False
            if self._auto:
                self.move_to(end)
            elif lock.acquire(timeout=_REAL_STEP):
                return True
        return True

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> TimerHandle:
        timer = _Timer(self._now + max(0.0, seconds), loop, callback)
        with self._lock:
            heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def __repr__(self) -> str:
        return f"<ManualClock at {self._now:g} s>"


class _Never:
    """What a sleeping thread waits for besides the time."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return blocking and threading.Event().wait(timeout)


class _Selector(selectors.DefaultSelector):
    """A selector that moves a clock instead of waiting."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events or timeout == 0:
            return events
        clock = self._clock
        until = clock.now() + timeout if timeout is not None else math.inf
        until = min(until, clock.next_timer())
        if until < math.inf:
            clock.move_to(until)
            return super().select(0)
        events = super().select(_PATIENCE)  # only another thread or a socket can go on from here
        if not events:
            raise RuntimeError(
                "virtual time stands still: every task waits for something that nothing will bring about"
            )
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that lives on a manual clock: when nothing is ready, time jumps to the next timer."""

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = ManualClock() if clock is None else clock
        super().__init__(_Selector(self.clock))
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.clock.now()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # The limit that later Pythons set is in this loop's time, which would jump to its end at once, while the
        # threads that are waited for live in real time.
        await super().shutdown_default_executor()


def run(main: Coroutine[Any, Any, R], clock: ManualClock | None = None) -> R:
    """Run a coroutine like `asyncio.run`, in virtual time: on `clock`, the manual one in use, or a new one.

    The clock is behind every policy meanwhile. Threads, and what is at the other end of a socket, are invisible to it:
    while all tasks wait, time moves on to the next timer, whatever those are still doing.
    """
    if clock is None:
        in_use = SystemClock.behind()
        clock = in_use if isinstance(in_use, ManualClock) else ManualClock()
    with use_clock(clock), asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        return runner.run(main)


@contextmanager
def use_clock(clock: C) -> Iterator[C]:
    """Let `clock` give the time to every policy that uses the system's clock, existing ones included."""
    if not isinstance(clock, Clock):
        raise TypeError(f"use_clock takes a Clock, not {_arguments.shown(clock)}")
    before = SystemClock.put_behind(clock)
    try:
        yield clock
    finally:
        SystemClock.put_behind(before)


class _Instant(ManualClock):
    """Sleeping takes no time at all but is accounted for: the clock reads as if it had passed."""

    async def asleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(max(0.0, seconds))
        await turn()

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], object]
    ) -> TimerHandle:
        timer = super().call_later(loop, seconds, callback)
        if isinstance(loop, VirtualLoop):
            return timer
        # An ordinary loop does not move this clock: what really takes that long must still come to an end.
        return _Both(timer, loop.call_later(seconds, self.move_to, self.now() + seconds))


class _Both(NamedTuple):
    """Two timers, cancelled together."""

    one: TimerHandle
    other: TimerHandle

    def cancel(self) -> None:
        self.one.cancel()
        self.other.cancel()


@contextmanager
def no_waits() -> Iterator[list[float]]:
    """Make every wait of every policy instant; yields the list of sleeps, in seconds, as it grows.

    Time passes by those sleeps, so pauses still count towards deadlines. A time limit in an ordinary event loop ends
    after that much real time at the latest, so that what hangs is still cut off.
    """
    clock = _Instant()
    with use_clock(clock):
        yield clock.sleeps


@contextmanager
def recorded_events(*types: type[Event]) -> Iterator[list[Any]]:
    """`with recorded_events(CircuitOpened) as events:` collects the events of all policies, or those of some types."""
    events: list[Any] = []
    with subscribe(events.append, *types):
        yield events


class Script:
    """A callable that plays a script, one entry a call: exceptions are raised, callables called, the rest returned.

    When the entries are used up the last one is repeated. `calls` holds the arguments of every call. `sync` and
    `asynchronous` are the same script as a plain and as a coroutine function.
    """

    def __init__(self, entries: Iterable[Any]) -> None:
        if not _arguments.is_collection(entries):
            raise TypeError(f"a Script takes a collection of entries, not {_arguments.shown(entries)}")
        self._entries = list(entries)
        if not self._entries:
            raise ValueError("a Script needs at least one entry")
        self._lock = threading.Lock()
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def sync(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next entry."""
        with self._lock:
            entry = self._entries[min(len(self.calls), len(self._entries) - 1)]
            self.calls.append((args, kwargs))
        if isinstance(entry, BaseException) or (isinstance(entry, type) and issubclass(entry, BaseException)):
            raise entry
        return entry(*args, **kwargs) if callable(entry) else entry

    async def asynchronous(self, *args: Any, **kwargs: Any) -> Any:
        """Play the next entry; what it returns is awaited if it can be."""
        result = self.sync(*args, **kwargs)
        return await result if hasattr(result, "__await__") else result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.sync(*args, **kwargs)
