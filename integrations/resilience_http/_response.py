"""One attempt: the permits it holds, and, once its headers are here, the body of its response.

A response is not over when its headers arrive: the server still works on it and the connection is still taken. So the
attempt stands in for the response's body, and gives its permits back when that is closed::

    enter origin ──► breaker ──► rate limiter ──► bulkhead ──► headers ──► body … ──► closed: all of it back
                                                               └─ 5xx: the breaker knows enough and is told now

A response that was dropped without being closed hands its permits over when it is collected.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, cast

from resilience import Bulkhead, CircuitBreaker, RateLimiter
from resilience._directory import Entry
from resilience._layer import restore
from resilience._machine import ABANDONED, FAILURE, SUCCESS
from resilience._timers import grain_of, running_task
from resilience.deadline import Deadline, ambient, remaining
from resilience.exceptions import CallTimeoutError, ResilienceError

from ._origins import Origin, origin_of
from ._propagation import loosen
from .methods import is_server_failure
from .retry_after import retry_after

if TYPE_CHECKING:
    from ._sending import Sending


class Held:
    """The permits of one attempt. The transports' classes add the library's two stream classes as bases."""

    # Defaults on the class: one of these is made for every attempt, and most of them need only some of it.
    breaker: CircuitBreaker | None = None  # while it waits to hear how the call went; with its permit
    permit: Any
    limiter: RateLimiter | None = None  # the same, with its charge
    charge: Any
    bulkhead: Bulkhead | None = None  # while a slot of it is taken
    slot: Any
    limit: Deadline | None = None  # that of the attempt, if it has one of its own
    sent: Any  # the request as it went out
    stream: Any  # the library's stream, once there is a response
    _entry: Entry | None = None  # for the finaliser, should entering raise

    def __init__(self, transport: Sending, request: Any, own: Deadline | None, now: float) -> None:
        self._transport = transport
        self.request = request
        self.own = own
        self._entry = transport._origins.enter(origin_of(request.url), now)
        self.origin: Origin = cast("Origin", self._entry.layer)

    # -- the permits ---------------------------------------------------------------------------------------------------

    def answered(self, response: Any, streams: bool) -> None:
        """The headers are here. What is still held is held until the response is closed."""
        limiter, self.limiter = self.limiter, None
        if limiter is not None and limiter._settles:
            limiter._finish(self.charge, response)
        breaker = self.breaker
        if breaker is not None:
            if breaker._judges_results:
                failed = breaker._judge_result(response) is FAILURE
            else:
                failed = is_server_failure(response.status_code)
            if failed:
                self.breaker = None
                breaker._record(self.permit, FAILURE, None, retry_after(response.headers.get))
            elif streams:  # a probe that lasts for hours would never let the circuit close
                self.breaker = None
                breaker.settle(self.permit, SUCCESS)
        if response.is_closed:
            self.release()
        else:
            self.stream = response.stream
            response.stream = self

    def broken(self, error: BaseException, deadline: Deadline | None) -> None:
        """The attempt raised: tell who waits to hear, and raise the error that this library's users expect instead.

        A timeout of the library's that ours has shortened is ours. Both are due at one instant, and which of them is
        noticed first says nothing.
        """
        dialect, known = self._transport.dialect, error
        theirs = isinstance(error, dialect.timeout) and not isinstance(error, (*dialect.local, ResilienceError))
        if theirs and deadline is not None and deadline.remaining() <= 0.0:
            transport = self._transport
            try:
                (transport._total if deadline is not self.limit else transport._each)._cut_off(deadline, error)
            except CallTimeoutError as ours:
                known = ours
        known = dialect.translated(known, self.request)
        try:
            self._tell(known)
            if known is not error:
                raise known
        finally:
            del known  # its traceback holds this frame

    def release(self) -> None:
        """Give back what is held; harmless when repeated. Never waits, so a finaliser may call it too."""
        entry, self._entry = self._entry, None
        if entry is None:
            return
        if self.bulkhead is not None:
            self.bulkhead.settle(self.slot)
        if self.breaker is not None:
            self.breaker.settle(self.permit)
        self._transport._origins.leave(entry)

    def _tell(self, error: BaseException) -> None:
        """An attempt that raised, as the breaker and the limiter see it. What is no fault of the server is nothing."""
        breaker, self.breaker = self.breaker, None
        limiter, self.limiter = self.limiter, None
        if breaker is not None:
            dialect = self._transport.dialect
            if dialect.is_local(error) or (
                isinstance(error, Exception) and not dialect.blames_the_server(error, self.request)
            ):
                breaker.settle(self.permit, ABANDONED)
            else:
                breaker._fail(self.permit, error)
        if limiter is not None and limiter._settles:
            limiter._fail(self.charge, error)

    def __del__(self) -> None:
        if self._entry is not None:
            breaker, self.breaker = self.breaker, None
            if breaker is not None:
                breaker.settle(self.permit, ABANDONED)
            self.release()

    # -- the body ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[bytes]:
        # A plain thread cannot be interrupted, so the deadline is looked at before each chunk; the chunk itself is
        # bounded by the read timeout, and with a `PooledTransport` by the deadline as well.
        try:
            self._loosen()
            chunks = iter(self.stream)
            while True:
                self._check()
                token = ambient.set(self._nearest())  # so that the connection looks at it too
                try:
                    chunk = next(chunks)
                except StopIteration:
                    return
                finally:
                    restore(ambient, token)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.broken(error, self._nearest())
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._loosen()
        chunks = self.stream.__aiter__()
        try:
            while True:
                self._check()
                try:
                    chunk = await (chunks.__anext__() if self.own is None else self._within(self.own, chunks))
                except StopAsyncIteration:
                    return
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.broken(error, self._nearest())
            raise
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    async def _within(self, own: Deadline, chunks: AsyncIterator[bytes]) -> bytes:
        """The next chunk, unless the deadline comes first. The deadline is armed for this step alone."""
        loop, task = running_task()
        own.task = task
        waiting = self._transport._total._arm(own, loop, grain_of(own.timeout or 0.0))
        before = task.cancelling()
        try:
            return await chunks.__anext__()
        except CancelledError as error:
            fired, own.fired = own.fired, False
            if fired and task.uncancel() <= before:
                self._transport._total._cut_off(own, error)
            raise
        finally:
            waiting.pop(own, None)
            own.task = None
            if own.fired:  # in the very turn in which the chunk came, or an error
                own.fired = False
                task.uncancel()
            del task  # it will hold the exception, whose traceback holds this frame

    def close(self) -> None:
        """Close the response's own stream and give back what is held."""
        try:
            self.stream.close()
        finally:
            self.release()

    async def aclose(self) -> None:
        """The same for tasks."""
        try:
            await self.stream.aclose()
        finally:
            self.release()

    def _loosen(self) -> None:
        """The attempt has ended with the headers: where its limit has cut the read timeout, the body gets it back."""
        if self.sent.extensions is not self.request.extensions:
            left, own = remaining(), self.own
            if own is not None and (left is None or own.remaining() < left):
                left = own.remaining()
            loosen(self.sent, self.request, left)

    def _nearest(self) -> Deadline | None:
        """The request's own deadline or the one around its reader, whichever is nearer."""
        own, around = self.own, ambient.get()
        if own is None or around is None:
            return own or around
        return own if own.remaining() < around.remaining() else around

    def _check(self) -> None:
        for deadline in (self.own, ambient.get()):
            if deadline is not None and deadline.remaining() <= 0.0:
                self._transport._total._cut_off(deadline, None)
