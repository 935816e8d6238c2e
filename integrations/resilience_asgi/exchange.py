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
from asyncio import CancelledError
from contextlib import suppress
from contextvars import Token
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from resilience import Keyed, Policy, Retry, Timeout
from resilience._layer import require_asyncio
from resilience._machine import ABANDONED, FAILURE, SUCCESS
from resilience._policy import Guard
from resilience._timers import Slot, current_task, grain_of
from resilience._wait import Wait
from resilience.deadline import Deadline, ambient
from resilience.exceptions import CallTimeoutError
from resilience.keyed import _KeyedGuard

from .deadlines import DEADLINES, incoming_timeout
from .inbox import Inbox
from .protocol import Message, RawHeaders, Receive, Scope, Send
from .quotas import quota_fields
from .rendering import REFUSED, ProblemResponse, fields_of, response_to

if TYPE_CHECKING:
    from .plan import Plan

_FAR = 1e12  # seconds: an instant that never comes
_ACCEPTED, _CLOSED = 101, 403  # what the messages of a WebSocket mean in HTTP
_TELLING = DEADLINES | {b"expect"}  # the request headers that matter here

Held = tuple[Policy | None, Any, Guard | None]


@dataclass(frozen=True, slots=True)
class ResponseOutcome:
    """What `charge_if` and `failure_if` of a layer look at: the `status` and the raw `headers` of a response."""

    status: int
    headers: RawHeaders = ()


