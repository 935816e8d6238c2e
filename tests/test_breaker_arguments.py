"""Every setting of a breaker refuses what it cannot mean, and says which one it is."""

from __future__ import annotations

import math
import random
from datetime import timedelta
from typing import Any

import pytest

from resilience import CircuitBreaker, CountWindow, State, TimeWindow
from resilience.testing import ManualClock

HUGE = 10**400
NOT_NUMBERS: list[Any] = ["5", b"5", [1], {}, object(), 1j]
NOT_DURATIONS: list[Any] = [math.nan, math.inf, -math.inf, -1.0, -1, 0, 0.0, HUGE, -HUGE, True, False, *NOT_NUMBERS]
NOT_COUNTS: list[Any] = [math.nan, math.inf, -1, 0, 2.0, 1.5, HUGE, -HUGE, True, False, timedelta(1), *NOT_NUMBERS]
NOT_RATES: list[Any] = [math.nan, math.inf, -0.5, 0, 0.0, 1.0000001, 2, HUGE, True, timedelta(1), *NOT_NUMBERS]
NOT_TESTS: list[Any] = [
    1,
    "OSError",
    None,
    [OSError],
    (OSError, 1),
    int,
    (int,),
    BaseException,
    KeyboardInterrupt,
    True,
]

BAD: list[tuple[str, list[Any]]] = [
    ("failure_rate", NOT_RATES),
    ("slow_call_rate", [*NOT_RATES, None]),
    ("minimum_calls", [*NOT_COUNTS, None]),
    ("failure_threshold", NOT_COUNTS),
    ("half_open_max_calls", [*NOT_COUNTS, None]),
    ("success_threshold", [*NOT_COUNTS, None]),
    ("slow_call_duration", [*NOT_DURATIONS, timedelta(0), timedelta(-1)]),
    ("recovery_time", [*NOT_DURATIONS, None, timedelta(0)]),
    ("max_recovery_time", [*NOT_DURATIONS, None, timedelta(-1)]),
    ("probe_lease", [*NOT_DURATIONS, None, timedelta(0)]),
    ("jitter", [math.nan, math.inf, -0.1, 1.0, 2, HUGE, True, None, timedelta(1), *NOT_NUMBERS]),
    ("window", [None, 30.0, 100, "30", TimeWindow, CountWindow, timedelta(1), True]),
    ("failure_on", NOT_TESTS),
    ("ignore", NOT_TESTS),
    ("failure_if", [1, "x", (), True]),
    ("mode", ["", "on", "ENABLED", None, True, 1, ["enabled"]]),
    ("name", ["", 1, b"x", True, ["x"]]),
    ("clock", [1, "x", object(), random.Random]),
    ("rng", [1, "x", object(), random, random.Random]),
    ("listeners", [1, None, "x", [1], [None]]),
]


@pytest.mark.parametrize(
    "name,value", [(name, value) for name, values in BAD for value in values], ids=lambda v: repr(v)[:40]
)
def test_a_value_that_means_nothing_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"\b{name.rstrip('s')}") as caught:
        CircuitBreaker(**{name: value})
    assert len(str(caught.value)) < 250, "an enormous value makes no enormous message"


@pytest.mark.parametrize("value", [-1.0, 0, math.nan, math.inf, HUGE, True, None, "30"], ids=lambda v: repr(v)[:40])
def test_a_window_refuses_what_it_cannot_hold(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"CountWindow\.size"):
        CountWindow(value)
    with pytest.raises((TypeError, ValueError), match=r"TimeWindow\.seconds"):
        TimeWindow(value)
    with pytest.raises((TypeError, ValueError), match=r"TimeWindow\.buckets"):
        TimeWindow(30.0, value)


def test_windows_are_bounded() -> None:
    assert CountWindow(1_000_000).size == 1_000_000
    with pytest.raises(ValueError, match=r"CountWindow\.size must be at most 1000000, not 1000001"):
        CountWindow(1_000_001)
    assert TimeWindow(1.0, 10_000).buckets == 10_000
    with pytest.raises(ValueError, match=r"TimeWindow\.buckets must be at most 10000, not 10001"):
        TimeWindow(1.0, 10_001)


def test_a_window_of_no_length_to_speak_of_is_refused_before_it_overflows() -> None:
    for seconds, buckets in ((1e-310, 10), (math.ulp(0.0), 1), (1e-6, 10)):
        with pytest.raises(ValueError, match=r"TimeWindow\.seconds must be at least a microsecond per bucket"):
            TimeWindow(seconds, buckets)
    TimeWindow(1e-6, 1).start().record(1e9, True, False)


def test_windows_are_values() -> None:
    assert TimeWindow(timedelta(minutes=1)) == TimeWindow(60.0, buckets=10)
    assert repr(TimeWindow(60)) == "TimeWindow(seconds=60.0, buckets=10)"
    assert CountWindow(5) == CountWindow(5) != CountWindow(6)
    assert len({TimeWindow(1.0), TimeWindow(1.0), CountWindow(1)}) == 2


def test_more_successes_than_probes_could_never_close_the_circuit() -> None:
    with pytest.raises(ValueError, match=r"success_threshold must be at most half_open_max_calls \(2\).* it is 3"):
        CircuitBreaker(half_open_max_calls=2, success_threshold=3)
    assert CircuitBreaker(half_open_max_calls=3, success_threshold=3).state is State.CLOSED


def test_a_recovery_time_beyond_its_maximum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"recovery_time must be at most max_recovery_time \(60 s\), not 61"):
        CircuitBreaker(recovery_time=61)
    assert CircuitBreaker(recovery_time=60.0).state is State.CLOSED


def test_the_smallest_and_largest_values_are_accepted() -> None:
    CircuitBreaker(
        failure_rate=1.0,
        slow_call_rate=1,
        minimum_calls=1,
        failure_threshold=2**63,
        jitter=0.99,
        recovery_time=1e-9,
        max_recovery_time=1e308,
        probe_lease=timedelta(milliseconds=1),
        slow_call_duration=timedelta(microseconds=1),
        rng=random.Random(1),
        listeners=(),
        clock=ManualClock(),
    )
    CircuitBreaker(failure_rate=math.ulp(0.0), jitter=0, failure_on=(), failure_if=bool)


def test_durations_may_be_timedeltas(clock: ManualClock) -> None:
    breaker = CircuitBreaker(failure_threshold=1, recovery_time=timedelta(seconds=7), jitter=0.0)
    breaker.guard()
    with pytest.raises(OSError):
        breaker.call(raise_os_error)
    assert breaker.statistics().retry_after == 7.0


def raise_os_error() -> None:
    raise OSError


def test_a_variant_checks_its_settings_too() -> None:
    breaker = CircuitBreaker()
    with pytest.raises(TypeError, match="failure_on"):
        breaker.with_(failure_on=1)
    with pytest.raises(ValueError, match="slow_call_duration"):
        breaker.with_(slow_call_duration=0.0)
    with pytest.raises(TypeError, match=r"can change .*failure_if.*, not mode, recovery_time"):
        breaker.with_(recovery_time=1.0, mode="shadow")


def test_a_mode_that_does_not_exist_is_refused_later_too() -> None:
    breaker = CircuitBreaker()
    with pytest.raises(ValueError, match='mode must be "enabled", "shadow" or "disabled", not \'off\''):
        breaker.mode = "off"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    assert breaker.mode == "enabled"
