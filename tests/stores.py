"""Stores for tests: one that is far away and can be in trouble, and a courier whose journeys a test starts itself."""

from __future__ import annotations

from typing import Any

from resilience import MemoryStore
from resilience._courier import Operation, Report, carry
from resilience.clock import Clock
from resilience.store import Store


class Waiting:
    """In place of the courier's thread: what is put here waits until the test calls `go`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reports: list[Report] = []
        self.room = True

    def put(self, report: Report | None) -> bool:
        if report is not None and self.room:
            self.reports.append(report)
        return self.room

    def go(self) -> None:
        """Tell what there is to tell, and what is then to be told because of the answers."""
        while self.reports:
            reports, self.reports = self.reports, []
            carry(self._store, reports)

    def flush(self) -> None:
        self.go()

    def renew(self) -> None:
        """What the thread does from time to time."""
        carry(self._store, self._store.due_renewals())

    def forked(self) -> None:
        self.reports.clear()


class RemoteStore(Store):
    """A MemoryStore at a distance of `delay` seconds there and back; `trouble` is raised in place of answers."""

    def __init__(self, clock: Clock, *, delay: float = 0.01, memory: MemoryStore | None = None, **options: Any) -> None:
        options.setdefault("name", "remote")
        super().__init__(clock=clock, **options)
        self.memory = MemoryStore(clock=clock) if memory is None else memory
        self.delay = delay
        self.trouble: BaseException | None = None
        self.refusals: list[Any] = []  # in place of single replies
        self.batches: list[list[Operation]] = []
        self.waiting = Waiting(self)
        self.thread: Any = self.waiting

    def _execute(self, operations: list[Operation]) -> list[Any]:
        self.clock.sleep(self.delay / 2)
        replies = self._answers(operations)
        self.clock.sleep(self.delay / 2)
        return replies

    async def _aexecute(self, operations: list[Operation]) -> list[Any]:
        await self.clock.asleep(self.delay / 2)
        replies = self._answers(operations)
        await self.clock.asleep(self.delay / 2)
        return replies

    def _answers(self, operations: list[Operation]) -> list[Any]:
        self.batches.append(operations)
        if self.trouble is not None:
            raise self.trouble
        return [self.refusals.pop() if self.refusals else reply for reply in self.memory._execute(operations)]
