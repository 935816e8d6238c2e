"""The book-keeper of a pool: which slots there are, what is in them, who waits, what has to be closed. No I/O at all.

::

    reserve ──► VACANT ── made ──► LENT ◄── take ─── IDLE
                  │ fail            │ ▲                │
                  ▼                 │ └─ put ──────────┘ newest first; a waiter comes before the shelf
                 gone ◄── closed ◄─ CLOSING ◄── doom ──┘ broken, too old, too long idle, one too many

A slot is taken from the moment something is to be created until what was created is closed, so that there are never
more than `max_size` at a time. Whenever somebody waits, nothing is idle and nothing may be created.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from typing import Any

from ._machine import ABANDONED, FAILURE, Machine, Verdict
from ._slot import CLOSING, GONE, IDLE, LENT, VACANT, Item, Place, PoolStatistics
from ._ticket import Ticket

FRESH = 0.5  # seconds for which an idle resource is trusted without a check
_JITTER = 0.1  # share of a lifetime that chance takes off


class Shelf(Machine):
    """All the items of a pool. What a method returns are the waiters to wake, unless it says so."""

    __slots__ = (
        *("borrowed", "checks", "closed", "closed_count", "closes", "closing", "created", "creating", "doomed"),
        *("drainers", "failed", "idle", "inherited", "items", "leak_after", "leaked", "longest_wait", "max_idle_time"),
        *("max_lifetime", "max_queue", "max_size", "min_idle", "out", "overdue", "queue", "refilling", "rejected"),
        *("rng", "timed_out", "wait_time", "wary"),
    )

    def __init__(
        self,
        max_size: int,
        *,
        min_idle: int,
        max_queue: int,
        max_idle_time: float,
        max_lifetime: float,
        leak_after: float | None,
        checks: bool,
        closes: bool,
        rng: random.Random,
    ) -> None:
        super().__init__()
        self.max_size = max_size
        self.min_idle = min_idle
        self.max_queue = max_queue
        self.max_idle_time = max_idle_time
        self.max_lifetime = max_lifetime
        self.leak_after = leak_after
        self.checks = checks
        self.closes = closes
        self.rng = rng
        self.items: set[Item] = set()  # all slots that are taken
        self.idle: deque[Item] = deque()  # the newest on the right
        self.queue: OrderedDict[Place, None] = OrderedDict()
        self.doomed: deque[Item] = deque()  # to be closed outside the lock
        self.out: OrderedDict[Item, None] = OrderedDict()  # what is watched for leaks, the oldest loan first
        # Leaks to report outside the lock: how long the loans have lasted and who borrowed, as far as that is known.
        self.overdue: deque[tuple[float | None, Any]] = deque()
        self.drainers: list[Ticket] = []  # who waits for a closed pool to be empty
        self.inherited: list[Item] = []  # of the parent: kept for ever, so that no finaliser here says goodbye for it
        self.closed = False
        self.refilling = False
        # After a failure callers come to create one at a time, until one of them succeeds.
        self.wary = False
        self.creating = 0
        self.closing = 0
        self.borrowed = 0
        self.created = 0
        self.closed_count = 0
        self.failed = 0
        self.timed_out = 0
        self.rejected = 0
        self.leaked = 0
        self.wait_time = 0.0
        self.longest_wait = 0.0

    # -- lending -------------------------------------------------------------------------------------------------------

    def take_locked(self, now: float) -> Item | None:
        """For a caller who just came: an idle item, now lent, or a vacant one to fill. None: it has to wait."""
        self.evict_locked(now)
        return self.next_locked(now)  # nothing, if there are waiters: they would have it

    def next_locked(self, now: float) -> Item | None:
        """For a caller whose turn it is: the item used last, or a vacant one. None if there is neither."""
        while self.idle:
            item = self.idle.pop()
            if item.expires > now:
                item.state = LENT
                return item
            self._doom_locked(item, "lifetime")
        return self.reserve_locked()

    def reserve_locked(self) -> Item | None:
        """A vacant item, if something may be created now."""
        if len(self.items) >= self.max_size or (self.wary and self.creating) or self.closed:
            return None
        item = Item(self.generation)
        self.items.add(item)
        self.creating += 1
        return item

    def spare_locked(self) -> Item | None:
        """A vacant item for somebody to fill in the background, while less than `min_idle` are idle.

        None for as long as there are waiters, who would have it.
        """
        if len(self.idle) >= self.min_idle or self.refilling or self.wary:
            return None
        item = self.reserve_locked()
        self.refilling = item is not None
        return item

    def made_locked(self, item: Item, resource: Any, now: float) -> list[Ticket]:
        """What was to be created is there and is lent to who made it."""
        item.resource = resource
        item.born = item.returned = now
        item.expires = now + self.max_lifetime * (1.0 - _JITTER * self.rng.random())
        item.state = LENT
        if item.generation != self.generation:
            return []
        self.creating -= 1
        self.created += 1
        self.wary = False
        return self.fill_locked(now)  # who had to wait while others tried may try too

    def failed_locked(self, item: Item, now: float, *, wary: bool) -> list[Ticket]:
        """Nothing was created: the slot is free. `wary`: it says something about who was to be connected to."""
        if item.generation != self.generation or item.state is not VACANT:
            return []
        self.creating -= 1
        self.failed += wary
        self.wary = self.wary or wary
        self._gone_locked(item)
        return self.fill_locked(now)

    # -- returning -----------------------------------------------------------------------------------------------------

    def put_locked(self, item: Item, verdict: Verdict, now: float) -> list[Ticket]:
        """An item comes back, to be lent again or closed. One that is not lent, or of the parent, changes nothing."""
        if item.generation != self.generation or item.state is not LENT:
            return []
        if self.leak_after is not None:
            self.out.pop(item, None)
            item.stack = None
        if verdict is ABANDONED:
            return self.doom_locked(item, "interrupted", now)
        if verdict is FAILURE and not self.checks:
            return self.doom_locked(item, "failed", now)
        item.doubtful = verdict is FAILURE
        return self._shelve_locked(item, now)

    def give_up_locked(self, item: Item, now: float) -> list[Ticket]:
        """Whom `item` was meant for is gone, or has no time, and never used it."""
        if item.state is VACANT:
            return self.failed_locked(item, now, wary=False)
        if item.generation != self.generation or item.state is not LENT:
            return []
        item.doubtful = self.due(item, now)
        return self._shelve_locked(item, now)

    def due(self, item: Item, now: float) -> bool:
        """Whether `item` is to be checked before it is used."""
        return self.checks and (item.doubtful or now - item.returned > FRESH)

    def _shelve_locked(self, item: Item, now: float) -> list[Ticket]:
        if self.closed:
            return self.doom_locked(item, "closed", now)
        if item.expires <= now:
            return self.doom_locked(item, "lifetime", now)
        if len(self.items) - self.closing > self.max_size:
            return self.doom_locked(item, "resized", now)
        item.returned = now
        if self.queue:
            return [self._grant_locked(item)]
        item.state = IDLE
        self.idle.append(item)
        self.evict_locked(now)
        return []

    # -- closing -------------------------------------------------------------------------------------------------------

    def evict_locked(self, now: float) -> None:
        """Have closed what has been idle for too long, down to `min_idle`, and what is too old. Oldest first."""
        idle = self.idle
        while idle:
            if idle[0].expires <= now:
                reason = "lifetime"
            elif len(idle) > self.min_idle and idle[0].returned + self.max_idle_time <= now:
                reason = "idle"
            else:
                return
            self._doom_locked(idle.popleft(), reason)

    def doom_locked(self, item: Item, reason: str, now: float) -> list[Ticket]:
        """Have `item` closed. Where there is nothing to do for that, its slot is free at once."""
        self._doom_locked(item, reason)
        return self.fill_locked(now)

    def _doom_locked(self, item: Item, reason: str) -> None:
        item.reason = reason
        item.state = CLOSING
        self.closing += 1
        self.doomed.append(item)
        if not self.closes:
            self._closed_locked(item)

    def closed_locked(self, item: Item, now: float) -> list[Ticket]:
        """What was doomed is closed: its slot is free."""
        if item.generation != self.generation or item.state is not CLOSING:
            return []
        self._closed_locked(item)
        return self.fill_locked(now)

    def _closed_locked(self, item: Item) -> None:
        self.closing -= 1
        self.closed_count += 1
        self._gone_locked(item)

    def _gone_locked(self, item: Item) -> None:
        item.state = GONE
        self.items.discard(item)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def may_join_locked(self, *, patient: bool) -> bool:
        """Whether one more may wait. For a slot that is about to be free somebody always may, even the impatient."""
        return len(self.queue) < self.closing or (patient and len(self.queue) < self.max_queue)

    def join_locked(self, place: Place, *, first: bool = False) -> None:
        """Queue up; `first` is for one who had a turn already, and found only something broken."""
        place.item = None
        if self.closed:
            place.granted = True  # nothing, as everybody who waited has got
            return
        self.queue[place] = None
        if first:
            self.queue.move_to_end(place, last=False)

    def fill_locked(self, now: float) -> list[Ticket]:
        """Let waiters in for as long as there is something for them."""
        woken: list[Ticket] = []
        while self.queue and (item := self.next_locked(now)) is not None:
            woken.append(self._grant_locked(item))
        if self.drainers:
            woken += self.drained_locked()
        return woken

    def _grant_locked(self, item: Item) -> Place:
        place, _ = self.queue.popitem(last=False)
        place.item = item
        place.granted = True
        return place

    def waited_locked(self, seconds: float) -> None:
        """A caller waited for its turn, with success or not."""
        self.wait_time += seconds
        self.longest_wait = max(self.longest_wait, seconds)

    # -- the pool as a whole -------------------------------------------------------------------------------------------

    def resize_locked(self, max_size: int, now: float) -> list[Ticket]:
        """Another limit: waiters come in at once; what is idle beyond it is closed, what is lent when it comes back."""
        self.max_size = max_size
        while self.idle and len(self.items) - self.closing > max_size:
            self._doom_locked(self.idle.popleft(), "resized")
        return self.fill_locked(now)

    def shut_locked(self) -> list[Ticket]:
        """Take in nobody any more. The waiters get nothing, which is how they know."""
        self.closed = True
        while self.idle:
            self._doom_locked(self.idle.popleft(), "closed")
        woken: list[Ticket] = list(self.queue)
        self.queue.clear()
        for place in woken:
            place.granted = True
        return woken

    def drained_locked(self) -> list[Ticket]:
        """Who waits for a closed pool to be empty, once it is."""
        if not self.closed or self.items:
            return []
        drained, self.drainers = self.drainers, []
        for ticket in drained:
            ticket.granted = True
        return drained

    def watch_locked(self, item: Item, now: float, stack: Any) -> None:
        """Remember who borrowed `item`, and when."""
        item.borrowed = now
        item.stack = stack
        self.out[item] = None

    def look_for_leaks_locked(self, now: float) -> None:
        """Find the loans that last for too long; each is reported once."""
        out = self.out
        while self.leak_after is not None and out:
            item = next(iter(out))
            if item.borrowed + self.leak_after > now:
                return
            del out[item]
            self.leaked += 1
            self.overdue.append((now - item.borrowed, item.stack))

    def lost_locked(self, item: Item, now: float) -> list[Ticket]:
        """A borrower dropped its lease. It may still use the resource, so that nobody else gets it."""
        if item.generation != self.generation or item.state is not LENT:
            return []
        if self.leak_after is None or item in self.out:  # else it is known already
            self.leaked += 1
            self.overdue.append((None if self.leak_after is None else now - item.borrowed, item.stack))
        return self.put_locked(item, ABANDONED, now)

    def statistics_locked(self) -> PoolStatistics:
        """All the figures at one moment."""
        size, idle = len(self.items), len(self.idle)
        return PoolStatistics(
            max_size=self.max_size,
            min_idle=self.min_idle,
            size=size,
            in_use=size - idle - self.creating - self.closing,
            idle=idle,
            creating=self.creating,
            closing=self.closing,
            waiting=len(self.queue),
            borrowed=self.borrowed,
            created=self.created,
            closed=self.closed_count,
            failed=self.failed,
            timed_out=self.timed_out,
            rejected=self.rejected,
            leaked=self.leaked,
            wait_time=self.wait_time,
            longest_wait=self.longest_wait,
        )

    def emptied_locked(self) -> list[Item]:
        """Forget every item: nobody here can use them. Returns those with a resource in them."""
        dropped = [item for item in self.items if item.state in {LENT, IDLE}]
        self.items.clear()
        self.idle.clear()
        self.queue.clear()
        self.doomed.clear()
        self.out.clear()
        self.overdue.clear()
        self.drainers.clear()
        self.creating = self.closing = 0
        self.wary = self.refilling = False
        return dropped

    def forked(self) -> None:
        super().forked()
        self.inherited += self.items
        self.emptied_locked()
