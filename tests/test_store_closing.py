"""Closing a store: what calls have given back or found out is told before the process goes on, and nobody hangs."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from resilience import Bulkhead, CircuitBreaker, CircuitOpenError, MemoryStore, StoreUnavailable
from resilience._courier import Operation
from resilience.store import Store
from resilience.testing import ManualClock, run
from tests.stores import RemoteStore
from tests.test_store import COUNT

ROOT = Path(__file__).resolve().parent.parent


class Slow(Store):
    """A store whose courier is the real thread, and which answers when the test says so."""

    def __init__(self, **options: Any) -> None:
        super().__init__(store_timeout=options.pop("store_timeout", 1.0), **options)
        self.memory = MemoryStore()
        self.go, self.asked = threading.Event(), threading.Event()
        self.trouble: Exception | None = None

    def _execute(self, operations: list[Operation]) -> list[Any]:
        if any(operation.verb == "release" for operation in operations):
            self.asked.set()
            assert self.go.wait(20.0)
        if self.trouble is not None:
            raise self.trouble
        return self.memory._execute(operations)


def test_closing_waits_for_what_the_thread_is_telling() -> None:
    store = Slow()
    Bulkhead(1, name="x", store=store).call(lambda: None)
    assert store.asked.wait(20.0)
    assert store.memory.ask(COUNT) == (1.0,)
    closing = threading.Thread(target=store.close)
    closing.start()
    store.go.set()
    closing.join(20.0)
    assert not closing.is_alive()
    assert store.memory.ask(COUNT) == (0.0,)


def test_leaving_a_with_block_closes() -> None:
    with Slow() as store:
        store.go.set()
        for _ in range(3):
            Bulkhead(1, name="x", store=store).call(lambda: None)
            store.close()  # and it may be used again
    assert store.memory.ask(COUNT) == (0.0,)


def test_closing_a_store_in_trouble_hangs_nobody() -> None:
    store = Slow()
    store.go.set()
    bulkhead = Bulkhead(1, name="x", store=store)
    with bulkhead.guard():
        store.trouble = OSError()
    store.close()
    assert not store.available


def test_closing_waits_no_longer_than_the_journeys_can_take() -> None:
    store = Slow(store_timeout=0.001)
    Bulkhead(1, name="x", store=store).call(lambda: None)
    assert store.asked.wait(20.0)
    store.close()
    assert store.memory.ask(COUNT) == (1.0,)
    store.go.set()


def test_a_listener_may_close_the_store_in_the_thread_that_tells() -> None:
    closed = threading.Event()

    def listener(event: object) -> None:
        if isinstance(event, StoreUnavailable):
            store.close()
            closed.set()

    store = Slow(listeners=[listener], store_timeout=3600.0)
    with Bulkhead(1, name="x", store=store).guard():
        store.trouble = OSError()
        store.go.set()
    assert closed.wait(20.0)


def test_closing_in_a_loop_waits_for_what_the_loop_is_telling(clock: ManualClock) -> None:
    store = RemoteStore(clock, store_timeout=1.0, delay=0.5)

    async def main() -> None:
        bulkhead = Bulkhead(1, name="x", store=store)
        async with store, bulkhead.guard():
            assert store.memory.ask(COUNT) == (1.0,)
        assert store.memory.ask(COUNT) == (0.0,)
        assert store._lines == {}
        await store.aclose()

    run(main(), clock)


def test_an_interruption_is_raised_as_it_is(clock: ManualClock) -> None:
    """It had been made its own cause."""
    store = RemoteStore(clock)
    store.trouble = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        store.ask(COUNT)
    assert caught.value.__cause__ is None
    assert store.available


def test_a_store_cannot_be_copied() -> None:
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        copy.copy(MemoryStore())


def test_a_refusal_tells_how_long_the_circuit_stays_open_not_how_long_the_news_are_good(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    pair = [CircuitBreaker("x", store=store, failure_threshold=1, recovery_time=50.0, jitter=0.0) for _ in range(2)]

    def fail() -> None:
        raise OSError

    with pytest.raises(OSError):
        pair[0].call(fail)
    store.waiting.go()
    for _ in range(3):
        for breaker in pair:
            began = clock.now()
            with pytest.raises(CircuitOpenError) as caught:
                breaker.call(lambda: 1)
            assert caught.value.retry_after == pytest.approx(50.0 - (began - 1000.0), abs=0.2)
            clock.advance(0.3)
    pair[0].isolate()
    for _ in range(2):
        with pytest.raises(CircuitOpenError) as caught:
            pair[0].call(lambda: 1)
        assert caught.value.retry_after is None


ENDS_WITH_A_SLOT = """
from resilience import Bulkhead, MemoryStore
from resilience.store import Store

class Far(Store):
    memory = MemoryStore()

    def _execute(self, operations):
        return self.memory._execute(operations)

guards = [Bulkhead(2, name="x", store=Far()).guard() for _ in range(2)]
for guard in guards:
    guard.__enter__()
"""


def test_a_program_that_ends_while_it_holds_a_slot_ends() -> None:
    """The finaliser that gave the slot back started the courier, and waited for a thread that never ran."""
    program = [sys.executable, "-c", ENDS_WITH_A_SLOT]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=30.0, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