class Exchange:
    """One request. `run()` is called once, and returns or raises when the application has ended."""

    # Defaults on the class: one of these is made for every request, and most requests are uneventful.
    _status = 0  # 0: no response yet
    _headers: RawHeaders = ()
    _trailers = False
    _complete = False  # whether the response was sent to its end
    _undeliverable = False  # whether the server's `send` raised, or waits
    _gone = False  # whether the task was cancelled because the client has gone
    _before = 0  # cancellations of the task that others had asked for
    _held: tuple[Held, ...] | list[Held] = ()
    _task: asyncio.Task[Any] | None = None
    _deadline: Deadline | None = None
    _slot: Slot | None = None
    _token: Token[Deadline | None] | None = None
    _inbox: Inbox | None = None
    _watched_in: Slot | None = None

    def __init__(self, plan: Plan, scope: Scope, send: Send) -> None:
        self._plan = plan
        self._scope = scope
        self._send = send

    async def run(self, receive: Receive) -> None:
        """Take the request through all of it."""
        plan, scope = self._plan, self._scope
        try:
            task = current_task(loop := asyncio.get_running_loop())
        except RuntimeError:
            _no_task()
        if task is None:
            _no_task()
        self._task = task
        self._before = task.cancelling()
        try:
            telling = [header for header in scope.get("headers", ()) if header[0] in _TELLING]
            limit = plan.seconds
            if telling and plan.incoming_deadline:
                allowed = incoming_timeout(telling)
                if allowed is not None and (limit is None or allowed < limit):
                    limit = allowed
            if limit is not None or plan.body_seconds is not None:
                self._arm(limit, loop, task)
            if plan.watch_after is not None and scope["type"] == "http":
                reserved = telling != [] and any(name == b"expect" for name, _ in telling)
                self._inbox = inbox = Inbox(receive, self._client_gone, reserved)
                inbox.when = plan.timeout._clock.now() + plan.watch_after
                # Timers ask for no more than an instant and `fire()`; deadlines and inboxes have both.
                self._watched_in = plan.timers(loop).add(cast("Deadline", inbox), plan.watch_grain)
                receive = inbox.receive
            elif plan.policies:  # nobody watches, but whether the application is told of a disconnect counts
                self._inbox = inbox = Inbox(receive, self._client_gone, reserved=True)
                receive = inbox.receive
            if plan.policies:
                await self._admitted()
            await plan.app(scope, receive, self.send)
        except BaseException as error:
            refused = self._failed(error)
            if refused is None:
                raise
            await self._refuse(refused)
            return
        finally:
            del task
        try:
            if not self._complete:
                self._quiet()
                self._give_back(None)
        finally:
            self._unwound(None)

    # -- what is armed -------------------------------------------------------------------------------------------------

    def _arm(self, limit: float | None, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """Put a limit (seconds) in force. Raises DeadlineExceededError if nothing is left of it."""
        timeout = self._plan.timeout
        deadline = timeout._deadline(limit, task)
        if deadline is not None:
            known = deadline.timeout == self._plan.seconds
            self._slot = self._plan.timers(loop).add(
                deadline, self._plan.grain if known else grain_of(deadline.timeout or 0.0)
            )
        elif self._plan.body_seconds is not None:
            deadline = Deadline(_FAR, timeout._clock, timeout.name, None, ambient.get())
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
            self._slot = None
        plan, task = self._plan, self._task
        if plan.body_seconds is None or task is None or self._scope["type"] != "http":
            deadline.lift()
            return
        timeout = plan.timeout
        deadline.lifted, deadline.task, deadline.timeout = False, task, plan.body_seconds
        deadline.policy, deadline.when = timeout.name, timeout._clock.now() + plan.body_seconds
        self._slot = plan.timers(task.get_loop()).add(deadline, grain_of(plan.body_seconds))

    def _client_gone(self) -> None:
        """Nobody waits for the answer: cancel the work."""
        assert self._task is not None  # nobody watches once the application has ended
        self._gone = True
        self._task.cancel()

    def _look_away(self, inbox: Inbox) -> None:
        """The response is as good as complete: a client that goes now has what it wanted."""
        if self._watched_in is not None:
            self._watched_in.pop(cast("Deadline", inbox), None)
        inbox.stop()

    def _quiet(self) -> None:
        """Nothing may cancel the task any more: the response is complete, or the application has ended."""
        if self._inbox is not None:
            self._look_away(self._inbox)
        if self._deadline is not None and not self._deadline.lifted:
            self._lift(self._deadline)

    def _lift(self, deadline: Deadline) -> None:
        assert self._slot is not None
        self._slot.pop(deadline, None)
        if not deadline.fired:
            deadline.lift()

    # -- admission and settlement --------------------------------------------------------------------------------------

    async def _admitted(self) -> None:
        arguments = (self._scope,)
        self._held = held = []
        for policy in self._plan.policies:
            if type(policy) is Keyed:
                guard = policy.guard(self._scope)
                await guard.__aenter__()
                held.append(_behind(guard))
                continue
            permit = policy.admit(arguments)
            if type(permit) is Wait:
                permit = await permit.suspend()
            if policy._settles:
                held.append((policy, permit, None))

    def _give_back(self, error: BaseException | None) -> None:
        """Settle every permit, innermost first. A judge of the user's that raises keeps none of the others."""
        held, self._held = self._held, ()
        failures: list[BaseException] = []
        for policy, permit, guard in reversed(held):
            try:
                if policy is not None:
                    self._settle(policy, permit, error)
            except BaseException as failure:  # noqa: BLE001 - raised on below
                failures.append(failure)
            finally:
                if guard is not None:
                    guard.__exit__(None, None, None)
        if failures:
            raise failures.pop()

    def _settle(self, policy: Policy, permit: Any, error: BaseException | None) -> None:
        answered = self._complete or (error is None and self._status != 0 and self._scope["type"] == "websocket")
        if not answered and (self._undeliverable or self._lost(error)):
            policy.settle(permit, ABANDONED)  # that the client has gone says nothing about anybody else
        elif answered and self._status >= 400 and self._scope.get(REFUSED) == self._status:
            policy.settle(permit, ABANDONED)  # a rejection that was rendered further inside
        elif error is not None:
            policy._fail(permit, error)
        elif policy._judges_results:
            policy._finish(permit, ResponseOutcome(self._status if answered else 500, self._headers))
        else:
            policy.settle(permit, SUCCESS if answered and self._status < 500 else FAILURE)

    def _lost(self, error: BaseException | None) -> bool:
        """Whether there is no answer because of the client: it has gone, which errors are due to once the application
        knew, or has kept it waiting for the body until the time was up.
        """
        inbox = self._inbox
        if error is None:
            return self._gone or (inbox is not None and inbox.gone)
        return inbox is not None and (inbox.told if isinstance(error, Exception) else inbox.starved)

    # -- the response --------------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        """The application's `send`."""
        kind = message["type"]
        if kind == "http.response.start":
            last = False
            if not self._status:
                message = self._started(message)
        elif kind == "http.response.body":
            last = not message.get("more_body") and not self._trailers
        elif kind.startswith("websocket."):
            last = self._websocket(kind, message)
        else:
            last = self._is_last(kind, message)
        if last and self._inbox is not None:
            self._look_away(self._inbox)
        try:
            await self._send(message)
        except BaseException as error:
            # How servers say that it has gone; and who is cancelled here waits for a client that does not read.
            self._undeliverable = self._undeliverable or isinstance(error, (OSError, CancelledError))
            raise
        if last and not self._complete:
            self._complete = True
            if self._deadline is not None and not self._deadline.lifted:
                self._lift(self._deadline)
            if self._held:
                self._give_back(None)

    def _started(self, message: Message) -> Message:
        plan = self._plan
        self._status = message["status"]
        self._headers = message.get("headers", ())
        if message.get("trailers"):
            self._trailers = True
        if self._deadline is not None:
            self._disarm(self._deadline)
        if plan.shows_quotas:
            fields = quota_fields(plan.limiters, self._scope)
            if fields:
                raw = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in fields.items()]
                message = {**message, "headers": [*self._headers, *raw]}
        return message

    def _websocket(self, kind: str, message: Message) -> bool:
        """Take note of a message of a WebSocket; whether it ends the refusal of one."""
        if kind in ("websocket.accept", "websocket.close", "websocket.http.response.start"):
            if not self._status and self._deadline is not None:
                self._disarm(self._deadline)
            self._status = message.get("status", _ACCEPTED if kind == "websocket.accept" else _CLOSED)
        return kind == "websocket.http.response.body" and not message.get("more_body")

    def _is_last(self, kind: str, message: Message) -> bool:
        """Whether a message of an extension ends the response."""
        if kind == "http.response.trailers":
            return not message.get("more_trailers")
        if kind in ("http.response.pathsend", "http.response.zerocopysend"):
            return not message.get("more_body") and not self._trailers
        return False

    # -- the end -------------------------------------------------------------------------------------------------------

    def _failed(self, error: BaseException) -> ProblemResponse | None:
        """The application, or the admission, has raised: how to answer; None to raise it on.

        Raises CallTimeoutError in place of a cancellation by our own deadline once nothing can be answered any more.
        """
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
        return None if self._status not in (0, _ACCEPTED) else self._response_to(error)

    def _unwound(self, error: BaseException | None) -> bool:
        """Take back the cancellations that we caused; whether `error` is due to them and to nobody else."""
        deadline, task = self._deadline, self._task
        assert task is not None
        self._task = self._inbox = None  # the task will hold what was raised, whose traceback holds this object
        caused = 1 if self._gone else 0
        if deadline is not None:
            deadline.task = None
            caused += deadline.fired
            assert self._token is not None
            try:  # `restore` without its context manager, which would cost a third of all that is done here
                ambient.reset(self._token)
            except ValueError:  # a finaliser runs this, and that context is gone
                pass
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

    async def _refuse(self, response: ProblemResponse) -> None:
        if response is _NOTHING:
            if not self._status:  # the server drops it, but a middleware outside may insist on an answer
                self._scope[REFUSED] = response.status
                with suppress(Exception):
                    await response.deliver(self._scope, self._send)
            return
        if not self._status:
            await response.deliver(self._scope, self._send)
            return
        try:  # a WebSocket that was accepted
            await response.close(self._send)
        except Exception:  # noqa: BLE001 - the client was faster, which servers report in many ways
            return


def _behind(guard: Guard) -> Held:
    """The policy and the permit behind the guard of a Keyed; no policy if the request has no key."""
    inner = cast("_KeyedGuard", guard)._inner
    if inner is None:
        return None, None, guard
    if isinstance(inner._policy, (Retry, Timeout)):
        guard.__exit__(None, None, None)
        raise TypeError(f"a layer of the middleware cannot be {inner._policy!r}, behind a Keyed neither")
    return inner._policy, inner.release(), guard


_NOTHING = ProblemResponse(499)  # what a client gets that has gone


def _no_task() -> NoReturn:
    require_asyncio()
    raise RuntimeError("the middleware must be called inside a task")
