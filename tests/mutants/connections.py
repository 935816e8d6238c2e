"""Deliberate bugs in the book-keeper of the HTTP connection pool."""

from __future__ import annotations

from . import Mutant

FILE = "integrations/resilience_http/_connections.py"
MACHINE = ("tests/machines/test_connections.py",)
CASES = ("tests/test_connections.py",)


def mutant(name: str, old: str, new: str, tests: tuple[str, ...] = (*CASES, *MACHINE)) -> Mutant:
    return Mutant(f"connections: {name}", FILE, old, new, tests)


MUTANTS = [
    # acquire
    mutant(
        "who was let in by what was handed over sleeps on",
        "            result = self._acquire_locked(origin)\n        self._after(woken)\n",
        "            result = self._acquire_locked(origin)\n",
        CASES,
    ),
    mutant(
        "one connection too many",
        "if room and (self.capacity is None or len(self.places) < self.capacity):",
        "if room and (self.capacity is None or len(self.places) <= self.capacity):",
    ),
    mutant("one too many to a host", "host.used < self.per_host", "host.used <= self.per_host"),
    mutant(
        "the limit per host is not looked at",
        "        room = self._has_room(host)\n",
        "        room = True\n",
    ),
    mutant(
        "the connection used first is used first",
        "place, _ = host.idle.popitem()\n",
        "place = next(iter(host.idle))\n            del host.idle[place]\n",
    ),
    mutant(
        "a leased one is still idle",
        "            del self.idle[place]\n            place.state = LEASED",
        "            place.state = LEASED",
    ),
    mutant(
        "a leased one is idle by name", "            place.state = LEASED\n            return", "            return"
    ),
    mutant("one too many waits", "self.waiting >= self.max_queue", "self.waiting > self.max_queue"),
    mutant(
        "a refused host is remembered",
        "            self._forget_locked(host)\n            return None\n        if room",
        "            return None\n        if room",
    ),
    mutant("no idle one makes room", "        if room and self.idle:\n", "        if False:\n"),
    mutant("the idle make room for a full host", "        if room and self.idle:\n", "        if self.idle:\n"),
    mutant(
        "the most recently used one makes room",
        "if room and self.idle:\n            self._doom_locked(next(iter(self.idle)))",
        "if room and self.idle:\n            self._doom_locked(next(reversed(self.idle)))",
    ),
    mutant("a waiter is not counted", "        self.waiting += 1\n", ""),
    mutant(
        "a waiter is not announced",
        "        self._announce_locked(host)\n        return waiter",
        "        return waiter",
    ),
    mutant("a place is not counted for its host", "        host.used += 1\n", ""),
    mutant(
        "acquire expires nothing",
        "            self._expire_locked(self.clock.now())\n            result",
        "            result",
    ),
    mutant(
        "release expires nothing",
        "            self._expire_locked(self.clock.now())\n            woken =",
        "            woken =",
    ),
    mutant(
        "acquire does not catch up",
        "woken = self.caught_up_locked()\n            self._expire",
        "woken: list[Ticket] = []\n            self._expire",
    ),
    mutant(
        "statistics do not catch up",
        "woken = self.caught_up_locked()\n            idle =",
        "woken: list[Ticket] = []\n            idle =",
    ),
    # release
    mutant(
        "a result of before counts",
        "        if place.generation != self.generation:\n            if place.state is not DOOMED:",
        "        if False:\n            if place.state is not DOOMED:",
    ),
    mutant(
        "a socket of before is not closed",
        "                place.state = DOOMED\n                self.doomed.append(place)\n            return []",
        "                place.state = DOOMED\n            return []",
    ),
    mutant(
        "a socket of before is closed twice",
        "            if place.state is not DOOMED:  # it",
        "            if True:  # it",
        CASES,
    ),
    mutant(
        "what was released is released again",
        "        if place.state is not LEASED:\n            return []\n",
        "",
    ),
    mutant(
        "an empty place is kept",
        "        if place.stream is None:\n            return self._closed_locked(place)\n",
        "",
    ),
    mutant(
        "a broken connection is kept", "if not reusable or place.connection is None:", "if place.connection is None:"
    ),
    mutant(
        "a socket without a connection is kept",
        "if not reusable or place.connection is None:",
        "if not reusable:",
        CASES,
    ),
    mutant("no waiter is covered", "covered = self.closing >= self.waiting", "covered = False"),
    mutant("every waiter is covered", "covered = self.closing >= self.waiting", "covered = True"),
    mutant(
        "one waiter is covered twice", "covered = self.closing >= self.waiting", "covered = self.closing > self.waiting"
    ),
    mutant("waiters of the same host are served first", "first is None or own.number <= first.number)", "True)"),
    mutant("a full host's own waiter is passed over", "covered or first is None or own", "covered or own"),
    mutant(
        "nobody waits for another host",
        "        if first is not None and not covered:  # some",
        "        if False:  # some",
    ),
    mutant("one idle too many", "len(self.idle) >= self.max_idle:", "len(self.idle) > self.max_idle:"),
    mutant(
        "one idle is kept where none may be",
        "            if self.max_idle == 0:\n                self._doom_locked(place)\n                return []\n",
        "            if not self.idle:\n                return []\n",
    ),
    mutant(
        "the most recently used is given up for a new idle one",
        "                return []\n            self._doom_locked(next(iter(self.idle)))",
        "                return []\n            self._doom_locked(next(reversed(self.idle)))",
    ),
    mutant(
        "an idle one is not idle by name", "        place.state = IDLE\n        place.expires", "        place.expires"
    ),
    mutant(
        "an idle one never expires",
        "None if self.keepalive_expiry is None else self.clock",
        "None if True else self.clock",
    ),
    mutant("an idle one expires a moment late", "oldest.expires > now", "oldest.expires >= now"),
    mutant(
        "only one expires at a time",
        "                return\n            self._doom_locked(oldest)",
        "                return\n            self._doom_locked(oldest)\n            return",
    ),
    # doomed and closed
    mutant(
        "a doomed one stays idle", "            del self.idle[place]\n            del place", "            del place"
    ),
    mutant(
        "a doomed one stays idle for its host",
        "            del self.idle[place]\n            del place.host.idle[place]\n",
        "            del self.idle[place]\n",
    ),
    mutant("a doomed one is not counted", "        self.closing += 1\n", ""),
    mutant(
        "a doomed one is not closed",
        "        self.closing += 1\n        self.doomed.append(place)",
        "        self.closing += 1",
    ),
    mutant("a closed one is counted as closing", "            self.closing -= 1\n", "            pass\n"),
    mutant(
        "what never was doomed was closing",
        "        if place.state is DOOMED:\n            self.closing -= 1",
        "        if True:\n            self.closing -= 1",
    ),
    mutant("a place is closed twice", "if place.state is GONE or place.generation", "if place.generation"),
    mutant(
        "a place of before makes room",
        "        if place.state is GONE or place.generation != self.generation:\n            return []\n        if place.state is DOOMED",
        "        if place.state is GONE:\n            return []\n        if place.state is DOOMED",
    ),
    mutant("a closed place is not free", "        self.places.discard(place)\n", ""),
    mutant("a closed place counts for its host", "        host.used -= 1\n", ""),
    mutant(
        "a host with room again is not announced",
        "        host.used -= 1\n        self._announce_locked(host)\n",
        "        host.used -= 1\n",
    ),
    mutant(
        "room is given to nobody",
        "            woken.append(self._grant_locked(first, self._new_place_locked(first.host)))",
        "            pass",
    ),
    mutant(
        "a host that has gone is remembered",
        "        self._forget_locked(host)\n        return woken",
        "        return woken",
    ),
    # waiters
    mutant(
        "a granted waiter stays in the queue",
        "        waiter.granted = True\n        self._unqueue_locked(waiter)\n",
        "        waiter.granted = True\n",
    ),
    mutant("a waiter is granted nothing", "        waiter.place = place\n", ""),
    mutant(
        "a waiter is not told that it was granted",
        "        waiter.place = place\n        waiter.granted = True\n",
        "        waiter.place = place\n",
    ),
    mutant(
        "one who has left is counted",
        "            self.waiting -= 1\n",
        "            pass\n",
    ),
    mutant(
        "one who had left is counted out again",
        "        if host.waiting.pop(waiter, waiter) is None:  # not",
        "        host.waiting.pop(waiter, waiter)\n        if True:  # not",
    ),
    mutant(
        "the next of a host is not announced",
        "            self.waiting -= 1\n            self._announce_locked(host)\n",
        "            self.waiting -= 1\n",
    ),
    mutant(
        "a host whose last waiter has left is remembered",
        "            self._announce_locked(host)\n            self._forget_locked(host)\n",
        "            self._announce_locked(host)\n",
    ),
    mutant(
        "what was granted to one who left is lost",
        "        if waiter.granted:\n            return self.take_back_locked(waiter, verdict)\n",
        "        if waiter.granted:\n            return ()\n",
    ),
    mutant(
        "a connection taken back is thrown away",
        "self._release_locked(waiter.place, True)",
        "self._release_locked(waiter.place, False)",
    ),
    mutant(
        "what was taken is taken back",
        "if not waiter.granted or waiter.place is None:",
        "if waiter.place is None:",
        CASES,
    ),
    mutant("nothing is taken back", "if not waiter.granted or waiter.place is None:", "if not waiter.granted:", CASES),
    mutant(
        "what was taken back is still granted",
        "            return ()\n        waiter.granted = False\n",
        "            return ()\n",
        CASES,
    ),
    mutant(
        "who gives up stays in the queue",
        "            if not waiter.granted:\n                self._unqueue_locked(waiter)\n",
        "",
    ),
    mutant(
        "a finaliser waits for the lock",
        "        self.late.append((self._drop_locked, place, ABANDONED))\n        self.unlocked()",
        "        self.release(place, False)",
    ),
    mutant(
        "a dropped connection is kept",
        "return self._release_locked(place, False)",
        "return self._release_locked(place, True)",
    ),
    mutant(
        "who leaves waits for the lock",
        "        self.late.append((self._leave_locked, waiter, ABANDONED))\n        self.unlocked()",
        "        with self.lock:\n            self._leave_locked(waiter, ABANDONED)",
    ),
    # afterwards
    mutant("nobody is woken", "            self.wake(woken)\n", "            pass\n", CASES),
    mutant("nobody looks again", "        if self.late:\n            self.unlocked()\n", "", CASES),
    # starting afresh
    mutant(
        "starting afresh forgets what was handed over",
        "            woken = self.caught_up_locked()  # what",
        "            woken: list[Ticket] = []\n            self.late.clear()  # what",
        CASES,
    ),
    mutant(
        "starting afresh keeps what was doomed",
        "            self.doomed.clear()\n            self.generation += 1\n            self._empty()\n        for ticket",
        "            self.generation += 1\n            self._empty()\n        for ticket",
        CASES,
    ),
    mutant("starting afresh is the same generation", "            self.generation += 1\n", ""),
    mutant("starting afresh wakes nobody", "            ticket.wake()\n", "            pass\n", CASES),
    mutant(
        "starting afresh wakes none of those with a grant",
        "for ticket in (*woken, *waiters):",
        "for ticket in waiters:",
        CASES,
    ),
    mutant(
        "starting afresh grants nothing to nobody",
        "                waiter.granted = True  # nothing",
        "                pass  # nothing",
    ),
    mutant(
        "starting afresh keeps the places",
        "            self.doomed.clear()\n            self.generation += 1\n            self._empty()",
        "            self.doomed.clear()\n            self.generation += 1",
    ),
    mutant("a child does not keep the sockets of its parent", "        self.inherited.extend(self.places)\n", ""),
    mutant(
        "a child keeps the places",
        "        self.doomed.clear()\n        self._empty()\n\n    # -- trans",
        "        self.doomed.clear()\n\n    # -- trans",
    ),
    mutant(
        "a child closes what its parent doomed",
        "        self.inherited.extend(self.doomed)\n        self.doomed.clear()\n",
        "",
    ),
    mutant("old queues live on", "            host.waiting.clear()\n", "            pass\n"),
    # the heap
    mutant("the heap is never cleared", "if len(self.ready) > 64 + 2 * len(self.hosts):", "if False:", CASES),
    mutant(
        "the heap is cleared of what is true",
        "its.waiting and next(iter(its.waiting)).number == of",
        "its.waiting and next(iter(its.waiting)).number != of",
        CASES,
    ),
    mutant(
        "those that have left come up for the next",
        "if waiter is not None and waiter.number == number:",
        "if waiter is not None:",
    ),
    mutant(
        "a host that still has places is forgotten", "if not host.used and not host.waiting:", "if not host.waiting:"
    ),
    mutant("a host that still has waiters is forgotten", "if not host.used and not host.waiting:", "if not host.used:"),
]
