"""Retry: repeat a call that failed in a way that may pass, after a growing and random pause.

::

    attempt ──► failed, and retryable? ──► attempts, stop ──► wait, Retry-After ──► deadline ──► budget ──► sleep
                       └────────── any "no" on the way: the original exception, now ────────────┘

What to wait and when to stop are tenacity strategies, so its whole vocabulary works; the default is full jitter on
exponential backoff ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015). The loop is ours: the first attempt
costs next to nothing, nothing is shared between calls, and cancellation is never retried.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import random
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import tenacity
from tenacity.retry import retry_base

from . import _arguments
from ._attempts import (
    BLIND_TO_ARGUMENTS,
    Attempt,
    Attempts,
    Run,
    checked_strategy,
    checked_test,
    looks_ahead,
    looks_at_times,
    refuse_futile,
)
from ._layer import (
    PLAIN,
    AnyFunction,
    Stream,
    continued,
    drive,
    finished,
    name_of,
    refuse_bare,
    require_asyncio,
    stepped,
)
from ._machine import Machine
from ._policy import Policy
from ._wait import metered
from .budget import RetryBudget, checked_budget
from .clock import Clock
from .correlation import FURTHER, attempt_number, numbered
from .events import Listener

On = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] | retry_base
Strategy = Callable[[tenacity.RetryCallState], Any]


@dataclass(frozen=True, slots=True)
class RetryStatistics:
    """Since ever: further attempts scheduled, and calls given up although their outcome was retryable."""

    retries: int
    given_up: int


class _Tally(Machine):
    __slots__ = ("given_up", "retries")

    def __init__(self) -> None:
        super().__init__()
        self.retries = 0
        self.given_up = 0


class Retry(Policy):
    """Repeat failed calls, `attempts` times in all.

    `on` says which exceptions are retried: types, a predicate, or a tenacity `retry_base`; it has no default, because
    retrying what cannot get better is the classic mistake. `retry_if(result)` makes a result unwanted. `wait` (seconds)
    and `stop` are tenacity strategies. An outcome's own `retry_after`, or what `retry_after(outcome)` finds, is waited
    for in full; if it is longer than `retry_after_limit` seconds or than the deadline, the call ends now. `budget`
    limits retries over many calls. Rejections by inner layers are repeated only with `retry_rejections=True`.
    `before_retry` (sync or async, with no argument or one `RetryScheduled`) runs before each further attempt.

    The last exception is raised as it is, with a note for each attempt; an unwanted result is returned after the last
    attempt. Cancellation and other bare `BaseException`s are never retried. An ExceptionGroup is retried only if all
    its leaves would be; a generator only before its first item, and `retry_if` is not asked about it.
    """

    _machine: _Tally
    _variable = frozenset(
        {
            *("on", "attempts", "wait", "stop", "retry_if", "retry_after", "retry_after_limit", "budget"),
            *("retry_rejections", "before_retry", "name", "rng", "listeners"),
        }
    )

    def __init__(
        self,
        on: On,
        *,
        attempts: int = 3,
        wait: Strategy = tenacity.wait_random_exponential(multiplier=0.1, max=5.0),
        stop: Strategy | None = None,
        retry_if: Callable[[Any], bool] | None = None,
        retry_after: Callable[[Any], float | None] | None = None,
        retry_after_limit: float | timedelta = 30.0,
        budget: RetryBudget | None = None,
        retry_rejections: bool = False,
        before_retry: Callable[..., Any] | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        refuse_bare(Retry, on, functions=True)
        super().__init__(name, clock, listeners)
        self._machine = _Tally()
        self._configure(
            on=on,
            attempts=attempts,
            wait=wait,
            stop=stop,
            retry_if=retry_if,
            retry_after=retry_after,
            retry_after_limit=retry_after_limit,
            budget=budget,
            retry_rejections=retry_rejections,
            before_retry=before_retry,
            rng=rng,
        )

    def guard(self, /, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise TypeError: a block cannot be run again by a context manager."""
        raise TypeError(
            "Retry has no guard(), because a block cannot be repeated: write `for attempt in retry:` (or `async for`)"
            " with the work in `with attempt:`"
        )

    def statistics(self) -> RetryStatistics:
        """A consistent snapshot."""
        machine = self._machine
        with machine.lock:
            return RetryStatistics(machine.retries, machine.given_up)

    def __iter__(self) -> Iterator[Attempt]:
        """`for attempt in retry:` with the work in a `with attempt:` block, for code that is not a function."""
        return Attempts(Run(self, None, (), {}))

    def __aiter__(self) -> AsyncIterator[Attempt]:
        """`async for attempt in retry:`, the same for tasks."""
        require_asyncio()
        return Attempts(Run(self, None, (), {}))

    def __repr__(self) -> str:
        return f"<Retry {self.name or 'unnamed'}: {self.attempts} attempts>"

    # -- private -------------------------------------------------------------------------------------------------------

    def _configure(self, **changes: Any) -> None:
        for setting, value in changes.items():
            match setting:
                case "on":
                    self._on = value
                    self._test, self._inspects_results = checked_test(value)
                case "attempts":
                    self.attempts = _arguments.count("attempts", value)
                case "wait" | "stop":
                    optional = value is None and setting == "stop"
                    setattr(self, f"_{setting}", None if optional else checked_strategy(setting, value))
                case "retry_if" | "retry_after":
                    setattr(self, f"_{setting}", _arguments.function(setting, value, takes=1))
                case "before_retry":
                    self._before_retry, self._informed = _preparation(value)
                case "retry_after_limit":
                    self._retry_after_limit = _arguments.seconds(setting, value, zero=True)
                case "budget":
                    self._budget = checked_budget(value)
                case "retry_rejections":
                    self._retry_rejections = _arguments.flag(setting, value)
                case "rng":
                    if value is not None and not isinstance(value, random.Random):
                        raise TypeError(f"rng must be a random.Random or None, not {_arguments.shown(value)}")
                    # The default has no state, which the children of a fork would share.
                    self._rng = value or random.SystemRandom()
                case _:  # name and listeners: below
                    pass
        refuse_futile(self._on, rejections=self._retry_rejections, results=self._retry_if is not None)
        self._looks_ahead = self._stop if looks_ahead(self._stop) else None
        self._judges_results = self._retry_if is not None or self._inspects_results
        # A first attempt that succeeds costs nothing but the call, unless something has to know about it.
        known = self._budget is not None or self._stop is not None or self._judges_results
        self._watches_first = known or looks_at_times(self._wait)
        super()._configure(**changes)

    _wait: Strategy
    _stop: Strategy | None
    _retry_if: Callable[[Any], bool] | None
    _retry_after: Callable[[Any], float | None] | None
    _before_retry: Callable[..., Any] | None

    @property
    def _indifferent(self) -> bool:
        # A strategy is shown the arguments in its RetryCallState, in the way the caller has given them.
        return not isinstance(self._on, retry_base) and {type(self._wait), type(self._stop)} <= BLIND_TO_ARGUMENTS

    def _first(self, fn: AnyFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        """The start of a call that has to be known before its first attempt."""
        if self._budget is not None:
            self._budget.deposit()
        return Run(self, fn, args, kwargs)

    def _prepare(self, run: Run, wait: float) -> None:
        """What comes before a further attempt: the pause, and the user's preparations."""
        try:
            if wait > 0.0:
                self._warn_if_blocking_a_loop()
                self._clock.sleep(wait)
                metered(wait)
            if self._before_retry is not None:
                result = self._before_retry(*run.report)
                if inspect.isawaitable(result):
                    if inspect.iscoroutine(result):
                        result.close()
                    raise TypeError("before_retry is asynchronous, but the retried function is not")
        finally:
            run.report = ()  # it holds an error, whose traceback holds what holds the run

    async def _aprepare(self, run: Run, wait: float) -> None:
        try:
            if wait > 0.0:
                await self._clock.asleep(wait)
                metered(wait)
            if self._before_retry is not None:
                result = self._before_retry(*run.report)
                if inspect.isawaitable(result):
                    await result
        finally:
            run.report = ()

    def _check_before_retry(self, fn: AnyFunction) -> None:
        if inspect.iscoroutinefunction(self._before_retry):
            raise TypeError(f"before_retry is asynchronous, but {name_of(fn)} is not: they must match")

    def _wrap_sync(self, fn: AnyFunction) -> AnyFunction:
        self._check_before_retry(fn)

        def plain(*args: Any, **kwargs: Any) -> Any:
            if FURTHER and attempt_number() != 1:  # of another Retry around: this one counts for itself
                return self._repeat(Run(self, fn, args, kwargs), None)
            try:
                result = fn(*args, **kwargs)
            except Exception as error:
                run = Run(self, fn, args, kwargs)
                wait = run.failed(error)
                if wait is None:
                    raise
            else:
                if type(result) in PLAIN or finished(result, fn):
                    return result
                return continued(self._rest(Run(self, fn, args, kwargs), result), result, fn)
            return self._repeat(run, wait)

        def watched(*args: Any, **kwargs: Any) -> Any:
            return self._repeat(self._first(fn, args, kwargs), None)

        return watched if self._watches_first else plain

    def _repeat(self, run: Run, wait: float | None) -> Any:
        """Attempt until the outcome is final; after `wait` seconds, or at once if None."""
        while True:
            if wait is not None:
                self._prepare(run, wait)
            try:
                with numbered(run.number):
                    result = run.attempt()
            except Exception as error:
                wait = run.failed(error)
                if wait is None:
                    raise
            else:
                if type(result) not in PLAIN and not finished(result, run.attempt):
                    return continued(self._rest(run, result), result, run.attempt)
                wait = run.returned(result) if self._judges_results else None
                if wait is None:
                    return result

    async def _rest(self, run: Run, first: Any) -> Any:
        """The asynchronous rest of a call whose plain callable returned `first`, something to await."""
        fn = run.attempt

        async def again() -> Any:
            nonlocal first
            result, first = (fn(), None) if first is None else (first, None)
            if type(result) in PLAIN or finished(result, fn):
                return result
            try:
                return await result
            finally:
                del result  # a Task holds its exception, whose traceback holds this frame

        run.attempt = again
        return await self._repeat_async(run, None)

    def _wrap_async(self, fn: AnyFunction) -> AnyFunction:
        unchecked = True

        async def plain(*args: Any, **kwargs: Any) -> Any:
            nonlocal unchecked
            if unchecked:  # now, and not when something has failed
                require_asyncio()
                unchecked = False
            if FURTHER and attempt_number() != 1:  # of another Retry around: this one counts for itself
                return await self._repeat_async(Run(self, fn, args, kwargs), None)
            try:
                return await fn(*args, **kwargs)
            except Exception as error:
                run = Run(self, fn, args, kwargs)
                wait = run.failed(error)
                if wait is None:
                    raise
            return await self._repeat_async(run, wait)

        async def watched(*args: Any, **kwargs: Any) -> Any:
            return await self._repeat_async(self._first(fn, args, kwargs), None)

        return watched if self._watches_first else plain

    async def _repeat_async(self, run: Run, wait: float | None) -> Any:
        require_asyncio()
        while True:
            if wait is not None:
                await self._aprepare(run, wait)
            try:
                with numbered(run.number):
                    result = await run.attempt()
            except Exception as error:
                wait = run.failed(error)
                if wait is None:
                    raise
            else:
                wait = run.returned(result) if self._judges_results else None
                if wait is None:
                    return result

    def _wrap_generator(self, fn: AnyFunction) -> AnyFunction:
        self._check_before_retry(fn)

        def guarded(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            inner, number, first = None, 1, None
            for attempt in self:
                with attempt:
                    inner, number = fn(*args, **kwargs), attempt.number
                    try:
                        first = next(inner)
                    except StopIteration as stop:
                        return stop.value
            assert inner is not None
            return (yield from stepped(inner, functools.partial(numbered, number), lambda: first))

        return guarded

    def _wrap_async_generator(self, fn: AnyFunction) -> AnyFunction:
        @asynccontextmanager
        async def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Stream]:
            inner, number, first = None, 1, []
            async for attempt in self:
                with attempt:
                    inner, number = fn(*args, **kwargs), attempt.number
                    with contextlib.suppress(StopAsyncIteration):
                        first = [await anext(inner)]
            assert inner is not None

            async def begun() -> Any:
                if first:
                    return first.pop()
                raise StopAsyncIteration

            yield Stream(inner, functools.partial(numbered, number), begun)

        return drive(begin)


def _preparation(fn: Any) -> tuple[Callable[..., Any] | None, bool]:
    """What to do before a further attempt, sync or async, and whether it takes the RetryScheduled."""
    if fn is None:
        return None, False
    if not _arguments.is_async(fn):
        _arguments.function("before_retry", fn)
    informed = _arguments.accepts(fn, 1) is True
    if not informed and _arguments.accepts(fn, 0) is False:
        raise TypeError(f"before_retry must take no argument or one RetryScheduled, unlike {_arguments.shown(fn)}")
    return fn, informed
