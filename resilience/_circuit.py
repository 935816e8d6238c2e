"""The breaker's machine: every transition of a circuit, and nothing else.

Theory of operation. A permit is an int out of one growing series. In CLOSED it is the generation, the same for all
calls; in HALF_OPEN each call gets a number of its own, its *lease*, kept with its expiry until it is settled. Every
change of state starts a new generation and forgets the leases, so a permit from before matches nothing and its late
result changes nothing at all. OPEN and ISOLATED issue no permits.

OPEN turns HALF_OPEN with the first call at or after the recovery instant; nothing happens by itself. The same call
first lets expired leases fail *at the instant they expired*, which may re-open the circuit in the past: the state is
always what it would be had somebody watched the clock.

A round of HALF_OPEN has `half_open_max_calls` places. A success or failure uses its place up, an abandoned lease frees
it. Success is out of reach when more than `half_open_max_calls - success_threshold` places failed.
"""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from . import _arguments
from ._machine import ABANDONED, FAILURE, SUCCESS, Machine, Verdict
from ._wait import Meter
from ._window import CountWindow, TimeWindow
from .events import CircuitClosed, CircuitHalfOpened, CircuitOpened, ProbeExpired

Note = Callable[..., None]  # how the machine reports an event: note(kind, **facts)
Mode = Literal["enabled", "shadow", "disabled"]
UNCOUNTED = 0  # the permit of calls that a breaker lets pass without looking (disabled, or refused in shadow mode)


