"""The circuit breaker against a model that keeps every record and recomputes everything from scratch.

There are two machines with the same rules. One tries all settings and often listens, which makes each permit remember
when its call began. The other one never does, and then most successes take the short way through `settle`.
"""

from __future__ import annotations

import math
import random
from typing import Any, get_args

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience import CircuitBreaker, CircuitOpenError, CountWindow, Mode, TimeWindow, Verdict
from resilience._circuit import Circuit
from resilience.testing import ManualClock
from tests.machines.circuit_model import Call, Model, approx

NOW = 100.0
SUCCESS, FAILURE, ABANDONED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.ABANDONED


class OutageError(Exception):
    def __init__(self, retry_after: float | None) -> None:
        self.retry_after = retry_after


choices: dict[str, st.SearchStrategy[Any]] = {
    "window": st.sampled_from([TimeWindow(10.0, 5), TimeWindow(2.0, 1), CountWindow(4), CountWindow(1)]),
    "failure_rate": st.sampled_from([None, 0.25, 0.5, 0.75, 1.0]),
    "minimum_calls": st.integers(1, 6),
    "failure_threshold": st.sampled_from([None, None, 1, 2, 3]),
    "slow_call_duration": st.sampled_from([None, 0.5, 2.0]),
    "slow_call_rate": st.sampled_from([0.5, 1.0]),
    "recovery_time": st.sampled_from([0.25, 1.0, 3.0]),
    "max_recovery_time": st.sampled_from([3.0, 10.0]),
    "jitter": st.sampled_from([0.0, 0.0, 0.2]),
    "probe_lease": st.sampled_from([0.75, 2.0, 30.0]),
    "quota": st.sampled_from([(1, 1), (2, 1), (3, 2), (3, 3), (5, 2)]),
}


def can_open(chosen: dict[str, Any]) -> bool:
    return chosen["failure_rate"] is not None or chosen["failure_threshold"] is not None


options = st.fixed_dictionaries(choices).filter(
    lambda chosen: chosen["slow_call_duration"] or (chosen["slow_call_rate"] == 1.0 and can_open(chosen))
)
# Nothing to measure, and circuits that stay closed for a while.
unmeasured = st.fixed_dictionaries(
    {
        **choices,
        "window": st.sampled_from([TimeWindow(10.0, 5), TimeWindow(10.0, 5), TimeWindow(2.0, 1), CountWindow(4)]),
        "failure_rate": st.sampled_from([None, 0.5, 0.75, 1.0]),
        "minimum_calls": st.integers(3, 8),
        "failure_threshold": st.sampled_from([2, 3, 4]),
        "slow_call_duration": st.none(),
        "slow_call_rate": st.just(1.0),
    }
)
modes: st.SearchStrategy[Mode] = st.sampled_from([*get_args(Mode), "enabled", "enabled", "enabled"])
verdicts = st.sampled_from([SUCCESS, FAILURE, FAILURE, ABANDONED])
retry_afters = st.sampled_from([None, None, 0.0, 0.5, 5.0, 1e9, -1.0, math.nan, math.inf])


