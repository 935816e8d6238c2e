"""A lock that costs a sixth of `threading.Lock` when nobody else wants it.

There is one token, in a deque: who pops it holds the lock, appending it releases. Both are documented as atomic, and
together they take 30 ns where a round of `threading.Lock` takes 60 to 250. What is guarded is arithmetic of less than a
microsecond, so the lock is contended only when a thread is switched out in the middle of it; who then has to have it
gives way until that thread has gone on. The hot paths spell it out::

    try:
        free.pop()
    except IndexError:
        ...            # somebody is inside: take the long way, or hand over
    else:
        try:
            ...
        finally:
            free.append(None)
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Literal

from . import clock

_BRISK = 1_000  # ways given without a pause
_PATIENCE = 50_000  # ways given in all, about five seconds

_log = logging.getLogger("resilience")


class Lock:
    """A mutex for very short sections; not reentrant. `free` holds its token while nobody else does.

    Nobody holds it for seconds. A token that is gone that long was lost: a signal handler raised between taking it and
    the `try` that gives it back, or a finaliser that the collector ran inside the guarded part calls the same policy.
    Then it is made anew. Should the old one turn up after all, there is still only room for one.
    """

    __slots__ = ("free",)

    def __init__(self) -> None:
        self.free: deque[None] = deque((None,), maxlen=1)

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; without `blocking`, only if it is free now. Returns whether it was taken."""
        turn = 0
        while True:
            try:
                self.free.pop()
            except IndexError:
                if not blocking:
                    return False
                turn += 1
                if turn == _PATIENCE:
                    _log.warning("a lock of a policy was not given back for seconds and is taken over")
                    self.free.append(None)
                else:
                    clock.give_way(0.0 if turn < _BRISK else 1e-4)
            else:
                return True

    def release(self) -> None:
        """Give the lock back; only for who holds it."""
        self.free.append(None)

    def __enter__(self) -> None:
        try:
            self.free.pop()
        except IndexError:
            self.acquire()

    def __exit__(self, *_: object) -> Literal[False]:
        self.free.append(None)
        return False

    def __repr__(self) -> str:
        return f"<Lock: {'free' if self.free else 'taken'}>"
