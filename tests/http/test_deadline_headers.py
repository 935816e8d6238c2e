"""Deadlines as headers: what parses, what does not, and which way they are rounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resilience_http.deadlines import (
    format_grpc_timeout,
    format_timeout_ms,
    nearest_timeout,
    parse_grpc_timeout,
    parse_timeout_ms,
)


@pytest.mark.parametrize(
    "value,seconds",
    [
        ("1500", 1.5),
        (" 20 ", 0.02),
        ("0", 0.0),
        ("999999999999999", 999999999999.999),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("١٢", None),
        ("1" * 16, None),
        ("1" * 10_000, None),
        ("10, 20", None),
    ],
)
def test_a_timeout_in_milliseconds_parses_or_is_ignored(value: str | None, seconds: float | None) -> None:
    assert parse_timeout_ms(value) == seconds


@pytest.mark.parametrize(
    "value,seconds",
    [
        ("1H", 3600.0),
        ("2M", 120.0),
        ("3S", 3.0),
        ("1500m", 1.5),
        ("1u", 1e-6),
        ("1n", 1e-9),
        ("0S", 0.0),
        ("99999999H", 99999999 * 3600.0),
        (None, None),
        ("", None),
        ("5", None),
        ("S", None),
        ("5s", None),
        ("-5S", None),
        ("1.5S", None),
        ("123456789S", None),
        ("5 S", None),
        ("5SS", None),
    ],
)
def test_a_grpc_timeout_parses_or_is_ignored(value: str | None, seconds: float | None) -> None:
    assert parse_grpc_timeout(value) == seconds


@pytest.mark.parametrize(
    "milliseconds,grpc,seconds",
    [
        (None, None, None),
        ("100", None, 0.1),
        (None, "1S", 1.0),
        ("100", "1S", 0.1),
        ("2000", "1S", 1.0),
        ("x", "y", None),
    ],
)
def test_the_nearer_of_two_deadlines_counts(milliseconds: str | None, grpc: str | None, seconds: float | None) -> None:
    assert nearest_timeout(milliseconds, grpc) == seconds


@given(st.floats(0.0, 1e11))
def test_a_written_timeout_is_never_longer_and_at_most_a_millisecond_shorter(seconds: float) -> None:
    written = parse_timeout_ms(format_timeout_ms(seconds))
    assert written is not None
    assert written <= seconds * (1 + 1e-15)
    assert written >= seconds * (1 - 1e-15) - 0.001


@given(st.floats(0.0, 1e11))
def test_a_written_grpc_timeout_is_never_longer_and_precise_to_five_digits(seconds: float) -> None:
    text = format_grpc_timeout(seconds)
    written = parse_grpc_timeout(text)
    assert len(text) <= 9
    assert written is not None
    assert written <= seconds * (1 + 1e-15)
    assert written >= seconds * (1 - 1.1e-5) - 1.1e-9


@pytest.mark.parametrize(
    "seconds,milliseconds,grpc",
    [
        (-1.0, "0", "0n"),
        (0.0, "0", "0n"),
        (0.0015, "1", "1500000n"),
        (float("inf"), "999999999999999", "99999999H"),
        (1e300, "999999999999999", "99999999H"),
    ],
)
def test_the_ends_of_the_range_are_written_as_valid_headers(seconds: float, milliseconds: str, grpc: str) -> None:
    assert format_timeout_ms(seconds) == milliseconds
    assert format_grpc_timeout(seconds) == grpc
