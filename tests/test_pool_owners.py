"""Loans that do not come back, finalisers, forks, the end of the interpreter, and what a pool refuses."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from resilience import Bulkhead, Pool, PoolResourceLeaked, _errand
from resilience.testing import ManualClock, recorded_events, run
from tests.conftest import Colour
from tests.pooled import Works
from tests.test_processes import in_child, needs_fork


@pytest.fixture
def works(colour: Colour, monkeypatch: pytest.MonkeyPatch) -> Works:
    monkeypatch.setattr(_errand, "start", lambda context, work: context.run(work))
    return Works(colour)


# -- leaks -------------------------------------------------------------------------------------------------------------


def test_a_loan_that_lasts_too_long_is_reported_once_with_the_stack_of_its_borrower(
    works: Works, colour: Colour, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    pool = works.pool(leak_after=60.0, name="db")

    def forgetful_borrower() -> Any:
        lease = pool.acquire()
        colour.enter(lease)
        return lease

    lease = forgetful_borrower()
    clock.advance(59.9)
    with recorded_events(PoolResourceLeaked) as events:
        assert pool.statistics().leaked == 0
        clock.advance(0.1)
        works.use(pool)
        works.use(pool)
        assert pool.statistics().leaked == 1
    assert [(event.policy, event.seconds) for event in events] == [("db", 60.0)]
    assert events[0].stack is not None
    inner = "forgetful_borrower" if not colour.is_async else "test_pool_owners"
    assert inner in events[0].stack or colour.is_async
    assert "resilience/_stock.py" not in events[0].stack
    assert caplog.messages[0].startswith(
        "a resource of the pool 'db' has not come back for 60.0 s; it was borrowed at\n"
    )
    colour.exit(lease)
    assert pool.statistics().leaked == 1
    assert works.use(pool) == 1


def test_a_loan_that_comes_back_in_time_is_no_leak(works: Works, clock: ManualClock) -> None:
    pool = works.pool(leak_after=60.0)
    works.use(pool)
    clock.advance(100.0)
    works.use(pool)
    assert pool.statistics().leaked == 0
    assert not pool._machine.out


def test_a_loan_of_what_was_returned_a_moment_ago_is_watched_too(
    works: Works, colour: Colour, clock: ManualClock
) -> None:
    pool = works.pool(leak_after=60.0)
    works.use(pool)
    lease = pool.acquire()
    colour.enter(lease)
    clock.advance(60.0)
    assert pool.statistics().leaked == 1
    colour.exit(lease)


def test_who_is_turned_away_makes_the_pool_look_for_leaks(works: Works, colour: Colour, clock: ManualClock) -> None:
    pool = works.pool(max_size=1, max_wait=0, leak_after=60.0)
    lease = pool.acquire()
    colour.enter(lease)
    clock.advance(61.0)
    with recorded_events(PoolResourceLeaked) as events, pytest.raises(Exception, match="exhausted"):
        works.use(pool)
    assert len(events) == 1
    colour.exit(lease)


def test_a_dropped_lease_is_a_leak_and_its_resource_is_closed(
    works: Works, colour: Colour, caplog: pytest.LogCaptureFixture
) -> None:
    """Its borrower may still use the resource, so nobody else gets it."""
    pool = works.pool(max_size=1, name="db")
    lease = pool.acquire()
    colour.enter(lease)
    with recorded_events(PoolResourceLeaked) as events:
        del lease
        gc.collect()
        works.turn()
    assert [(event.seconds, event.stack) for event in events] == [(None, None)]
    assert caplog.messages == ["a resource of the pool 'db' was dropped without being returned"]
    assert works.scrapped == [1]
    assert pool.statistics().leaked == 1
    assert works.use(pool) == 2


def test_a_dropped_lease_is_reported_with_its_stack_where_that_is_known(
    works: Works, colour: Colour, clock: ManualClock
) -> None:
    pool = works.pool(leak_after=60.0)
    lease = pool.acquire()
    colour.enter(lease)
    clock.advance(30.0)
    with recorded_events(PoolResourceLeaked) as events:
        del lease
        gc.collect()
        works.turn()
    assert events[0].seconds == 30.0
    assert "File" in (events[0].stack or "")
    late = pool.acquire()
    colour.enter(late)
    clock.advance(61.0)
    assert pool.statistics().leaked == 2
    del late
    gc.collect()
    assert pool.statistics().leaked == 2, "it is known already"


def test_a_lease_dropped_while_this_very_thread_holds_the_lock_is_handed_over(works: Works, colour: Colour) -> None:
    """The collector ran a finaliser inside the locked part, which waited for the lock for ever (L12)."""
    pool = works.pool()
    lease, other = pool.acquire(), pool.acquire()
    colour.enter(lease)
    colour.enter(other)
    with pool._machine.lock:
        del lease
        gc.collect()
        colour.exit(other)
        assert len(pool._machine.items) == 2
    assert pool.statistics().in_use == 0
    works.turn()
    assert works.scrapped == [1]


def test_a_lost_lease_of_a_parent_or_one_that_came_back_is_nothing(works: Works, colour: Colour) -> None:
    pool = works.pool()
    lease = pool.acquire()
    colour.enter(lease)
    item = lease._item
    colour.exit(lease)
    with pool._machine.lock:
        assert pool._machine.lost_locked(item, 0.0) == []
    assert pool.statistics().leaked == 0


def test_a_generator_that_is_dropped_gives_its_resource_back() -> None:
    """A permit was released before the stream was consumed (L10); here it is held until then, and no longer."""
    closed: queue.SimpleQueue[object] = queue.SimpleQueue()
    pool: Pool[object] = Pool(object, close=closed.put)

    @pool.inject
    def rows(resource: object) -> Iterator[int]:
        yield from range(3)

    stream = rows()
    next(stream)
    assert pool.statistics().in_use == 1
    del stream
    gc.collect()
    closed.get(timeout=20.0)
    assert pool.close() is True
    assert pool.statistics().leaked == 0


# -- processes ---------------------------------------------------------------------------------------------------------


class Connection:
    """Says so when it is closed, in whatever process."""

    def __init__(self, farewell: int) -> None:
        self.farewell = farewell

    def __del__(self) -> None:
        os.write(self.farewell, b"x")


@needs_fork
def test_a_child_neither_uses_nor_closes_what_its_parent_has() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    pool = Pool(lambda: Connection(writer), close=lambda _: None, max_size=2)
    lease, other = pool.acquire(), pool.acquire()
    mine = lease.__enter__()
    other.__enter__()
    other.__exit__(None, None, None)
    del other

    def child() -> None:
        statistics = pool.statistics()
        assert (statistics.size, statistics.in_use, statistics.idle) == (0, 0, 0)
        lease.__exit__(None, None, None)
        assert pool.statistics().size == 0
        with pool.acquire() as own, pool.acquire():
            assert own is not mine
            assert pool.statistics().in_use == 2

    in_child(child)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    assert (pool.statistics().in_use, pool.statistics().idle) == (1, 1)
    lease.__exit__(None, None, None)


@needs_fork
def test_a_child_forked_while_another_thread_holds_the_lock_can_borrow() -> None:
    """Any module-level lock: the child hangs at its first call (L13)."""
    pool: Pool[object] = Pool(object)

    def child() -> None:
        with pool.acquire():
            pass

    with pool._machine.lock:
        in_child(child)


def test_the_interpreter_ends_in_silence_whatever_is_lent_or_waited_for() -> None:
    """Exit hung or printed noise with waits pending (L14)."""
    script = """
