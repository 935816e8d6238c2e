"""The examples run, in virtual time, and show what they say they show."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from resilience.testing import ManualClock, run

ROOT = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "__init__")
EXPECTED: dict[str, list[str]] = {
    "http_client": [
        "prices: 42 after 3 requests",
        "order: 503 after 1 request",
        "stock: HTTPCircuitOpenError - and httpx knows it too: True",
        "the server was asked 16 times in place of 300, always for cart-7",
    ],
    "pooled_tasks": [
        "35 answers, each to its own question: True",
        "in use: 0 and never more than 3",
        "left open: 0",
    ],
    "pooled_threads": [
        "40 {'HELLO'} over three connections or fewer: True",
        "the server hung up at 'bye'",
        "STILL THERE?",
        "left open: 0",
    ],
    "asgi_fastapi": [
        *["login: 200 -"] * 2,
        "login: 429 30",
        *["stock: 500 order-7"] * 2,
        "stock: 503 order-7",
        "slow: 504 Gateway Timeout",
        "expired: 504 application/problem+json",
    ],
    "asgi_litestar": [
        'first 200 "client";r=1;t=40',
        'second 503 "client";r=1;t=40',
        '200 "client";r=0;t=20 -',
        '429 "client";r=0;t=20 20',
    ],
    "asgi_service": [
        *["ada: 200"] * 2,
        "ada: 429 30",
        "bob: 200",
        "logged: order-7 asking the warehouse for late",
        "late: 504",
        "ready: 200, then 503",
        "shut down: 503 close",
    ],
    "asgi_starlette": [
        "ready: 200",
        "/events: 200 2 ticks",
        "refused: 503 Connection: close",
        "alive: 200",
        "ready: 503",
        "/work: 200 done",
        "in flight: 0",
    ],
    "standard_pipeline": [
        "at worst: 20.0 seconds",
        "attempt 1",
        "attempt 2",
        "attempt 3",
        "attempt 4",
        "answer: {'order': 42}",
    ],
    "streaming": [
        "[0, 1, 2, 3]",
        "left at 0",
        "[0, 1] then feed: the call took longer than 5 s and was cut off",
        "[0, 1] then feed: the call took longer than 5 s and was cut off",
        "[] then feed: the circuit is open; retry after",
        "the breaker is open",
    ],
    "tenants": [
        "  acme: come back in 0.1 s",
        "acme: 10 of 12",
        "  pond: come back in 0.5 s",
        "pond: 2 of 12",
        "staff: 12 of 12",
        *["ConnectionError: down.example", "page of up.example"] * 2,
        "CircuitOpenError: down.example",
        "page of up.example",
    ],
    "worker_threads": [
        "jobs: 40 for {'request-7'}",
        "never more than three at a time: True",
        "left in use: 0",
    ],
}


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """What is logged; it is not for the terminal."""
    with structlog.testing.capture_logs() as logs:
        yield logs


# What really connects takes as long as that takes.
CONNECTING = {"pooled_tasks", "pooled_threads"}


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - CONNECTING))
def test_an_example_prints_what_it_shows(
    name: str, clock: ManualClock, capsys: pytest.CaptureFixture[str], logs: list[Any]
) -> None:
    main = importlib.import_module(f"examples.{name}").main
    run(main()) if inspect.iscoroutinefunction(main) else main()
    it_was_printed(name, capsys)


@pytest.mark.parametrize("name", sorted(CONNECTING))
def test_an_example_that_connects_prints_what_it_shows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"examples.{name}").main
    asyncio.run(main()) if inspect.iscoroutinefunction(main) else main()
    it_was_printed(name, capsys)


def it_was_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(EXPECTED[name])
    for line, start in zip(printed, EXPECTED[name], strict=True):
        assert line.startswith(start)


VIRTUAL_TIME = [
    fn for name, fn in vars(importlib.import_module("examples.virtual_time")).items() if name.startswith("test_")
]


@pytest.mark.parametrize("test", VIRTUAL_TIME, ids=lambda test: test.__name__)
def test_the_tests_that_are_an_example_pass(test: Callable[[], None]) -> None:
    test()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_says_how_to_run_it_and_is_run_here(name: str) -> None:
    source = (ROOT / f"{name}.py").read_text("utf-8")
    assert len(source.splitlines()) < 80
    assert f"python -m examples.{name}" in source or f"python -m pytest examples/{name}.py" in source
    # Those have tests of their own, one in itself and two with a real server.
    assert name in EXPECTED or name in {"virtual_time", "two_instances", "redis_secured"}
