"""A ticket: a FIFO place in a queue that can wake a thread or a task of any event loop.

The queue's owner makes the ticket and grants it under its own lock, then calls `wake()` outside it. The waiter waits
in its own colour: `block` for a thread, `suspend` for a task. The two may meet in any order; the grant is never lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

from .clock import Clock


class Ticket:
    """One waiter's place. `granted` is set by the queue's owner under its lock, until the grant is taken or passed on.

    `give_back(ticket, verdict)` is the owner's, for a grant whose waiter turns out to be gone; it runs under the lock.
    """

    __slots__ = ("_waker", "give_back", "granted")

    def __init__(self, give_back: Callable[[Any, Any], Iterable[Ticket]]) -> None:
        self.give_back = give_back
        self.granted = False
        self._waker: Callable[[], object] | None = None

    def wake(self) -> bool:
        """Tell the waiter that `granted` was set; False if its event loop is closed and nobody will ever come."""
        # The waiter publishes its waker before it looks at `granted`, the owner sets `granted` before it looks for the
        # waker, so at least one of the two sees the other.
        waker = self._waker
        if waker is not None:
            try:
                waker()
            except RuntimeError:  # the loop is closed
                return False
        return True

    def block(self, clock: Clock, seconds: float | None) -> bool:
        """Block this thread until granted or for `seconds` (None: no limit). Returns whether it was granted."""
        lock = threading.Lock()
        lock.acquire()
        self._waker = lock.release
        if not self.granted:
            clock.wait(lock, seconds)
        return self.granted

    async def suspend(self, clock: Clock, seconds: float | None) -> bool:
        """Suspend this task until granted or for `seconds` (None: no limit). Returns whether it was granted."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        def waker() -> None:
            if _running_loop() is loop:
                done()
            else:
                loop.call_soon_threadsafe(done)

        self._waker = waker
        if self.granted:
            return True
        timer = None if seconds is None else clock.call_later(loop, seconds, done)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
        return self.granted


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
