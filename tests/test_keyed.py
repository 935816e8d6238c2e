"""Keyed: a layer for each key, made when it is needed and forgotten when it is not."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Keyed,
    KeyedStatistics,
    KeyEvicted,
    Layer,
    Pipeline,
    RateLimiter,
)
from resilience.testing import ManualClock, recorded_events
from tests.conftest import Colour


def by_key(key: object, *_: object) -> object:
    return key


def slots(key: object) -> Bulkhead:
    return Bulkhead(1, name=str(key))


def in_use(keyed: Keyed) -> int:
    return keyed.statistics().in_use


# --- the layer of a key ----------------------------------------------------------------------------------------------


def test_each_key_has_a_layer_of_its_own(colour: Colour) -> None:
    made: list[str] = []

    def factory(host: str) -> CircuitBreaker:
        made.append(host)
        return CircuitBreaker(host, failure_threshold=1)

    def fetch(host: str) -> str:
        if host == "bad":
            raise OSError
        return host

    fetching = colour.guarded(Keyed(factory, key=by_key), fetch)
    with pytest.raises(OSError):
        fetching("bad")
    with pytest.raises(CircuitOpenError, match=r"^bad: "):
        fetching("bad")
    assert fetching("good") == "good"
    assert made == ["bad", "good"]


def test_functions_share_the_layer_of_a_key_and_are_not_confused(colour: Colour) -> None:
    keyed = Keyed(lambda key: RateLimiter(3, 60.0, name=key), key=by_key)
    functions = [colour.guarded(keyed, lambda key, number=number: (key, number)) for number in range(3)]
    assert [function("a") for function in functions] == [("a", 0), ("a", 1), ("a", 2)]
    assert functions[1]("b") == ("b", 1)
    with pytest.raises(Exception, match=r"^a: the rate limit is exceeded"):
        functions[0]("a")
    assert keyed.statistics() == KeyedStatistics(keys=2, in_use=0, created=2, evicted=0)


def test_the_key_is_found_from_all_arguments(colour: Colour) -> None:
    keyed = Keyed(slots, key=lambda host, *, port=80: (host, port))
    guarded = colour.guarded(keyed, lambda host, *, port=80: port)
    assert [guarded("a"), guarded("a", port=80), guarded("a", port=81)] == [80, 80, 81]
    assert keyed.statistics().keys == 2


def test_a_call_whose_key_is_none_is_not_guarded(colour: Colour) -> None:
    keyed = Keyed(lambda key: pytest.fail("no layer is wanted"), key=by_key)
    guarded = colour.guarded(keyed, lambda key: "done")
    assert guarded(None) == "done"
    with keyed.guard(None) as guard:
        guard.fail(OSError())
    assert keyed.statistics() == KeyedStatistics(0, 0, 0, 0)


def test_a_factory_that_raises_leaves_nothing_behind_and_is_asked_again(colour: Colour) -> None:
    answers: list[Any] = [ValueError("not now"), Bulkhead(1)]

    def factory(key: str) -> Layer:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Layer)
        return answer

    keyed = Keyed(factory, key=by_key)
    guarded = colour.guarded(keyed, lambda key: "done")
    with pytest.raises(ValueError, match="not now"):
        guarded("a")
    assert keyed.statistics() == KeyedStatistics(0, 0, 0, 0)
    assert guarded("a") == "done"


@pytest.mark.parametrize("answer", [None, 3, Bulkhead, lambda fn: fn], ids=repr)
def test_a_factory_has_to_return_a_layer(colour: Colour, answer: Any) -> None:
    keyed = Keyed(lambda key: answer, key=by_key)
    with pytest.raises(TypeError, match=r"^factory must return a layer, not "):
        colour.guarded(keyed, lambda key: key)("a")
    assert keyed.statistics().keys == 0


def test_a_key_that_cannot_be_hashed_is_a_clear_error(colour: Colour) -> None:
    keyed = Keyed(slots, key=by_key)
    with pytest.raises(TypeError, match=r"^key must return something hashable, not \['a'\]$"):
        colour.guarded(keyed, lambda key: key)(["a"])
    with pytest.raises(TypeError, match=r"^key must return something hashable, not \{\}$"):
        keyed.layer({})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert keyed.statistics() == KeyedStatistics(0, 0, 0, 0)


def test_a_factory_may_ask_the_same_keyed_for_another_key(clock: ManualClock) -> None:
    def factory(key: str) -> Layer:
        return Bulkhead(1) if key == "base" else Pipeline(keyed.layer("base"), Bulkhead(1))

    keyed = Keyed(factory, key=by_key)
    assert keyed(lambda key: key)("a") == "a"
    assert keyed.statistics().keys == 2


def test_settings_are_checked_when_it_is_made() -> None:
    async def async_key(*_: object) -> str:
        return "a"

    with pytest.raises(TypeError, match=r"^factory must be a callable that makes the layer of a key, not 3$"):
        Keyed(3, key=by_key)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    for wrong in (3, async_key):
        with pytest.raises(TypeError, match=r"^key must be a (callable of the call's arguments|plain function)"):
            Keyed(slots, key=wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"can change key, listeners, name, not max_keys"):
        Keyed(slots, key=by_key).with_(max_keys=3)


def test_a_variant_with_another_key_shares_the_layers(colour: Colour) -> None:
    keyed = Keyed(lambda key: RateLimiter(1, 60.0, name=key), key=by_key, name="hosts")
    variant = keyed.with_(key=lambda _ignored, key: key, name="others")
    assert colour.guarded(keyed, lambda key: key)("a") == "a"
    with pytest.raises(Exception, match=r"^hosts\[a\]: "):
        colour.guarded(variant, lambda *keys: keys)("b", "a")
    assert (variant.name, keyed.name) == ("others", "hosts")
    assert colour.guarded(keyed.with_(name="again"), lambda key: key)("c") == "c"
    assert keyed.statistics().keys == 2


def test_it_says_how_full_it_is(clock: ManualClock) -> None:
    keyed = Keyed(slots, key=by_key, max_keys=7, name="hosts")
    keyed.layer("a")
    assert repr(keyed) == "<Keyed hosts: 1 of 7 keys>"
    assert repr(Keyed(slots, key=by_key)) == "<Keyed unnamed: 0 of 1024 keys>"


# --- forgetting ------------------------------------------------------------------------------------------------------


def test_forgetting_is_told_with_the_key_and_the_reason(clock: ManualClock) -> None:
    """resilience4j's registry of keys grows without bound (L9)."""
    keyed = Keyed(slots, key=by_key, max_keys=2, idle_ttl=60.0, name="hosts")
    with recorded_events(KeyEvicted) as events:
        for key in ("a", "b", "a", "c"):
            keyed.layer(key)
        clock.advance(60.0)
        keyed.layer("d")
    assert [(event.policy, event.key, event.reason) for event in events] == [
        ("hosts", "b", "max_keys"),
        ("hosts", "a", "idle"),
        ("hosts", "c", "idle"),
    ]


