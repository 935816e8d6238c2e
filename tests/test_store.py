"""Stores: what they promise to policies, in both colours, when all is well and when it is not."""

from __future__ import annotations

import asyncio
import math
import threading
import uuid
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    CountWindow,
    MemoryStore,
    RateLimiter,
    RateLimitExceededError,
    RetryBudget,
    SlidingWindow,
    Store,
    StoreRecovered,
    StoreUnavailable,
    StoreUnavailableError,
)
from resilience._courier import MOST_REPORTS, Courier, Operation
from resilience._keys import key_text
from resilience._ledger import Reply
from resilience._shared_limiter import Told
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour
from tests.stores import RemoteStore

COUNT = Operation("bulkhead", "count", "x", "none", ())


def take(key: str = "none", cost: float = 1.0) -> Operation:
    return Operation("limiter", "take", "x", key, (1.0, cost, 0.0, 1e300, 1.0, 10.0, 10.0))


def ask(colour: Colour, store: Store, operation: Operation = COUNT) -> Reply:
    answer: Reply = colour.run(store.aask(operation)) if colour.is_async else store.ask(operation)
    return answer


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_a_store_is_true_even_when_it_is_empty() -> None:
    store = MemoryStore()
    assert (len(store), bool(store)) == (0, True)


@pytest.mark.parametrize(
    "make",
    [
        lambda store: RateLimiter(1, store=store),
        lambda store: CircuitBreaker(store=store),
        lambda store: Bulkhead(1, store=store),
        lambda store: RetryBudget(store=store),
    ],
)
def test_a_shared_policy_needs_a_name(make: Any) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        make(MemoryStore())


@pytest.mark.parametrize("wrong", ["redis://localhost", 5, MemoryStore, object()])
def test_a_store_is_a_store(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"store must be a resilience\.Store or None"):
        RateLimiter(1, name="x", store=wrong)


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(TypeError, match="counts by rate"):
        RateLimiter(limiter=SlidingWindow(3, 1.0), name="x", store=MemoryStore())
    with pytest.raises(TypeError, match="needs a TimeWindow"):
        CircuitBreaker("x", window=CountWindow(10), store=MemoryStore())


@pytest.mark.parametrize("wrong", ["Local", "", None, 1, ["open"]])
def test_on_error_is_one_of_three_words(wrong: Any) -> None:
    with pytest.raises(ValueError, match='on_error must be "local", "open" or "closed"'):
        MemoryStore(on_error=wrong)


