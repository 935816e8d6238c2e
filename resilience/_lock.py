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

from collections import deque
from typing import Literal

from . import clock

# Ways given before giving up. Nobody holds the lock that long, unless it is this very thread: a finaliser that the
# collector ran inside the guarded part and that calls the same policy. An error there is better than a hang.
_BRISK = 1_000  # of these, the ways given without a pause
_PATIENCE = 100_000  # about ten seconds


class Lock:
    """A mutex for very short sections; not reentrant. `free` holds its token while nobody else does."""

    __slots__ = ("free",)

    def __init__(self) -> None:
        self.free: deque[None] = deque((None,))

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; without `blocking`, only if it is free now. Returns whether it was taken."""
        for turn in range(_PATIENCE):
            try:
                self.free.pop()
            except IndexError:
                if not blocking:
                    return False
                clock.give_way(0.0 if turn < _BRISK else 1e-4)
            else:
                return True
        raise RuntimeError("a policy was called from a finaliser that runs inside the same policy's own bookkeeping")

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
