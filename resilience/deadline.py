"""Deadlines: the instant by which the current work must be done, carried by a context variable.

A `Timeout` sets one; everything inside honours it, in whatever task or thread the context travels to. Ask `remaining()`
for the seconds left, and put clean-up work that must not be cut short into a `shield()`.

A deadline carries the clock it was made with, so consumers only ever ask for the remaining time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ._layer import restore
from .clock import Clock

_FOREVER = 1e12  # seconds, within the range in which the arithmetic of instants is exact


class Deadline:
    """One instant on one clock, and the scope that enforces it, if any.

    `when` is in the seconds of `clock.now()`; `policy` and `timeout` (seconds) name the Timeout that owns the instant.
    """

    # Defaults on the class: one of these is made for every call under a Timeout, and few of them ever fire.
    fired = False  # whether the timer has cancelled the task
    shields = 0  # how many shields of that task postpone the cancellation
    postponed = False
    lifted = False  # whether it limits nothing any more, wherever a copy of its context has gone

    def __init__(
        self,
        when: float,
        clock: Clock,
        policy: str | None = None,
        timeout: float | None = None,
        outer: Deadline | None = None,
        task: asyncio.Task[object] | None = None,
    ) -> None:
        self.when = when
        self.clock = clock
        self.policy = policy
        self.timeout = timeout
        self.outer = outer
        self.task = task  # the task that the owner's timer will cancel; None: nobody cancels, callees cooperate

    def remaining(self) -> float:
        """Seconds left; negative once the instant has passed."""
        return self.when - self.clock.now()

    def fire(self) -> None:
        """Cancel the task on behalf of this deadline, unless a shield holds that up."""
        if self.shields:
            self.postponed = True
        elif self.task is not None:
            self.fired = True
            self.task.cancel()

    def fire_late(self) -> None:
        """Fire what a shield has held up, unless the owner has moved the instant meanwhile."""
        if self.remaining() <= 0.0:
            self.fire()

    def lift(self) -> None:
        """Stop limiting anything, in every task and thread that the context was copied to; an outer deadline stays.

        The owner takes its timer out of the slot beforehand.
        """
        outer = self.outer
        self.lifted, self.task = True, None
        self.when = outer.when if outer is not None and outer.clock is self.clock else _FOREVER

    def __repr__(self) -> str:
        return f"<Deadline of {self.policy or 'an unnamed Timeout'} in {self.remaining():.3f} s>"


ambient: ContextVar[Deadline | None] = ContextVar("resilience_deadline", default=None)


def current() -> Deadline | None:
    """The deadline of the code that is running, or None."""
    return ambient.get()


def remaining() -> float | None:
    """Seconds until the current deadline (0.0 once it has passed), or None when there is none."""
    deadline = ambient.get()
    while deadline is not None and deadline.lifted:
        deadline = deadline.outer
    return None if deadline is None else max(0.0, deadline.remaining())


def cancelled_by_deadline(innermost: Deadline | None = None) -> bool:
    """Whether a deadline around the running code has cancelled it: the cancellation is ours, not a stranger's.

    Those inside of `innermost` do not count.
    """
    deadline = ambient.get() if innermost is None else innermost
    while deadline is not None:
        if deadline.fired:
            return True
        deadline = deadline.outer
    return False


@contextmanager
def shield() -> Iterator[None]:
    """Run a block (of sync or async code) outside every deadline: clean-up that has to finish.

    Inside, `remaining()` is None. A cancellation by an own deadline of the running task is held back until the block
    ends; cancellation by anybody else is not.
    """
    inherited = ambient.get()
    task = _running_task()
    held = []
    deadline = inherited
    while deadline is not None:
        if deadline.task is not None and deadline.task is task:
            deadline.shields += 1
            held.append(deadline)
        deadline = deadline.outer
    token = ambient.set(None)
    try:
        yield
    finally:
        restore(ambient, token)
        for deadline in held:
            deadline.shields -= 1
            if deadline.postponed and not deadline.shields:
                deadline.postponed = False
                # Not from inside the task itself: a cancellation that is pending when the scope ends would outlive it.
                asyncio.get_running_loop().call_soon(deadline.fire_late)


def _running_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop in this thread
        return None
