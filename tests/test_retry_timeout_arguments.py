"""What Retry and Timeout refuse at construction: every mistake names its parameter."""

from __future__ import annotations

import asyncio
import math
import random
from datetime import timedelta
from typing import Any

import pytest
import tenacity
import tenacity.asyncio

from resilience import Retry, Timeout


async def asynchronous(*args: Any) -> bool:
    return False


class Asynchronous:
    """An object with an async `__call__`."""

    async def __call__(self, *args: Any) -> bool:
        return False


NOT_FUNCTIONS = [0, 1.5, "x", True, [], object()]
NOT_COUNTS = [0, -1, 10**400, True, False, 1.5, math.nan, "3", None]
NOT_SECONDS = [-1, -0.001, math.nan, math.inf, -math.inf, True, "3", 10**400, -(10**400), timedelta(seconds=-1), [1]]

BAD_RETRIES: dict[str, list[Any]] = {
    "on": [
        *(None, 5, "OSError", OSError(), True, BaseException, KeyboardInterrupt, asyncio.CancelledError, int),
        *((OSError, KeyboardInterrupt), (OSError, 5), [OSError], asynchronous, Asynchronous()),
        tenacity.asyncio.retry_if_exception(asynchronous),
        tenacity.retry_any(tenacity.retry_never, tenacity.asyncio.retry_if_result(asynchronous)),
    ],
    "attempts": NOT_COUNTS,
    "wait": [*NOT_FUNCTIONS, None, asynchronous],
    "stop": [*NOT_FUNCTIONS, asynchronous, Asynchronous()],
    "retry_if": [*NOT_FUNCTIONS, asynchronous],
    "retry_after": [*NOT_FUNCTIONS, asynchronous],
    "retry_after_limit": [*NOT_SECONDS, None],
    "budget": [0.2, True, "budget", object()],
    "retry_rejections": [0, 1, None, "yes"],
    "before_retry": NOT_FUNCTIONS,
    "name": ["", 5, b"name", True],
    "clock": [0, "now", object()],
    "rng": [random, 5, lambda: 0.5],
    "listeners": [5, "abc", [5], None],
}
BAD_TIMEOUTS: dict[str, list[Any]] = {
    "seconds": [*NOT_SECONDS, 0, 0.0, -0.0, timedelta(0)],
    "abandon": [0, 1, None, "yes"],
    "max_abandoned": NOT_COUNTS,
    "name": ["", 5],
    "clock": [0, "now"],
    "listeners": [5, "abc", [5], None],
}


PATTERNS = {"listeners": "listener"}  # the message may be about one of them


def flat(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{i}") for name, values in table.items() for i, value in enumerate(values)
    ]


@pytest.mark.parametrize("name,value", flat(BAD_RETRIES))
def test_retry_refuses_a_mistake_and_names_the_parameter(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"on": OSError, name: value}
    with pytest.raises((TypeError, ValueError), match=PATTERNS.get(name, name)) as caught:
        Retry(**arguments)
    assert len(str(caught.value)) < 300
    if name != "clock":
        with pytest.raises((TypeError, ValueError), match=PATTERNS.get(name, name)):
            Retry(OSError).with_(**{name: value})


@pytest.mark.parametrize("name,value", flat(BAD_TIMEOUTS))
def test_timeout_refuses_a_mistake_and_names_the_parameter(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"seconds": 5, name: value}
    with pytest.raises((TypeError, ValueError), match=PATTERNS.get(name, name)) as caught:
        Timeout(**arguments)
    assert len(str(caught.value)) < 300
    if name in {"seconds", "abandon", "name", "listeners"}:
        with pytest.raises((TypeError, ValueError), match=PATTERNS.get(name, name)):
            Timeout(5).with_(**{name: value})


def test_on_has_no_default() -> None:
    with pytest.raises(TypeError, match="on"):
        Retry()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def test_what_may_be_left_out_may_be_none() -> None:
    retry = Retry(OSError, stop=None, retry_if=None, retry_after=None, budget=None, before_retry=None, rng=None)
    assert retry.name is None
    assert Timeout(None).seconds is None


@pytest.mark.parametrize("seconds,expected", [(1, 1.0), (0.25, 0.25), (timedelta(minutes=1), 60.0), (5e-324, 5e-324)])
def test_seconds_may_be_a_number_or_a_timedelta(seconds: Any, expected: float) -> None:
    assert Timeout(seconds).seconds == expected


def test_a_retry_admits_nothing_by_itself_and_says_how_to_repeat_a_block() -> None:
    with pytest.raises(
        TypeError, match=r"^Retry has no guard\(\), .* write `for attempt in retry:` .* `with attempt:`$"
    ):
        Retry(OSError).guard()
    with pytest.raises(TypeError, match=r"^Retry does not admit calls$"):
        Retry(OSError).admit()
