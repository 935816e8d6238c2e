"""What a call has to wait for before it may run, and how it waits: the only part of admission that has a colour."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol, final

from . import deadline
from ._layer import require_asyncio
from ._ticket import Ticket
from .clock import Clock
from .exceptions import CallRejectedError, DeadlineExceededError


class Meter:
    """Adds up the seconds that a call spent waiting in inner layers; a breaker subtracts them from its duration."""

    __slots__ = ("done", "outer", "waited")

    def __init__(self, outer: Meter | None) -> None:
        self.outer = outer
        self.waited = 0.0
        self.done = False  # a call may end in another context than it began in, where its meter then stays


meter: ContextVar[Meter | None] = ContextVar("resilience_meter", default=None)


def running_meter() -> Meter | None:
    """The meter of the innermost call around the running code that has not ended."""
    found = meter.get()
    while found is not None and found.done:
        found = found.outer
    return found


def metered(seconds: float) -> None:
    """Tell the breakers around that a call waited `seconds` in an inner layer."""
    outer = meter.get()
    while outer is not None:
        outer.waited += seconds
        outer = outer.outer


class Decision(Protocol):
    """A permit that somebody else decides about; obtained in the caller's colour. It leaks nothing when cancelled."""

    def block(self) -> Any: ...

    async def suspend(self) -> Any: ...


class Owner(Protocol):
    """What a wait needs of the policy that it belongs to."""

    name: str | None
    _clock: Clock

    def _forsake(self, wait: Wait) -> None: ...

    def _withdraw(self, wait: Wait) -> bool: ...

    def _waited_too_long(self) -> CallRejectedError: ...

    def _rejected(self, error: CallRejectedError) -> CallRejectedError: ...

    def _warn_if_blocking_a_loop(self) -> None: ...


@final
class Wait:
    """What a call has to wait for before it may run, as data: a place in a queue, a decision elsewhere, or a delay.

    `seconds` is the length of the delay, or the limit of the wait for a `ticket` (None: no limit but the deadline).
    `permit` is what the call gets when the wait is over.
    """

    __slots__ = ("decision", "hurried", "permit", "policy", "seconds", "ticket")

    def __init__(
        self,
        policy: Owner,
        permit: Any,
        seconds: float | None = None,
        ticket: Ticket | None = None,
        decision: Decision | None = None,
    ) -> None:
        self.policy = policy
        self.permit = permit
        self.seconds = seconds
        self.ticket = ticket
        self.decision = decision
        self.hurried = False  # whether the deadline is what limits the wait

    def block(self) -> Any:
        """Wait in this thread; returns the permit or raises a rejection. Whatever happens, nothing leaks."""
        policy, clock = self.policy, self.policy._clock
        began = clock.now()
        granted = True
        try:
            if self.decision is None:  # those warn themselves where it is worth it
                policy._warn_if_blocking_a_loop()
            if self.ticket is not None:
                granted = self.ticket.block(clock, self._limit())
            elif self.decision is not None:
                self.permit = self.decision.block()
            else:
                clock.sleep(self.seconds or 0.0)
        except BaseException:
            policy._forsake(self)
            raise
        permit = self._over(granted, clock.now() - began)
        return permit.block() if type(permit) is Wait else permit  # a decision may be to wait on

    async def suspend(self) -> Any:
        """Wait in this task; returns the permit or raises a rejection. Whatever happens, nothing leaks."""
        policy, clock = self.policy, self.policy._clock
        began = clock.now()
        granted = True
        try:
            require_asyncio()
            if self.ticket is not None:
                granted = await self.ticket.suspend(clock, self._limit())
            elif self.decision is not None:
                self.permit = await self.decision.suspend()
            else:
                await clock.asleep(self.seconds or 0.0)
        except BaseException:
            policy._forsake(self)
            raise
        permit = self._over(granted, clock.now() - began)
        return await permit.suspend() if type(permit) is Wait else permit

    def _limit(self) -> float | None:
        left = deadline.remaining()
        if left is None or (self.seconds is not None and self.seconds < left):
            return self.seconds
        self.hurried = True
        return left

    def _over(self, granted: bool, waited: float) -> Any:
        metered(waited)
        if granted or not self.policy._withdraw(self):  # perhaps the grant came in the very moment the wait ended
            if self.ticket is not None:
                self.ticket.granted = False  # taken: a wake-up that comes after our loop has closed gives nothing back
            return self.permit
        if self.hurried:
            raise self.policy._rejected(DeadlineExceededError(self.policy.name))
        raise self.policy._rejected(self.policy._waited_too_long())
