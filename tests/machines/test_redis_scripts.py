"""The machines in Lua against those in Python: the same operations at the same times must have the same answers.

The time goes in with every operation, so both see the same; all else is what a policy sends.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from resilience_redis._connections import understood
from resilience_redis._scripts import SCRIPTS

from resilience import MemoryStore
from resilience._courier import Operation
from resilience.testing import ManualClock

STEPS = st.sampled_from([0.0, 0.0, 0.125, 0.5, 1.0, 1.0 / 3.0, 2.0, 4.0, 9.0])
WHICH = st.integers(0, 20)
names = itertools.count()

settings.register_profile(
    "server", deadline=None, suppress_health_check=list(HealthCheck), max_examples=50, derandomize=True
)


class Both:
    """The two machines. The reply of the reference is what later operations may refer to."""

    def __init__(self, server: Any, kind: str) -> None:
        self._client = server.client()
        self._script = self._client.register_script(SCRIPTS[kind])
        self._clock = ManualClock(1024.0)
        self._memory = MemoryStore(clock=self._clock)
        self._kind = kind
        self._key = f"{kind}-{next(names)}"

    def at(self, step: float, verb: str, *arguments: Any) -> tuple[float, ...]:
        self._clock.advance(step)
        expected = self._memory.ask(Operation(self._kind, verb, "x", "none", arguments))
        words = [word if isinstance(word, str) else repr(word) for word in arguments]
        raw: Any = self._script(keys=[self._key], args=[repr(self._clock.now()), verb, *words])
        assert understood(raw) == expected, (verb, arguments)
        return expected

    def close(self) -> None:
        self._client.delete(self._key)
        self._client.close()


@pytest.fixture(scope="module")
def server(redis_for_answers: Any) -> Any:
    return redis_for_answers


COST = st.sampled_from([0.0, 0.25, 1.0, 1.0, 1.0 / 3.0, 2.0, 5.0])
LIMIT = st.sampled_from([(1.0, 4.0, 4.01), (0.25, 1.0, 1.0), (1.0 / 3.0, 1.0, 1.001), (60.0, 60.0, 60.0)])
PATIENCE = st.sampled_from([0.0, 0.5, 3.0, 1e300, -1.0])
limiter_steps = st.lists(
    st.tuples(
        st.sampled_from(["take"] * 5 + ["look", "charge", "refund", "refund", "reset"]), STEPS, COST, PATIENCE, WHICH
    ),
    max_size=25,
)


@given(rules=st.lists(LIMIT, min_size=1, max_size=3), steps=limiter_steps)
@settings(settings.get_profile("server"))
def test_a_rate_limit_is_the_same_in_both_languages(server: Any, rules: Any, steps: Any) -> None:
    both, marks = Both(server, "limiter"), []
    flat = [number for rule in rules for number in rule]
    for verb, step, cost, patience, which in steps:
        if verb in {"take", "look"}:
            reply = both.at(step, "take", float(verb == "take"), cost, patience, 1e300, *flat)
            marks.append(reply[5:])
        elif verb == "charge":
            both.at(step, "charge", cost, *flat[::3])
        elif verb == "refund" and marks and step < 0.2:
            both.at(0.0, "refund", *marks[-1 - which % min(3, len(marks))])
        elif verb == "reset":
            both.at(step, "reset")
    both.close()


@given(steps=st.lists(st.tuples(STEPS, st.integers(0, 3), st.integers(0, 3)), max_size=25))
@settings(settings.get_profile("server"))
def test_a_budget_is_the_same_in_both_languages(server: Any, steps: Any) -> None:
    both = Both(server, "budget")
    for step, deposits, withdrawals in steps:
        both.at(step, "exchange", 0.5, float(deposits), float(withdrawals))
    both.close()


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["acquire"] * 4 + ["renew", "release", "release", "count"]), STEPS, WHICH, WHICH),
        max_size=30,
    ),
    capacity=st.integers(1, 3),
)
@settings(settings.get_profile("server"))
def test_leases_are_the_same_in_both_languages(server: Any, steps: Any, capacity: int) -> None:
    both = Both(server, "bulkhead")
    for verb, step, one, other in steps:
        owner, another = f"o{one % 5}", f"o{other % 5}"
        match verb:
            case "acquire":
                both.at(step, "acquire", owner, 4.0, float(capacity))
            case "renew":
                both.at(step, "renew", 4.0, owner, another)
            case "release":
                both.at(step, "release", owner, another)
            case _:
                both.at(step, "count")
    both.close()


SETTINGS = st.tuples(
    st.just(4.0),
    st.just(4.0),
    st.sampled_from([-1.0, 0.5, 0.3]),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([-1.0, 2.0, 5.0]),
    st.sampled_from([1.0, 0.5]),
    st.just(2.0),
    st.sampled_from([4.0, 64.0]),
    st.sampled_from([3.0, 2.0]),
    st.sampled_from([1.0, 2.0]),
    st.just(8.0),
)
breaker_steps = st.lists(
    st.tuples(
        st.sampled_from(["report"] * 3 + ["probe"] * 3 + ["settle"] * 3 + ["isolate", "reset"]),
        STEPS,
        WHICH,
        st.sampled_from([1.0, 0.0, -1.0]),
        st.sampled_from([0.0, 0.0, 3.0, 1000.0]),
        st.sampled_from([1.0, 0.8, 1.2]),
        st.integers(0, 2),
    ),
    max_size=30,
)


@given(options=SETTINGS, steps=breaker_steps)
@settings(settings.get_profile("server"), max_examples=120)
def test_a_circuit_is_the_same_in_both_languages(server: Any, options: Any, steps: Any) -> None:
    both, leases, rounds = Both(server, "breaker"), [1.0], [0.0]
    for verb, step, which, verdict, retry_after, jitter, failures in steps:
        match verb:
            case "report":
                successes, slow = float(which % 3), float(which % 2)
                numbers = (rounds[-1 - which % min(2, len(rounds))], successes, float(failures), slow, float(failures))
                news = both.at(step, "report", *numbers, retry_after, jitter, *options)
            case "probe":
                lease, *_ = reply = both.at(step, "probe", jitter, *options)
                news = reply[1:]
                leases += [lease] if lease else []
            case "settle":
                lease = leases[-1 - which % min(3, len(leases))]
                news = both.at(step, "settle", lease, verdict, retry_after, jitter, *options)
            case _:
                news = both.at(step, verb)
        rounds.append(news[1])
    both.close()