@pytest.mark.parametrize("name", ["store_timeout", "lease_time"])
@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True, "1", 10**400])
def test_times_are_positive_seconds(clock: ManualClock, name: str, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        RemoteStore(clock, **{name: wrong})


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None, "1"])
def test_a_memory_store_is_bounded_by_a_whole_number(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_keys"):
        MemoryStore(max_keys=wrong)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_that_differ_stay_apart_and_equal_ones_are_one() -> None:
    keys: list[Any] = [
        "a", b"a", "a b", "a{b}", "{a}", "a\nb", "", b"", "1", 1, 1.5, -1, None, "none", "n-1", ("a", "b"), ("ab",),
        ("a", ("b",)), ("a,b",), (), "é", "e\u0301", "\ud800", "%", "%25", 10**400, math.inf, uuid.UUID(int=1), "*",
        "a:b", "x" * 10_000, "x" * 10_001, b"x" * 10_000, ("s-a",), ("1", 1), ("as-b",),
    ]  # fmt: skip
    texts = [key_text(key) for key in keys]
    assert len(set(texts)) == len(keys)
    assert key_text(True) == key_text(1) == key_text(1.0)
    for text in texts:
        assert len(text) <= 128
        assert text.isascii()
        assert not set(text) & set(" {}\r\n\0*:")


@pytest.mark.parametrize("key", [object(), frozenset({1}), ("a", object())])
def test_a_key_that_may_look_different_elsewhere_is_refused(key: Any) -> None:
    limiter = RateLimiter(1, key=lambda key: key, name="x", store=MemoryStore())
    with pytest.raises(TypeError, match="may not be equal in another process"):
        limiter(lambda _: None)(key)


# -- the memory store --------------------------------------------------------------------------------------------------


def test_states_that_are_as_good_as_new_are_forgotten(clock: ManualClock) -> None:
    store = MemoryStore(max_keys=2000, clock=clock)
    for number in range(1500):
        store.ask(take(str(number)))
    assert len(store) == 1500
    clock.advance(10.0)
    store.ask(take("another"))
    assert len(store) == 1501
    for number in range(1000):
        store.ask(take(f"b{number}"))
    assert len(store) < 1100


def test_a_full_memory_store_is_trouble_and_recovers(clock: ManualClock) -> None:
    store = MemoryStore(max_keys=2, clock=clock)
    limiter = RateLimiter(1, key=lambda key: key, name="x", store=store)
    fn = limiter(lambda key: key)
    with recorded_events(StoreUnavailable, StoreRecovered) as events:
        for key in "abcd":
            assert fn(key) == key
        assert not store.available
        clock.advance(0.9)  # not looked through again so soon
        assert len(store) == 2
        clock.advance(10.0)
        assert fn("e") == "e"
    assert [type(event) for event in events] == [StoreUnavailable, StoreRecovered]
    assert isinstance(events[0].error, MemoryError)


def test_a_full_memory_store_is_looked_through_once_a_second(clock: ManualClock) -> None:
    store = MemoryStore(max_keys=1, clock=clock)
    brief = (1.0, 1.0, 0.0, 1e300, 0.1, 1.0, 1.0)
    for key, step in (("a", 0.0), ("b", 0.0), ("b", 0.9)):
        clock.advance(step)
        if key == "a":
            store.ask(Operation("limiter", "take", "x", key, brief))
        else:
            with pytest.raises(StoreUnavailableError):
                store.ask(Operation("limiter", "take", "x", key, brief))
    clock.advance(0.1)
    assert store.ask(Operation("limiter", "take", "x", "b", brief))[0] == 1.0


def test_a_report_that_a_full_memory_store_cannot_take_is_lost(clock: ManualClock) -> None:
    store = MemoryStore(max_keys=1, clock=clock)
    store.ask(take())
    breaker = CircuitBreaker("b", store=store, failure_threshold=1)
    with pytest.raises(OSError):
        breaker.call(fail)
    assert len(store) == 1
    with pytest.raises(CircuitOpenError):  # by its own evidence
        breaker.call(fail)


def test_what_is_told_while_somebody_is_inside_is_heard_next(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    with store._table.lock:
        store.tell(Told(take(cost=4.0)))
    assert store.ask(take())[2] == 5.0


def test_in_the_child_of_a_fork_the_calls_of_the_parent_hold_nothing(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    bulkhead, limiter = Bulkhead(1, name="x", store=store), RateLimiter(1, name="x", store=store)
    budget = RetryBudget(name="x", store=store)
    breaker = CircuitBreaker("x", store=store, failure_threshold=1, half_open_max_calls=1, success_threshold=1)
    with pytest.raises(OSError):
        breaker.call(fail)
    clock.advance(10.0)
    budget.deposit()
    breaker.admit()
    limiter.admit()
    permit = bulkhead.admit()
    store._table.forked()
    machines: list[Any] = [bulkhead._shared, breaker._machine, budget._account]
    for machine in machines:
        machine.forked()
    bulkhead.settle(permit)  # changes nothing
    assert bulkhead.admit().fence > permit.fence
    assert breaker.admit() is not None
    with pytest.raises(RateLimitExceededError):
        limiter.admit()
    assert budget.statistics().deposits == 1


# -- asking ------------------------------------------------------------------------------------------------------------


def test_an_answer_comes_in_both_colours(colour: Colour) -> None:
    store = RemoteStore(colour.clock)
    assert ask(colour, store) == (0.0,)
    assert colour.clock.now() == 1000.01
    assert repr(store) == "<RemoteStore remote: available>"


@pytest.mark.parametrize("trouble", [OSError("refused"), TimeoutError(), ValueError("garbage")])
def test_trouble_has_one_name_and_is_told_once_for_each_change(colour: Colour, trouble: Exception) -> None:
    heard: list[Any] = []
    store = RemoteStore(colour.clock, listeners=[heard.append])
    store.trouble = trouble
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="remote: no answer") as caught:
            ask(colour, store)
        assert caught.value.__cause__ is trouble
    assert not store.available
    assert repr(store) == "<RemoteStore remote: unavailable>"
    store.trouble = None
    ask(colour, store)
    ask(colour, store)
    assert store.available
    assert [type(event) for event in heard] == [StoreUnavailable, StoreRecovered]
    assert (heard[0].policy, heard[0].error, heard[0].on_error) == ("remote", trouble, "local")


def test_after_three_failures_nobody_waits_until_a_probe_has_succeeded(colour: Colour) -> None:
    store = RemoteStore(colour.clock)
    store.trouble = OSError()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            ask(colour, store)
    assert store.refuses
    before, asked = colour.clock.now(), len(store.batches)
    with pytest.raises(StoreUnavailableError) as caught:
        ask(colour, store)
    assert (colour.clock.now(), len(store.batches)) == (before, asked)
    wait = caught.value.retry_after
    assert wait is not None
    assert 0.4 <= wait <= 0.6
    assert store.retry_after == pytest.approx(wait)
    colour.clock.advance(wait)
    assert not store.refuses
    assert store.retry_after is None
    with pytest.raises(StoreUnavailableError):
        ask(colour, store)
    assert len(store.batches) == asked + 1
    assert store.refuses
    store.trouble = None
    colour.clock.advance(2.0)
    ask(colour, store)
    assert store.available
    assert not store.refuses


def test_only_one_asks_whether_the_store_is_back(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    store.trouble = OSError()
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            store.ask(COUNT)
    clock.advance(1.0)
    permit = store._gate.enter()
    with pytest.raises(StoreUnavailableError):
        store.ask(COUNT)
    store._gate.leave(permit, pytest.importorskip("resilience").Verdict.SUCCESS, None)
    store.trouble = None
    store.ask(COUNT)


def test_a_single_reply_can_fail_as_when_memory_is_short(colour: Colour) -> None:
    store = RemoteStore(colour.clock)
    store.refusals = [MemoryError("OOM")]
    with pytest.raises(StoreUnavailableError) as caught:
        ask(colour, store)
    assert isinstance(caught.value.__cause__, MemoryError)
    assert not store.available


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit()])
def test_an_interruption_says_nothing_about_the_store(clock: ManualClock, error: BaseException) -> None:
    store = RemoteStore(clock)
    store.trouble = error
    with pytest.raises(type(error)):
        store.ask(COUNT)
    assert store.available


def test_a_task_waits_for_the_store_timeout_and_no_longer(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=9.0, store_timeout=0.05)

    async def main() -> None:
        for _ in range(2):
            before = clock.now()
            with pytest.raises(StoreUnavailableError):
                await store.aask(COUNT)
            assert clock.now() - before == pytest.approx(0.05)

    run(main(), clock)
    assert not store.available


@pytest.mark.parametrize(
    "asked, batches", [(50, [50]), (51, [50, 1]), (100, [50, 50]), (1000, [50, 50, 50, 850])], ids=str
)
def test_what_a_loop_asks_in_one_turn_travels_together_or_in_a_few_batches(
    clock: ManualClock, asked: int, batches: list[int]
) -> None:
    """Of several, the store works on one while the next is made ready."""
    store = RemoteStore(clock)

    async def main() -> None:
        for _ in range(2):  # and the next turn is like the first
            await asyncio.gather(*(store.aask(COUNT) for _ in range(asked)))

    run(main(), clock)
    assert [len(batch) for batch in store.batches] == batches * 2


def test_a_crowd_is_served_by_a_few_batches_at_a_time_and_none_of_it_waits_too_long(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=0.04, store_timeout=0.05)
    outcomes: list[str] = []

    async def late(turns: int) -> None:
        await clock.asleep(turns / 1000)
        began = clock.now()
        try:
            await store.aask(COUNT)
            outcomes.append("answered")
        except StoreUnavailableError:
            outcomes.append("too late")
        assert clock.now() - began <= 0.0501

    async def main() -> None:
        await asyncio.gather(*(late(turns) for turns in range(10)))

    run(main(), clock)
    assert len(outcomes) == 10
    assert outcomes.count("answered") >= 4
    assert "too late" in outcomes
    assert [len(batch) for batch in store.batches[:4]] == [1, 1, 1, 1]


def test_who_found_all_batches_under_way_travels_with_the_next(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=0.04, store_timeout=1.0)

    async def late(turns: int) -> None:
        await clock.asleep(turns / 1000)
        await store.aask(COUNT)

    async def main() -> None:
        await asyncio.gather(*(late(turns) for turns in range(10)))

    run(main(), clock)
    assert [len(batch) for batch in store.batches] == [1, 1, 1, 1, 6]


def test_cancelling_a_caller_takes_nothing_from_the_others_and_what_it_was_granted_goes_back(
    clock: ManualClock,
) -> None:
    store = RemoteStore(clock)
    undone: list[Reply] = []

    async def main() -> None:
        gone = asyncio.create_task(store.aask(take(cost=2.0), undone.append))
        stays = asyncio.create_task(store.aask(take()))
        await clock.asleep(0.002)
        gone.cancel()
        assert (await stays)[0] == 1.0
        await asyncio.wait([gone])
        assert gone.cancelled()

    run(main(), clock)
    assert len(undone) == 1
    assert undone[0][0] == 1.0


def test_a_question_cancelled_before_it_leaves_is_not_asked(clock: ManualClock) -> None:
    store = RemoteStore(clock)

    async def main() -> None:
        gone = asyncio.create_task(store.aask(take()))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        await asyncio.sleep(0)

    run(main(), clock)
    assert store.batches == []


def test_a_loop_that_ends_has_what_was_to_be_told_told_by_the_thread(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    bulkhead = Bulkhead(1, name="x", store=store)

    async def main() -> None:
        async with bulkhead.guard():
            pass

    run(main(), clock)
    assert store.memory.ask(COUNT) == (1.0,)
    store.waiting.go()
    assert store.memory.ask(COUNT) == (0.0,)


def test_another_loop_has_lines_of_its_own_and_those_of_closed_loops_are_dropped(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    for _ in range(3):
        run(store.aask(COUNT), clock)
    assert len(store._lines) == 1

    async def main() -> None:
        async with store:
            await store.aask(COUNT)

    run(main(), clock)
    assert len(store._lines) <= 1
    with store as same:
        assert same is store


def test_after_a_fork_nothing_of_the_parent_is_told_and_lines_are_new(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    run(store.aask(COUNT), clock)
    store.tell(Told(take()))
    store._gate.forked()
    assert store._lines == {}
    assert store.waiting.reports == []
    gate = store._gate
    del store
    gate.forked()


# -- telling -----------------------------------------------------------------------------------------------------------


class Note:
    """A report that writes down what becomes of it."""

    def __init__(self, operation: Operation | None = COUNT) -> None:
        self._operation = operation
        self.fate: list[Any] = []

    def operation(self) -> Operation | None:
        return self._operation

    def heard(self, reply: Reply) -> None:
        self.fate.append(reply)

    def lost(self) -> None:
        self.fate.append("lost")


def test_reports_of_a_loop_travel_with_its_next_batch(clock: ManualClock) -> None:
    store, notes = RemoteStore(clock), [Note(), Note(None), Note()]

    async def main() -> None:
        for note in notes:
            store.tell(note)
        await store.aask(COUNT)

    run(main(), clock)
    assert [len(batch) for batch in store.batches] == [3]
    assert [note.fate for note in notes] == [[(0.0,)], [], [(0.0,)]]


def test_a_batch_with_nothing_to_say_does_not_travel(clock: ManualClock) -> None:
    store = RemoteStore(clock)

    async def main() -> None:
        store.tell(Note(None))
        await asyncio.sleep(0)

    run(main(), clock)
    store.waiting.go()
    store.thread.put(Note(None))
    store.waiting.go()
    assert store.batches == []


def test_reports_are_lost_in_trouble_and_one_by_one(colour: Colour) -> None:
    store, note = RemoteStore(colour.clock), Note()

    def tell() -> None:
        if colour.is_async:

            async def main() -> None:
                store.tell(note)
                await colour.clock.asleep(0.02)

            colour.run(main())
        else:
            store.tell(note)
            store.waiting.go()

    store.refusals = [MemoryError()]
    tell()
    store.trouble = OSError()
    tell()
    tell()
    assert note.fate == ["lost"] * 3
    asked = len(store.batches)
    tell()  # refused at once
    assert (note.fate, len(store.batches)) == (["lost"] * 4, asked)


def test_a_report_that_takes_too_long_is_lost(clock: ManualClock) -> None:
    store, note = RemoteStore(clock, delay=9.0), Note()

    async def main() -> None:
        store.tell(note)
        await clock.asleep(1.0)

    run(main(), clock)
    assert note.fate == ["lost"]


def test_the_outbox_is_bounded(clock: ManualClock) -> None:
    store, note = RemoteStore(clock), Note()
    store.waiting.room = False
    store.tell(note)
    assert note.fate == ["lost"]

    async def main() -> None:
        for _ in range(150 + MOST_REPORTS):  # those of three batches are on their way
            store.tell(Note(None))
        store.tell(note)
        await store.aask(COUNT)  # a question always has room

    run(main(), clock)
    assert note.fate == ["lost", "lost"]


# -- the thread --------------------------------------------------------------------------------------------------------


class Threaded(Store):
    """A store whose courier is the real thread."""

    def __init__(self) -> None:
        super().__init__(lease_time=0.03)
        self.told: list[Operation] = []
        self.event = threading.Event()

    def _execute(self, operations: list[Operation]) -> list[Any]:
        self.told += operations
        self.event.set()
        return [(0.0,)] * len(operations)


def test_the_thread_tells_starts_once_and_ends_with_its_store() -> None:
    store, note = Threaded(), Note()
    store.tell(note)
    assert store.event.wait(20.0)
    thread = store.thread._thread
    assert thread is not None
    assert thread.daemon
    store.event.clear()
    store.tell(note)
    assert store.event.wait(20.0)
    assert store.thread._thread is thread
    del store
    thread.join(20.0)
    assert not thread.is_alive()


def test_the_thread_renews_what_is_held() -> None:
    store = Threaded()

    class Held:
        def renewal(self) -> Note | None:
            return Note()

    held = Held()
    store.keep(held)
    store.keep(held)
    assert store.event.wait(20.0)
    assert store.told[0] == COUNT


def test_the_outbox_of_the_thread_is_bounded_and_nothing_happens_at_the_end_of_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    store = Threaded()
    courier = Courier(store)
    for _ in range(MOST_REPORTS):
        assert courier.put(Note())
    assert not courier.put(Note())
    courier._starting.acquire()
    courier._outbox.get()
    assert courier.put(Note())  # somebody else is starting it
    assert courier._thread is None


def test_the_thread_takes_so_many_at_a_time() -> None:
    store = Threaded()
    courier = Courier(store)
    for _ in range(700):
        courier._outbox.put(Note())
    courier.put(None)
    while len(store.told) < 700:
        assert store.event.wait(20.0)
        store.event.clear()
    assert len(store.told) == 700


# -- what policies do in trouble ---------------------------------------------------------------------------------------


def in_trouble(clock: ManualClock, on_error: str) -> RemoteStore:
    store = RemoteStore(clock, on_error=on_error)
    store.trouble = OSError()
    return store


@pytest.mark.parametrize("on_error", ["local", "open", "closed"])
def test_callers_never_see_an_exception_of_the_store(colour: Colour, on_error: str) -> None:
    """The way out of trouble must not be trouble itself (L7)."""
    store = in_trouble(colour.clock, on_error)
    limiter = RateLimiter(2, 60.0, name="x", store=store)
    bulkhead = Bulkhead(1, name="x", store=store)
    breaker = CircuitBreaker("x", store=store)
    expected = {"local": [1, 1, RateLimitExceededError], "open": [1, 1, 1], "closed": [RateLimitExceededError] * 3}
    assert [outcome(colour.guarded(limiter, lambda: 1)) for _ in range(3)] == expected[on_error]
    rejected = {"local": [1, 1], "open": [1, 1]}.get(on_error, [BulkheadFullError] * 2)
    assert [outcome(colour.guarded(bulkhead, lambda: 1)) for _ in range(2)] == rejected
    assert outcome(colour.guarded(breaker, lambda: 1)) == (CircuitOpenError if on_error == "closed" else 1)
    budget = RetryBudget(0.0, 0.2, name="x", store=store)
    allowed = {"local": [True, True, False], "open": [True] * 3, "closed": [False] * 3}
    assert [budget.withdraw() for _ in range(3)] == allowed[on_error]


def outcome(fn: Any) -> Any:
    try:
        return fn()
    except Exception as error:
        return type(error)


def fail() -> None:
    raise OSError
