"""Deliberate bugs of the rate limiter: its arithmetic, its table of keys, its decisions."""

from __future__ import annotations

from . import Mutant

_LIMITS, _BUCKETS, _LIMITER = (f"resilience/{name}.py" for name in ("_limits", "_buckets", "rate_limiter"))
_QUESTIONS = "resilience/_limiter_questions.py"
_MACHINE = ("tests/machines/test_rate_limiter.py",)
_WINDOW = ("tests/machines/test_sliding_window.py",)
_TABLE = ("tests/machines/test_limiter_keys.py",)
_RATES = ("tests/test_rate_limits.py",)
_CALLS = ("tests/test_rate_limiter.py",)
_THREADS = ("tests/test_rate_limiter_threads.py",)
_KEYS = ("tests/test_rate_limiter_keys.py",)


def _limits(name: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"limits: {name}", _LIMITS, old, new, tests)


def _buckets(name: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"buckets: {name}", _BUCKETS, old, new, tests)


def _limiter(name: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"rate limiter: {name}", _LIMITER, old, new, tests)


def _questions(name: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"rate limiter: {name}", _QUESTIONS, old, new, tests)


MUTANTS: list[Mutant] = [
    _limiter(
        "sleeps with the lock held",
        "        return self._deliver(Wait(self, taken, taken.delay))\n",
        "        with self._machine.lock:\n            self._clock.sleep(taken.delay)\n        return _EXEMPT\n",
        _KEYS,
    ),
    _limits(
        "no grain for rounding",
        " + min(0.01 * self.interval, 2.0**-22 * self.burst + 2.0**-50 * self.tolerance)",
        "",
        _RATES,
    ),
    _limits("a grain of a whole call", "min(0.01 * self.interval,", "max(1.01 * self.interval,", _RATES),
    _limits("a grain for clocks of a day only", "2.0**-22 * self.burst", "2.0**-40 * self.burst", _RATES),
    _limits(
        "the default burst is one call",
        "max(1.0, rate.limit) if rate.burst is None",
        "1.0 if rate.burst is None",
        _RATES,
    ),
    _limits(
        "starts one interval early",
        "after - now <= self.allowance else after - self.tolerance",
        "after - now <= self.allowance else after - self.tolerance - self.interval",
        _RATES,
    ),
    _limits(
        "an idle bucket fills beyond its burst", "return max(state, start) + cost", "return state + cost", _MACHINE
    ),
    _limits(
        "a cancelled reservation keeps its tokens",
        "    def returned(self, state: float, before: float) -> float:\n        return before",
        "    def returned(self, state: float, before: float) -> float:\n        return state",
        _MACHINE,
    ),
    _limits(
        "remaining ignores what was used",
        "(self.allowance - max(0.0, state - now)) / self.interval",
        "self.allowance / self.interval",
        _MACHINE,
    ),
    _limits(
        "an update at the last token takes the whole burst",
        "if debt <= old.allowance:",
        "if debt < old.tolerance:",
        _RATES,
    ),
    _limits(
        "an update keeps the time instead of the tokens",
        "max(debt, 0.0) / old.interval * self.interval",
        "max(debt, 0.0)",
        _MACHINE,
    ),
    _limits(
        "an update keeps more than the new burst",
        "now + min(max(debt, 0.0) / old.interval * self.interval, self.tolerance)",
        "now + max(debt, 0.0) / old.interval * self.interval",
        _MACHINE,
    ),
    _limits(
        "an update moves reserved slots", "return state - old.tolerance + self.tolerance", "return state", _MACHINE
    ),
    _limits("a call never leaves the window", "                start = began + self.window\n", "", _WINDOW),
    _limits(
        "the window drops what a later slot would not see",
        "while state and state[0][0] + self.window <= now:",
        "while state and state[0][0] <= now:",
        _WINDOW,
    ),
    _limits(
        "the window holds one more", "if used + cost <= self.capacity:", "if used + cost <= self.capacity + 1:", _WINDOW
    ),
    _limits(
        "the window holds one less", "if used + cost <= self.capacity:", "if used + cost < self.capacity:", _WINDOW
    ),
    _limits(
        "the window does not slide",
        "                start = began + self.window\n            used -= spent",
        "                start = began + self.window",
        _WINDOW,
    ),
    _limits(
        "charges stand before reserved slots",
        "(max(start, state[-1][0]) if state else start, cost)",
        "(start, cost)",
        _CALLS,
    ),
    _limits("a cancelled slot stays in the window", "        state.pop()\n", "", _WINDOW),
    _limits(
        "several limits start with the first",
        "return max(limit.earliest(part, now, cost)",
        "return min(limit.earliest(part, now, cost)",
        _MACHINE,
    ),
    _limits(
        "several limits rest with the first",
        "return max(limit.rests_at(part)",
        "return min(limit.rests_at(part)",
        _MACHINE,
    ),
    _limits(
        "several limits show what the largest has left",
        "return min(limit.remaining(part, now)",
        "return max(limit.remaining(part, now)",
        _MACHINE,
    ),
    _limits("several limits allow the largest burst", "self.capacity = min(", "self.capacity = max(", _MACHINE),
    _limits(
        "with several limits only one cancelled reservation returns its tokens",
        "        return before  # the very",
        "        return (*before,)[:-1] + before[-1:]  # the very",
        _THREADS,
    ),
    _limits(
        "a wait is rounded down",
        "return wait if now + wait >= start else math.nextafter(wait, math.inf)",
        "return wait",
        _RATES,
    ),
    _limits("what remains is told too early", "if algorithm.earliest(state, now, 1.0) > now:", "if False:", _RATES),
    _limits("a burst below one call is allowed", "self.burst, minimum=1.0)", "self.burst)", _RATES),
    _limits("rates beyond floats are allowed", "not 1e-300 < self.limit / self.seconds < 1e300", "False", _RATES),
    # -- the table -----------------------------------------------------------------------------------------------
    _buckets("keys at rest are never looked at", "    LOOKS = 2 ", "    LOOKS = 0 ", _KEYS),
    _buckets("a new key pays for one look only", "    LOOKS = 2 ", "    LOOKS = 1 ", _KEYS),
    _buckets(
        "one key more than the table holds",
        "return key if len(self) < self.max_keys else OVERFLOW",
        "return key if len(self) <= self.max_keys else OVERFLOW",
        _TABLE,
    ),
    _buckets(
        "a full table never looks further",
        "        if len(self) >= self.max_keys:\n            if",
        "        if False:\n            if",
        ("tests/test_rate_limiter_keys.py",),
    ),
    _buckets("live keys are evicted", "if algorithm.rests_at(state) <= now]:", "]:", _TABLE),
    _buckets(
        "appointments pile up",
        "                    del self.states[known]\n                self._appoint_all(now, algorithm)",
        "                    del self.states[known]",
        _KEYS,
    ),
    _buckets(
        "a large full table waits for appointments",
        "                if not self._due and self._agenda:  # look",
        "                if False:  # look",
        _KEYS,
    ),
    _buckets("the shared bucket takes a place", " - (OVERFLOW in self.states)", "", _TABLE),
    _buckets(
        "a live key that is looked at is lost to view",
        "                else:\n                    self._appoint(key, rests_at, now)\n",
        "",
        _KEYS,
    ),
    _buckets("a look forgets live keys", "                if rests_at <= now:", "                if True:", _KEYS),
    _buckets(
        "an update leaves appointments as they were",
        "            self.states[key] = change(key, state)\n        self._appoint_all(now, algorithm)",
        "            self.states[key] = change(key, state)",
        _KEYS,
    ),
    _buckets(
        "the shared bucket counts as a key",
        "for key, state in self.states.items() if key is not OVERFLOW)",
        "for key, state in self.states.items())",
        _KEYS,
    ),
    _buckets(
        "a cost above the burst waits", "if cost <= algorithm.capacity else math.inf", "if True else math.inf", _CALLS
    ),
    _buckets(
        "the event comes with every call that shares",
        "overflows = key is OVERFLOW and not table.overflowing",
        "overflows = key is OVERFLOW",
        _TABLE,
    ),
    _buckets("the event never comes again", "if overflows or len(table) < table.max_keys:", "if overflows:", _KEYS),
    _buckets(
        "a wait of exactly the limit is rejected", "if wait <= limit and start", "if wait < limit and start", _MACHINE
    ),
    _buckets(
        "a wait of exactly the deadline is rejected",
        "left is None or wait <= left)",
        "left is None or wait < left)",
        _MACHINE,
    ),
    _buckets("the deadline is ignored", "(left is None or wait <= left)", "True", _CALLS),
    _buckets("rejections are not counted", "        self.rejected += 1\n", "", _MACHINE),
    _buckets(
        "the own rejection gives way to the deadline's",
        "False, overflows, wait > limit,",
        "False, overflows, wait > limit and left is None,",
        _CALLS,
    ),
    _buckets(
        "tokens are taken now, not at the slot",
        "algorithm.taken(decision.state, decision.start, cost)",
        "algorithm.taken(decision.state, now, cost)",
        _WINDOW,
    ),
    _buckets(
        "an earlier reservation returns its tokens too",
        "self.algorithm.mark(state) is not reservation.mark",
        "False",
        _MACHINE,
    ),
    _buckets("a reservation can be cancelled twice", "        reservation.stale = True\n", "", _THREADS),
    _buckets(
        "the newest reservation forfeits its slot",
        "        if state is None or self.algorithm.mark",
        "        if True or self.algorithm.mark",
        _MACHINE,
    ),
    _buckets(
        "charges overfill the table",
        "            key = self.table.place(key, now, algorithm)\n"
        "            state = self.table.states.get(key)\n        after",
        "            pass\n        after",
        _KEYS,
    ),
    _buckets("tiers are remembered without bound", "if len(self.tiers) < _MAX_TIERS:", "if True:", _KEYS),
    _buckets("tiers survive an update", "            self.tiers.clear()\n", "", _MACHINE),
    _buckets(
        "an update converts all tiers alike",
        "before, after = changes.get(key, (old, new))",
        "before, after = old, new",
        _MACHINE,
    ),
    _buckets("an update converts the shared bucket", "if tier is not None and key not in changes:", "if False:", _KEYS),
    _buckets(
        "an update drops the further limits",
        "return All((first, *self.algorithm.limits[1:])) if isinstance(self.algorithm, All) else first",
        "return first",
        _MACHINE,
    ),
    _buckets(
        "the short way misses an update", "self.plain = new if self.plain is not None else None", "pass", _MACHINE
    ),
    _buckets(
        "a cancellation ignores what was handed over",
        "            buckets.caught_up_locked()\n            returned",
        "            returned",
        _THREADS,
    ),
    # -- the limiter ---------------------------------------------------------------------------------------------
    _limiter(
        "the short way lets one more in",
        "if after - now <= plain.allowance:",
        "if after - now <= plain.allowance + plain.interval:",
        _MACHINE,
    ),
    _limiter("the short way ignores the cost", "self._constant_cost * plain.interval", "plain.interval", _MACHINE),
    _limiter("the short way fills beyond the burst", "(tat if tat > now else now)", "tat", _MACHINE),
    _limiter(
        "the look is not checked under the lock", "unchanged = states.get(key) is tat", "unchanged = True", _THREADS
    ),
    _limiter(
        "the short way keeps the lock",
        "                            free.append(None)\n",
        "                            pass\n",
        _THREADS,
    ),
    _limiter(
        "the short way does not look again",
        "                        if machine.late:\n                            machine.unlocked()\n",
        "",
        _THREADS,
    ),
    _limiter(
        "a rejection ignores what was handed over",
        "or self._listeners or machine.late)",
        "or self._listeners)",
        _THREADS,
    ),
    _limiter(
        "a rejection on the short way is not counted",
        "                        machine.rejected += 1 ",
        "                        pass ",
        _CALLS,
    ),
    _limiter("retry after nothing", "                    if wait > 0.0: ", "                    if True: ", _RATES),
    _limiter(
        "a short rejection forgets the burst", "wait = after - plain.tolerance - now", "wait = after - now", _CALLS
    ),
    _limiter(
        "exempt calls pay",
        "            return _EXEMPT\n        if self._constant_cost:",
        "            pass\n        if self._constant_cost:",
        _CALLS,
    ),
    _limiter(
        "successes pay too",
        "        if verdict is FAILURE:\n            self._machine.charge_locked",
        "        if True:\n            self._machine.charge_locked",
        _CALLS,
    ),
    _limiter(
        "nobody pays by outcome",
        "            machine.late.append((self._charge_locked, permit, verdict))\n",
        "",
        _CALLS,
    ),
    _limiter(
        "calls cut off by a deadline pay unasked",
        "            return self._judge_exception(error)\n        return verdict",
        "            return verdict\n        return verdict",
        _CALLS,
    ),
    _limiter("results never pay", "self._charge_if(result) else SUCCESS", "False else SUCCESS", _CALLS),
    _limiter("errors never pay", "self._charge_if(error) else ABANDONED", "False else ABANDONED", _CALLS),
    _limiter(
        "the constant cost is used for calls that pay later",
        "short_way = self._charge_if is None and",
        "short_way =",
        _CALLS,
    ),
    _limiter("a cancelled waiter keeps its tokens", "        self._machine.cancel_locked(wait.permit)\n", "", _MACHINE),
    _questions("a peek at a full table promises a bucket", "state = table.states.get(OVERFLOW)", "pass", _KEYS),
    _questions("a peek counts keys at rest as live", " and table.live(now, algorithm) >= table.max_keys:", ":", _KEYS),
    _questions(
        "a peek ignores what was handed over",
        "            machine.caught_up_locked()\n            algorithm, table",
        "            algorithm, table",
        _THREADS,
    ),
    _questions("a reset remembers unknown keys", "if key in machine.table.states:", "if True:", _KEYS),
    _questions("a reset does nothing", "machine.table.states[key] = machine.algorithm.fresh()", "pass", _MACHINE),
    _limiter(
        "the shared bucket is forgotten at rest",
        "rests_at(state) <= now for state in machine.table.states.values())",
        "rests_at(state) <= now for key, state in machine.table.states.items() if key is not OVERFLOW)",
        _KEYS,
    ),
    _questions("costs need not be finite", "0.0 <= cost < 1e300:", "0.0 <= cost:", _CALLS),
    _questions("negative costs give tokens", "0.0 <= cost < 1e300:", "cost < 1e300:", _CALLS),
    _limiter(
        "waits are not told",
        "        self._note(CallQueued, key=None if self._key is None else key, seconds=taken.delay)\n",
        "",
        _CALLS,
    ),
    _limiter(
        "the overflow is not told",
        "            self._note(KeysOverflowed, key=key, max_keys=machine.table.max_keys)\n",
        "            pass\n",
        _TABLE,
    ),
    _limiter("the deadline does not matter", "deadline.remaining() if self._max_wait else None", "None", _CALLS),
    _limiter("any argument is a key", "if (key is ALL) != (self._key is None):", "if False:", _KEYS),
    _limiter("tiers need no key", "if self._key is None and self._machine.tier is not None:", "if False:", _KEYS),
    _limiter("paying by outcome may wait", "if self._charge_if is not None and self._max_wait:", "if False:", _KEYS),
]