def test_thousands_of_keys_never_exceed_the_bound(clock: ManualClock) -> None:
    keyed = Keyed(slots, key=by_key, max_keys=10)
    guarded = keyed(lambda key: key)
    for key in range(3000):
        assert guarded(key) == key
    assert keyed.statistics() == KeyedStatistics(keys=10, in_use=0, created=3000, evicted=2990)


def test_a_layer_that_would_lose_something_goes_last(clock: ManualClock) -> None:
    keyed = Keyed(lambda key: CircuitBreaker(failure_threshold=1), key=by_key, max_keys=2)

    @keyed
    def fetch(host: str) -> None:
        if host == "bad":
            raise OSError

    with pytest.raises(OSError):
        fetch("bad")
    for host in "abcd":
        fetch(host)
    with pytest.raises(CircuitOpenError):
        fetch("bad")


def test_a_key_in_use_for_longer_than_the_idle_time_was_just_used_when_it_ends(clock: ManualClock) -> None:
    """The idle time was once counted from the beginning of the last call."""
    keyed = Keyed(slots, key=by_key, idle_ttl=10.0)
    with keyed.using("a") as first:
        clock.advance(60.0)
    keyed.layer("b")
    assert keyed.layer("a") is first
    clock.advance(9.999)
    keyed.layer("c")
    assert keyed.layer("a") is first


