"""Mutants of the circuit of a breaker: when it opens, what it is told and tells."""

from __future__ import annotations

from . import Mutant

ARGUMENTS = "tests/test_breaker_arguments.py"
EVENTS = "tests/test_breaker_events.py"
MODEL = "tests/machines/test_circuit.py"
PROBES = "tests/test_breaker_probes.py"
RULES = "tests/test_breaker.py"
SLOW = "tests/test_breaker_slow_calls.py"
MODES = "tests/test_breaker_modes.py"
SHARING = "tests/test_breaker_sharing.py"


def mutant(name: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"circuit: {name}", "resilience/_circuit.py", old, new, tests)


MUTANTS = [
    # -- opening
    mutant(
        "opens one failure in a row late",
        "self.streak >= self.failure_threshold",
        "self.streak > self.failure_threshold",
        MODEL,
    ),
    mutant("a success does not end the streak", "self.streak + 1 if failed else 0", "self.streak + failed", MODEL),
    mutant(
        "minimum of calls off by one", "window.calls >= self.minimum_calls", "window.calls > self.minimum_calls", MODEL
    ),
    mutant("minimum ignored by the failure rate", "            and enough\n", "", MODEL),
    mutant("minimum ignored by the slow rate", "elif slow and enough and", "elif slow and", MODEL),
    mutant("rate has to be exceeded", "return part >= rate * whole - 1e-9", "return part > rate * whole + 1e-9", MODEL),
    mutant(
        "rate compared without tolerance",
        "return part >= rate * whole - 1e-9 * whole",
        "return part >= rate * whole",
        RULES,
    ),
    mutant("tolerance too generous", "1e-9 * whole", "0.1 * whole", RULES),
    mutant(
        "a rate of None opens",
        "and self.failure_rate is not None\n            and _share(window.failures, window.calls, self.failure_rate)",
        "and _share(window.failures, window.calls, self.failure_rate or 0.0)",
        MODEL,
    ),
    mutant("slow rate looks at failures", "_share(window.slow,", "_share(window.failures,", SLOW),
    mutant("failure rate looks at slow calls", "_share(window.failures,", "_share(window.slow,", MODEL),
    mutant(
        "a slow success counts for the failure rate",
        "            failed\n            and enough\n",
        "            enough\n",
        RULES,
    ),
    mutant("a fast failure counts for the slow rate", "elif slow and enough and", "elif enough and", RULES),
    mutant(
        "abandoned calls are counted",
        "if verdict is not ABANDONED:\n                self._count",
        "if True:\n                self._count",
        MODEL,
    ),
    mutant("nothing is recorded", "        window.record(now, failed, slow)\n", "", MODEL),
    mutant("minimum beyond a window of calls", "min(self.minimum_calls, window.size)", "self.minimum_calls", RULES),
    # -- open
    mutant(
        "recovery instant excluded",
        "if now < self._open_until:\n                return",
        "if now <= self._open_until:\n                return",
        PROBES,
    ),
    mutant("wrong wait in open", "return None, self._open_until - now", "return None, self._open_until", EVENTS),
    mutant("recovery time never doubles", "2.0 ** min(reopened, 1000)", "2.0 ** min(reopened, 0)", MODEL),
    mutant("doubles one too early", "2.0 ** min(reopened, 1000)", "2.0 ** min(reopened + 1, 1000)", MODEL),
    mutant("doubling overflows", "2.0 ** min(reopened, 1000)", "2.0**reopened", RULES),
    mutant(
        "no maximum",
        "pause = min(self._recovery * 2.0 ** min(reopened, 1000), self._max_recovery)",
        "pause = self._recovery * 2.0 ** min(reopened, 1000)",
        MODEL,
    ),
    mutant("jitter only upwards", "uniform(-self._jitter, self._jitter)", "uniform(0.0, self._jitter)", MODEL),
    mutant("no jitter", "        pause *= 1.0 + self._rng.uniform(-self._jitter, self._jitter)\n", "", MODEL),
    mutant("jitter with the wrong sign", "pause *= 1.0 + self", "pause *= 1.0 - self", MODEL),
    mutant("retry_after ignored", "and retry_after > pause:", "and retry_after > math.inf:", MODEL),
    mutant("retry_after beyond the maximum", "float(min(retry_after, self._max_recovery))", "retry_after", MODEL),
    mutant("retry_after shortens", "pause = max(pause, float(", "pause = (float(", RULES),
    mutant(
        "retry_after overflows",
        "float(min(retry_after, self._max_recovery))",
        "min(float(retry_after), self._max_recovery)",
        RULES,
    ),
    mutant(
        "retry_after of any type",
        "if isinstance(retry_after, (int, float)) and retry_after > pause:",
        "if retry_after and retry_after > pause:",
        RULES,
    ),
    mutant("closing keeps the doubling", "            self.reopened = 0\n", "", MODEL),
    mutant("re-openings are not counted", "self.reopened = reopened + 1", "self.reopened = 1", MODEL),
    mutant("own chance has a state", "rng or random.SystemRandom()", "rng or random.Random()", RULES),
    mutant("given chance ignored", "rng or random.SystemRandom()", "random.SystemRandom()", RULES),
    # -- modes
    mutant("disabled refuses", '        if self.mode == "disabled":\n            return UNCOUNTED, None\n', "", MODES),
    mutant(
        "disabled counts",
        'self.generation if self.state is CLOSED and self.mode != "disabled" else None',
        "self.generation if self.state is CLOSED else None",
        MODES,
    ),
    mutant(
        "probes count while disabled",
        'if self.mode == "disabled":  # nothing counts',
        'if self.mode == "off":  # nothing counts',
        MODES,
    ),
    mutant(
        "probes that end while disabled stay out",
        "            self._leases.pop(permit, None)\n            return\n",
        "            return\n",
        MODES,
    ),
    mutant(
        "shadow refuses without the lock",
        'self._open_until if self.state is OPEN and self.mode == "enabled"',
        "self._open_until if self.state is OPEN",
        MODES,
    ),
    mutant(
        "a new mode is not published",
        "        self.mode = mode\n        self._publish_locked()\n",
        "        self.mode = mode\n",
        MODES,
    ),
    # -- facts
    mutant(
        "opening is not told",
        "        note(CircuitOpened, time=now, reason=reason, recovery_time=pause)\n",
        "",
        EVENTS,
    ),
    mutant("half-opening is not told", "            note(CircuitHalfOpened, time=now)\n", "", EVENTS),
    mutant("closing is not told", "        note(CircuitClosed, time=now, reason=reason)\n", "", EVENTS),
    mutant(
        "isolating is not told",
        '            note(CircuitOpened, time=now, reason="isolated", recovery_time=None)\n',
        "",
        EVENTS,
    ),
    mutant("resetting is not told", '            note(CircuitClosed, reason="reset")\n', "            pass\n", EVENTS),
    mutant("an expired probe is not told", "            note(ProbeExpired, time=expiry)\n", "", EVENTS),
    mutant(
        "an expired probe is told with the wrong time",
        "note(ProbeExpired, time=expiry)",
        "note(ProbeExpired, time=now)",
        EVENTS,
    ),
    mutant("statistics show an old window", "        self.window.catch_up(now)\n", "", RULES),
    mutant(
        "statistics show the wrong wait in open",
        "            retry_after = self._open_until - now\n",
        "            retry_after = self._open_until\n",
        RULES,
    ),
    mutant(
        "statistics show no wait in half-open",
        "            retry_after = max(0.0, next(iter(self._leases.values())) - now) or None\n",
        "            pass\n",
        PROBES,
    ),
    mutant(
        "statistics show a negative wait",
        "max(0.0, next(iter(self._leases.values())) - now) or None",
        "next(iter(self._leases.values())) - now",
        MODES,
    ),
    # -- fork
    mutant(
        "a child keeps the leases",
        "        super().forked()\n        self._leases.clear()\n",
        "        super().forked()\n",
        SHARING,
    ),
    mutant(
        "a child hands out permits of its parent",
        "        self._leases.clear()\n        self._publish_locked()\n",
        "        self._leases.clear()\n",
        SHARING,
    ),
    mutant("a child keeps the lock", "        super().forked()\n        self._leases", "        self._leases", SHARING),
    # -- construction
    mutant(
        "more successes than probes",
        "if self._threshold > self._places:",
        "if self._threshold > self._places + 1:",
        ARGUMENTS,
    ),
    mutant(
        "as many successes as probes refused",
        "if self._threshold > self._places:",
        "if self._threshold >= self._places:",
        ARGUMENTS,
    ),
    mutant(
        "recovery beyond its maximum",
        "if self._recovery > self._max_recovery:",
        "if self._recovery > self._max_recovery + 5:",
        ARGUMENTS,
    ),
    mutant(
        "recovery of just the maximum refused",
        "if self._recovery > self._max_recovery:",
        "if self._recovery >= self._max_recovery:",
        ARGUMENTS,
    ),
    mutant("any window", "if not isinstance(window, (TimeWindow, CountWindow)):", "if window is None:", ARGUMENTS),
    mutant("any chance", "if rng is not None and not isinstance(rng, random.Random):", "if rng == 1:", ARGUMENTS),
]


