"""One request on its way through the middleware: what it holds, what is armed for it, and how it ends.

::

    deadline armed ─► admitted by each policy ─► application ─► response starts ─► final body message ─► background
                                                                 │ disarmed          │ permits given back
                                                                 └ body deadline     └ nobody watches any more

Everything happens in the task that the server made for the request. `send` may be called from other tasks of the
application; what it changes is on this object alone. After the response has started an error aborts the connection,
which is what servers do when the application raises.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError, get_running_loop
from collections.abc import Awaitable
from contextlib import suppress
from contextvars import Token
from typing import TYPE_CHECKING, Any, NoReturn

from resilience import Policy
from resilience._layer import require_asyncio, restore
from resilience._machine import ABANDONED, FAILURE, SUCCESS
from resilience._timers import Slot, Timers, current_task, grain_of
from resilience.deadline import Deadline, ambient, cancelled_by_deadline
from resilience.exceptions import CallTimeoutError

from .deadlines import DEADLINES, shortened
from .inbox import Inbox
from .permits import Held, ResponseOutcome, admitted, given_back, succeeded
from .protocol import Message, RawHeaders, Receive, Scope, Send, ends_response
from .quotas import quota_fields, raw_quota_fields
from .rendering import REFUSED, ProblemResponse, fields_of, response_to

if TYPE_CHECKING:
    from .plan import Plan

_FAR = 1e12  # seconds: an instant that never comes
_ACCEPTED, _CLOSED = 101, 403  # what the messages of a WebSocket mean in HTTP


class Exchange:
    """One request, taken through `begin()`, and then either `end()` or `fail()`.

    It is its own entry in the shared timers: they call `fire()` once the request has lasted a while.
    """

    # Defaults on the class: one of these is made for every request, and few ever differ. What every request reads is
    # set in `begin()` all the same, because that is quicker to read.
    watched_in: Slot | None = None  # where the exchange waits for `fire()`
    _task: asyncio.Task[Any] | None = None  # None before and after all
    _deadline: Deadline | None = None
    _slot: Slot | None = None  # where the deadline waits
    _token: Token[Deadline | None] | None = None
    _held: list[Held] | tuple[()] = ()
    _inbox: Inbox | None = None  # made when somebody wants it: many applications never call `receive`
    _headers: RawHeaders = ()  # of the response, where somebody looks at them
    _closed = False  # whether a WebSocket was closed by the application
    _undeliverable = False  # whether the server's `send` raised, or waits
    _gone = False  # whether the task was cancelled because the client has gone

    _plan: Plan
    _scope: Scope
    _receive: Receive
    _send: Send
    _before: int  # cancellations of the task that others had asked for
    _status: int  # 0: no response yet
    _trailers: bool
    _complete: bool  # whether the response was sent to its end
    when: float  # on the clock of the timers

    # -- what is armed -------------------------------------------------------------------------------------------------

    def begin(self, plan: Plan, scope: Scope, receive: Receive, send: Send) -> Awaitable[None] | None:
        """Arm what limits and watches the request, and pass policy after policy. DeadlineExceededError if no time is
        left. What is returned has to be awaited: some policy lets the request wait.
        """
        try:
            loop = get_running_loop()
            task = current_task(loop)
        except RuntimeError:
            _no_task()
        if task is None:
            _no_task()
        self._plan = plan
        self._scope = scope
        self._receive = receive
        self._send = send
        self._task = task
        self._before = task.cancelling()
        self._status = 0
        self._trailers = self._complete = False
        self._inbox = None
        timers = plan.timers(loop)
        now = plan.clock.now()
        limit = plan.seconds
        if plan.incoming_deadline:
            for name, _ in scope.get("headers", ()):
                if name in DEADLINES:
                    limit = shortened(limit, scope["headers"])
                    break
        if limit is not None and limit > 0.0 and ambient.get() is None:
            deadline = Deadline(now + limit, plan.clock, plan.name, limit, None, task)
            self._slot = timers.add(deadline, plan.grain if limit == plan.seconds else grain_of(limit))
            self._token = ambient.set(deadline)
            self._deadline = deadline
        elif limit is not None or plan.body_seconds is not None:
            self._arm(limit, timers, task)
        if plan.watch_after is not None and scope["type"] == "http":
            self.when = now + plan.watch_after
            self.watched_in = timers.add(self, plan.watch_grain)
        if not plan.doors:
            return None
        held: list[Held] = []
        self._held = held
        return admitted(iter(plan.doors), scope, held)

    def _arm(self, limit: float | None, timers: Timers, task: asyncio.Task[Any]) -> None:
        """Put a limit (seconds) in force. Raises DeadlineExceededError if nothing is left of it."""
        plan = self._plan
        deadline = plan.timeout._deadline(limit, task)
        if deadline is not None:
            grain = plan.grain if deadline.timeout == plan.seconds else grain_of(deadline.timeout or 0.0)
            self._slot = timers.add(deadline, grain)
        elif plan.body_seconds is not None:
            deadline = Deadline(_FAR, plan.clock, plan.name, None, ambient.get())
            deadline.lift()
        else:  # one that is in force around us is nearer
            return
        self._deadline = deadline
        self._token = ambient.set(deadline)

    def _disarm(self, deadline: Deadline) -> None:
        """The response starts: the deadline limits nothing any more; the one for the body begins, if there is one."""
        if deadline.fired:
            return  # it is on its way through the application already
        if self._slot is not None:
            self._slot.pop(deadline, None)
        plan, task = self._plan, self._task
        if plan.body_seconds is None or task is None or self._scope["type"] != "http":
            deadline.lift()
            return
        deadline.lifted = False
        deadline.task, deadline.timeout = task, plan.body_seconds
        deadline.policy, deadline.when = plan.name, plan.clock.now() + plan.body_seconds
        self._slot = plan.timers(task.get_loop()).add(deadline, grain_of(plan.body_seconds))

    def fire(self) -> None:
        """The request has lasted a while: watch its client from now on."""
        self.watched_in = None
        self._opened().fire(self._client_gone)

    def _client_gone(self) -> None:
        """Nobody waits for the answer: cancel the work."""
        assert self._task is not None  # nobody watches once the application has ended
        self._gone = True
        self._task.cancel()

    def _look_away(self) -> None:
        """The response is as good as complete: a client that goes now has what it wanted."""
        if self.watched_in is not None:
            self.watched_in.pop(self, None)
        elif self._inbox is not None:
            self._inbox.stop()

    def _quiet(self) -> None:
        """Nothing may cancel the task any more: the response is complete, or the application has ended."""
        self._look_away()
        if self._deadline is not None and not self._deadline.lifted:
            self._lift(self._deadline)

    def _lift(self, deadline: Deadline) -> None:
        assert self._slot is not None
        self._slot.pop(deadline, None)
        if not deadline.fired:
            deadline.lift()

    # -- admission and settlement --------------------------------------------------------------------------------------

    def _give_back(self, error: BaseException | None) -> None:
        held, self._held = self._held, ()
        if held:
            given_back(held, self._settle, error)

    def _settle(self, policy: Policy, permit: Any, error: BaseException | None) -> None:
        answered = self._complete or (error is None and self._status != 0 and self._scope["type"] == "websocket")
        if not answered and (self._undeliverable or self._lost(error)):
            policy.settle(permit, ABANDONED)  # that the client has gone says nothing about anybody else
        elif answered and REFUSED in self._scope and self._refused_inside():
            policy.settle(permit, ABANDONED)
        elif error is not None:
            policy._fail(permit, error)
        elif policy._judges_results:
            policy._finish(permit, ResponseOutcome(self._status if answered else 500, self._headers))
        else:
            policy.settle(permit, SUCCESS if answered and self._status < 500 else FAILURE)

    def _refused_inside(self) -> bool:
        """Whether the answer is a rejection that was rendered further inside. WebSockets may have no status for it."""
        return self._closed or (self._status >= 400 and self._scope[REFUSED] == self._status)

    def _lost(self, error: BaseException | None) -> bool:
        """Whether there is no answer because of the client: it has gone, which errors are due to once the application
        knew, or has kept it waiting for the body until the time was up.
        """
        inbox = self._inbox
        if error is None:
            return self._gone or (inbox is not None and inbox.gone)
        return inbox is not None and (inbox.told if isinstance(error, Exception) else inbox.starved)

    # -- the messages --------------------------------------------------------------------------------------------------

    def receive(self) -> Awaitable[Message]:
        """The application's `receive`."""
        return (self._inbox or self._opened()).receive()

    def _opened(self) -> Inbox:
        if self._inbox is None:
            reserved = any(name == b"expect" for name, _ in self._scope.get("headers", ()))
            self._inbox = Inbox(self._receive, reserved, self._deadline)
        return self._inbox

    def send(self, message: Message) -> Awaitable[None]:
        """The application's `send`. Not a coroutine function: often nothing is left to do after the server's."""
        kind = message["type"]
        if kind == "http.response.start":
            return self._send_start(message)
        if kind == "http.response.body" and not self._trailers:
            if not message.get("more_body"):
                return self._send_last(message)
        elif kind.startswith("websocket."):
            return self._send_websocket(kind, message)
        elif ends_response(kind, message, self._trailers):
            return self._send_last(message)
        return self._send_noting(message) if self._plan.judged else self._send(message)

    async def _send_start(self, message: Message) -> None:
        """Send the start. Only when it is sent, which it may never be, does it change what holds for the request."""
        if not self._status:
            plan = self._plan
            self._status = message["status"]
            if message.get("trailers"):
                self._trailers = True
            if self._deadline is not None:
                self._disarm(self._deadline)
            if plan.shows_quotas or not plan.uniform:
                message = self._inspected(message)
        try:
            await self._send(message)
        except (OSError, CancelledError) as error:
            self._note_undeliverable(error)
            raise

    async def _send_websocket(self, kind: str, message: Message) -> None:
        await (self._send_last(message) if self._websocket(kind, message) else self._send_noting(message))

    async def _send_noting(self, message: Message) -> None:
        try:
            await self._send(message)
        except (OSError, CancelledError) as error:
            self._note_undeliverable(error)
            raise

    def _note_undeliverable(self, error: BaseException) -> None:
        """How servers say that the client has gone; and if the time is up here, it does not read."""
        if isinstance(error, OSError) or cancelled_by_deadline(self._deadline):
            self._undeliverable = True

    async def _send_last(self, message: Message) -> None:
        self._look_away()
        try:
            await self._send(message)
        except (OSError, CancelledError) as error:
            self._note_undeliverable(error)
            raise
        self._complete = True
        deadline = self._deadline
        if deadline is not None and not deadline.lifted:
            self._lift(deadline)
        held = self._held
        if held:
            if self._status < 400 and self._plan.uniform:
                succeeded(held)
            else:
                self._give_back(None)

    def _inspected(self, message: Message) -> Message:
        """Keep what judges look at, and tell what is left of the limits."""
        plan = self._plan
        self._headers = message.get("headers", ())
        if plan.shows_quotas and (fields := raw_quota_fields(plan.limiters, self._scope)):
            return {**message, "headers": [*self._headers, *fields]}
        return message

    def _websocket(self, kind: str, message: Message) -> bool:
        """Take note of a message of a WebSocket; whether it ends the refusal of one."""
        if kind in ("websocket.accept", "websocket.close", "websocket.http.response.start"):
            if not self._status and self._deadline is not None:
                self._disarm(self._deadline)
            if kind == "websocket.close":
                self._closed = True
                self._status = self._status or _CLOSED
            else:
                self._status = message.get("status", _ACCEPTED)
        return kind == "websocket.http.response.body" and not message.get("more_body")

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The application has returned."""
        deadline, task = self._deadline, self._task
        assert task is not None
        if self._complete and (deadline is None or deadline.lifted) and task.cancelling() == self._before:
            self._task = None
            if self._token is not None:
                restore(ambient, self._token)
            return
        try:
            self._quiet()
            self._give_back(None)
        finally:
            self._unwound(None)

    def fail(self, error: BaseException) -> ProblemResponse | None:
        """The application, or the admission, has raised: how to answer; None to raise it on.

        Raises CallTimeoutError in place of a cancellation by our own deadline once nothing can be answered any more.
        """
        if self._task is None:  # there is none, so nothing has begun
            return None
        self._quiet()
        deadline, ours = self._deadline, False
        try:
            self._give_back(error)
        finally:
            ours = self._unwound(error)
        if ours and self._gone:
            return _NOTHING
        if ours:
            assert deadline is not None
            try:
                self._plan.timeout._cut_off(deadline, error)
            except CallTimeoutError as timed_out:
                if self._status:
                    raise
                return self._response_to(timed_out)
        return None if self._closed or self._status not in (0, _ACCEPTED) else self._response_to(error)

    def _unwound(self, error: BaseException | None) -> bool:
        """Take back the cancellations that we caused; whether `error` is due to them and to nobody else."""
        deadline, task = self._deadline, self._task
        assert task is not None
        self._task = None  # it will hold what was raised, whose traceback holds this object
        caused = 1 if self._gone else 0
        if deadline is not None:
            deadline.task = None
            caused += deadline.fired
            assert self._token is not None
            restore(ambient, self._token)
        if not caused:
            return False
        left = task.cancelling()
        for _ in range(caused):
            left = task.uncancel()
        return left <= self._before and type(error) is CancelledError

    def _response_to(self, error: BaseException) -> ProblemResponse | None:
        response = response_to(error, self._scope, self._plan.render)
        if response is not None and self._plan.shows_quotas:
            response = response.with_headers(quota_fields(self._plan.limiters, self._scope) or fields_of(error))
        return response

    async def refuse(self, response: ProblemResponse) -> None:
        """Answer with `response` in place of the application."""
        if response is _NOTHING:
            if not self._status:  # the server drops it, but a middleware outside may insist on an answer
                self._scope[REFUSED] = response.status
                with suppress(Exception):
                    await response.deliver(self._scope, self._send)
            return
        if not self._status:
            await response.deliver(self._scope, self._send)
            return
        with suppress(Exception):  # of a WebSocket that was accepted: the client may be faster
            await response.close(self._send)


_NOTHING = ProblemResponse(499)  # what a client gets that has gone


def _no_task() -> NoReturn:
    require_asyncio()
    raise RuntimeError("the middleware must be called inside a task")
