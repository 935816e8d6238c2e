"""Deliberate bugs of the throttle."""

from __future__ import annotations

from . import Mutant

_TESTS = ("tests/test_throttle.py",)


def _throttle(name: str, old: str, new: str) -> Mutant:
    return Mutant(f"throttle: {name}", "resilience/throttle.py", old, new, _TESTS)


def _bucket(name: str, old: str, new: str) -> Mutant:
    tests = (*_TESTS, "tests/test_leaky_bucket.py")
    return Mutant(f"throttle: {name}", "resilience/_leaky_bucket.py", old, new, tests)


MUTANTS: list[Mutant] = [
    _throttle(
        "newcomers barge", "if limiter.has_capacity(cost) and not queue.waiting:", "if limiter.has_capacity(cost):"
    ),
    _throttle("everybody queues at the bucket", "async with scope, queue.turn:", "async with scope:"),
    _throttle("a free bucket is not taken from", "            self._acquire_now(cost)\n", ""),
    _throttle("a waiter that is gone is still counted", "            queue.waiting -= 1\n", "            pass\n"),
    _throttle("what those ahead want is forgotten", "        queue.wanted += self._cost\n", ""),
    _throttle(
        "what a waiter wanted is kept", "queue.wanted = queue.wanted - self._cost if queue.waiting else 0.0", "pass"
    ),
    _throttle("a cost beyond the bucket waits", "if cost > limiter.max_rate:", "if False:"),
    _throttle(
        "a hopeless wait is not foreseen", "if self._max_wait is not None and wait > self._max_wait:", "if False:"
    ),
    _throttle("a hopeless deadline is not foreseen", "elif left is not None and wait > left:", "elif False:"),
    _throttle("the wait does not count those ahead", "level(limiter) + queue.wanted + cost", "level(limiter) + cost"),
    _throttle(
        "the wait forgets the period", "missing * limiter.time_period / limiter.max_rate", "missing / limiter.max_rate"
    ),
    _throttle(
        "rejections are not counted",
        "        line.rejected += 1\n        if limited_by_deadline:",
        "        if limited_by_deadline:",
    ),
    _throttle(
        "foreseen rejections are not counted",
        "        if refusal is not None:\n            line.rejected += 1\n",
        "        if refusal is not None:\n",
    ),
    _throttle(
        "impossible costs are not counted",
        "        if cost > limiter.max_rate:\n            line.rejected += 1\n",
        "        if cost > limiter.max_rate:\n",
    ),
    _throttle("the deadline is called our limit", "        if limited_by_deadline:\n", "        if False:\n"),
    _throttle(
        "the nearer limit is ignored",
        "asyncio.timeout(left if limited_by_deadline else limit)",
        "asyncio.timeout(limit)",
    ),
    _throttle(
        "a foreign timeout is ours",
        "            if not scope.expired():\n                raise\n",
        "            pass\n",
    ),
    _throttle(
        "two open loops share one bucket", "            if owner(line.limiter) is not loop:", "            if False:"
    ),
    _throttle(
        "a new loop takes over the old queue",
        "            line.queue = _Queue(loop)",
        "            line.queue.loop = loop",
    ),
    _bucket("taking over warns", 'warnings.simplefilter("ignore", Runtime', 'warnings.simplefilter("error", Runtime'),
    _bucket("a child stays in its parent's loop", "        del limiter._event_loop\n", "        pass\n"),
    _bucket("those who wait for an orphan stay", "    limiter._waiters.clear()\n", ""),
    _bucket("an orphan keeps its timer", "    limiter._waker_handle = None\n", ""),
    _throttle(
        "a child waits behind its parent's calls", "        self.queue = _Queue(None)\n        # The", "        # The"
    ),
    _throttle(
        "computed costs are not checked",
        '_arguments.number("cost", self._cost_of(*args, **(kwargs or {})), zero=True)',
        "self._cost_of(*args, **(kwargs or {}))",
    ),
    _throttle(
        "a constant cost beyond the bucket is accepted", "if self._cost > self._machine.limiter.max_rate:", "if False:"
    ),
    _throttle("waits are not told", "        self._tell(CallQueued, seconds=self._max_wait)\n", ""),
]
