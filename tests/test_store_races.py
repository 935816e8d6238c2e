"""What happens between two lines: races that a test brings about on purpose."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections import deque
from typing import Any

import pytest
import resilience_redis
from resilience_redis._connections import ThreadLines

from resilience import Bulkhead, BulkheadFullError, CircuitBreaker, CircuitOpenError, MemoryStore, State, Store
from resilience._courier import Operation
from resilience.testing import ManualClock, run
from tests.stores import RemoteStore
from tests.test_store import COUNT, Note, take


class Emptied(deque[Any]):
    """A deque that looks filled, but somebody else was faster."""

    def __bool__(self) -> bool:
        return True


def test_connections_that_another_thread_took_are_no_longer_there() -> None:
    lines: Any = ThreadLines.__new__(ThreadLines)
    lines._idle = Emptied()
    lines.close()
    lines._clock = ManualClock()
    lines._connected = lambda end: "new"
    assert lines._taken(1.0) == "new"


def test_what_another_thread_has_told_is_not_told_again(clock: ManualClock) -> None:
    breaker = CircuitBreaker("x", store=MemoryStore(clock=clock))
    machine: Any = breaker._machine
    machine._told, machine._outcomes = Emptied(), Emptied()
    assert machine.operation() is None
    machine.unlocked()
    machine._told = deque()
    assert breaker.call(lambda: 1) == 1


def test_an_answer_in_the_very_turn_of_the_cancellation_is_undone(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    undone: list[Any] = []

    async def main() -> None:
        task = asyncio.create_task(store.aask(take(), undone.append))
        await asyncio.sleep(0)
        [batch] = store._line(asyncio.get_running_loop())._under_way
        batch.entries[0].heard((1.0,))
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main(), clock)
    assert undone[0] == (1.0,)


def test_a_batch_that_never_left_is_given_up_in_time_with_what_it_holds(clock: ManualClock) -> None:
    store, note = RemoteStore(clock, delay=9.0, store_timeout=0.05), Note()

    async def main() -> None:
        first = []
        for _ in range(4):
            first.append(asyncio.create_task(store.aask(COUNT)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        store.tell(note)
        late = asyncio.create_task(store.aask(COUNT))
        await asyncio.wait([*first, late])
        assert late.exception() is not None

    run(main(), clock)
    assert note.fate == ["lost"]


def test_at_the_end_of_a_loop_questions_end_and_reports_go_to_the_thread_if_it_has_room(clock: ManualClock) -> None:
    asking: list[asyncio.Task[Any]] = []
    for room in (True, False):
        store, note, early = RemoteStore(clock), Note(), Note()
        store.waiting.room = room

        async def main(store: RemoteStore = store, note: Note = note) -> None:
            asking.append(asyncio.create_task(store.aask(COUNT)))
            await asyncio.sleep(0)
            store.tell(note)
            await asyncio.sleep(0)

        async def too_soon(store: RemoteStore = store, early: Note = early) -> None:
            asyncio.get_running_loop().call_soon(store.tell, early)

        run(main(), clock)
        run(too_soon(), clock)
        store.waiting.go()
        assert note.fate == ([(0.0,)] if room else ["lost"])


def test_a_store_without_a_way_for_tasks_of_its_own_uses_the_plain_one() -> None:
    class Plain(Store):
        def _execute(self, operations: list[Operation]) -> list[Any]:
            return [(1.0,)] * len(operations)

    assert asyncio.run(Plain().aask(COUNT)) == (1.0,)


def test_the_gate_of_a_store_that_is_gone_counts_nothing(clock: ManualClock) -> None:
    store = RemoteStore(clock)
    gate, permit = store._gate, store._gate.enter()
    del store
    gc.collect()
    gate.leave(permit, importlib.import_module("resilience").Verdict.FAILURE, None)
    assert gate.streak == 0


def test_alone_a_full_bulkhead_refuses_and_plain_callers_wait_in_its_queue(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=0.0)
    store.trouble = OSError()
    bulkhead = Bulkhead(1, name="x", store=store, max_queue=1, max_wait=0.5)
    with bulkhead.guard():
        with pytest.raises(BulkheadFullError):  # it waited in vain
            bulkhead.call(lambda: 1)
        with pytest.raises(BulkheadFullError), bulkhead.with_(max_wait=0.0).guard():
            pass
    assert bulkhead.statistics().rejected >= 1


def test_isolated_by_others_while_alone_a_breaker_asks_whether_that_is_over(clock: ManualClock) -> None:
    store = RemoteStore(clock, delay=0.0)
    one, other = (CircuitBreaker("x", store=store) for _ in range(2))
    one.isolate()
    store.waiting.go()
    with pytest.raises(CircuitOpenError):
        other.call(lambda: 1)
    store.trouble = OSError()
    for _ in range(4):
        clock.advance(1.1)
        with pytest.raises(CircuitOpenError):
            other.call(lambda: 1)
    store.trouble = None
    clock.advance(20.0)
    one.reset()
    store.waiting.go()
    assert other.call(lambda: 1) == 1
    assert other.state is State.CLOSED


def test_without_the_client_library_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ModuleNotFoundError, match=r"resilience-patterns\[redis\]"):
        importlib.reload(resilience_redis)
    monkeypatch.undo()
    importlib.reload(resilience_redis)
