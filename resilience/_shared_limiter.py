"""A rate limit shared through a store: the store's clock and cells decide, this instance only asks.

A call that may start later has its slot reserved in the store and waits here; cancelled, the newest reservation
returns its tokens and an earlier one forfeits its slot, as in the local limiter. On trouble the limiter's own local
state decides (each instance then has the whole limit for itself), or all calls pass, or none does.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

from . import deadline
from ._asking import asked
from ._buckets import Buckets, Reservation
from ._courier import Operation
from ._keys import key_text
from ._ledger import Reply
from ._limits import Algorithm, All, Gcra
from ._local_tokens import Blocks, FromBlock
from ._machine import FAILURE, Verdict
from ._wait import Wait
from .clock import Clock
from .events import CallQueued
from .exceptions import CallRejectedError, DeadlineExceededError, RateLimitExceededError, StoreUnavailableError
from .store import Store

NEVER = -1.0  # a wait that nothing fits into
FOREVER = 1e300  # what a store understands as no limit
_EXEMPT = 0


class Told:
    """An operation whose answer nobody waits for."""

    __slots__ = ("_operation",)

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def operation(self) -> Operation:
        return self._operation

    def heard(self, reply: Reply) -> None:
        """Nothing follows from it."""

    def lost(self) -> None:
        """Nobody knows whether it arrived. Tokens stay taken, which is the safe side; a charge is forgotten."""


class SharedCharge(NamedTuple):
    """The permit of a call that pays by outcome."""

    operation: Operation


class SharedReservation(Reservation):
    """Tokens taken in a store."""

    __slots__ = ("_refund", "_store")

    def __init__(self, store: Store, refund: Operation, key: Hashable, cost: float, delay: float) -> None:
        self._store = store
        self._refund = refund
        self.key = key
        self.cost = cost
        self.delay = delay
        self.stale = False

    def cancel(self) -> bool:
        if self.stale:
            return False
        self.stale = True
        try:
            return self._store.ask(self._refund)[0] == 1.0
        except StoreUnavailableError:
            return False

    def forsake(self) -> None:
        """The same without waiting for the answer."""
        if not self.stale:
            self.stale = True
            self._store.tell(Told(self._refund))


class Answer(NamedTuple):
    """What the store says to a `take`."""

    admitted: bool
    wait: float
    remaining: int
    retry_after: float  # for a cost of 1
    reset_after: float
    tats: tuple[float, ...]  # those after it, and those before


class SharedLimit:
    """The store's part of a limiter and of its variants."""

    def __init__(self, store: Store, name: str, machine: Buckets, clock: Clock) -> None:
        for limit in _limits(machine.algorithm):
            if not isinstance(limit, Gcra):
                raise TypeError("a limiter with a store counts by rate: limiter= cannot be shared")
        self.store = store
        self._name = name
        self._machine = machine
        self._blocks = Blocks(store, machine, clock)
        self._last: tuple[Any, Any, Any] = (None, None, None)  # algorithm, what it was made for, and the operation

    def admit(self, policy: Any, key: Hashable, cost: float, max_wait: float, rate: Any, pays_later: bool) -> Any:
        """A permit, or a Wait; raises a rejection."""
        if self.store.refuses:
            return self._without_store(policy, key, cost, rate)
        algorithm = self._algorithm(rate)
        ahead = 0.0 if pays_later else self._held(algorithm)
        if 0.0 < cost <= ahead:
            taken = self._blocks.take(key, cost)
            if taken:
                return _EXEMPT
            if taken is False:
                return self._from_block(policy, key, cost, max_wait, rate, ahead, algorithm)
        return self._ask(policy, key, cost, max_wait, rate, pays_later, algorithm)

    def _from_block(
        self,
        policy: Any,
        key: Hashable,
        cost: float,
        max_wait: float,
        rate: Any,
        ahead: float,
        algorithm: Algorithm,
    ) -> Any:
        def alone() -> Any:
            return self._ask(policy, key, cost, max_wait, rate, False, algorithm)

        question = self._take(key, ahead, 0.0, None, algorithm, take=True)
        lifetime = ahead * _intervals(algorithm)[0]
        decision = FromBlock(self._blocks, key, cost, ahead, lifetime, question, alone)
        return decision.block() if self.store.immediate else Wait(policy, None, decision=decision)

    def _ask(
        self,
        policy: Any,
        key: Hashable,
        cost: float,
        max_wait: float,
        rate: Any,
        pays_later: bool,
        algorithm: Algorithm,
    ) -> Any:
        """A permit or a Wait by the store's answer for this call alone."""
        left = deadline.remaining() if max_wait else None
        if cost > self._capacity(algorithm):
            max_wait = NEVER
        question = self._take(key, cost, max_wait, left, algorithm, take=not pays_later)

        def answered(reply: Reply) -> Any:
            answer = _read(reply)
            if not answer.admitted:
                self._machine.rejected += 1
                raise policy._rejected(_refusal(policy.name, answer, self._capacity(algorithm), max_wait), key)
            if pays_later:
                return SharedCharge(self._operation("charge", key, cost, *_intervals(algorithm)))
            if answer.wait <= 0.0:
                return _EXEMPT
            policy._note(CallQueued, key=key, seconds=answer.wait)
            return policy._deliver(Wait(policy, self._reservation(key, cost, answer), answer.wait))

        def failed() -> Any:
            return self._without_store(policy, key, cost, rate)

        def undo(reply: Reply) -> None:
            self.unclaim(reply, key, cost)

        return asked(policy, self.store, question, answered, failed, None if pays_later else undo)

    def _without_store(self, policy: Any, key: Hashable, cost: float, rate: Any) -> Any:
        match self.store.on_error:
            case "local":
                return policy._admit_locally(key, cost)
            case "open":
                return _EXEMPT
            case _:
                self._machine.rejected += 1
                refusal = RateLimitExceededError(policy.name, self.store.retry_after, self.capacity(rate), 0)
                raise policy._rejected(refusal, key)

    def settle(self, charge: SharedCharge, verdict: Verdict) -> None:
        if verdict is FAILURE:
            self.store.tell(Told(charge.operation))

    # -- the limiter's public questions --------------------------------------------------------------------------------

    def look(self, key: Hashable, rate: Any) -> Operation:
        """What to ask for a quota."""
        return self._take(key, 1.0, FOREVER, None, self._algorithm(rate), take=False)

    def quota(self, reply: Reply, rate: Any) -> tuple[float, int, float, float]:
        """The quota in the answer: limit, remaining, reset_after, retry_after."""
        answer = _read(reply)
        return self.capacity(rate), answer.remaining, answer.reset_after, answer.retry_after

    def quota_without(self, rate: Any) -> tuple[float, int, float, float]:
        """The quota while the store does not answer and local state does not count."""
        if self.store.on_error == "closed":
            wait = self.store.retry_after or 0.0
            return self.capacity(rate), 0, wait, wait
        capacity = self.capacity(rate)
        return capacity, max(1, math.floor(capacity)), 0.0, 0.0

    def claim(self, key: Hashable, cost: float, limit: float, rate: Any) -> Operation:
        """What to ask for a reservation."""
        algorithm = self._algorithm(rate)
        return self._take(key, cost, NEVER if cost > self._capacity(algorithm) else limit, None, algorithm, take=True)

    def claimed(
        self, reply: Reply, name: str | None, key: Hashable, cost: float, limit: float, rate: Any
    ) -> Reservation | CallRejectedError:
        """The reservation in the answer, or why there is none."""
        answer, algorithm = _read(reply), self._algorithm(rate)
        if answer.admitted:
            return self._reservation(key, cost, answer)
        self._machine.rejected += 1
        return _refusal(name, answer, self._capacity(algorithm), NEVER if cost > self._capacity(algorithm) else limit)

    def unclaim(self, reply: Reply, key: Hashable, cost: float) -> None:
        """Give back what an answer has granted to somebody who is gone."""
        answer = _read(reply)
        if answer.admitted:
            self._reservation(key, cost, answer).forsake()

    def renewal(self, key: Hashable) -> Operation:
        """What to ask for a full burst."""
        return self._operation("reset", key)

    def capacity(self, rate: Any) -> float:
        """The burst."""
        return self._capacity(self._algorithm(rate))

    # -- private -------------------------------------------------------------------------------------------------------

    def _algorithm(self, rate: Any) -> Algorithm:
        with self._machine.lock:
            return self._machine.algorithm_locked(rate)

    def _operation(self, verb: str, key: Hashable, *arguments: float) -> Operation:
        return Operation("limiter", verb, self._name, key_text(key), arguments)

    def _take(
        self, key: Hashable, cost: float, max_wait: float, left: float | None, algorithm: Algorithm, *, take: bool
    ) -> Operation:
        known = (key, cost, max_wait, left, take)
        last, what_for, last_operation = self._last
        if last is algorithm and what_for == known:  # mostly so where there is one key
            return last_operation  # type: ignore[no-any-return]
        limits, held = _limits(algorithm), self._held(algorithm)
        rules = [
            part
            for limit in limits
            for part in (
                limit.interval,
                limit.tolerance - held * limit.interval,
                limit.allowance - held * limit.interval,
            )
        ]
        patience = min(max_wait, FOREVER), FOREVER if left is None else left
        operation = self._operation("take", key, float(take), cost, *patience, *rules)
        self._last = (algorithm, known, operation)
        return operation

    def _held(self, algorithm: Algorithm) -> float:
        """The tokens of the burst that may be in blocks and are no longer in the store."""
        return 0.0 if isinstance(algorithm, All) else self._blocks.size(algorithm.capacity)

    def _capacity(self, algorithm: Algorithm) -> float:
        """The largest cost that can ever pass."""
        return algorithm.capacity - self._held(algorithm)

    def _reservation(self, key: Hashable, cost: float, answer: Answer) -> SharedReservation:
        refund = self._operation("refund", key, *answer.tats)
        return SharedReservation(self.store, refund, key, cost, answer.wait)


def _limits(algorithm: Algorithm) -> tuple[Any, ...]:
    return algorithm.limits if isinstance(algorithm, All) else (algorithm,)


def _intervals(algorithm: Algorithm) -> list[float]:
    return [limit.interval for limit in _limits(algorithm)]


def _read(reply: Reply) -> Answer:
    admitted, wait, room, next_one, reset_after, *tats = reply
    remaining = 0 if next_one > 0.0 else max(1, math.floor(room + 1e-9))
    return Answer(admitted == 1.0, wait, remaining, next_one, reset_after, tuple(tats))


def _refusal(name: str | None, answer: Answer, capacity: float, max_wait: float) -> CallRejectedError:
    if answer.wait <= max_wait:
        return DeadlineExceededError(name, answer.wait)
    if max_wait == NEVER:
        reason = f"the cost is above the burst ({capacity:g}) and never passes"
        return RateLimitExceededError(name, None, capacity, answer.remaining, answer.reset_after, reason=reason)
    return RateLimitExceededError(name, answer.wait, capacity, answer.remaining, answer.reset_after)
