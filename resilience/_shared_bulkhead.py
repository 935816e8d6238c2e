"""Slots shared through a store: leases, of which all instances together hold no more than `max_concurrency`.

A lease is renewed in the background while its call runs, and expires when its holder has died. A call that finds all
slots taken waits in a queue of this process, in order of arrival; the first in it asks again whenever a slot of this
process comes back, and every few hundredths of a second for those of others. Between processes there is no order.

The permit carries a *fencing number*, larger than that of every lease before it. A holder that was paused for longer
than its lease does not know that somebody else has its slot now; a resource that remembers the largest number it has
seen can turn it away.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import deadline
from ._asking import Then, asked
from ._courier import Operation, Report
from ._ledger import Reply
from ._machine import Machine
from ._policy import Policy
from ._ticket import Ticket
from ._wait import Wait
from .events import CallQueued, LeaseLost
from .exceptions import BulkheadFullError, DeadlineExceededError, StoreUnavailableError
from .store import Store

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1  # seconds between two questions of the first in the queue


class Lease(NamedTuple):
    """The permit of a shared bulkhead. `owner` is None for a slot that no store knows of."""

    owner: str | None
    fence: int
    local: Any = None


class SharedSlots(Machine):
    """The store's part of a bulkhead. `turn` lets the waiters ask one after the other, `alone` is the bulkhead to use
    without the store; both are local ones."""

    __slots__ = ("_head", "_held", "_name", "alone", "capacity", "queued", "rejected", "store", "turn")

    def __init__(self, store: Store, name: str, capacity: int, turn: Any, alone: Any) -> None:
        super().__init__()
        self.store = store
        self.turn = turn
        self.alone = alone
        self.capacity = capacity
        self.queued = self.rejected = 0  # statistics
        self._name = name
        self._held: dict[str, Policy] = {}  # by owner
        self._head: Ticket | None = None  # of the first in the queue, while it waits for a slot to come back

    def admit(self, policy: Any) -> Any:
        """A permit, or a Wait; raises a rejection."""
        if self.turn is not None and self.turn._machine.used and not self.store.refuses:
            return Wait(policy, None, decision=_Queueing(self, policy))  # nobody overtakes
        owner = uuid.uuid4().hex

        def answered(reply: Reply) -> Any:
            if reply[0]:
                return self.granted(policy, owner, reply)
            if self.turn is None or policy._max_wait == 0.0:
                raise self.refused(policy)
            return Wait(policy, None, decision=_Queueing(self, policy))

        return asked(
            policy, self.store, self.question(owner), answered, lambda: self.without_store(policy), self.undo(owner)
        )

    def settle(self, permit: Lease) -> None:
        """Give a slot back, once. Never waits."""
        if permit.owner is None:
            if permit.local is not None:
                self.alone.settle(permit.local)
        elif self._held.pop(permit.owner, None) is not None:
            self.give_back(permit.owner)

    def give_back(self, owner: str) -> None:
        self.store.tell(_Returning(self, self._operation("release", owner)))
        self.wake_head()

    def wake_head(self) -> None:
        head = self._head
        if head is not None:
            head.granted = True
            head.wake()

    def held(self) -> int:
        """The slots that this process holds."""
        in_use: int = self.alone.statistics().in_use
        return len(self._held) + in_use

    def forked(self) -> None:
        super().forked()
        self._held.clear()
        self._head = None

    # -- for decisions -------------------------------------------------------------------------------------------------

    def question(self, owner: str) -> Operation:
        return self._operation("acquire", owner, min(self.store.lease_time, 1e9), float(self.capacity))

    def granted(self, policy: Policy, owner: str, reply: Reply) -> Lease:
        self._held[owner] = policy
        self.store.keep(self)
        return Lease(owner, int(reply[1]))

    def undo(self, owner: str) -> Any:
        return lambda reply: self.give_back(owner) if reply[0] else None

    def refused(self, policy: Policy) -> BaseException:
        self.rejected += 1
        return policy._rejected(BulkheadFullError(policy.name))

    def without_store(self, policy: Any) -> Any:
        """What a call gets while the store does not answer."""
        if self.store.on_error == "open":
            return Lease(None, 0)
        if self.store.on_error == "closed":
            raise self.refused(policy)
        try:
            permit = self.alone.with_(max_wait=policy._max_wait).admit()
        except BulkheadFullError:
            raise self.refused(policy) from None
        if type(permit) is Wait:
            return Wait(policy, None, decision=Then(permit, lambda local: Lease(None, 0, local)))
        return Lease(None, 0, permit)

    def first_in_queue(self) -> Ticket:
        """The ticket of who waits for a slot to come back."""
        self._head = Ticket(lambda ticket, verdict: ())
        return self._head

    # -- renewing ------------------------------------------------------------------------------------------------------

    def renewal(self) -> Report | None:
        """What to tell so that the leases go on."""
        owners = list(self._held)
        return _Renewing(self, owners) if owners else None

    def lost_leases(self, owners: Iterable[str]) -> None:
        """These are not ours any more, though their calls go on."""
        for owner in owners:
            policy = self._held.pop(owner, None)
            if policy is not None:
                policy._tell(LeaseLost)

    def renewing(self, owners: list[str]) -> Operation:
        return self._operation("renew", self.store.lease_time, *owners)

    def _operation(self, verb: str, *arguments: float | str) -> Operation:
        return Operation("bulkhead", verb, self._name, "none", arguments)


class _Returning:
    """A slot on its way back. If the store does not hear of it, it expires."""

    __slots__ = ("_operation", "_slots")

    def __init__(self, slots: SharedSlots, operation: Operation) -> None:
        self._slots = slots
        self._operation = operation

    def operation(self) -> Operation:
        return self._operation

    def heard(self, reply: Reply) -> None:
        self._slots.wake_head()

    def lost(self) -> None:
        """Nothing that could be done."""


class _Renewing:
    """The leases of one process, to be renewed."""

    __slots__ = ("_owners", "_slots")

    def __init__(self, slots: SharedSlots, owners: list[str]) -> None:
        self._slots = slots
        self._owners = owners

    def operation(self) -> Operation:
        return self._slots.renewing(self._owners)

    def heard(self, reply: Reply) -> None:
        self._slots.lost_leases(owner for owner, held in zip(self._owners, reply, strict=True) if not held)

    def lost(self) -> None:
        """The next one may arrive."""


class _Queueing:
    """The wait of a call that found all slots taken: first for its turn, then for a slot."""

    __slots__ = ("_end", "_policy", "_slots")

    def __init__(self, slots: SharedSlots, policy: Any) -> None:
        self._slots = slots
        self._policy = policy
        self._end = None if policy._max_wait is None else policy._clock.now() + policy._max_wait

    def block(self) -> Any:
        slots, policy, clock = self._slots, self._policy, self._policy._clock
        policy._warn_if_blocking_a_loop()
        with self._turn().guard():
            pause = _FIRST_PAUSE
            while True:
                ticket, owner = slots.first_in_queue(), uuid.uuid4().hex
                try:
                    reply = slots.store.ask(slots.question(owner))
                except StoreUnavailableError:
                    return slots.without_store(policy)
                if reply[0]:
                    return slots.granted(policy, owner, reply)
                ticket.block(clock, self._at_most(pause))
                pause = min(2.0 * pause, _LONGEST_PAUSE)

    async def suspend(self) -> Any:
        slots, policy, clock = self._slots, self._policy, self._policy._clock
        async with self._turn().guard():
            pause = _FIRST_PAUSE
            while True:
                ticket, owner = slots.first_in_queue(), uuid.uuid4().hex
                try:
                    reply = await slots.store.aask(slots.question(owner), slots.undo(owner))
                except StoreUnavailableError:
                    return slots.without_store(policy)
                if reply[0]:
                    return slots.granted(policy, owner, reply)
                await ticket.suspend(clock, self._at_most(pause))
                pause = min(2.0 * pause, _LONGEST_PAUSE)

    def _turn(self) -> Any:
        """The queue, for as long as this call may wait in it."""
        policy = self._policy
        self._slots.queued += 1
        policy._note(CallQueued, seconds=policy._max_wait)
        policy._deliver(None)
        return self._slots.turn.with_(max_wait=policy._max_wait, name=policy.name)

    def _at_most(self, pause: float) -> float:
        """The pause before the next question; raises a rejection when there is no time left for one."""
        left = deadline.remaining()
        if left is not None and left <= 0.0:
            self._slots.rejected += 1
            raise self._policy._rejected(DeadlineExceededError(self._policy.name))
        rest = None if self._end is None else self._end - self._policy._clock.now()
        if rest is not None and rest <= 0.0:
            raise self._slots.refused(self._policy)
        return min(pause, *(limit for limit in (left, rest) if limit is not None), pause)
