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
from ._machine import ABANDONED, SUCCESS, Machine, Verdict
from ._policy import Policy
from ._ticket import Ticket
from ._wait import Wait
from .clock import Clock
from .events import CallQueued, Listener
from .exceptions import BulkheadFullError, CallRejectedError, DeadlineExceededError


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
    `DeadlineExceededError` when the deadline comes first.
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
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(name, clock, listeners)
        self._machine = _Slots(
            _arguments.count("max_concurrency", max_concurrency), _arguments.count("max_queue", max_queue, minimum=0)
        )
        self._configure(max_wait=max_wait)

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        machine = self._machine
        with machine.lock:
            if machine.used < machine.capacity and not machine.late:
                machine.used += 1
                return machine.generation
        return self._admit_or_queue()

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        machine = self._machine
        lock = machine.lock
        if lock.acquire(False):
            woken: Iterable[Ticket] = ()
            try:
                if machine.queue:
                    woken = self._release_locked(permit, verdict)
                elif permit == machine.generation:
                    machine.used -= 1
            finally:
                lock.release()
            if woken:
                machine.wake(woken)
        else:
            machine.late.append((self._release_locked, permit, verdict))
        if machine.late or machine.outbox:
            machine.unlocked()

    def resize(self, max_concurrency: int) -> None:
        """Change the limit. Growing lets waiters in at once; shrinking lets running calls finish."""
        capacity = _arguments.count("max_concurrency", max_concurrency)
        machine = self._machine
        with machine.lock:
            machine.capacity = capacity
            woken = self._fill_locked()
        machine.wake(woken)
        machine.unlocked()

    def statistics(self) -> BulkheadStatistics:
        """A consistent snapshot."""
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
        return self._machine.used == 0

    def __repr__(self) -> str:
        machine = self._machine
        return (
            f"<Bulkhead {self.name or 'unnamed'}: {machine.used} of {machine.capacity} in use,"
            f" {len(machine.queue)} of {machine.max_queue} waiting>"
        )

    # -- private transitions -------------------------------------------------------------------------------------------

    def _configure(self, **changes: Any) -> None:
        if "max_wait" in changes:
            self._max_wait = _arguments.optional_seconds("max_wait", changes["max_wait"], zero=True)
        super()._configure(**changes)

    def _admit_or_queue(self) -> Any:
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
                ticket = Ticket(self._dead_waiter_locked)
                machine.queue[ticket] = None
                machine.queued += 1
                permit = Wait(self, machine.generation, self._max_wait, ticket)
                self._note(CallQueued, seconds=self._max_wait)
        machine.wake(woken)
        if machine.late or machine.outbox:
            machine.unlocked()
        if refusal is not None:
            raise self._rejected(refusal)
        return permit

    def _release_locked(self, permit: Any, verdict: Verdict) -> Iterable[Ticket]:
        machine = self._machine
        if permit != machine.generation:
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

    def _dead_waiter_locked(self, ticket: Ticket, verdict: Verdict) -> Iterable[Ticket]:
        return self._release_locked(self._machine.generation, verdict)

    def _leave_locked(self, wait: Wait, verdict: Verdict) -> Iterable[Ticket]:
        ticket = wait.ticket
        if ticket is None or not ticket.granted:
            self._machine.queue.pop(ticket, None)  # type: ignore[arg-type]
            return ()
        return self._release_locked(wait.permit, ABANDONED)

    def _withdraw(self, wait: Wait) -> bool:
        machine = self._machine
        with machine.lock:
            if wait.ticket is not None and wait.ticket.granted:
                return False
            self._machine.queue.pop(wait.ticket, None)  # type: ignore[arg-type]
            machine.rejected += 1
        if machine.late or machine.outbox:
            machine.unlocked()
        return True

    def _longest_wait(self) -> float | None:
        """Seconds that a call can wait here; None if nothing but the deadline bounds it."""
        return self._max_wait if self._machine.max_queue else 0.0

    def _waited_too_long(self) -> CallRejectedError:
        return BulkheadFullError(self.name)
