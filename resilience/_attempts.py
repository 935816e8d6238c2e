"""One call's retries: which outcome is retried, and how long to wait. No loops, no sleeping, no colour.

A `Run` belongs to one call. It keeps no exception or result between attempts, because their tracebacks would hold the
frames that hold the run, and such cycles wait for the garbage collector.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import tenacity
from tenacity.retry import retry_base
from tenacity.wait import wait_exponential, wait_random_exponential

from . import _arguments, deadline
from ._layer import AnyFunction
from ._notes import MOST_NOTES, NOTE, annotate
from .correlation import numbered
from .events import SUBSCRIBERS, RetryScheduled, RetryStopped
from .exceptions import CallRejectedError, DeadlineExceededError

_RETRYING = tenacity.Retrying()  # some strategies look at the object they think they belong to
# The retry_base classes of tenacity that never ask for a retry of a result; all others have to see results too.
_BLIND_TO_RESULTS = {
    tenacity.retry_if_exception,
    tenacity.retry_if_exception_type,
    tenacity.retry_if_not_exception_type,
    tenacity.retry_if_exception_cause_type,
    tenacity.retry_if_exception_message,
}
# The strategies of tenacity that look at nothing but attempts and times.
BLIND_TO_ARGUMENTS = {
    *(type(None), tenacity.stop_after_attempt, tenacity.stop_after_delay, tenacity.stop_before_delay),
    *(tenacity.wait_none, tenacity.wait_fixed, tenacity.wait_incrementing, tenacity.wait_random),
    *(tenacity.wait_exponential, tenacity.wait_exponential_jitter, tenacity.wait_random_exponential),
}


class Run:
    """The attempts of one call. `attempt()` makes one, `number` is the one that runs, `report` tells `before_retry`."""

    __slots__ = ("_args", "_fn", "_kwargs", "_notes", "_state", "attempt", "number", "report", "retry", "started")

    def __init__(self, retry: Any, fn: AnyFunction | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.retry = retry
        self.number = 1
        self.report: tuple[RetryScheduled, ...] | tuple[()] = ()
        self.started: float = retry._clock.now()
        self.attempt: AnyFunction = _nothing if fn is None else functools.partial(fn, *args, **kwargs)
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        self._state: tenacity.RetryCallState | None = None
        self._notes: list[str] = []

    def failed(self, error: Exception) -> float | None:
        """The seconds to wait before the next attempt, or None if `error` is final (it has its notes then)."""
        try:
            if not self._wanted(error):
                wait = None
                if self._notes:
                    self._noted(self._note_of(error))
            else:
                self._noted(self._note_of(error))
                wait = self._next(error, error)
        finally:
            self._forget()
        if wait is None:
            if self._notes:
                annotate(error, self._notes, self.retry._machine)
            return None
        self._scheduled(wait, error)
        return wait

    def returned(self, result: object) -> float | None:
        """The same for a result; None if it is the one to return."""
        retry = self.retry
        try:
            if not (retry._retry_if is not None and retry._retry_if(result)) and not (
                retry._inspects_results and bool(retry._test(self, None, result))
            ):
                return None
            self._noted(f"{NOTE}{self.number} of {retry.attempts} returned {_arguments.shown(result)}")
            wait = self._next(result, None)
        finally:
            self._forget()
        if wait is not None:
            self._scheduled(wait, None)
        return wait

    def state(self, error: Exception | None, result: object = None) -> tenacity.RetryCallState:
        """This call as a tenacity strategy sees it."""
        state = self._state
        if state is None:
            state = self._state = tenacity.RetryCallState(_RETRYING, self._fn, self._args, self._kwargs)
            state.start_time = self.started
        if state.outcome is None:
            state.attempt_number = self.number
            state.outcome = tenacity.Future(self.number)
            if error is None:
                state.outcome.set_result(result)
            else:
                state.outcome.set_exception(error)
            state.outcome_timestamp = self.retry._clock.now()
        return state

    # -- the decision --------------------------------------------------------------------------------------------------

    def _wanted(self, error: Exception) -> bool:
        if isinstance(error, ExceptionGroup):
            for leaf in error.exceptions:
                if not self._wanted(leaf):
                    return False
                self._forget()  # a strategy is shown one outcome at a time
            return True
        if isinstance(error, CallRejectedError):
            return bool(self.retry._retry_rejections) and not isinstance(error, DeadlineExceededError)
        return bool(self.retry._test(self, error, None))

    def _next(self, outcome: Any, error: Exception | None) -> float | None:
        """What every answer depends on, in order: attempts, stop, wait, Retry-After, deadline, budget."""
        retry = self.retry
        if self.number >= retry.attempts:
            return self._stop("attempts", error)
        if retry._stop is not None and retry._stop(self.state(error, outcome)):
            return self._stop("stop", error, "`stop` said so")
        wait = least = self._backoff(error, outcome)
        asked = self._asked(outcome)
        if asked is not None:
            if asked > retry._retry_after_limit:
                limit = retry._retry_after_limit
                return self._stop(
                    "retry_after", error, f"asked to wait {asked:g} s, above retry_after_limit ({limit:g} s)"
                )
            least = max(wait, asked)
            wait = max(wait, asked + retry._rng.uniform(0.0, min(0.1 * asked, 1.0)))
        looking_ahead = retry._looks_ahead
        if looking_ahead is not None:
            state = self.state(error, outcome)
            state.upcoming_sleep = wait
            if looking_ahead(state):
                return self._stop("stop", error, "`stop` said so")
            state.upcoming_sleep = 0.0
        left = deadline.remaining()
        if left is not None and wait >= left:
            if least >= left:
                return self._stop(
                    "deadline", error, f"a wait of {least:.3f} s is too long for the deadline in {left:.3f} s"
                )
            wait = least  # only the jitter does not fit
        if retry._budget is not None and not retry._budget.withdraw():
            return self._stop("budget", error, f"the {retry._budget!r} is used up")
        self.state(error, outcome).idle_for += wait
        return wait

    def _asked(self, outcome: Any) -> float | None:
        """How long the outcome asks to wait: what the extractor finds, or else its own `retry_after`."""
        extract = self.retry._retry_after
        found = None if extract is None else _seconds(extract(outcome))
        if found is None:
            with contextlib.suppress(Exception):  # a property that fails must not replace the outcome itself
                found = _seconds(getattr(outcome, "retry_after", None))
        return found

    def _backoff(self, error: Exception | None, result: object) -> float:
        strategy = self.retry._wait
        state = self.state(error, result)
        if type(strategy) is wait_random_exponential:
            # Full jitter as tenacity computes it, with our source of chance.
            wait: float = self.retry._rng.uniform(
                strategy.min, max(strategy.min, wait_exponential.__call__(strategy, state))
            )
        else:
            told = strategy(state)
            try:
                wait = float(told)
            except (TypeError, ValueError, OverflowError):
                wait = math.nan
            if math.isnan(wait) or wait == math.inf:
                raise ValueError(
                    f"wait must return seconds; {_arguments.shown(strategy)} returned {_arguments.shown(told)}"
                )
        return max(0.0, wait)

    def _stop(self, reason: str, error: Exception | None, why: str = "") -> float | None:
        """Give up: the answer None, with the bookkeeping that belongs to it. `why` is told if attempts were left."""
        retry = self.retry
        if why:
            self._noted(f"{NOTE}{self.number + 1} of {retry.attempts} was not made: {why}")
        with retry._machine.lock:
            retry._machine.given_up += 1
        if SUBSCRIBERS or retry._listeners:
            retry._tell(RetryStopped, attempts=self.number, reason=reason, error=error)
        return None

    def _scheduled(self, wait: float, error: Exception | None) -> None:
        retry = self.retry
        with retry._machine.lock:
            retry._machine.retries += 1
        if SUBSCRIBERS or retry._listeners:
            retry._tell(RetryScheduled, attempt=self.number, wait=wait, error=error)
        if retry._informed:
            now = retry._clock.now()
            self.report = (
                RetryScheduled(
                    policy=retry.name, time=now, key=retry._belongs_to, attempt=self.number, wait=wait, error=error
                ),
            )
        self.number += 1

    def _note_of(self, error: Exception) -> str:
        return f"{NOTE}{self.number} of {self.retry.attempts} raised {_arguments.shown(error)}"

    def _noted(self, note: str) -> None:
        self._notes.append(note)
        if len(self._notes) > MOST_NOTES:
            del self._notes[MOST_NOTES // 2]  # the first and the last ones tell the most

    def _forget(self) -> None:
        if self._state is not None:
            self._state.outcome = None


class Attempt:
    """One attempt of a `for` loop over a Retry; do the work inside `with attempt:`."""

    __slots__ = ("_entered", "_numbered", "_result", "_run", "_wait", "number")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._entered = False
        self._wait: float | None = None
        self._result: tuple[Any] | None = None
        self.number: int = run.number

    def set_result(self, result: object) -> None:
        """Show the block's result to `retry_if`."""
        self._result = (result,)

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("an attempt is entered once; take the next one from the loop")
        self._entered = True
        retry = self._run.retry
        if self.number == 1 and retry._budget is not None:
            retry._budget.deposit()
        self._numbered = numbered(self.number)
        self._numbered.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._numbered.__exit__()
        if isinstance(error, Exception):
            self._wait = self._run.failed(error)
        elif error is None and self._result is not None and self._run.retry._judges_results:
            self._wait = self._run.returned(self._result[0])
        self._result = None
        return error is not None and self._wait is not None

    def _next(self) -> float | None:
        if not self._entered:
            raise RuntimeError("the work of each attempt belongs into a `with attempt:` block")
        return self._wait

    def __repr__(self) -> str:
        return f"<Attempt {self.number} of {self._run.retry.attempts}>"


