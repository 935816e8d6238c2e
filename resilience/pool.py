"""Pool: connections, clients or whatever else is dear to create, lent to one caller at a time and used again.

The resource used last is lent first, so that those not needed age and go; callers beyond `max_size` wait in order. One
pool serves all threads and all event loops, or one loop if `create` is asynchronous. Nothing runs while nobody asks::

    idle, newest first ──► used a moment ago? ────────────────► lent ──► back, or closed: too old, failed, interrupted
            │                └─ no: check ──► broken: close, next      │
            └─ none: room for one more? create                         └─► the first waiter, if there is one
                       └─ no: queue (≤ max_queue, ≤ max_wait) ──► or PoolExhaustedError

After HikariCP (https://github.com/brettwooldridge/HikariCP). `max_size` is a hard limit: what is being created and what
is being closed counts. A failed creation is the error of the caller it was for, and the slot goes to the next; until
one succeeds, callers come to create one at a time, each once, so that a server that is down meets no crowd.
"""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any, Self, overload

from . import _arguments, deadline
from ._acquisition import Acquisition
from ._injection import Injecting, T
from ._layer import refuse_bare, require_asyncio
from ._lease import Lease
from ._machine import ABANDONED, FAILURE, SUCCESS, Verdict
from ._shelf import FRESH
from ._slot import IDLE, LENT, Item, PoolStatistics
from ._stock import Stock, running_loop
from ._ticket import Ticket
from ._wait import Wait
from .clock import Clock
from .events import CallQueued, Listener
from .exceptions import CallRejectedError, DeadlineExceededError, PoolClosedError, PoolExhaustedError

_PATIENCE = 30.0  # seconds for which even who does not wait (max_wait=0) stands by while a resource is created


