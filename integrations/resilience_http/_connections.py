"""The book-keeper of a connection pool: which request gets which socket, without any input or output.

A `Place` is room for one socket. It is leased to one request at a time, from before the connect until after the
response was closed; between two requests it is idle and belongs to the host it is connected to::

    acquire ──► idle one of this host (the last used) ──────────────► leased ──► release ──► waiter? ──► its place
       ├──────► room: a new, empty place ─────────────────────────────► │          ├─► idle
       └──────► full: the least recently used idle one is doomed, wait ─┘          └─► doomed ──► closed ──► waiter?

Waiters are served strictly in the order they came, passing over only those whose own host is at its limit. Everything
is decided under the lock in constant time (with a limit per host: in the logarithm of the hosts waited for). What has
to be closed is put into `doomed`; whoever was inside closes it outside the lock, and tells `closed()`. Always true:

* a host with an idle connection has no waiters;
* while somebody waits whose host has room, every place is taken, and idle ones are only left if enough others are on
  their way out already.
"""

from __future__ import annotations

import heapq
import itertools
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, final

from resilience._machine import ABANDONED, Machine, Verdict
from resilience._ticket import Ticket
from resilience.clock import SYSTEM, Clock


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """A pool at one moment. `in_use` includes connections being opened; `opened` counts since the pool was made."""

    max_connections: int | None
    in_use: int
    idle: int
    waiting: int
    hosts: int
    opened: int


LEASED, IDLE, DOOMED, GONE = "leased", "idle", "doomed", "gone"


@final
class Place:
    """Room for one socket. `connection` and `stream` belong to the request that leases it; empty until connected."""

    __slots__ = ("connection", "expires", "generation", "host", "state", "stream")

    def __init__(self, host: Host, generation: int) -> None:
        self.host = host
        self.generation = generation
        self.state = LEASED
        self.connection: Any = None
        self.stream: Any = None
        self.expires: float | None = None  # on the pool's clock, while idle

    def __repr__(self) -> str:
        return f"<Place for {self.host.origin}: {self.state}{'' if self.connection is None else ', connected'}>"


@final
class Waiter(Ticket):
    """A request in the queue. `place` is what it was granted."""

    __slots__ = ("host", "number", "place")

    def __init__(self, connections: Connections, host: Host, number: int) -> None:
        super().__init__(connections.take_back_locked)
        self.host = host
        self.number = number
        self.place: Place | None = None


@final
class Host:
    """What belongs to one origin. It is forgotten when nothing does."""

    __slots__ = ("announced", "idle", "origin", "used", "waiting")

    def __init__(self, origin: Hashable) -> None:
        self.origin = origin
        self.used = 0  # places, whatever their state
        self.idle: dict[Place, None] = {}
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()
        self.announced = -1  # the number of the waiter that stands for this host in `Connections.ready`


