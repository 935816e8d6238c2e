"""Which key it was: layers made by a Keyed name it in their events and errors."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest
import tenacity

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CallTimedOut,
    CallTimeoutError,
    CircuitBreaker,
    CircuitOpened,
    CircuitOpenError,
    Event,
    Keyed,
    KeyEvicted,
    Layer,
    MemoryStore,
    Pipeline,
    Policy,
    RateLimiter,
    RateLimitExceededError,
    Retry,
    RetryBudget,
    RetryScheduled,
    Timeout,
    correlated,
)
from resilience.testing import ManualClock, recorded_events, run

from .conftest import Colour


def first(key: Hashable) -> Hashable:
    return key


def named(made: Callable[[Any], Layer], key: Hashable = "eu-west", name: str | None = "orders") -> Any:
    layer = Keyed(made, key=first, name=name).layer(key)
    assert isinstance(layer, Policy)
    return layer.name


def fails(key: str) -> None:
    raise OSError(key)


def test_events_and_errors_of_a_key_name_it(colour: Colour) -> None:
    keyed = Keyed(lambda key: CircuitBreaker(failure_threshold=1, jitter=0.0), key=first, name="orders")
    guarded = colour.guarded(keyed, fails)
    with recorded_events() as events:
        for key in ("eu-west", "us-east"):
            with pytest.raises(OSError):
                guarded(key)
        with pytest.raises(CircuitOpenError, match=r"^orders\[us-east\]: the circuit is open; retry after") as refused:
            guarded("us-east")
    assert refused.value.policy == "orders[us-east]"
    told = [(type(event), event.policy, event.key) for event in events if type(event) in (CircuitOpened, CallRejected)]
    assert told == [
        (CircuitOpened, "orders[eu-west]", "eu-west"),
        (CircuitOpened, "orders[us-east]", "us-east"),
        (CallRejected, "orders[us-east]", "us-east"),
    ]


def test_a_guard_names_the_key_too(colour: Colour) -> None:
    keyed = Keyed(lambda key: Bulkhead(1), key=first, name="orders")
    guard = keyed.guard("eu-west")
    colour.enter(guard)
    with recorded_events() as events, pytest.raises(BulkheadFullError, match=r"^orders\[eu-west\]: "):
        colour.enter(keyed.guard("eu-west"))
    assert [(event.policy, event.key) for event in events] == [("orders[eu-west]", "eu-west")]
    colour.exit(guard)


def test_the_name_of_the_policy_comes_before_that_of_the_keyed() -> None:
    assert named(lambda key: Bulkhead(1)) == "orders[eu-west]"
    assert named(lambda key: Bulkhead(1, name="slots")) == "slots[eu-west]"
    assert named(lambda key: Bulkhead(1), name=None) == "keyed[eu-west]"
    assert named(lambda key: Bulkhead(1, name="slots"), name=None) == "slots[eu-west]"
    assert named(lambda key: Bulkhead(1, name="eu")) == "eu[eu-west]"


def test_a_policy_named_after_its_key_says_it_once() -> None:
    assert named(CircuitBreaker) == "orders[eu-west]"
    assert named(CircuitBreaker, name=None) == "eu-west"
    assert named(lambda key: CircuitBreaker(str(key)), key=8080) == "orders[8080]"
    assert named(lambda key: CircuitBreaker(str(key)), key=8080, name=None) == "8080"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Lines:
    def __repr__(self) -> str:
        return "one\ntwo\x1b[31m"


@pytest.mark.parametrize(
    "key,told",
    [
        (8080, "8080"),
        (("eu", 1), "('eu', 1)"),
        (b"eu", "b'eu'"),
        ("a" * 58, "a" * 58),
        ("a" * 10_000, "'" + "a" * 59 + "…"),
        ("two\nlines", "'two\\nlines'"),
        ("it's", "it's"),
        ("", ""),
        (10**400, "an int of 1329 bits"),
        (Broken(), "a Broken whose repr raises RuntimeError"),
        (Lines(), "one?two?[31m"),
    ],
    ids=lambda value: str(value)[:10] if isinstance(value, str) else type(value).__name__,
)
def test_a_key_is_told_briefly_and_without_breaking_the_line(key: Hashable, told: str) -> None:
    keyed = Keyed(lambda key: Bulkhead(1), key=first, name="orders")
    with keyed.guard(key), recorded_events() as events, pytest.raises(BulkheadFullError), keyed.guard(key):
        pass
    assert events[0].policy == f"orders[{told}]"
    assert events[0].key is key, "the event has the key itself"


def test_every_policy_of_a_pipeline_names_the_key() -> None:
    def factory(key: str) -> Layer:
        return Pipeline(correlated, Pipeline(Timeout(5.0, name="total")), Bulkhead(1), name="inner")

    layer = Keyed(factory, key=first, name="orders").layer("eu-west")
    assert repr(layer) == (
        "<Pipeline inner: correlated > <Pipeline unnamed: <Timeout total[eu-west]: 5 s>> >"
        " <Bulkhead orders[eu-west]: 0 of 1 in use, 0 of 0 waiting>>"
    )


def test_a_layer_of_a_key_shares_the_state_of_what_the_factory_returned() -> None:
    made: dict[str, Bulkhead] = {}
    keyed = Keyed(lambda key: made.setdefault(key, Bulkhead(1, name="slots")), key=first)
    with keyed.guard("a"):
        assert made["a"].statistics().in_use == 1
    assert made["a"].name == "slots", "what belongs to the caller stays as it is"


def test_one_policy_under_several_keys_tells_through_which_it_was_used() -> None:
    shared = Bulkhead(1, name="shared")
    keyed = Keyed(lambda key: shared, key=first)
    with (
        keyed.guard("a"),
        recorded_events() as events,
        pytest.raises(BulkheadFullError, match=r"^shared\[b\]: "),
        keyed.guard("b"),
    ):
        pass
    assert [(event.policy, event.key) for event in events] == [("shared[b]", "b")]


def test_keyed_layers_inside_keyed_layers_name_both_keys() -> None:
    inner = Keyed(lambda tenant: Bulkhead(1), key=lambda region, tenant: tenant)
    outer = Keyed(lambda region: Keyed(lambda tenant: Bulkhead(1), key=lambda r, t: t), key=lambda r, t: r, name="db")
    with (
        outer.guard("eu", "acme"),
        recorded_events() as events,
        pytest.raises(BulkheadFullError, match=r"^db\[eu\]\[acme\]: "),
        outer.guard("eu", "acme"),
    ):
        pass
    assert [event.key for event in events] == ["acme"]
    borrowed = Keyed(lambda region: inner.layer("acme"), key=first, name="borrowed").layer("eu")
    assert isinstance(borrowed, Policy)
    assert borrowed.name == "keyed[acme]", "the policy of another Keyed keeps its name"


def test_a_limiter_with_keys_of_its_own_tells_those() -> None:
    keyed = Keyed(lambda region: RateLimiter(1, key=lambda region, user: user), key=lambda r, u: r, name="api")
    guarded = keyed(lambda region, user: None)
    guarded("eu", "ann")
    with recorded_events() as events, pytest.raises(RateLimitExceededError, match=r"^api\[eu\]: "):
        guarded("eu", "ann")
    assert [event.key for event in events] == ["ann"]


def test_retry_and_timeout_name_the_key(clock: ManualClock) -> None:
    prepared: list[RetryScheduled] = []

    def factory(key: str) -> Layer:
        return Pipeline(
            Retry(CallTimeoutError, attempts=2, wait=tenacity.wait_none(), before_retry=prepared.append), Timeout(1.0)
        )

    async def hangs(key: str) -> None:
        await clock.asleep(10.0)

    guarded = Keyed(factory, key=first, name="orders")(hangs)
    late = pytest.raises(CallTimeoutError, match=r"^orders\[eu\]: the call took longer")
    with recorded_events(CallTimedOut, RetryScheduled) as events, late:
        run(guarded("eu"), clock)
    assert {(event.policy, event.key) for event in [*events, *prepared]} == {("orders[eu]", "eu")}
    assert len(prepared) == 1


def test_what_a_keyed_says_about_itself_has_its_own_name() -> None:
    heard: list[Event] = []
    keyed = Keyed(lambda key: Bulkhead(1), key=first, name="orders", max_keys=1, listeners=[heard.append])
    keyed.layer("a")
    keyed.layer("b")
    assert [(type(event), event.policy, event.key) for event in heard] == [(KeyEvicted, "orders", "a")]


def test_layers_that_are_no_policies_and_policies_with_a_fixed_name_stay_as_they_are() -> None:
    class Fixed(Policy):
        def __init__(self) -> None:
            super().__init__("fixed", None, ())

    fixed = Fixed()
    assert Keyed(lambda key: fixed, key=first).layer("a") is fixed
    assert Keyed(lambda key: correlated, key=first).layer("a") is correlated


# -- the names of shared states ----------------------------------------------------------------------------------------

SHARED: dict[str, Callable[[str, MemoryStore], Layer]] = {
    "breaker": lambda name, store: CircuitBreaker(name, store=store),
    "limiter": lambda name, store: RateLimiter(5, name=name, store=store),
    "bulkhead": lambda name, store: Bulkhead(1, name=name, store=store),
    "one of several": lambda name, store: Pipeline(Timeout(5.0), Bulkhead(1, name=name, store=store)),
    "budget": lambda name, store: Retry(OSError, budget=RetryBudget(name=name, store=store)),
}
shared = pytest.mark.parametrize("make", SHARED.values(), ids=SHARED.keys())


@shared
def test_keys_whose_policies_would_share_one_state_are_refused(make: Callable[[str, MemoryStore], Layer]) -> None:
    """They looked like policies of their own, and one bad host opened the circuits of all."""
    store = MemoryStore()
    keyed = Keyed(lambda _: make("hosts", store), key=first)
    guarded = keyed(str.upper)
    assert guarded("a") == guarded("a") == "A"
    with pytest.raises(ValueError, match=r"^factory must .*, but names two 'hosts', .*: put the key into the name$"):
        guarded("b")
    assert (guarded("a"), keyed.statistics().keys) == ("A", 1)


@shared
def test_keys_with_names_or_stores_of_their_own_are_kept_apart(make: Callable[[str, MemoryStore], Layer]) -> None:
    store = MemoryStore()
    by_name = Keyed(lambda key: make(f"hosts-{key}", store), key=first)
    by_store = Keyed(lambda _: make("hosts", MemoryStore()), key=first)
    for keyed in (by_name, by_store):
        assert [keyed(str.upper)(key) for key in "ab"] == ["A", "B"]


def test_keys_may_be_given_one_policy_on_purpose() -> None:
    both = Bulkhead(1, name="hosts", store=MemoryStore())
    guarded = Keyed(lambda _: both, key=first)(str.upper)
    assert [guarded("a"), guarded("b")] == ["A", "B"]


def test_a_key_that_was_forgotten_gives_the_name_of_its_shared_state_back(clock: ManualClock) -> None:
    store = MemoryStore()
    keyed = Keyed(lambda key: Bulkhead(1, name=key[0], store=store), key=first, max_keys=1)
    guarded = keyed(str.upper)
    assert [guarded(key) for key in ("a1", "b", "a2", "b")] == ["A1", "B", "A2", "B"]
    with pytest.raises(ValueError, match="names two 'b'"):
        guarded("b2")
