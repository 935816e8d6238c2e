"""The stopwatch: every case of a row is timed in turn, in many short rounds of the same run.

The numbers are made for a small machine whose cores are shared with others, where any single timing may be off by a
factor of two. Four things help:

* A **round** times each case of the row once, in a new random order, two milliseconds each. What slows the machine for
  longer than that slows all cases of the round alike, and a slice that is interrupted spoils one round of many.
* The rounds of a row are spread over several **passes** through all rows, each with cases made afresh. A neighbour who
  empties the caches for seconds hurts a long path more than a short one, so it does shift ratios; but it only meets
  one pass, and so does a case that lies badly in memory.
* A **ratio** is taken within a round, `(ours - bare) / (peer - bare)`, and the median of these ratios is reported.
  Dividing two separately chosen best times instead would compare a lucky moment of one with a lucky moment of the
  other; the median of ratios only compares neighbours. The quartiles around it are the spread.
* A **cost** in microseconds is the median over the rounds as well. It moves with the machine; the ratio does much less.

The garbage collector is off inside a slice and runs between the rounds, as in `timeit`.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from types import FunctionType
from typing import Any, Final, Literal, TypeVar

Colour = Literal["async", "sync"]
T = TypeVar("T")

BOTH: Final[tuple[Colour, ...]] = ("async", "sync")
BARE: Final = "bare"
"""The name of the unguarded case; where a row has one, costs and ratios are taken above it."""
OURS: Final = "resilience"


@dataclass(frozen=True, slots=True)
class Case:
    """One contestant of a row."""

    name: str
    call: Callable[[], Any]
    """Called without arguments; returns an awaitable in async rows."""
    raises: type[Exception] | None = None
    """What every call must raise; the loop catches it, as a caller would."""
    calls: int = 1
    """Guarded calls made by one `call()`."""
    primes: int = 1
    """Calls to make beforehand, whatever comes of them: to open the breaker, or to make all keys known."""
    rest: float = 0.0
    """Seconds to wait, untimed, after each slice: for a peer that leaves a short-lived thread behind in sync rows."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Ours may cost at most `limit` times `peer`."""

    peer: str
    limit: float


@dataclass(frozen=True, slots=True)
class Row:
    """The same job done by several contestants."""

    group: str
    name: str
    build: Callable[[Colour], list[Case]]
    """Makes fresh cases; for async rows it runs inside the event loop."""
    bars: tuple[Bar, ...] = ()
    colours: tuple[Colour, ...] = BOTH
    note: str = ""
    ceiling: float | None = None
    """Microseconds that ours may cost, whatever others do."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    passes: int
    rounds: int
    """In each pass."""
    slice_seconds: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The seconds per call of each case of a row, one entry per round."""

    row: Row
    colour: Colour
    seconds: dict[str, list[float]]

    def cost(self, name: str) -> float:
        """Seconds per call, above the bare call where the row has one (the bare call itself is absolute)."""
        return median(self._above_bare(name))

    def spread(self, name: str) -> Ratio:
        """The cost of a case in microseconds with its quartiles."""
        return _quartered([seconds * 1e6 for seconds in self._above_bare(name)])

    def ratio(self, peer: str) -> Ratio:
        """Our cost as a multiple of the peer's."""
        pairs = zip(self._above_bare(OURS), self._above_bare(peer), strict=True)
        # A disturbed bare slice can leave the peer nothing; "infinitely worse" keeps that round in its place.
        return _quartered([ours / theirs if theirs > 0 else float("inf") for ours, theirs in pairs])

    def _above_bare(self, name: str) -> list[float]:
        seconds = self.seconds[name]
        if name == BARE or BARE not in self.seconds:
            return seconds
        return [taken - bare for taken, bare in zip(seconds, self.seconds[BARE], strict=True)]