class State(enum.Enum):
    """The state of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    ISOLATED = "isolated"


CLOSED, OPEN, HALF_OPEN, ISOLATED = State.CLOSED, State.OPEN, State.HALF_OPEN, State.ISOLATED


@dataclass(frozen=True, slots=True)
class BreakerStatistics:
    """A breaker at one moment. `calls`, `failures` and `slow` are those inside the window.

    `streak` counts failures in a row, `reopened` the openings in a row without closing between, `retry_after` the
    seconds until a circuit that is enabled lets a call pass (None if it would now, or if it is isolated), `probes` the
    leases that are out, `rejected` all refusals so far.
    """

    state: State
    mode: Mode
    calls: int
    failures: int
    slow: int
    streak: int
    reopened: int
    probes: int
    rejected: int
    retry_after: float | None


class Timed(NamedTuple):
    """A permit with the start of its call and the meter of its waits."""

    permit: int
    began: float
    waits: Meter | None


class Circuit(Machine):
    """Guarded by `lock`: everything but the reading of `closed_permit` and `refuses_until`."""

    __slots__ = (
        "_failures",
        "_jitter",
        "_leases",
        "_max_recovery",
        "_open_until",
        "_places",
        "_probe_lease",
        "_recovery",
        "_rng",
        "_successes",
        "_threshold",
        "closed_permit",
        "failure_rate",
        "failure_threshold",
        "minimum_calls",
        "mode",
        "refuses_until",
        "rejected",
        "reopened",
        "slow_call_rate",
        "state",
        "streak",
        "window",
        "window_type",
    )

    def __init__(self, **options: Any) -> None:
        super().__init__()
        window, failure_rate, rng = options["window"], options["failure_rate"], options["rng"]
        if not isinstance(window, (TimeWindow, CountWindow)):
            raise TypeError(f"window must be a TimeWindow or a CountWindow, not {_arguments.shown(window)}")
        if rng is not None and not isinstance(rng, random.Random):
            raise TypeError(f"rng must be a random.Random or None, not {_arguments.shown(rng)}")
        self.failure_rate = None if failure_rate is None else _arguments.ratio("failure_rate", failure_rate)
        self.minimum_calls = _arguments.count("minimum_calls", options["minimum_calls"])
        if isinstance(window, CountWindow):  # it could never hold more calls than its size
            self.minimum_calls = min(self.minimum_calls, window.size)
        threshold = options["failure_threshold"]
        self.failure_threshold = math.inf if threshold is None else _arguments.count("failure_threshold", threshold)
        self.slow_call_rate = _arguments.ratio("slow_call_rate", options["slow_call_rate"])
        self._recovery = _arguments.seconds("recovery_time", options["recovery_time"])
        self._max_recovery = _arguments.seconds("max_recovery_time", options["max_recovery_time"])
        if self._recovery > self._max_recovery:
            raise ValueError(
                f"recovery_time must be at most max_recovery_time ({self._max_recovery:g} s), not {self._recovery:g}"
            )
        self._jitter = _arguments.number("jitter", options["jitter"], zero=True, maximum=0.99)
        self._places = _arguments.count("half_open_max_calls", options["half_open_max_calls"])
        self._threshold = _arguments.count("success_threshold", options["success_threshold"])
        if self._threshold > self._places:
            raise ValueError(
                f"success_threshold must be at most half_open_max_calls ({self._places}), or the circuit could never"
                f" close; it is {self._threshold}"
            )
        self._probe_lease = _arguments.seconds("probe_lease", options["probe_lease"])
        self._rng = rng or random.SystemRandom()  # it has no state, which the children of a fork would share
        self.window_type = window
        self.window = window.start()
        self.state = CLOSED
        self.mode: Mode = "enabled"
        self.closed_permit: int | None = self.generation
        self._open_until = -math.inf
        self.refuses_until = -math.inf  # the same, where refusing is all there is to do until then
        self._leases: dict[int, float] = {}  # lease -> the instant it expires, in that order
        self._successes = self._failures = 0  # of this round of probes
        self.streak = self.reopened = self.rejected = 0

    # -- what callers may ask for --------------------------------------------------------------------------------------

    def admit_locked(self, now: float, note: Note) -> tuple[int | None, float | None]:
        """A permit, or None and the seconds until asking again makes sense (None: nobody can say)."""
        if self.mode == "disabled":
            return UNCOUNTED, None
        self._pass_time_locked(now, note)
        if self.state is CLOSED:
            return self.generation, None
        if self.state is ISOLATED:
            return None, None
        if self.state is OPEN:
            if now < self._open_until:
                return None, self._open_until - now
            self._enter_locked(HALF_OPEN)
            note(CircuitHalfOpened, time=now)
        if self._successes + self._failures + len(self._leases) < self._places:
            self.generation += 1
            self._leases[self.generation] = now + self._probe_lease
            return self.generation, None
        return None, next(iter(self._leases.values())) - now

    def settle_locked(
        self, permit: int, verdict: Verdict, now: float, slow: bool, retry_after: object, note: Note
    ) -> None:
        """Count the outcome of a call. A permit of an older generation, or an expired lease, changes nothing."""
        if self.mode == "disabled":  # nothing counts and nobody watches the clock
            self._leases.pop(permit, None)
            return
        self._pass_time_locked(now, note)
        if permit == self.closed_permit:
            if verdict is not ABANDONED:
                self._count_locked(verdict is FAILURE, now, slow, retry_after, note)
        elif self._leases.pop(permit, None) is not None and verdict is not ABANDONED:
            if verdict is SUCCESS and not slow:
                self._successes += 1
                if self._successes >= self._threshold:
                    self._close_locked("recovered", now, note)
            else:
                self._probe_failed_locked(now, retry_after, note)

    def isolate_locked(self, now: float, note: Note) -> None:
        if self.state is not ISOLATED:
            self._enter_locked(ISOLATED)
            note(CircuitOpened, time=now, reason="isolated", recovery_time=None)

    def reset_locked(self, note: Note) -> None:
        was = self.state
        self._enter_locked(CLOSED)
        if was is not CLOSED:
            note(CircuitClosed, reason="reset")

    def set_mode_locked(self, mode: Mode) -> None:
        self.mode = mode
        self._publish_locked()

    def statistics_locked(self, now: float, note: Note) -> BreakerStatistics:
        if self.mode != "disabled":
            self._pass_time_locked(now, note)
        self.window.catch_up(now)
        retry_after = None
        if self.state is OPEN and now < self._open_until:
            retry_after = self._open_until - now
        elif self.state is HALF_OPEN and self._successes + self._failures + len(self._leases) >= self._places:
            retry_after = max(0.0, next(iter(self._leases.values())) - now) or None
        return BreakerStatistics(
            self.state,
            self.mode,
            self.window.calls,
            self.window.failures,
            self.window.slow,
            self.streak,
            self.reopened,
            len(self._leases),
            self.rejected,
            retry_after,
        )

    def forked(self) -> None:
        super().forked()
        self._leases.clear()
        self._publish_locked()

    # -- transitions ---------------------------------------------------------------------------------------------------

    def _count_locked(self, failed: bool, now: float, slow: bool, retry_after: object, note: Note) -> None:
        window = self.window
        window.record(now, failed, slow)
        self.streak = self.streak + 1 if failed else 0
        if not (failed or slow):
            return
        enough = window.calls >= self.minimum_calls
        if failed and self.streak >= self.failure_threshold:
            reason = f"{self.streak} failures in a row"
        elif (
            failed
            and enough
            and self.failure_rate is not None
            and _share(window.failures, window.calls, self.failure_rate)
        ):
            reason = f"{window.failures} of {window.calls} calls failed"
        elif slow and enough and _share(window.slow, window.calls, self.slow_call_rate):
            reason = f"{window.slow} of {window.calls} calls were slow"
        else:
            return
        self._open_locked(reason, now, retry_after, note)

    def _probe_failed_locked(self, now: float, retry_after: object, note: Note) -> None:
        self._failures += 1
        if self._places - self._failures < self._threshold:
            self._open_locked(f"{self._failures} of {self._places} probes failed", now, retry_after, note)

    def _pass_time_locked(self, now: float, note: Note) -> None:
        """Let the leases that have expired by `now` fail, each at its own instant."""
        while self._leases:
            lease, expiry = next(iter(self._leases.items()))
            if now < expiry:
                return
            del self._leases[lease]
            note(ProbeExpired, time=expiry)
            self._probe_failed_locked(expiry, None, note)

    def _open_locked(self, reason: str, now: float, retry_after: object, note: Note) -> None:
        reopened = self.reopened
        pause = min(self._recovery * 2.0 ** min(reopened, 1000), self._max_recovery)
        pause *= 1.0 + self._rng.uniform(-self._jitter, self._jitter)
        if isinstance(retry_after, (int, float)) and retry_after > pause:
            pause = max(pause, float(min(retry_after, self._max_recovery)))
        self._open_until = now + pause
        self._enter_locked(OPEN)
        self.reopened = reopened + 1
        note(CircuitOpened, time=now, reason=reason, recovery_time=pause)

    def _close_locked(self, reason: str, now: float, note: Note) -> None:
        self._enter_locked(CLOSED)
        note(CircuitClosed, time=now, reason=reason)

    def _enter_locked(self, state: State) -> None:
        """The one place where the state changes: a new generation, and nothing of the old one left."""
        self.state = state
        self.generation += 1
        self._leases.clear()
        self._successes = self._failures = 0
        self.streak = 0
        if state is CLOSED:
            self.reopened = 0
            self.window = self.window_type.start()
        self._publish_locked()

    def _publish_locked(self) -> None:
        self.closed_permit = self.generation if self.state is CLOSED and self.mode != "disabled" else None
        self.refuses_until = self._open_until if self.state is OPEN and self.mode == "enabled" else -math.inf


def _share(part: int, whole: int, rate: float) -> bool:
    """Whether `part / whole >= rate`, with 3 of 10 reaching a rate of 0.3 as a reader expects."""
    return part >= rate * whole - 1e-9 * whole
