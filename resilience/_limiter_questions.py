"""What one can ask a rate limiter besides letting a call pass: what is left, a reservation, a fresh start.

With a store these questions go there: the plain ones block for `store_timeout` at most, tasks use the twins that begin
with `a`. When the store does not answer, local state or what `on_error` says stands in.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from . import _arguments
from ._buckets import OVERFLOW, Buckets, Reservation
from ._limits import ahead, whole_calls
from ._policy import Policy
from ._shared_limiter import SharedLimit
from .exceptions import CallRejectedError, RateLimitExceededError, StoreUnavailableError

ALL = None  # the key of a limiter without keys; with keys, None is a call that is exempt
_NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left for a key: whole calls `remaining` of `limit`, seconds until all of it is back, and until one is."""

    limit: float
    remaining: int
    reset_after: float
    retry_after: float


class LimiterQuestions(Policy):
    """The public questions of a limiter."""

    _machine: Buckets
    _shared: SharedLimit | None

    def peek(self, key: Hashable = ALL) -> Quota:
        """What is left for `key` now; takes nothing."""
        rate = self._rate_of(self._known(key))
        if self._shared is None:
            return self._peek_locally(key, rate)
        try:
            return Quota(*self._shared.quota(self._shared.store.ask(self._shared.look(key, rate)), rate))
        except StoreUnavailableError:
            return self._peek_without_store(self._shared, key, rate)

    async def apeek(self, key: Hashable = ALL) -> Quota:
        """`peek` for tasks: it suspends where a store has to be asked."""
        rate = self._rate_of(self._known(key))
        if self._shared is None:
            return self._peek_locally(key, rate)
        try:
            return Quota(*self._shared.quota(await self._shared.store.aask(self._shared.look(key, rate)), rate))
        except StoreUnavailableError:
            return self._peek_without_store(self._shared, key, rate)

    def reserve(self, key: Hashable = ALL, cost: float = 1, max_wait: float | None = None) -> Reservation:
        """Take tokens now for a call that the caller starts after `reservation.delay` seconds.

        Raises RateLimitExceededError if that is longer than `max_wait` (None: no limit) or can never be.
        """
        rate, cost, limit = self._checked_reservation(key, cost, max_wait)
        shared = self._shared
        if shared is None:
            return self._reserved(self._take(key, cost, limit, None), key)
        try:
            reply = shared.store.ask(shared.claim(key, cost, limit, rate))
        except StoreUnavailableError:
            return self._reserved(self._reserve_without_store(shared, key, cost, limit, rate), key)
        return self._reserved(shared.claimed(reply, self.name, key, cost, limit, rate), key)

    async def areserve(self, key: Hashable = ALL, cost: float = 1, max_wait: float | None = None) -> Reservation:
        """`reserve` for tasks. Cancelled, it has taken nothing."""
        rate, cost, limit = self._checked_reservation(key, cost, max_wait)
        shared = self._shared
        if shared is None:
            return self._reserved(self._take(key, cost, limit, None), key)
        try:
            question = shared.claim(key, cost, limit, rate)
            reply = await shared.store.aask(question, lambda reply: shared.unclaim(reply, key, cost))
        except StoreUnavailableError:
            return self._reserved(self._reserve_without_store(shared, key, cost, limit, rate), key)
        return self._reserved(shared.claimed(reply, self.name, key, cost, limit, rate), key)

    def reset(self, key: Hashable = ALL) -> None:
        """Give `key` its full burst back."""
        self._reset_locally(key)
        if self._shared is not None:
            try:
                self._shared.store.ask(self._shared.renewal(key))
            except StoreUnavailableError:  # local state is all that counts now
                pass

    async def areset(self, key: Hashable = ALL) -> None:
        """`reset` for tasks."""
        self._reset_locally(key)
        if self._shared is not None:
            try:
                await self._shared.store.aask(self._shared.renewal(key))
            except StoreUnavailableError:
                pass

    # -- private -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _known(self, key: Hashable) -> Hashable: ...

    @abstractmethod
    def _rate_of(self, key: Hashable) -> Any: ...

    @abstractmethod
    def _take(
        self, key: Hashable, cost: float, limit: float, left: float | None
    ) -> Reservation | CallRejectedError: ...

    def _peek_locally(self, key: Hashable, rate: Any) -> Quota:
        machine, now = self._machine, self._clock.now()
        with machine.lock:
            machine.caught_up_locked()
            algorithm, table = machine.algorithm_locked(rate), machine.table
            state = table.states.get(key)
            if state is None and len(table) >= table.max_keys and table.live(now, algorithm) >= table.max_keys:
                state = table.states.get(OVERFLOW)
            if state is None:
                state = algorithm.fresh()
            retry_after = ahead(algorithm.earliest(state, now, 1.0), now)
            reset_after = max(0.0, algorithm.rests_at(state) - now)
            quota = Quota(algorithm.capacity, whole_calls(algorithm, state, now), reset_after, retry_after)
        machine.unlocked()
        return quota

    def _peek_without_store(self, shared: SharedLimit, key: Hashable, rate: Any) -> Quota:
        if shared.store.on_error == "local":
            return self._peek_locally(key, rate)
        return Quota(*shared.quota_without(rate))

    def _checked_reservation(self, key: Hashable, cost: float, max_wait: float | None) -> tuple[Any, float, float]:
        limit = math.inf if max_wait is None else _arguments.seconds("max_wait", max_wait, zero=True)
        return self._rate_of(self._known(key)), checked_cost(cost), limit

    def _reserved(self, taken: Reservation | CallRejectedError, key: Hashable) -> Reservation:
        if not isinstance(taken, Reservation):
            raise self._rejected(taken, key)
        return taken

    def _reserve_without_store(
        self, shared: SharedLimit, key: Hashable, cost: float, limit: float, rate: Any
    ) -> Reservation | CallRejectedError:
        if shared.store.on_error == "local":
            return self._take(key, cost, limit, None)
        if shared.store.on_error == "open":
            return Reservation(self._machine, key, cost, 0.0, None, None)  # of nothing
        return RateLimitExceededError(self.name, shared.store.retry_after, shared.capacity(rate), 0)

    def _reset_locally(self, key: Hashable) -> None:
        self._known(key)
        machine = self._machine
        with machine.lock:
            machine.caught_up_locked()
            if key in machine.table.states:
                machine.table.states[key] = machine.algorithm.fresh()
        machine.unlocked()


def checked_cost(cost: Any) -> float:
    """A cost, quickly where it is a plain number."""
    if type(cost) in _NUMBERS and 0.0 <= cost < 1e300:
        return float(cost)
    return _arguments.number("cost", cost, zero=True)
