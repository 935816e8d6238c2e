"""Constructor arguments: a mistake is an error at once that names the parameter, the value and the allowed range."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from aiolimiter import AsyncLimiter
from hypothesis import given
from hypothesis import strategies as st

from resilience import Bulkhead, CircuitBreaker, Keyed, RateLimiter, Retry, RetryBudget, Throttle, Timeout, _arguments
from resilience._arguments import count, exceptions, function, listeners, number, optional_seconds, ratio, seconds, text

HUGE = 10**400
NOT_NUMBERS: list[Any] = ["1", b"1", None, True, False, [1], {}, 1j, Fraction(1, 2), object(), timedelta(seconds=1)]
NOT_FINITE: list[Any] = [math.nan, math.inf, -math.inf, HUGE, -HUGE]
POSITIVE = st.floats(min_value=math.ulp(0.0), max_value=1e308, allow_nan=False)


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_a_number_is_an_int_or_a_float_and_nothing_else(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^size must be a finite number above 0, not "):
        number("size", value)


@pytest.mark.parametrize("value", [*NOT_FINITE, 0, 0.0, -0.0, -1, -1e-300], ids=_arguments.shown)
def test_a_number_is_finite_and_above_zero(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^size must be a finite number above 0, not "):
        number("size", value)


@pytest.mark.parametrize("value", [-1, -math.ulp(0.0), *NOT_FINITE], ids=_arguments.shown)
def test_where_zero_is_allowed_less_is_not(value: Any) -> None:
    assert number("size", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match=r"^size must be a finite number of at least 0, not "):
        number("size", value, zero=True)


def test_bounds_are_included_and_named() -> None:
    assert number("x", 2, minimum=2.0, maximum=3.0) == 2.0
    assert number("x", 3, minimum=2.0, maximum=3.0) == 3.0
    for value in (math.nextafter(2.0, 0.0), math.nextafter(3.0, 4.0), math.nan, HUGE):
        with pytest.raises(ValueError, match=r"^x must be a finite number of at least 2 and at most 3, not "):
            number("x", value, minimum=2.0, maximum=3.0)


@given(POSITIVE)
def test_a_good_number_comes_back_as_the_same_float(value: float) -> None:
    assert number("x", value) == value
    assert type(number("x", value)) is float


@given(st.integers(min_value=1, max_value=2**63))
def test_a_good_int_comes_back_as_a_float(value: int) -> None:
    assert number("x", value) == float(value)
    assert count("x", value) == value


def test_seconds_may_be_a_timedelta() -> None:
    assert seconds("wait", timedelta(minutes=1, milliseconds=500)) == 60.5
    assert seconds("wait", 0.25) == 0.25
    assert seconds("wait", timedelta(0), zero=True) == 0.0
    with pytest.raises(ValueError, match=r"^wait must be a finite number above 0, not 0\.0$"):
        seconds("wait", timedelta(0))
    with pytest.raises(ValueError, match=r"^wait must be .*, not -1\.0$"):
        seconds("wait", timedelta(seconds=-1), zero=True)


def test_optional_seconds_may_be_none() -> None:
    assert optional_seconds("wait", None) is None
    assert optional_seconds("wait", timedelta(seconds=2)) == 2.0
    assert optional_seconds("wait", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match="wait"):
        optional_seconds("wait", 0)


def test_a_ratio_is_above_zero_and_up_to_one() -> None:
    assert ratio("rate", 1) == 1.0
    assert ratio("rate", 1e-9) == 1e-9
    for value in (0, 1.0000001, -0.5, math.nan):
        with pytest.raises(ValueError, match=r"^rate must be a finite number above 0 and at most 1, not "):
            ratio("rate", value)


@pytest.mark.parametrize("value", [1.0, "1", None, True, math.nan], ids=repr)
def test_a_count_is_a_whole_number(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^size must be a whole number of at least 1, not "):
        count("size", value)


def test_a_count_has_bounds() -> None:
    assert count("size", 0, minimum=0) == 0
    assert count("size", 2**63) == 2**63
    for value, minimum in ((0, 1), (-1, 0), (2**63 + 1, 1), (HUGE, 1), (-HUGE, 0)):
        with pytest.raises(ValueError, match=rf"^size must be a whole number of at least {minimum} \(and at most 2"):
            count("size", value, minimum=minimum)


def test_a_name_is_none_or_not_empty() -> None:
    assert text("name", None) is None
    assert text("name", "payments") == "payments"
    with pytest.raises(ValueError, match=r"^name must be a non-empty string or None, not ''$"):
        text("name", "")
    with pytest.raises(TypeError, match=r"^name must be a non-empty string or None, not b'payments'$"):
        text("name", b"payments")


def test_a_function_is_none_or_callable() -> None:
    assert function("check", None) is None
    assert function("check", len) is len
    with pytest.raises(TypeError, match=r"^check must be callable or None, not 3$"):
        function("check", 3)


def test_listeners_are_a_collection_of_callables() -> None:
    assert listeners([print, len]) == (print, len)
    assert listeners(iter([print])) == (print,)
    assert listeners(()) == ()
    for wrong in (print, "abc", b"abc", None, 3):
        with pytest.raises(TypeError, match=r"^listeners must be a collection of callables taking an event, not "):
            listeners(wrong)
    with pytest.raises(TypeError, match=r"^a listener must be callable with one event, not 3$"):
        listeners([print, 3])


def test_an_asynchronous_listener_is_refused_because_nobody_would_await_it() -> None:
    async def listener(event: object) -> None:
        raise AssertionError("never awaited")

    class Listener:
        async def __call__(self, event: object) -> None:
            raise AssertionError("never awaited")

    for wrong in (listener, Listener()):
        with pytest.raises(TypeError, match=r"^a listener must be a plain function, not the asynchronous"):
            listeners([wrong])


def test_exceptions_are_one_type_or_a_tuple_of_them() -> None:
    assert exceptions("on", OSError) == (OSError,)
    assert exceptions("on", (OSError, KeyError)) == (OSError, KeyError)
    for wrong in (OSError(), KeyboardInterrupt, BaseException, int, "OSError", (OSError, 3), [OSError], None):
        with pytest.raises(TypeError, match=r"^on must be an Exception type or a tuple of them, not "):
            exceptions("on", wrong)


def test_a_wrong_value_is_shown_briefly() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    assert _arguments.shown("a" * 1000) == "'" + "a" * 59 + "…"
    assert _arguments.shown("short") == "'short'"
    assert _arguments.shown(HUGE) == f"an int of {HUGE.bit_length()} bits"
    assert _arguments.shown(-HUGE) == f"an int of {HUGE.bit_length()} bits"
    assert _arguments.shown(True) == "True"
    assert _arguments.shown(10**60) == f"1{'0' * 59}…"
    assert _arguments.shown((10**5000,)) == "a tuple whose repr raises ValueError"
    assert _arguments.shown(Broken()) == "a Broken whose repr raises RuntimeError"


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Bulkhead(0), r"^max_concurrency must be a whole number of at least 1 .*, not 0$"),
        (lambda: Bulkhead(1, max_wait=-1), r"^max_wait must be .* at least 0, not -1$"),
        (lambda: CircuitBreaker(failure_rate=1.5), r"^failure_rate must be .* at most 1, not 1\.5$"),
        (lambda: CircuitBreaker(recovery_time=math.nan), r"^recovery_time must be .*, not nan$"),
        (lambda: Keyed(lambda _: Timeout(1), str, max_keys=0), r"^max_keys must be .*, not 0$"),
        (lambda: Keyed(lambda _: Timeout(1), str, idle_ttl=math.inf), r"^idle_ttl must be .*, not inf$"),
        (lambda: RateLimiter(math.inf), r"^rate must be .*, not inf$"),
        (lambda: Retry(OSError, attempts=0), r"^attempts must be .*, not 0$"),
        (lambda: RetryBudget(ratio=-1), r"^ratio must be .*, not -1$"),
        (lambda: Timeout(0), r"^seconds must be a finite number above 0, not 0$"),
        (lambda: Timeout(1, name=""), r"^name must be .*, not ''$"),
    ],
)
def test_a_policy_refuses_a_wrong_setting_by_its_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


async def _answers(*_: object) -> bool:
    return True


_asynchronous: Any = _answers


@pytest.mark.parametrize(
    "parameter,make",
    [
        ("failure_on", lambda: CircuitBreaker(failure_on=_asynchronous)),
        ("ignore", lambda: CircuitBreaker(ignore=_asynchronous)),
        ("failure_if", lambda: CircuitBreaker(failure_if=_asynchronous)),
        ("key", lambda: RateLimiter(1, key=_asynchronous)),
        ("rate", lambda: RateLimiter(_asynchronous, key=str)),
        ("cost", lambda: RateLimiter(1, cost=_asynchronous)),
        ("charge_if", lambda: RateLimiter(1, charge_if=_asynchronous)),
        ("cost", lambda: Throttle(AsyncLimiter(1), cost=_asynchronous)),
        ("seconds", lambda: Timeout(_asynchronous)),
        ("factory", lambda: Keyed(_asynchronous, key=str)),
        ("key", lambda: Keyed(CircuitBreaker, key=_asynchronous)),
        ("on", lambda: Retry(_asynchronous)),
        ("retry_if", lambda: Retry(KeyError, retry_if=_asynchronous)),
    ],
)
def test_an_asynchronous_function_is_refused_where_its_answer_is_needed_at_once(
    parameter: str, make: Callable[[], object]
) -> None:
    """A coroutine is always true: an `async def` as `failure_if` would count every success as a failure."""
    with pytest.raises(TypeError, match=rf"^{parameter} must be a plain function, not the asynchronous"):
        make()
