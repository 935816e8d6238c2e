"""Policies that share their state through a store, in both colours and through the same objects as without one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CallQueued,
    CircuitBreaker,
    CircuitOpened,
    CircuitOpenError,
    DeadlineExceededError,
    LeaseLost,
    MemoryStore,
    Quota,
    Rate,
    RateLimiter,
    RateLimitExceededError,
    Reservation,
    RetryBudget,
    State,
    Timeout,
)
from resilience._machine import FAILURE
from resilience._shared_bulkhead import Lease
from resilience._wait import Wait
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour
from tests.stores import RemoteStore


def fail() -> None:
    raise OSError


def attempt(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as error:
        return type(error)


@pytest.fixture(params=["memory", "remote"])
def store(request: pytest.FixtureRequest, clock: ManualClock) -> Any:
    """Both kinds of answers: at once, and after some waiting."""
    return MemoryStore(clock=clock) if request.param == "memory" else RemoteStore(clock, delay=2.0**-10)


def told(store: Any) -> None:
    if isinstance(store, RemoteStore):
        store.waiting.go()


# -- rate limiter ------------------------------------------------------------------------------------------------------


def test_two_limiters_of_one_name_are_one_limit_and_others_are_not(colour: Colour, store: Any) -> None:
    one, two, other = (RateLimiter(3, 60.0, name=name, store=store) for name in ("x", "x", "y"))
    calls = [colour.guarded(limiter, lambda: 1) for limiter in (one, two)]
    assert [attempt(calls[number % 2]) for number in range(5)] == [1, 1, 1] + [RateLimitExceededError] * 2
    assert colour.guarded(other, lambda: 1)() == 1
    with pytest.raises(RateLimitExceededError) as caught:
        calls[0]()
    error = caught.value
    assert error.retry_after == pytest.approx(20.0, abs=0.02)
    assert (error.policy, error.limit, error.remaining) == ("x", 3.0, 0)
    assert one.statistics().rejected == 2


def test_waits_are_reserved_in_the_store_in_order(colour: Colour, store: Any) -> None:
    limiters = [RateLimiter(1, 1.0, name="x", store=store, max_wait=10.0) for _ in range(2)]
    calls = [colour.guarded(limiter, colour.clock.now) for limiter in limiters]
    with recorded_events(CallQueued) as events:
        times = [calls[number % 2]() for number in range(4)]
    assert times == [pytest.approx(1000.0 + number, abs=0.02) for number in range(4)]
    assert len(events) == 3


def test_a_wait_beyond_the_deadline_is_refused_at_once(colour: Colour, store: Any) -> None:
    limiter = RateLimiter(1, 10.0, name="x", store=store, max_wait=None)
    call = colour.guarded(limiter, lambda: 1)
    assert call() == 1
    guarded = colour.runner(Timeout(5.0)(limiter(colour.function(lambda: 1))))
    with pytest.raises(DeadlineExceededError):
        guarded()


def test_tiers_costs_and_further_limits_are_each_callers_own(colour: Colour, store: Any) -> None:
    limiter = RateLimiter(
        lambda key: 2.0 if key == "gold" else 1.0,
        60.0,
        also=[Rate(3, 3600.0)],
        key=lambda key, cost: None if key == "free" else key,
        cost=lambda key, cost: cost,
        name="x",
        store=store,
    )
    call = colour.runner(limiter(colour.function(lambda key, cost: 1)))
    assert attempt(lambda: call("gold", 2)) == 1
    assert attempt(lambda: call("tin", 2)) is RateLimitExceededError
    assert attempt(lambda: call("tin", 1)) == 1
    assert attempt(lambda: call("free", 99)) == 1
    colour.clock.advance(60.0)
    assert attempt(lambda: call("gold", 2)) is RateLimitExceededError
    with pytest.raises(RateLimitExceededError) as caught:
        call("gold", 99)
    assert caught.value.retry_after is None


def test_only_some_outcomes_are_charged(colour: Colour, store: Any) -> None:
    limiter = RateLimiter(1, 60.0, charge_if=lambda outcome: outcome == "wrong", name="x", store=store)
    call = colour.runner(limiter(colour.function(lambda answer: answer)))
    assert [call("right"), call("right"), call("wrong")] == ["right", "right", "wrong"]
    told(store)
    assert attempt(lambda: call("right")) is RateLimitExceededError


@pytest.mark.parametrize("on_error", [None, "local", "open", "closed"])
def test_questions_have_answers_in_both_colours_with_and_without_the_store(
    colour: Colour, on_error: str | None
) -> None:
    store = RemoteStore(colour.clock, on_error=on_error or "local", delay=2.0**-10)
    limiter = RateLimiter(2, 1.0, name="x", store=store)
    plain, keyed = RateLimiter(2, 1.0), RateLimiter(1, key=lambda key: key, name="k", store=store)

    def ask(name: str, *args: Any, of: RateLimiter = limiter) -> Any:
        return colour.run(getattr(of, f"a{name}")(*args)) if colour.is_async else getattr(of, name)(*args)

    assert ask("peek", of=plain) == ask("peek") == Quota(2.0, 2, 0.0, 0.0)
    assert ask("peek", "key", of=keyed).remaining == 1
    with pytest.raises(TypeError, match="keyed"):
        ask("peek", of=keyed)
    if on_error is not None:
        store.trouble = OSError()
    for limit in (plain, limiter):
        if limit is limiter and on_error == "closed":
            with pytest.raises(RateLimitExceededError):
                ask("reserve")
            assert ask("peek").remaining == 0
        else:
            taken = ask("reserve", None, 2, of=limit)
            assert isinstance(taken, Reservation)
            assert taken.delay == 0.0
            assert ask("peek", of=limit).remaining == (2 if limit is limiter and on_error == "open" else 0)
            if limit is plain or on_error is None:
                with pytest.raises(RateLimitExceededError):
                    ask("reserve", None, 1, 0.1, of=limit)
                with pytest.raises(RateLimitExceededError) as caught:
                    ask("reserve", None, 3, of=limit)
                assert caught.value.retry_after is None
            if on_error != "open" or limit is plain:
                assert taken.cancel()
            assert not taken.cancel()
            assert ask("peek", of=limit).remaining == 2
            ask("reserve", None, 2, of=limit)
            ask("reset", of=limit)
            assert ask("peek", of=limit).remaining == 2


def test_a_reservation_cannot_be_cancelled_without_the_store(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    reservation = RateLimiter(2, 1.0, name="x", store=store).reserve()
    store.trouble = OSError()
    assert not reservation.cancel()


def test_a_cancelled_reservation_returns_its_tokens(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=2.0**-10)
    limiter = RateLimiter(1, 10.0, name="x", store=store, max_wait=60.0)
    call = limiter(asyncio.sleep)

    async def main() -> None:
        await call(0)
        waits = asyncio.create_task(call(0))
        asks = asyncio.create_task(limiter.areserve())
        await clock.asleep(2.0**-11)
        asks.cancel()
        await clock.asleep(1.0)
        waits.cancel()
        await asyncio.wait([waits, asks])
        await clock.asleep(1.0)
        assert (await limiter.apeek()).retry_after == pytest.approx(8.0, abs=0.1)

    run(main(), clock)


# -- bulkhead ----------------------------------------------------------------------------------------------------------


def test_two_bulkheads_of_one_name_share_their_slots(colour: Colour, store: Any) -> None:
    one, two = (Bulkhead(2, name="x", store=store) for _ in range(2))
    first, second, third = one.guard(), two.guard(), one.guard()
    assert [first.permit] == [None]
    colour.enter(first)
    colour.enter(second)
    assert second.permit.fence > first.permit.fence
    with pytest.raises(BulkheadFullError):
        colour.enter(third)
    colour.exit(first)
    told(store)
    colour.run(asyncio.sleep(0.1)) if colour.is_async else None
    assert colour.guarded(two, lambda: 1)() == 1
    assert (one.statistics().in_use, two.statistics().in_use, one.statistics().rejected) == (0, 1, 1)
    assert not two.at_rest
    assert repr(two) == "<Bulkhead x: 1 of 2 in use, 0 of 0 waiting>"
    two.resize(1)
    assert two.statistics().max_concurrency == 1
    colour.exit(second)
    assert two.at_rest


def test_waiters_get_in_one_after_the_other(clock: ManualClock, store: Any) -> None:
    bulkheads = [Bulkhead(1, name="x", store=store, max_queue=5) for _ in range(2)]
    order: list[int] = []

    async def work(number: int) -> None:
        async with bulkheads[0].guard():
            order.append(number)
            await clock.asleep(1.0)

    async def main() -> None:
        tasks = [asyncio.create_task(work(number)) for number in range(4)]
        await clock.asleep(0.5)
        assert bulkheads[0].statistics().waiting == 3
        with pytest.raises(BulkheadFullError):
            async with bulkheads[1].with_(max_wait=0.0).guard():
                pass
        async with bulkheads[1].guard():  # a slot of another process: it is asked for again and again
            pass
        await asyncio.gather(*tasks)

    run(main(), clock)
    assert order == [0, 1, 2, 3]
    assert clock.now() == pytest.approx(1004.0, abs=0.5)


def test_a_newcomer_does_not_overtake_who_waits(clock: ManualClock) -> None:
    bulkhead = Bulkhead(1, name="x", store=MemoryStore(clock=clock), max_queue=2)

    async def main() -> None:
        async with bulkhead.guard():
            waits = asyncio.create_task(bulkhead.guard().__aenter__())
            await clock.asleep(0.1)
        assert type(bulkhead.admit()) is Wait
        assert (await waits).permit is not None

    run(main(), clock)


def test_the_queue_is_bounded_and_its_waits_too(colour: Colour, store: Any) -> None:
    holder, bulkhead = Bulkhead(1, name="x", store=store), Bulkhead(1, name="x", store=store, max_queue=1, max_wait=3.0)
    guard = holder.guard()
    colour.enter(guard)
    began = colour.clock.now()
    call = colour.guarded(bulkhead, lambda: 1)
    assert attempt(call) is BulkheadFullError
    assert colour.clock.now() - began == pytest.approx(3.0, abs=0.01)
    assert bulkhead.statistics().waiting == 0
    assert bulkhead.statistics().queued == 1
    assert bulkhead._longest_wait() == 3.0
    assert holder._longest_wait() == 0.0
    colour.exit(guard)


def test_who_waits_stops_at_the_deadline(clock: ManualClock, store: Any) -> None:
    holder, bulkhead = (
        Bulkhead(1, name="x", store=store),
        Bulkhead(1, name="x", store=store, max_queue=1, max_wait=None),
    )

    @Timeout(2.0)
    @bulkhead
    def work() -> None:
        """Never reached."""

    with holder.guard():
        began = clock.now()
        with pytest.raises(DeadlineExceededError):
            work()
        assert clock.now() - began == pytest.approx(2.0, abs=0.02)


def test_a_queue_without_its_store_goes_on_locally(colour: Colour) -> None:
    store = RemoteStore(colour.clock)
    holder, bulkhead = Bulkhead(1, name="x", store=store), Bulkhead(1, name="x", store=store, max_queue=1)
    guard = holder.guard()
    colour.enter(guard)

    def trouble() -> None:
        store.trouble = OSError()

    if colour.is_async:

        async def main() -> int:
            asyncio.get_running_loop().call_later(1.0, trouble)
            return await bulkhead(answer)()

        async def answer() -> int:
            return 1

        assert colour.run(main()) == 1
    else:
        store.batches = Troubling(trouble)
        assert bulkhead(lambda: 1)() == 1
    assert bulkhead.statistics().in_use == 0


class Troubling(list[Any]):
    """Trouble begins with the third question."""

    def __init__(self, trouble: Callable[[], None]) -> None:
        super().__init__()
        self._trouble = trouble

    def append(self, batch: Any) -> None:
        super().append(batch)
        if len(self) == 3:
            self._trouble()


def test_alone_a_bulkhead_queues_locally(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=0.0)
    store.trouble = OSError()
    bulkhead = Bulkhead(1, name="x", store=store, max_queue=3)

    async def main() -> list[float]:
        async def work() -> float:
            async with bulkhead.guard() as guard:
                assert type(guard.permit) is Lease
                await clock.asleep(1.0)
                return clock.now()

        return await asyncio.gather(*(work() for _ in range(3)))

    assert run(main(), clock) == [1001.0, 1002.0, 1003.0]
    assert bulkhead.at_rest


def test_a_lease_that_was_not_renewed_is_lost_and_said_so(clock: ManualClock) -> None:
    store = RemoteStore(clock, lease_time=10.0, delay=0.0)
    slow, quick = Bulkhead(1, name="x", store=store), Bulkhead(1, name="x", store=store)
    guard = slow.guard()
    store.waiting.renew()  # nothing is held
    with guard, recorded_events(LeaseLost) as events:
        fence = guard.permit.fence
        clock.advance(9.0)
        store.waiting.renew()
        clock.advance(9.0)
        store.trouble = OSError()
        store.waiting.renew()  # in vain
        store.trouble = None
        with pytest.raises(BulkheadFullError), quick.guard():
            pass
        clock.advance(1.0)
        with quick.guard() as other:
            assert other.permit.fence > fence
            store.waiting.renew()
        store.waiting.go()
    assert [(type(event), event.policy) for event in events] == [(LeaseLost, "x")]
    store.waiting.go()
    assert slow._shared is not None
    assert store.memory.ask(slow._shared.question("new"))[0] == 1.0


def test_a_slot_is_given_back_once(clock: ManualClock, store: Any) -> None:
    bulkhead = Bulkhead(1, name="x", store=store)
    permit: Any = bulkhead.guard()
    with permit as guard:
        lease = guard.permit
    bulkhead.settle(lease)
    bulkhead.settle(Lease(None, 0))
    if isinstance(store, RemoteStore):
        assert len(store.waiting.reports) == 1
    told(store)
    with bulkhead._machine.lock:
        bulkhead.settle(lease)
    assert bulkhead.statistics().in_use == 0


# -- circuit breaker ---------------------------------------------------------------------------------------------------


def breakers(store: Any, **options: Any) -> list[CircuitBreaker]:
    options = {"minimum_calls": 4, "jitter": 0.0, "half_open_max_calls": 2, "success_threshold": 2, **options}
    return [CircuitBreaker("x", store=store, **options) for _ in range(2)]


def test_failures_of_all_instances_open_the_circuit_for_all(colour: Colour, store: Any) -> None:
    pair = breakers(store)
    failing = [colour.guarded(breaker, fail) for breaker in pair]
    with recorded_events(CircuitOpened) as events:
        for number in range(4):
            assert attempt(failing[number % 2]) is OSError
            settled(colour, store)
        colour.clock.advance(1.0)
        assert [attempt(call) for call in failing] == [CircuitOpenError] * 2
    assert {event.reason for event in events} == {"shared"}
    assert [breaker.state for breaker in pair] == [State.OPEN] * 2
    statistics = pair[0].statistics()
    assert statistics.rejected == 1
    assert statistics.retry_after == pytest.approx(4.0, abs=0.2)


def settled(colour: Colour, store: Any) -> None:
    """Let what was told be heard."""
    if colour.is_async:
        colour.run(asyncio.sleep(0.01))
    told(store)


def test_probes_are_leases_of_all_instances_together(colour: Colour, store: Any) -> None:
    pair = breakers(store, failure_threshold=1)
    assert attempt(colour.guarded(pair[0], fail)) is OSError
    settled(colour, store)
    colour.clock.advance(6.0)
    guards = [breaker.guard() for breaker in (*pair, pair[0])]
    colour.enter(guards[0])
    colour.enter(guards[1])
    with pytest.raises(CircuitOpenError) as caught:
        colour.enter(guards[2])
    assert caught.value.retry_after == pytest.approx(30.0, abs=0.1)
    assert [breaker.statistics().probes for breaker in pair] == [1, 1]
    colour.exit(guards[0])
    colour.exit(guards[1])
    settled(colour, store)
    assert [colour.guarded(breaker, lambda: 1)() for breaker in pair] == [1, 1]
    assert [breaker.state for breaker in pair] == [State.CLOSED] * 2


def test_an_abandoned_probe_is_given_to_another(colour: Colour, store: Any) -> None:
    pair = breakers(store, failure_threshold=1, half_open_max_calls=1, success_threshold=1, ignore=KeyError)
    assert attempt(colour.guarded(pair[0], fail)) is OSError
    settled(colour, store)
    colour.clock.advance(6.0)
    guard = pair[0].guard()
    colour.enter(guard)
    colour.exit(guard, KeyError())
    settled(colour, store)
    assert colour.guarded(pair[1], lambda: 1)() == 1
    settled(colour, store)
    assert pair[1].state is State.CLOSED


def test_a_probe_whose_caller_was_cancelled_while_asking_is_given_back(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    breaker, other = breakers(store, failure_threshold=1, half_open_max_calls=1, success_threshold=1)

    async def main() -> None:
        async def nothing() -> int:
            return 1

        async def failing() -> None:
            raise OSError

        with pytest.raises(OSError):
            await breaker(failing)()
        await clock.asleep(6.0)
        gone = asyncio.create_task(breaker(nothing)())
        await clock.asleep(0.005)
        gone.cancel()
        await asyncio.wait([gone])
        await clock.asleep(1.0)
        assert await other(nothing)() == 1

    run(main(), clock)


def test_what_is_done_by_hand_holds_for_all_and_outlives_trouble(colour: Colour) -> None:
    store = RemoteStore(colour.clock, delay=2.0**-10)
    pair = breakers(store)
    calls = [colour.guarded(breaker, lambda: 1) for breaker in pair]
    assert calls[1]() == 1
    store.trouble = OSError()
    pair[0].isolate()
    settled(colour, store)
    assert attempt(calls[0]) is CircuitOpenError
    settled(colour, store)
    store.trouble = None
    colour.clock.advance(10.0)
    assert attempt(calls[0]) is CircuitOpenError
    settled(colour, store)
    colour.clock.advance(2.0)
    assert attempt(calls[1]) is CircuitOpenError
    pair[1].reset()
    settled(colour, store)
    colour.clock.advance(2.0)
    assert [call() for call in calls] == [1, 1]


def test_a_call_admitted_before_another_instance_reset_the_circuit_counts_for_nothing(clock: ManualClock) -> None:
    one, other = breakers(MemoryStore(clock=clock), failure_threshold=1)
    permit = other.admit()
    one.reset()
    assert other.call(lambda: 1) == 1
    other._record(permit, FAILURE, OSError(), None)
    assert other.call(lambda: 1) == 1
    assert other.state is State.CLOSED


def test_older_news_do_not_undo_what_was_done_by_hand(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    breaker = breakers(store)[0]
    machine: Any = breaker._machine
    breaker.isolate()
    machine.hear((0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    assert breaker.state is State.ISOLATED
    store.waiting.go()
    assert breaker.state is State.ISOLATED


def test_without_the_store_own_evidence_decides(colour: Colour) -> None:
    store = RemoteStore(colour.clock, delay=2.0**-10)
    pair = breakers(store)
    failing, working = colour.guarded(pair[0], fail), colour.guarded(pair[0], lambda: 1)
    store.trouble = OSError()
    assert [attempt(failing) for _ in range(5)] == [OSError] * 4 + [CircuitOpenError]
    colour.clock.advance(5.1)
    assert pair[1].state is State.CLOSED
    assert [working(), working()] == [1, 1]
    assert pair[0].state is State.CLOSED
    pair[0].isolate()
    settled(colour, store)
    assert attempt(working) is CircuitOpenError
    pair[0].reset()
    store.trouble = None
    colour.clock.advance(10.0)
    assert working() == 1
    settled(colour, store)
    assert [attempt(failing) for _ in range(3)] == [OSError] * 3


def test_an_advised_instance_trusts_its_own_evidence_first(colour: Colour, store: Any) -> None:
    pair = breakers(store, advisory=True)
    well, badly = colour.guarded(pair[0], lambda: 1), colour.guarded(pair[1], fail)
    assert [well() for _ in range(4)] == [1] * 4
    assert [attempt(badly) for _ in range(8)] == [OSError] * 4 + [CircuitOpenError] * 4
    settled(colour, store)
    colour.clock.advance(2.0)
    assert [well() for _ in range(4)] == [1] * 4
    settled(colour, store)
    assert pair[0].state is State.CLOSED
    idle = CircuitBreaker("x", store=store, minimum_calls=4, jitter=0.0, advisory=True)
    shared_state = colour.guarded(idle, lambda: 1)
    assert attempt(shared_state) in {1, CircuitOpenError}


def test_slow_calls_count_for_all(colour: Colour, store: Any) -> None:
    pair = breakers(store, slow_call_duration=0.5, failure_rate=None, failure_threshold=3)
    slow = [colour.guarded(breaker, lambda: colour.sleep(1.0)) for breaker in pair]
    for number in range(4):
        slow[number % 2]()
        settled(colour, store)
    colour.clock.advance(1.1)
    assert [attempt(call) for call in slow] == [CircuitOpenError] * 2


def test_a_disabled_breaker_asks_nobody_and_a_shadow_lets_all_pass(colour: Colour) -> None:
    store = RemoteStore(colour.clock, delay=2.0**-10, on_error="closed")
    breaker = CircuitBreaker("x", store=store, mode="disabled")
    call = colour.guarded(breaker, lambda: 1)
    assert call() == 1
    assert store.batches == []
    breaker.mode = "shadow"
    store.trouble = OSError()
    assert [call() for _ in range(5)] == [1] * 5
    store.trouble = None
    colour.clock.advance(10.0)
    assert call() == 1
    breaker.isolate()
    settled(colour, store)
    assert call() == 1
    breaker.mode = "enabled"
    assert attempt(call) is CircuitOpenError


# -- retry budget ------------------------------------------------------------------------------------------------------


def test_budgets_of_one_name_are_one_allowance(clock: ManualClock, store: Any) -> None:
    pair = [RetryBudget(0.5, 0.1, name="x", store=store) for _ in range(2)]
    for _ in range(8):
        pair[0].deposit()
        clock.advance(0.05)
        told(store)
    pair[1].deposit()
    clock.advance(0.2)
    pair[1].deposit()
    told(store)
    taken = 0
    for number in range(10):
        taken += pair[number % 2].withdraw()
        told(store)
    assert taken == pytest.approx(6, abs=1 if isinstance(store, RemoteStore) else 0)
    clock.advance(20.0)
    assert pair[0].withdraw()


def test_a_budget_tells_of_first_attempts_now_and_then_and_of_a_retry_at_once(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=0.0)
    budget = RetryBudget(0.0, 1.0, name="x", store=store)
    for _ in range(50):
        budget.deposit()
        told(store)
    assert len(store.batches) == 1
    assert budget.withdraw()
    told(store)
    assert len(store.batches) == 2
    clock.advance(0.1)
    budget.deposit()
    told(store)
    assert len(store.batches) == 3


def test_a_budget_whose_report_was_lost_tells_again_later(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    budget = RetryBudget(name="x", store=store)
    store.trouble = OSError()
    budget.deposit()
    told(store)
    store.trouble = None
    clock.advance(0.2)
    budget.deposit()
    told(store)
    assert len(store.batches) == 2
    assert budget._shared is not None
    question = budget._shared.operation()
    assert question is not None
    assert store.memory.ask(question)[:2] == (1.0, 0.0)


# -- tokens taken ahead ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("instances", [1, 3])
def test_tokens_taken_ahead_never_let_all_instances_together_exceed_the_limit(
    clock: ManualClock, instances: int
) -> None:
    """burst + rate · t in any time t, however the calls fall."""
    memory, rng = MemoryStore(clock=clock), random.Random(7)
    stores = [RemoteStore(clock, delay=0.0, memory=memory, local_share=0.1) for _ in range(instances)]
    limiters = [RateLimiter(100, 1.0, burst=50, name="x", store=store) for store in stores]
    times: list[float] = []
    for _ in range(4000):
        clock.advance(rng.choice([0.0, 0.0, 0.0, 0.001, 0.004, 0.05]))
        if attempt(lambda: rng.choice(limiters).call(clock.now)) is not RateLimitExceededError:
            times.append(clock.now())
    assert len(times) > 1000
    for first in range(0, len(times), 7):
        for last in range(first, min(first + 400, len(times)), 13):
            assert last - first + 1 <= 50 + 100 * (times[last] - times[first]) + 1e-6
    if instances == 1:
        assert len(stores[0].batches) < len(times)


def test_tasks_that_find_no_token_ahead_wait_for_one_fetch(clock: ManualClock) -> None:
    store = RemoteStore(clock, local_share=0.1)
    limiter = RateLimiter(1000, 1.0, name="x", store=store)

    async def main() -> None:
        async def work() -> None:
            done.append(clock.now())

        done: list[float] = []
        tasks = [asyncio.create_task(limiter(work)()) for _ in range(150)]
        await clock.asleep(0.001)
        tasks[0].cancel()  # the one that fetches
        tasks[5].cancel()
        await asyncio.wait(tasks)
        assert len(done) == 148
        assert len(store.batches) == 3
        store.trouble = OSError()
        await clock.asleep(0.5)
        await asyncio.gather(*(limiter(work)() for _ in range(20)))
        store.trouble = None

    run(main(), clock)


def test_without_a_block_to_be_had_calls_ask_one_by_one(colour: Colour) -> None:
    store = RemoteStore(colour.clock, delay=0.0, local_share=0.1)
    limiter = RateLimiter(20, 1.0, name="x", store=store)
    call = colour.guarded(limiter, lambda: 1)
    results = [attempt(call) for _ in range(25)]
    assert results == [1] * 18 + [RateLimitExceededError] * 7  # the burst is smaller by one block
    assert attempt(lambda: limiter.with_(cost=19).call(lambda: 1)) is RateLimitExceededError
    store.trouble = OSError()
    colour.clock.advance(10.0)
    assert attempt(call) == 1
    immediate = MemoryStore(clock=colour.clock)
    immediate.local_share = 0.1
    assert colour.guarded(RateLimiter(20, 1.0, name="x", store=immediate), lambda: 1)() == 1


def test_blocks_of_many_keys_are_bounded(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=0.0, local_share=0.1)
    shared = RateLimiter(20, 1.0, name="x", store=store)._shared
    assert shared is not None
    blocks = shared._blocks
    for number in range(10_000):
        blocks.put(number, 1.0, 2000.0)
    blocks.put("one", 1.0, 2000.0)
    assert len(blocks._blocks) == 1
    for number in range(9_999):
        blocks.put(number, 1.0, clock.now())
    blocks.put("two", 1.0, 2000.0)
    assert set(blocks._blocks) == {"one", "two"}
