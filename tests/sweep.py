"""The cancellation sweep: run a scenario again and again, cancelling it at every suspension point in turn.

::

    def scenario(clock: ManualClock) -> tuple[Coroutine[Any, Any, Any], Bulkhead]:
        bulkhead = Bulkhead(1, clock=clock)
        return work(bulkhead), bulkhead                 # fresh state for every run

    def check(ending: Ending[Bulkhead]) -> None:  # or `async def`: it runs in the scenario's loop
        assert ending.state.statistics().in_flight == 0

    assert sweep(scenario, check) >= 4                  # so many cancelled runs

Each point is visited twice: cancelled while the scenario waits there, and cancelled in the very turn of the event loop
in which what it waits for has come. Helpers that the scenario starts are its own to end: no task may be left over.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from resilience._courier import BATCH
from resilience.testing import ManualClock, run

S = TypeVar("S")

_MOST_POINTS = 1000


@dataclass(frozen=True)
class Ending(Generic[S]):
    """How one run ended. `point` counts from 1, 0 is the run that nobody disturbed; `moment` is where in the wait."""

    state: S
    clock: ManualClock
    point: int
    moment: str
    result: Any
    error: BaseException | None


class Disturbed(Coroutine[Any, Any, Any]):
    """A coroutine that has its task cancelled at suspension point number `point` (0: at none)."""

    def __init__(self, inner: Coroutine[Any, Any, Any], point: int, moment: str) -> None:
        self._inner = inner
        self._point = point
        self._moment = moment
        self.points = 0

    def send(self, value: Any, /) -> Any:
        return self._suspended(self._inner.send(value))

    def throw(self, *error: Any) -> Any:
        return self._suspended(self._inner.throw(*error))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise TypeError("to be run as a task, not awaited")

    def _suspended(self, awaited: Any) -> Any:
        self.points += 1
        if self.points == self._point:
            task = asyncio.current_task()
            assert task is not None
            if awaited is not None and self._moment == "waking":
                # Registered before the task's own callback, so it runs before the task takes its result.
                awaited.add_done_callback(lambda _: task.cancel())
            else:
                asyncio.get_running_loop().call_soon(task.cancel)
        return awaited


def sweep(
    make_scenario: Callable[[ManualClock], tuple[Coroutine[Any, Any, Any], S]], check: Callable[[Ending[S]], Any]
) -> int:
    """Run the scenario undisturbed, then cancelled at each suspension point; `check` judges every ending.

    `make_scenario(clock)` returns a fresh coroutine and the state that `check` looks at. Returns how many runs were
    cancelled.
    """
    points = _once(make_scenario, check, 0, "undisturbed")
    cancelled = 0
    for moment in ("waiting", "waking"):
        point = 1
        # What the scenario does may change with the cancellations before; it is over when a point is not reached.
        while _once(make_scenario, check, point, moment) >= point:
            cancelled += 1
            point += 1
            assert point < _MOST_POINTS, "the scenario never ends"
    assert cancelled >= 2 * min(points, 1)
    return cancelled


def _once(make_scenario: Callable[[ManualClock], Any], check: Callable[[Any], Any], point: int, moment: str) -> int:
    clock = ManualClock(1000.0)

    async def main() -> int:
        coroutine, state = make_scenario(clock)
        disturbed = Disturbed(coroutine, point, moment)
        task = asyncio.ensure_future(disturbed)
        await asyncio.wait([task])
        for _ in range(3):
            await asyncio.sleep(0)
        # What a store's courier has under way belongs to all its callers and outlives any one of them.
        left = {task for task in asyncio.all_tasks() - {asyncio.current_task()} if task.get_name() != BATCH}
        assert not left, f"cancelled at point {point} ({moment}): left over {left}"
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        ending = Ending(state, clock, point, moment, None if error is not None else task.result(), error)
        verdict = check(ending)
        if inspect.isawaitable(verdict):
            await verdict
        return disturbed.points

    return run(main(), clock)
