"""What a circuit breaker promises, spelled out with lists: the reference for its machine."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

from resilience import CountWindow, Verdict

SUCCESS, FAILURE, ABANDONED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.ABANDONED


@dataclass
class Call:
    """What the model knows of one admitted call. `period` is None for a call that was let pass without a look."""

    permit: Any
    period: int | None
    began: float
    expiry: float = math.inf
    outcome: str = "running"  # of a probe: running, success, failure or abandoned
    settled: bool = False


@dataclass
class Model:
    """The contract, spelled out with lists. Times are exact: all of them are whole quarters."""

    options: dict[str, Any]
    rng: random.Random
    state: str = "closed"
    mode: str = "enabled"
    period: int = 0  # one more with every change of state; a permit counts in the period it was issued in
    log: list[tuple[float, bool, bool]] = field(default_factory=list)  # since the circuit closed: when, failed, slow
    probes: list[Call] = field(default_factory=list)  # of this round
    until: float = -math.inf
    reopened: int = 0
    rejected: int = 0
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def enter(self, state: str) -> None:
        self.state = state
        self.period += 1
        self.probes = []
        if state == "closed":
            self.log = []
            self.reopened = 0

    def inside(self, now: float) -> list[tuple[float, bool, bool]]:
        window = self.options["window"]
        if isinstance(window, CountWindow):
            return self.log[-window.size :]
        width = window.seconds / window.buckets
        return [r for r in self.log if math.floor(r[0] / width) > math.floor(now / width) - window.buckets]

    def streak(self) -> int:
        if self.state != "closed":
            return 0
        return next((n for n, (_, failed, _) in enumerate(reversed(self.log)) if not failed), len(self.log))

    def open(self, at: float, retry_after: float | None) -> None:
        doubled = self.options["recovery_time"]
        for _ in range(self.reopened):
            doubled = min(doubled * 2, self.options["max_recovery_time"])
        jitter = self.options["jitter"]
        pause = doubled * (1.0 + self.rng.uniform(-jitter, jitter))
        if retry_after is not None and not math.isnan(retry_after):
            pause = max(pause, min(retry_after, self.options["max_recovery_time"]))
        self.enter("open")
        self.reopened += 1
        self.until = at + pause
        self.events.append(("CircuitOpened", at, pause))

    def probe_failed(self, at: float, retry_after: float | None) -> None:
        left = [probe for probe in self.probes if probe.outcome not in {"failure", "abandoned"}]
        issuable = self.options["half_open_max_calls"] - len([p for p in self.probes if p.outcome != "abandoned"])
        if len(left) + issuable < self.options["success_threshold"]:
            self.open(at, retry_after)

    def watch_the_clock(self, now: float) -> None:
        while self.state == "half-open":
            expired = [probe for probe in self.probes if probe.outcome == "running" and probe.expiry <= now]
            if not expired:
                return
            first = min(expired, key=lambda probe: probe.expiry)
            first.outcome = "failure"
            self.events.append(("ProbeExpired", first.expiry))
            self.probe_failed(first.expiry, None)

    def wait(self, now: float) -> float | None:
        """Seconds until the circuit lets a call pass; 0.0 if it does now, None if nobody can say."""
        if self.state == "isolated":
            return None
        if self.state == "open":
            return max(0.0, self.until - now)
        taken = [probe for probe in self.probes if probe.outcome != "abandoned"]
        if self.state == "half-open" and len(taken) >= self.options["half_open_max_calls"]:
            return min(probe.expiry for probe in taken if probe.outcome == "running") - now
        return 0.0

    def admit(self, now: float) -> tuple[Call | None, float | None]:
        if self.mode == "disabled":
            return Call(None, None, now), None
        self.watch_the_clock(now)
        wait = self.wait(now)
        if wait != 0.0:
            self.rejected += 1
            self.events.append(("CallRejected", now, wait, self.mode == "shadow"))
            return (Call(None, None, now) if self.mode == "shadow" else None), wait
        if self.state == "open":
            self.enter("half-open")
            self.events.append(("CircuitHalfOpened", now))
        call = Call(None, self.period, now)
        if self.state == "half-open":
            call.expiry = now + self.options["probe_lease"]
            self.probes.append(call)
        return call, None

    def settle(self, call: Call, verdict: Verdict, now: float, retry_after: float | None) -> bool:
        """Returns whether the outcome changed anything."""
        limit = self.options["slow_call_duration"]
        slow = limit is not None and now - call.began > limit
        if verdict is not ABANDONED:
            name = "CallSucceeded" if verdict is SUCCESS else "CallFailed"
            self.events.append((name, now, now - call.began, slow if verdict is SUCCESS else None))
        if call.period is None:
            return False
        if self.mode == "disabled":
            if call.outcome == "running" and call in self.probes:
                call.outcome = "abandoned"
                return True
            return False
        self.watch_the_clock(now)
        if call.period != self.period or call.outcome != "running":
            return False
        if self.state == "closed":
            if verdict is not ABANDONED:
                self.log.append((now, verdict is FAILURE, slow))
                self.look_for_trouble(now, verdict is FAILURE, slow, retry_after)
            return verdict is not ABANDONED
        if verdict is ABANDONED:
            call.outcome = "abandoned"
        elif verdict is SUCCESS and not slow:
            call.outcome = "success"
            if sum(probe.outcome == "success" for probe in self.probes) == self.options["success_threshold"]:
                self.enter("closed")
                self.events.append(("CircuitClosed", now))
        else:
            call.outcome = "failure"
            self.probe_failed(now, retry_after)
        return True

    def look_for_trouble(self, now: float, failed: bool, slow: bool, retry_after: float | None) -> None:
        inside = self.inside(now)
        minimum = self.options["minimum_calls"]
        if isinstance(self.options["window"], CountWindow):
            minimum = min(minimum, self.options["window"].size)
        enough = len(inside) >= minimum
        rate, threshold = self.options["failure_rate"], self.options["failure_threshold"]
        failures = sum(failed for _, failed, _ in inside)
        slows = sum(slow for _, _, slow in inside)
        if (
            (failed and threshold is not None and self.streak() >= threshold)
            or (failed and rate is not None and enough and failures / len(inside) >= rate)
            or (slow and enough and slows / len(inside) >= self.options["slow_call_rate"])
        ):
            self.open(now, retry_after)


class approx:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        if isinstance(self.value, tuple):
            return isinstance(other, tuple) and all(
                approx(mine) == its for mine, its in zip(self.value, other, strict=True)
            )
        if isinstance(self.value, float) and isinstance(other, float):
            return math.isclose(self.value, other, rel_tol=1e-9, abs_tol=1e-9)
        return bool(self.value == other)

    def __hash__(self) -> int:
        raise TypeError("approximate")

    def __repr__(self) -> str:
        return f"≈ {self.value!r}"
