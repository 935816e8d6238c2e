"""A bulkhead against a list of holders and a list of waiters.

The machine admits, settles, waits, gives up, is cancelled and resized through the policy's own entry points, without
threads or loops: a `Wait` is data, and what becomes of it is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience import Bulkhead, BulkheadFullError, BulkheadStatistics
from resilience._machine import ABANDONED, FAILURE, SUCCESS
from resilience._wait import Wait

verdicts = st.sampled_from([SUCCESS, FAILURE, ABANDONED])
which = st.integers(0, 1000)
endings = st.sampled_from(["settle", "settle", "cancel", "cancel late", "give up", "give up late"])


@dataclass(eq=False)
class Call:
    """One call: its permit or its wait, and whether the machine under test has let it in."""

    permit: Any
    wait: Wait | None = None

    @property
    def granted(self) -> bool:
        return self.wait is None or (self.wait.ticket is not None and self.wait.ticket.granted)


@dataclass
class Model:
    """What a bulkhead is: so many may hold a slot, so many may wait, first come first served."""

    capacity: int
    max_queue: int
    holders: list[Call] = field(default_factory=list)
    waiters: list[Call] = field(default_factory=list)
    queued: int = 0
    rejected: int = 0

    def may_enter(self) -> bool:
        return len(self.holders) < self.capacity

    def may_wait(self) -> bool:
        return len(self.waiters) < self.max_queue

    def let_in(self) -> None:
        while self.waiters and self.may_enter():
            self.holders.append(self.waiters.pop(0))


class BulkheadMachine(RuleBasedStateMachine):
    """`locked` stands for another thread inside the lock: settlements are then handed over and wait for their turn.

    There are three rules with many cases rather than many rules, because Hypothesis leaves out half of the rules at a
    time, and without one of these little happens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stale: list[Any] = []
        self.handed_over: list[Call] = []
        self.locked = False

    @initialize(
        capacity=st.integers(1, 3),
        max_queue=st.sampled_from([0, 1, 2, 4, 4]),
        max_wait=st.sampled_from([None, 5.0, 5.0, 5.0, 0]),
    )
    def start(self, capacity: int, max_queue: int, max_wait: float | None) -> None:
        self.max_wait = max_wait
        self.bulkhead = Bulkhead(capacity, max_queue=max_queue, max_wait=max_wait)
        self.model = Model(capacity, max_queue)

    # -- rules ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.locked)
    @rule(patience=st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=2))
    def calls_come(self, patience: list[bool]) -> None:
        for patient in patience:
            self.admit(patient)

    @rule(ends=st.lists(st.tuples(endings, which, verdicts), min_size=1, max_size=3))
    def calls_end(self, ends: list[tuple[str, int, Any]]) -> None:
        for end, which, verdict in ends:
            self.a_call_ends(end, which, verdict)

    def a_call_ends(self, end: str, which: int, verdict: Any) -> None:
        model = self.model
        holders = [call for call in model.holders if call not in self.handed_over]
        granted = [call for call in holders if call.wait is not None]
        if end == "settle" and holders:
            call = holders[which % len(holders)]
            self.bulkhead.settle(call.permit, verdict)
            if call.wait is not None and call.wait.ticket is not None:
                call.wait.ticket.granted = False  # it was taken, or it could not be settled
            self.leaves(call)
        elif end == "cancel late" and granted:
            self.cancel(granted[which % len(granted)])
        elif self.locked:
            return
        elif end == "cancel" and model.waiters:
            self.cancel(model.waiters[which % len(model.waiters)])
        elif end == "give up" and model.waiters:
            self.give_up(model.waiters[which % len(model.waiters)])
        elif end == "give up late" and granted:
            self.give_up_late(granted[which % len(granted)])

    @rule(
        change=st.sampled_from(["resize", "resize", "lock", "lock", "stale", "fork"]),
        number=st.integers(1, 6),
        verdict=verdicts,
    )
    def the_world_changes(self, change: str, number: int, verdict: Any) -> None:
        if change == "stale" and self.stale:
            self.settle_a_stale_permit(number, verdict)
        elif self.locked:
            self.locked = False
            self.bulkhead._machine.lock.release()
            if number % 2:
                self.catch_up_really()
        elif change == "lock":
            self.locked = self.bulkhead._machine.lock.acquire(False)
            assert self.locked
        elif change == "resize":
            self.bulkhead.resize(number)
            self.model.capacity = number
            self.catch_up()
        elif change == "fork":
            self.fork()

    # -- what happens to calls -----------------------------------------------------------------------------------------

    def admit(self, patient: bool) -> None:
        model = self.model
        caller = self.bulkhead if patient else self.bulkhead.with_(max_wait=0)
        self.catch_up()
        if model.may_enter():
            permit = caller.admit()
            assert type(permit) is not Wait
            model.holders.append(Call(permit))
        elif patient and self.max_wait != 0 and model.may_wait():
            wait = caller.admit()
            assert type(wait) is Wait
            assert (wait.seconds, wait.permit) == (self.max_wait, self.bulkhead._machine.generation)
            model.waiters.append(Call(wait.permit, wait))
            model.queued += 1
        else:
            with pytest.raises(BulkheadFullError) as caught:
                caller.admit()
            assert caught.value.retry_after is None
            model.rejected += 1

    def cancel(self, call: Call) -> None:
        """Its place is free; if it was let in already, its slot goes to the next."""
        assert call.wait is not None
        self.bulkhead._forsake(call.wait)
        if call in self.model.waiters:
            self.model.waiters.remove(call)
        else:
            self.leaves(call)

    def give_up(self, call: Call) -> None:
        """It waited too long, unless what others handed over lets it in at the last moment."""
        assert call.wait is not None
        self.catch_up()
        late = call in self.model.holders
        assert self.bulkhead._withdraw(call.wait) is not late
        if not late:
            self.model.waiters.remove(call)
            self.model.rejected += 1

    def give_up_late(self, call: Call) -> None:
        assert call.wait is not None
        self.catch_up_really()
        before = self.everything()
        assert self.bulkhead._withdraw(call.wait) is False
        assert self.everything() == before

    def settle_a_stale_permit(self, number: int, verdict: Any) -> None:
        """A late result of an older generation changes nothing at all."""
        if not self.locked:
            self.catch_up_really()
        before = self.everything()
        self.bulkhead.settle(self.stale[number % len(self.stale)], verdict)
        if not self.locked:
            assert self.everything() == before

    def fork(self) -> None:
        """In the child: nothing in flight, nobody waits, and no permit of the parent counts."""
        model = self.model
        calls = model.holders + model.waiters
        self.stale += [call.permit for call in calls]
        self.bulkhead._machine.forked()
        model.holders.clear()
        model.waiters.clear()
        self.handed_over.clear()
        before = self.everything()
        for call in calls:
            if call.wait is not None:
                self.bulkhead._forsake(call.wait)
        assert self.everything() == before

    # -- what the model does about hand-overs --------------------------------------------------------------------------

    def leaves(self, call: Call) -> None:
        """A holder is done. While somebody else holds the lock, nobody sees that yet."""
        self.handed_over.append(call)
        if not self.locked:
            self.catch_up()

    def catch_up(self) -> None:
        for call in self.handed_over:
            self.model.holders.remove(call)
        self.handed_over.clear()
        self.model.let_in()

    def catch_up_really(self) -> None:
        self.bulkhead.statistics()
        self.catch_up()

    def everything(self) -> Any:
        machine = self.bulkhead._machine
        waiting = [(ticket, ticket.granted) for ticket in machine.queue]
        return machine.used, machine.capacity, machine.queued, machine.rejected, machine.generation, waiting

    # -- what always holds ---------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.locked)
    @invariant()
    def it_is_what_the_model_says(self) -> None:
        statistics = self.bulkhead.statistics()
        self.catch_up()
        model = self.model
        assert statistics == BulkheadStatistics(
            model.capacity, model.max_queue, len(model.holders), len(model.waiters), model.queued, model.rejected
        )
        assert self.bulkhead.at_rest == (not model.holders)
        assert all(call.granted for call in model.holders)
        assert not any(call.granted for call in model.waiters)
        assert list(self.bulkhead._machine.queue) == [call.wait.ticket for call in model.waiters if call.wait]

    @invariant()
    def nobody_waits_beside_a_free_slot(self) -> None:
        if not self.handed_over:
            assert not (self.model.waiters and self.model.may_enter())

    def teardown(self) -> None:
        if self.locked:
            self.bulkhead._machine.lock.release()


TestBulkheadMachine = BulkheadMachine.TestCase
TestBulkheadMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
