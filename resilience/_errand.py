"""An errand: a piece of work on a daemon thread of its own, for what nobody may have to wait for.

It is started without any lock of `threading`, so that a finaliser may start one inside any allocation of any thread.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from contextvars import Context


def start(context: Context, work: Callable[[], object]) -> None:
    """Run `work` in `context` on a thread. RuntimeError if there can be none, as at the end of the interpreter."""
    _thread.start_new_thread(context.run, (work,))