def test_calls_beyond_the_bound_leave_no_more_than_the_bound_behind(clock: ManualClock) -> None:
    """Keys that came when all others were in use were once kept until yet another key was made."""
    keyed = Keyed(slots, key=by_key, max_keys=1)
    blocks = [keyed.using(key) for key in "abc"]
    for block in blocks:
        block.__enter__()
    assert keyed.statistics().keys == 3
    for block in blocks:
        block.__exit__(None, None, None)
    keyed.layer("c")
    assert len(keyed._machine.entries) == 1
    assert keyed.statistics() == KeyedStatistics(keys=1, in_use=0, created=3, evicted=2)


def test_what_was_idle_too_long_does_not_count_among_those_beyond_the_bound(clock: ManualClock) -> None:
    keyed = Keyed(slots, key=by_key, max_keys=1, idle_ttl=10.0)
    with recorded_events(KeyEvicted) as events, keyed.using("c"):
        with keyed.using("b"):
            with keyed.using("a"):
                assert keyed.statistics().keys == 3
            clock.advance(5.0)
        clock.advance(7.0)
        assert keyed.statistics() == KeyedStatistics(keys=1, in_use=1, created=3, evicted=2)
    assert [(event.key, event.reason) for event in events] == [("a", "idle"), ("b", "max_keys")]


class Nosy(Bulkhead):
    """A layer that does something when it is asked whether it is at rest: what another thread might do just then."""

    def __init__(self, when_asked: Callable[[], object]) -> None:
        super().__init__(1)
        self.when_asked = [when_asked]

    @property
    def at_rest(self) -> bool:
        if self.when_asked:
            self.when_asked.pop()()
        return super().at_rest


def test_a_layer_that_comes_into_use_while_room_is_made_stays(clock: ManualClock) -> None:
    def factory(key: str) -> Bulkhead:
        return Nosy(lambda: calls.enter_context(keyed.using(key))) if key == "a" else Bulkhead(1)

    keyed = Keyed(factory, key=by_key, max_keys=1)
    with recorded_events(KeyEvicted) as events, ExitStack() as calls:
        first = keyed.layer("a")
        keyed.layer("b")
        assert keyed.layer("a") is first
        assert in_use(keyed) == 1
    assert [event.key for event in events] == ["b"]


class Restless(Bulkhead):
    """A layer that is not at rest, unless it was made so, and counts how often it is asked."""

    asked = 0

    def __init__(self, resting: bool) -> None:
        super().__init__(1)
        self.resting = resting

    @property
    def at_rest(self) -> bool:
        Restless.asked += 1
        return self.resting


@pytest.mark.parametrize("resting, gone", [(63, 63), (64, 0)])
def test_making_room_asks_a_few_layers_however_many_there_are(resting: int, gone: int) -> None:
    """The least recently used one at rest goes; if the first 64 are not at rest, the first of all."""
    keyed = Keyed(lambda key: Restless(key == resting), key=lambda key: key, max_keys=1000)
    for key in range(1000):
        keyed.layer(key)
    Restless.asked = 0
    with recorded_events(KeyEvicted) as events:
        keyed.layer("one too many")
    assert [event.key for event in events] == [gone]
    assert Restless.asked == 64


def test_a_layer_that_is_forgotten_twice_counts_once(clock: ManualClock) -> None:
    keyed = Keyed(lambda key: Nosy(lambda: keyed.statistics()), key=by_key, max_keys=1)  # noqa: PLW0108 - not yet there
    with recorded_events(KeyEvicted) as events:
        for key in "ab":
            keyed.layer(key)
    assert [event.key for event in events] == ["a"]
    assert keyed.statistics() == KeyedStatistics(keys=1, in_use=0, created=2, evicted=1)


