"""Mutants of the circuit of a breaker: its probes and its transitions."""

from __future__ import annotations

from . import Mutant

EVENTS = "tests/test_breaker_events.py"
MODEL = "tests/machines/test_circuit.py"
PROBES = "tests/test_breaker_probes.py"
RULES = "tests/test_breaker.py"


def mutant(name: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"circuit: {name}", "resilience/_circuit.py", old, new, tests)


MUTANTS = [
    # -- half-open
    mutant(
        "one probe too many",
        "if self._successes + self._failures + len(self._leases) < self._places:",
        "if self._successes + self._failures + len(self._leases) <= self._places:",
        PROBES,
    ),
    mutant(
        "successes free their place",
        "if self._successes + self._failures + len(self._leases) < self._places:",
        "if self._failures + len(self._leases) < self._places:",
        MODEL,
    ),
    mutant(
        "failures free their place",
        "if self._successes + self._failures + len(self._leases) < self._places:",
        "if self._successes + len(self._leases) < self._places:",
        MODEL,
    ),
    mutant("no quota", "if self._successes + self._failures + len(self._leases) < self._places:", "if True:", PROBES),
    mutant(
        "probes share a number",
        "            self.generation += 1\n            self._leases[self.generation]",
        "            self._leases[self.generation]",
        PROBES,
    ),
    mutant("leases never expire", "            if now < expiry:\n", "            if now < math.inf:\n", PROBES),
    mutant(
        "leases expire an instant late", "            if now < expiry:\n", "            if now <= expiry:\n", PROBES
    ),
    mutant("lease without length", "= now + self._probe_lease", "= now", PROBES),
    mutant("an expired lease is abandoned", "            self._probe_failed_locked(expiry, None, note)\n", "", PROBES),
    mutant(
        "an expired lease fails now, not then",
        "self._probe_failed_locked(expiry, None, note)",
        "self._probe_failed_locked(now, None, note)",
        PROBES,
    ),
    mutant(
        "an expired lease stays",
        "            del self._leases[lease]\n            note",
        "            self._leases[lease] = math.inf\n            note",
        PROBES,
    ),
    mutant(
        "admission does not watch the clock",
        "            return UNCOUNTED, None\n        self._pass_time_locked(now, note)\n",
        "            return UNCOUNTED, None\n",
        PROBES,
    ),
    mutant(
        "settlement does not watch the clock",
        "            return\n        self._pass_time_locked(now, note)\n        if permit",
        "            return\n        if permit",
        PROBES,
    ),
    mutant(
        "statistics do not watch the clock",
        '        if self.mode != "disabled":\n            self._pass_time_locked(now, note)\n',
        "",
        PROBES,
    ),
    mutant(
        "a lease is settled twice",
        "self._leases.pop(permit, None) is not None and verdict",
        "self._leases.get(permit) is not None and verdict",
        PROBES,
    ),
    mutant(
        "a stale success counts in half-open",
        "elif self._leases.pop(permit, None) is not None and verdict is not ABANDONED:",
        "elif (self._leases.pop(permit, None) or self.state is HALF_OPEN) and verdict is not ABANDONED:",
        PROBES,
    ),
    mutant(
        "an abandoned probe counts",
        "elif self._leases.pop(permit, None) is not None and verdict is not ABANDONED:",
        "elif self._leases.pop(permit, None) is not None:",
        PROBES,
    ),
    mutant(
        "an abandoned probe keeps its lease",
        "elif self._leases.pop(permit, None) is not None and verdict is not ABANDONED:",
        "elif verdict is not ABANDONED and self._leases.pop(permit, None) is not None:",
        PROBES,
    ),
    mutant(
        "generation check off",
        "if permit == self.closed_permit:\n            if verdict",
        "if self.closed_permit is not None:\n            if verdict",
        PROBES,
    ),
    mutant("one success closes", "if self._successes >= self._threshold:", "if self._successes:", PROBES),
    mutant(
        "one success too many needed",
        "if self._successes >= self._threshold:",
        "if self._successes > self._threshold:",
        PROBES,
    ),
    mutant("a slow probe is fine", "if verdict is SUCCESS and not slow:", "if verdict is SUCCESS:", PROBES),
    mutant(
        "re-opens too late",
        "if self._places - self._failures < self._threshold:",
        "if self._places - self._failures < 1:",
        PROBES,
    ),
    mutant(
        "re-opens on the first failure",
        "if self._places - self._failures < self._threshold:",
        "if self._failures:",
        PROBES,
    ),
    mutant(
        "half-open refusal says zero",
        "return None, next(iter(self._leases.values())) - now",
        "return None, 0.0",
        PROBES,
    ),
    mutant(
        "half-open refusal waits for the last lease",
        "return None, next(iter(self._leases.values())) - now",
        "return None, max(self._leases.values()) - now",
        PROBES,
    ),
    # -- transitions
    mutant(
        "a new state keeps the generation",
        "        self.state = state\n        self.generation += 1\n",
        "        self.state = state\n",
        PROBES,
    ),
    mutant(
        "a new state keeps the leases",
        "        self.generation += 1\n        self._leases.clear()\n        self._successes",
        "        self.generation += 1\n        self._successes",
        MODEL,
    ),
    mutant(
        "a round keeps the results of the one before",
        "        self._successes = self._failures = 0\n        self.streak",
        "        self.streak",
        PROBES,
    ),
    mutant(
        "a round keeps the successes",
        "        self._successes = self._failures = 0\n        self.streak",
        "        self._failures = 0\n        self.streak",
        MODEL,
    ),
    mutant("a new state keeps the streak", "        self.streak = 0\n        if state", "        if state", RULES),
    mutant("closing keeps the window", "            self.window = self.window_type.start()\n", "", PROBES),
    mutant(
        "isolating is reset by the next call",
        "        if self.state is ISOLATED:\n            return None, None\n",
        "        if self.state is ISOLATED:\n            return self.generation, None\n",
        RULES,
    ),
    mutant("isolating twice is told twice", "if self.state is not ISOLATED:", "if True:", EVENTS),
    mutant("resetting a closed circuit is told", "if was is not CLOSED:", "if True:", EVENTS),
    mutant(
        "a new state is not published",
        "            self.window = self.window_type.start()\n        self._publish_locked()\n",
        "            self.window = self.window_type.start()\n",
        RULES,
    ),
    mutant(
        "the instant is published too late",
        "        self._open_until = now + pause\n        self._enter_locked(OPEN)\n",
        "        self._enter_locked(OPEN)\n        self._open_until = now + pause\n",
        RULES,
        MODEL,
    ),
]
