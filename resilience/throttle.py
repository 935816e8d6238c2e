"""Throttle: pace asyncio calls through an `aiolimiter.AsyncLimiter`, the leaky bucket shared with other code.

The limiter belongs to one event loop, and so does the throttle. Calls queue in front of it in order of arrival, so a
heavy call is not overtaken by light ones and a cancelled one leaves nothing behind::

    call ──► FIFO ──► AsyncLimiter.acquire(cost) ──► run

For plain functions, several loops, or a `retry_after`, use `RateLimiter(max_wait=…)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import aiolimiter

from . import _arguments, deadline
from ._layer import AnyFunction, name_of, refuse_bare
from ._leaky_bucket import level, orphan, owner
from ._machine import SUCCESS, Machine, Verdict
from ._policy import Policy
from ._wait import Wait
from .clock import Clock
from .events import CallQueued, Listener
from .exceptions import CallRejectedError, DeadlineExceededError, RateLimitExceededError

_PERMIT = 0


@dataclass(frozen=True, slots=True)
class ThrottleStatistics:
    """A throttle at one moment: calls waiting now, and rejections so far."""

    waiting: int
    rejected: int


class _Queue:
    """Those who wait in one event loop. Left behind with the loop: its tasks may be finalised much later."""

    __slots__ = ("loop", "turn", "waiting", "wanted")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.turn = asyncio.Lock()
        self.waiting = 0
        self.wanted = 0.0  # the sum of their costs


class _Line(Machine):
    """The queue in front of the limiter; touched only by the loop that owns it."""

    __slots__ = ("limiter", "queue", "rejected")

    def __init__(self, limiter: aiolimiter.AsyncLimiter) -> None:
        super().__init__()
        self.limiter = limiter
        self.queue = _Queue(None)
        self.rejected = 0

    def forked(self) -> None:
        super().forked()
        self.queue = _Queue(None)
        # The parent's loop never runs here, but it is not closed either: the limiter would belong to it for ever.
        orphan(self.limiter)


class Throttle(Policy):
    """Pace async calls through `limiter`, taking `cost` (a number, or a callable of the arguments) for each.

    A call waits for at most `max_wait` seconds (None: as long as the deadline allows). Raises `RateLimitExceededError`
    if that is not enough or `cost` can never fit, and `DeadlineExceededError` if the deadline comes first: at once when
    that can be foreseen, later when other users of the limiter hold the call up. Plain functions are refused at
    decoration with a TypeError.
    """

    _machine: _Line
    _variable = frozenset({"cost", "listeners", "max_wait", "name"})
    _settles = False

    def __init__(
        self,
        limiter: aiolimiter.AsyncLimiter,
        *,
        cost: float | Callable[..., float] = 1,
        max_wait: float | timedelta | None = 30.0,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        refuse_bare(Throttle, limiter)
        super().__init__(name, clock, listeners)
        if not isinstance(limiter, aiolimiter.AsyncLimiter):
            raise TypeError(f"limiter must be an aiolimiter.AsyncLimiter, not {_arguments.shown(limiter)}")
        self._machine = _Line(limiter)
        self._configure(cost=cost, max_wait=max_wait)

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        line = self._machine
        self._own_loop()
        cost = self._cost
        if self._cost_of is not None:
            cost = _arguments.number("cost", self._cost_of(*args, **(kwargs or {})), zero=True)
        limiter, queue = line.limiter, line.queue
        if cost > limiter.max_rate:
            line.rejected += 1
            reason = f"a cost of {cost:g} is above the limiter's max_rate ({limiter.max_rate:g}) and never passes"
            raise self._rejected(RateLimitExceededError(self.name, None, limiter.max_rate, reason=reason))
        if limiter.has_capacity(cost) and not queue.waiting:
            self._acquire_now(cost)
            return _PERMIT
        # Without other users of the limiter this is how long it takes; with them it takes longer.
        missing = max(0.0, level(limiter) + queue.wanted + cost - limiter.max_rate)
        wait = missing * limiter.time_period / limiter.max_rate
        left = deadline.remaining()
        refusal: CallRejectedError | None = None
        if self._max_wait is not None and wait > self._max_wait:
            refusal = RateLimitExceededError(self.name, wait, limiter.max_rate)
        elif left is not None and wait > left:
            refusal = DeadlineExceededError(self.name, wait)
        if refusal is not None:
            line.rejected += 1
            raise self._rejected(refusal)
        self._tell(CallQueued, seconds=self._max_wait)
        return Wait(self, _PERMIT, decision=_Turn(self, cost))

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        """Nothing to give back: the bucket leaks by itself."""

    def statistics(self) -> ThrottleStatistics:
        """A snapshot, to be taken in the loop that owns the throttle."""
        return ThrottleStatistics(self._machine.queue.waiting, self._machine.rejected)

    def __repr__(self) -> str:
        limiter = self._machine.limiter
        return (
            f"<Throttle {self.name or 'unnamed'}: {limiter.max_rate:g} in {limiter.time_period:g} s,"
            f" {self._machine.queue.waiting} waiting>"
        )

    # -- private -------------------------------------------------------------------------------------------------------

    def _configure(self, **changes: Any) -> None:
        if "cost" in changes:
            cost: Any = changes["cost"]
            self._cost_of = cast("Callable[..., float]", _arguments.plain("cost", cost)) if callable(cost) else None
            self._cost = 0.0 if callable(cost) else _arguments.number("cost", cost)
            if self._cost > self._machine.limiter.max_rate:
                raise ValueError(
                    f"cost must be at most the limiter's max_rate ({self._machine.limiter.max_rate:g}), not {cost!r}"
                )
        if "max_wait" in changes:
            self._max_wait = _arguments.optional_seconds("max_wait", changes["max_wait"], zero=True)
        super()._configure(**changes)

    @property
    def _indifferent(self) -> bool:
        return self._cost_of is None

    def _longest_wait(self) -> float | None:
        """Seconds that a call can wait here; None if nothing but the deadline bounds it."""
        return self._max_wait

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        raise TypeError(
            f"Throttle paces coroutine functions only, and {name_of(fn)} is not one:"
            " use RateLimiter(rate, period, max_wait=…), which serves threads too"
        )

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        return self._wrap_sync(fn)

    def _own_loop(self) -> None:
        """Make sure the running loop owns the limiter; a new loop may take over once the old one is closed."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "Throttle works in a running asyncio loop only; for threads use RateLimiter(max_wait=…)"
            ) from None
        line = self._machine
        if line.queue.loop is not loop:
            if owner(line.limiter) is not loop:
                raise RuntimeError(
                    f"{self!r} belongs to another event loop that is still open; its AsyncLimiter cannot serve two:"
                    " use RateLimiter(max_wait=…)"
                )
            line.queue = _Queue(loop)

    def _acquire_now(self, cost: float) -> None:
        """Take capacity that is known to be there: `acquire` then ends without suspending."""
        try:
            self._machine.limiter.acquire(cost).send(None)
        except StopIteration:
            return