UNCOUNTED = "the permit of calls that a breaker lets pass without looking (disabled, or refused in shadow mode)"
UNTIL = "self.refuses_until = -math.inf # the same, where refusing is all there is to do until then"
ROUND = "self._successes = self._failures = 0 # of this round of probes"
NOTE = "Note = Callable[..., None] # how the machine reports an event: note(kind, **facts)"
PAUSE = "pause = min(self._recovery * 2.0 ** min(reopened, 1000), self._max_recovery)"
SHARE = "return part >= rate * whole - 1e-9 * whole"
LONGER = "if isinstance(retry_after, (int, float)) and retry_after > pause:"
SET_LATER = "set again before anybody looks"

# What each random mutant changes, and why nobody could notice it.
_UNNOTICED = [
    (f"UNCOUNTED = 0 # {UNCOUNTED} => UNCOUNTED = (-1) # {UNCOUNTED}", "any number that is no generation"),
    (f"{NOTE} => {NOTE.replace('Note = Callable[..., None]', 'pass')}", "only in annotations"),
    (f"{UNTIL} => {UNTIL.replace('self.refuses_until = -math.inf', 'pass')}", SET_LATER),
    (f"{ROUND} => {ROUND.replace(' 0 ', ' (1) ')}", SET_LATER),
    (f"{ROUND} => {ROUND.replace(' 0 ', ' (-1) ')}", SET_LATER),
    (f"{SHARE} => return (part > rate * whole - 1e-09 * whole)", "the tolerance is far more than the last bit"),
    ("self.generation += 1 => self.generation += (2)", "numbers only have to be new"),
    (f"{PAUSE} => {PAUSE.replace('1000', '(999)')}", "both are beyond every maximum"),
    (f"{PAUSE} => {PAUSE.replace('1000', '(1001)')}", "both are beyond every maximum"),
    (f"{LONGER} => {LONGER.replace('retry_after > pause', '(retry_after >= pause)')}", "equal is equal"),
    ("if not (failed or slow): return => if not (failed or slow): pass", "only a shortcut"),
]
EQUIVALENT = [("resilience/_circuit.py", label, reason) for label, reason in _UNNOTICED]