def _quartered(values: list[float]) -> Ratio:
    values = sorted(values)
    return Ratio(median(values), values[len(values) // 4], values[-1 - len(values) // 4])


def measure(rows: Sequence[Row], effort: Effort, progress: Callable[[str], object]) -> list[Measured]:
    """Time all cases of all rows in one run. `progress` is told what is being measured."""
    results = [Measured(row, colour, {}) for row in rows for colour in row.colours]
    for number in range(1, effort.passes + 1):
        for measured in results:
            row, colour = measured.row, measured.colour
            progress(f"pass {number} of {effort.passes}: {row.group}, {row.name}, {colour}")
            work = _one_pass(row, colour, effort)
            seconds = asyncio.run(work) if colour == "async" else _drive(work)
            for name, taken in seconds.items():
                measured.seconds.setdefault(name, []).extend(taken)
    return results


def _drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, without an event loop: a sync call is timed where there is none."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("a synchronous row tried to suspend")


async def _one_pass(row: Row, colour: Colour, effort: Effort) -> dict[str, list[float]]:
    cases = row.build(colour)
    if colour == "async":
        await asyncio.sleep(0)  # tasks that a case needs in place take their first step
    slices = {case.name: _slice_for(case, colour) for case in cases}
    loops: dict[str, int] = {}
    for case in cases:
        await _check(row, case, colour)
        loops[case.name] = await _calibrate(slices[case.name], effort.slice_seconds)
        _pause(case.rest)
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    order, shuffle = list(cases), random.Random(row.name).shuffle
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for _ in range(effort.rounds):
            shuffle(order)
            for case in order:
                run, n = slices[case.name], loops[case.name]
                if n >= 20:
                    await run(n // 20)  # refill the caches that the case before has used
                seconds[case.name].append(await run(n) / (n * case.calls))
                _pause(case.rest)
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    return seconds


def _pause(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


async def _check(row: Row, case: Case, colour: Colour) -> None:
    """Prime the case; and if it does not do what its row is about, do not time it."""

    async def attempt() -> Exception | None:
        try:
            outcome = case.call()
            if colour == "async":
                await outcome
        except Exception as error:
            return error
        return None

    for _ in range(case.primes):
        await attempt()
    raised = await attempt()
    if raised is not None and (case.raises is None or not isinstance(raised, case.raises)):
        raise raised
    if raised is None and case.raises is not None:
        raise RuntimeError(f"{row.name} ({colour}), {case.name}: did not raise {case.raises.__name__}")


async def _calibrate(run: Callable[[int], Awaitable[float]], target: float) -> int:
    """How many calls fill a slice; finding out warms the case up."""
    n = 1
    while (taken := await run(n)) < target / 4:
        n *= 2
    return max(1, round(n * target / taken))


def _slice_for(case: Case, colour: Colour) -> Callable[[int], Awaitable[float]]:
    """A function that makes `n` calls and returns the seconds they took together.

    Each case gets its own copy of the loop's code. The interpreter specialises the call instruction for the function
    it has seen, and with one shared loop a case would be timed with the instruction of the case before.
    """
    loop: Any
    if colour == "sync":
        loop = _own_copy(_calls if case.raises is None else _rejected_calls)

        async def run_sync(n: int) -> float:
            start = time.perf_counter()
            loop(case.call, n, case.raises)
            return time.perf_counter() - start

        return run_sync

    loop = _own_copy(_awaits if case.raises is None else _rejected_awaits)

    async def run_async(n: int) -> float:
        start = time.perf_counter()
        await loop(case.call, n, case.raises)
        # The event loop turns once inside the slice, so that whoever leaves timers or tasks behind pays for them.
        await asyncio.sleep(0)
        return time.perf_counter() - start

    return run_async


def _own_copy(function: Callable[..., Any]) -> Callable[..., Any]:
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__.replace(), function.__globals__, function.__name__)


def _calls(call: Callable[[], object], n: int, _: None) -> None:
    for _ in repeat(None, n):
        call()


def _rejected_calls(call: Callable[[], object], n: int, error: type[Exception]) -> None:
    for _ in repeat(None, n):
        try:
            call()
        except error:
            continue


async def _awaits(call: Callable[[], Awaitable[object]], n: int, _: None) -> None:
    for _ in repeat(None, n):
        await call()


async def _rejected_awaits(call: Callable[[], Awaitable[object]], n: int, error: type[Exception]) -> None:
    for _ in repeat(None, n):
        try:
            await call()
        except error:
            continue