class Rules(RuleBasedStateMachine):
    breaker: CircuitBreaker
    model: Model

    def begin(self, options: dict[str, Any], seed: int, heard: bool) -> None:
        options["half_open_max_calls"], options["success_threshold"] = options.pop("quota")
        self.clock = ManualClock(NOW)
        self.heard: list[Any] = []
        self.listens = heard
        self.breaker = CircuitBreaker(
            clock=self.clock,
            rng=random.Random(seed),
            listeners=[self.heard.append] if heard else [],
            **options,
        )
        # A caller with other ideas of failure, on the same state.
        self.variant = self.breaker.with_(failure_on=())
        self.model = Model(options, random.Random(seed))
        self.calls: list[Call] = []
        self.quiet = False

    @rule(times=st.integers(1, 4), variant=st.booleans())
    def admit(self, times: int, variant: bool) -> None:
        for _ in range(times):
            self.admit_call(self.variant if variant else self.breaker)

    def admit_call(self, breaker: CircuitBreaker) -> Call | None:
        expected, wait = self.model.admit(self.clock.now())
        try:
            permit = breaker.admit()
        except CircuitOpenError as error:
            refusal = error
        else:
            assert expected is not None, "a call passed that should be refused"
            expected.permit = permit
            self.calls.append(expected)
            return expected
        assert expected is None, "a call was refused that should pass"
        assert refusal.retry_after == (None if wait is None else approx(wait))
        assert refusal.retry_after is None or refusal.retry_after > 0.0
        return None

    @rule(outcomes=st.lists(st.tuples(verdicts, st.integers(0, 3), retry_afters), min_size=1, max_size=6))
    def calls_one_after_the_other(self, outcomes: list[tuple[Verdict, int, float | None]]) -> None:
        for verdict, quarters, retry_after in outcomes:
            call = self.admit_call(self.breaker)
            self.clock.advance(quarters / 4)
            if call is not None:
                self.settle_call(call, verdict, retry_after)

    @rule(times=st.integers(1, 4), quarters=st.integers(0, 8))
    def successes(self, times: int, quarters: int) -> None:
        """What most calls are, several of them within one bucket."""
        for _ in range(times):
            call = self.admit_call(self.breaker)
            if call is not None:
                self.settle_call(call, SUCCESS, None)
        self.clock.advance(quarters / 4)

    @precondition(lambda self: self.model.mode == "enabled")
    @rule(retry_after=retry_afters, in_between=st.integers(0, 2))
    def an_outage(self, retry_after: float | None, in_between: int) -> None:
        """Calls fail until the circuit opens, in the hope that it does."""
        for _ in range(in_between):
            self.admit_call(self.breaker)
        for _ in range(6):
            call = self.admit_call(self.breaker)
            if call is not None:
                self.settle_call(call, FAILURE, retry_after)

    @precondition(lambda self: self.model.state == "open" and self.model.mode == "enabled")
    @rule(beyond=st.integers(0, 2), outcomes=st.lists(verdicts, max_size=6))
    def a_round_of_probes(self, beyond: int, outcomes: list[Verdict]) -> None:
        now = self.clock.now()
        self.clock.advance(max(0.0, self.model.until - now) + beyond / 4)
        probes = [self.admit_call(self.breaker) for _ in range(len(outcomes))]
        for probe, verdict in zip(probes, outcomes, strict=True):
            if probe is not None:
                self.settle_call(probe, verdict, None)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), verdict=verdicts, retry_after=retry_afters)
    def settle(self, data: st.DataObject, verdict: Verdict, retry_after: float | None) -> None:
        """Any call ever admitted, in any order, also one that was settled before."""
        call = data.draw(st.sampled_from(self.calls[-6:]), "call")
        if call.settled and call.period == self.model.period and self.model.state == "closed":
            return  # a generation number cannot tell whether it has been settled: that is for guards to know
        self.settle_call(call, verdict, retry_after)

    @precondition(lambda self: any(call.period != self.model.period for call in self.calls))
    @rule(data=st.data(), verdict=verdicts)
    def settle_late(self, data: st.DataObject, verdict: Verdict) -> None:
        stale = [call for call in self.calls if call.period != self.model.period]
        self.settle_call(data.draw(st.sampled_from(stale), "stale call"), verdict, None)

    def settle_call(self, call: Call, verdict: Verdict, retry_after: float | None) -> None:
        self.breaker.statistics()  # whatever time alone changes has happened before the picture is taken
        if self.model.mode != "disabled":
            self.model.watch_the_clock(self.clock.now())
        changes = self.model.settle(call, verdict, self.clock.now(), retry_after if verdict is FAILURE else None)
        before = None if changes else everything(self.breaker)
        call.settled = True
        self.hand_in(call, verdict, retry_after)
        if not changes:
            note("must change nothing")
            assert everything(self.breaker) == before

    def hand_in(self, call: Call, verdict: Verdict, retry_after: float | None) -> None:
        if verdict is FAILURE:
            self.breaker._fail(call.permit, OutageError(retry_after))
        else:
            self.breaker.settle(call.permit, verdict)

    @rule(quarters=st.integers(1, 12), quiet=st.booleans())
    def pass_time(self, quarters: int, quiet: bool) -> None:
        self.clock.advance(quarters / 4)
        self.quiet = quiet

    @precondition(lambda self: self.model.state in {"open", "half-open"})
    @rule(beyond=st.sampled_from([0.0, 0.0, 0.25, 20.0]), quiet=st.booleans())
    def pass_time_to_the_next_instant(self, beyond: float, quiet: bool) -> None:
        """To the very instant of the recovery, or of a lease's end."""
        now = self.clock.now()
        instants = [self.model.until, *(probe.expiry for probe in self.model.probes if probe.outcome == "running")]
        self.clock.advance(min((i - now for i in instants if i > now), default=0.0) + beyond)
        self.quiet = quiet

    @rule(mode=modes)
    def switch(self, mode: Mode) -> None:
        self.breaker.mode = self.model.mode = mode

    @rule(act=st.sampled_from(["nothing"] * 6 + ["isolate", "reset", "reset"]))
    def by_hand(self, act: str) -> None:
        if act != "nothing":
            getattr(self, act)()

    def isolate(self) -> None:
        self.breaker.isolate()
        if self.model.state != "isolated":
            self.model.enter("isolated")
            self.model.events.append(("CircuitOpened", self.clock.now(), None))

    def reset(self) -> None:
        self.breaker.reset()
        if self.model.state != "closed":
            self.model.events.append(("CircuitClosed", self.clock.now()))
        self.model.enter("closed")

    @invariant()
    def all_that_can_be_seen_is_as_the_model_says(self) -> None:
        if self.quiet:
            self.quiet = False
            return
        now, model = self.clock.now(), self.model
        if model.mode != "disabled":
            model.watch_the_clock(now)
        seen = self.breaker.statistics()
        inside = model.inside(now)
        assert seen.state.value == model.state
        assert self.breaker.state is self.variant.state is seen.state
        assert (seen.mode, self.variant.mode) == (model.mode, model.mode)
        assert seen.calls == len(inside)
        assert seen.failures == sum(failed for _, failed, _ in inside)
        assert seen.slow == sum(slow for _, _, slow in inside)
        assert seen.streak == model.streak()
        assert seen.reopened == model.reopened
        assert seen.probes == sum(probe.outcome == "running" for probe in model.probes)
        assert seen.rejected == model.rejected
        wait = model.wait(now)
        assert seen.retry_after == (approx(wait) if wait is not None and wait > 0.0 else None)

    @invariant()
    def the_listener_heard_what_happened_in_order(self) -> None:
        if self.listens:
            heard = [facts(event) for event in self.heard]
            assert len(heard) == len(self.model.events)
            for said, meant in zip(heard, self.model.events, strict=True):
                assert said[0] == meant[0]
                assert said[1:] == approx(meant[1:])
            self.heard.clear()
            self.model.events.clear()

    def teardown(self) -> None:
        for call in self.calls if hasattr(self, "calls") else []:
            if not call.settled:
                self.breaker.settle(call.permit, ABANDONED)


