"""A plain function on a daemon thread of its own, which its caller may leave behind.

Threads cannot be stopped safely, so nothing is injected into one: it runs to its end, and its result is dropped if
nobody waits for it any more. Daemon threads never hold up the end of the interpreter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from ._machine import Machine
from .clock import Clock


class Tally(Machine):
    """The counters of a Timeout: calls cut off, threads waited for, and those left behind that are still running."""

    __slots__ = ("abandoned", "attended", "timed_out")

    def __init__(self) -> None:
        super().__init__()
        self.timed_out = 0
        self.abandoned = 0
        self.attended = 0

    def reserve(self, most: int) -> bool:
        """Room for one more thread, which anybody may leave behind: False if `most` are out there already."""
        with self.lock:
            if self.abandoned + self.attended >= most:
                return False
            self.attended += 1
            return True

    def forked(self) -> None:
        super().forked()
        self.abandoned = 0
        self.attended = 0


class Worker:
    """One call on a thread, for which there is room. If `wait` takes too long, it counts as abandoned until its end."""

    __slots__ = ("_abandoned", "_done", "_generation", "_outcome", "_tally")

    def __init__(self, tally: Tally, name: str, call: Callable[[], Any]) -> None:
        self._tally = tally
        self._generation = tally.generation
        self._done = threading.Lock()
        self._done.acquire()
        # Both guarded by the tally's lock.
        self._outcome: list[Any] = []  # [result, None] or [None, error], once it is there
        self._abandoned = False
        # The copied context brings correlation id and deadline along.
        try:
            threading.Thread(target=self._work, args=(copy_context(), call), name=name, daemon=True).start()
        except BaseException:  # no more threads to be had
            with tally.lock:
                self._leave_locked()
            raise

    def wait(self, clock: Clock, seconds: float | None) -> bool:
        """Whether the call ends within `seconds` (None: no limit). If not, or if interrupted, it is left behind."""
        try:
            clock.wait(self._done, seconds)
        finally:
            with self._tally.lock:
                self._leave_locked()
                if not self._outcome:
                    self._abandoned = True
                    self._tally.abandoned += 1
        return not self._abandoned

    def result(self) -> Any:
        """What the call returned; or raise what it raised."""
        error = self._outcome.pop()
        if error is None:
            return self._outcome.pop()
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def _leave_locked(self) -> None:
        if self._generation == self._tally.generation:
            self._tally.attended -= 1

    def _work(self, context: Context, call: Callable[[], Any]) -> None:
        try:
            self._deliver(context.run(call), None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the caller
            self._deliver(None, error)
        self._done.release()

    def _deliver(self, result: Any, error: BaseException | None) -> None:
        tally = self._tally
        with tally.lock:
            if not self._abandoned:
                self._outcome += (result, error)
            elif self._generation == tally.generation:
                tally.abandoned -= 1
