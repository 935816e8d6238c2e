"""Mutants of both sliding windows."""

from __future__ import annotations

from . import Mutant

ARGUMENTS = "tests/test_breaker_arguments.py"
RULES = "tests/test_breaker.py"
WINDOWS = "tests/machines/test_windows.py"
LONG_RUNS = "tests/test_windows.py"


def mutant(name: str, old: str, new: str, *tests: str) -> Mutant:
    if WINDOWS in tests:
        tests = (LONG_RUNS, *tests)
    return Mutant(f"window: {name}", "resilience/_window.py", old, new, tests)


MUTANTS = [
    # -- windows
    mutant("calls: leaving failures stay", "            self.failures -= leaving & 1\n", "", WINDOWS),
    mutant("calls: leaving slow calls stay", "            self.slow -= leaving >> 1\n", "", WINDOWS),
    mutant("calls: one too many", "if self.calls == self._size:", "if self.calls > self._size:", WINDOWS),
    mutant("calls: marks mixed up", "failed | slow << 1", "slow | failed << 1", WINDOWS),
    mutant(
        "calls: ring one short",
        "place + 1 if place + 1 < self._size else 0",
        "place + 1 if place + 2 < self._size else 0",
        WINDOWS,
    ),
    mutant("calls: failures not counted", "        self.failures += failed\n", "", WINDOWS),
    mutant("calls: slow calls not counted", "        self.slow += slow\n", "", WINDOWS),
    mutant(
        "seconds: late by a bucket",
        "range(min(index - self._index, len(self._buckets)))",
        "range(min(index - self._index - 1, len(self._buckets)))",
        WINDOWS,
    ),
    mutant(
        "seconds: early by a bucket",
        "(index - step) % len(self._buckets)",
        "(index - step + 1) % len(self._buckets)",
        WINDOWS,
    ),
    mutant(
        "seconds: a long pause forgets nothing",
        "range(min(index - self._index, len(self._buckets)))",
        "range((index - self._index) % len(self._buckets))",
        WINDOWS,
    ),
    mutant(
        "seconds: at the edge of a bucket", "        if now >= self.edge:\n", "        if now > self.edge:\n", RULES
    ),
    mutant(
        "seconds: edge belongs to the old bucket",
        "        if now < self.edge:\n            return\n",
        "        if now <= self.edge:\n            return\n",
        WINDOWS,
    ),
    mutant(
        "seconds: records do not move the window",
        "        if now >= self.edge:\n            self.catch_up(now)\n",
        "",
        WINDOWS,
    ),
    mutant("seconds: calls stay", "            self.calls -= bucket[0]\n", "", WINDOWS),
    mutant("seconds: failures stay", "            self.failures -= bucket[1]\n", "", WINDOWS),
    mutant("seconds: slow calls stay", "            self.slow -= bucket[2]\n", "", WINDOWS),
    mutant("seconds: buckets are not emptied", "            bucket[:] = (0, 0, 0)\n", "", WINDOWS),
    mutant(
        "seconds: current bucket not moved",
        "        self.current = self._buckets[index % len(self._buckets)]\n",
        "",
        WINDOWS,
    ),
    mutant("seconds: index not moved", "        self._index = index\n", "", WINDOWS),
    mutant(
        "seconds: edge one bucket late",
        "self.edge = (index + 1) * self._width",
        "self.edge = (index + 2) * self._width",
        WINDOWS,
    ),
    mutant("seconds: failures not in their bucket", "            bucket[1] += 1\n", "", WINDOWS),
    mutant("seconds: slow calls not in their bucket", "            bucket[2] += 1\n", "", WINDOWS),
    mutant("seconds: calls not in their bucket", "        bucket[0] += 1\n", "", WINDOWS),
    mutant(
        "time moves a window of calls",
        "        self.edge = -math.inf\n        self.current = [0]\n",
        "        self.edge = math.inf\n        self.current = [0]\n",
        WINDOWS,
    ),
    mutant("too many buckets", "if buckets > 10_000:", "if buckets > 10_001:", ARGUMENTS),
    mutant("too many calls", "if self.size > 1_000_000:", "if self.size > 1_000_001:", ARGUMENTS),
    mutant("the largest number of calls refused", "if self.size > 1_000_000:", "if self.size >= 1_000_000:", ARGUMENTS),
    mutant("the largest number of buckets refused", "if buckets > 10_000:", "if buckets >= 10_000:", ARGUMENTS),
    mutant("a window of no length", "if self.seconds / buckets < 1e-6:", "if self.seconds / buckets < 0.0:", ARGUMENTS),
]

UNREAD = "never read: the edge of a window of calls is never ahead"
REPLACED = "replaced by the first record, whose time is past every edge"
SLOWER = "an edge that comes too early is only slower"
EMPTY = "all buckets are empty at first"
INDEX = "self._index = 0 # number of the current bucket, counted from the clock's zero"
EDGE = "self.edge = (index + 1) * self._width"

# What each random mutant changes, and why nobody could notice it.
_UNNOTICED = [
    ("self.current = [0] => self.current = [(1)]", UNREAD),
    ("self.current = [0] => self.current = [(-1)]", UNREAD),
    ("self.current = [0] => pass", UNREAD),
    ("self.current = self._buckets[0] => self.current = self._buckets[(-1)]", REPLACED),
    ("self.current = self._buckets[0] => pass", REPLACED),
    (
        "if now < self.edge: return => if now < self.edge: pass",
        "only a shortcut: the same bucket again, as the clock does not go back",
    ),
    (f"{EDGE} => self.edge = (index + (0)) * self._width", SLOWER),
    (f"{EDGE} => self.edge = ((index - 1)) * self._width", SLOWER),
    (f"{EDGE} => pass", SLOWER),
    (f"{INDEX} => {INDEX.replace(' 0 ', ' (-1) ')}", EMPTY),
    (f"{INDEX} => {INDEX.replace(' 0 ', ' (1) ')}", EMPTY),
    ("self._next = 0 => self._next = (-1)", "the ring may start anywhere: place -1 is the last one"),
]
EQUIVALENT = [("resilience/_window.py", label, reason) for label, reason in _UNNOTICED]
