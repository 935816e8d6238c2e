"""The shared state of a policy: one lock, results handed over without waiting, events leaving in order.

Three rules keep it free of deadlocks: whoever decides holds the lock only for arithmetic; whoever settles never waits
for it; and every unlocker looks whether something was handed over meanwhile.
"""

from __future__ import annotations

import contextlib
import enum
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ._lock import Lock
from ._ticket import Ticket
from .events import Event, Listener, deliver


class Verdict(enum.Enum):
    """How a call counts. ABANDONED gives the permit back and counts as neither success nor failure."""

    SUCCESS = "success"
    FAILURE = "failure"
    ABANDONED = "abandoned"


# Looking a member up on an enum class costs more than the rest of a comparison.
SUCCESS, FAILURE, ABANDONED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.ABANDONED


_MOST_UNDELIVERED = 10_000  # events; beyond that another thread delivers, and order is worth less than memory


class Machine:
    """The shared state behind a policy and its variants: one lock, a generation, and what is to be done outside it."""

    __slots__ = ("__weakref__", "emitting", "free", "generation", "late", "lock", "outbox")

    def __init__(self) -> None:
        self.lock = Lock()
        self.free = self.lock.free  # its token, for the hot paths
        self.generation = 1
        # Settlements that found the lock taken, and events on their way to the listeners. Appending to a deque is
        # atomic and allowed in a finaliser.
        self.late: deque[tuple[Callable[[Any, Verdict], Iterable[Ticket]], Any, Verdict]] = deque()
        self.outbox: deque[tuple[Event, tuple[Listener, ...]]] = deque()
        self.emitting = threading.Lock()
        _machines.add(self)

    def unlocked(self) -> None:
        """Do what was handed over meanwhile. Whoever releases the lock calls this if `late` or `outbox` has entries."""
        while self.late and self.lock.acquire(False):
            try:
                woken = self.caught_up_locked()
            finally:
                self.lock.release()
            self.wake(woken)
        emitting = self.emitting  # a listener may fork, and the child then has a new one
        while self.outbox:
            if not emitting.acquire(False):
                if len(self.outbox) < _MOST_UNDELIVERED:
                    return
                # Whoever delivers is stuck in a listener, or was torn out of here by a signal handler that raised.
                emitting = self.emitting = threading.Lock()
                continue
            try:
                with contextlib.suppress(IndexError):  # another one may deliver as well, after a take-over
                    while True:
                        event, listeners = self.outbox.popleft()
                        deliver(event, listeners)
            finally:
                emitting.release()

    def caught_up_locked(self) -> list[Ticket]:
        """Apply what was handed over, so that a decision sees all that came before it; returns the tickets to wake."""
        woken: list[Ticket] = []
        while self.late:
            apply, permit, verdict = self.late.popleft()
            woken += apply(permit, verdict)
        return woken

    def wake(self, tickets: Iterable[Ticket]) -> None:
        """Wake granted waiters, outside the lock. What was granted to one whose loop has closed goes to the next."""
        for ticket in tickets:
            if not ticket.wake():
                self.late.append((ticket.give_back, ticket, Verdict.ABANDONED))

    def forked(self) -> None:
        """In the child of a fork: new locks, nothing in flight, and no permit of the parent counts."""
        self.lock = Lock()
        self.free = self.lock.free
        self.emitting = threading.Lock()
        self.late.clear()
        self.outbox.clear()
        self.generation += 1


_machines: weakref.WeakSet[Machine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for machine in list(_machines):
        # A machine that lacks a field was being made by a thread of the parent: nobody here will ever see it.
        with contextlib.suppress(AttributeError):
            machine.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)