class Attempts:
    """The attempts of a `for` or `async for` loop. Not a generator: one left early would need a finaliser's task."""

    __slots__ = ("_attempt", "_run")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._attempt: Attempt | None = None

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Attempt:
        if self._attempt is not None:
            wait = self._attempt._next()
            if wait is None:
                raise StopIteration
            self._run.retry._prepare(self._run, wait)
        self._attempt = Attempt(self._run)
        return self._attempt

    async def __anext__(self) -> Attempt:
        if self._attempt is not None:
            wait = self._attempt._next()
            if wait is None:
                raise StopAsyncIteration
            await self._run.retry._aprepare(self._run, wait)
        self._attempt = Attempt(self._run)
        return self._attempt


def _nothing() -> None:
    """What a `for attempt in retry` loop calls: its work is in the loop's body."""


def checked_test(on: Any) -> tuple[Callable[[Run, Exception | None, object], bool], bool]:
    """The test for `Retry(on=…)`, and whether it has to see results as well."""
    if isinstance(on, retry_base):
        refuse_async("on", on)
        return (lambda run, error, result: on(run.state(error, result))), type(on) not in _BLIND_TO_RESULTS
    if isinstance(on, (type, tuple)):
        kinds = _arguments.exceptions("on", on)
        return (lambda _run, error, _result: isinstance(error, kinds)), False
    if not callable(on):
        raise TypeError(f"on must be exception types, a predicate or a tenacity retry_base, not {_arguments.shown(on)}")
    _arguments.plain("on", on, takes=1)
    return (lambda _run, error, _result: bool(on(error))), False


