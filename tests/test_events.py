"""Events: frozen facts in the past tense, and the listeners that hear them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import tenacity
from structlog.testing import CapturingLogger

from resilience import (
    Bulkhead,
    CallFailed,
    CallQueued,
    CallRejected,
    CallSucceeded,
    CallTimedOut,
    CircuitBreaker,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    Event,
    KeyEvicted,
    KeysOverflowed,
    LeaseLost,
    PoolCreationFailed,
    PoolResourceClosed,
    PoolResourceCreated,
    PoolResourceLeaked,
    ProbeExpired,
    RateLimiter,
    Retry,
    RetryScheduled,
    RetryStopped,
    StoreRecovered,
    StoreUnavailable,
    bound,
    events,
    log_events,
    subscribe,
)
from resilience.testing import ManualClock, recorded_events
from tests.conftest import Colour

KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
FACTS: dict[str, Any] = {
    "policy": "payments",
    "on_error": "local",
    "time": 5.0,
    "reason": "failure_rate",
    "recovery_time": 5.0,
    "seconds": 2.0,
    "duration": 0.1,
    "attempt": 1,
    "attempts": 3,
    "wait": 0.5,
    "error": None,
    "timeout": 3.0,
    "max_keys": 7,
    "age": 60.0,
    "stack": "File ...",
}


def made(kind: type[Event], **facts: Any) -> Event:
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in {**FACTS, **facts}.items() if name in fields})


@pytest.fixture(autouse=True)
def nothing_reported() -> Iterator[None]:
    """Which listeners have failed is remembered by the module; each test starts afresh."""
    events._reported.clear()
    yield
    events._reported.clear()


# --- the events themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_event_is_a_frozen_slotted_value_with_keyword_facts(kind: type[Event]) -> None:
    event = made(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.time = 6.0  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(event, "__dict__")
    assert event == made(kind) != made(kind, time=6.0)
    assert hash(event) == hash(made(kind))
    assert pickle.loads(pickle.dumps(event)) == event
    assert (event.policy, event.time, event.correlation_id, event.key) == ("payments", 5.0, None, None)
    with pytest.raises(TypeError):
        kind("payments", 5.0)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def test_the_names_are_in_the_past_tense_and_public() -> None:
    import resilience

    assert len(KINDS) == 21
    endings = ("ed", "out", "Out", "Lost", "Unavailable")
    assert all(kind.__name__.endswith(endings) for kind in KINDS if kind is not Event)
    assert all(getattr(resilience, kind.__name__) is kind for kind in KINDS)


# --- subscribing -----------------------------------------------------------------------------------------------------


def trip(breaker: CircuitBreaker) -> None:
    breaker.isolate()
    breaker.reset()


def test_a_subscriber_hears_every_policy_and_a_listener_its_own(clock: ManualClock) -> None:
    heard: list[Event] = []
    own: list[Event] = []
    one, other = CircuitBreaker("one", listeners=[own.append]), CircuitBreaker("other")
    with subscribe(heard.append):
        trip(one)
        trip(other)
    assert [(event.policy, type(event)) for event in heard] == [
        ("one", CircuitOpened),
        ("one", CircuitClosed),
        ("other", CircuitOpened),
        ("other", CircuitClosed),
    ]
    assert own == heard[:2]


def test_a_subscription_can_be_to_types_and_to_their_subtypes(clock: ManualClock) -> None:
    class Loudly(CircuitOpened):
        pass

    opened: list[Event] = []
    both: list[Event] = []
    everything: list[Event] = []
    with (
        subscribe(opened.append, CircuitOpened),
        subscribe(both.append, CircuitOpened, CircuitClosed),
        subscribe(everything.append, Event),
    ):
        trip(CircuitBreaker("one"))
        events.deliver(made(Loudly), ())
    assert [type(event) for event in opened] == [CircuitOpened, Loudly]
    assert [type(event) for event in both] == [CircuitOpened, CircuitClosed, Loudly]
    assert both == everything


def test_a_cancelled_subscription_hears_nothing_more_and_may_be_cancelled_again(clock: ManualClock) -> None:
    heard: list[Event] = []
    breaker = CircuitBreaker("one")
    first, second = subscribe(heard.append), subscribe(heard.append)
    first.cancel()
    trip(breaker)
    assert len(heard) == 2
    first.cancel()
    second.cancel()
    second.cancel()
    trip(breaker)
    assert len(heard) == 2


def test_a_subscription_ends_with_its_block_even_if_that_raises(clock: ManualClock) -> None:
    heard: list[Event] = []
    with pytest.raises(KeyError), subscribe(heard.append):
        raise KeyError
    trip(CircuitBreaker("one"))
    assert heard == []


def test_a_subscription_cancelled_by_two_threads_at_once_is_cancelled() -> None:
    subscriptions = [subscribe(print) for _ in range(200)]
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def cancel_all() -> None:
        barrier.wait(10)
        try:
            for subscription in subscriptions:
                subscription.cancel()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=cancel_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert events.SUBSCRIBERS == []


def test_a_subscription_says_who_listens_to_what() -> None:
    with subscribe(print, CircuitOpened, CircuitClosed) as some, subscribe(print) as everything:
        assert repr(some) == "<Subscription of <built-in function print> to CircuitOpened, CircuitClosed>"
        assert repr(everything) == "<Subscription of <built-in function print> to Event>"


def test_only_plain_callables_and_event_types_can_be_subscribed() -> None:
    async def listener(event: Event) -> None: ...

    with pytest.raises(TypeError, match=r"^a listener must be callable with one event, not 3$"):
        subscribe(3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"^a listener must be a plain function, not the asynchronous"):
        subscribe(listener)
    wrong_types: list[Any] = [int, "CircuitOpened", made(CircuitOpened), list[int], None]
    for wrong in wrong_types:
        with pytest.raises(TypeError, match=r"^subscribe takes event types such as CircuitOpened, not "):
            subscribe(print, wrong)
    assert events.SUBSCRIBERS == []


# --- delivery --------------------------------------------------------------------------------------------------------


def test_events_carry_policy_time_and_correlation_id(colour: Colour, clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, name="db")
    bulkhead.admit()
    clock.advance(2.0)
    with recorded_events(CallRejected) as heard, bound("request"), pytest.raises(Exception, match="full"):
        colour.guarded(bulkhead, lambda: None)()
    assert heard == [CallRejected(policy="db", time=1002.0, correlation_id="request", retry_after=None)]


def test_events_of_a_keyed_policy_carry_the_key(colour: Colour) -> None:
    limiter = RateLimiter(1, 10.0, key=lambda user: user, name="search")
    guarded = colour.guarded(limiter, lambda user: user)
    with recorded_events(CallRejected) as heard:
        guarded("ann")
        guarded("bob")
        with pytest.raises(Exception, match="search"):
            guarded("ann")
    assert [(event.key, event.retry_after) for event in heard] == [("ann", 10.0)]


def test_listeners_come_before_subscribers_each_in_order(clock: ManualClock) -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[Event], None]:
        return lambda event: order.append(f"{name} {type(event).__name__}")

    breaker = CircuitBreaker("one", listeners=[note("own 1"), note("own 2")])
    with subscribe(note("all 1")), subscribe(note("all 2")):
        trip(breaker)
    audience = ["own 1", "own 2", "all 1", "all 2"]
    kinds = ["CircuitOpened", "CircuitClosed"]
    assert order == [f"{listener} {kind}" for kind in kinds for listener in audience]


def test_an_event_caused_by_a_listener_comes_after_the_one_it_hears(clock: ManualClock) -> None:
    """Listeners that ran under the lock deadlocked or re-entered in Polly and gobreaker (B12)."""
    breaker = CircuitBreaker("one")
    order: list[type[Event]] = []

    def reset(event: Event) -> None:
        if isinstance(event, CircuitOpened):
            breaker.reset()

    with subscribe(reset), recorded_events() as heard:
        breaker.isolate()
    order += [type(event) for event in heard]
    assert order == [CircuitOpened, CircuitClosed]
    assert breaker.state.value == "closed"


def test_a_listener_that_raises_breaks_nothing_and_is_logged_once(
    colour: Colour, caplog: pytest.LogCaptureFixture
) -> None:
    """One flaky listener broke calls in interlock and in tenacity's `before_sleep` (B13)."""

    def flaky(event: Event) -> None:
        raise ZeroDivisionError("flaky")

    heard: list[Event] = []
    breaker = CircuitBreaker("one", listeners=[flaky, heard.append])
    guarded = colour.guarded(breaker, lambda: "done")
    with caplog.at_level(logging.ERROR, "resilience"):
        assert [guarded() for _ in range(3)] == ["done"] * 3
    assert len(heard) == 3
    assert len(caplog.records) == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("listener <function ")
    assert record.getMessage().endswith(" failed on CallSucceeded; reported once")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_a_listener_cannot_cancel_the_call_it_hears_of(colour: Colour, caplog: pytest.LogCaptureFixture) -> None:
    """Asking a cancelled future for its result raises CancelledError, which passed for a real one."""

    def confused(event: Event) -> None:
        raise asyncio.CancelledError

    guarded = colour.guarded(Bulkhead(1, listeners=[confused]), lambda: "done")
    breaker = colour.guarded(CircuitBreaker(listeners=[confused]), lambda: "done")
    assert (guarded(), breaker()) == ("done", "done")
    assert len(caplog.records) == 1


