"""Rate limiter: so many calls per period, exactly, for everybody or for each key.

Limits are decided by GCRA (see `_limits.py`): O(1) and one float per key, with bursts up to `burst`. A call over the
limit is rejected with the exact time to come back, or, with `max_wait`, reserves the next free slot and sleeps until
then, in order of arrival::

    now + wait = max(tat, now) + cost · T - burst · T        T = period / rate

Cancelling the newest reservation returns its tokens. An earlier one forfeits its slot: those behind it keep their
times, so no two calls ever come closer than the rate allows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from . import _arguments, deadline
from ._buckets import Buckets, Charge, Decision, Reservation
from ._layer import AnyFunction, refuse_bare
from ._limited import limited, limited_async, shared, shared_async
from ._limiter_questions import ALL, LimiterQuestions, checked_cost
from ._limits import Algorithm, All, Gcra, Rate, SlidingLog, SlidingWindow
from ._machine import ABANDONED, FAILURE, SUCCESS, Verdict
from ._shared_limiter import SharedCharge, SharedLimit, SharedReservation
from ._ticket import Ticket
from ._wait import Wait
from .clock import Clock
from .events import SUBSCRIBERS, CallQueued, KeysOverflowed, Listener
from .exceptions import CallRejectedError, DeadlineExceededError, RateLimitExceededError
from .store import Store, checked_store

_EXEMPT = 0  # the permit of calls with nothing to settle


@dataclass(frozen=True, slots=True)
class RateLimiterStatistics:
    """A limiter at one moment: live keys, rejections so far, whether keys overflow at the last look.

    With a store, `keys` are only those that this instance has decided about alone.
    """

    keys: int
    rejected: int
    overflowing: bool


class RateLimiter(LimiterQuestions):
    """Limit calls to `rate` per `period` seconds, of which `burst` (default `max(1, rate)`) may come at once.

    `also` names further `Rate`s, taken together with the first or not at all; `limiter=SlidingWindow(limit, window)`
    replaces the rate. `key(*args, **kwargs)` gives each key its own limit (None: this call is exempt); `rate` may be a
    callable of the key. `cost` is a number or a callable of the call's arguments. `charge_if(outcome)` looks at the
    result or exception and takes the tokens only if it says so. At most `max_keys` live keys are told apart.

    Raises `RateLimitExceededError` with `limit`, `remaining`, `reset_after` and the exact `retry_after` if the call
    would have to wait longer than `max_wait` seconds (None: no limit), and `DeadlineExceededError` if the wait would
    pass the deadline. With a `store` the limit is shared by all limiters of that `name`; `rate`, `burst` and `also`
    are each instance's own and should agree.
    """

    _machine: Buckets
    _variable = frozenset({"charge_if", "cost", "key", "listeners", "max_wait", "name"})

    def __init__(
        self,
        rate: float | Callable[[Any], float] | None = None,
        period: float | timedelta = 1.0,
        *,
        burst: float | None = None,
        also: Iterable[Rate] = (),
        max_wait: float | timedelta | None = 0.0,
        key: Callable[..., Hashable] | None = None,
        cost: float | Callable[..., float] = 1,
        charge_if: Callable[[Any], bool] | None = None,
        max_keys: int = 100_000,
        limiter: SlidingWindow | None = None,
        name: str | None = None,
        store: Store | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        refuse_bare(RateLimiter, rate, functions=True)
        super().__init__(name, clock, listeners)
        store = checked_store(store, name)
        if limiter is not None:
            if not isinstance(limiter, SlidingWindow):
                raise TypeError(f"limiter must be a SlidingWindow or None, not {_arguments.shown(limiter)}")
            if rate is not None or burst is not None or period != 1.0:
                raise ValueError("limiter replaces rate, period and burst: give one or the other")
            first: Algorithm = SlidingLog(limiter)
        elif callable(rate):
            first = Gcra(Rate(1.0, period, burst))
        else:
            first = Gcra(Rate(_arguments.number("rate", rate), period, burst))
        if not _arguments.is_collection(also):
            raise TypeError(f"also must be a collection of Rate objects, not {_arguments.shown(also)}")
        others: list[Algorithm] = []
        for further in also:
            if not isinstance(further, Rate):
                raise TypeError(f"also must hold Rate objects, not {_arguments.shown(further)}")
            others.append(Gcra(further))
        self._machine = Buckets(
            All((first, *others)) if others else first,
            _arguments.plain("rate", rate, takes=1) if callable(rate) else None,
            _arguments.count("max_keys", max_keys),
        )
        self._shared = None if store is None else SharedLimit(store, str(name), self._machine, self._clock)
        self._configure(max_wait=max_wait, key=key, cost=cost, charge_if=charge_if)

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        machine = self._machine
        if self._key is None:
            key: Hashable = ALL
        elif (key := self._key(*args, **kwargs) if kwargs else self._key(*args)) is None:
            return _EXEMPT
        if self._constant_cost:
            # The common cases, spelled out, for a known key. The look needs no lock; what it saw still holds if, under
            # the lock, the state is the same object.
            now = self._clock.now()
            states = machine.table.states
            try:
                tat = states.get(key)
            except TypeError:
                _arguments.hashable("key", key)
                raise
            plain = machine.plain
            if tat is not None and plain is not None:
                after = (tat if tat > now else now) + self._constant_cost * plain.interval
                if after - now <= plain.allowance:
                    free = machine.free
                    try:
                        free.pop()
                    except IndexError:  # somebody is inside: the long way waits for its turn
                        pass
                    else:
                        try:
                            unchanged = states.get(key) is tat
                            if unchanged:
                                states[key] = after
                        finally:
                            free.append(None)
                        if machine.late:
                            machine.unlocked()
                        if unchanged:
                            return _EXEMPT
                elif self._rejects_at_once and not (SUBSCRIBERS or self._listeners or machine.late):
                    wait = after - plain.tolerance - now
                    if wait > 0.0:  # or rounding is all there is to wait for
                        machine.rejected += 1  # a statistic; a lost count under contention is cheaper than a lock
                        raise RateLimitExceededError(self.name, wait, plain.burst, 0, tat - now)
        cost = self._fixed_cost if self._cost_of is None else checked_cost(self._cost_of(*args, **(kwargs or {})))
        return self._admit_slowly(key, cost)

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        if type(permit) is Charge:
            machine = self._machine
            machine.late.append((self._charge_locked, permit, verdict))
            machine.unlocked()
        elif type(permit) is SharedCharge and self._shared is not None:
            self._shared.settle(permit, verdict)

    def judge(self, error: BaseException) -> Verdict:
        """FAILURE means that the call pays: whatever `charge_if` says so of."""
        verdict = super().judge(error)
        if verdict is FAILURE and isinstance(error, asyncio.CancelledError):  # by our own deadline: an outcome as well
            return self._judge_exception(error)
        return verdict

    def update(
        self,
        rate: float | Callable[[Any], float] | None = None,
        period: float | timedelta | None = None,
        burst: float | None = None,
    ) -> None:
        """Change the limit for all callers; what is left out stays. Used tokens stay used, and reserved slots too."""
        machine = self._machine
        old, tier = machine.first, machine.tier
        if not isinstance(old, Gcra):
            raise TypeError("update() changes a rate; this limiter has a SlidingWindow")
        if rate is not None and callable(rate) != (tier is not None):
            raise TypeError("update() cannot turn one rate into a rate for each key, nor back: make a new limiter")
        kept = old.rate
        new = Rate(
            kept.limit if rate is None or callable(rate) else _arguments.number("rate", rate),
            kept.period if period is None else period,
            kept.burst if burst is None else burst,
        )
        changed = Gcra(new)
        machine.refuse_cost(self._fixed_cost, changed)
        machine.change(changed, _arguments.plain("rate", rate, takes=1) if callable(rate) else tier, self._clock.now())

    def statistics(self) -> RateLimiterStatistics:
        """A consistent snapshot."""
        machine, now = self._machine, self._clock.now()
        with machine.lock:
            machine.caught_up_locked()
            live = machine.table.live(now, machine.algorithm)
            result = RateLimiterStatistics(live, machine.rejected, machine.table.overflowing)
        machine.unlocked()
        return result

    @property
    def at_rest(self) -> bool:
        machine, now = self._machine, self._clock.now()
        with machine.lock:
            machine.caught_up_locked()
            result = all(machine.algorithm.rests_at(state) <= now for state in machine.table.states.values())
        machine.unlocked()
        return result

    def __repr__(self) -> str:
        machine = self._machine
        what = machine.algorithm if machine.tier is None else "a rate by key"
        return f"<RateLimiter {self.name or 'unnamed'}: {what}, {len(machine.table)} keys>"

    # -- private -------------------------------------------------------------------------------------------------------

    def _configure(self, **changes: Any) -> None:
        if "max_wait" in changes:
            limit = _arguments.optional_seconds("max_wait", changes["max_wait"], zero=True)
            self._max_wait = math.inf if limit is None else limit
        if "key" in changes:
            self._key = _arguments.function("key", changes["key"])
            if self._key is None and self._machine.tier is not None:
                raise ValueError("rate as a callable takes the key: give key= too")
        if "charge_if" in changes:
            self._charge_if = _arguments.function("charge_if", changes["charge_if"], takes=1)
            self._judges_results = self._charge_if is not None
        if "cost" in changes:
            cost = changes["cost"]
            self._fixed_cost = 0.0 if callable(cost) else _arguments.number("cost", cost)
            self._cost_of = _arguments.plain("cost", cost) if callable(cost) else None
            self._machine.refuse_cost(self._fixed_cost, self._machine.first)
        if self._charge_if is not None and self._max_wait:
            raise ValueError(
                "charge_if takes tokens after the call, so nothing is reserved before it: max_wait must be 0"
            )
        short_way = self._charge_if is None and self._machine.plain is not None and self._shared is None
        self._constant_cost = self._fixed_cost if short_way else 0.0
        # With a cost of at most one call, a refusal means that none is left, and there is nothing else to find out.
        self._rejects_at_once = self._max_wait == 0.0 and 0.0 < self._constant_cost <= 1.0
        self._settles = self._charge_if is not None
        super()._configure(**changes)

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        if self._shared is not None:
            return shared(self._shared.store, super()._wrap_sync(fn), self._without_store()._wrap_sync(fn))
        return limited(self, fn) if self._indifferent and self._constant_cost else super()._wrap_sync(fn)

    def _wrap_async(self, fn: AnyFunction) -> AnyFunction:
        if self._shared is not None:
            return shared_async(self._shared.store, super()._wrap_async(fn), self._without_store()._wrap_async(fn))
        return limited_async(self, fn) if self._indifferent and self._constant_cost else super()._wrap_async(fn)

    def _without_store(self) -> RateLimiter:
        """A variant that decides by local state alone."""
        variant = self.with_()
        variant._shared = None
        variant._configure()
        return variant

    @property
    def _indifferent(self) -> bool:
        return self._key is None and self._cost_of is None

    def _longest_wait(self) -> float | None:
        """Seconds that a call can wait here; None if nothing but the deadline bounds it."""
        return None if self._max_wait == math.inf else self._max_wait

    def _known(self, key: Hashable) -> Hashable:
        if (key is ALL) != (self._key is None):
            raise TypeError("this limiter has no keys" if self._key is None else "this limiter is keyed: pass the key")
        _arguments.hashable("key", key)
        return key

    def _rate_of(self, key: Hashable) -> Any:
        """The rate of the key's tier; asked for outside the lock."""
        tier = self._machine.tier
        return None if tier is None else tier(key)

    def _admit_slowly(self, key: Hashable, cost: float) -> Any:
        _arguments.hashable("key", key)
        if self._shared is not None:
            pays_later = self._charge_if is not None
            return self._shared.admit(self, key, cost, self._max_wait, self._rate_of(key), pays_later)
        return self._admit_locally(key, cost)

    def _admit_locally(self, key: Hashable, cost: float) -> Any:
        if self._charge_if is not None:
            return self._look(key, cost)
        taken = self._take(key, cost, self._max_wait, deadline.remaining() if self._max_wait else None)
        if isinstance(taken, CallRejectedError):
            raise self._rejected(taken, key)
        if taken.delay <= 0.0:
            return _EXEMPT
        self._note(CallQueued, key=None if self._key is None else key, seconds=taken.delay)
        return self._deliver(Wait(self, taken, taken.delay))

    def _look(self, key: Hashable, cost: float) -> Charge:
        """The permit of a call that would fit now and pays by outcome."""
        machine, now, rate = self._machine, self._clock.now(), self._rate_of(key)
        with machine.lock:
            machine.caught_up_locked()
            algorithm = machine.algorithm_locked(rate)
            decision = machine.decide_locked(key, cost, 0.0, None, now, algorithm)
        self._tell_overflow(decision, key)
        if not decision.admitted:
            raise self._rejected(self._refusal(decision, cost, algorithm), key)
        return Charge(decision.key, cost, rate)

    def _take(self, key: Hashable, cost: float, limit: float, left: float | None) -> Reservation | CallRejectedError:
        """Take tokens for the first instant within `limit` and `left` seconds, or say why not."""
        machine, now, rate = self._machine, self._clock.now(), self._rate_of(key)
        with machine.lock:
            machine.caught_up_locked()
            algorithm = machine.algorithm_locked(rate)
            decision = machine.decide_locked(key, cost, limit, left, now, algorithm)
            taken = machine.take_locked(decision, cost, now, algorithm) if decision.admitted else None
        try:
            self._tell_overflow(decision, key)
        except BaseException:  # Ctrl-C in a listener: nobody will hear of what was taken
            if taken is not None:
                taken.cancel()
            raise
        return taken or self._refusal(decision, cost, algorithm)

    def _tell_overflow(self, decision: Decision, key: Hashable) -> None:
        """Say so when keys begin to share the overflow bucket, once until there is room again."""
        machine = self._machine
        if decision.overflows:
            self._note(KeysOverflowed, key=key, max_keys=machine.table.max_keys)
        if machine.late or machine.outbox:
            machine.unlocked()

    def _refusal(self, decision: Decision, cost: float, algorithm: Algorithm) -> CallRejectedError:
        wait = None if decision.wait == math.inf else decision.wait
        if wait is not None and not decision.too_long:
            return DeadlineExceededError(self.name, wait)
        most = algorithm.capacity
        reason = f"a cost of {cost:g} is above the burst ({most:g}) and never passes" if wait is None else None
        return RateLimitExceededError(self.name, wait, most, decision.remaining, decision.reset_after, reason=reason)

    def _judge_exception(self, error: BaseException) -> Verdict:
        return FAILURE if self._charge_if is not None and self._charge_if(error) else ABANDONED

    def _judge_result(self, result: object) -> Verdict:
        return FAILURE if self._charge_if is not None and self._charge_if(result) else SUCCESS

    def _charge_locked(self, charge: Charge, verdict: Verdict) -> Iterable[Ticket]:
        if verdict is FAILURE:
            self._machine.charge_locked(charge, self._clock.now())
        return ()

    def _leave_locked(self, wait: Wait, verdict: Verdict) -> Iterable[Ticket]:
        if type(wait.permit) is SharedReservation:
            wait.permit.forsake()
        else:
            self._machine.cancel_locked(wait.permit)
        return ()
