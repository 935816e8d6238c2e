"""Deliberate bugs in Timeout, deadlines, the shared timer and the worker threads."""

from __future__ import annotations

from . import Mutant

_TIMEOUT = "resilience/timeout.py"
_TIMERS = "resilience/_timers.py"
_WORKER = "resilience/_worker.py"
_DEADLINE = "resilience/deadline.py"
_ASYNCIO = ("tests/test_timeout_like_asyncio.py",)
_BASICS = ("tests/test_timeout.py",)
_THREADS = ("tests/test_timeout_worker.py",)
_RINGS = ("tests/test_timers.py",)
_OUTCOMES = ("tests/test_breaker_outcomes.py",)
_SHIELDS = ("tests/test_deadline.py",)
_CYCLES = ("tests/test_no_cycles.py",)


def _timeout(name: str, old: str, new: str, tests: tuple[str, ...] = _BASICS) -> Mutant:
    return Mutant(name, _TIMEOUT, old, new, tests)


def _timers(name: str, old: str, new: str, tests: tuple[str, ...] = _RINGS) -> Mutant:
    return Mutant(name, _TIMERS, old, new, tests)


def _worker(name: str, old: str, new: str, tests: tuple[str, ...] = _THREADS) -> Mutant:
    return Mutant(name, _WORKER, old, new, tests)


def _deadline(name: str, old: str, new: str, tests: tuple[str, ...] = _SHIELDS) -> Mutant:
    return Mutant(name, _DEADLINE, old, new, tests)


_CALL = "ours = deadline.fired and task.uncancel() <= before and type(error) is CancelledError"
_BLOCK = "ours = deadline.fired and task.uncancel() <= self._before and kind is CancelledError"
_DROPPED = "del task  # it will hold the exception, whose traceback holds this frame"

