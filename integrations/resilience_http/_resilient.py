"""The resilient transport, for both colours and both libraries.

::

    total timeout
      └► retry, with a budget ──► attempt ─┬► the origin's breaker ──► rate limiter ──► the origin's bulkhead
                     ▲                     │     └► attempt timeout ──► inner transport
                     └── closed first ◄────┴── a response or an error that may pass

The policies are those of the toolkit, asked directly: `admit` on the way in, `settle` when the response is closed.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import Token
from datetime import timedelta
from types import TracebackType
from typing import Any, ClassVar, Self

from resilience import (
    Bulkhead,
    CircuitBreaker,
    KeyedStatistics,
    RateLimiter,
    Retry,
    RetryBudget,
    Timeout,
    _arguments,
    deadline,
)
from resilience._layer import restore
from resilience._timers import grain_of
from resilience._wait import Wait
from resilience.budget import checked_budget
from resilience.correlation import attempt as attempt_variable
from resilience.deadline import Deadline, ambient
from resilience.exceptions import DeadlineExceededError
from resilience.timeout import _running_task as running_task
from resilience.timeout import _Scope

from ._both import Both
from ._dialect import Dialect
from ._origins import Origin, kept_origins, parsed_origin
from ._propagation import prepared
from ._repetition import Repetition, asked_wait, is_unwanted
from ._response import Held
from ._settings import KEY, Settings, flag


class _Standard:
    """The default of an argument whose None means something else."""

    def __repr__(self) -> str:
        return "standard"


STANDARD: Any = _Standard()


class Resilient:
    """What the transports of both libraries inherit; `dialect` and `held` say which library."""

    dialect: ClassVar[Dialect]
    held: ClassVar[type[Held]]

    def __init__(
        self,
        inner: Any = None,
        *,
        timeout: float | timedelta | None = 30.0,
        attempt_timeout: float | timedelta | None = 10.0,
        retry: Retry | None = STANDARD,
        breaker: Callable[[str], CircuitBreaker | None] | None = CircuitBreaker,
        rate_limiter: RateLimiter | None = None,
        bulkhead: Callable[[str], Bulkhead | None] | None = STANDARD,
        budget: RetryBudget | None = STANDARD,
        max_hosts: int = 1024,
        replay_limit: int = 65_536,
        propagate: bool = True,
        **options: Any,
    ) -> None:
        if inner is not None and options:
            raise TypeError(f"{', '.join(sorted(options))} must be given to the inner transport, which is not ours")
        self._inner = self._standard_inner(options) if inner is None else _checked_inner(inner)
        if rate_limiter is not None and not isinstance(rate_limiter, RateLimiter):
            raise TypeError(f"rate_limiter must be a RateLimiter or None, not {_arguments.shown(rate_limiter)}")
        self._limiter = rate_limiter
        self._limit = _arguments.count("replay_limit", replay_limit, minimum=0)
        made = _standard_bulkhead if bulkhead is STANDARD else bulkhead
        self._origins = kept_origins(breaker, made, max_hosts)
        self._settings = Settings(
            _arguments.optional_seconds("timeout", timeout),
            _arguments.optional_seconds("attempt_timeout", attempt_timeout),
            self._checked_retry(retry, budget),
            flag("propagate", propagate),
        )
        # Both without a limit of their own: that comes with each request.
        self._total = Timeout(None, name="request timeout")
        self._each = Timeout(None, name="attempt timeout")

    def breaker(self, origin: str) -> CircuitBreaker | None:
        """The breaker of an origin such as "https://api.example.com", made now if there is none yet."""
        return self._origin(origin).breaker

    def bulkhead(self, origin: str) -> Bulkhead | None:
        """The bulkhead of an origin, made now if there is none yet."""
        return self._origin(origin).bulkhead

    def statistics(self) -> KeyedStatistics:
        """How many origins are known, in use, and were made and forgotten."""
        return self._origins.statistics()

    @property
    def retry(self) -> Retry | None:
        """The `Retry` in use, for its statistics."""
        return self._settings.retry

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)

    def __repr__(self) -> str:
        settings = self._settings
        parts = (
            f"timeout={settings.timeout}",
            f"attempt_timeout={settings.attempt_timeout}",
            f"retry={settings.retry!r}",
            f"origins={self._origins!r}",
            f"inner={self._inner!r}",
        )
        return f"<{type(self).__name__}: {', '.join(parts)}>"

    # -- one request ---------------------------------------------------------------------------------------------------

    def _send(self, request: Any) -> Any:
        settings = self._settings_of(request)
        retry, own = settings.retry, self._deadline(settings, request)
        deadline_token = None if own is None else ambient.set(own)
        number, number_token = 1, _counting_from_one()
        try:
            run = None if retry is None else self._begun(retry, settings, request)
            while True:
                try:
                    response = self._attempt(request, settings, number, own)
                except Exception as error:
                    if retry is None:
                        raise
                    run = run or Repetition(self, retry, settings, request)
                    wait = run.failed(error)
                    if wait is None:
                        raise
                else:
                    if retry is None or not _may_be_unwanted(retry, response):
                        return response
                    run = run or Repetition(self, retry, settings, request)
                    try:
                        wait = run.returned(response)
                    except BaseException:
                        response.close()
                        raise
                    if wait is None:
                        return response
                    response.close()
                retry._prepare(run, wait)
                number = run.number
                token = attempt_variable.set(number)
                number_token = number_token or token
        finally:
            if number_token is not None:
                restore(attempt_variable, number_token)
            if deadline_token is not None:
                restore(ambient, deadline_token)

    async def _asend(self, request: Any) -> Any:
        settings = self._settings_of(request)
        retry, own = settings.retry, self._deadline(settings, request)
        deadline_token = None if own is None else ambient.set(own)
        number, number_token = 1, _counting_from_one()
        try:
            run = None if retry is None else self._begun(retry, settings, request)
            while True:
                try:
                    response = await self._aattempt(request, settings, number, own)
                except Exception as error:
                    if retry is None:
                        raise
                    run = run or Repetition(self, retry, settings, request)
                    wait = run.failed(error)
                    if wait is None:
                        raise
                else:
                    if retry is None or not _may_be_unwanted(retry, response):
                        return response
                    run = run or Repetition(self, retry, settings, request)
                    try:
                        wait = run.returned(response)
                    except BaseException:
                        await response.aclose()
                        raise
                    if wait is None:
                        return response
                    await response.aclose()
                await retry._aprepare(run, wait)
                number = run.number
                token = attempt_variable.set(number)
                number_token = number_token or token
        finally:
            if number_token is not None:
                restore(attempt_variable, number_token)
            if deadline_token is not None:
                restore(ambient, deadline_token)

    def _attempt(self, request: Any, settings: Settings, number: int, own: Deadline | None) -> Any:
        held = self.held(self, request, own)
        try:
            origin = held.origin
            if origin.breaker is not None:
                held.permit, held.breaker = origin.breaker.admit(), origin.breaker
            limiter = self._limiter
            if limiter is not None:
                charge = limiter.admit((request,))
                held.charge, held.limiter = charge.block() if type(charge) is Wait else charge, limiter
            bulkhead = origin.bulkhead
            if bulkhead is not None:
                slot = bulkhead.admit()
                held.slot, held.bulkhead = slot.block() if type(slot) is Wait else slot, bulkhead
            with _Scope(self._each, settings.attempt_timeout):
                response = self._inner.handle_request(
                    prepared(request, number, deadline.remaining(), settings.propagate)
                )
            try:
                held.answered(response, settings.streams)
            except BaseException:
                response.close()
                raise
            return response
        except BaseException as error:
            self._failed(held, error)
            raise

    async def _aattempt(self, request: Any, settings: Settings, number: int, own: Deadline | None) -> Any:
        held = self.held(self, request, own)
        try:
            origin = held.origin
            if origin.breaker is not None:
                held.permit, held.breaker = origin.breaker.admit(), origin.breaker
            limiter = self._limiter
            if limiter is not None:
                charge = limiter.admit((request,))
                held.charge, held.limiter = await charge.suspend() if type(charge) is Wait else charge, limiter
            bulkhead = origin.bulkhead
            if bulkhead is not None:
                slot = bulkhead.admit()
                held.slot, held.bulkhead = await slot.suspend() if type(slot) is Wait else slot, bulkhead
            response = await self._within(request, settings, number, own)
            try:
                held.answered(response, settings.streams)
            except BaseException:
                await response.aclose()
                raise
            return response
        except BaseException as error:
            self._failed(held, error)
            raise

    async def _within(self, request: Any, settings: Settings, number: int, own: Deadline | None) -> Any:
        """The inner transport under the attempt's timeout: what `async with` a Timeout does, without its object."""
        each = self._each
        loop, task = running_task()
        limit, outer, clock = settings.attempt_timeout, ambient.get(), each._clock
        if limit is not None and outer is own and (own is None or clock.now() + limit < own.when):
            # The common case, spelled out: an attempt that has its full time.
            nearest, left = Deadline(clock.now() + limit, clock, each.name, limit, own, task), limit
        elif (inherited := each._deadline(limit, task)) is not None:
            nearest, left = inherited, inherited.remaining()
        else:  # no limit, or whoever owns the inherited one will cancel this task
            return await self._inner.handle_async_request(
                prepared(request, number, deadline.remaining(), settings.propagate)
            )
        waiting = each._arm(nearest, loop, grain_of(nearest.timeout or 0.0))
        before = task.cancelling()
        token = ambient.set(nearest)
        try:
            return await self._inner.handle_async_request(prepared(request, number, left, settings.propagate))
        except CancelledError as error:
            fired, nearest.fired = nearest.fired, False
            if fired and task.uncancel() <= before:
                each._cut_off(nearest, error)
            raise
        finally:
            waiting.pop(nearest, None)
            nearest.task = None
            restore(ambient, token)
            if nearest.fired:  # in the very turn in which the response came, or an error
                task.uncancel()
            del task  # it will hold the exception, whose traceback holds this frame

    def _failed(self, held: Held, error: BaseException) -> None:
        """Give back what an attempt holds, and raise the error that users of this library expect, if it is another."""
        try:
            held.broken(error, ambient.get())
        finally:
            held.release()

    # -- private -------------------------------------------------------------------------------------------------------

    def _standard_inner(self, options: dict[str, Any]) -> Any:
        """The inner transport when none is given, with the options that are its own."""
        return Both(self.dialect.client, options)

    def _settings_of(self, request: Any) -> Settings:
        overrides = request.extensions.get(KEY)
        return self._settings if overrides is None else self._settings.overridden(overrides)

    def _deadline(self, settings: Settings, request: Any) -> Deadline | None:
        """The request's own deadline, or None if it has none or an inherited one is nearer."""
        total, limit = self._total, settings.timeout
        if limit is not None and ambient.get() is None:
            clock = total._clock
            return Deadline(clock.now() + limit, clock, total.name, limit)
        try:
            return total._deadline(limit, None)
        except DeadlineExceededError as error:
            raise self.dialect.translated(error, request) from None

    def _begun(self, retry: Retry, settings: Settings, request: Any) -> Repetition | None:
        """A first attempt is about to be made. Its start is noted if the `Retry` will want to know."""
        if retry._budget is not None:
            retry._budget.deposit()
        return None if retry._stop is None else Repetition(self, retry, settings, request)

    def _origin(self, text: str) -> Origin:
        origin = self._origins.layer(parsed_origin(text))
        assert isinstance(origin, Origin)
        return origin

    def _checked_retry(self, retry: Retry | None, budget: RetryBudget | None) -> Retry | None:
        """The `Retry` in use: a standard one, or the given one with what it leaves open filled in for HTTP."""
        if retry is None:
            if budget is not STANDARD and budget is not None:
                raise ValueError("budget is for retries, and retry is None")
            return None
        shared = RetryBudget() if budget is STANDARD else checked_budget(budget)
        if retry is STANDARD:
            return Retry(
                self.dialect.is_transient, retry_if=is_unwanted, retry_after=asked_wait, budget=shared, name="requests"
            )
        if not isinstance(retry, Retry):
            raise TypeError(f"retry must be a Retry or None, not {_arguments.shown(retry)}")
        if retry._budget is not None:
            if budget is not STANDARD:
                raise ValueError("budget is set twice: the retry has one of its own")
            shared = retry._budget
        return retry.with_(
            retry_if=retry._retry_if or is_unwanted, retry_after=retry._retry_after or asked_wait, budget=shared
        )


def _checked_inner(inner: Any) -> Any:
    if isinstance(inner, type) or not (hasattr(inner, "handle_request") or hasattr(inner, "handle_async_request")):
        raise TypeError(f"inner must be a transport or None, not {_arguments.shown(inner)}")
    return inner


def _counting_from_one() -> Token[int] | None:
    """Within a further attempt of another `Retry`, this request counts for itself."""
    return None if attempt_variable.get() == 1 else attempt_variable.set(1)


def _may_be_unwanted(retry: Retry, response: Any) -> bool:
    """Whether the `Retry` has to look at a response at all."""
    return retry._inspects_results or retry._retry_if is not is_unwanted or is_unwanted(response)


def _standard_bulkhead(origin: str) -> Bulkhead:
    return Bulkhead(100, max_queue=1000, name=origin)
