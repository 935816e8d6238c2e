"""Graceful shutdown: stop being chosen, stop accepting, finish what runs, end what would run for ever.

::

    begin() ──► not ready ── notice ──► refusing ── until nothing runs, or drain_timeout ──► cancelled ──► drained
               (still serving, so that      │ 503, Connection: close
                load balancers notice)      └ event streams and WebSockets are ended here

Servers tell an application about their shutdown only after the connections have drained, which is too late to become
unready. So `begin()` belongs to the signal: with `signals`, the handlers are put in front of those of the server when
it starts, and the server gets its signal once everything has drained.

That is so under uvicorn, whose workers get the signal themselves. Those of hypercorn and granian, started by their
commands, are told otherwise, and stop listening before anything here could know: call `begin()` there from what knows
first, the request of a preStop hook, say. Served from a program of your own, both keep the whole promise; `signals`
stays empty then::

    loop.add_signal_handler(signal.SIGTERM, shutdown.begin)
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=shutdown.drained)

    loop.add_signal_handler(signal.SIGTERM, shutdown.begin)
    serving = asyncio.create_task(server.serve())                   # of granian.server.embed
    await shutdown.drained()
    server.stop()
    await serving
"""

from __future__ import annotations

import asyncio
import signal
import threading
from asyncio import CancelledError
from collections.abc import Callable, Iterable
from datetime import timedelta
from types import FrameType
from typing import Any

from resilience_http.problem import TEMPORARY_REDUCED_CAPACITY, Problem
from resilience_http.retry_after import RETRY_AFTER, format_retry_after

from resilience import Clock, _arguments
from resilience.clock import checked

from .protocol import ASGIApp, Message, Receive, Scope, Send
from .rendering import Render, problem_json

_GOING_AWAY = 1012  # "service restart", the close code of the IANA registry
_ENDLESS = b"text/event-stream"
_LAST_WORDS = 1.0  # seconds after the limit in which the cancelled have to end; nobody waits for them longer


class GracefulShutdown:
    """Count what `app` has in flight, and drain it when told to.

    After `begin()`, `ready` is False. `notice` seconds later new requests are refused, and responses that would never
    end by themselves (event streams, WebSockets) are ended. What still runs after `drain_timeout` seconds more is
    cancelled. `await drained()` returns when nothing is left.

    Put `CorrelationMiddleware` around it, and what it refuses carries an id as well.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        drain_timeout: float | timedelta = 30.0,
        notice: float | timedelta = 0.0,
        retry_after: float | timedelta = 1.0,
        signals: Iterable[signal.Signals] = (),
        render: Render = problem_json,
        clock: Clock | None = None,
    ) -> None:
        self.app = app
        self._drain_timeout = _arguments.seconds("drain_timeout", drain_timeout, zero=True)
        self._notice = _arguments.seconds("notice", notice, zero=True)
        self._retry_after = format_retry_after(_arguments.seconds("retry_after", retry_after, zero=True))
        self._signals = _signals(signals)
        self._render = _arguments.function("render", render) or problem_json
        self._clock = checked(clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: set[_Call] = set()
        self._begun = False
        self._refusing = False
        self._drained = asyncio.Event()
        self._idle = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._handing_on: asyncio.Task[None] | None = None  # kept, because a loop knows its tasks weakly

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome: for a readiness endpoint."""
        return not self._begun

    @property
    def in_flight(self) -> int:
        """Requests and WebSockets that run now."""
        return len(self._calls)

    def begin(self) -> None:
        """Begin to shut down, from the thread of the event loop, another one, or a signal handler. Once is enough."""
        self._begun = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._start_draining)

    async def drained(self) -> None:
        """Wait until the shutdown has begun and everything that ran has ended."""
        self._at_home()
        await self._drained.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; a `lifespan` is where the signal handlers come and go."""
        self._at_home()
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await (self._lifespan(scope, receive, send) if kind == "lifespan" else self.app(scope, receive, send))
        elif self._refusing:
            await self._refuse(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    def __repr__(self) -> str:
        state = "refusing" if self._refusing else "not ready" if self._begun else "ready"
        return f"<GracefulShutdown: {state}, {len(self._calls)} in flight>"

    # -- requests ------------------------------------------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # an event loop runs nothing else
        call = _Call(self, scope, task, send)
        del task  # it will hold what was raised, whose traceback holds this frame
        calls, idle = self._calls, self._idle
        calls.add(call)
        try:
            try:
                await self.app(scope, receive, call.send)
            except BaseException as error:
                ended = call.ended_by_us()
                if not ended or not isinstance(error, CancelledError):
                    raise
            else:
                ended = call.ended_by_us()
            if ended:
                await self._say_goodbye(call, scope, receive, send)
        finally:
            call.task = None
            calls.discard(call)
            if not calls:
                idle.set()

    async def _say_goodbye(self, call: _Call, scope: Scope, receive: Receive, send: Send) -> None:
        """End the response of a call that we have cancelled, as well as that can still be done."""
        if call.whole:
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _GOING_AWAY, "reason": "service restart"})
        elif not call.started:
            await self._refuse(scope, receive, send)
        elif call.endless:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        # Any other response is cut off: the server closes the connection, and the client sees that a part is missing.

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = "The service is shutting down."
        problem = Problem(503, "Service Unavailable", TEMPORARY_REDUCED_CAPACITY, detail)
        headers = {RETRY_AFTER: self._retry_after, "Connection": "close"}
        if scope.get("http_version", "1.1").startswith(("2", "3")):
            del headers["Connection"]  # not allowed there; the server sends GOAWAY
        await self._render(problem, scope).with_headers(headers)(scope, receive, send)

    # -- draining ------------------------------------------------------------------------------------------------------

    def _at_home(self) -> None:
        """Remember the event loop; another one means that the application is served anew."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._calls, self._refusing, self._draining = set(), False, None
            self._drained, self._idle = asyncio.Event(), asyncio.Event()
            if self._begun:
                self._start_draining()

    def _start_draining(self) -> None:
        if self._draining is None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        if self._notice:
            await self._clock.asleep(self._notice)
        self._refusing = True
        for call in list(self._calls):
            if call.endless:
                call.end()
        if self._calls:
            self._idle.clear()
            loop = asyncio.get_running_loop()
            timers = (
                self._clock.call_later(loop, self._drain_timeout, self._cut_off),
                self._clock.call_later(loop, self._drain_timeout + _LAST_WORDS, self._idle.set),
            )
            try:
                await self._idle.wait()
            finally:
                for timer in timers:
                    timer.cancel()
        self._drained.set()

    def _cut_off(self) -> None:
        for call in list(self._calls):
            call.end()

    # -- signals -------------------------------------------------------------------------------------------------------

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._signals or threading.current_thread() is not threading.main_thread():
            await self.app(scope, receive, send)
            return
        heard = False

        async def hearing() -> Message:
            nonlocal heard
            heard = True
            return await receive()

        before: dict[signal.Signals, Any] = {}
        try:
            for number in self._signals:
                before[number] = signal.getsignal(number)
                signal.signal(number, self._handler(before[number]))
            try:
                await self.app(scope, hearing, send)
            except Exception:
                if heard:
                    raise
            if not heard:  # it has no lifespan; but the handlers are to stay as long as the server runs
                await _lifespan_of_nothing(receive, send)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handler(self, before: Any) -> Callable[[int, FrameType | None], None]:
        """A signal handler that drains first; the second signal goes straight to the server."""

        def handle(number: int, frame: FrameType | None) -> None:
            loop = self._loop
            if self._begun or loop is None:
                _hand_on(before, number, frame)
                return
            self.begin()
            loop.call_soon_threadsafe(hand_on_later, loop, number)

        def hand_on_later(loop: asyncio.AbstractEventLoop, number: int) -> None:
            self._handing_on = loop.create_task(hand_on_when_drained(number))

        async def hand_on_when_drained(number: int) -> None:
            await self.drained()
            _hand_on(before, number, None)

        return handle