def test_a_keyboard_interrupt_in_a_listener_is_not_swallowed(clock: ManualClock) -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with subscribe(interrupted), pytest.raises(KeyboardInterrupt):
        trip(CircuitBreaker("one"))


def test_every_failing_listener_is_reported_even_if_its_place_in_memory_was_another_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Failures were remembered by the listener's id, which a new listener inherits when the old one is gone."""
    logged: list[str] = []
    # Not by way of `caplog`, whose records would keep the listeners alive.
    monkeypatch.setattr(events._log, "exception", lambda message, *args: logged.append(message))

    def failing() -> Callable[[Event], object]:
        return lambda event: 1 // 0

    for _ in range(40):
        with subscribe(failing()):
            events.deliver(made(CircuitOpened), ())
            events.deliver(made(CircuitOpened), ())
    assert len(logged) == 40


def test_only_so_many_failing_listeners_are_remembered(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(200):
        events.deliver(made(CircuitOpened), (lambda event: 1 // 0,))
    assert len(caplog.records) == 200
    assert len(events._reported) == 64


def test_without_listeners_no_event_is_made(
    colour: Colour, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_events: list[object] = []
    for kind in KINDS:
        monkeypatch.setattr(kind, "__init__", lambda self, **facts: made_events.append(facts))
    breaker = CircuitBreaker("one")
    colour.guarded(breaker, lambda: None)()
    trip(breaker)
    assert made_events == []
    with subscribe(lambda _event: None):
        trip(breaker)
    assert len(made_events) == 2


# --- the log ---------------------------------------------------------------------------------------------------------

LEVELS = {
    CircuitOpened: ("warning", "circuit_opened"),
    CircuitHalfOpened: ("info", "circuit_half_opened"),
    CircuitClosed: ("info", "circuit_closed"),
    ProbeExpired: ("warning", "probe_expired"),
    CallRejected: ("info", "call_rejected"),
    CallQueued: ("debug", "call_queued"),
    CallSucceeded: ("debug", "call_succeeded"),
    CallFailed: ("debug", "call_failed"),
    RetryScheduled: ("info", "retry_scheduled"),
    RetryStopped: ("warning", "retry_stopped"),
    CallTimedOut: ("warning", "call_timed_out"),
    KeysOverflowed: ("warning", "keys_overflowed"),
    KeyEvicted: ("debug", "key_evicted"),
    StoreUnavailable: ("warning", "store_unavailable"),
    StoreRecovered: ("info", "store_recovered"),
    LeaseLost: ("warning", "lease_lost"),
    PoolResourceCreated: ("debug", "pool_resource_created"),
    PoolCreationFailed: ("warning", "pool_creation_failed"),
    PoolResourceClosed: ("debug", "pool_resource_closed"),
    PoolResourceLeaked: ("warning", "pool_resource_leaked"),
    Event: ("debug", "event"),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_of_event_has_its_level_and_name_in_the_log(kind: type[Event]) -> None:
    captured = CapturingLogger()
    write = log_events(captured)
    write(made(kind, correlation_id="request"))
    (call,) = captured.calls
    assert (call.method_name, call.args[0]) == LEVELS[kind]
    assert call.kwargs["correlation_id"] == "request"
    assert (call.kwargs["policy"], call.kwargs["time"]) == ("payments", 5.0)


def test_the_log_leaves_out_what_is_none_and_writes_errors_as_their_repr() -> None:
    captured = CapturingLogger()
    write = log_events(captured)
    write(made(CallFailed, policy=None, error=OSError("gone")))
    write(made(CallFailed))
    assert [call.kwargs for call in captured.calls] == [
        {"time": 5.0, "duration": 0.1, "error": "OSError('gone')"},
        {"policy": "payments", "time": 5.0, "duration": 0.1},
    ]


def test_a_derived_event_is_logged_at_the_level_of_its_kind() -> None:
    class Loudly(CircuitOpened):
        pass

    captured = CapturingLogger()
    log_events(captured)(made(Loudly))
    assert (captured.calls[0].method_name, captured.calls[0].args) == ("warning", ("loudly",))


def test_events_go_to_structlog_when_nothing_else_is_said(colour: Colour) -> None:
    def fail() -> None:
        raise OSError("gone")

    with structlog.testing.capture_logs() as logs, subscribe(log_events()), pytest.raises(OSError):
        colour.guarded(Retry(OSError, attempts=2, wait=tenacity.wait_none(), name="payments"), fail)()
    assert [(log["log_level"], log["event"], log["policy"]) for log in logs] == [
        ("info", "retry_scheduled", "payments"),
        ("warning", "retry_stopped", "payments"),
    ]
    assert (logs[1]["attempts"], logs[1]["reason"], logs[1]["error"]) == (2, "attempts", "OSError('gone')")


def test_a_logger_of_the_standard_library_is_refused_because_it_takes_no_facts() -> None:
    with pytest.raises(TypeError, match=r"^logger must be a structlog logger: .*structlog\.wrap_logger"):
        log_events(logging.getLogger("test"))
