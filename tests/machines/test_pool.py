"""A pool against lists of items and of callers.

Callers come, create, check, give back, wait, give up and are cancelled by the steps of their acquisitions, without
threads or loops: what would be done on an errand is kept here and done when a rule says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience import Pool, PoolClosedError, PoolExhaustedError, PoolStatistics, _errand
from resilience._acquisition import Acquisition
from resilience._machine import ABANDONED, FAILURE, SUCCESS, Verdict
from resilience._slot import VACANT
from resilience._wait import Wait
from resilience.testing import ManualClock

IDLE_TIME, LIFETIME, FRESH = 30.0, 100.0, 0.5
which = st.integers(0, 1000)

COUNTS = ("borrowed", "created", "closed", "failed", "timed_out", "rejected")


class NoChance(random.Random):
    """Takes nothing off a lifetime."""

    def random(self) -> float:
        return 0.0


@dataclass(eq=False)
class Thing:
    """A slot: vacant while `number` is None."""

    number: int | None = None
    born: float = 0.0
    returned: float = 0.0
    doubtful: bool = False
    closing: bool = False


@dataclass(eq=False)
class Caller:
    """`stage` is wait, told (something was granted), create, check or hold."""

    stage: str
    permit: Any
    thing: Thing | None = None

    @property
    def way(self) -> Acquisition:
        assert isinstance(self.permit, Wait)
        assert isinstance(self.permit.decision, Acquisition)
        return self.permit.decision


@dataclass
class Model:
    """What a pool is, with `now` given to whatever needs it."""

    max_size: int
    min_idle: int
    max_queue: int
    checks: bool
    closes: bool
    things: list[Thing] = field(default_factory=list)
    idle: list[Thing] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    errands: list[tuple[str, Thing]] = field(default_factory=list)
    wary: bool = False
    shut: bool = False
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def waiting(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.stage == "wait"]

    def vacant(self) -> list[Thing]:
        return [thing for thing in self.things if thing.number is None]

    def closing(self) -> list[Thing]:
        return [thing for thing in self.things if thing.closing]

    def may_create(self) -> bool:
        return not (self.shut or len(self.things) >= self.max_size or (self.wary and self.vacant()))

    def reserve(self) -> Thing | None:
        if not self.may_create():
            return None
        self.things.append(Thing())
        return self.things[-1]

    def doom(self, thing: Thing) -> None:
        thing.closing = True
        if self.closes:
            self.errands.append(("close", thing))
        else:
            self.gone(thing)

    def gone(self, thing: Thing) -> None:
        self.things.remove(thing)
        self.counts["closed"] += thing.number is not None

    def evict(self, now: float) -> None:
        while self.idle:
            oldest = self.idle[0]
            too_old = oldest.born + LIFETIME <= now
            if not too_old and (len(self.idle) <= self.min_idle or oldest.returned + IDLE_TIME > now):
                return
            self.doom(self.idle.pop(0))

    def serve(self, now: float) -> Thing | None:
        while self.idle:
            newest = self.idle.pop()
            if newest.born + LIFETIME > now:
                return newest
            self.doom(newest)
        return self.reserve()

    def fill(self, now: float) -> None:
        for caller in self.waiting():
            thing = self.serve(now)
            if thing is None:
                return
            caller.stage, caller.thing = "told", thing

    def shelve(self, thing: Thing, now: float) -> None:
        open_things = [other for other in self.things if not other.closing]
        if self.shut or thing.born + LIFETIME <= now or len(open_things) > self.max_size:
            self.doom(thing)
            self.fill(now)
            return
        thing.returned = now
        for caller in self.waiting()[:1]:
            caller.stage, caller.thing = "told", thing
            return
        self.idle.append(thing)
        self.evict(now)

    def put(self, thing: Thing, verdict: Verdict, now: float) -> None:
        if verdict is ABANDONED or (verdict is FAILURE and not self.checks):
            self.doom(thing)
            self.fill(now)
        else:
            thing.doubtful = verdict is FAILURE
            self.shelve(thing, now)

    def due(self, thing: Thing, now: float) -> bool:
        return self.checks and (thing.doubtful or now - thing.returned > FRESH)

    def leave(self, caller: Caller, now: float) -> None:
        """It is cancelled, in whatever stage."""
        self.callers.remove(caller)
        thing = caller.thing
        if thing is None:
            return
        if thing.number is None:
            self.gone(thing)
            self.fill(now)
        elif caller.stage == "check":
            self.doom(thing)
            self.fill(now)
        else:
            thing.doubtful = self.due(thing, now)
            self.shelve(thing, now)

    def spare(self) -> Thing | None:
        refilling = any(kind == "refill" for kind, _ in self.errands)
        if refilling or self.wary or self.waiting() or len(self.idle) >= self.min_idle:
            return None
        return self.reserve()


class PoolMachine(RuleBasedStateMachine):
    """`locked` stands for another thread inside the lock: what comes back meanwhile is handed over."""

    def __init__(self) -> None:
        super().__init__()
        self.locked = False
        self.failing = False
        self.number = 0
        self.closed: list[int] = []
        self.errands: list[Callable[[], Any]] = []
        self.stale: list[Any] = []
        self.handed_over: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.started, _errand.start = _errand.start, lambda context, work: self.errands.append(work)

    @initialize(
        max_size=st.integers(1, 3),
        min_idle=st.sampled_from([0, 0, 1, 3]),
        max_queue=st.sampled_from([0, 1, 3, 3]),
        checks=st.booleans(),
        closes=st.sampled_from([True, True, False]),
    )
    def start(self, max_size: int, min_idle: int, max_queue: int, checks: bool, closes: bool) -> None:
        min_idle = min(min_idle, max_size)
        self.clock = ManualClock(1000.0)
        self.pool: Pool[int] = Pool(
            self.create,
            close=self.closed.append if closes else None,
            check=(lambda _: True) if checks else None,
            max_size=max_size,
            min_idle=min_idle,
            max_queue=max_queue,
            max_idle_time=IDLE_TIME,
            max_lifetime=LIFETIME,
            clock=self.clock,
            rng=NoChance(),
        )
        self.impatient = self.pool.with_(max_wait=0)
        self.model = Model(max_size, min_idle, max_queue, checks, closes)

    def create(self) -> int:
        if self.failing:
            raise OSError("down")
        self.number += 1
        return self.number

    # -- rules ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.locked)
    @rule(patience=st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=3))
    def callers_come(self, patience: list[bool]) -> None:
        for patient in patience:
            self.admit(patient)

    @rule(steps=st.lists(st.tuples(which, st.sampled_from(["good", "good", "good", "bad", "gone"])), max_size=4))
    def callers_go_on(self, steps: list[tuple[int, str]]) -> None:
        for number, how in steps:
            if self.model.callers:
                self.goes_on(self.model.callers[number % len(self.model.callers)], how)

    @precondition(lambda self: not self.locked)
    @rule(number=which, failing=st.sampled_from([False, False, True]))
    def an_errand_is_done(self, number: int, failing: bool) -> None:
        model, now = self.model, self.clock.now()
        if not model.errands:
            return
        place = number % len(model.errands)
        kind, thing = model.errands.pop(place)
        self.failing = failing
        self.errands.pop(place)()
        self.failing = False
        if kind == "close":
            assert self.closed[-1] == thing.number
            model.gone(thing)
            model.fill(now)
            return
        following: Thing | None = thing
        while following is not None:
            if failing:
                model.wary = True
                model.counts["failed"] += 1
                model.gone(following)
                model.fill(now)
                return
            self.made(following)
            following.doubtful = False
            model.shelve(following, now)
            following = model.spare()

    @precondition(lambda self: not self.locked)
    @rule(seconds=st.sampled_from([0.3, 0.3, 0.6, 0.6, 20.0, 30.0, 50.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(
        change=st.sampled_from(["lock", "lock", "lock", "resize", "resize", "stale", "stale", "fork", "shut"]),
        number=st.integers(1, 5),
        really=st.integers(0, 3),
    )
    def the_world_changes(self, change: str, number: int, really: int) -> None:
        model, now, stock = self.model, self.clock.now(), self.pool._machine
        if self.locked:
            self.locked = False
            stock.lock.release()
            self.pool.statistics()
            handed_over, self.handed_over = self.handed_over, []
            for apply, arguments in handed_over:
                apply(*arguments)
        elif change == "lock":
            self.locked = stock.lock.acquire(False)
            assert self.locked
        elif change == "resize":
            self.pool.resize(number)
            model.max_size = number
            while model.idle and len(model.things) - len(model.closing()) > number:
                model.doom(model.idle.pop(0))
            model.fill(now)
        elif change == "stale" and self.stale:
            before = self.everything()
            self.pool.settle(self.stale[number % len(self.stale)], (SUCCESS, FAILURE, ABANDONED)[really % 3])
            assert self.everything() == before
        elif change == "fork" and not really:
            self.fork()
        elif change == "shut" and not really:
            self.shut()

    # -- what callers do -----------------------------------------------------------------------------------------------

    def admit(self, patient: bool) -> None:
        model, now = self.model, self.clock.now()
        pool = self.pool if patient else self.impatient
        if model.shut:
            with pytest.raises(PoolClosedError):
                pool.admit()
            model.counts["rejected"] += 1
            return
        if not (model.idle and not model.waiting() and self.short_way(model.idle[-1], now)):
            model.evict(now)
        waiting = len(model.waiting())
        thing = None if waiting else model.serve(now)
        room = waiting < len(model.closing()) or (patient and waiting < model.max_queue)
        if thing is None and not room:
            with pytest.raises(PoolExhaustedError):
                pool.admit()
            model.counts["rejected"] += 1
            self.refill()
            return
        permit = pool.admit()
        if thing is None:
            assert type(permit) is Wait
            caller = Caller("wait", permit)
        elif thing.number is None or model.due(thing, now):
            assert type(permit) is Wait
            caller = Caller("create" if thing.number is None else "check", permit, thing)
            assert caller.way.item is not None
            assert caller.way.item.resource == thing.number
        else:
            assert type(permit) is not Wait
            assert permit.resource == thing.number
            caller = Caller("hold", permit, thing)
            model.counts["borrowed"] += 1
        model.callers.append(caller)
        self.refill()

    def short_way(self, thing: Thing, now: float) -> bool:
        """Whoever finds something to take at once does not look what else is to be done."""
        model = self.model
        return len(model.idle) > model.min_idle and thing.born + LIFETIME > now and not model.due(thing, now)

    def refill(self) -> None:
        if (thing := self.model.spare()) is not None:
            self.model.errands.append(("refill", thing))

    def goes_on(self, caller: Caller, how: str) -> None:
        model, now = self.model, self.clock.now()
        if any(caller in arguments for _, arguments in self.handed_over):
            return
        if caller.stage == "hold":
            verdict = {"good": SUCCESS, "bad": FAILURE, "gone": ABANDONED}[how]
            self.pool.settle(caller.permit, verdict)
            self.later(self.returns, caller, verdict, now)
        elif how == "gone":
            if caller.stage == "check":
                caller.way._touched = True
            self.pool._forsake(caller.permit)
            self.later(model.leave, caller, now)
        elif self.locked:
            return
        elif caller.stage == "create":
            self.creates(caller, how)
        elif caller.stage == "check":
            self.checks(caller, how)
        elif caller.stage == "told":
            self.arrives(caller)
        elif how == "bad":
            with pytest.raises(PoolExhaustedError):
                caller.way._arrive(False)
            model.callers.remove(caller)
            model.counts["timed_out"] += 1

    def later(self, apply: Callable[..., None], *arguments: Any) -> None:
        if self.locked:
            self.handed_over.append((apply, arguments))
        else:
            apply(*arguments)

    def returns(self, caller: Caller, verdict: Verdict, now: float) -> None:
        assert caller.thing is not None
        self.model.callers.remove(caller)
        self.model.put(caller.thing, verdict, now)

    def made(self, thing: Thing) -> None:
        thing.number = self.model.counts["created"] + 1
        thing.born = thing.returned = self.clock.now()
        self.model.counts["created"] += 1
        self.model.wary = False
        self.model.fill(self.clock.now())

    def creates(self, caller: Caller, how: str) -> None:
        model, thing, item = self.model, caller.thing, caller.way.item
        assert item is not None
        assert item.state is VACANT
        assert thing is not None
        if how == "good":
            caller.way._work()
            self.made(thing)
            self.takes(caller)
            return
        self.failing = True
        with pytest.raises(OSError, match="down"):
            caller.way._work()
        self.failing = False
        self.pool._forsake(caller.permit)  # which has nothing to give back any more
        model.callers.remove(caller)
        model.counts["failed"] += 1
        model.wary = True
        model.gone(thing)
        model.fill(self.clock.now())

    def checks(self, caller: Caller, how: str) -> None:
        model, now, thing, item = self.model, self.clock.now(), caller.thing, caller.way.item
        assert thing is not None
        assert item is not None
        caller.way._judge(item, how == "good")
        if how == "good":
            thing.doubtful, thing.returned = False, now
            self.takes(caller)
            return
        caller.stage, caller.thing = "wait", None
        model.callers.remove(caller)
        model.callers.insert(0, caller)  # before all who wait
        if model.shut:
            caller.stage = "told"
        model.doom(thing)
        model.fill(now)

    def arrives(self, caller: Caller) -> None:
        model, now, thing = self.model, self.clock.now(), caller.thing
        if thing is None:
            with pytest.raises(PoolClosedError):
                caller.way._arrive(True)
            model.callers.remove(caller)
            return
        caller.way._arrive(True)
        assert caller.way.item is not None
        assert caller.way.item.resource == thing.number
        if thing.number is None:
            caller.stage = "create"
        elif model.due(thing, now):
            caller.stage = "check"
        else:
            self.takes(caller)
        assert caller.stage == "hold" or not caller.way._ready

    def takes(self, caller: Caller) -> None:
        assert caller.way._ready
        assert caller.thing is not None
        caller.permit = caller.way._taken()
        assert caller.permit.resource == caller.thing.number
        caller.stage = "hold"
        self.model.counts["borrowed"] += 1

    def shut(self) -> None:
        model = self.model
        with self.pool._machine.lock:
            self.pool._machine.shut_locked()
        self.pool._machine.unlocked()
        model.shut = True
        while model.idle:
            model.doom(model.idle.pop(0))
        for caller in model.waiting():
            caller.stage = "told"

    def fork(self) -> None:
        """In the child: nothing at all, and what the parent has is neither used nor closed."""
        model, closed = self.model, list(self.closed)
        callers = list(model.callers)
        self.stale += [caller.permit for caller in callers if caller.stage == "hold"]
        inherited = {thing.number for thing in model.things if thing.number is not None}
        self.pool._machine.forked()
        model.things.clear()
        model.idle.clear()
        model.callers.clear()
        model.errands.clear()
        self.errands.clear()
        model.wary = False
        before = self.everything()
        for caller in callers:
            if type(caller.permit) is Wait:
                self.pool._forsake(caller.permit)
        assert self.everything() == before
        assert self.closed == closed
        assert inherited <= {item.resource for item in self.pool._machine.inherited}

    # -- what always holds ---------------------------------------------------------------------------------------------

    def everything(self) -> Any:
        stock = self.pool._machine
        items = sorted((id(item), item.state, item.doubtful, item.returned) for item in stock.items)
        queue = [(id(place), place.granted) for place in stock.queue]
        return items, list(map(id, stock.idle)), queue, self.pool.statistics(), stock.wary, stock.refilling

    @precondition(lambda self: not self.locked)
    @invariant()
    def it_is_what_the_model_says(self) -> None:
        model, statistics = self.model, self.pool.statistics()
        vacant, closing = len(model.vacant()), len(model.closing())
        assert statistics == PoolStatistics(
            max_size=model.max_size,
            min_idle=model.min_idle,
            size=len(model.things),
            in_use=len(model.things) - len(model.idle) - vacant - closing,
            idle=len(model.idle),
            creating=vacant,
            closing=closing,
            waiting=len(model.waiting()),
            leaked=0,
            wait_time=statistics.wait_time,
            longest_wait=statistics.longest_wait,
            **model.counts,
        )
        assert self.pool.at_rest == (not model.things)
        assert [item.resource for item in self.pool._machine.idle] == [thing.number for thing in model.idle]
        assert list(self.pool._machine.queue) == [caller.way.place for caller in model.waiting()]
        assert len(self.errands) == len(model.errands)

    @precondition(lambda self: not self.locked)
    @invariant()
    def nobody_waits_in_vain_and_nothing_is_lent_twice(self) -> None:
        model = self.model
        if model.waiting():
            assert not model.idle
            assert not model.may_create()
        lent = [caller.permit.resource for caller in model.callers if caller.stage == "hold"]
        assert len(lent) == len(set(lent))
        assert not set(lent) & set(self.closed)
        assert len(self.closed) == len(set(self.closed))

    def teardown(self) -> None:
        _errand.start = self.started
        if self.locked:
            self.pool._machine.lock.release()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
