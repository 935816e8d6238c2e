"""The limiter's machine: the table of keys, decisions, reservations and charges."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from ._limits import Algorithm
from ._machine import Machine


class _Overflow:
    def __repr__(self) -> str:
        return "<the keys beyond max_keys>"


OVERFLOW: Any = _Overflow()


class Table:
    """State by key. Keys whose state is as good as new are forgotten a few at a time, live ones never.

    Each key stands in one appointment: a time, at most an eighth of its remaining life late, at which to look whether
    it is at rest. Each new key pays for a few due looks; a key that is still live gets a later appointment. That is one
    pointer per key, no pause however many keys there are, and nothing to do for keys that come back.
    """

    __slots__ = ("_agenda", "_appointments", "_due", "max_keys", "overflowing", "states")

    LOOKS = 2  # keys looked at per new key
    PRESSED = 64  # the same when the table is full

    def __init__(self, max_keys: int) -> None:
        self.max_keys = max_keys
        self.overflowing = False
        self.clear()

    def clear(self) -> None:
        """Forget all keys."""
        self.states: dict[Hashable, Any] = {}
        self._appointments: dict[float, deque[Hashable]] = {}
        self._agenda: list[float] = []  # a heap of the times in _appointments
        self._due: deque[Hashable] = deque()

    def __len__(self) -> int:
        return len(self.states) - (OVERFLOW in self.states)

    def place(self, key: Hashable, now: float, algorithm: Algorithm) -> Hashable:
        """The key under which to keep a new `key`: itself, or OVERFLOW while the table is full of other live keys."""
        self._look(now, algorithm, self.LOOKS)
        if len(self) >= self.max_keys:
            if len(self) <= self.PRESSED:
                for known, state in list(self.states.items()):
                    if algorithm.rests_at(state) <= now:
                        self.states[known] = None  # its appointment finds nothing, and the count is right
                self.states = {known: state for known, state in self.states.items() if state is not None}
            else:
                if not self._due and self._agenda:  # look at those that come next, early
                    self._due = self._appointments.pop(heapq.heappop(self._agenda))
                self._look(now, algorithm, self.PRESSED)
        return key if len(self) < self.max_keys else OVERFLOW

    def add(self, key: Hashable, state: Any, now: float, algorithm: Algorithm) -> None:
        """Store the first state of a key that `place` returned."""
        if key not in self.states:
            self._appoint(key, algorithm.rests_at(state), now)
        self.states[key] = state

    def live(self, now: float, algorithm: Algorithm) -> int:
        """How many keys are not at rest; O(n)."""
        return sum(algorithm.rests_at(state) > now for key, state in self.states.items() if key is not OVERFLOW)

    def convert(self, change: Callable[[Any], Any]) -> None:
        """Replace every state by `change(state)`."""
        for key, state in self.states.items():
            self.states[key] = change(state)

    def _look(self, now: float, algorithm: Algorithm, steps: int) -> None:
        for _ in range(steps):
            if not self._due:
                if not self._agenda or self._agenda[0] > now:
                    return
                self._due = self._appointments.pop(heapq.heappop(self._agenda))
            key = self._due.popleft()
            state = self.states.get(key)
            if state is not None:
                rests_at = algorithm.rests_at(state)
                if rests_at <= now:
                    del self.states[key]
                else:
                    self._appoint(key, rests_at, now)

    def _appoint(self, key: Hashable, rests_at: float, now: float) -> None:
        # Times are rounded up to a grain between a sixteenth and an eighth of the way there: few distinct appointments.
        grain = math.ldexp(1.0, math.frexp(max(rests_at - now, 1e-3))[1] - 4)
        when = math.ceil(rests_at / grain) * grain
        appointment = self._appointments.get(when)
        if appointment is None:
            appointment = self._appointments[when] = deque()
            heapq.heappush(self._agenda, when)
        appointment.append(key)


class Decision(NamedTuple):
    """Where the key is kept, its state, when a call may start, and what that means."""

    key: Hashable
    state: Any
    start: float
    wait: float  # seconds from now to the start; infinity if it can never be
    admitted: bool
    overflows: bool  # the first of a series to use the overflow bucket
    too_long: bool = False  # the wait is beyond the limit, and not only beyond the deadline
    remaining: float = 0.0
    reset_after: float = 0.0


class Charge(NamedTuple):
    """The permit of a call that pays by outcome."""

    key: Hashable
    cost: float
    algorithm: Algorithm


class Reservation:
    """Tokens taken for a call that may start `delay` seconds after the reservation; `cancel()` returns them."""

    __slots__ = ("_buckets", "before", "cost", "delay", "key", "mark", "stale")

    def __init__(self, buckets: Buckets, key: Hashable, cost: float, delay: float, before: Any, mark: Any) -> None:
        self._buckets = buckets
        self.key = key
        self.cost = cost
        self.delay = delay
        self.before = before
        self.mark = mark
        self.stale = False

    def cancel(self) -> bool:
        """Give the tokens back, if no later call has taken any; True if they were. Otherwise the slot is forfeited."""
        with self._buckets.lock:
            return self._buckets.cancel_locked(self)

    def __repr__(self) -> str:
        return f"<Reservation of {self.cost:g} for {self.key!r} in {self.delay:.3f} s>"


class Buckets(Machine):
    """The states of all keys and the algorithm that moves them."""

    __slots__ = ("algorithm", "rejected", "table", "tier", "tiers")

    def __init__(self, algorithm: Algorithm, tier: Callable[[Any], float] | None, max_keys: int) -> None:
        super().__init__()
        self.algorithm = algorithm
        self.tier = tier  # the rate by key, or None
        self.tiers: dict[float, Algorithm] = {}  # its algorithms by rate
        self.table = Table(max_keys)
        self.rejected = 0

    def decide_locked(
        self, key: Hashable, cost: float, limit: float, left: float | None, now: float, algorithm: Algorithm
    ) -> Decision:
        """Whether a call may start within `limit` seconds, and within the `left` ones of its deadline."""
        state = self.table.states.get(key)
        if state is None:
            key = self.table.place(key, now, algorithm)
            state = self.table.states.get(key)
            if state is None:
                state = algorithm.fresh()
        start = algorithm.earliest(state, now, cost) if cost <= algorithm.capacity else math.inf
        wait = start - now
        before, self.table.overflowing = self.table.overflowing, len(self.table) >= self.table.max_keys
        overflows = key is OVERFLOW and not before
        if wait <= limit and start < math.inf and (left is None or wait <= left):
            return Decision(key, state, start, wait, True, overflows)
        self.rejected += 1
        remaining, reset_after = algorithm.remaining(state, now), max(0.0, algorithm.rests_at(state) - now)
        return Decision(key, state, start, wait, False, overflows, wait > limit, remaining, reset_after)

    def take_locked(self, decision: Decision, cost: float, now: float, algorithm: Algorithm) -> Reservation:
        """Take the tokens that a favourable decision promised."""
        after = algorithm.taken(decision.state, decision.start, cost)
        self.table.add(decision.key, after, now, algorithm)
        return Reservation(self, decision.key, cost, decision.wait, decision.state, algorithm.mark(after))

    def charge_locked(self, charge: Charge, now: float) -> None:
        """Take tokens after the fact, even if that leaves a debt."""
        state = self.table.states.get(charge.key)
        after = charge.algorithm.taken(charge.algorithm.fresh() if state is None else state, now, charge.cost)
        self.table.add(charge.key, after, now, charge.algorithm)

    def cancel_locked(self, reservation: Reservation) -> bool:
        states = self.table.states
        state = states.get(reservation.key)
        if reservation.stale or state is None or self.algorithm.mark(state) is not reservation.mark:
            return False
        reservation.stale = True
        states[reservation.key] = self.algorithm.returned(state, reservation.before)
        return True