def refuse_futile(on: Any, *, rejections: bool, results: bool) -> None:
    """Raise ValueError for exception types that are never retried, whatever `on` says."""
    kinds = on if isinstance(on, tuple) else (on,)
    if not (kinds or rejections or results):
        raise ValueError("on must name an exception to retry, or give retry_if: with () nothing is ever retried")
    named = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, CallRejectedError)]
    if any(issubclass(kind, DeadlineExceededError) for kind in named):
        raise ValueError("on must not name DeadlineExceededError: with no time left nothing is retried")
    if named and not rejections:
        raise ValueError(f"on names {named[0].__name__}, a rejection, which only retry_rejections=True retries")


def checked_strategy(name: str, value: Any) -> Any:
    """`value` as the strategy for `Retry(wait=…)` or `Retry(stop=…)`."""
    _arguments.strategy(name, value)
    refuse_async(name, value)
    return value


def refuse_async(name: str, value: Any) -> None:
    """Raise TypeError for an asynchronous strategy, also inside one that tenacity's `|` and `&` have made."""
    _arguments.plain(name, value)
    if isinstance(value, (tenacity.retry_any, tenacity.retry_all)):
        for part in value.retries:
            refuse_async(name, part)


def looks_ahead(stop: Any) -> bool:
    """Whether a stop strategy needs the coming wait: it is asked once more when that is known."""
    return isinstance(stop, tenacity.stop_before_delay) or any(map(looks_ahead, getattr(stop, "stops", ())))


def looks_at_times(wait: Any) -> bool:
    """Whether a wait strategy may look at how long the call has run: then its beginning has to be known."""
    if isinstance(wait, tenacity.wait_combine):
        return any(map(looks_at_times, wait.wait_funcs))
    if isinstance(wait, tenacity.wait_chain):
        return any(map(looks_at_times, wait.strategies))
    return type(wait) not in BLIND_TO_ARGUMENTS


def _seconds(value: Any) -> float | None:
    """A usable Retry-After: a positive finite number or timedelta. Anything else is ignored, it comes from outside."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0.0 < value <= sys.float_info.max else None
