"""A store in the memory of this process: the reference of what a store does, and one for tests."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from . import _arguments
from ._courier import Operation, Report
from ._ledger import Cells, Leases, Ledger, Tallies
from ._ledger_circuit import Circuits
from ._machine import Machine
from .clock import Clock
from .events import Listener
from .store import Renewal, Store

_LEDGERS: dict[str, Callable[[], Any]] = {
    "limiter": Cells,
    "budget": Tallies,
    "bulkhead": Leases,
    "breaker": Circuits,
}
_FIRST_SWEEP = 1024  # keys
_SWEEP_PAUSE = 1.0  # seconds between two sweeps of a full store


class MemoryStore(Store):
    """Shares state within one process, for tests and for policies that are made anew but shall not start anew.

    At most `max_keys` states are kept; those as good as new are forgotten. It answers at once, and its leases never
    expire, because nobody in this process can be gone without having given back.
    """

    immediate = True

    def __init__(
        self,
        *,
        max_keys: int = 100_000,
        on_error: str = "local",
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(on_error=on_error, name=name, clock=clock, listeners=listeners)
        self.lease_time = math.inf
        self._table = _Table(_arguments.count("max_keys", max_keys))
        self._told: deque[Report] = deque()

    def tell(self, report: Report) -> None:
        self._told.append(report)
        self._hear()

    def keep(self, renewal: Renewal) -> None:
        """Nothing to renew."""

    def _execute(self, operations: list[Operation]) -> list[Any]:
        table, now = self._table, self.clock.now()
        self._hear()
        with table.lock:
            replies = [table.apply_locked(operation, now) for operation in operations]
        self._hear()
        return replies

    def _hear(self) -> None:
        """Apply what was told, unless somebody is at it; whoever that is looks again."""
        table = self._table
        while self._told and table.lock.acquire(False):
            heard: list[tuple[Report, Any]] = []
            try:
                now = self.clock.now()
                while self._told:
                    report = self._told.popleft()
                    operation = report.operation()
                    if operation is not None:
                        heard.append((report, table.apply_locked(operation, now)))
            finally:
                table.lock.release()
            for report, reply in heard:
                if isinstance(reply, BaseException):
                    report.lost()
                else:
                    report.heard(reply)

    def __bool__(self) -> bool:
        return True  # an empty store is one too: `store or another` must not pass over it

    def __len__(self) -> int:
        return len(self._table.states)


class _Table(Machine):
    """The machines by kind, policy and key."""

    __slots__ = ("_max_keys", "_next_look", "_sweep_at", "states")

    def __init__(self, max_keys: int) -> None:
        super().__init__()
        self._max_keys = max_keys
        self._sweep_at = min(max_keys, _FIRST_SWEEP)
        self._next_look = -math.inf
        self.states: dict[tuple[str, str, str], Ledger] = {}

    def apply_locked(self, operation: Operation, now: float) -> Any:
        address = operation[0], operation[2], operation[3]
        state = self.states.get(address)
        if state is None or state.expires_at <= now:
            if state is None and len(self.states) >= self._sweep_at and not self._swept_locked(now):
                return MemoryError(f"{self._max_keys} states are kept already")
            state = _LEDGERS[operation.machine]()
        reply = getattr(state, operation.verb)(now, *operation.arguments)
        if state.expires_at > now:
            self.states[address] = state
        else:
            self.states.pop(address, None)
        return reply

    def forked(self) -> None:
        super().forked()
        for state in self.states.values():
            state.forked()

    def _swept_locked(self, now: float) -> bool:
        """Forget what is as good as new; whether there is room then. A full table is not swept for every new key."""
        if len(self.states) >= self._max_keys and now < self._next_look:
            return False
        self.states = {address: state for address, state in self.states.items() if state.expires_at > now}
        self._sweep_at = min(self._max_keys, max(_FIRST_SWEEP, 2 * len(self.states)))
        self._next_look = now + _SWEEP_PAUSE
        return len(self.states) < self._max_keys
