"""Bulkhead: at most so many calls at a time, so that one slow dependency cannot take every thread or task with it.

A call beyond the limit is rejected, or waits in a bounded FIFO queue for at most `max_wait` seconds. One bulkhead is
one limit for all threads and all event loops. A slot passes from a finished call straight to the first waiter::

    admit ──► free slot? ──► run ──► settle ──► waiter? ──► its slot
                 └─► queue (≤ max_queue, ≤ max_wait) ──► or BulkheadFullError
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from . import _arguments, deadline
from ._layer import refuse_bare
from ._machine import SUCCESS, Machine, Verdict
from ._policy import Policy
from ._shared_bulkhead import Lease, SharedSlots
from ._ticket import Ticket
from ._wait import Wait
from .clock import Clock
from .events import SUBSCRIBERS, CallQueued, Listener
from .exceptions import BulkheadFullError, CallRejectedError, DeadlineExceededError
from .store import Store, checked_store

_refused = BulkheadFullError.__new__  # makes one without running any Python code


@dataclass(frozen=True, slots=True)
class BulkheadStatistics:
    """A bulkhead at one moment; `queued` and `rejected` count since it was made."""

    max_concurrency: int
    max_queue: int
    in_use: int
    waiting: int
    queued: int
    rejected: int


class _Slots(Machine):
    """`used` permits are out. Whenever somebody waits, `used >= capacity`."""

    __slots__ = ("capacity", "max_queue", "queue", "queued", "rejected", "used")

    def __init__(self, capacity: int, max_queue: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.max_queue = max_queue
        self.used = 0
        self.queued = 0
        self.rejected = 0
        self.queue: OrderedDict[Ticket, None] = OrderedDict()

    def forked(self) -> None:
        super().forked()
        self.used = 0
        self.queue.clear()


class Bulkhead(Policy):
    """Limit the calls that run at the same time.

    `max_concurrency` calls run at once, up to `max_queue` more wait in order for at most `max_wait` seconds (None: as
    long as the deadline allows). Raises `BulkheadFullError` when the queue is full or the wait too long, and
    `DeadlineExceededError` when the deadline comes first. With a `store` the limit is shared by all bulkheads of that
    `name`; see `_shared_bulkhead.py`. The permit then has a fencing number, `guard.permit.fence`.
    """

    _machine: _Slots
    _variable = frozenset({"listeners", "max_wait", "name"})

    def __init__(
        self,
        max_concurrency: int,
        *,
        max_queue: int = 0,
        max_wait: float | timedelta | None = 30.0,
        name: str | None = None,
        store: Store | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        refuse_bare(Bulkhead, max_concurrency)
        super().__init__(name, clock, listeners)
        store = checked_store(store, name)
        self._machine = _Slots(
            _arguments.count("max_concurrency", max_concurrency), _arguments.count("max_queue", max_queue, minimum=0)
        )
        self._shared: SharedSlots | None = None
        self._configure(max_wait=max_wait)
        if store is not None:
            self._share(store)

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        machine = self._machine
        if machine.used < machine.capacity:
            free = machine.free
            try:
                free.pop()
            except IndexError:  # somebody is inside
                return self._admit_or_queue()
            try:
                if machine.used < machine.capacity and not machine.late:
                    machine.used += 1
                    return machine.generation
            finally:
                free.append(None)
        elif not (
            machine.max_queue or machine.late or SUBSCRIBERS or self._listeners or machine.used < machine.capacity
        ):
            # Full, and nowhere to wait. The count is looked at again after `late`: in between, what was handed over
            # there may have been applied.
            machine.rejected += 1  # a statistic; a lost count under contention is cheaper than a lock
            raise _refused(BulkheadFullError, self.name)
        return self._admit_or_queue()

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        machine = self._machine
        free = machine.free
        try:
            free.pop()
        except IndexError:  # somebody is inside, perhaps this very thread
            machine.late.append((self._release_locked, permit, verdict))
        else:
            woken: Iterable[Ticket] = ()
            try:
                if machine.queue:
                    woken = self._release_locked(permit, verdict)
                elif permit == machine.generation:
                    machine.used -= 1
                elif type(permit) is Lease:
                    machine.late.append((self._release_locked, permit, verdict))
            finally:
                free.append(None)
            if woken:
                machine.wake(woken)
        if machine.late or machine.outbox:
            machine.unlocked()

    def resize(self, max_concurrency: int) -> None:
        """Change the limit. Growing lets waiters in at once; shrinking lets running calls finish."""
        capacity = _arguments.count("max_concurrency", max_concurrency)
        if self._shared is not None:
            self._shared.capacity = capacity
            self._shared.alone.resize(capacity)
            return
        machine = self._machine
        with machine.lock:
            machine.capacity = capacity
            woken = self._fill_locked()
        machine.wake(woken)
        machine.unlocked()

    def statistics(self) -> BulkheadStatistics:
        """A consistent snapshot; with a store, what this process has of it."""
        if self._shared is not None:
            return self._shared_statistics(self._shared)
        machine = self._machine
        with machine.lock:
            woken = machine.caught_up_locked()
            result = BulkheadStatistics(
                machine.capacity, machine.max_queue, machine.used, len(machine.queue), machine.queued, machine.rejected
            )
        machine.wake(woken)
        machine.unlocked()
        return result

    @property
    def at_rest(self) -> bool:
        return self.statistics().in_use == 0

    def __repr__(self) -> str:
        now = self.statistics()
        return (
            f"<Bulkhead {self.name or 'unnamed'}: {now.in_use} of {now.max_concurrency} in use,"
            f" {now.waiting} of {now.max_queue} waiting>"
        )

    # -- private transitions -------------------------------------------------------------------------------------------

    @property
    def _indifferent(self) -> bool:
        return True

    def _configure(self, **changes: Any) -> None:
        if "max_wait" in changes:
            self._max_wait = _arguments.optional_seconds("max_wait", changes["max_wait"], zero=True)
        super()._configure(**changes)

    def _share(self, store: Store) -> None:
        """Let the store decide. The slots here are those for when it does not answer."""
        machine = self._machine
        turn = Bulkhead(1, max_queue=machine.max_queue - 1, max_wait=None) if machine.max_queue else None
        alone = Bulkhead(machine.capacity, max_queue=machine.max_queue, name=self.name, clock=self._clock)
        self._shared = SharedSlots(store, str(self.name), machine.capacity, turn, alone)
        # Nothing of its own to give away, and never quick to refuse: each call comes to `_admit_or_queue`.
        self._machine = _Slots(0, 1)

    def _shared_statistics(self, shared: SharedSlots) -> BulkheadStatistics:
        turn = None if shared.turn is None else shared.turn.statistics()
        waiting, places, turned_away = 0, 0, 0
        if turn is not None:
            waiting, places, turned_away = turn.in_use + turn.waiting, turn.max_queue + 1, turn.rejected
        return BulkheadStatistics(
            shared.capacity, places, shared.held(), waiting, shared.queued, shared.rejected + turned_away
        )

    def _admit_or_queue(self) -> Any:
        if self._shared is not None:
            return self._shared.admit(self)
        machine = self._machine
        left = deadline.remaining()
        refusal: CallRejectedError | None = None
        permit: Any = None
        with machine.lock:
            woken = machine.caught_up_locked()
            if machine.used < machine.capacity:
                machine.used += 1
                permit = machine.generation
            elif self._max_wait == 0.0 or len(machine.queue) >= machine.max_queue:
                machine.rejected += 1
                refusal = BulkheadFullError(self.name)
            elif left is not None and left <= 0.0:
                machine.rejected += 1
                refusal = DeadlineExceededError(self.name)
            else:
                ticket = Ticket(self._take_back_locked)
                machine.queue[ticket] = None
                machine.queued += 1
                permit = Wait(self, machine.generation, self._max_wait, ticket)
                self._note(CallQueued, seconds=self._max_wait)
        machine.wake(woken)
        if machine.late or machine.outbox:
            self._deliver(permit)
        if refusal is not None:
            raise self._rejected(refusal)
        return permit

    def _release_locked(self, permit: Any, verdict: Verdict) -> Iterable[Ticket]:
        machine = self._machine
        if permit != machine.generation:
            if type(permit) is Lease and self._shared is not None:
                self._shared.settle(permit)
            return ()
        machine.used -= 1
        return self._fill_locked()

    def _fill_locked(self) -> list[Ticket]:
        machine = self._machine
        woken = []
        while machine.queue and machine.used < machine.capacity:
            ticket, _ = machine.queue.popitem(last=False)
            ticket.granted = True
            machine.used += 1
            woken.append(ticket)
        return woken

    def _leave_locked(self, wait: Wait, verdict: Verdict) -> Iterable[Ticket]:
        assert wait.ticket is not None
        self._machine.queue.pop(wait.ticket, None)
        # What was granted before a fork is no slot of the child.
        return self._take_back_locked(wait.ticket, verdict) if wait.permit == self._machine.generation else ()

    def _take_back_locked(self, ticket: Ticket, verdict: Verdict) -> Iterable[Ticket]:
        """Pass on the slot that was granted to a waiter who is gone, if any."""
        # Two may tell us so: the waiter itself when it is finalised, and its closed loop when it was to be woken.
        if not ticket.granted:
            return ()
        ticket.granted = False
        return self._release_locked(self._machine.generation, verdict)

    def _withdraw(self, wait: Wait) -> bool:
        machine = self._machine
        assert wait.ticket is not None
        with machine.lock:
            woken = machine.caught_up_locked()
            granted = wait.ticket.granted
            if not granted:
                del machine.queue[wait.ticket]
                machine.rejected += 1
        machine.wake(woken)
        if machine.late or machine.outbox:
            machine.unlocked()
        return not granted

    def _longest_wait(self) -> float | None:
        """Seconds that a call can wait here; None if nothing but the deadline bounds it."""
        queue = self._machine.max_queue if self._shared is None else self._shared.turn
        return self._max_wait if queue else 0.0

    def _waited_too_long(self) -> CallRejectedError:
        return BulkheadFullError(self.name)
