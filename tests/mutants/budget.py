"""Deliberate bugs of the retry budget."""

from __future__ import annotations

from . import Mutant

_MACHINE = ("tests/machines/test_budget.py",)
_TESTS = ("tests/test_budget.py",)
_SHARED = ("tests/test_shared_policies.py",)


def _budget(name: str, old: str, new: str, tests: tuple[str, ...] = _MACHINE) -> Mutant:
    return Mutant(f"budget: {name}", "resilience/budget.py", old, new, tests)


MUTANTS: list[Mutant] = [
    _budget(
        "each first attempt is told at once", "shared.tell(now, retry=False)", "shared.tell(now, retry=True)", _SHARED
    ),
    _budget("one retry more", "if self._balance_locked(now) < 1.0 - 1e-9:", "if self._balance_locked(now) < 0.0:"),
    _budget("one retry less", "if self._balance_locked(now) < 1.0 - 1e-9:", "if self._balance_locked(now) <= 1.0:"),
    _budget("rounding takes a retry", "1.0 - 1e-9", "1.0", _TESTS),
    _budget("withdrawals are free", "            account.withdrawals += 1\n", ""),
    _budget("deposits are lost", "            account.deposits += 1\n", ""),
    _budget("withdrawals never leave the window", "                self.withdrawals -= bucket[1]\n", ""),
    _budget("deposits never leave the window", "                self.deposits -= bucket[0]\n", ""),
    _budget("withdrawals are not in their bucket", "            bucket[1] += 1\n", ""),
    _budget("deposits are not in their bucket", "account.bucket_locked(now)[0] += 1", "account.bucket_locked(now)"),
    _budget("a bucket leaves twice", "                bucket[:] = (0, 0)\n", ""),
    _budget(
        "a long pause forgets too little",
        "range(min(index - self._index, _BUCKETS))",
        "range(min(index - self._index, _BUCKETS - 1))",
    ),
    _budget(
        "one bucket is kept too long",
        "range(min(index - self._index, _BUCKETS))",
        "range(min(index - self._index - 1, _BUCKETS))",
    ),
    _budget("the window does not slide", "            self._index = index\n", ""),
    _budget(
        "a bucket lasts for two", "self._edge = (index + 1) * self._width", "self._edge = (index + 2) * self._width"
    ),
    _budget(
        "statistics are of long ago", "            account.bucket_locked(now)\n            return", "            return"
    ),
    _budget("a negative balance is shown", "max(0.0, self._balance_locked(now))", "self._balance_locked(now)", _TESTS),
    _budget("refusals are not counted", "                account.refused += 1\n", ""),
    _budget(
        "the minimum is per window",
        "self._free = self.minimum_per_second * self.window",
        "self._free = self.minimum_per_second",
    ),
    _budget("the ratio is ignored", "self.ratio * deposits", "deposits"),
    _budget("a budget of nothing is accepted", "if self.ratio == 0.0 and self._free < 1.0:", "if False:", _TESTS),
    _budget("a window of no length is accepted", "if self.window < 1e-3:", "if False:", _TESTS),
]
