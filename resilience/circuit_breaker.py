"""Circuit breaker: stop calling a dependency that keeps failing, and find out carefully when it is back.

It counts outcomes over a sliding window. Too many failures (or slow calls) open the circuit and calls are refused at
once; after the recovery time a few probes may pass, and their outcomes close or re-open it::

                 rate, streak or slow calls                      the recovery time is over, and a call comes
      CLOSED ───────────────────────────────► OPEN ───────────────────────────────► HALF_OPEN
        ▲                                       ▲  success_threshold out of reach      │
        │                                       └──────────────────────────────────────┤
        └──────────────────────────────────────────────────────────────────────────────┘
                                    success_threshold successful probes

      any state ── isolate() ──► ISOLATED ── reset() ──► CLOSED

The pattern is Michael Nygard's ("Release It!", 2007). Its machine is in `_circuit.py`;
nothing here sets its state.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, cast, get_args

from . import _arguments
from ._circuit import CLOSED, UNCOUNTED, BreakerStatistics, Circuit, Mode, State, Timed
from ._failures import ExceptionTest, exception_test, refuse_what_never_opens
from ._layer import AnyFunction, StepFactory, Stream, drive, refuse_bare, stepped
from ._machine import ABANDONED, FAILURE, SUCCESS, Verdict
from ._policy import Guard, Policy
from ._shared_circuit import ASK, SharedCircuit
from ._wait import Meter, meter, running_meter
from ._window import CountWindow, TimeWindow
from .clock import Clock
from .events import SUBSCRIBERS, CallFailed, CallRejected, CallSucceeded, Listener
from .exceptions import CircuitOpenError
from .store import Store, checked_store

_DEFAULT_WINDOW = TimeWindow(30.0, buckets=10)
_refused = CircuitOpenError.__new__  # makes one without running any Python code


class CircuitBreaker(Policy):
    """Refuse calls to a dependency that keeps failing.

    The circuit opens on a counted failure or slow call when, over `window` and with at least `minimum_calls` in it,
    the share of failures reaches `failure_rate` (None: rule off) or the share of calls slower than
    `slow_call_duration` seconds reaches `slow_call_rate`; or when `failure_threshold` calls in a row have failed. It
    stays open for `recovery_time` seconds, doubled with each re-opening in a row up to `max_recovery_time`, varied by
    ±`jitter`, lengthened by a failure's own `retry_after`. Then at most `half_open_max_calls` probes may run, each
    with a lease of `probe_lease` seconds; `success_threshold` successes close the circuit.

    `failure_on` (types or a predicate) says which exceptions are failures; all others, and those in `ignore`, count as
    neither failure nor success. `failure_if` looks at results. `mode` is "enabled", "shadow" (decides and records but
    never rejects) or "disabled", and may be changed at any time.

    With a `store` all breakers of that `name` are one circuit; see `_shared_circuit.py` for what `advisory` changes.

    Raises `CircuitOpenError` with the true remaining `retry_after`.
    """

    _machine: Circuit
    _variable = frozenset({"failure_if", "failure_on", "ignore", "listeners", "name", "slow_call_duration"})

    def __init__(
        self,
        name: str | None = None,
        *,
        window: TimeWindow | CountWindow = _DEFAULT_WINDOW,
        failure_rate: float | None = 0.5,
        minimum_calls: int = 20,
        failure_threshold: int | None = None,
        slow_call_duration: float | timedelta | None = None,
        slow_call_rate: float = 1.0,
        recovery_time: float | timedelta = 5.0,
        max_recovery_time: float | timedelta = 60.0,
        jitter: float = 0.2,
        half_open_max_calls: int = 3,
        success_threshold: int = 2,
        probe_lease: float | timedelta = 30.0,
        failure_on: ExceptionTest = Exception,
        ignore: ExceptionTest = (),
        failure_if: Callable[[Any], bool] | None = None,
        mode: Mode = "enabled",
        store: Store | None = None,
        advisory: bool = False,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        refuse_bare(CircuitBreaker, name)
        super().__init__(name, clock, listeners)
        options: dict[str, Any] = {
            "window": window,
            "failure_rate": failure_rate,
            "minimum_calls": minimum_calls,
            "failure_threshold": failure_threshold,
            "slow_call_rate": slow_call_rate,
            "recovery_time": recovery_time,
            "max_recovery_time": max_recovery_time,
            "jitter": jitter,
            "half_open_max_calls": half_open_max_calls,
            "success_threshold": success_threshold,
            "probe_lease": probe_lease,
            "rng": rng,
        }
        store, advisory = checked_store(store, name), _arguments.flag("advisory", advisory)
        if store is None:
            self._machine = Circuit(**options)
        else:
            self._machine = SharedCircuit(store, str(name), self._clock, self._note, advisory, **options)
        self._configure(
            failure_on=failure_on, ignore=ignore, failure_if=failure_if, slow_call_duration=slow_call_duration
        )
        if self._slow_after is None:
            refuse_what_never_opens(self._machine, self._failures, ignore, self._failure_if)
        self.mode = self._first_mode = mode

    # -- admission and settlement --------------------------------------------------------------------------------------

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        # One atomic read decides in the closed state: it holds the generation then, and None in all others.
        machine = self._machine
        permit = machine.closed_permit
        if permit is None:
            # Nor does a refusal need the lock: this instant is there only while the circuit is open.
            wait = machine.refuses_until - self._clock.now()
            if wait > 0.0 and not (SUBSCRIBERS or self._listeners):
                machine.rejected += 1  # a statistic; a lost count under contention is cheaper than a lock
                raise _refused(CircuitOpenError, self.name, wait)
            permit = self._admit_slowly()
            if type(permit) is not int:
                return permit
        if self._timed or SUBSCRIBERS or self._listeners:
            return self._started(permit)
        return permit

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        machine = self._machine
        if verdict is SUCCESS and permit == machine.closed_permit:
            # The common case, spelled out: a success in the closed state can trip nothing.
            now = self._clock.now()
            free = machine.free
            try:
                free.pop()
            except IndexError:  # somebody is inside
                self._record(permit, verdict, None, None)
                return
            try:
                if permit == machine.closed_permit and not machine.late:
                    machine.streak = 0
                    window = machine.window
                    if now < window.edge:
                        window.calls += 1
                        window.current[0] += 1
                    else:
                        window.record(now, False, False)
                    permit = UNCOUNTED
            finally:
                free.append(None)
            if permit == UNCOUNTED and not machine.late and not machine.outbox:
                return
        if type(verdict) is not Verdict:
            raise TypeError(f"settle() takes a Verdict, not {_arguments.shown(verdict)}")
        self._record(permit, verdict, None, None)

    @property
    def state(self) -> State:
        """CLOSED, OPEN, HALF_OPEN or ISOLATED; an open circuit turns half-open with the next call, not by itself."""
        return self._machine.state

    @property
    def mode(self) -> Mode:
        """ "enabled", "shadow" or "disabled"."""
        return self._machine.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        given: Any = mode
        if not isinstance(given, str) or given not in get_args(Mode):
            raise ValueError(f'mode must be "enabled", "shadow" or "disabled", not {_arguments.shown(mode)}')
        with self._machine.lock:
            self._machine.set_mode_locked(mode)
        self._machine.unlocked()

    def isolate(self) -> None:
        """Refuse all calls until `reset()`."""
        with self._machine.lock:
            self._machine.isolate_locked(self._clock.now(), self._note)
        self._machine.unlocked()

    def reset(self) -> None:
        """Close the circuit and forget what was counted. Calls under way count for nothing."""
        with self._machine.lock:
            self._machine.reset_locked(self._note)
        self._machine.unlocked()

    def statistics(self) -> BreakerStatistics:
        """A consistent snapshot."""
        machine, now = self._machine, self._clock.now()
        with machine.lock:
            machine.caught_up_locked()
            result = machine.statistics_locked(now, self._note)
        machine.unlocked()
        return result

    @property
    def at_rest(self) -> bool:
        statistics = self.statistics()
        unchanged = statistics.state is CLOSED and statistics.mode == self._first_mode
        return unchanged and not (statistics.failures or statistics.slow or statistics.streak)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name or 'unnamed'}: {self._machine.state.value}>"

    # -- private -------------------------------------------------------------------------------------------------------

    @property
    def _indifferent(self) -> bool:
        return True

    def _configure(self, **changes: Any) -> None:
        if "failure_on" in changes:
            self._failures = changes["failure_on"]
            self._failure_on = exception_test("failure_on", self._failures)
        if "ignore" in changes:
            self._ignore = exception_test("ignore", changes["ignore"])
        if "failure_if" in changes:
            self._failure_if = _arguments.function("failure_if", changes["failure_if"], takes=1)
            self._judges_results = self._failure_if is not None
        if "slow_call_duration" in changes:
            self._slow_after = _arguments.optional_seconds("slow_call_duration", changes["slow_call_duration"])
            self._timed = self._slow_after is not None
        super()._configure(**changes)

    def _admit_slowly(self) -> Any:
        machine = self._machine
        now = self._clock.now()
        with machine.lock:
            machine.caught_up_locked()
            permit, retry_after = machine.admit_locked(now, self._note)
            if permit is None:
                machine.rejected += 1
        if permit == ASK:
            return cast("SharedCircuit", machine).ask(self)
        return self._decided(permit, retry_after, started=False)

    def _decided(self, permit: int | None, retry_after: float | None, *, started: bool = True) -> Any:
        """The permit of a call as the machine has decided, or the rejection."""
        machine = self._machine
        shadow = permit is None and machine.mode == "shadow"
        if machine.late or machine.outbox:
            self._deliver(permit)
        if shadow:
            self._tell(CallRejected, retry_after=retry_after, shadow=True)
            permit = UNCOUNTED
        elif permit is None:
            isolated = machine.state is State.ISOLATED
            reason = "the circuit is isolated until it is reset" if isolated else None
            raise self._rejected(CircuitOpenError(self.name, retry_after, reason=reason))
        if started and (self._timed or SUBSCRIBERS or self._listeners):
            return self._started(permit)
        return permit

    def _started(self, permit: int) -> Timed:
        """A permit that knows when the call began, and collects the time it waits in inner layers."""
        waits = Meter(running_meter()) if self._timed else None
        if waits is not None:
            meter.set(waits)
        return Timed(permit, self._clock.now(), waits)

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        if not self._timed:
            return super()._wrap_generator(fn)

        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with Guard(self, args, kwargs) as guard:
                result = yield from stepped(fn(*args, **kwargs), _metered_steps(guard))
                guard.outcome(result)
                return result

        return guarded

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        if not self._timed:
            return super()._wrap_async_generator(fn)

        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            async with Guard(self, args, kwargs) as guard:
                yield Stream(fn(*args, **kwargs), _metered_steps(guard))
                guard.outcome(None)

        return drive(begin)

    def _unfinished(self, permit: Any, result: Any, fn: AnyFunction) -> object:
        rest = super()._unfinished(permit, result, fn)
        if rest is not None and self._timed:
            meter.set(permit.waits.outer)
        return rest

    async def _later(self, guard: Guard, awaitable: Any) -> Any:
        if not self._timed:
            return await super()._later(guard, awaitable)
        with _metering(guard._permit.waits):
            return await super()._later(guard, awaitable)

    def _judge_exception(self, error: Exception) -> Verdict:
        return FAILURE if self._failure_on(error) and not self._ignore(error) else ABANDONED

    def _judge_result(self, result: object) -> Verdict:
        return FAILURE if self._failure_if(result) else SUCCESS

    def _fail(self, permit: Any, error: BaseException) -> None:
        verdict, retry_after = ABANDONED, None
        try:
            verdict = self.judge(error)
            if verdict is FAILURE:
                retry_after = _asked(error)
        finally:
            self._record(permit, verdict, error, retry_after)

    def _finish(self, permit: Any, result: object) -> None:
        verdict, retry_after = ABANDONED, None
        try:
            verdict = self._judge_result(result)
            if verdict is FAILURE:
                retry_after = _asked(result)
        finally:
            self._record(permit, verdict, None, retry_after)

    def _record(self, permit: Any, verdict: Verdict, error: BaseException | None, retry_after: object) -> None:
        """Count an outcome now, or hand it over if the lock is taken. Never waits."""
        machine, now = self._machine, self._clock.now()
        slow = False
        if type(permit) is Timed:
            duration = now - permit.began
            if permit.waits is not None:
                permit.waits.done = True
                if meter.get() is permit.waits:
                    meter.set(running_meter())
                slow = self._slow_after is not None and duration - permit.waits.waited > self._slow_after
            if verdict is SUCCESS:
                self._note(CallSucceeded, time=now, duration=duration, slow=slow)
            elif verdict is FAILURE:
                self._note(CallFailed, time=now, duration=duration, error=error)
            permit = permit.permit
        if permit != UNCOUNTED:
            machine.late.append((self._apply_locked, (permit, now, slow, retry_after), verdict))
        machine.unlocked()

    def _apply_locked(self, outcome: tuple[int, float, bool, object], verdict: Verdict) -> tuple[()]:
        permit, now, slow, retry_after = outcome
        self._machine.settle_locked(permit, verdict, now, slow, retry_after, self._note)
        return ()


@contextmanager
def _metering(waits: Meter) -> Iterator[None]:
    """Add the waits inside the block to those of a call that began elsewhere."""
    before = meter.get()
    if before is not waits:
        waits.outer = running_meter()
        meter.set(waits)
    try:
        yield
    finally:
        if meter.get() is waits:
            meter.set(before)


def _metered_steps(guard: Guard) -> StepFactory:
    """What surrounds the steps of a generator: its meter is for them alone, not for its consumer in between."""
    waits = guard._permit.waits
    meter.set(waits.outer)
    return lambda: _metering(waits)


def _asked(outcome: object) -> object:
    """What a failure says in `retry_after`; a property that fails says nothing, and must not replace the failure."""
    try:
        return getattr(outcome, "retry_after", None)
    except Exception:  # noqa: BLE001 - whatever it is, it is not the outcome
        return None
