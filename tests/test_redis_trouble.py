"""RedisStore and servers that dribble, refuse, lie or jump in time: nobody waits too long or gets too much."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from resilience_redis import RedisStore
from resilience_redis._connections import packed

from resilience import Bulkhead, RateLimiter, StoreUnavailable, StoreUnavailableError
from resilience._courier import Operation
from resilience.clock import SYSTEM, give_way
from resilience.testing import recorded_events

from .redis_callers import BadServer, Colour, caller, stores, take

TIMEOUT = 0.25
LOADED = 1.0  # seconds that a busy machine may need beyond it; the servers here would take many more


@pytest.fixture
def make(redis_for_answers: Any) -> Iterator[Callable[..., RedisStore]]:
    """Stores that share a server, each test with a prefix of its own."""
    yield from stores(redis_for_answers)


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Colour]:
    yield from caller(request.param, monkeypatch)


def dribbles(connection: socket.socket) -> None:
    """Each byte comes long before the time of a read is over."""
    connection.recv(4096)
    for byte in b"$900\r\n" + b"1 " * 450:
        connection.sendall(bytes([byte]))
        give_way(0.02)


def dribbles_at_connecting(connection: socket.socket) -> None:
    connection.recv(4096)
    for byte in b"+" + b"O" * 900:
        connection.sendall(bytes([byte]))
        give_way(0.02)


def endless(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"*1000000000\r\n")
    while True:
        connection.sendall(b":1\r\n" * 100)
        give_way(0.001)


def says(line: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(line + b"\r\n")

    return behave


REFUSALS = [
    b"-LOADING Redis is loading the dataset in memory",
    b"-READONLY You can't write against a read only replica.",
    b"-MOVED 3999 127.0.0.1:6381",
    b"-ASK 3999 127.0.0.1:6381",
    b"-CLUSTERDOWN The cluster is down",
    b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    b"-NOSCRIPT No matching script. Please use EVAL.",
    b"-NOAUTH Authentication required.",
    b"-OOM command not allowed when used memory > 'maxmemory'.",
    b"-",
    b"$-1",
    b"$2\r\n\xff\xfe",
    b"*0",
]


@pytest.mark.parametrize("behave", [dribbles, endless, *map(says, REFUSALS)])
def test_whatever_a_server_says_callers_have_their_answer_in_time(
    colour: Colour, behave: Callable[[socket.socket], None]
) -> None:
    bad = BadServer(behave)
    store = RedisStore(bad.url, on_error="open", store_timeout=TIMEOUT)
    limiter = RateLimiter(1, 3600.0, name="x", store=store)
    bulkhead = Bulkhead(1, name="x", store=store)
    with recorded_events(StoreUnavailable) as events:
        for policy in (limiter, bulkhead, limiter, bulkhead):
            began = SYSTEM.now()
            assert colour.call(policy) == "done"
            assert SYSTEM.now() - began < TIMEOUT + LOADED
    assert len(events) == 1
    bad.close()


def test_a_server_that_dribbles_while_connecting_is_given_up_in_time(colour: Colour) -> None:
    bad = BadServer(dribbles_at_connecting)
    url = bad.url.replace("redis://", "redis://:secret@")
    store = RedisStore(url, on_error="open", store_timeout=TIMEOUT)
    began = SYSTEM.now()
    assert colour.call(RateLimiter(1, name="x", store=store)) == "done"
    assert SYSTEM.now() - began < TIMEOUT + LOADED
    assert not store.available
    bad.close()


def test_a_server_that_reads_too_slowly_holds_nobody_who_writes() -> None:
    bad = BadServer(lambda connection: give_way(5.0))
    store = RedisStore(bad.url, store_timeout=TIMEOUT)
    much = [Operation("bulkhead", "release", "x", "none", ("x" * 1_000_000,))] * 30  # no buffer holds that
    began = SYSTEM.now()
    with pytest.raises(StoreUnavailableError):
        store.journey(much)
    assert SYSTEM.now() - began < TIMEOUT + LOADED
    bad.close()


def test_scripts_that_are_lost_cost_no_second_store_timeout(make: Callable[..., RedisStore]) -> None:
    """The commands that are sent again have what is left of the time, not as much once more."""
    ends = []
    store = make()
    original = store._threads.exchange

    def noted(commands: Any, end: float) -> list[Any]:
        ends.append(end)
        return original(commands, end)

    store._threads.exchange = noted  # type: ignore[method-assign]
    store._threads._factory._client.script_flush()
    assert store.ask(take())[0] == 1.0
    assert len(ends) == 2
    assert ends[0] == ends[1]


def test_a_journey_cancelled_at_any_moment_leaves_no_connection_in_the_middle_of_it(
    make: Callable[..., RedisStore],
) -> None:
    links: list[Any] = []

    async def main() -> None:
        async with make(store_timeout=20.0) as store:
            original = store._factory.for_tasks

            def noted() -> Any:
                links.append(original())
                return links[-1]

            store._factory.for_tasks = noted  # type: ignore[method-assign]
            turns = 0
            for turns in itertools.count():
                asked = asyncio.ensure_future(store._aexecute([take(f"k{turns}", 3.0)]))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if asked.done():
                    break
                asked.cancel()
                await asyncio.wait([asked])
                reply = await store.aask(take("mine", 0.0))
                assert reply[0] == 1.0
                assert len(reply) == 7
            assert turns > 3
            assert store.available
            idle = store._lines_of(asyncio.get_running_loop())._idle
            assert {id(link) for link in links if link.is_connected} == {id(connection.link) for connection in idle}

    asyncio.run(main())


def test_whichever_way_the_clock_of_the_server_jumps_no_more_pass_than_time_has_passed(
    make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    store, client = make(), redis_for_answers.client()
    store.ask(take("warm"))

    def passed(now: float) -> int:
        """How many of 30 calls pass a limit of 10 that refills by one a second, at this time of the server."""
        operation = take("jumps")
        command = packed(store._prefix, operation, digest=False)
        assert command.count(b"$2\r\n-1\r\n") == 1
        text = repr(now).encode()
        command = command.replace(b"$2\r\n-1\r\n", b"$%d\r\n%b\r\n" % (len(text), text))
        replies = store._threads.exchange([command] * 30, store._threads.end())
        return sum(reply.startswith(b"1 ") for reply in replies)

    start = 1e9
    assert passed(start) == 10
    assert passed(start + 3.0) == 3
    assert passed(start - 3600.0) == 0
    assert passed(start + 3.0) == 0
    assert passed(start + 86400.0) == 10
    assert passed(start) == 0
    client.close()


def test_an_operation_that_is_not_ours_is_an_error_and_nothing_else(
    colour: Colour, make: Callable[..., RedisStore]
) -> None:
    store = make()
    reply = colour.ask(store, Operation("limiter", "take", "x", "odd", (1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0)))
    assert reply[0] in {0.0, 1.0}
