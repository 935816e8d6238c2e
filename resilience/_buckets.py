"""The limiter's machine: the table of keys, decisions, reservations and charges."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from ._limits import Algorithm, All, Gcra, ahead, whole_calls
from ._machine import Machine


class _Overflow:
    def __repr__(self) -> str:
        return "<the keys beyond max_keys>"


OVERFLOW: Any = _Overflow()
_MAX_TIERS = 1024  # algorithms kept for rates by key


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
                for known in [key for key, state in self.states.items() if algorithm.rests_at(state) <= now]:
                    del self.states[known]
                self._appoint_all(now, algorithm)
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

    def convert(self, change: Callable[[Hashable, Any], Any], now: float, algorithm: Algorithm) -> None:
        """Replace every state by `change(key, state)`."""
        for key, state in self.states.items():
            self.states[key] = change(key, state)
        self._appoint_all(now, algorithm)

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

    def _appoint_all(self, now: float, algorithm: Algorithm) -> None:
        self._appointments.clear()
        self._agenda.clear()
        self._due.clear()
        for key, state in self.states.items():
            self._appoint(key, algorithm.rests_at(state), now)

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
    remaining: int = 0
    reset_after: float = 0.0


class Charge(NamedTuple):
    """The permit of a call that pays by outcome."""

    key: Hashable
    cost: float
    rate: Any  # that of its tier when it began; asking again would run the caller's code in a settlement


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
        buckets = self._buckets
        with buckets.lock:
            buckets.caught_up_locked()
            returned = buckets.cancel_locked(self)
        buckets.unlocked()
        return returned

    def __repr__(self) -> str:
        return f"<Reservation of {self.cost:g} for {self.key!r} in {self.delay:.3f} s>"


class Buckets(Machine):
    """The states of all keys and the algorithm that moves them."""

    __slots__ = ("algorithm", "plain", "rejected", "table", "tier", "tiers")

    def __init__(self, algorithm: Algorithm, tier: Callable[[Any], float] | None, max_keys: int) -> None:
        super().__init__()
        self.algorithm = algorithm
        self.tier = tier  # the rate by key, or None
        self.plain = algorithm if isinstance(algorithm, Gcra) and tier is None else None  # for the short way
        self.tiers: dict[float, Algorithm] = {}  # its algorithms by rate
        self.table = Table(max_keys)
        self.rejected = 0

    @property
    def first(self) -> Algorithm:
        """The algorithm without the limits that `also` adds."""
        return self.algorithm.limits[0] if isinstance(self.algorithm, All) else self.algorithm

    def algorithm_locked(self, rate: Any) -> Algorithm:
        """The algorithm for a key whose tier has this `rate`."""
        if self.tier is None:
            return self.algorithm
        try:
            algorithm = self.tiers.get(rate)
        except TypeError:  # no number, which will be said by name
            algorithm = None
        if algorithm is None:
            first = self.first
            assert isinstance(first, Gcra)
            algorithm = self._beginning_with(first.at(rate))
            if len(self.tiers) < _MAX_TIERS:
                self.tiers[rate] = algorithm
        return algorithm

    def change(self, new: Gcra, tier: Callable[[Any], float] | None, now: float) -> None:
        """Put `new`, or with tiers the rate by key `tier`, in the place of the first limit."""
        old, old_tier = self.first, self.tier
        assert isinstance(old, Gcra)
        changes: dict[Hashable, tuple[Gcra, Gcra]] = {}
        if tier is not None and old_tier is not None:
            with self.lock:
                keys = list(self.table.states)
            changes = {key: (old.at(old_tier(key)), new.at(tier(key))) for key in keys if key is not OVERFLOW}

        def changed(key: Hashable, state: Any) -> Any:
            if tier is not None and key not in changes:  # what all tiers share, or came in this very moment
                return state
            before, after = changes.get(key, (old, new))
            if isinstance(self.algorithm, All):
                return (after.converted(state[0], now, before), *state[1:])
            return after.converted(state, now, before)

        with self.lock:
            self.tier = tier
            self.tiers.clear()
            self.algorithm = self._beginning_with(new)
            self.plain = new if self.plain is not None else None
            self.table.convert(changed, now, self.algorithm)
        self.unlocked()

    def _beginning_with(self, first: Gcra) -> Algorithm:
        return All((first, *self.algorithm.limits[1:])) if isinstance(self.algorithm, All) else first

    def refuse_cost(self, cost: float, first: Algorithm) -> None:
        """Raise ValueError if a constant cost is above what may come at once by `first` and the limits beside it."""
        known = list(self.algorithm.limits[1:]) if isinstance(self.algorithm, All) else []
        if self.tier is None or (isinstance(first, Gcra) and first.rate.burst is not None):
            known.append(first)  # otherwise its burst depends on the key
        most = min((limit.capacity for limit in known), default=math.inf)
        if cost > most:
            raise ValueError(f"cost must be at most the burst ({most:g}), or no call could ever pass: it is {cost:g}")

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
        wait = ahead(start, now)
        table = self.table
        overflows = key is OVERFLOW and not table.overflowing
        if overflows or len(table) < table.max_keys:
            table.overflowing = overflows
        if wait <= limit and start < math.inf and (left is None or wait <= left):
            return Decision(key, state, start, wait, True, overflows)
        self.rejected += 1
        remaining, reset_after = whole_calls(algorithm, state, now), max(0.0, algorithm.rests_at(state) - now)
        return Decision(key, state, start, wait, False, overflows, wait > limit, remaining, reset_after)

    def take_locked(self, decision: Decision, cost: float, now: float, algorithm: Algorithm) -> Reservation:
        """Take the tokens that a favourable decision promised."""
        after = algorithm.taken(decision.state, decision.start, cost)
        self.table.add(decision.key, after, now, algorithm)
        return Reservation(self, decision.key, cost, decision.wait, decision.state, algorithm.mark(after))

    def charge_locked(self, charge: Charge, now: float) -> None:
        """Take tokens after the fact, even if that leaves a debt."""
        algorithm, key = self.algorithm_locked(charge.rate), charge.key
        state = self.table.states.get(key)
        if state is None:
            # The key had room when the call began. Many that began together must not fill more than the table holds.
            key = self.table.place(key, now, algorithm)
            state = self.table.states.get(key)
        after = algorithm.taken(algorithm.fresh() if state is None else state, now, charge.cost)
        self.table.add(key, after, now, algorithm)

    def cancel_locked(self, reservation: Reservation) -> bool:
        if reservation.stale:
            return False
        reservation.stale = True
        states = self.table.states
        state = states.get(reservation.key)
        if state is None or self.algorithm.mark(state) is not reservation.mark:
            return False
        states[reservation.key] = self.algorithm.returned(state, reservation.before)
        return True