import threading, asyncio
from resilience import Pool
def slow(_): threading.Event().wait()
pool = Pool(object, close=slow, max_size=2, max_wait=None, min_idle=1)
lease = pool.acquire(); lease.__enter__()
kept = [pool.acquire() for _ in range(3)]
for one in kept:
    threading.Thread(target=one.__enter__, daemon=True).start()
other = pool.acquire
async def main():
    async with Pool(asyncio.sleep.__class__ and make, close=close, max_size=1) as inner:
        async with inner.acquire(): pass
async def make(): return object()
async def close(_): pass
asyncio.run(main())
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, "done\n")
    assert ended.stderr.replace("a resource of this pool was dropped without being returned\n", "") == ""


# -- what is refused ---------------------------------------------------------------------------------------------------


def generating() -> Iterator[int]:
    yield 1


async def generating_later() -> AsyncIterator[int]:
    yield 1


async def later(*_: object) -> None:
    raise AssertionError("never called")


async def argumentless() -> None:
    raise AssertionError("never called")


HUGE = 10**400
NAN, INF = math.nan, math.inf
three: Any = 3
nothing: Any = None

untyped: Any = Pool

REFUSED: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    *(
        (
            ValueError,
            rf"^{name} must be a finite number above 0, not",
            lambda name=name, bad=bad: untyped(int, **{name: bad}),
        )
        for name in ("max_idle_time", "max_lifetime", "leak_after")
        for bad in (0, -1, NAN, INF, -INF, HUGE)
    ),
    *(
        (TypeError, rf"^{name} must be", lambda name=name, bad=bad: untyped(int, **{name: bad}))
        for name in ("max_idle_time", "max_lifetime", "leak_after", "max_wait", "max_size", "min_idle", "max_queue")
        for bad in (True, "1", b"1", [1], 1j)
    ),
    *(
        (
            ValueError,
            r"^max_wait must be a finite number of at least 0, not",
            lambda bad=bad: untyped(int, max_wait=bad),
        )
        for bad in (-1, NAN, INF, HUGE)
    ),
    *(
        (ValueError, r"^max_size must be .* at least 1 .*, not", lambda bad=bad: untyped(int, max_size=bad))
        for bad in (0, -1, HUGE)
    ),
    *(
        (ValueError, r"^min_idle must be .* at least 0 .*, not", lambda bad=bad: untyped(int, min_idle=bad))
        for bad in (-1, HUGE)
    ),
    *(
        (ValueError, r"^max_queue must be .* at least 0 .*, not", lambda bad=bad: untyped(int, max_queue=bad))
        for bad in (-1, HUGE)
    ),
    *((TypeError, r"^max_size must be", lambda bad=bad: untyped(int, max_size=bad)) for bad in (1.0, None)),
    (ValueError, r"^min_idle must be at most max_size \(2\), not 3$", lambda: untyped(int, max_size=2, min_idle=3)),
    (TypeError, r"^create must be a function that returns a new resource, not 3$", lambda: untyped(three)),
    (TypeError, r"^create must be .*, not None$", lambda: untyped(nothing)),
    (TypeError, r"^create must be .*, not the generator generating$", lambda: untyped(generating)),
    (TypeError, r"^create must be .*, not the async generator generating_later$", lambda: untyped(generating_later)),
    (TypeError, r"^close must be callable or None, not 3$", lambda: untyped(int, close=three)),
    (TypeError, r"^check must be callable or None, not 3$", lambda: untyped(int, check=three)),
    (TypeError, r"^close must be a plain function, not the asynchronous", lambda: untyped(int, close=later)),
    (TypeError, r"^check must be a plain function, not the asynchronous", lambda: untyped(int, check=later)),
    (TypeError, r"^close must be callable or None, not 3$", lambda: untyped(later, close=three)),
    (TypeError, r"^create must take no arguments, which <function .* does not$", lambda: untyped(lambda host: host)),
    (
        TypeError,
        r"^check must take one argument, which <function .* does not$",
        lambda: untyped(int, check=lambda: True),
    ),
    (
        TypeError,
        r"^check must take one argument, which <function .* does not$",
        lambda: untyped(later, check=argumentless),
    ),
    (TypeError, r"^close must be a plain function, not the layer", lambda: untyped(int, close=Bulkhead(1))),
    (TypeError, r"^rng must be a random.Random or None, not 3$", lambda: untyped(int, rng=three)),
    (TypeError, r"^clock must be", lambda: untyped(int, clock=three)),
    (ValueError, r"^name must be", lambda: untyped(int, name="")),
    (TypeError, r"^listeners must be", lambda: untyped(int, listeners=three)),
    (ValueError, r"^max_size must be", lambda: untyped(int).resize(0)),
    (ValueError, r"^timeout must be", lambda: untyped(int).close(-1)),
    (TypeError, r"^timeout must be", lambda: untyped(int).close(True)),
    (TypeError, r"can be neither copied nor pickled", lambda: __import__("copy").copy(untyped(int))),
]


