"""Shared state where something comes twice, too late, or for somebody who is gone."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from typing import Any

import pytest
from resilience_redis import RedisStore
from resilience_redis._connections import Limits, _BoundedSocket

from resilience import CircuitBreaker, MemoryStore, RateLimiter, RateLimitExceededError, RetryBudget
from resilience._courier import Courier
from resilience._shared_circuit import SharedCircuit, Told
from resilience._shared_limiter import SharedReservation
from resilience.clock import SYSTEM
from resilience.testing import ManualClock, run
from tests.redis_callers import until
from tests.stores import RemoteStore
from tests.test_store import COUNT, Threaded, take


def test_a_question_whose_coroutine_is_closed_is_not_asked(clock: ManualClock) -> None:
    store = RemoteStore(clock)

    async def main() -> None:
        question = store.aask(take())
        question.send(None)
        question.close()
        await clock.asleep(1.0)

    run(main(), clock)
    assert store.batches == []


def test_whoever_comes_second_to_start_the_thread_finds_it_running() -> None:
    store = Threaded()
    courier = Courier(store)
    courier.put(None)
    thread = courier._thread
    courier._start()
    assert courier._thread is thread


def test_a_reservation_is_given_up_once(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    reservation = RateLimiter(1, 60.0, name="x", store=store).reserve()
    assert isinstance(reservation, SharedReservation)
    reservation.forsake()
    reservation.forsake()
    assert len(store.waiting.reports) == 1
    assert not reservation.cancel()


def test_what_was_not_granted_to_somebody_who_is_gone_is_not_given_back(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    limiter = RateLimiter(1, 60.0, name="x", store=store)

    async def main() -> None:
        await limiter.areserve()
        task = asyncio.ensure_future(limiter.areserve(max_wait=0.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await clock.asleep(1.0)

    run(main(), clock)
    assert store.waiting.reports == []
    assert [[operation.verb for operation in batch] for batch in store.batches] == [["take"], ["take"]]


@pytest.mark.parametrize("on_error", ["local", "open", "closed"])
def test_a_guard_asks_no_store_that_refuses(clock: ManualClock, on_error: str) -> None:
    store = RemoteStore(clock, on_error=on_error)
    store.trouble = OSError()
    limiter = RateLimiter(10, 60.0, name="x", store=store)
    asked = []
    for _ in range(5):
        try:
            with limiter.guard():
                pass
        except RateLimitExceededError:
            assert on_error == "closed"
        asked.append(len(store.batches))
    assert asked == [1, 2, 3, 3, 3]


def test_a_probe_whose_outcome_is_lost_holds_up_no_command(clock: ManualClock) -> None:
    breaker = CircuitBreaker("x", store=RemoteStore(clock))
    machine = breaker._machine
    assert isinstance(machine, SharedCircuit)
    machine._telling_until = 5000.0
    Told(machine, machine._operation("settle")).lost()
    assert machine._telling_until == 5000.0
    Told(machine, machine._operation("reset")).lost()
    assert machine._telling_until < 0.0


def test_a_fork_finds_policies_whose_store_is_gone_or_never_was(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    gate = store._gate
    del store
    gc.collect()
    gate.forked()
    assert gate._store() is None
    budget = RetryBudget()
    budget.deposit()
    budget._account.forked()
    assert budget.statistics().deposits == 1


def test_the_child_of_a_fork_tells_what_it_has_counted_itself_and_nothing_else(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    budget = RetryBudget(name="x", store=store)
    for _ in range(3):
        budget.deposit()
    budget._account.forked()
    store.waiting.forked()
    budget.deposit()
    budget.withdraw()
    store.waiting.go()
    assert [operation.arguments[1:] for batch in store.batches for operation in batch] == [(1.0, 1.0)]


# -- connections -------------------------------------------------------------------------------------------------------


def test_every_way_to_read_and_write_ends_in_time() -> None:
    near, far = socket.socketpair()
    limits = Limits(SYSTEM, SYSTEM.now() + 20.0)
    bounded = _BoundedSocket(near, limits)
    far.sendall(b"abcd")
    buffer = bytearray(2)
    assert bounded.recv_into(buffer) == 2
    assert buffer == b"ab"
    assert bounded.recv(2) == b"cd"
    bounded.sendall(b"ef")
    assert far.recv(2) == b"ef"
    limits.end = SYSTEM.now() + 0.05
    with pytest.raises(TimeoutError):
        bounded.recv(1)
    for use in (lambda: bounded.recv(1), lambda: bounded.recv_into(buffer), lambda: bounded.sendall(b"x")):
        with pytest.raises(TimeoutError):
            use()
    bounded.settimeout(0)  # a look at what is there needs no time
    with pytest.raises(BlockingIOError):
        bounded.recv(1)
    assert bounded.fileno() == near.fileno()
    near.close()
    far.close()


class LateLink:
    """A connection that is there when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.limits = Limits(SYSTEM, 0.0)

    def connect(self) -> None:
        assert self.go.wait(20.0)

    def disconnect(self) -> None:
        """Nothing to close."""


def test_a_connection_that_came_too_late_for_one_call_is_there_for_the_next() -> None:
    store = RedisStore("redis://localhost", store_timeout=0.05)
    lines: Any = store._threads
    link = LateLink()
    lines._factory = type("Factory", (), {"for_threads": lambda *_: link})()
    with pytest.raises(TimeoutError, match="takes too long"):
        lines.exchange([b"x"], lines.end())
    assert not lines._idle
    link.go.set()
    until(lambda: lines._idle)
    assert lines._taken(lines.end()).link is link


def test_a_loop_keeps_a_few_connections_and_no_more(redis_for_answers: Any) -> None:
    async def main() -> None:
        async with RedisStore(redis_for_answers.url, store_timeout=20.0) as store:
            replies = await asyncio.gather(*(store._aexecute([COUNT]) for _ in range(7)))
            assert replies == [[(0.0,)]] * 7
            assert len(store._lines_of(asyncio.get_running_loop())._idle) == 4

    asyncio.run(main())
