"""Mutants of the lock."""

from __future__ import annotations

from . import Mutant

_TESTS = ("tests/test_lock.py",)
_FILE = "resilience/_lock.py"


def _torn(name: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(f"interrupted: {name}", f"resilience/{module}.py", old, new, ("tests/test_interrupted.py",))


MUTANTS = [
    Mutant("lock-never-excludes", _FILE, "deque((None,), maxlen=1)", "deque((None,) * 9)", _TESTS),
    Mutant(
        "lock-try-blocks",
        _FILE,
        "                if not blocking:\n",
        "                if not blocking and turn:\n",
        _TESTS,
    ),
    Mutant(
        "lock-with-does-not-wait",
        _FILE,
        "        except IndexError:\n            self.acquire()",
        "        except IndexError:\n            pass",
        _TESTS,
    ),
    Mutant(
        "lock-block-keeps-it",
        _FILE,
        "        self.free.append(None)\n        return False",
        "        return False",
        _TESTS,
    ),
    Mutant(
        "lock-release-forgets",
        _FILE,
        "        self.free.append(None)\n\n    def __enter__",
        "        pass\n\n    def __enter__",
        _TESTS,
    ),
    Mutant("lock-never-pauses", _FILE, "0.0 if turn < _BRISK else 1e-4", "0.0", _TESTS),
    Mutant("lock-hangs-for-ever", _FILE, "if turn == _PATIENCE:", "if turn == -_PATIENCE:", _TESTS),
    Mutant("lock-two-tokens", _FILE, "deque((None,), maxlen=1)", "deque((None,))", _TESTS),
    _torn(
        "a place that nobody saw is kept",
        "_policy",
        "                self._forsake(permit)\n            elif",
        "                pass\n            elif",
    ),
    _torn(
        "a probe that nobody saw is kept",
        "_policy",
        "            elif permit is not None:\n                self.settle(permit, ABANDONED)\n",
        "",
    ),
    _torn(
        "tokens that nobody saw are kept",
        "rate_limiter",
        "                taken.cancel()\n            raise",
        "                pass\n            raise",
    ),
    _torn(
        "a lost context is an error",
        "_layer",
        "        variable.reset(token)\n    except ValueError:",
        "        variable.reset(token)\n    except KeyError:",
    ),
    _torn(
        "guardians fire in any order",
        "_timers",
        "for due in slot:",
        "for due in reversed(slot):",
    ),
    _torn("nobody takes the events over", "_machine", "if len(self.outbox) < _MOST_UNDELIVERED:", "if True:"),
    _torn("the second look is left out", "bulkhead", " or machine.used < machine.capacity\n        ):", "\n        ):"),
]

EQUIVALENT = [
    (
        "resilience/_ticket.py",
        "return asyncio.get_running_loop() => pass",
        "every wake-up then goes through call_soon_threadsafe: slower, and the same",
    ),
    (
        "resilience/_buckets.py",
        (
            "grain = math.ldexp(1.0, math.frexp(max(rests_at - now, 1e-3))[1] - 4)"
            " => grain = math.ldexp(1.0, math.frexp(max(rests_at - now, (1.001)))[1] - 4)"
        ),
        "keys that rest within a second are looked at a sixteenth of a second later, which only costs memory",
    ),
]
