"""Retry-After and the RateLimit fields: both forms are understood, whatever is absurd is ignored."""

from __future__ import annotations

import calendar
import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resilience_http.retry_after import (
    format_rate_limit,
    format_rate_limit_policy,
    format_retry_after,
    parse_http_date,
    parse_rate_limit,
    parse_retry_after,
    retry_after,
)

from resilience import clock as clock_module

NOW = 784_111_777  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110


@pytest.fixture
def in_2026(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "unix_milliseconds", lambda: calendar.timegm((2026, 6, 1, 0, 0, 0)) * 1000)


@pytest.mark.parametrize(
    "value", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_three_forms_of_a_date_are_understood(value: str, in_2026: None) -> None:
    assert parse_http_date(value) == NOW


@pytest.mark.parametrize("two_digits,year", [("76", 2076), ("77", 1977), ("00", 2000), ("26", 2026)])
def test_a_year_of_two_digits_is_at_most_fifty_years_ahead(two_digits: str, year: int, in_2026: None) -> None:
    assert parse_http_date(f"Monday, 06-Nov-{two_digits} 08:49:37 GMT") == calendar.timegm((year, 11, 6, 8, 49, 37))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "tomorrow",
        "06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun Nov    08:49:37 1994",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date_is_none(value: str) -> None:
    assert parse_http_date(value) is None


def test_a_leap_second_is_a_date() -> None:
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT") == calendar.timegm((2017, 1, 1, 0, 0, 0))


@given(st.integers(0, 4_000_000_000))
def test_a_date_written_by_the_standard_library_is_read_back(seconds: int) -> None:
    assert parse_http_date(email.utils.formatdate(seconds, usegmt=True)) == seconds


@pytest.mark.parametrize(
    "value,seconds",
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("2147483648", 2147483648.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("2147483649", None),
        ("9" * 400, None),
        ("1, 2", None),
        ("soon", None),
        ("١٢", None),
    ],
)
def test_a_number_of_seconds_counts_unless_it_is_absurd(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_a_date_is_compared_with_the_date_of_the_response_because_clocks_differ() -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", "Sun, 06 Nov 1994 08:49:37 GMT") == 30.0


@pytest.mark.parametrize("date", [None, "yesterday"])
def test_without_the_date_of_the_response_the_clock_of_this_machine_counts(
    date: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "unix_milliseconds", lambda: NOW * 1000 - 500)
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", date) == 0.5


def test_a_date_that_has_passed_asks_for_no_wait() -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0


def test_a_date_in_the_far_future_is_absurd() -> None:
    assert parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT") is None


@pytest.mark.parametrize(
    "field,members",
    [
        ('"burst";r=50;t=30', (("burst", 50, 30.0),)),
        ('"burst";r=0;t=30, "day";r=9', (("burst", 0, 30.0), ("day", 9, None))),
        ("default;r=1", (("default", 1, None),)),
        ('"a\\"b\\\\c";r=1', (('a"b\\c', 1, None),)),
        ('"p"; r=2;pk=:dGVzdA==:;x=1.5;flag;b=?1;s="q;,";tok=a/b', (("p", 2, None),)),
        ('  "p";r=2  ', (("p", 2, None),)),
        ('"p";r=1;r=2', (("p", 2, None),)),
        (None, ()),
        ("", ()),
        ('"burst"', ()),
        ('"burst";r=-1', ()),
        ('"burst";r=1.5', ()),
        ('"burst";r="1"', ()),
        ('"burst";r=1;t=-1', ()),
        ('"burst";r=1;t=x', ()),
        ('"burst";r=1;t', ()),
        ('"burst";r=1;t=999999999999', ()),
        ('"burst;r=1', ()),
        ('"burst";r=1,', ()),
        ('"burst";r=1 "x";r=2', ()),
        ('"burst";r=1;', ()),
        ("limit=100, remaining=0, reset=5", ()),
        ("5;r=1", ()),
        ('"x";r=1;y="' + "a" * 9000 + '"', ()),
    ],
)
def test_a_rate_limit_field_is_read_as_the_draft_has_it_or_ignored(
    field: str | None, members: tuple[tuple[str, int, float | None], ...]
) -> None:
    assert parse_rate_limit(field) == members


@pytest.mark.parametrize(
    "headers,seconds",
    [
        ({}, None),
        ({"Retry-After": "5"}, 5.0),
        ({"Retry-After": "5", "RateLimit": '"p";r=0;t=30'}, 5.0),
        ({"Retry-After": "soon", "RateLimit": '"p";r=0;t=30'}, 30.0),
        ({"RateLimit": '"p";r=0;t=30, "q";r=0;t=60, "s";r=1;t=99'}, 60.0),
        ({"RateLimit": '"p";r=1;t=30'}, None),
        ({"RateLimit": '"p";r=0'}, None),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "9"}, 9.0),
        ({"RateLimit-Remaining": "1", "RateLimit-Reset": "9"}, None),
        ({"RateLimit-Remaining": "0"}, None),
        ({"RateLimit-Remaining": "0", "RateLimit-Reset": "Sun, 06 Nov 1994 08:49:37 GMT"}, None),
        ({"Retry-After": "Sun, 06 Nov 1994 08:50:07 GMT", "Date": "Sun, 06 Nov 1994 08:49:37 GMT"}, 30.0),
    ],
)
def test_retry_after_goes_before_the_rate_limit_fields(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers.get) == seconds


@given(st.text())
def test_no_text_from_outside_breaks_the_parsers(text: str) -> None:
    parse_retry_after(text, text)
    parse_rate_limit(text)
    retry_after(lambda _: text)


def test_a_long_hostile_field_takes_no_time_to_speak_of() -> None:
    for field in ('"' * 8000, '"a";' * 2000, "a" * 8000 + "!", '"a";r=1,' * 1000, " " * 8192, '"a"' + "; " * 4000):
        assert parse_rate_limit(field) == ()


@pytest.mark.parametrize(
    "seconds,value", [(0.0, "0"), (0.001, "1"), (5.0, "5"), (5.1, "6"), (-1.0, "0"), (1e300, "2147483648")]
)
def test_a_written_retry_after_is_rounded_up(seconds: float, value: str) -> None:
    assert format_retry_after(seconds) == value


def test_written_rate_limit_fields_are_those_of_the_draft() -> None:
    assert format_rate_limit("burst", 50.9, 29.2) == '"burst";r=50;t=30'
    assert format_rate_limit("burst", -1) == '"burst";r=0'
    assert format_rate_limit_policy("burst", 100, 60.0) == '"burst";q=100;w=60'
    assert format_rate_limit_policy("burst", 2.5, 0.1) == '"burst";q=2;w=1'


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_written_rate_limit_is_read_back(name: str, remaining: int, reset: int) -> None:
    assert parse_rate_limit(format_rate_limit(name, remaining, reset)) == ((name, remaining, float(reset)),)


def test_a_policy_name_cannot_break_out_of_its_field() -> None:
    assert format_rate_limit('a"\r\nSet-Cookie: x\u20ac', 1) == '"a\\"??Set-Cookie: x?";r=1'
