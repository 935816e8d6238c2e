"""Correlation ids: how they are made, checked, bound, carried into threads and written to logs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import queue
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from typing import Any

import pytest
import structlog
import tenacity
from hypothesis import example, given
from hypothesis import strategies as st

from resilience import (
    CorrelationFilter,
    Retry,
    Timeout,
    add_correlation,
    attempt_id,
    attempt_number,
    bind,
    bound,
    carried,
    clock,
    correlation_id,
    deadline,
    new_id,
    unbind,
)
from resilience.correlation import _ends, valid_id
from resilience.testing import ManualClock, run
from tests.conftest import Colour

SAFE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~:/+=@"
UNACCEPTABLE: list[Any] = [
    "",
    "a" * 129,
    "x" * 10_000,
    "id\r\nSet-Cookie: admin=1",
    "id\n",
    "\nid",
    "id\r",
    "id\x00",
    "two words",
    "tab\tbed",
    "naïve",
    "\u0131d",
    "\uff11\uff12",
    "\u202eid",
    'quo"te',
    "back\\slash",
    "<script>",
    "semi;colon",
    "comma,",
    "{}",
    "%0d%0a",
    b"bytes",
    123,
    ["id"],
    uuid.UUID(int=7),
]


# --- new ids ---------------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=2**48 - 1), st.integers(min_value=0, max_value=2**80 - 1))
@example(2**48 - 1, 2**80 - 1)
@example(0, 0xABC << 64)
def test_a_new_id_is_a_uuid_of_version_7_in_32_lower_case_digits(milliseconds: int, chance: int) -> None:
    """RFC 9562, section 5.7: 48 bits of milliseconds, the version, 12 bits, the variant, 62 bits."""
    _ends.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "unix_milliseconds", lambda: milliseconds)
        patch.setattr("os.urandom", lambda size: chance.to_bytes(10) * (size // 10))
        identity = new_id()
    _ends.clear()
    assert re.fullmatch(r"[0-9a-f]{32}", identity)
    parsed = uuid.UUID(hex=identity)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == milliseconds
    assert (parsed.int >> 64 & 0xFFF, parsed.int & 2**62 - 1) == (chance >> 64 & 0xFFF, chance & 2**62 - 1)


def test_every_new_id_has_chance_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "unix_milliseconds", lambda: 1)
    assert len({new_id() for _ in range(1000)}) == 1000


def test_a_new_id_carries_the_calendar_time_and_sorts_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = clock.unix_milliseconds()
    stamp = int(new_id()[:12], 16)
    assert before <= stamp <= clock.unix_milliseconds()
    times = iter([1, 2, 1000, 2**40, 2**48 - 1])
    monkeypatch.setattr(clock, "unix_milliseconds", lambda: next(times))
    ids = [new_id() for _ in range(5)]
    assert ids == sorted(ids)


def test_a_time_beyond_48_bits_does_not_spoil_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "unix_milliseconds", lambda: 2**48 + 5)
    identity = new_id()
    assert len(identity) == 32
    assert (uuid.UUID(hex=identity).version, int(identity[:12], 16)) == (7, 5)


def test_new_ids_differ_and_are_valid_trace_ids() -> None:
    """W3C Trace Context: 32 lower-case hexadecimal digits, not all of them zero."""
    ids = {new_id() for _ in range(2000)}
    assert len(ids) == 2000
    assert all(re.fullmatch(r"(?!0{32})[0-9a-f]{32}", identity) and valid_id(identity) for identity in ids)


# --- binding ---------------------------------------------------------------------------------------------------------


def test_outside_any_work_there_is_no_id() -> None:
    assert correlation_id() is None
    assert attempt_id() is None
    assert attempt_number() == 1


def test_an_id_is_bound_until_it_is_unbound() -> None:
    outer = bind("outer")
    inner = bind("inner")
    assert correlation_id() == "inner"
    unbind(inner)
    assert correlation_id() == "outer"
    unbind(outer)
    assert correlation_id() is None


def test_an_id_is_bound_for_a_block_whatever_leaves_it() -> None:
    with bound("outer") as outer:
        with pytest.raises(KeyError), bound("inner") as inner:
            assert (outer, inner, correlation_id()) == ("outer", "inner", "inner")
            raise KeyError
        assert correlation_id() == "outer"
    assert correlation_id() is None


def test_binding_nothing_makes_a_new_id() -> None:
    with bound() as first, bound() as second:
        assert first != second
        assert re.fullmatch(r"[0-9a-f]{32}", second)
        assert correlation_id() == second


@given(st.text(alphabet=SAFE, min_size=1, max_size=128))
def test_a_safe_id_from_outside_is_kept(identity: str) -> None:
    assert valid_id(identity)
    with bound(identity) as kept:
        assert kept == correlation_id() == identity


def test_an_id_has_at_most_128_characters() -> None:
    assert [valid_id("a" * length) for length in (1, 127, 128, 129)] == [True, True, True, False]


@pytest.mark.parametrize("candidate", UNACCEPTABLE, ids=lambda value: repr(value)[:24])
def test_an_unacceptable_id_is_replaced_and_never_echoed(candidate: Any) -> None:
    assert not valid_id(candidate)
    with bound(candidate) as replacement:
        assert re.fullmatch(r"[0-9a-f]{32}", replacement)
        assert correlation_id() == replacement
        assert str(attempt_id()) == f"{replacement}-1"


@given(st.text(max_size=200))
def test_whatever_comes_from_outside_the_id_in_force_is_safe(candidate: str) -> None:
    with bound(candidate) as identity:
        assert 1 <= len(identity) <= 128
        assert set(identity) <= set(SAFE)
        assert (identity == candidate) == valid_id(candidate)


def test_attempts_share_the_id_and_differ_in_their_own(colour: Colour) -> None:
    seen: list[tuple[str | None, str | None, int]] = []

    def body() -> None:
        seen.append((correlation_id(), attempt_id(), attempt_number()))
        raise OSError

    guarded = colour.guarded(Retry(OSError, attempts=3, wait=tenacity.wait_none()), body)
    with bound("request"), pytest.raises(OSError):
        guarded()
    assert seen == [("request", f"request-{number}", number) for number in (1, 2, 3)]
    assert attempt_number() == 1


# --- threads and tasks -----------------------------------------------------------------------------------------------


def in_thread(fn: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fn).result()


def test_another_thread_knows_the_id_only_if_it_is_carried_there() -> None:
    with bound("request"):
        assert in_thread(correlation_id) is None
        assert in_thread(carried(correlation_id)) == "request"


def test_a_carried_function_keeps_the_moment_it_was_made_in(clock: ManualClock) -> None:
    with bound("then"), Timeout(5.0).guard():
        look = carried(lambda: (correlation_id(), deadline.remaining()))
    with bound("now"):
        assert in_thread(look) == ("then", 5.0)
        assert look() == ("then", 5.0)
        assert correlation_id() == "now"


def test_a_carried_function_takes_arguments_returns_and_raises() -> None:
    def body(a: int, *, b: int) -> int:
        """What it does."""
        if b == 0:
            raise ZeroDivisionError
        return a // b

    run_there = carried(body)
    assert (run_there.__name__, run_there.__doc__) == ("body", "What it does.")
    assert run_there(7, b=2) == 3
    with pytest.raises(ZeroDivisionError):
        run_there(7, b=0)


def test_a_carried_function_runs_in_several_threads_at_once_and_they_do_not_meet() -> None:
    """One context object can be entered by one thread at a time: each call needs a copy."""
    barrier = threading.Barrier(4)

    def body(number: int) -> tuple[str | None, str | None]:
        before = correlation_id()
        bind(f"thread-{number}")
        barrier.wait(10)
        return before, correlation_id()

    with bound("request"):
        run_there = carried(body)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(run_there, range(4)))
    assert results == [("request", f"thread-{number}") for number in range(4)]


def test_what_does_not_run_when_it_is_called_cannot_be_carried() -> None:
    """The body of a coroutine function would silently run in the context of the task that awaits it."""

    async def coroutine_function() -> None: ...

    def generator_function() -> Iterator[int]:
        yield 1

    @contextmanager
    def manager() -> Iterator[int]:
        yield 1

    for wrong in (coroutine_function, generator_function):
        with pytest.raises(
            TypeError, match=rf"^carried takes plain functions: the body of .*{wrong.__name__} does not"
        ):
            carried(wrong)
    with pytest.raises(TypeError, match="context manager function"):
        carried(manager)
    with pytest.raises(TypeError, match=r"^carried needs a callable, not 3$"):
        carried(3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert carried(dict)(a=1) == {"a": 1}


def test_tasks_and_asyncio_threads_inherit_the_id_and_what_they_bind_stays_theirs() -> None:
    """Bindings made in a sync function that a framework runs in a worker thread are lost for the request (H2)."""

    def sync_dependency() -> tuple[str | None, str | None]:
        before = correlation_id()
        bind("in the worker"[:2])
        return before, correlation_id()

    async def task() -> tuple[str | None, str | None]:
        return sync_dependency()

    async def main() -> list[Any]:
        with bound("request"):
            seen = [await asyncio.to_thread(sync_dependency), await asyncio.create_task(task())]
            with ThreadPoolExecutor(1) as pool:
                loop = asyncio.get_running_loop()
                seen.append(await loop.run_in_executor(pool, carried(sync_dependency)))
                seen.append(await loop.run_in_executor(pool, sync_dependency))
            return [*seen, correlation_id()]

    assert run(main()) == [("request", "in")] * 3 + [(None, "in"), "request"]


# --- logs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def logger() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(CorrelationFilter())
    handler.setFormatter(logging.Formatter("%(correlation_id)s %(message)s"))
    logger = logging.getLogger("tests.correlation")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield logger, stream
    logger.handlers.clear()
    handler.close()


def test_records_of_the_standard_library_carry_the_id(logger: tuple[logging.Logger, io.StringIO]) -> None:
    log, stream = logger
    log.info("outside")

    async def work(name: str) -> None:
        with bound(name):
            await asyncio.sleep(0)
            log.info("in a task")
            await asyncio.to_thread(log.info, "in its thread")

    async def main() -> None:
        await asyncio.gather(work("a"), work("b"))

    asyncio.run(main())
    with bound("c"):
        in_thread(carried(lambda: log.info("in a thread")))
        in_thread(lambda: log.info("in a stranger"))
    lines = stream.getvalue().splitlines()
    assert (lines[0], lines[-2:]) == ("- outside", ["c in a thread", "- in a stranger"])
    assert sorted(lines[1:-2]) == ["a in a task", "a in its thread", "b in a task", "b in its thread"]


def test_a_record_keeps_its_id_on_the_way_through_a_queue(logger: tuple[logging.Logger, io.StringIO]) -> None:
    """The filter of the last handler, in the listener's thread, once wrote "-" over the id of the first."""
    log, stream = logger
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    first = QueueHandler(records)
    first.addFilter(CorrelationFilter())
    last = log.handlers.pop()
    log.addHandler(first)
    listener = QueueListener(records, last)
    listener.start()
    with bound("request"):
        log.info("queued")
    log.info("set by hand", extra={"correlation_id": "mine"})
    listener.stop()
    first.close()
    assert stream.getvalue().splitlines() == ["request queued", "mine set by hand"]


def test_structlog_events_carry_the_id_unless_the_caller_set_one() -> None:
    stream = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(stream), processors=[add_correlation, structlog.processors.JSONRenderer()]
    )
    log.info("outside")
    with bound("request"):
        log.info("inside")
        log.info("by hand", correlation_id="mine")
        in_thread(carried(lambda: log.info("thread")))
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "outside"},
        {"event": "inside", "correlation_id": "request"},
        {"event": "by hand", "correlation_id": "mine"},
        {"event": "thread", "correlation_id": "request"},
    ]
