"""Processes: a fork starts afresh and never hangs, and the end of the interpreter is silent and quick."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, Keyed, RateLimiter, _machine, new_id
from resilience._machine import SUCCESS, Machine
from resilience._wait import Wait
from resilience.correlation import _ends

PATIENCE = 20  # seconds after which a child that hangs is ended by a signal

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked child; what it raises there is an error here, and so is hanging."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(PATIENCE)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@needs_fork
def test_a_forked_child_makes_ids_that_its_parent_will_not_make() -> None:
    new_id()
    ahead = set(_ends)
    assert ahead

    def work() -> None:
        assert not {new_id()[12:] for _ in range(2 * len(ahead))} & ahead

    in_child(work)


def while_held(*machines: Machine) -> tuple[threading.Thread, threading.Event]:
    """A thread that holds the locks of `machines` until the event is set."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        for machine in machines:
            machine.lock.acquire()
            machine.emitting.acquire()
        held.set()
        release.wait(PATIENCE)
        for machine in machines:
            machine.emitting.release()
            machine.lock.release()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert held.wait(PATIENCE)
    return thread, release


# -- fork --------------------------------------------------------------------------------------------------------------


@needs_fork
def test_a_child_forked_while_another_thread_holds_the_lock_can_call() -> None:
    """Any module-level lock: the child hangs at its first call (L13)."""
    told: list[Any] = []
    bulkhead = Bulkhead(1, listeners=[told.append])
    breaker, limiter = CircuitBreaker(), RateLimiter(5)
    keyed = Keyed(lambda _: bulkhead, key=lambda: "key")
    thread, release = while_held(*(policy._machine for policy in (bulkhead, breaker, limiter, keyed)))

    def work() -> None:
        for policy in (bulkhead, breaker, limiter, keyed):
            assert policy(lambda: "done")() == "done"
        permit = bulkhead.admit()
        with pytest.raises(BulkheadFullError):
            bulkhead.admit()
        assert len(told) == 1
        bulkhead.settle(permit)
        assert bulkhead.statistics().in_use == 0

    in_child(work)
    release.set()
    thread.join(PATIENCE)


@needs_fork
def test_a_child_has_nothing_in_flight_and_no_permit_of_the_parent_counts() -> None:
    bulkhead = Bulkhead(2, max_queue=5)
    permits = [bulkhead.admit(), bulkhead.admit()]
    wait = bulkhead.admit()
    assert type(wait) is Wait
    with bulkhead._machine.lock:
        bulkhead.settle(permits[0])  # handed over, not applied yet

        def work() -> None:
            assert (bulkhead.statistics().in_use, bulkhead.statistics().waiting) == (0, 0)
            own = bulkhead.admit()
            for permit in permits:
                bulkhead.settle(permit)
            bulkhead._forsake(wait)
            assert bulkhead.statistics().in_use == 1
            bulkhead.settle(own)
            assert bulkhead.statistics().in_use == 0

        in_child(work)
    assert bulkhead.statistics().in_use == 2, "the one that waited got the slot of the first"
    bulkhead.settle(permits[1])
    bulkhead._forsake(wait)
    assert bulkhead.statistics().in_use == 0


@needs_fork
def test_a_child_does_not_deliver_the_events_of_its_parent_again() -> None:
    told: list[Any] = []
    bulkhead = Bulkhead(1, listeners=[told.append])
    permit = bulkhead.admit()
    with bulkhead._machine.emitting:  # another thread is delivering
        with pytest.raises(BulkheadFullError):
            bulkhead.admit()

        def work() -> None:
            bulkhead._machine.unlocked()
            assert told == []

        in_child(work)
    bulkhead._machine.unlocked()
    assert len(told) == 1
    bulkhead.settle(permit)


@needs_fork
def test_a_listener_may_fork() -> None:
    """The child released a lock that was new, and died of it."""

    def fork(_: Any) -> None:
        in_child_of_listener.append(os.fork())

    in_child_of_listener: list[int] = []
    bulkhead = Bulkhead(1, listeners=[fork])
    permit = bulkhead.admit()
    status = 1
    try:
        with pytest.raises(BulkheadFullError), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            bulkhead.admit()
        status = 0
    finally:
        if in_child_of_listener == [0]:
            os._exit(status)
    _, waited = os.waitpid(in_child_of_listener[0], 0)
    assert os.waitstatus_to_exitcode(waited) == 0
    bulkhead.settle(permit)


