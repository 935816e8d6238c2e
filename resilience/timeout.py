"""Timeout: an upper bound for a call, as a deadline that everything inside it honours.

The deadline in force is the nearer of the inherited and the own one. Retries do not start what cannot finish, queues
do not wait past it, and whoever needs seconds asks `resilience.deadline.remaining()`::

    Timeout(5)  ──────────────────────────────────────────► 5 s
      Retry ─► attempt ─► backoff ─► attempt ──────┐
                 Timeout(2) ──► 2 s    Timeout(2) ─┴─► the nearer one: what is left of the 5 s

Coroutines are cancelled, and `CallTimeoutError` is raised in place of the cancellation, in the way `asyncio.timeout`
does it. Plain functions cannot be interrupted safely: there the deadline is cooperative, unless `abandon=True` runs
them on a thread that is left behind when the time is up.
"""

from __future__ import annotations

import asyncio
import functools
import math
from asyncio import CancelledError, get_running_loop
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from contextvars import Token
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, Self

from . import _arguments
from ._layer import (
    PLAIN,
    AnyFunction,
    Stream,
    continued,
    drive,
    finished,
    name_of,
    refuse_bare,
    restore,
    stepped,
)
from ._policy import Guard, Policy
from ._timers import PER_SECOND, Slot, Timers, current_task, grain_of, no_task, running_task, timers_of
from ._worker import Tally, Worker
from .clock import Clock
from .deadline import Deadline, ambient
from .events import CallTimedOut, Listener
from .exceptions import BulkheadFullError, CallTimeoutError, DeadlineExceededError

Seconds = float | timedelta | None

_FOREVER = 1e12  # seconds; with more, the arithmetic of instants leaves the range of floats


@dataclass(frozen=True, slots=True)
class TimeoutStatistics:
    """Calls cut off so far, and abandoned threads that are still running."""

    timed_out: int
    abandoned: int


