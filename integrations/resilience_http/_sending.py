"""How a request goes through the layers, in both colours: the attempts, and what surrounds each of them.

The two colours are written side by side. They differ in what waits (`block` and `suspend`, `close` and `aclose`) and in
the attempt's timeout, which cuts a task off and only tells a thread.
"""

from __future__ import annotations

import functools
from asyncio import CancelledError, Task
from typing import Any, ClassVar

from resilience import RateLimiter, Retry, Timeout, deadline
from resilience._layer import restore
from resilience._timers import grain_of, running_task
from resilience._wait import Wait
from resilience.correlation import FURTHER, numbered
from resilience.deadline import Deadline, ambient
from resilience.exceptions import DeadlineExceededError

from ._dialect import Dialect
from ._draining import adispose, dispose
from ._origins import Origins
from ._propagation import prepared
from ._repetition import Repetition, is_unwanted
from ._response import Held
from ._settings import KEY, Settings


class Sending:
    """The part of a resilient transport that sends. `dialect` and `held` say for which library."""

    dialect: ClassVar[Dialect]
    held: ClassVar[type[Held]]

    _inner: Any
    _origins: Origins
    _settings: Settings
    _limiter: RateLimiter | None
    _limit: int  # bytes of a multipart form that is sent again
    _total: Timeout
    _each: Timeout
    _draining: Timeout

    def _send(self, request: Any) -> Any:
        handle = self._of_inner("handle_request")
        settings = self._settings_of(request)
        now = self._total._clock.now()
        retry, own = settings.retry, self._deadline(settings, request, now)
        deadline_token = None if own is None else ambient.set(own)
        number = 1
        try:
            run = None if retry is None else self._begun(retry, settings, request)
            while True:
                counted = _counted(number) if number > 1 or FURTHER else None
                try:
                    response = self._attempt(handle, request, settings, number, own, now)
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
                    dispose(response, self._draining)
                finally:
                    if counted is not None:
                        counted.__exit__()
                retry._prepare(run, wait)
                number, now = run.number, self._total._clock.now()
        finally:
            if deadline_token is not None:
                restore(ambient, deadline_token)

    async def _asend(self, request: Any) -> Any:
        handle = self._of_inner("handle_async_request")
        settings = self._settings_of(request)
        now = self._total._clock.now()
        retry, own = settings.retry, self._deadline(settings, request, now)
        deadline_token = None if own is None else ambient.set(own)
        number = 1
        try:
            run = None if retry is None else self._begun(retry, settings, request)
            while True:
                counted = _counted(number) if number > 1 or FURTHER else None
                try:
                    response = await self._aattempt(handle, request, settings, number, own, now)
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
                    await adispose(response, self._draining)
                finally:
                    if counted is not None:
                        counted.__exit__()
                await retry._aprepare(run, wait)
                number, now = run.number, self._total._clock.now()
        finally:
            if deadline_token is not None:
                restore(ambient, deadline_token)

    def _attempt(
        self, handle: Any, request: Any, settings: Settings, number: int, own: Deadline | None, now: float
    ) -> Any:
        held, clock = self.held(self, request, own, now), self._each._clock
        try:
            origin = held.origin
            if origin.breaker is not None:
                held.permit, held.breaker = origin.breaker.admit(), origin.breaker
            limiter = self._limiter
            if limiter is not None:
                charge = limiter.admit((request,))
                if type(charge) is Wait:
                    charge, now = charge.block(), clock.now()
                held.charge, held.limiter = charge, limiter
            bulkhead = origin.bulkhead
            if bulkhead is not None:
                slot = bulkhead.admit()
                if type(slot) is Wait:
                    slot, now = slot.block(), clock.now()
                held.slot, held.bulkhead = slot, bulkhead
            nearest, left = self._nearest(settings, own, now, None)
            held.limit = nearest
            held.sent = prepared(request, number, left, settings.propagate)
            token = None if nearest is None else ambient.set(nearest)
            try:
                response = handle(held.sent)
            finally:
                if token is not None:
                    restore(ambient, token)
            try:
                held.answered(response, settings.streams)
            except BaseException:
                response.close()
                raise
            return response
        except BaseException as error:
            self._failed(held, error)
            raise

    async def _aattempt(
        self, handle: Any, request: Any, settings: Settings, number: int, own: Deadline | None, now: float
    ) -> Any:
        held, clock = self.held(self, request, own, now), self._each._clock
        try:
            origin = held.origin
            if origin.breaker is not None:
                held.permit, held.breaker = origin.breaker.admit(), origin.breaker
            limiter = self._limiter
            if limiter is not None:
                charge = limiter.admit((request,))
                if type(charge) is Wait:
                    charge, now = await charge.suspend(), clock.now()
                held.charge, held.limiter = charge, limiter
            bulkhead = origin.bulkhead
            if bulkhead is not None:
                slot = bulkhead.admit()
                if type(slot) is Wait:
                    slot, now = await slot.suspend(), clock.now()
                held.slot, held.bulkhead = slot, bulkhead
            response = await self._within(handle, held, settings, number, now)
            try:
                held.answered(response, settings.streams)
            except BaseException:
                await response.aclose()
                raise
            return response
        except BaseException as error:
            self._failed(held, error)
            raise

    async def _within(self, handle: Any, held: Held, settings: Settings, number: int, now: float) -> Any:
        """The inner transport under the attempt's timeout: what `async with` a Timeout does, without its object."""
        each = self._each
        loop, task = running_task()
        nearest, left = self._nearest(settings, held.own, now, task)
        held.limit = nearest
        held.sent = prepared(held.request, number, left, settings.propagate)
        if nearest is None:  # no limit, or whoever owns the inherited one will cancel this task
            return await handle(held.sent)
        waiting = each._arm(nearest, loop, _grain_of(nearest.timeout or 0.0))
        before = task.cancelling()
        token = ambient.set(nearest)
        try:
            return await handle(held.sent)
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

    def _nearest(
        self, settings: Settings, own: Deadline | None, now: float, task: Task[Any] | None
    ) -> tuple[Deadline | None, float | None]:
        """The deadline to put in force for an attempt (None: that in force will do), and the seconds it has."""
        each, limit = self._each, settings.attempt_timeout
        clock = each._clock
        if limit is not None and ambient.get() is own and (own is None or now + limit < own.when):
            # The common case, spelled out: an attempt that has its full time.
            return Deadline(now + limit, clock, each.name, limit, own, task), limit
        nearest = each._deadline(limit, task)
        return nearest, deadline.remaining() if nearest is None else nearest.remaining()

    def _failed(self, held: Held, error: BaseException) -> None:
        """Give back what an attempt holds, and raise the error that users of this library expect, if it is another."""
        try:
            held.broken(error, held.limit or ambient.get())
        finally:
            held.release()

    def _of_inner(self, name: str) -> Any:
        """A method of the inner transport, which may be of one colour and serve only one kind of client."""
        try:
            return getattr(self._inner, name)
        except AttributeError as error:
            library = self.dialect.client.__name__
            kind = "Client" if hasattr(self._inner, "handle_request") else "AsyncClient"
            raise TypeError(f"inner has no {name}: {self._inner!r} serves a {library}.{kind} only") from error

    def _settings_of(self, request: Any) -> Settings:
        overrides = request.extensions.get(KEY)
        return self._settings if overrides is None else self._settings.overridden(overrides)

    def _deadline(self, settings: Settings, request: Any, now: float) -> Deadline | None:
        """The request's own deadline, or None if it has none or an inherited one is nearer."""
        total, limit = self._total, settings.timeout
        if limit is not None and ambient.get() is None:
            return Deadline(now + limit, total._clock, total.name, limit)
        try:
            return total._deadline(limit, None)
        except DeadlineExceededError as error:
            raise self.dialect.translated(error, request) from None

    def _begun(self, retry: Retry, settings: Settings, request: Any) -> Repetition | None:
        """A first attempt is about to be made. Its start is noted if the `Retry` will want to know."""
        if retry._budget is not None:
            retry._budget.deposit()
        return None if retry._stop is None else Repetition(self, retry, settings, request)


_grain_of = functools.lru_cache(grain_of)  # most timeouts are constants


def _counted(number: int) -> numbered:
    """Let `attempt_number()` be that of this request, also within a further attempt of another `Retry`."""
    counted = numbered(number)
    counted.__enter__()
    return counted


def _may_be_unwanted(retry: Retry, response: Any) -> bool:
    """Whether the `Retry` has to look at a response at all."""
    return retry._inspects_results or retry._retry_if is not is_unwanted or is_unwanted(response)
