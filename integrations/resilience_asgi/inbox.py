"""What comes from the client of one request, and how to notice that the client has gone.

No server tells a busy application that its client has disconnected; one has to call `receive()` for it. Doing so for
every request would cost a task each, so it begins once the request has lasted a while::

    fire() ──► the application is in receive() already? ──► it will see for itself; look again after
        └────► a watcher calls receive() ──► a message for the application: kept, at most one part of a body ahead
                                        └──► http.disconnect: `on_gone()`, and the application gets it as well

Only one of the two is ever in `receive()`. A request that announced `Expect: 100-continue` is not watched before the
application has read its body, because the first `receive()` is what invites the client to send it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from resilience.deadline import Deadline, cancelled_by_deadline

from .protocol import Message, Receive

DISCONNECTS = frozenset({"http.disconnect", "websocket.disconnect"})


class Inbox:
    """The `receive()` of one request. `fire()` begins to watch, `stop()` ends that."""

    # Defaults on the class: one of these is made for every request, and few are ever watched.
    gone = False  # whether anybody has seen the client disconnect
    told = False  # whether the application has: what it raises after that is due to the client
    _on_gone: Callable[[], object] | None = None  # while the request is watched
    starved = False  # whether the time was up while the application waited for a body that the client had not sent
    _owing = True  # whether a part of the body is still to come
    _inside = 0  # calls of the application that are in `receive()`
    _ahead: deque[Message] | None = None  # what the watcher got; made with the first watcher
    _watcher: asyncio.Task[None] | None = None
    _news: asyncio.Event

    def __init__(self, receive: Receive, reserved: bool, deadline: Deadline | None = None) -> None:
        self._receive = receive
        self._deadline = deadline  # of the request
        self._reserved = reserved  # whether only the application may ask for the body

    async def receive(self) -> Message:
        """The next message, for the application."""
        try:
            while self._ahead is not None:  # a watcher was there at some time
                if self._ahead:
                    message = self._ahead.popleft()
                    self._watch()
                    self.told = self.told or message["type"] in DISCONNECTS
                    return message
                if self._watcher is None:
                    break
                await self._news.wait()
            self._inside += 1
            try:
                message = await self._receive()
            finally:
                self._inside -= 1
        except asyncio.CancelledError:  # it asked with a time limit, say, and nobody knows whether it will again
            self.starved = self._owing and cancelled_by_deadline(self._deadline)
            self._watch()
            raise
        self._note(message)
        self.told = self.told or self.gone
        self._watch()
        return message

    def fire(self, on_gone: Callable[[], object]) -> None:
        """The request has lasted a while: watch it from now on, and call `on_gone` once the client has disconnected."""
        self._on_gone = on_gone
        self._watch()

    def stop(self) -> None:
        """The request is over: whatever the application still receives is its own business."""
        self._on_gone = None
        if self._watcher is not None:
            self._watcher.cancel()

    def _note(self, message: Message) -> None:
        if message["type"] in DISCONNECTS:
            self.gone = True
        elif not message.get("more_body"):
            self._reserved = self._owing = False

    def _watch(self) -> None:
        """Start a watcher if there is reason to, and nobody is in `receive()`."""
        if self._on_gone is None or self._inside or self._watcher is not None or self.gone or self._reserved:
            return
        if self._ahead is None:
            self._ahead, self._news = deque(), asyncio.Event()
        self._watcher = asyncio.get_running_loop().create_task(self._look())
        self._watcher.add_done_callback(self._ended)

    async def _look(self) -> None:
        ahead = self._ahead
        assert ahead is not None
        try:
            more = False
            while not more and not self.gone:  # one part of a body ahead is enough
                message = await self._receive()
                ahead.append(message)
                self._note(message)
                self._tell()
                more = bool(message.get("more_body"))
        except Exception:  # noqa: BLE001 - the application meets the same one when it asks itself
            return
        finally:
            self._watcher = None
            self._tell()
        if self.gone and self._on_gone is not None:
            self._on_gone()

    def _ended(self, watcher: asyncio.Task[None]) -> None:
        """One that was stopped before it began has not said so itself."""
        if self._watcher is watcher:
            self._watcher = None
            self._tell()

    def _tell(self) -> None:
        """Let those look again who wait for what the watcher gets."""
        self._news.set()
        self._news.clear()
