"""Rate limiter: cancellation, threads, forks, and what comes between a look and a lock."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resilience import Rate, RateLimiter, RateLimitExceededError, SlidingWindow, Verdict
from resilience.testing import ManualClock, run
from tests.sweep import Ending, sweep


def test_cancelling_one_waiter_never_lets_two_calls_out_at_one_instant(clock: ManualClock) -> None:
    """L2: in nopanic a cancelled waiter's slot was handed out early, and two calls started together with burst 1."""
    limiter = RateLimiter(1, burst=1, max_wait=None)
    started: list[float] = []

    @limiter
    async def call() -> None:
        started.append(clock.now())

    async def main() -> None:
        tasks = [asyncio.ensure_future(call()) for _ in range(6)]
        await asyncio.sleep(0.5)
        tasks[2].cancel()
        tasks[5].cancel()
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(call()))
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main(), clock)
    assert started == [1000.0, 1001.0, 1003.0, 1004.0, 1005.0]


def test_a_cancelled_waiter_leaks_nothing_wherever_it_is_cancelled() -> None:
    """L3: in hyx, failsafe and others a cancelled waiter kept its slot, or starved those behind it."""

    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], tuple[RateLimiter, list[float]]]:
        limiter = RateLimiter(1, burst=1, max_wait=None, clock=clock)
        started: list[float] = []

        @limiter
        async def call() -> None:
            started.append(clock.now())
            await asyncio.sleep(0.125)

        async def main() -> None:
            others = [asyncio.ensure_future(call()) for _ in range(2)]
            try:
                await asyncio.sleep(0)
                await call()
                await call()
            finally:
                await asyncio.gather(*others)

        return main(), (limiter, started)

    async def check(ending: Ending[tuple[RateLimiter, list[float]]]) -> None:
        limiter, started = ending.state
        assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(started))
        await asyncio.sleep(max(0.0, 1001.0 + 1.0 * len(started) - ending.clock.now()))
        assert limiter.at_rest
        assert limiter.peek().remaining == 1

    assert sweep(scenario, check) >= 6


def test_a_finished_thread_that_was_interrupted_gives_its_slot_back(clock: ManualClock) -> None:
    class Interrupted(ManualClock):
        def sleep(self, seconds: float) -> None:
            raise KeyboardInterrupt

    limiter = RateLimiter(1, max_wait=None, clock=Interrupted(5.0))
    limiter.admit()
    before = limiter.peek()
    with pytest.raises(KeyboardInterrupt):
        limiter(lambda: None)()
    assert limiter.peek() == before


def test_a_plain_function_that_waits_in_a_loops_thread_warns_once(clock: ManualClock) -> None:
    limiter = RateLimiter(1, max_wait=None, name="api")
    call = limiter(clock.now)

    async def main() -> None:
        call()
        with pytest.warns(RuntimeWarning, match=r"<RateLimiter api.*> makes a plain function wait.*`async def`"):
            call()
        assert call() == 1002.0  # a second warning would be an error

    run(main(), clock)