class Timeout(Policy):
    """Bound each call to `seconds` (a number, a timedelta, or a callable of the call's arguments returning seconds).

    None means no limit of its own. A computed or inherited limit of 0 or less raises `DeadlineExceededError` without
    calling; a call that is cut off raises `CallTimeoutError`. A plain function is only told the deadline, not stopped,
    and its result counts however late it comes. With `abandon=True` it runs on a daemon thread instead, with the
    caller's context variables; when time is up, the caller goes on and the thread is left behind. While `max_abandoned`
    threads are running, left behind or waited for, further calls raise `BulkheadFullError`. Generator functions run in
    their consumer's thread and are refused.

    Never early; at most 10 ms or 2 % late, whichever is more.
    """

    _machine: Tally
    _variable = frozenset({"abandon", "listeners", "name", "seconds"})

    def __init__(
        self,
        seconds: Seconds | Callable[..., Seconds],
        *,
        abandon: bool = False,
        max_abandoned: int = 64,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        refuse_bare(Timeout, seconds, functions=True)
        super().__init__(name, clock, listeners)
        self._machine = Tally()
        self._max_abandoned = _arguments.count("max_abandoned", max_abandoned)
        self._timers: Callable[[], Timers | None] = _none  # a weak reference to those used last
        self._configure(seconds=seconds, abandon=abandon)

    @property
    def seconds(self) -> float | None:
        """The limit in seconds; None if there is none or it is computed for each call."""
        return self._seconds

    def guard(self, /, *args: Any, **kwargs: Any) -> Guard:
        """A block under this limit: `async with` cuts it off, `with` only tells those inside."""
        return _Scope(self, self._limit(args, kwargs))

    def statistics(self) -> TimeoutStatistics:
        """A consistent snapshot."""
        machine = self._machine
        with machine.lock:
            return TimeoutStatistics(machine.timed_out, machine.abandoned)

    def __repr__(self) -> str:
        what = (
            "computed"
            if self._computed is not None
            else "no limit"
            if self._seconds is None
            else f"{self._seconds:g} s"
        )
        return f"<Timeout {self.name or 'unnamed'}: {what}{', abandoning' if self._abandon else ''}>"

    # -- private -------------------------------------------------------------------------------------------------------

    def _configure(self, **changes: Any) -> None:
        if "seconds" in changes:
            seconds = changes["seconds"]
            if isinstance(seconds, type):
                raise TypeError(
                    f"seconds must be a duration or a function of the call, not the class {seconds.__name__}"
                )
            self._computed = _arguments.plain("seconds", seconds) if callable(seconds) else None
            limit = None if callable(seconds) else _arguments.optional_seconds("seconds", seconds)
            self._seconds = None if limit is None else min(limit, _FOREVER)
            self._grain = grain_of(self._seconds or 1.0)
        if "abandon" in changes:
            self._abandon = _arguments.flag("abandon", changes["abandon"])
        super()._configure(**changes)

    @property
    def _indifferent(self) -> bool:
        return self._computed is None

    def _limit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
        """This call's own limit in seconds. A computed one may be 0 or less, which the caller of this turns down."""
        if self._computed is None:
            return self._seconds
        limit = self._computed(*args, **kwargs)
        if isinstance(limit, timedelta):
            limit = limit.total_seconds()
        if limit is None or limit == math.inf:
            return None
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit != limit:
            raise TypeError(f"seconds must return seconds, a timedelta or None, not {_arguments.shown(limit)}")
        return float(max(0.0, min(limit, _FOREVER)))

    def _deadline(
        self, limit: float | None, task: asyncio.Task[Any] | None, length: float | None = None
    ) -> Deadline | None:
        """The deadline to put in force, or None if there is none or the one in force is as near and enforced.

        `length` is the whole limit, where `limit` is what is left of it. Raises DeadlineExceededError if no time is
        left at all.
        """
        outer = ambient.get()
        if limit is not None and limit <= 0.0:
            raise self._rejected(DeadlineExceededError(self.name))
        if outer is None:
            if limit is None:
                return None
            return Deadline(self._clock.now() + limit, self._clock, self.name, length or limit, None, task)
        left = outer.remaining()
        if left <= 0.0:
            raise self._rejected(DeadlineExceededError(self.name))
        if limit is not None and limit < left:
            return Deadline(self._clock.now() + limit, self._clock, self.name, length or limit, outer, task)
        if outer.task is task or task is None:
            return None
        # The owner will cancel another task, not this one, so its instant needs a second guardian here.
        when = outer.when if outer.clock is self._clock else self._clock.now() + left
        return Deadline(when, self._clock, outer.policy, outer.timeout, outer, task)

    def _arm(self, deadline: Deadline, loop: asyncio.AbstractEventLoop, grain: int) -> Slot:
        timers = self._timers()
        if timers is None or timers.loop is not loop:
            timers = timers_of(loop, self._clock)
            self._timers = timers.ref
        return timers.add(deadline, grain)

    def _cut_off(self, deadline: Deadline, error: BaseException | None) -> NoReturn:
        """Raise CallTimeoutError for a call whose time was up."""
        machine = self._machine
        with machine.lock:
            machine.timed_out += 1
        timeout = deadline.timeout or 0.0
        self._tell(CallTimedOut, timeout=timeout)
        raise CallTimeoutError(deadline.policy, timeout) from error

    def _wrap_async(self, fn: AnyFunction) -> AnyFunction:
        clock, limit_of = self._clock, None if self._computed is None else self._limit
        seconds, grain, name = self._seconds, self._grain, self.name
        slots_per_second = PER_SECOND / grain

        async def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                task = current_task(loop := get_running_loop())
            except RuntimeError:
                no_task()
            if task is None:
                no_task()
            if seconds is not None and ambient.get() is None:
                # The common case, spelled out: a constant limit and nothing inherited.
                deadline = Deadline(clock.now() + seconds, clock, name, seconds, None, task)
                timers = self._timers()
                if timers is None or timers.loop is not loop:
                    timers = timers_of(loop, clock)
                    self._timers = timers.ref
                slot = (int(deadline.when * slots_per_second) + 1) * grain
                waiting = timers.slots.get(slot)
                if waiting is None:
                    waiting = timers.opened(slot)
                waiting[deadline] = None
            else:
                limit = seconds if limit_of is None else limit_of(args, kwargs)
                nearest = self._deadline(limit, task)
                if nearest is None:
                    return await fn(*args, **kwargs)
                deadline = nearest
                waiting = self._arm(deadline, loop, grain_of(deadline.timeout or 0.0))
            before = task.cancelling()
            token = ambient.set(deadline)
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                waiting.pop(deadline, None)
                restore(ambient, token)
                deadline.task = None
                ours = deadline.fired and task.uncancel() <= before and type(error) is CancelledError
                del task  # it will hold the exception, whose traceback holds this frame
                if ours:
                    self._cut_off(deadline, error)
                raise
            waiting.pop(deadline, None)
            ambient.reset(token)
            deadline.task = None
            if deadline.fired:
                task.uncancel()
            return result

        return guarded

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            deadline = self._deadline(self._limit(args, kwargs), None)
            token = None if deadline is None else ambient.set(deadline)
            try:
                result = self._left_behind(fn, args, kwargs) if self._abandon else fn(*args, **kwargs)
            finally:
                if token is not None:
                    ambient.reset(token)
            if type(result) in PLAIN or finished(result, fn):
                return result
            return continued(self._rest(result, deadline), result, fn)

        return guarded

    async def _rest(self, awaitable: Any, deadline: Deadline | None) -> Any:
        left = length = None
        if deadline is not None:
            left, length = deadline.remaining(), deadline.timeout
            if left <= 0.0:  # the plain part took all the time
                (awaitable.cancel if asyncio.isfuture(awaitable) else awaitable.close)()
                self._cut_off(deadline, None)
        try:
            async with _Scope(self, left, length):
                return await awaitable
        finally:
            del awaitable  # a Task holds its exception, whose traceback holds this frame

    def _left_behind(self, fn: AnyFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `fn` on a daemon thread and wait for it as long as the deadline allows."""
        deadline = ambient.get()
        machine = self._machine
        if not machine.reserve(self._max_abandoned):
            reason = f"{self._max_abandoned} threads (max_abandoned) are running or left behind"
            raise self._rejected(BulkheadFullError(self.name, reason=reason))
        worker = Worker(machine, f"resilience-timeout-{self.name or 'unnamed'}", functools.partial(fn, *args, **kwargs))
        if not worker.wait(self._clock, None if deadline is None else max(0.0, deadline.remaining())):
            assert deadline is not None  # without one, the wait has no end
            self._cut_off(deadline, None)
        return worker.result()

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        if self._abandon:
            raise TypeError(
                f"abandon=True cannot leave {name_of(fn)} behind: a generator runs in its consumer's thread"
            )

        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            clock = _Steps(self, self._limit(args, kwargs))
            return (yield from stepped(fn(*args, **kwargs), lambda: clock.step(armed=False)))

        return guarded

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            clock = _Steps(self, self._limit(args, kwargs))
            yield Stream(fn(*args, **kwargs), lambda: clock.step(armed=True))

        return drive(begin)


class _Steps:
    """The time limit of a generator: one instant for all steps, in force during each of them and never between."""

    __slots__ = ("_begun", "_limit", "_own", "_policy")

    def __init__(self, policy: Timeout, limit: float | None) -> None:
        self._policy = policy
        self._limit = limit
        self._begun = False
        self._own: Deadline | None = None

    def step(self, *, armed: bool) -> _Scope:
        policy, limit = self._policy, self._limit
        if not self._begun:
            self._begun = True
            if limit is not None:
                self._own = Deadline(policy._clock.now() + limit, policy._clock, policy.name, limit)
            return _Scope(policy, limit, armed=armed)
        for deadline in (ambient.get(), self._own):
            if deadline is not None and deadline.remaining() <= 0.0:
                policy._cut_off(deadline, None)  # the consumer took its time: that counts, and the call did run
        return _Scope(policy, None if self._own is None else self._own.remaining(), limit, armed=armed)


class _Scope(Guard):
    """A block under a time limit. Entered without waiting; in a task (`armed`) it cuts the block off."""

    __slots__ = ("_armed", "_before", "_deadline", "_length", "_limit", "_policy", "_task", "_token", "_waiting")

    def __init__(
        self, policy: Timeout, limit: float | None, length: float | None = None, *, armed: bool = False
    ) -> None:
        super().__init__(policy)
        self._policy: Timeout = policy
        self._limit = limit
        self._length = length  # the whole limit, where `limit` is what is left of it
        self._armed = armed
        self._deadline: Deadline | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        self._spend()
        policy = self._policy
        loop, task = running_task() if self._armed else (None, None)
        deadline = self._deadline = policy._deadline(self._limit, task, self._length)
        if deadline is not None:
            if task is not None and loop is not None:
                self._task, self._before = task, task.cancelling()
                self._waiting = policy._arm(deadline, loop, grain_of(deadline.timeout or 0.0))
            self._token: Token[Deadline | None] = ambient.set(deadline)
        return self

    async def __aenter__(self) -> Self:
        self._armed = True
        return self.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        deadline, task = self._deadline, self._task
        if deadline is None:
            return
        self._task = None
        restore(ambient, self._token)
        if task is not None:
            self._waiting.pop(deadline, None)
            deadline.task = None
            ours = deadline.fired and task.uncancel() <= self._before and kind is CancelledError
            del task  # it will hold the exception, whose traceback holds this frame
            if ours:
                self._policy._cut_off(deadline, error)


def _none() -> None:
    """No timers yet."""
