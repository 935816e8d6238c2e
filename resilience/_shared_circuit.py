"""A circuit shared through a store: one state for all instances, of which each keeps a copy.

Theory of operation. The store's machine is the breaker. A call in CLOSED passes by what was last heard; its outcome is
counted here and told in the background, a failure at once, and the answer brings the news: so an instance with traffic
knows within a round trip what the others have found out. One that heard nothing for a second asks before it lets a
call pass, and so does every call that might be a probe: the store gives out the leases, so all instances together send
no more probes than one. An open circuit refuses here, and asks once a second whether somebody has reset it.

The local circuit below counts as well. It decides alone while the store does not answer (`on_error="local"`), so an
outage of both is noticed all the same. With `advisory` it is trusted first: evidence of its own opens the circuit of
this instance only, which it tells nobody but by its failures; and a circuit that others have opened is advice, which
an instance does not follow while it has enough calls of its own in its window and they do well.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ._asking import asked
from ._circuit import CLOSED, HALF_OPEN, ISOLATED, OPEN, UNCOUNTED, BreakerStatistics, Circuit, Note, State
from ._courier import Operation
from ._ledger import Reply
from ._machine import ABANDONED, FAILURE, SUCCESS, Verdict
from ._ticket import Ticket
from ._window import TimeWindow
from .clock import Clock
from .events import CircuitClosed, CircuitHalfOpened, CircuitOpened
from .store import Store

_STATES = (CLOSED, OPEN, HALF_OPEN, ISOLATED)  # by the store's numbers
_FRESH = 1.0  # seconds for which news is good
_PAUSE = 0.1  # seconds between two reports of nothing but successes
_PATIENCE = 1.0  # seconds after which a report counts as lost
_MOST = 10_000  # outcomes waiting to be told, and as many probes

ASK = -1  # in place of a permit: the store has to say


class SharedCircuit(Circuit):
    """`_round` is the store's number for the state we know; `_alone` says that the state here is of our own making."""

    __slots__ = (
        "_advisory",
        "_alone",
        "_clock",
        "_command",
        "_fresh",
        "_heard_at",
        "_name",
        "_next_probe",
        "_next_report",
        "_note",
        "_outcomes",
        "_pause",
        "_probes",
        "_round",
        "_settings",
        "_telling_until",
        "_told",
        "store",
    )

    def __init__(self, store: Store, name: str, clock: Clock, note: Note, advisory: bool, **options: Any) -> None:
        self.store = store
        self._name = name
        self._clock = clock
        self._note = note
        self._advisory = advisory
        self._round = 0.0
        self._alone = False
        self._heard_at = -math.inf
        self._fresh, self._pause = (0.0, 0.0) if store.immediate else (_FRESH, _PAUSE)
        self._command: str | None = None  # by hand, and not confirmed yet
        self._next_probe = -2
        self._probes: dict[int, float] = {}  # permit -> the store's lease
        # What is to be told; appended to under the lock, drained without it.
        self._outcomes: deque[tuple[float, bool, bool, float]] = deque(maxlen=_MOST)
        self._told: deque[Operation] = deque(maxlen=_MOST)
        self._telling_until = self._next_report = -math.inf
        super().__init__(**options)
        self.closed_permit = None
        window = self.window_type
        if not isinstance(window, TimeWindow):
            raise TypeError("a breaker with a store needs a TimeWindow: the calls of several instances have no order")
        self._settings = (
            window.seconds / window.buckets,
            float(window.buckets),
            -1.0 if self.failure_rate is None else self.failure_rate,
            float(self.minimum_calls),
            -1.0 if self.failure_threshold == math.inf else float(self.failure_threshold),
            self.slow_call_rate,
            self._recovery,
            self._max_recovery,
            float(self._places),
            float(self._threshold),
            self._probe_lease,
        )

    # -- what callers may ask for --------------------------------------------------------------------------------------

    def admit_locked(self, now: float, note: Note) -> tuple[int | None, float | None]:
        if self.mode == "disabled":
            return UNCOUNTED, None
        if self._command is not None:  # it is to be told again
            self.late.append((self._remind_locked, None, ABANDONED))
        refused = self.store.refuses
        if self._alone or (refused and self.store.on_error == "local"):
            if self.state is ISOLATED and not refused and self._command is None:
                return ASK, None  # perhaps it was lifted
            self._alone = True
            return self._admit_alone_locked(now, note)
        if self.state is OPEN and now < self._open_until:
            if now - self._heard_at < self._fresh:
                return None, self._open_until - now
            self._heard_at = now  # one call asks whether it was reset; meanwhile the others are refused
            self._publish_locked()
            return ASK, None
        if self._command is not None or now - self._heard_at < self._fresh:
            if self.state is CLOSED:
                return self.generation, None
            if self.state is ISOLATED:
                return None, None
        return ASK, None

    def ask(self, breaker: Any) -> Any:
        """A permit by the store's leave, or a Wait for it; raises a rejection."""

        def answered(reply: Reply) -> Any:
            with self.lock:
                self.caught_up_locked()
                self._adopt_locked(reply[1:], self._clock.now())
                decision = self._permit_locked(reply[0], reply[3])
                self.rejected += decision[0] is None
            return breaker._decided(*decision)

        def failed() -> Any:
            if self.store.on_error == "open":
                return breaker._decided(UNCOUNTED, None)
            if self.store.on_error == "closed":
                self.rejected += 1  # a statistic
                return breaker._decided(None, self.store.retry_after)
            with self.lock:
                self._alone = True
                decision = self._admit_alone_locked(self._clock.now(), self._note)
                self.rejected += decision[0] is None
            return breaker._decided(*decision)

        def undo(reply: Reply) -> None:
            if reply[0]:
                self._told.append(self._operation("settle", reply[0], -1.0, 0.0, 1.0, *self._settings))
                self.unlocked()

        question = self._operation("probe", self._chance(), *self._settings)
        return asked(breaker, self.store, question, answered, failed, undo)

    def settle_locked(
        self, permit: int, verdict: Verdict, now: float, slow: bool, retry_after: object, note: Note
    ) -> None:
        lease = self._probes.pop(permit, None)
        if lease is not None:
            bad = verdict is FAILURE or (verdict is SUCCESS and slow)
            outcome = -1.0 if verdict is ABANDONED else float(not bad)
            asked_for = _asked_for(retry_after)
            self._told.append(self._operation("settle", lease, outcome, asked_for, self._chance(), *self._settings))
        elif permit != self.generation or self.state is not CLOSED or self.mode == "disabled":
            super().settle_locked(permit, verdict, now, slow, retry_after, note)
        elif verdict is not ABANDONED:
            self._count_locked(verdict is FAILURE, now, slow, retry_after, note)

    def isolate_locked(self, now: float, note: Note) -> None:
        super().isolate_locked(now, note)
        self._command = "isolate"

    def reset_locked(self, note: Note) -> None:
        super().reset_locked(note)
        self._alone = False
        self._outcomes.clear()
        self._command = "reset"

    def statistics_locked(self, now: float, note: Note) -> BreakerStatistics:
        statistics = super().statistics_locked(now, note)
        return replace(statistics, probes=statistics.probes + len(self._probes))

    def forked(self) -> None:
        super().forked()
        self._probes.clear()
        self._outcomes.clear()
        self._told.clear()
        self._telling_until = -math.inf

    def unlocked(self) -> None:
        super().unlocked()
        while self._told:
            try:
                operation = self._told.popleft()
            except IndexError:  # another thread tells it
                break
            self.store.tell(Told(self, operation))
        now = self._clock.now()
        if now >= self._telling_until:
            if self._command is not None:
                self._telling_until = now + _PATIENCE
                self.store.tell(Told(self, self._operation(self._command)))
            elif self._outcomes and now >= self._next_report:
                self._telling_until = now + _PATIENCE
                self._next_report = now + self._pause
                self.store.tell(self)

    # -- as a report of outcomes ---------------------------------------------------------------------------------------

    def operation(self) -> Operation | None:
        outcomes = []
        while self._outcomes:
            try:
                outcomes.append(self._outcomes.popleft())
            except IndexError:  # a reset came in between
                break
        if not outcomes:
            self.lost()
            return None
        round_ = outcomes[-1][0]
        failures = slow = trailing = count = 0
        longest = 0.0
        for admitted_in, failed, was_slow, retry_after in outcomes:
            if admitted_in == round_:
                count += 1
                failures += failed
                slow += was_slow
                trailing = trailing + 1 if failed else 0
                longest = max(longest, retry_after)
        numbers = (round_, float(count - failures), float(failures), float(slow), float(trailing), longest)
        return self._operation("report", *numbers, self._chance(), *self._settings)

    def heard(self, reply: Reply) -> None:
        self._telling_until = -math.inf
        self.hear(reply)

    def lost(self) -> None:
        self._telling_until = -math.inf

    # -- what the store says -------------------------------------------------------------------------------------------

    def hear(self, news: Reply, confirmed: str | None = None) -> None:
        """Take news in without blocking: a finaliser may be what brings them."""
        self.late.append((self._hear_locked, (news, confirmed), ABANDONED))
        self.unlocked()

    def _hear_locked(self, heard: tuple[Reply, str | None], verdict: Verdict) -> Iterable[Ticket]:
        news, confirmed = heard
        if confirmed is not None and confirmed == self._command:
            self._command = None
        self._adopt_locked(news, self._clock.now())
        return ()

    def _remind_locked(self, _: None, verdict: Verdict) -> Iterable[Ticket]:
        """Nothing but a reason to look for what is to be told, once the lock is free."""
        return ()

    def _adopt_locked(self, news: Reply, now: float) -> None:
        """Take over the state of all, unless a command of our own is under way or own evidence is trusted first."""
        shared, round_, wait, reopened = _STATES[int(news[0])], *news[1:4]
        if self._command is not None:
            return
        self._heard_at = now
        known, self._round = self._round, round_
        if self._advisory and shared is not ISOLATED and self.state is not ISOLATED:
            if self._alone and self.state is not CLOSED:
                return
            if self.state is CLOSED and self._has_evidence_locked(now):
                return
        self._alone = False
        if shared is OPEN:
            self._open_until = now + wait
        before = self.state
        if shared is before and round_ == known:
            self._publish_locked()
            return
        self._enter_locked(shared)
        self.reopened = int(reopened)
        if shared is before:
            return
        if shared is CLOSED:
            self._note(CircuitClosed, time=now, reason="shared")
        elif shared is HALF_OPEN:
            self._note(CircuitHalfOpened, time=now)
        else:
            self._note(CircuitOpened, time=now, reason="shared", recovery_time=wait if shared is OPEN else None)

    def _permit_locked(self, lease: float, wait: float) -> tuple[int | None, float | None]:
        """The permit that an answer to `probe` means, now that its news are known here."""
        if lease:
            self._next_probe -= 1
            self._probes[self._next_probe] = lease
            return self._next_probe, None
        if self.state is CLOSED:
            return self.generation, None
        return None, None if self.state is ISOLATED else wait

    # -- transitions of our own ----------------------------------------------------------------------------------------

    def _admit_alone_locked(self, now: float, note: Note) -> tuple[int | None, float | None]:
        return Circuit.admit_locked(self, now, note)

    def _count_locked(self, failed: bool, now: float, slow: bool, retry_after: object, note: Note) -> None:
        self._outcomes.append((self._round, failed, slow, _asked_for(retry_after)))
        if failed or slow:
            self._next_report = now
        if self._alone or self._advisory or not self.store.available:
            super()._count_locked(failed, now, slow, retry_after, note)
        else:
            self.window.record(now, failed, slow)
            self.streak = self.streak + 1 if failed else 0

    def _open_locked(self, reason: str, now: float, retry_after: object, note: Note) -> None:
        self._alone = True
        super()._open_locked(reason, now, retry_after, note)

    def _close_locked(self, reason: str, now: float, note: Note) -> None:
        super()._close_locked(reason, now, note)
        self._heard_at = -math.inf  # and now for what the others know
        self._alone = False

    def _enter_locked(self, state: State) -> None:
        super()._enter_locked(state)
        self._probes.clear()

    def _publish_locked(self) -> None:
        super()._publish_locked()
        self.closed_permit = None  # every call is looked at
        if not self._alone:  # how long it refuses without asking is not what is left of the pause
            self.refuses_until = -math.inf

    def _has_evidence_locked(self, now: float) -> bool:
        """Whether enough calls of our own say that all is well; else the circuit would be open."""
        self.window.catch_up(now)
        return self.window.calls >= self.minimum_calls

    def _chance(self) -> float:
        return 1.0 + self._rng.uniform(-self._jitter, self._jitter)

    def _operation(self, verb: str, *arguments: float) -> Operation:
        return Operation("breaker", verb, self._name, "none", arguments)


class Told:
    """One operation of a circuit that nobody waits for: how a probe went, or a command by hand."""

    __slots__ = ("_circuit", "_operation")

    def __init__(self, circuit: SharedCircuit, operation: Operation) -> None:
        self._circuit = circuit
        self._operation = operation

    def operation(self) -> Operation:
        return self._operation

    def heard(self, reply: Reply) -> None:
        verb = self._operation.verb
        if verb != "settle":
            self._circuit.lost()  # the next command may go
        self._circuit.hear(reply, verb)

    def lost(self) -> None:
        """A probe's lease expires, which is a failure; a command is told again with the next call."""
        if self._operation.verb != "settle":
            self._circuit.lost()


def _asked_for(retry_after: object) -> float:
    """The pause that a failure asks for, as a number a store understands."""
    if isinstance(retry_after, (int, float)) and 0.0 < retry_after < math.inf:
        return float(min(retry_after, 1e9))
    return 0.0