def everything(breaker: CircuitBreaker) -> list[Any]:
    """The whole state of the machine, copied."""
    machine = breaker._machine
    kind: Any = type(machine.window)
    window = {slot: repr(getattr(machine.window, slot)) for slot in kind.__slots__}
    return [(slot, repr(getattr(machine, slot))) for slot in Circuit.__slots__ if slot != "window"] + [
        *window.items(),
        machine.generation,
        machine.late,
        machine.outbox,
    ]


def facts(event: Any) -> tuple[Any, ...]:
    kind = type(event).__name__
    own: dict[str, tuple[Any, ...]] = {
        "CircuitOpened": (getattr(event, "recovery_time", None),),
        "CallRejected": (getattr(event, "retry_after", None), getattr(event, "shadow", None)),
        "CallSucceeded": (getattr(event, "duration", None), getattr(event, "slow", None)),
        "CallFailed": (getattr(event, "duration", None), None),
    }
    return (kind, event.time, *own.get(kind, ()))


class Breakers(Rules):
    @initialize(options=options, seed=st.integers(0, 3), heard=st.booleans())
    def start(self, options: dict[str, Any], seed: int, heard: bool) -> None:
        self.begin(options, seed, heard)


class UnmeasuredBreakers(Rules):
    @initialize(options=unmeasured, seed=st.integers(0, 3))
    def start(self, options: dict[str, Any], seed: int) -> None:
        self.begin(options, seed, heard=False)

    @rule(handed_over=st.sampled_from([FAILURE, SUCCESS]))
    def a_success_comes_behind_what_was_handed_over(self, handed_over: Verdict) -> None:
        """One outcome finds the lock taken, and the next one comes before anybody has looked at it."""
        calls = [call for call in (self.admit_call(self.breaker), self.admit_call(self.breaker)) if call is not None]
        now = self.clock.now()
        for call, verdict in zip(calls, [handed_over, SUCCESS], strict=False):
            self.model.settle(call, verdict, now, None)
            call.settled = True
        if calls:
            with self.breaker._machine.lock:
                self.hand_in(calls[0], handed_over, None)
        if len(calls) == 2:
            self.hand_in(calls[1], SUCCESS, None)
        self.breaker._machine.unlocked()


TestBreakers = Breakers.TestCase
TestBreakers.settings = settings(max_examples=200, stateful_step_count=30)
TestUnmeasuredBreakers = UnmeasuredBreakers.TestCase
TestUnmeasuredBreakers.settings = settings(max_examples=200, stateful_step_count=30)