def test_it_is_at_rest_when_all_its_layers_are_and_no_call_is_in_flight(clock: ManualClock) -> None:
    keyed = Keyed(lambda key: RateLimiter(1, 10.0), key=by_key)
    guarded = keyed(lambda key: keyed.at_rest)
    assert keyed.at_rest
    assert guarded("a") is False
    assert not keyed.at_rest
    clock.advance(10.0)
    assert keyed.at_rest
    with keyed.using("a"):
        assert not keyed.at_rest


# --- memory, threads and forks ---------------------------------------------------------------------------------------


def test_functions_made_for_one_call_leave_nothing_behind(colour: Colour) -> None:
    """Every function ever called was once kept with the layer of its key: a lambda per request, for ever."""

    class Payload:
        pass

    keyed = Keyed(slots, key=lambda: "a")
    alive: list[weakref.ref[Payload]] = []
    for number in range(50):
        payload = Payload()
        alive.append(weakref.ref(payload))
        body = colour.function(lambda payload=payload: payload is not None)
        call: Callable[..., Any] = keyed.call if number % 2 else lambda fn: keyed(fn)()
        assert colour.run(call(body)) is True
        del payload, body
    gc.collect()
    assert [ref() for ref in alive if ref() is not None] == []


def test_a_function_is_bound_once_to_the_layer_of_a_key_and_forgets_those_that_are_gone(clock: ManualClock) -> None:
    bound: list[object] = []
    alive: list[weakref.ref[Any]] = []

    class Counting(Bulkhead):
        def _wrap_sync(self, fn: Any) -> Any:
            bound.append(self.name)
            return super()._wrap_sync(fn)

    def factory(key: object) -> Layer:
        layer = Counting(1, name=str(key))
        alive.append(weakref.ref(layer._machine))  # what is kept is a variant of the layer, with the name of the key
        return layer

    keyed = Keyed(factory, key=by_key, max_keys=4)
    guarded = keyed(lambda key: key)
    for _ in range(10):
        assert [guarded("a"), guarded("b")] == ["a", "b"]
    assert bound == ["a", "b"]
    for key in range(500):
        guarded(key)
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 4 + 16
    assert len(bound) == 502


def test_threads_share_the_layers_and_lose_no_count() -> None:
    keyed = Keyed(lambda key: Bulkhead(1000), key=by_key, max_keys=5)

    @keyed
    def work(key: int) -> int:
        return key

    def hammer(seed: int) -> int:
        return sum(work((seed * 7 + step) % 12) == (seed * 7 + step) % 12 for step in range(400))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(hammer, range(8))) == 8 * 400
    statistics = keyed.statistics()
    assert (statistics.in_use, statistics.keys) == (0, 5)
    assert statistics.created - statistics.evicted == 5
    assert keyed.at_rest


def test_of_two_layers_made_at_once_for_a_key_one_is_used_by_both(clock: ManualClock) -> None:
    made: list[Bulkhead] = []

    def factory(key: str) -> Bulkhead:
        layer = Bulkhead(2)
        made.append(layer)
        if len(made) == 1:
            assert shares_state(keyed.layer(key), made[1])  # another thread, in effect: it comes in between
        return layer

    keyed = Keyed(factory, key=by_key)
    assert shares_state(keyed.layer("a"), made[1])
    assert len(made) == 2
    assert keyed.statistics() == KeyedStatistics(1, 0, 1, 0)


def test_the_child_of_a_fork_has_the_layers_and_no_calls_in_flight(clock: ManualClock) -> None:
    """A call of the parent that ended in the child once took away the count of one that had begun there."""
    keyed = Keyed(lambda key: Bulkhead(5), key=by_key)
    parents = keyed.using("a")
    layer = parents.__enter__()
    pid = os.fork()
    if pid == 0:
        verdict = [in_use(keyed) == 0]
        own = keyed.using("a")
        verdict.append(own.__enter__() is layer)
        parents.__exit__(None, None, None)
        verdict.append(in_use(keyed) == 1)
        own.__exit__(None, None, None)
        verdict.append(in_use(keyed) == 0)
        os._exit(0 if all(verdict) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert in_use(keyed) == 1
    parents.__exit__(None, None, None)
    assert in_use(keyed) == 0


def shares_state(variant: Any, layer: Any) -> bool:
    return variant._machine is layer._machine
