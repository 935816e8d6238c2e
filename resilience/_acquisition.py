"""How a caller comes by a resource of a pool that is not simply there.

::

                ┌── queue ◄────────────────┐ broken: back to the front, while what is broken is closed
    admit ──────┤     │ granted            │
                ├─────┴──► idle a while? check
                └─────┬──► vacant? create ─► lent ──► block ──► settle
                      └──► failed: the error is this caller's, the slot is the next one's

An `Acquisition` goes that way for one caller, in its colour: plain functions in the caller's own thread, or in a thread
on an errand when the caller is a task; asynchronous ones in the task itself. All transitions are the shelf's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from typing import Any, Protocol, final

from . import _errand, deadline
from ._layer import restore
from ._machine import Verdict
from ._slot import LENT, VACANT, Item, Place
from ._stock import Stock
from ._ticket import Ticket
from ._wait import metered
from .clock import Clock
from .deadline import Deadline, ambient
from .events import PoolCreationFailed
from .exceptions import CallRejectedError, DeadlineExceededError, PoolClosedError


class Lender(Protocol):
    """What an acquisition needs of its pool."""

    name: str | None
    _clock: Clock
    _machine: Stock
    _patience: float | None

    def _rejected(self, error: CallRejectedError) -> CallRejectedError: ...

    def _waited_too_long(self) -> CallRejectedError: ...

    def _warn_if_blocking_a_loop(self) -> None: ...


@final
class Acquisition:
    """The way of one caller to a resource: a `Decision` that the caller obtains in its own colour."""

    __slots__ = (
        *("_began", "_busy", "_error", "_hurried", "_left", "_pool", "_queued", "_ready", "_stock", "_touched"),
        *("item", "place"),
    )

    def __init__(self, pool: Lender, now: float, item: Item | None = None) -> None:
        """To be made under the lock: `item` is what there is for the caller. None: it queues up."""
        self._pool = pool
        self._stock = pool._machine
        self._began = self._queued = now
        self.item = item
        self.place: Place | None = None
        if item is None:
            self.place = Place(self._take_back_locked)
            self._stock.join_locked(self.place)
        self._ready = False
        self._touched = False  # whether a check has begun: if it does not end well, nobody knows what state that is
        self._hurried = False  # whether the deadline is what limits the waiting
        # Guarded by the lock, as the caller and the errand that works for it may end in any order.
        self._busy = False  # an errand is on its way
        self._left = False  # the caller has left it behind
        self._error: BaseException | None = None

    def block(self) -> Item:
        """Obtain the resource in this thread."""
        self._pool._warn_if_blocking_a_loop()
        if self._stock.is_async:
            raise TypeError(f"{self._stock} creates its resources asynchronously: use `async with`")
        while not self._ready:
            if self.place is not None:
                self._arrive(self.place.block(self._pool._clock, self._limit()))
            else:
                with self._working(), self._bound(self._limit()):
                    self._work()
        return self._taken()

    async def suspend(self) -> Item:
        """Obtain the resource in this task."""
        while not self._ready:
            if self.place is not None:
                self._arrive(await self.place.suspend(self._pool._clock, self._limit()))
            elif self._stock.is_async:
                with self._working():
                    await self._awork(self._limit())
            else:
                with self._working():
                    await self._by_errand(self._limit())
        return self._taken()

    def _taken(self) -> Item:
        item, self.item = self.item, None
        assert item is not None
        self._stock.lent(item)
        return item

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _limit(self) -> float | None:
        """Seconds that are left: of the pool's patience, or until the deadline."""
        patience, left = self._pool._patience, deadline.remaining()
        own = None if patience is None else max(0.0, self._began + patience - self._pool._clock.now())
        self._hurried = left is not None and (own is None or left <= own)
        return left if self._hurried else own

    def _too_late(self) -> CallRejectedError:
        pool = self._pool
        return pool._rejected(DeadlineExceededError(pool.name) if self._hurried else pool._waited_too_long())

    def _arrive(self, granted: bool) -> None:
        """The wait in the queue is over, with success or not."""
        stock, place, now = self._stock, self.place, self._pool._clock.now()
        assert place is not None
        with stock.lock:
            woken = stock.caught_up_locked()
            granted = place.granted  # perhaps the grant came in the very moment the wait ended
            if granted:
                place.granted = False  # taken: a wake-up that comes after our loop has closed gives nothing back
                self.item = place.item
            else:
                stock.queue.pop(place, None)
                stock.timed_out += 1
            self.place = None
            stock.waited_locked(now - self._queued)
        stock.wake(woken)
        stock.unlocked()
        if not granted:
            raise self._too_late()
        if self.item is None:
            raise self._pool._rejected(PoolClosedError(self._pool.name))
        self._look()

    def _look(self) -> None:
        """Is the item that we have as good as it is?"""
        item = self.item
        self._ready = item is not None and item.state is LENT and not self._stock.due(item, self._pool._clock.now())

    # -- creating and checking -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Create what is missing, or check what is there, in this thread."""
        stock, item, began = self._stock, self.item, self._pool._clock.now()
        assert item is not None
        if item.state is not VACANT:
            self._touched = True
            self._judge(item, stock.healthy(item.resource))
            return
        try:
            resource = stock.make()
        except Exception as error:
            self._failed(item, error)
            raise
        self._made(item, resource, began)

    async def _awork(self, limit: float | None) -> None:
        """The same in this task. Cut off when the time is up."""
        stock, item = self._stock, self.item
        assert item is not None
        try:
            async with self._cut(limit):
                with self._bound(limit):
                    await self._do(item)
        except _CutOffError:
            if item.state is VACANT:
                self._failed(item, TimeoutError("creating the resource took too long and was cut off"))
            with stock.lock:
                stock.timed_out += 1
            raise self._too_late() from None

    async def _do(self, item: Item) -> None:
        stock, began = self._stock, self._pool._clock.now()
        if item.state is not VACANT:
            self._touched = True
            self._judge(item, await stock.ahealthy(item.resource))
            return
        try:
            resource = await stock.amake()
        except Exception as error:
            self._failed(item, error)
            raise
        self._made(item, resource, began)

    async def _by_errand(self, limit: float | None) -> None:
        """Have a thread do the work. If this caller cannot wait for it, what comes of it is for the others."""
        stock = self._stock
        ticket = Ticket(self._take_back_locked)
        context = copy_context()
        self._busy = True
        try:
            _errand.start(context, lambda: self._run(ticket, limit))
        except BaseException:
            self._busy = False
            raise
        await ticket.suspend(self._pool._clock, limit)
        with stock.lock:
            late = self._busy
            if late:
                stock.timed_out += 1
            ticket.granted = False
        if late:
            raise self._too_late()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    def _run(self, ticket: Ticket, limit: float | None) -> None:
        """The errand."""
        stock = self._stock
        try:
            with self._bound(limit):
                self._work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            self._error = error
        with stock.lock:
            woken = stock.caught_up_locked()
            self._busy = False
            if self._left:
                self._error = None
                woken += self.abandon_locked()
            else:
                ticket.granted = True
                woken.append(ticket)
        stock.wake(woken)
        stock.unlocked()

    def _made(self, item: Item, resource: Any, began: float) -> None:
        self._stock.made(item, resource, began)
        self._ready = True

    def _failed(self, item: Item, error: Exception) -> None:
        """The error is for this caller alone, and the slot for the next."""
        stock, now = self._stock, self._pool._clock.now()
        with stock.lock:
            woken = [*stock.caught_up_locked(), *stock.failed_locked(item, now, wary=True)]
        self.item = None
        stock.note(PoolCreationFailed, error=error)
        stock.wake(woken)
        stock.unlocked()

    def _judge(self, item: Item, healthy: bool) -> None:
        """What was checked is good; or it is closed, and this caller gets another one before all others."""
        stock, now = self._stock, self._pool._clock.now()
        self._touched = False
        if healthy:
            item.doubtful = False
            item.returned = now
            self._ready = True
            return
        with stock.lock:
            woken = stock.caught_up_locked()
            place = Place(self._take_back_locked)
            stock.join_locked(place, first=True)
            self.item, self.place, self._queued = None, place, now
            same = item.generation == stock.generation  # else somebody forked during the check
            woken += stock.doom_locked(item, "broken", now) if same else stock.fill_locked(now)
        stock.wake(woken)
        stock.unlocked()

    @contextmanager
    def _working(self) -> Iterator[None]:
        """What a dependency takes to answer is no waiting in this layer: the breakers around are to count it."""
        began = self._pool._clock.now()
        try:
            yield
        finally:
            metered(began - self._pool._clock.now())

    @contextmanager
    def _bound(self, limit: float | None) -> Iterator[None]:
        """Let `create` and `check` see how much time they have, by `resilience.remaining()`."""
        pool, outer = self._pool, ambient.get()
        if limit is None or self._hurried:
            yield
            return
        token = ambient.set(Deadline(pool._clock.now() + limit, pool._clock, pool.name, pool._patience, outer))
        try:
            yield
        finally:
            restore(ambient, token)

    @asynccontextmanager
    async def _cut(self, limit: float | None) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if limit is None:
            yield
            return
        scope = asyncio.timeout(None)  # it has the semantics; the time is our clock's
        timer = self._pool._clock.call_later(loop, limit, lambda: scope.reschedule(loop.time()))
        try:
            async with scope:
                yield
        except TimeoutError:
            if scope.expired():
                raise _CutOffError from None
            raise
        finally:
            timer.cancel()

    # -- leaving -------------------------------------------------------------------------------------------------------

    def abandon_locked(self) -> list[Ticket]:
        """The caller is gone. What it had, or was about to get, is the next one's."""
        if self._busy:
            self._left = True
            return []
        stock, now = self._stock, self._pool._clock.now()
        place, self.place = self.place, None
        item, self.item = self.item, None
        if place is not None:
            stock.queue.pop(place, None)
            if place.granted:
                place.granted = False
                item = place.item
        if item is None or item.generation != stock.generation:
            return []
        if self._touched:
            return stock.doom_locked(item, "interrupted", now)
        return stock.give_up_locked(item, now)

    def _take_back_locked(self, ticket: Any, verdict: Verdict) -> list[Ticket]:
        """The loop of the caller was closed before it could be told."""
        return self.abandon_locked() if ticket.granted else []


class _CutOffError(Exception):
    """Time is up for what a task is doing."""
