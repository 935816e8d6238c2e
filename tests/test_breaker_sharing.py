"""One breaker is one state for all threads, loops and finalisers, and across a fork."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience import CircuitBreaker, CircuitOpenError, CountWindow, State, Verdict
from resilience.testing import ManualClock

SUCCESS, FAILURE, ABANDONED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.ABANDONED


def state(breaker: CircuitBreaker) -> State:
    """A function, because mypy takes a property that was compared once for unchanging."""
    return breaker.state


def fail() -> None:
    raise ConnectionError


# -- hand-over ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict,state_after", [(SUCCESS, State.CLOSED), (FAILURE, State.OPEN)])
def test_a_result_that_finds_the_lock_taken_by_its_own_thread_is_applied_later(
    clock: ManualClock, verdict: Verdict, state_after: State
) -> None:
    """A finaliser may run inside any allocation, and a plain lock taken there waits for itself for ever."""
    breaker = CircuitBreaker(failure_threshold=1)
    with breaker._machine.lock:
        breaker.settle(breaker._machine.closed_permit, verdict)
        assert breaker._machine.window.calls == 0
    statistics = breaker.statistics()
    assert (statistics.calls, statistics.state) == (1, state_after)


def test_a_result_that_was_handed_over_counts_from_its_own_instant(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, jitter=0.0)
    with breaker._machine.lock:
        breaker.settle(breaker._machine.closed_permit, FAILURE)
    clock.advance(3.0)
    assert breaker.statistics().retry_after == 2.0


def test_the_next_settlement_applies_what_was_handed_over_before_its_own(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=2)
    for verdict in (SUCCESS, ABANDONED):
        permit = breaker.admit()
        with breaker._machine.lock:
            breaker.settle(breaker.admit(), FAILURE)
        breaker.settle(permit, verdict)
        assert not breaker._machine.late
    statistics = breaker.statistics()
    assert (statistics.streak, statistics.calls, statistics.failures) == (1, 3, 2)


def test_the_next_admission_sees_what_was_handed_over(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1)
    breaker.settle(breaker.admit(), FAILURE)
    clock.advance(100.0)
    probe = breaker.admit()
    with breaker._machine.lock:
        breaker.settle(probe, ABANDONED)
    breaker.settle(breaker.admit())
    assert state(breaker) is State.CLOSED


def test_an_admission_that_finds_the_closing_success_handed_over_is_an_ordinary_call(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1)
    breaker.settle(breaker.admit(), FAILURE)
    clock.advance(100.0)
    probe = breaker.admit()
    with breaker._machine.lock:
        breaker.settle(probe)
    call = breaker.admit()
    assert state(breaker) is State.CLOSED
    assert breaker.statistics().probes == 0
    breaker.settle(call)
    assert breaker.statistics().calls == 1


def test_a_success_counts_for_nothing_if_the_state_changes_just_before_it_gets_the_lock(clock: ManualClock) -> None:
    class Meddling(ManualClock):
        def now(self) -> float:
            acts.pop()()
            return super().now()

    acts: list[Callable[[], object]] = [lambda: None] * 10
    breaker = CircuitBreaker(clock=Meddling())
    permit = breaker.admit()
    acts.append(breaker.reset)
    breaker.settle(permit)
    assert breaker.statistics().calls == 0


def test_what_is_handed_over_during_the_quickest_settlement_is_applied_by_it(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = CircuitBreaker(window=CountWindow(10))
    machine = breaker._machine
    record, permits = machine.window.record, [breaker.admit(), breaker.admit()]

    class Interrupted:
        """A window in whose bookkeeping the collector runs, and a finaliser that settles a call."""

        calls = 0
        edge = machine.window.edge

        def record(self, now: float, failed: bool, slow: bool) -> None:
            record(now, failed, slow)
            if permits:
                breaker.settle(permits.pop())

    monkeypatch.setattr(machine, "window", Interrupted())
    breaker.settle(permits.pop())
    monkeypatch.undo()
    assert machine.window.calls == 2
    assert not machine.late


@pytest.mark.parametrize("act", ["isolate", "reset", "mode", "statistics", "admit"])
def test_whoever_unlocks_looks_what_was_handed_over_meanwhile(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    breaker.settle(breaker.admit(), FAILURE)
    machine = breaker._machine
    method = {"mode": "set_mode"}.get(act, act) + "_locked"
    original = getattr(machine, method)
    applied: list[Verdict] = []

    def interrupted(*args: Any) -> Any:
        machine.late.append((apply, None, ABANDONED))
        return original(*args)

    def apply(permit: object, verdict: Verdict) -> tuple[()]:
        applied.append(verdict)
        return ()

    monkeypatch.setattr(type(machine), method, lambda self, *args: interrupted(*args))
    if act == "mode":
        breaker.mode = "shadow"
    elif act == "admit":
        clock.advance(100.0)
        breaker.settle(breaker.admit(), ABANDONED)
    else:
        getattr(breaker, act)()
    assert applied[:1] == [ABANDONED]
    assert not machine.late


def test_a_refusal_needs_no_lock(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, jitter=0.0)
    breaker.settle(breaker.admit(), FAILURE)
    with breaker._machine.lock, pytest.raises(CircuitOpenError) as caught:
        breaker.admit()
    assert caught.value.retry_after == 5.0


def test_a_guard_collected_while_its_thread_holds_the_lock_gives_its_probe_back(clock: ManualClock) -> None:
    """L12: taken in a destructor, any plain lock deadlocks."""
    breaker = CircuitBreaker(failure_threshold=1, half_open_max_calls=1, success_threshold=1)
    breaker.settle(breaker.admit(), FAILURE)
    clock.advance(100.0)

    @breaker
    def rows() -> Iterator[int]:
        yield 1

    stream = rows()
    next(stream)
    with breaker._machine.lock:
        del stream
        gc.collect()
    assert breaker.statistics().probes == 0


# -- threads -----------------------------------------------------------------------------------------------------------


def test_eight_threads_never_get_more_probes_than_the_quota() -> None:
    """B3 under load: real threads on one breaker, which opens and recovers all the time."""
    clock = ManualClock()
    breaker = CircuitBreaker(
        failure_threshold=3, recovery_time=1.0, max_recovery_time=1.0, jitter=0.0, half_open_max_calls=3, clock=clock
    )
    counting = threading.Lock()
    running: dict[int, int] = {}
    worst = refused = passed = 0

    def work(number: int) -> None:
        nonlocal worst, refused, passed
        for turn in range(400):
            machine = breaker._machine
            try:
                permit = breaker.admit()
            except CircuitOpenError:
                with counting:
                    refused += 1
                clock.advance(0.25)
                continue
            probe = permit != machine.closed_permit and permit in machine._leases
            with counting:
                passed += 1
                if probe:
                    running[permit] = running.get(permit, 0) + 1
                worst = max(worst, len(machine._leases))
            breaker.settle(permit, (SUCCESS, FAILURE, FAILURE, ABANDONED)[(turn + number) % 4])

    def guarded_work(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    errors: list[BaseException] = []
    threads = [threading.Thread(target=guarded_work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert passed + refused == 8 * 400
    assert worst <= 3
    assert set(running.values()) <= {1}, "a lease was given out twice"
    statistics = breaker.statistics()
    assert statistics.probes == 0
    assert not breaker._machine.late


def test_no_count_is_lost_between_threads_and_loops() -> None:
    breaker = CircuitBreaker(failure_rate=None, slow_call_duration=3600.0)
    guarded = breaker(lambda: None)

    @breaker
    async def coroutine_function() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(coroutine_function() for _ in range(200)))

    def work(number: int) -> None:
        if number % 2:
            asyncio.run(main())
        else:
            for _ in range(200):
                guarded()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.statistics().calls == 8 * 200


# -- fork --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_child_of_a_fork_keeps_the_state_but_nothing_in_flight(clock: ManualClock) -> None:
    """L13: a lock held at the fork stays held in the child, and its first call hangs."""
    breaker = CircuitBreaker(window=CountWindow(10), failure_threshold=2)
    probed = CircuitBreaker(failure_threshold=1, half_open_max_calls=2, success_threshold=1)
    breaker.settle(breaker.admit(), FAILURE)
    call = breaker.admit()
    probed.settle(probed.admit(), FAILURE)
    clock.advance(100.0)
    probe = probed.admit()

    def in_child() -> None:
        assert (breaker.statistics().streak, breaker.statistics().calls) == (1, 1)
        breaker.settle(call, FAILURE)
        assert breaker.statistics().calls == 1, "a permit of the parent counted in the child"
        breaker.settle(breaker.admit())
        assert (breaker.statistics().calls, breaker.statistics().streak) == (2, 0)
        assert (probed.state, probed.statistics().probes) == (State.HALF_OPEN, 0)
        probed.settle(probe)
        assert probed.state is State.HALF_OPEN
        first, second = probed.admit(), probed.admit()
        assert probe not in {first, second}
        probed.settle(first)
        assert probed.statistics().state is State.CLOSED

    with breaker._machine.lock, probed._machine.lock:
        child = os.fork()
        if child == 0:
            try:
                in_child()
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(1)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    breaker.settle(call, FAILURE)
    probed.settle(probe)
    assert (state(breaker), state(probed)) == (State.OPEN, State.CLOSED)
