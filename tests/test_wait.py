"""What a call waits for before it may run: a delay, a ticket, or somebody else's decision; in both colours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    CallRejectedError,
    CircuitBreaker,
    DeadlineExceededError,
    Pipeline,
    RateLimiter,
    Timeout,
)
from resilience._machine import ABANDONED, SUCCESS, Machine, Verdict
from resilience._policy import Policy
from resilience._ticket import Ticket
from resilience._wait import Wait, metered
from resilience.deadline import remaining
from resilience.testing import ManualClock
from tests.conftest import Colour


class Doorman(Policy):
    """The smallest policy that makes calls wait. It keeps what every policy has by default."""

    def __init__(self, make: Callable[[Doorman], Wait], name: str | None = None) -> None:
        super().__init__(name, None, ())
        self._machine = Machine()
        self._make = make
        self.settled: list[tuple[Any, Verdict]] = []
        self.forsaken = 0

    def admit(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return self._make(self)

    def settle(self, permit: Any, verdict: Verdict = SUCCESS) -> None:
        self.settled.append((permit, verdict))

    def _forsake(self, wait: Wait) -> None:
        self.forsaken += 1
        super()._forsake(wait)


class Decision:
    """Takes five seconds in either colour and may turn out badly."""

    def __init__(self, colour: Colour, error: BaseException | None = None) -> None:
        self._clock = colour.clock
        self._error = error

    def block(self) -> Any:
        self._clock.sleep(5.0)
        return self._decided()

    async def suspend(self) -> Any:
        await self._clock.asleep(5.0)
        return self._decided()

    def _decided(self) -> str:
        if self._error is not None:
            raise self._error
        return "decided"


def new_ticket() -> Ticket:
    return Ticket(lambda ticket, verdict: ())


def test_a_call_waits_for_its_delay_and_gets_its_permit(colour: Colour) -> None:
    doorman = Doorman(lambda policy: Wait(policy, "permit", 5.0))
    assert colour.guarded(doorman, colour.clock.now)() == 1005.0
    assert doorman.settled == [("permit", SUCCESS)]


def test_a_call_waits_for_a_decision_and_gets_the_permit_it_brings(colour: Colour) -> None:
    doorman = Doorman(lambda policy: Wait(policy, None, decision=Decision(colour)))
    assert colour.guarded(doorman, colour.clock.now)() == 1005.0
    assert doorman.settled == [("decided", SUCCESS)]


def test_a_decision_that_fails_is_the_calls_error_and_leaves_nothing_behind(colour: Colour) -> None:
    error = CallRejectedError("far away")
    doorman = Doorman(lambda policy: Wait(policy, None, decision=Decision(colour, error)))
    with pytest.raises(CallRejectedError) as caught:
        colour.guarded(doorman, lambda: pytest.fail("it ran"))()
    assert caught.value is error
    assert (doorman.settled, doorman.forsaken) == ([], 1)


def test_a_ticket_that_is_never_granted_ends_in_the_policys_own_rejection(colour: Colour) -> None:
    doorman = Doorman(lambda policy: Wait(policy, None, 5.0, new_ticket()), "door")
    with pytest.raises(CallRejectedError) as caught:
        colour.guarded(doorman, lambda: pytest.fail("it ran"))()
    assert (type(caught.value), caught.value.policy, colour.clock.now()) == (CallRejectedError, "door", 1005.0)
    assert (doorman.settled, doorman.forsaken) == ([], 0)


@pytest.mark.parametrize("limit,ends", [(None, 1007.0), (60.0, 1007.0), (7.0, 1007.0)])
def test_a_ticket_is_waited_for_until_the_deadline_at_most(colour: Colour, limit: float | None, ends: float) -> None:
    doorman = Doorman(lambda policy: Wait(policy, None, limit, new_ticket()), "door")
    with pytest.raises(DeadlineExceededError) as caught:
        colour.guarded(Pipeline(Timeout(7.0), doorman), lambda: pytest.fail("it ran"))()
    assert (caught.value.policy, colour.clock.now()) == ("door", ends)


def test_a_granted_ticket_counts_as_taken_when_the_wait_is_over(colour: Colour) -> None:
    ticket = new_ticket()
    ticket.granted = True
    doorman = Doorman(lambda policy: Wait(policy, "permit", None, ticket))
    assert colour.guarded(doorman, lambda: ticket.granted)() is False
    assert doorman.settled == [("permit", SUCCESS)]


def test_an_owner_that_granted_in_the_last_moment_is_believed(colour: Colour) -> None:
    class Generous(Doorman):
        def _withdraw(self, wait: Wait) -> bool:
            return False

    doorman = Generous(lambda policy: Wait(policy, "permit", 5.0, new_ticket()))
    assert colour.guarded(doorman, lambda: "ran")() == "ran"
    assert colour.clock.now() == 1005.0


def test_a_wait_that_is_interrupted_is_given_up(colour: Colour) -> None:
    class Interrupted(ManualClock):
        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

        async def asleep(self, seconds: float) -> None:
            raise asyncio.CancelledError

    doorman = Doorman(lambda policy: Wait(policy, None, 5.0))
    doorman._clock = Interrupted()
    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        colour.guarded(doorman, lambda: pytest.fail("it ran"))()
    assert (doorman.settled, doorman.forsaken) == ([], 1)


def test_time_spent_waiting_inside_does_not_make_a_call_slow(colour: Colour) -> None:
    """Waits of all inner layers are taken off, at every level of nesting."""
    outer = CircuitBreaker(minimum_calls=100, slow_call_duration=2.0)
    inner = CircuitBreaker(minimum_calls=100, slow_call_duration=2.0)
    first = Doorman(lambda policy: Wait(policy, None, 5.0))
    second = Doorman(lambda policy: Wait(policy, None, decision=Decision(colour)))
    guarded = colour.guarded(Pipeline(outer, first, inner, second), colour.sleep)
    for seconds, slow in ((1.5, 0), (2.5, 1)):
        guarded(seconds)
        assert (outer.statistics().slow, inner.statistics().slow) == (slow, slow)


def test_nobody_minds_waiting_where_nobody_measures() -> None:
    metered(5.0)
    assert remaining() is None


def test_a_call_with_nothing_to_settle_waits_for_its_slot_too(colour: Colour) -> None:
    limiter = RateLimiter(1, 10.0, max_wait=60.0)
    guarded = colour.guarded(limiter, colour.clock.now)
    assert [guarded() for _ in range(3)] == [1000.0, 1010.0, 1020.0]


def test_a_call_cut_off_by_our_own_deadline_is_a_failure_inside_it_only(clock: ManualClock) -> None:
    inside, outside = CircuitBreaker(minimum_calls=100), CircuitBreaker(minimum_calls=100, ignore=TimeoutError)

    async def work() -> None:
        await asyncio.sleep(60.0)

    colour = Colour("async", clock)
    with pytest.raises(TimeoutError):
        colour.runner(Pipeline(outside, Timeout(5.0), inside)(work))()
    colour.close()
    assert (inside.statistics().calls, inside.statistics().failures) == (1, 1)
    assert (outside.statistics().calls, outside.statistics().failures) == (0, 0)


def test_what_a_policy_without_opinions_says(colour: Colour) -> None:
    """A failure for every exception, a success for every result, nothing to undo for a wait given up."""
    doorman = Doorman(lambda policy: Wait(policy, "permit", 0.0))
    doorman._judges_results = True

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        colour.guarded(doorman, fails)()
    colour.guarded(doorman, lambda: None)()
    verdicts = [verdict for _, verdict in doorman.settled]
    assert [verdict.value for verdict in verdicts] == ["failure", "success"]
    doorman._forsake(Wait(doorman, None))
    assert not doorman._machine.late
    assert ABANDONED not in verdicts