@needs_fork
def test_a_policy_that_another_thread_was_just_making_does_not_stop_the_others_from_starting_afresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unfinished(Machine):
        __slots__ = ("missing",)

        def forked(self) -> None:
            super().forked()
            self.missing.clear()  # type: ignore[attr-defined]

    bulkhead = Bulkhead(1)
    bulkhead.admit()
    monkeypatch.setattr(_machine, "_machines", [Unfinished(), bulkhead._machine])

    def work() -> None:
        assert bulkhead.statistics().in_use == 0

    in_child(work)
    assert bulkhead.statistics().in_use == 1


def test_machines_are_forgotten_with_their_policies() -> None:
    bulkhead = Bulkhead(1)
    machine_count = len(_machine._machines)
    del bulkhead
    assert len(_machine._machines) == machine_count - 1


def test_a_new_generation_does_not_take_back_what_was_granted_in_the_old_one() -> None:
    """The waiter had its slot, then came the fork, then the child dropped the waiter: one slot too many."""
    bulkhead = Bulkhead(1, max_queue=1)
    permit, wait = bulkhead.admit(), bulkhead.admit()
    bulkhead.settle(permit)
    assert wait.ticket.granted
    bulkhead._machine.forked()
    bulkhead._forsake(wait)
    assert bulkhead.statistics().in_use == 0


def test_a_new_generation_drops_what_was_handed_over() -> None:
    machine = Machine()
    machine.late.append((lambda permit, verdict: pytest.fail("applied"), None, SUCCESS))
    machine.forked()
    machine.unlocked()
    assert not machine.late


def test_a_new_generation_ignores_what_belongs_to_the_old_one() -> None:
    bulkhead = Bulkhead(3)
    old = bulkhead.admit()
    bulkhead._machine.forked()
    permits = [bulkhead.admit(), bulkhead.admit()]
    before = bulkhead.statistics()
    bulkhead.settle(old, SUCCESS)
    assert bulkhead.statistics() == before
    for permit in permits:
        bulkhead.settle(permit)
    assert bulkhead.statistics().in_use == 0


# -- the end of the interpreter ----------------------------------------------------------------------------------------


def python(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


PRELUDE = """
import asyncio, sys, threading
from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, Pipeline, RateLimiter, Retry, Timeout, correlated
import tenacity
"""


@pytest.mark.parametrize(
    "script",
    [
        # Threads that wait, without end or for an hour, for a slot, a token, a retry.
        """
started = threading.Barrier(4)
bulkhead = Bulkhead(1, max_queue=9, max_wait=None, listeners=[lambda _: started.wait(20)])
limiter = RateLimiter(1, 3600.0, max_wait=3600.0, listeners=[lambda _: started.wait(20)])
retry = Retry(on=ValueError, wait=tenacity.wait_fixed(3600), listeners=[lambda _: started.wait(20)])
bulkhead.admit()
limiter.admit()
for call in (bulkhead(print), limiter(print), retry(lambda: int("x"))):
    threading.Thread(target=call, daemon=True).start()
started.wait(20)
""",
        # A function that was left behind by its timeout.
        """
try:
    Timeout(0.01, abandon=True)(lambda: threading.Event().wait(3600))()
except TimeoutError:
    pass
""",
        # Guards, generators and coroutines still open.
        """
bulkhead = Bulkhead(9)
guard = bulkhead.guard().__enter__()
def numbers():
    yield from range(9)
generator = Pipeline(correlated, Timeout(60.0), bulkhead)(numbers)()
next(generator)
async def work():
    await asyncio.sleep(0)
coroutine = bulkhead(work)()
try:
    coroutine.send(None)
except RuntimeError:
    pass
""",
        # A loop that is gone while tasks waited in it, with timers armed.
        """
bulkhead = Bulkhead(1, max_queue=9, max_wait=3600.0)
async def work():
    await asyncio.sleep(3600)
async def main():
    guarded = Timeout(3600.0)(Pipeline(CircuitBreaker(), bulkhead)(work))
    tasks = [asyncio.ensure_future(guarded()) for _ in range(3)]
    await asyncio.sleep(0)
asyncio.run(main())
assert bulkhead.statistics().in_use == bulkhead.statistics().waiting == 0
""",
    ],
    ids=["waiting threads", "abandoned worker", "open guards", "cancelled tasks"],
)
def test_the_end_of_the_interpreter_is_silent_and_quick(script: str) -> None:
    """Pools and timers delayed it or printed noise (L14, T4)."""
    finished = python(PRELUDE + script + "\nprint('the end')\n")
    assert (finished.returncode, finished.stderr, finished.stdout) == (0, "", "the end\n")
