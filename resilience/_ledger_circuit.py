"""What a store keeps for a shared circuit breaker: the window, the state and the probe leases of all instances.

The rules are those of `_circuit.py`, with three differences that come with the distance. Outcomes arrive in reports of
many calls at once, so a report that both fails and succeeds counts as a whole. A report names the *round* in which its
calls were admitted; every change of state starts a new one, and a report of another round changes nothing at all. And
the instance that reports brings the chance along: the `jitter` by which a pause is multiplied.

Rounds and leases are numbered by the time in microseconds at least, so that their numbers grow on when a circuit that
nobody used was forgotten.
"""

from __future__ import annotations

import math

from ._ledger import Reply

CLOSED, OPEN, HALF_OPEN, ISOLATED = 0.0, 1.0, 2.0, 3.0
KEPT = 3600.0  # seconds that an unused circuit is remembered for beyond its window


class Circuits:
    """One circuit. All verbs but `isolate` and `reset` end with the settings, in the order of `_settings`.

    `_width` and `_count` are the window's buckets; rates and thresholds are -1 where a rule is off.
    """

    __slots__ = (
        "_bad",
        "_buckets",
        "_good",
        "_leases",
        "_reopened",
        "_round",
        "_serial",
        "_settings",
        "_state",
        "_streak",
        "_until",
        "expires_at",
    )

    def __init__(self) -> None:
        self._state = CLOSED
        self._round = self._serial = 0.0
        self._until = self._reopened = self._streak = self._good = self._bad = 0.0
        self._leases: dict[float, float] = {}  # lease -> the instant it expires, in that order
        self._buckets: dict[int, list[float]] = {}
        self._settings: tuple[float, ...] = ()
        self.expires_at = -math.inf

    # -- verbs ---------------------------------------------------------------------------------------------------------

    def report(
        self,
        now: float,
        round_: float,
        successes: float,
        failures: float,
        slow: float,
        trailing: float,
        retry_after: float,
        jitter: float,
        *settings: float,
    ) -> Reply:
        """Count outcomes of calls admitted in `round_`: `slow` of them were slow, the last `trailing` failed.

        Answers with the news: state, round, seconds until a call may pass, openings in a row, calls, failures, slow
        calls and streak inside the window, and probes under way.
        """
        self._prepare(now, jitter, settings)
        if not self._round:
            self._round = round_
        if self._state == CLOSED and round_ == self._round and successes + failures:
            index = math.floor(now / settings[0])
            bucket = self._buckets.setdefault(index, [0.0, 0.0, 0.0])
            bucket[0] += successes + failures
            bucket[1] += failures
            bucket[2] += slow
            self._streak = trailing if successes else self._streak + failures
            self._judge(now, failures, slow, retry_after, jitter)
        return self._news(now)

    def probe(self, now: float, jitter: float, *settings: float) -> Reply:
        """Ask to let a call pass. Answers with a lease (0: none is needed, or there is none) and the news."""
        self._prepare(now, jitter, settings)
        if self._state == OPEN and now >= self._until:
            self._enter(HALF_OPEN, now)
        lease = 0.0
        places, probe_lease = settings[8], settings[10]
        if self._state == HALF_OPEN and self._good + self._bad + len(self._leases) < places:
            lease = self._serial = max(self._serial + 1.0, float(math.floor(now * 1e6)))
            self._leases[lease] = now + probe_lease
            self._keep(now)
        return (lease, *self._news(now))

    def settle(
        self, now: float, lease: float, verdict: float, retry_after: float, jitter: float, *settings: float
    ) -> Reply:
        """Count a probe: `verdict` is 1 for success, 0 for failure, -1 for abandoned. Answers with the news."""
        self._prepare(now, jitter, settings)
        if self._leases.pop(lease, None) is not None:
            if verdict == 1.0:
                self._good += 1.0
                if self._good >= settings[9]:
                    self._enter(CLOSED, now)
            elif verdict == 0.0:
                self._probe_failed(now, retry_after, jitter)
        return self._news(now)

    def isolate(self, now: float) -> Reply:
        """Let nothing pass until `reset`."""
        if self._state != ISOLATED:
            self._enter(ISOLATED, now)
        return self._news(now)

    def reset(self, now: float) -> Reply:
        """Close, and forget what was counted."""
        self._settings = ()
        self._enter(CLOSED, now)
        return self._news(now)

    def forked(self) -> None:
        self._leases.clear()

    # -- transitions ---------------------------------------------------------------------------------------------------

    def _prepare(self, now: float, jitter: float, settings: tuple[float, ...]) -> None:
        """Let time pass: buckets leave the window, and leases that have expired fail at their own instant."""
        self._settings = settings
        oldest = math.floor(now / settings[0]) - settings[1]
        for index in [index for index in self._buckets if index <= oldest]:
            del self._buckets[index]
        while self._leases:
            lease, expiry = next(iter(self._leases.items()))
            if now < expiry:
                return
            del self._leases[lease]
            self._probe_failed(expiry, 0.0, jitter)

    def _judge(self, now: float, failures: float, slow: float, retry_after: float, jitter: float) -> None:
        _, _, failure_rate, minimum, threshold, slow_rate, *_ = self._settings
        calls, failed, slowed = self._sums()
        enough = calls >= minimum
        if (
            (failures and 0.0 < threshold <= self._streak)
            or (failures and enough and failure_rate > 0.0 and failed >= failure_rate * calls - 1e-9 * calls)
            or (slow and enough and slowed >= slow_rate * calls - 1e-9 * calls)
        ):
            self._open(now, retry_after, jitter)
        else:
            self._keep(now)

    def _probe_failed(self, now: float, retry_after: float, jitter: float) -> None:
        self._bad += 1.0
        if self._settings[8] - self._bad < self._settings[9]:
            self._open(now, retry_after, jitter)

    def _open(self, now: float, retry_after: float, jitter: float) -> None:
        recovery, longest = self._settings[6], self._settings[7]
        pause = min(recovery * 2.0 ** min(self._reopened, 1000.0), longest) * jitter
        pause = max(pause, min(retry_after, longest))
        reopened = self._reopened + 1.0
        self._enter(OPEN, now)
        self._until, self._reopened = now + pause, reopened
        self._keep(self._until)

    def _enter(self, state: float, now: float) -> None:
        """The one place where the state changes: a new round, and nothing of the old one left."""
        self._state = state
        self._round = max(self._round + 1.0, float(math.floor(now * 1e6)))
        self._leases.clear()
        self._good = self._bad = self._streak = 0.0
        if state == CLOSED:
            self._reopened = 0.0
        if state != HALF_OPEN:
            self._buckets.clear()
        self._keep(now)

    def _keep(self, now: float) -> None:
        """Put the expiry off: by its window and an hour, or for ever where it was isolated by hand."""
        window = self._settings[0] * self._settings[1] if self._settings else 0.0
        self.expires_at = math.inf if self._state == ISOLATED else now + KEPT + window

    # -- answers -------------------------------------------------------------------------------------------------------

    def _sums(self) -> tuple[float, float, float]:
        buckets = self._buckets.values()
        return sum(b[0] for b in buckets), sum(b[1] for b in buckets), sum(b[2] for b in buckets)

    def _news(self, now: float) -> Reply:
        wait = 0.0
        if self._state == OPEN:
            wait = max(0.0, self._until - now)
        elif self._state == HALF_OPEN and self._good + self._bad + len(self._leases) >= self._settings[8]:
            wait = min(self._leases.values()) - now
        probes = float(len(self._leases))
        return (self._state, self._round, wait, self._reopened, *self._sums(), self._streak, probes)
