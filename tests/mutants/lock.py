"""Mutants of the lock."""

from __future__ import annotations

from . import Mutant

_TESTS = ("tests/test_lock.py",)
_FILE = "resilience/_lock.py"

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
]