class Connections(Machine):
    """At most `capacity` sockets in all and `per_host` for each host (None: no limit), of which `max_idle` idle.

    Idle ones expire after `keepalive_expiry` seconds (None: never). At most `max_queue` requests wait.
    """

    __slots__ = (
        "capacity",
        "clock",
        "closing",
        "doomed",
        "hosts",
        "idle",
        "inherited",
        "keepalive_expiry",
        "max_idle",
        "max_queue",
        "numbers",
        "opened",
        "per_host",
        "places",
        "ready",
        "waiting",
    )

    def __init__(
        self,
        capacity: int | None,
        *,
        per_host: int | None = None,
        max_idle: int | None = None,
        keepalive_expiry: float | None = None,
        max_queue: int = 10_000,
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.capacity = capacity
        self.per_host = per_host
        self.max_idle = max_idle
        self.keepalive_expiry = keepalive_expiry
        self.max_queue = max_queue
        self.numbers = itertools.count()
        self.opened = 0
        self.doomed: deque[Place] = deque()
        self.inherited: list[Place] = []
        self.hosts: dict[Hashable, Host] = {}
        self._empty()

    def _empty(self) -> None:
        for host in self.hosts.values():
            host.waiting.clear()
        self.places: set[Place] = set()
        self.hosts = {}
        self.idle: OrderedDict[Place, None] = OrderedDict()  # the least recently used first
        self.waiting = 0
        self.closing = 0  # doomed, but not closed yet
        # A heap of the hosts that have waiters and room, by the number of their first waiter. Entries that are not
        # true any more stay until they come up.
        self.ready: list[tuple[int, Host]] = []

    # -- what the two colours call -------------------------------------------------------------------------------------

    def acquire(self, origin: Hashable) -> Place | Waiter | None:
        """A place for a request to `origin`, or one in the queue, or None if the queue is full."""
        with self.lock:
            woken = self.caught_up_locked()
            self._expire_locked(self.clock.now())
            result = self._acquire_locked(origin)
        self._after(woken)
        return result

    def release(self, place: Place, reusable: bool) -> None:
        """The request is done. `reusable` says that the connection can serve another one."""
        with self.lock:
            self._expire_locked(self.clock.now())
            woken = self._release_locked(place, reusable)
        self._after(woken)

    def drop(self, place: Place) -> None:
        """Release from a finaliser, which may run inside the lock: never waits. The connection is not used again."""
        self.late.append((self._drop_locked, place, ABANDONED))
        self.unlocked()

    def closed(self, place: Place) -> None:
        """The socket of a doomed place is closed: there is room again."""
        with self.lock:
            woken = self._closed_locked(place)
        self._after(woken)

    def leave(self, waiter: Waiter) -> None:
        """The request of `waiter` is gone; what it was granted meanwhile is passed on. Never waits."""
        self.late.append((self._leave_locked, waiter, ABANDONED))
        self.unlocked()

    def withdraw(self, waiter: Waiter) -> Place | None:
        """The wait took too long: leave the queue, unless a place was granted in the meantime."""
        with self.lock:
            place = waiter.place
            if not waiter.granted:
                self._unqueue_locked(waiter)
            waiter.granted = False
        self._after(())
        return place

    def abandon(self) -> list[Place]:
        """Start afresh: nothing is in use, nobody waits, no result of before counts. Returns what is to be closed."""
        with self.lock:
            woken = self.caught_up_locked()  # what was dropped has nobody else to close it
            waiters = [waiter for host in self.hosts.values() for waiter in host.waiting]
            places = [*self.places]
            for waiter in waiters:
                waiter.granted = True  # nothing: it wakes up with no place
            self.doomed.clear()
            self.generation += 1
            self._empty()
        for ticket in (*woken, *waiters):
            ticket.wake()
        return places

    def statistics(self) -> ConnectionStatistics:
        """The pool at this moment."""
        with self.lock:
            woken = self.caught_up_locked()
            idle = len(self.idle)
            result = ConnectionStatistics(
                self.capacity, len(self.places) - idle, idle, self.waiting, len(self.hosts), self.opened
            )
        self._after(woken)
        return result

    def forked(self) -> None:
        """In the child: the sockets are the parent's. They are kept, so that no destructor here ever touches them."""
        super().forked()
        self.inherited.extend(self.places)
        self.inherited.extend(self.doomed)
        self.doomed.clear()
        self._empty()

    # -- transitions ---------------------------------------------------------------------------------------------------

    def _after(self, woken: Iterable[Ticket]) -> None:
        if woken:
            self.wake(woken)
        if self.late:
            self.unlocked()

    def _acquire_locked(self, origin: Hashable) -> Place | Waiter | None:
        host = self.hosts.get(origin)
        if host is None:
            host = self.hosts[origin] = Host(origin)
        if host.idle:
            place, _ = host.idle.popitem()
            del self.idle[place]
            place.state = LEASED
            return place
        room = self._has_room(host)
        if room and (self.capacity is None or len(self.places) < self.capacity):
            return self._new_place_locked(host)
        if self.waiting >= self.max_queue:
            self._forget_locked(host)
            return None
        if room and self.idle:
            self._doom_locked(next(iter(self.idle)))
        waiter = Waiter(self, host, next(self.numbers))
        host.waiting[waiter] = None
        self.waiting += 1
        self._announce_locked(host)
        return waiter

    def _new_place_locked(self, host: Host) -> Place:
        place = Place(host, self.generation)
        self.places.add(place)
        host.used += 1
        return place

    def _release_locked(self, place: Place, reusable: bool) -> list[Ticket]:
        if place.generation != self.generation:
            if place.state is not DOOMED:  # it counts nowhere any more, but somebody has to close its socket
                place.state = DOOMED
                self.doomed.append(place)
            return []
        if place.state is not LEASED:
            return []
        if place.stream is None:
            return self._closed_locked(place)
        if not reusable or place.connection is None:
            self._doom_locked(place)
            return []
        host = place.host
        own = next(iter(host.waiting), None)
        first = self._first_locked()
        covered = self.closing >= self.waiting
        if own is not None and (covered or first is None or own.number <= first.number):
            return [self._grant_locked(own, place)]
        if first is not None and not covered:  # somebody else has waited longer for any place
            self._doom_locked(place)
            return []
        if self.max_idle is not None and len(self.idle) >= self.max_idle:
            if self.max_idle == 0:
                self._doom_locked(place)
                return []
            self._doom_locked(next(iter(self.idle)))
        place.state = IDLE
        place.expires = None if self.keepalive_expiry is None else self.clock.now() + self.keepalive_expiry
        host.idle[place] = None
        self.idle[place] = None
        return []

    def _doom_locked(self, place: Place) -> None:
        """Take the place out of use; it counts until its socket is closed."""
        if place.state is IDLE:
            del self.idle[place]
            del place.host.idle[place]
        place.state = DOOMED
        self.closing += 1
        self.doomed.append(place)

    def _closed_locked(self, place: Place) -> list[Ticket]:
        if place.state is GONE or place.generation != self.generation:
            return []
        if place.state is DOOMED:
            self.closing -= 1
        place.state = GONE
        self.places.discard(place)
        host = place.host
        host.used -= 1
        self._announce_locked(host)
        woken: list[Ticket] = []
        # One place has become free, so at most one waiter can use it.
        if first := self._first_locked():
            woken.append(self._grant_locked(first, self._new_place_locked(first.host)))
        self._forget_locked(host)
        return woken

    def _grant_locked(self, waiter: Waiter, place: Place) -> Waiter:
        waiter.place = place
        waiter.granted = True
        self._unqueue_locked(waiter)
        return waiter

    def _unqueue_locked(self, waiter: Waiter) -> None:
        host = waiter.host
        if host.waiting.pop(waiter, waiter) is None:  # not if the queue was emptied meanwhile
            self.waiting -= 1
            self._announce_locked(host)
            self._forget_locked(host)

    def _expire_locked(self, now: float) -> None:
        while self.idle:
            oldest = next(iter(self.idle))
            if oldest.expires is None or oldest.expires > now:
                return
            self._doom_locked(oldest)

    def _drop_locked(self, place: Place, verdict: Verdict) -> Iterable[Ticket]:
        return self._release_locked(place, False)

    def _leave_locked(self, waiter: Waiter, verdict: Verdict) -> Iterable[Ticket]:
        if waiter.granted:
            return self.take_back_locked(waiter, verdict)
        self._unqueue_locked(waiter)
        return ()

    def take_back_locked(self, waiter: Waiter, verdict: Verdict) -> Iterable[Ticket]:
        """Pass on the place that was granted to a waiter who is gone, if any."""
        if not waiter.granted or waiter.place is None:
            return ()
        waiter.granted = False
        return self._release_locked(waiter.place, True)

    # -- the queue of hosts --------------------------------------------------------------------------------------------

    def _has_room(self, host: Host) -> bool:
        return self.per_host is None or host.used < self.per_host

    def _announce_locked(self, host: Host) -> None:
        """Put the host into the heap if its first waiter could use a place, and is not in it yet."""
        if not host.waiting or not self._has_room(host):
            return
        number = next(iter(host.waiting)).number
        if host.announced != number:
            host.announced = number
            if len(self.ready) > 64 + 2 * len(self.hosts):  # mostly entries of waiters who are gone
                self.ready = [
                    (of, its) for of, its in self.ready if its.waiting and next(iter(its.waiting)).number == of
                ]
                heapq.heapify(self.ready)
            heapq.heappush(self.ready, (number, host))

    def _first_locked(self) -> Waiter | None:
        """The waiter that has waited longest among those whose host has room."""
        while self.ready:
            number, host = self.ready[0]
            waiter = next(iter(host.waiting), None)
            if waiter is not None and waiter.number == number:
                return waiter  # its host still has room: while somebody waits for it, it only gets places through here
            heapq.heappop(self.ready)
        return None

    def _forget_locked(self, host: Host) -> None:
        if not host.used and not host.waiting:
            self.hosts.pop(host.origin, None)
