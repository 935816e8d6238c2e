"""Tests of code that waits: in virtual time they take none, and they see every wait.

python -m pytest examples/virtual_time.py
"""

from __future__ import annotations

import asyncio

import pytest
import tenacity

from resilience import CallTimeoutError, CircuitBreaker, CircuitClosed, CircuitHalfOpened, CircuitOpened, Retry, Timeout
from resilience.testing import ManualClock, Script, no_waits, recorded_events, run, use_clock

# --- the code under test ---------------------------------------------------------------------------------------------

retry = Retry(ConnectionError, attempts=4, wait=tenacity.wait_exponential(multiplier=10.0))
breaker = CircuitBreaker("service", failure_threshold=3, recovery_time=60.0, jitter=0.0, success_threshold=1)


@Timeout(30.0)
async def report() -> str:
    """Takes an hour if nobody stops it."""
    await asyncio.sleep(3600)
    return "done"


# --- its tests -------------------------------------------------------------------------------------------------------


def test_a_slow_report_is_cut_off() -> None:
    clock = ManualClock()
    with pytest.raises(CallTimeoutError):
        run(report(), clock)
    assert clock.now() == pytest.approx(30.0, rel=0.03)


def test_the_backoff_doubles() -> None:
    service = Script([ConnectionError(), ConnectionError(), ConnectionError(), "done"])
    with no_waits() as sleeps:
        assert retry(service.sync)("order", 42) == "done"
    assert sleeps == [10.0, 20.0, 40.0]
    assert service.calls == [(("order", 42), {})] * 4


def test_the_breaker_recovers_after_a_minute() -> None:
    call = breaker(Script([ConnectionError(), ConnectionError(), ConnectionError(), "well again"]))
    with use_clock(ManualClock()) as clock, recorded_events() as events:
        assert isinstance(clock, ManualClock)
        for _ in range(3):
            with pytest.raises(ConnectionError):
                call()
        clock.advance(60.0)
        assert call() == "well again"
    changes = [event for event in events if isinstance(event, CircuitOpened | CircuitHalfOpened | CircuitClosed)]
    assert [type(event) for event in changes] == [CircuitOpened, CircuitHalfOpened, CircuitClosed]


if __name__ == "__main__":
    pytest.main([__file__])