def test_threads_together_get_no_more_than_the_burst() -> None:
    clock = ManualClock(1000.0)
    limiter = RateLimiter(500, burst=500, clock=clock, key=lambda key: key)
    admitted: list[int] = []
    barrier = threading.Barrier(8)

    def worker(number: int) -> None:
        count = 0
        barrier.wait()
        for turn in range(400):
            try:
                # Every other call goes the long way, through another variant of the same state.
                (limiter if turn % 2 else weighed).admit(("k",))
                count += 1
            except RateLimitExceededError:
                pass
        admitted.append(count)

    weighed = limiter.with_(cost=lambda key: 1.0)
    threads = [threading.Thread(target=worker, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 500


def test_what_was_handed_over_while_somebody_decided_is_done_right_after(clock: ManualClock) -> None:
    """A cancellation that met the lock was applied at the next long decision only, perhaps never."""
    limiter = RateLimiter(10, burst=10)
    applied: list[str] = []

    def apply(permit: Any, verdict: Verdict) -> tuple[()]:
        applied.append(permit)
        return ()

    limiter.admit()
    reservation = limiter.reserve(cost=5)
    looks: dict[str, Callable[[], object]] = {
        "admit": limiter.admit,
        "peek": limiter.peek,
        "statistics": limiter.statistics,
        "at_rest": lambda: limiter.at_rest,
        "cancel": reservation.cancel,
        "reset": limiter.reset,
        "update": lambda: limiter.update(rate=5),
    }
    for name, look in looks.items():
        limiter._machine.late.append((apply, name, Verdict.ABANDONED))
        look()
        assert applied[-1:] == [name]


@pytest.mark.parametrize("look", ["reject", "peek", "cancel"])
def test_a_decision_looks_at_what_was_handed_over_first(clock: ManualClock, look: str) -> None:
    limiter = RateLimiter(1)
    waiting = limiter.with_(max_wait=None)
    reservation = limiter.reserve()
    wait = waiting.admit()
    limiter._machine.late.append((waiting._leave_locked, wait, Verdict.ABANDONED))
    if look == "cancel":
        assert reservation.cancel() is True
    elif look == "peek":
        assert limiter.peek().retry_after == 1.0
    else:
        with pytest.raises(RateLimitExceededError) as refused:
            limiter.admit()
        assert refused.value.retry_after == 1.0


@pytest.mark.parametrize(
    "limiter",
    [
        RateLimiter(1),
        RateLimiter(1, also=[Rate(8, 16.0)]),
        RateLimiter(limiter=SlidingWindow(1, 1.0)),
        RateLimiter(limiter=SlidingWindow(1, 1.0), also=[Rate(8, 16.0)]),
    ],
    ids=repr,
)
def test_reservations_cancelled_from_the_newest_on_all_return_their_tokens(
    clock: ManualClock, limiter: RateLimiter
) -> None:
    """With several limits only the first to be cancelled did: the state it left was not known as the one before."""
    limiter.reset()
    before = limiter.peek()
    reservations = [limiter.reserve() for _ in range(5)]
    assert [reservation.cancel() for reservation in reversed(reservations)] == [True] * 5
    assert limiter.peek() == before


def test_a_slot_that_was_forfeited_once_is_forfeited_for_good(clock: ManualClock) -> None:
    limiter = RateLimiter(1)
    first, second = limiter.reserve(), limiter.reserve()
    assert first.cancel() is False
    assert second.cancel() is True
    assert first.cancel() is False
    assert limiter.peek().retry_after == 1.0


class Interference(deque[None]):
    """The token of a lock, which lets something happen between a look without the lock and the lock."""

    def __init__(self, limiter: RateLimiter, happening: Callable[[], object]) -> None:
        super().__init__()
        self.limiter, self.happening, self.token = limiter, happening, limiter._machine.free
        limiter._machine.free = self

    def pop(self) -> None:  # type: ignore[override]
        self.limiter._machine.free = self.token
        self.happening()
        self.token.pop()

    def append(self, item: None, /) -> None:
        self.token.append(item)


def test_a_call_that_lost_a_race_for_the_last_token_is_rejected(clock: ManualClock) -> None:
    """The look needs no lock, so what it saw is checked again under the lock, or two calls take one token."""
    limiter = RateLimiter(2)
    limiter.admit()
    Interference(limiter, limiter.admit)
    with pytest.raises(RateLimitExceededError):
        limiter.admit()


def test_a_call_that_lost_a_race_with_an_update_pays_the_new_price(clock: ManualClock) -> None:
    limiter = RateLimiter(64)
    limiter.admit()
    Interference(limiter, lambda: limiter.update(rate=1, burst=5))
    limiter.admit()
    assert limiter.peek().reset_after == 2.0


def test_a_call_that_finds_somebody_inside_waits_for_its_turn(clock: ManualClock) -> None:
    def taken() -> None:
        raise IndexError

    limiter = RateLimiter(2)
    limiter.admit()
    Interference(limiter, taken)
    limiter.admit()
    assert limiter.peek().remaining == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_the_child_keeps_what_was_used_and_has_a_lock_of_its_own(clock: ManualClock) -> None:
    limiter = RateLimiter(2)
    limiter.admit()
    with limiter._machine.lock:
        pid = os.fork()
        if not pid:
            os._exit(10 + limiter.peek().remaining)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 11