class Pool(Injecting[T]):
    """Lend resources that `create` makes: `with pool.acquire() as resource:`, or `async with`, or `@pool.inject`.

    `create` is plain, and the pool then serves threads and, by way of short-lived threads, tasks of every loop; or it
    is asynchronous, and the pool serves the tasks of one loop (a new one once the old one is closed). `close(resource)`
    ends one; without it, one that is not needed any more is only dropped. `check(resource)` says by a false answer or
    an exception that one is broken (None is as good as true). It is asked before one is lent that was idle for more
    than half a second, or whose last block raised. With a plain `create` both are plain; else they may be either.

    Up to `max_queue` callers wait, each for at most `max_wait` seconds in all, creating and checking included (a plain
    `create` called in the caller's own thread cannot be cut off, and can ask `resilience.remaining()`). None: as long
    as the deadline allows. 0: nobody queues. Raises `PoolExhaustedError`, `DeadlineExceededError` when the deadline is
    nearer, `PoolClosedError`, and what `create` raises.

    What has been idle for `max_idle_time` seconds is closed when the pool is used next, down to `min_idle`, which is
    filled up in the background. After `max_lifetime` seconds, less up to 10 % by chance (`rng`), a resource is not lent
    again. None: no limit. A loan longer than `leak_after` seconds is reported once, with the borrower's stack, as soon
    as somebody uses the pool or asks for its statistics; recording the stack costs some 40 µs per loan.

    As a layer (in a `Pipeline`, say) it is `inject`: the function gets the resource as its first argument, a
    method after its `self`.
    """

    _machine: Stock
    _variable = frozenset({"listeners", "max_wait", "name"})

    @overload
    def __init__(
        self,
        create: Callable[[], Awaitable[T]],
        *,
        close: Callable[[T], object] | None = None,
        check: Callable[[T], object] | None = None,
        max_size: int = 10,
        min_idle: int = 0,
        max_wait: float | timedelta | None = 30.0,
        max_queue: int = 1000,
        max_idle_time: float | timedelta | None = 600.0,
        max_lifetime: float | timedelta | None = 1800.0,
        leak_after: float | timedelta | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None: ...

    @overload
    def __init__(
        self,
        create: Callable[[], T],
        *,
        close: Callable[[T], object] | None = None,
        check: Callable[[T], object] | None = None,
        max_size: int = 10,
        min_idle: int = 0,
        max_wait: float | timedelta | None = 30.0,
        max_queue: int = 1000,
        max_idle_time: float | timedelta | None = 600.0,
        max_lifetime: float | timedelta | None = 1800.0,
        leak_after: float | timedelta | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None: ...

    def __init__(
        self,
        create: Callable[[], Any],
        *,
        close: Callable[[Any], object] | None = None,
        check: Callable[[Any], object] | None = None,
        max_size: int = 10,
        min_idle: int = 0,
        max_wait: float | timedelta | None = 30.0,
        max_queue: int = 1000,
        max_idle_time: float | timedelta | None = 600.0,
        max_lifetime: float | timedelta | None = 1800.0,
        leak_after: float | timedelta | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        refuse_bare(Pool, create, functions=True)
        super().__init__(name, clock, listeners)
        if rng is not None and not isinstance(rng, random.Random):
            raise TypeError(f"rng must be a random.Random or None, not {_arguments.shown(rng)}")
        size = _arguments.count("max_size", max_size)
        if _arguments.count("min_idle", min_idle, minimum=0) > size:
            raise ValueError(f"min_idle must be at most max_size ({size}), not {_arguments.shown(min_idle)}")
        idle_time = _arguments.optional_seconds("max_idle_time", max_idle_time)
        lifetime = _arguments.optional_seconds("max_lifetime", max_lifetime)
        self._machine = Stock(
            create,
            close,
            check,
            name=self.name,
            clock=self._clock,
            listeners=self._listeners,
            max_size=size,
            min_idle=min_idle,
            max_queue=_arguments.count("max_queue", max_queue, minimum=0),
            max_idle_time=math.inf if idle_time is None else idle_time,
            max_lifetime=math.inf if lifetime is None else lifetime,
            leak_after=_arguments.optional_seconds("leak_after", leak_after),
            rng=rng or random.SystemRandom(),  # it has no state, which the children of a fork would share
        )
        self._configure(max_wait=max_wait)

    def acquire(self) -> Lease[T]:
        """One loan, to be entered with `with` or `async with`; the block gets the resource."""
        return Lease(self)

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Borrow: an item, whose `resource` is what one wants, or a `Wait` for it."""
        stock = self._machine
        if stock.is_async and (stock.loop is None or stock.loop is not running_loop()):
            stock.claim()
        idle = stock.idle
        if len(idle) <= stock.min_idle or stock.leak_after is not None:
            return self._admit_slowly()
        free = stock.free
        try:
            free.pop()
        except IndexError:  # somebody is inside
            return self._admit_slowly()
        try:
            if len(idle) > stock.min_idle and not stock.late:
                item, now = idle[-1], self._clock.now()
                if item.expires > now and (not stock.checks or (now - item.returned <= FRESH and not item.doubtful)):
                    idle.pop()
                    item.state = LENT
                    stock.borrowed += 1
                    return item
        finally:
            free.append(None)
        return self._admit_slowly()

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        """Return an item: to be lent again, checked before that (FAILURE), or closed (ABANDONED)."""
        stock = self._machine
        free = stock.free
        try:
            free.pop()
        except IndexError:  # somebody is inside, perhaps this very thread
            stock.late.append((self._put_locked, permit, verdict))
        else:
            woken: Iterable[Ticket] = ()
            try:
                idle, now = stock.idle, self._clock.now()
                if (
                    verdict is SUCCESS
                    and not (stock.queue or stock.closed or stock.leak_after)
                    and len(stock.items) <= stock.max_size
                    and permit.state is LENT
                    and permit.generation == stock.generation
                    and permit.expires > now
                    and (not idle or (idle[0].expires > now and idle[0].returned + stock.max_idle_time > now))
                ):
                    permit.returned = now
                    permit.state = IDLE
                    idle.append(permit)
                else:
                    woken = stock.put_locked(permit, verdict, now)
            finally:
                free.append(None)
            if woken:
                stock.wake(woken)
        if stock.late or stock.outbox or stock.doomed:
            stock.unlocked()

    def judge(self, error: BaseException) -> Verdict:
        """FAILURE: check it before it is used again. ABANDONED: something may still be under way on it."""
        if isinstance(error, BaseExceptionGroup):
            return ABANDONED if any(self.judge(leaf) is ABANDONED for leaf in error.exceptions) else FAILURE
        return FAILURE if isinstance(error, Exception) and not isinstance(error, TimeoutError) else ABANDONED

    def resize(self, max_size: int) -> None:
        """Change the limit. Growing lets waiters in; what is too many is closed, what is lent when it comes back."""
        size, stock, now = _arguments.count("max_size", max_size), self._machine, self._clock.now()
        with stock.lock:
            woken = [*stock.caught_up_locked(), *stock.resize_locked(size, now)]
        stock.wake(woken)
        stock.unlocked()

    def close(self, timeout: float | timedelta | None = 30.0) -> bool:
        """Reject callers and waiters from now on, close what is idle, and wait for what is lent to come back.

        Waits for at most `timeout` seconds (None: no limit but the deadline; 0: not at all) and returns whether all is
        closed. What comes back later is closed then. Harmless when repeated.
        """
        stock, limit = self._machine, _arguments.optional_seconds("timeout", timeout, zero=True)
        if stock.is_async:
            raise TypeError(f"{stock} closes its resources asynchronously: use `await pool.aclose()`")
        drained = self._shut()
        try:
            stock.unlocked()
            if not drained.granted and limit != 0.0:
                self._warn_if_blocking_a_loop()
            return drained.block(self._clock, _nearer(limit, deadline.remaining()))
        finally:
            self._forget(drained)

    async def aclose(self, timeout: float | timedelta | None = 30.0) -> bool:
        """The same in a task; for a pool with an asynchronous `create`, in a task of its loop."""
        stock, limit = self._machine, _arguments.optional_seconds("timeout", timeout, zero=True)
        require_asyncio()
        if stock.is_async:
            stock.claim()
        drained = self._shut()
        try:
            stock.unlocked()
            return await drained.suspend(self._clock, _nearer(limit, deadline.remaining()))
        finally:
            self._forget(drained)

    def __enter__(self) -> Self:
        if self._machine.is_async:
            raise TypeError(f"{self._machine} closes its resources asynchronously: use `async with`")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def statistics(self) -> PoolStatistics:
        """A consistent snapshot."""
        stock, now = self._machine, self._clock.now()
        with stock.lock:
            woken = stock.caught_up_locked()
            stock.look_for_leaks_locked(now)
            result = stock.statistics_locked()
        stock.wake(woken)
        stock.unlocked()
        return result

    @property
    def at_rest(self) -> bool:
        return self.statistics().size == 0

    def __repr__(self) -> str:
        stock = self._machine
        idle, closed = len(stock.idle), ", closed" if stock.closed else ""
        return (
            f"<Pool {self.name or 'unnamed'}: {len(stock.items) - idle} of {stock.max_size} in use, {idle} idle,"
            f" {len(stock.queue)} of {stock.max_queue} waiting{closed}>"
        )

    # -- private transitions -------------------------------------------------------------------------------------------

    def _configure(self, **changes: Any) -> None:
        if "max_wait" in changes:
            self._max_wait = _arguments.optional_seconds("max_wait", changes["max_wait"], zero=True)
            self._patience = _PATIENCE if self._max_wait == 0.0 else self._max_wait
        super()._configure(**changes)

    def _admit_slowly(self) -> Any:
        stock, now, left = self._machine, self._clock.now(), deadline.remaining()
        refusal: CallRejectedError | None = None
        permit: Any = None
        in_time = left is None or left > 0.0
        with stock.lock:
            woken = stock.caught_up_locked()
            stock.look_for_leaks_locked(now)
            item = None if stock.closed else stock.take_locked(now)
            if stock.closed:
                refusal = PoolClosedError(self.name)
            elif item is None:
                if not stock.may_join_locked(patient=self._max_wait != 0.0):
                    refusal = PoolExhaustedError(self.name)
                elif not in_time:
                    refusal = DeadlineExceededError(self.name)
                else:
                    permit = Wait(self, None, decision=Acquisition(self, now))
                    self._note(CallQueued, seconds=self._max_wait)
            elif item.state is LENT and not stock.due(item, now):
                permit = item
            elif in_time:
                permit = Wait(self, None, decision=Acquisition(self, now, item))
            else:
                refusal = DeadlineExceededError(self.name)
                woken += stock.give_up_locked(item, now)
            stock.rejected += refusal is not None
            spare = stock.spare_locked()
        stock.wake(woken)
        if spare is not None:
            stock.refill(spare)
        if type(permit) is Item:
            stock.lent(permit)
        if stock.late or stock.outbox or stock.doomed or stock.overdue:
            self._deliver(permit)
        if refusal is not None:
            raise self._rejected(refusal)
        return permit

    def _put_locked(self, item: Item, verdict: Verdict) -> list[Ticket]:
        return self._machine.put_locked(item, verdict, self._clock.now())

    def _forsake(self, wait: Wait) -> None:
        # Unlike the decision of a store, an acquisition has its place in the queue before anybody waits for it.
        self._machine.late.append((self._leave_locked, wait, ABANDONED))
        self._machine.unlocked()

    def _leave_locked(self, wait: Wait, verdict: Verdict) -> list[Ticket]:
        assert isinstance(wait.decision, Acquisition)
        return wait.decision.abandon_locked()

    def _shut(self) -> Ticket:
        """Close the pool; returns a ticket for the moment when it is empty."""
        stock, drained = self._machine, Ticket(_nobody)
        with stock.lock:
            woken = [*stock.caught_up_locked(), *stock.shut_locked()]
            stock.drainers.append(drained)
            woken += stock.drained_locked()
        stock.wake(woken)
        return drained

    def _forget(self, drained: Ticket) -> None:
        if drained in self._machine.drainers:
            self._machine.drainers.remove(drained)

    def _longest_wait(self) -> float | None:
        """Seconds that a call can wait here; None if nothing but the deadline bounds it."""
        return self._patience

    def _waited_too_long(self) -> CallRejectedError:
        return PoolExhaustedError(self.name)


def _nobody(ticket: Ticket, verdict: Verdict) -> list[Ticket]:
    """Who waits for the end of a pool holds nothing that could be given back."""
    return []


def _nearer(limit: float | None, left: float | None) -> float | None:
    return left if limit is None or (left is not None and left < limit) else limit
