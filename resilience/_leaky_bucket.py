"""What aiolimiter does not tell: the level of a bucket and the loop that owns it. The one place that looks inside.

`AsyncLimiter` has no public way to ask how full it is, whose it is, or to be freed of a loop that exists no more. What
is used here is the same from 1.2.1 to 1.3; a test fails by name as soon as a new version has it no more.
"""

from __future__ import annotations

import asyncio
import warnings

import aiolimiter


def level(limiter: aiolimiter.AsyncLimiter) -> float:
    """How much is in the bucket, as of the last time that somebody asked it for capacity."""
    return limiter._level


def owner(limiter: aiolimiter.AsyncLimiter) -> asyncio.AbstractEventLoop:
    """The event loop that the limiter belongs to: the running one if it has none, or only a closed one."""
    with warnings.catch_warnings():
        # It warns of being "re-used across loops", but only once the other one is closed.
        warnings.simplefilter("ignore", RuntimeWarning)
        return limiter._loop


def orphan(limiter: aiolimiter.AsyncLimiter) -> None:
    """Free the limiter of its loop and of those who wait there; for the child of a fork, where that loop never runs."""
    limiter._waiters.clear()
    limiter._waker_handle = None
    try:
        del limiter._event_loop
    except AttributeError:  # it has not been used
        pass