MUTANTS = [
    # Whose cancellation it is.
    _timeout("a foreign cancel is relabelled", _CALL, _CALL.replace("task.uncancel() <= before and ", ""), _ASYNCIO),
    _timeout("a cut off is not converted", _CALL, _CALL.replace("<= before", "< before"), _ASYNCIO),
    _timeout("a foreign error is relabelled", _CALL, _CALL.replace(" and type(error) is CancelledError", ""), _ASYNCIO),
    _timeout("every cancellation is ours", _CALL, _CALL.replace("deadline.fired and ", ""), _ASYNCIO),
    _timeout(
        "a block relabels a foreign cancel",
        _BLOCK,
        _BLOCK.replace("task.uncancel() <= self._before and ", ""),
        _ASYNCIO,
    ),
    _timeout("a block does not convert", _BLOCK, _BLOCK.replace("<= self", "< self"), _ASYNCIO),
    _timeout("a block relabels a foreign error", _BLOCK, _BLOCK.replace(" and kind is CancelledError", ""), _ASYNCIO),
    _timeout("a block takes every cancellation", _BLOCK, _BLOCK.replace("deadline.fired and ", ""), _ASYNCIO),
    _timeout(
        "a swallowed cancel is not uncancelled",
        "            if deadline.fired:\n                task.uncancel()\n",
        "",
        _ASYNCIO,
    ),
    _timeout(
        "no cause",
        "raise CallTimeoutError(deadline.policy, timeout) from error",
        "raise CallTimeoutError(deadline.policy, timeout) from None",
    ),
    _timeout("the owner is not named", "raise CallTimeoutError(deadline.policy,", "raise CallTimeoutError(self.name,"),
    _timeout("a cut off is not counted", "timed_out += 1", "timed_out += 0"),
    _timeout("a cut off is not told", "self._tell(CallTimedOut, timeout=timeout)", "pass"),
    Mutant(
        "timeout: outside a task nothing is said",
        "resilience/_timers.py",
        'could cut off."""\n    require_asyncio()\n',
        'could cut off."""\n',
        _ASYNCIO,
    ),
    # Which deadline.
    _timeout(
        "no time left and yet called", "if limit is not None and limit <= 0.0:", "if limit is not None and limit < 0.0:"
    ),
    _timeout(
        "an inherited end is overlooked",
        "        if left <= 0.0:\n            raise",
        "        if left < 0.0:\n            raise",
    ),
    _timeout(
        "the farther deadline wins", "if limit is not None and limit < left:", "if limit is not None and limit > left:"
    ),
    _timeout("an equal deadline is armed again", "if limit is not None and limit < left:", "if limit is not None:"),
    _timeout("a child task has no guardian", "if outer.task is task or task is None:", "if True:"),
    _timeout("an inherited deadline is armed twice", "if outer.task is task or task is None:", "if task is None:"),
    _timeout(
        "a guardian takes the owner's name",
        "Deadline(when, self._clock, outer.policy,",
        "Deadline(when, self._clock, self.name,",
    ),
    _timeout(
        "mixed clocks are compared by instant",
        "left = outer.remaining()",
        "left = outer.when - self._clock.now()",
        _SHIELDS,
    ),
    _timeout(
        "a block's deadline is not bound",
        "self._token: Token[Deadline | None] = ambient.set(deadline)",
        "self._token: Token[Deadline | None] = ambient.set(ambient.get())",
    ),
    _timeout("a block's deadline stays", "        restore(ambient, self._token)\n", ""),
    _timeout(
        "a block stays armed",
        "            self._waiting.pop(deadline, None)\n            deadline.task = None\n",
        "",
        _BASICS,
    ),
    _timeout(
        "a task is kept in its own traceback", "                del task  # it", "                pass  # it", _CYCLES
    ),
    _timeout(
        "a block's task is kept in its own traceback",
        f"            {_DROPPED}\n            if ours:\n                self._policy",
        "            if ours:\n                self._policy",
        _CYCLES,
    ),
    _timeout("a block keeps its task", "        self._task = None\n        restore", "        restore", _CYCLES),
    _timeout("an awaited task is kept", "            del awaitable  # a Task", "            pass  # a Task", _CYCLES),
    _timeout("NaN is a limit", " or limit != limit:", ":"),
    _timeout("infinity is no answer", "if limit is None or limit == math.inf:", "if limit is None:", _BASICS),
    _timeout("a timedelta is no answer", "limit = limit.total_seconds()", "limit = None"),
    _timeout(
        "time without end overflows",
        "self._seconds = None if limit is None else min(limit, _FOREVER)",
        "self._seconds = limit",
        _RINGS,
    ),
    _timeout(
        "a plain part may take all the time",
        "            if left <= 0.0:  # the plain",
        "            if False:  # the plain",
    ),
    _timeout(
        "a later part has all the time again",
        "left, length = deadline.remaining(), deadline.timeout",
        "left, length = deadline.timeout, deadline.timeout",
        ("tests/test_timeout.py",),
    ),
    # Generators.
    _timeout("every step has all the time", "None if self._own is None else self._own.remaining()", "limit"),
    _timeout(
        "the consumer's time does not count",
        "for deadline in (ambient.get(), self._own):",
        "for deadline in (ambient.get(),):",
    ),
    _timeout(
        "the deadline around does not count",
        "for deadline in (ambient.get(), self._own):",
        "for deadline in (self._own,):",
    ),
    _timeout("steps of async generators are not cut off", "clock.step(armed=True)", "clock.step(armed=False)"),
    _timeout(
        "a step's error tells what was left",
        "self._own.remaining(), limit, armed=armed)",
        "self._own.remaining(), None, armed=armed)",
    ),
    # The timer.
    _timers("early", "// grain + 1) * grain", "// grain) * grain"),
    _timers("late", "// grain + 1) * grain", "// grain + 3) * grain"),
    _timers("an earlier slot does not move the timer", "if slot < self._armed:", "if self._armed == math.inf:"),
    _timers("every slot moves the timer", "if slot < self._armed:", "if True:"),
    _timers("the old timer is not cancelled", "            self._handle.cancel()\n", "            pass\n"),
    _timers("rings too soon", "while self._heap and self._heap[0] / PER_SECOND <= now:", "while self._heap:"),
    _timers("a blocked loop looks at the time first", "if grace and now", "if False and now", _OUTCOMES),
    _timers("a blocked loop has one turn less", "_GRACE = 3", "_GRACE = 2", _OUTCOMES),
    _timers("a slot that has rung keeps what was in it", "            slot.clear()", "            pass"),
    _timers("emptied slots are kept", "if not all(self.slots.values()):", "if False:"),
    _timers(
        "not armed again", "        if self._heap:\n            self._arm", "        if False:\n            self._arm"
    ),
    _timers("the longest timer is forgotten", ", _LONGEST_TIMER)", ", math.inf)"),
    _timers("closed loops are kept", " = weakref.WeakValueDictionary()", ' = cast("Any", {})'),
    _timers(
        "clocks share a timer",
        "_all.get((id(loop), clock))",
        "next((t for t in list(_all.values()) if t.loop is loop), None)",
    ),
    _timers("slots are too coarse", "int(2.0 * seconds)", "int(4.0 * seconds)"),
    _timers("slots are too fine", "int(2.0 * seconds)", "int(0.5 * seconds)"),
    # Threads.
    _worker("not a daemon", "daemon=True", "daemon=False"),
    _worker("without the context", "args=(copy_context(), call)", "args=(Context(), call)"),
    Mutant(
        "timeout: a generator is left behind in name only",
        "resilience/timeout.py",
        "        if self._abandon:\n            raise",
        "        if False:\n            raise",
        ("tests/test_timeout_worker.py",),
    ),
    _worker("left behind and not counted", "self._tally.abandoned += 1", "self._tally.abandoned += 0"),
    _worker("a late end is not counted", "tally.abandoned -= 1", "tally.abandoned -= 0"),
    _worker("a late end of another generation counts", "elif self._generation == tally.generation:", "else:"),
    _worker("a late result is delivered", "if not self._abandoned:", "if True:"),
    _worker("always left behind", "                if not self._outcome:\n", "                if True:\n"),
    _worker(
        "an error is kept in its own traceback", "            del error  # its", "            pass  # its", _CYCLES
    ),
    _worker("bare exceptions are lost", "except BaseException as error:", "except Exception as error:"),
    _worker(
        "a fork keeps the count", "        super().forked()\n        self.abandoned = 0", "        super().forked()"
    ),
    _timeout(
        "no bound on threads",
        "if not machine.reserve(self._max_abandoned):",
        "if machine.reserve(10**9) is None:",
        _THREADS,
    ),
    _worker("one thread too many", "self.abandoned + self.attended >= most", "self.abandoned + self.attended > most"),
    _worker("threads waited for do not count", "self.abandoned + self.attended >=", "self.abandoned >="),
    _worker("threads left behind do not count", "self.abandoned + self.attended >=", "self.attended >="),
    _worker("a thread that ended takes up room", "            self._tally.attended -= 1", "            pass"),
    _worker("a caller of before a fork frees room", "if self._generation == self._tally.generation:", "if True:"),
    _worker(
        "a thread that did not start takes up room",
        "                self._leave_locked()\n            raise",
        "                pass\n            raise",
    ),
    # Deadlines and shields.
    _deadline("what remains is negative", "else max(0.0, deadline.remaining())", "else deadline.remaining()"),
    _deadline("a shield holds nothing back", "        if self.shields:\n", "        if False:\n"),
    _deadline("what was held back is lost", "self.postponed = True", "self.postponed = False"),
    _deadline("a shield holds other tasks", "if deadline.task is not None and deadline.task is task:", "if True:"),
    _deadline(
        "a shield holds the nearest only",
        "        deadline = deadline.outer\n    token",
        "        deadline = None\n    token",
    ),
    _deadline("the deadline is visible in a shield", "token = ambient.set(None)", "token = ambient.set(inherited)"),
    _deadline(
        "fires inside the task", "asyncio.get_running_loop().call_soon(deadline.fire_late)", "deadline.fire_late()"
    ),
    _deadline(
        "what was held back fires although it was moved",
        "        if self.remaining() <= 0.0:\n            self",
        "        if True:\n            self",
        ("tests/asgi/test_deadlines.py",),
    ),
    _deadline(
        "only the nearest cancellation is known",
        "        deadline = deadline.outer\n    return False",
        "        deadline = None\n    return False",
    ),
    _deadline(
        "nobody was cancelled by us",
        "        if deadline.fired:\n            return True",
        "        if deadline.fired:\n            return False",
    ),
    _deadline("a lifted deadline still limits", "while deadline is not None and deadline.lifted:", "while False:"),
    _deadline(
        "lifting takes the outer deadline along",
        "        deadline = deadline.outer\n    return None",
        "        deadline = None\n    return None",
    ),
    _deadline("a lifted deadline still cancels", "self.lifted, self.task = True, None", "self.lifted = True"),
    _deadline("a lifted deadline keeps its instant", "else _FOREVER", "else self.when"),
    _deadline(
        "a lifted deadline forgets the outer instant",
        "outer.when if outer is not None and outer.clock is self.clock else _FOREVER",
        "_FOREVER",
    ),
    _deadline("instants of two clocks are mixed", " and outer.clock is self.clock", ""),
]
