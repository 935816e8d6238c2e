"""The book-keeper of the HTTP connection pool against two lists: of sockets, and of requests that wait.

There are no sockets here. A connection is an object that the test puts on a place, and closing one is to say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from resilience_http._connections import Connections, ConnectionStatistics, Place, Waiter

from resilience.testing import ManualClock

ENDS = ("reusable", "broken", "unconnected", "dropped")
STEPS = (*ENDS, "reusable", "reusable", "take", "take", "cancel", "give up", "close", "close")
EXPIRY = 10.0
which = st.integers(0, 1000)


@dataclass(eq=False)
class Socket:
    """One place as the model sees it."""

    host: str
    state: str = "leased"  # idle, closing, gone
    connected: bool = False
    expires: float | None = None
    place: Place | None = None


@dataclass(eq=False)
class Request:
    """One request as the model sees it: it waits, or has a socket, or is over."""

    host: str
    waiter: Waiter | None = None
    socket: Socket | None = None
    taken: bool = True  # False: granted, but the request has not run since


@dataclass
class Model:
    capacity: int | None
    per_host: int | None
    max_idle: int | None
    expiry: float | None
    max_queue: int
    now: float = 1000.0
    sockets: list[Socket] = field(default_factory=list)  # idle ones in the order of their last use
    waiters: list[Request] = field(default_factory=list)
    holders: list[Request] = field(default_factory=list)
    doomed: list[Socket] = field(default_factory=list)

    def count(self, *states: str) -> int:
        return sum(socket.state in states for socket in self.sockets)

    def has_room(self, host: str) -> bool:
        return self.per_host is None or sum(socket.host == host for socket in self.sockets) < self.per_host

    def is_full(self) -> bool:
        return self.capacity is not None and len(self.sockets) >= self.capacity

    def idle(self, host: str | None = None) -> list[Socket]:
        return [socket for socket in self.sockets if socket.state == "idle" and host in (None, socket.host)]

    def doom(self, socket: Socket) -> None:
        socket.state = "closing"
        self.doomed.append(socket)

    def expire(self) -> None:
        for socket in self.idle():
            if socket.expires is not None and socket.expires <= self.now:
                self.doom(socket)

    def acquire(self, request: Request) -> str:
        self.expire()
        host = request.host
        if self.idle(host):
            request.socket = self.idle(host)[-1]
            request.socket.state = "leased"
        elif self.has_room(host) and not self.is_full():
            request.socket = Socket(host)
            self.sockets.append(request.socket)
        elif len(self.waiters) >= self.max_queue:
            return "refused"
        else:
            if self.has_room(host) and self.idle():
                self.doom(self.idle()[0])
            self.waiters.append(request)
            return "waits"
        self.holders.append(request)
        return "has it"

    def give(self, request: Request, socket: Socket) -> None:
        self.waiters.remove(request)
        self.holders.append(request)
        request.socket, request.taken = socket, False

    def release(self, request: Request, reusable: bool) -> None:
        self.holders.remove(request)
        socket = request.socket
        assert socket is not None
        if not socket.connected:
            self.closed(socket)
            return
        if not reusable:
            self.doom(socket)
            return
        own = [waiter for waiter in self.waiters if waiter.host == socket.host]
        able = [waiter for waiter in self.waiters if waiter.host == socket.host or self.has_room(waiter.host)]
        if self.count("closing") >= len(self.waiters):  # room for all of them is coming anyway
            able = own
        if able and able[0].host == socket.host:
            self.give(able[0], socket)
        elif able or self.max_idle == 0:
            self.doom(socket)
        else:
            if self.max_idle is not None and len(self.idle()) >= self.max_idle:
                self.doom(self.idle()[0])
            socket.state = "idle"
            socket.expires = None if self.expiry is None else self.now + self.expiry
            self.sockets.remove(socket)
            self.sockets.append(socket)

    def closed(self, socket: Socket) -> None:
        socket.state = "gone"
        self.sockets.remove(socket)
        while not self.is_full():
            able = [waiter for waiter in self.waiters if self.has_room(waiter.host)]
            if not able:
                return
            self.sockets.append(Socket(able[0].host))
            self.give(able[0], self.sockets[-1])

    def leave(self, request: Request) -> None:
        if request in self.waiters:
            self.waiters.remove(request)
        else:
            self.release(request, reusable=True)


class ConnectionsMachine(RuleBasedStateMachine):
    """`locked` stands for another thread inside the lock: what finalisers and cancelled waiters say waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.locked = False
        self.pending: list[Any] = []  # what the model does once the lock is free
        self.away: list[Request] = []  # requests that those concern
        self.stale: list[Place] = []

    @initialize(
        capacity=st.sampled_from([1, 2, 3, 4, 5, None]),
        per_host=st.sampled_from([None, None, 1, 2, 3]),
        max_idle=st.sampled_from([None, None, 0, 1, 2, 3]),
        expiry=st.sampled_from([None, EXPIRY, EXPIRY]),
        max_queue=st.sampled_from([0, 1, 8, 8, 8]),
    )
    def start(
        self, capacity: int | None, per_host: int | None, max_idle: int | None, expiry: float | None, max_queue: int
    ) -> None:
        self.clock = ManualClock(1000.0)
        self.connections = Connections(
            capacity,
            per_host=per_host,
            max_idle=max_idle,
            keepalive_expiry=expiry,
            max_queue=max_queue,
            clock=self.clock,
        )
        self.model = Model(capacity, per_host, max_idle, expiry, max_queue)

    # -- rules ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.locked)
    @rule(hosts=st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=5))
    def requests_come(self, hosts: list[str]) -> None:
        for host in hosts:
            request = Request(host)
            said = self.model.acquire(request)
            got = self.connections.acquire(host)
            if said == "refused":
                assert got is None
            elif said == "waits":
                assert type(got) is Waiter
                assert not got.granted
                request.waiter = got
            else:
                assert type(got) is Place
                assert request.socket is not None
                assert request.socket.place in (None, got)
                assert (got.connection is not None) == request.socket.connected
                request.socket.place = got

    @rule(steps=st.lists(st.tuples(st.sampled_from(STEPS), which), min_size=1, max_size=6))
    def requests_go_on(self, steps: list[tuple[str, int]]) -> None:
        for step, number in steps:
            if step in ENDS:
                self.a_request_ends(step, number)
            elif step == "close":
                self.doomed_ones_are_closed(number % 3 + 1)
            else:
                self.a_waiter_goes_on(step, number)

    def a_request_ends(self, end: str, number: int) -> None:
        running = [request for request in self.model.holders if request not in self.away and request.taken]
        if running and (end == "dropped" or not self.locked):
            self.ends(end, running[number % len(running)])

    def ends(self, end: str, request: Request) -> None:
        socket = request.socket
        assert socket is not None
        place = socket.place
        assert place is not None
        if end == "unconnected" and socket.connected:
            end = "broken"
        if end != "unconnected":
            place.connection = place.stream = "a connection"
            socket.connected = True
        if end == "dropped":
            self.connections.drop(place)
            self.later(request, lambda: self.model.release(request, reusable=False))
            return
        self.model.expire()
        self.model.release(request, reusable=end == "reusable")
        self.connections.release(place, end == "reusable")

    def a_waiter_goes_on(self, step: str, number: int) -> None:
        granted = [request for request in self.model.holders if not request.taken and request not in self.away]
        waiting = [request for request in self.model.waiters if request not in self.away]
        if step == "take":
            for request in granted:
                self.take(request)
            return
        those = granted if number % 2 and granted else waiting
        if not those:
            return
        request = those[number % len(those)]
        assert request.waiter is not None
        if step == "cancel":
            self.connections.leave(request.waiter)
            self.later(request, lambda: self.model.leave(request))
        elif not self.locked:
            place = self.connections.withdraw(request.waiter)
            assert (place is None) == (request in waiting)
            if place is None:
                self.model.leave(request)
            else:
                self.take(request)

    def take(self, request: Request) -> None:
        """The request runs again and finds what it was granted."""
        assert request.waiter is not None
        assert request.socket is not None
        request.waiter.granted = False
        request.taken = True
        request.socket.place = request.waiter.place

    def doomed_ones_are_closed(self, number: int) -> None:
        if self.locked:
            return
        for _ in range(min(number, len(self.connections.doomed))):
            place = self.connections.doomed.popleft()
            self.stale.append(place)
            if place.generation == self.connections.generation:
                socket = self.model.doomed.pop(0)
                assert place.connection == "a connection"
                assert socket.place in (None, place)
                self.model.closed(socket)
            self.connections.closed(place)

    @rule(
        change=st.sampled_from(["lock", "lock", "time", "time", "time", "time", "again", "abandon", "fork"]),
        seconds=st.sampled_from([1.0, 4.0, 6.0, EXPIRY]),
        number=which,
    )
    def the_world_changes(self, change: str, seconds: float, number: int) -> None:
        if change == "time":
            self.clock.advance(seconds)
            self.model.now += seconds
        elif self.locked:
            self.unlock()
        elif change == "lock":
            self.locked = self.connections.lock.acquire(False)
        elif change == "again":
            self.end_again(number)
        elif number % 3 == 0:
            self.start_afresh(change)

    def end_again(self, number: int) -> None:
        """A second end of what is over changes nothing at all."""
        if self.stale:
            place = self.stale[number % len(self.stale)]
            before = self.everything()
            if place.generation == self.connections.generation:
                self.connections.release(place, number % 2 == 0) if self.model.expiry is None else None
            self.connections.closed(place)
            assert self.everything() == before

    def start_afresh(self, how: str) -> None:
        model, connections = self.model, self.connections
        places = set(connections.places)
        self.settle_pending()
        waiters = [request.waiter for request in model.waiters]
        leased = [request.socket.place for request in model.holders if request.socket and request.taken]
        if how == "fork":
            connections.forked()
            assert places <= set(connections.inherited)
        else:
            assert set(connections.abandon()) == places
            assert all(waiter is not None and waiter.granted and waiter.place is None for waiter in waiters)
        for waiter in waiters:
            assert waiter is not None
            connections.leave(waiter)
        model.sockets.clear()
        model.waiters.clear()
        model.holders.clear()
        model.doomed.clear()
        for place in leased:
            assert place is not None
            place.stream = place.connection = "a connection"
            connections.release(place, True)
            assert connections.doomed.popleft() is place, "somebody has to close it"
            connections.closed(place)

    # -- the lock ------------------------------------------------------------------------------------------------------

    def later(self, request: Request, change: Any) -> None:
        if self.locked:
            self.pending.append(change)
            self.away.append(request)
        else:
            change()

    def unlock(self) -> None:
        self.locked = False
        self.connections.lock.release()
        self.connections.unlocked()
        self.settle_pending()

    def settle_pending(self) -> None:
        for change in self.pending:
            change()
        self.pending.clear()
        self.away.clear()

    def everything(self) -> Any:
        c = self.connections
        hosts = {host.origin: (host.used, list(host.idle), list(host.waiting)) for host in c.hosts.values()}
        return set(c.places), hosts, list(c.idle), list(c.doomed), c.waiting, c.closing, c.generation

    # -- what always holds ---------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.locked)
    @invariant()
    def it_is_what_the_model_says(self) -> None:
        model, connections = self.model, self.connections
        idle = model.count("idle")
        hosts = {socket.host for socket in model.sockets} | {request.host for request in model.waiters}
        assert connections.statistics() == ConnectionStatistics(
            model.capacity, len(model.sockets) - idle, idle, len(model.waiters), len(hosts), 0
        )
        for request in model.holders:
            if request.waiter is not None and not request.taken:
                assert request.waiter.granted
                assert request.waiter.place is not None
                assert request.socket is not None
                assert request.socket.place in (None, request.waiter.place)
                request.socket.place = request.waiter.place
        assert [socket.place for socket in model.idle()] == list(connections.idle)
        assert [socket.place for socket in model.doomed] == list(connections.doomed)
        for name, host in connections.hosts.items():
            assert [request.waiter for request in model.waiters if request.host == name] == list(host.waiting)
            assert set(host.idle) == {socket.place for socket in model.idle(str(name))}
        assert not any(request.waiter.granted for request in model.waiters if request.waiter)
        assert connections.closing == model.count("closing")

    @precondition(lambda self: not self.locked)
    @invariant()
    def nobody_waits_beside_a_place_of_use(self) -> None:
        model = self.model
        able = [request for request in model.waiters if model.has_room(request.host)]
        if able:
            assert model.is_full()
            assert not model.idle() or len(model.waiters) <= model.count("closing")
        assert not any(model.idle(request.host) for request in model.waiters)

    def teardown(self) -> None:
        if self.locked:
            self.connections.lock.release()


TestConnectionsMachine = ConnectionsMachine.TestCase
TestConnectionsMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