class _Call:
    """One request that is being served, and how to end it."""

    __slots__ = ("_before", "_ending", "_owner", "_send", "endless", "started", "task", "whole")

    def __init__(self, owner: GracefulShutdown, scope: Scope, task: asyncio.Task[Any], send: Send) -> None:
        self._owner = owner
        self.task: asyncio.Task[Any] | None = task
        self.endless = scope["type"] == "websocket"
        self.started = False
        self.whole = False
        self._send = send
        self._before = task.cancelling()
        self._ending = False

    async def send(self, message: Message) -> None:
        """The application's `send`."""
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
            self.endless = any(
                name.lower() == b"content-type" and value.lower().startswith(_ENDLESS)
                for name, value in message.get("headers", ())
            )
        elif kind == "websocket.close" or (kind == "http.response.body" and not message.get("more_body")):
            self.whole = True
            self.endless = False
        await self._send(message)
        if self.endless and self.started and self._owner._refusing:
            self.end()  # it began to stream when streams had been ended already

    def end(self) -> None:
        """Cancel it."""
        if not self._ending and self.task is not None:
            self._ending = True
            self.task.cancel()

    def ended_by_us(self) -> bool:
        """Take our cancellation back; whether there was one and nobody else has cancelled the task."""
        if not self._ending or self.task is None:
            return False
        left, self.task = self.task.uncancel(), None  # and from here on it is not cancelled again
        return left <= self._before


async def _lifespan_of_nothing(receive: Receive, send: Send) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


def _hand_on(before: Any, number: int, frame: FrameType | None) -> None:
    """Do what would have been done without us."""
    if callable(before):
        before(number, frame)
    elif before != signal.SIG_IGN:  # the default, or a handler that was not installed from Python
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _signals(values: object) -> tuple[signal.Signals, ...]:
    if not isinstance(values, Iterable):
        raise TypeError(f"signals must be a collection such as [signal.SIGTERM], not {_arguments.shown(values)}")
    found: list[signal.Signals] = []
    for value in values:
        if not isinstance(value, signal.Signals):
            raise TypeError(f"signals must hold members of signal.Signals, not {_arguments.shown(value)}")
        found.append(value)
    return tuple(found)
