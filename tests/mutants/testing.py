"""Mutants of the tools for tests."""

from __future__ import annotations

from . import Mutant

TESTING = "resilience/testing.py"
TOOLS = ("tests/test_testing.py", "tests/test_testing_tools.py")

MUTANTS: list[Mutant] = [
    Mutant(
        "a timer at the very end does not ring",
        TESTING,
        "self._timers[0][0] <= instant:",
        "self._timers[0][0] < instant:",
        TOOLS,
    ),
    Mutant(
        "timers ring at the end of the move", TESTING, "                self._now = max(self._now, when)\n", "", TOOLS
    ),
    Mutant(
        "the clock stops at the last timer",
        TESTING,
        "            self._now = max(self._now, instant)\n",
        "            self._now = self._now\n",
        TOOLS,
    ),
    Mutant(
        "the clock can go back",
        TESTING,
        "            self._now = max(self._now, instant)\n",
        "            self._now = instant\n",
        TOOLS,
    ),
    Mutant(
        "a cancelled timer rings",
        TESTING,
        "                if not timer.cancelled:\n",
        "                if True:\n",
        TOOLS,
    ),
    Mutant(
        "a timer cancelled in flight rings",
        TESTING,
        "        if not self.cancelled:\n            self._callback()",
        "        self._callback()",
        TOOLS,
    ),
    Mutant(
        "timers of one instant ring in any order",
        TESTING,
        "next(self._order), timer",
        "-next(self._order), timer",
        TOOLS,
    ),
    Mutant(
        "a cancelled timer is the next",
        TESTING,
        "while self._timers and self._timers[0][2].cancelled:",
        "while False:",
        TOOLS,
    ),
    Mutant(
        "a closed loop breaks the clock", TESTING, "with suppress(RuntimeError):", "with suppress(KeyError):", TOOLS
    ),
    Mutant(
        "threads that advance at once lose time",
        TESTING,
        "        with self._lock:\n            self.move_to(self._now + seconds)",
        "        end = self._now + seconds\n        threading.Event().wait(1e-6)\n        self.move_to(end)",
        TOOLS,
    ),
    Mutant(
        "sleeping threads add up",
        TESTING,
        "                self.move_to(end)\n",
        "                self.move_to(self._now + seconds)\n",
        TOOLS,
    ),
    Mutant(
        "a thread moves the clock although it gets the lock",
        TESTING,
        "        while not lock.acquire(blocking=False):\n            if self._now >= end:",
        "        self.move_to(end)\n        while not lock.acquire(blocking=False):\n            if self._now >= end:",
        TOOLS,
    ),
    Mutant(
        "a clock moved by hand moves itself", TESTING, "            if self._auto:\n", "            if True:\n", TOOLS
    ),
    Mutant(
        "a lock freed on a clock moved by hand is not seen",
        TESTING,
        "elif lock.acquire(timeout=_REAL_STEP):\n                return True",
        "elif threading.Event().wait(_REAL_STEP):\n                return True",
        TOOLS,
    ),
    Mutant(
        "sleeps are not told",
        TESTING,
        "        self.sleeps.append(seconds)\n        self.wait(",
        "        self.wait(",
        TOOLS,
    ),
    Mutant(
        "a sleep of no length waits for the clock",
        TESTING,
        "        if seconds <= 0.0:\n",
        "        if False:\n",
        TOOLS,
    ),
    Mutant(
        "a cancelled sleep leaves its timer",
        TESTING,
        "            await future\n        finally:\n            timer.cancel()",
        "            await future\n        finally:\n            pass",
        TOOLS,
    ),
    Mutant(
        "a sleep that rings twice breaks its loop",
        TESTING,
        "lambda: None if future.done() else future.set_result(None)",
        "lambda: future.set_result(None)",
        TOOLS,
    ),
    Mutant(
        "a loop does not see the clock's own timers",
        TESTING,
        "        until = min(until, clock.next_timer())\n",
        "",
        TOOLS,
    ),
    Mutant(
        "a loop that stands still says nothing",
        TESTING,
        "        if not events:\n            raise",
        "        if False:\n            raise",
        ("tests/test_testing.py::test_a_loop_in_which_nothing_can_happen_any_more_says_so",),
    ),
    Mutant(
        "threads have to end within virtual time",
        TESTING,
        "await super().shutdown_default_executor()",
        "await super().shutdown_default_executor(timeout)",
        TOOLS,
    ),
    Mutant(
        "a run has real time behind its policies",
        TESTING,
        "    with use_clock(clock), asyncio.Runner",
        "    with asyncio.Runner",
        TOOLS,
    ),
    Mutant(
        "a run takes a new clock always",
        TESTING,
        "in_use if isinstance(in_use, ManualClock) else ManualClock()",
        "ManualClock()",
        TOOLS,
    ),
    Mutant(
        "a run takes the clock in use whatever it is",
        TESTING,
        "in_use if isinstance(in_use, ManualClock) else ManualClock()",
        "in_use",
        TOOLS,
    ),
    Mutant(
        "a clock is not put back",
        TESTING,
        "    finally:\n        SystemClock.put_behind(before)",
        "    finally:\n        pass",
        TOOLS,
    ),
    Mutant(
        "a clock is put back to the machine's",
        TESTING,
        "        SystemClock.put_behind(before)",
        "        SystemClock.put_behind(None)",
        TOOLS,
    ),
    Mutant("an instant sleep does not count", TESTING, "        self.advance(max(0.0, seconds))\n", "", TOOLS),
    Mutant(
        "what hangs without waits hangs for ever",
        TESTING,
        "        if isinstance(loop, VirtualLoop):\n",
        "        if True:\n",
        TOOLS,
    ),
    Mutant(
        "a cancelled limit still moves the clock",
        TESTING,
        "        self.one.cancel()\n        self.other.cancel()",
        "        self.one.cancel()",
        TOOLS,
    ),
    Mutant(
        "a script starts over",
        TESTING,
        "self._entries[min(len(self.calls), len(self._entries) - 1)]",
        "self._entries[len(self.calls) % len(self._entries)]",
        TOOLS,
    ),
    Mutant(
        "a script returns the classes of errors",
        TESTING,
        " or (isinstance(entry, type) and issubclass(entry, BaseException))",
        "",
        TOOLS,
    ),
    Mutant(
        "a script does not await", TESTING, 'await result if hasattr(result, "__await__") else result', "result", TOOLS
    ),
]
