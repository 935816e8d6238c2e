"""The measures: what a pass comes down to in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .script import Script
from .traffic import Call, Outcome

STEADY = 20  # calls in a row that have to go well before the service counts as recovered
AT_ONCE = 0.001


@dataclass(frozen=True, slots=True)
class Measures:
    """One pass. Rates are ratios, times are seconds, None is "never" or "there were none".

    `requests` and `requests_in_outage` are per user call. `noticed` counts from the start of the outage to the opening
    of the breaker, `recovered` from the end of the outage to the first of `STEADY` calls in a row that were answered
    in normal time. `late` is by how much the busiest moments of this machine delayed calls or the service's work (the
    99th percentile, the worse of the two).
    """

    calls: int
    success: float
    success_by_phase: Mapping[str, float]
    median: float
    p99: float
    p99_answered: float | None
    median_failed: float | None
    requests: float
    requests_in_outage: float
    noticed: float | None
    recovered: float | None
    refused: int
    refused_at_once: int
    late: float


def measure(
    script: Script,
    calls: Sequence[Call],
    requests: Mapping[str, int],
    overtime: Sequence[float],
    openings: Sequence[float],
) -> Measures:
    """Sum up a pass: its calls, the requests the service counted by phase, the instants at which a breaker opened.

    `overtime` is by how many seconds each piece of work took the service longer than the script says.
    """
    calls = sorted(calls, key=lambda call: call.number)
    answered = [call.seconds for call in calls if call.outcome is Outcome.ANSWERED]
    unanswered = [call.seconds for call in calls if call.outcome is not Outcome.ANSWERED]
    refused = [call.seconds for call in calls if call.outcome is Outcome.REFUSED]
    by_phase = {phase.name: [call for call in calls if script.at(call.due)[0] is phase] for phase in script.phases}
    down, back = script.outage()
    outage = script.at(down)[0].name
    return Measures(
        calls=len(calls),
        success=len(answered) / len(calls),
        success_by_phase={name: success_rate(some) for name, some in by_phase.items()},
        median=percentile([call.seconds for call in calls], 0.5),
        p99=percentile([call.seconds for call in calls], 0.99),
        p99_answered=percentile(answered, 0.99) if answered else None,
        median_failed=percentile(unanswered, 0.5) if unanswered else None,
        requests=sum(requests.values()) / len(calls),
        requests_in_outage=requests.get(outage, 0) / len(by_phase[outage]),
        noticed=next((opening - down for opening in openings if opening >= down), None),
        recovered=_recovered(script, [call for call in calls if call.due >= back], back),
        refused=len(refused),
        refused_at_once=sum(seconds < AT_ONCE for seconds in refused),
        late=max(percentile(some, 0.99) for some in ([call.late for call in calls], overtime) if some),
    )


def success_rate(calls: Sequence[Call]) -> float:
    """The share of answered calls; 1 if there are none."""
    return sum(call.outcome is Outcome.ANSWERED for call in calls) / len(calls) if calls else 1.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _recovered(script: Script, calls: Sequence[Call], back: float) -> float | None:
    streak = 0
    for place, call in enumerate(calls):
        streak = streak + 1 if call.outcome is Outcome.ANSWERED and call.seconds <= script.normal else 0
        if streak == STEADY:
            return calls[place - STEADY + 1].due - back
    return None