class _Turn:
    """The decision of the bucket: first our turn in the line, then room in the bucket."""

    __slots__ = ("_cost", "_throttle")

    def __init__(self, throttle: Throttle, cost: float) -> None:
        self._throttle = throttle
        self._cost = cost

    def block(self) -> Any:
        raise TypeError("a Throttle cannot make a plain function wait: use RateLimiter(max_wait=…)")

    async def suspend(self) -> Any:
        throttle, line = self._throttle, self._throttle._machine
        queue, left, limit = line.queue, deadline.remaining(), throttle._max_wait
        limited_by_deadline = left is not None and (limit is None or left < limit)
        scope = asyncio.timeout(left if limited_by_deadline else limit)
        queue.waiting += 1
        queue.wanted += self._cost
        try:
            async with scope, queue.turn:
                await line.limiter.acquire(self._cost)
        except TimeoutError:
            if not scope.expired():
                raise
        else:
            return _PERMIT
        finally:
            queue.waiting -= 1
            queue.wanted = queue.wanted - self._cost if queue.waiting else 0.0
        line.rejected += 1
        if limited_by_deadline:
            raise throttle._rejected(DeadlineExceededError(throttle.name))
        raise throttle._rejected(RateLimitExceededError(throttle.name, None, line.limiter.max_rate))