@pytest.mark.parametrize("kind,message,make", REFUSED)
def test_a_mistake_is_an_error_at_once_that_says_what_is_allowed(
    kind: type[Exception], message: str, make: Callable[[], Any]
) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_a_pool_without_parentheses_above_a_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Pool takes its settings, not the function .*fetch: use @Pool\(…\)$"):

        @untyped  # type: ignore[untyped-decorator]
        def fetch() -> None:
            raise AssertionError("never called")


def test_a_plain_function_that_returns_something_to_await_creates_nothing() -> None:
    async def connect() -> int:
        return 1

    pool: Pool[Any] = Pool(lambda: connect())  # noqa: PLW0108 - that it is a lambda is the mistake
    with pytest.raises(
        TypeError, match=r"^create returned a coroutine from the plain function .*: pass an `async def`"
    ):
        pool.acquire().__enter__()

    async def main() -> None:
        futures: Pool[Any] = Pool(lambda: asyncio.get_running_loop().create_future())
        with pytest.raises(TypeError, match="create returned a Future"), pytest.warns(RuntimeWarning, match="blocks"):
            futures.acquire().__enter__()

    run(main())
    assert pool.statistics().size == 0


def test_a_plain_close_that_returns_a_coroutine_is_a_mistake_that_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_errand, "start", lambda context, work: context.run(work))
    pool = Pool(object, close=lambda _: later())
    lease = pool.acquire()
    lease.__enter__()
    lease.discard()
    lease.__exit__(None, None, None)
    assert "close returned a coroutine from the plain function" in caplog.text
    assert pool.statistics().size == 0


def test_a_class_creates_its_instances() -> None:
    class Client:
        def __init__(self) -> None:
            self.open = True

        def close(self) -> None:
            self.open = False

    with Pool(Client, close=Client.close) as pool, pool.acquire() as client:
        assert client.open
        used = client
        pool.close(0)
    assert pool.close() is True
    assert not used.open


def test_an_errand_runs_in_its_context_on_a_thread_of_its_own() -> None:
    from contextvars import copy_context

    ran: queue.SimpleQueue[threading.Thread] = queue.SimpleQueue()
    _errand.start(copy_context(), lambda: ran.put(threading.current_thread()))
    assert ran.get(timeout=20.0) is not threading.current_thread()
