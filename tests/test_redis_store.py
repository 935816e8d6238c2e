"""RedisStore on a real server: in both colours, with hostile keys, with everything that can go wrong with a server."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from resilience_redis import RedisStore
from resilience_redis._connections import ThreadLines, _ended, key_of, packed, understood
from resilience_redis._scripts import SCRIPTS

from resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    LeaseLost,
    RateLimiter,
    RateLimitExceededError,
    RetryBudget,
    StoreRecovered,
    StoreUnavailable,
    StoreUnavailableError,
)
from resilience._courier import Operation
from resilience.clock import SYSTEM, give_way
from resilience.testing import recorded_events

from . import redis_server as servers
from .redis_callers import (
    COUNT,
    GRACE,
    BadServer,
    Colour,
    caller,
    closes,
    garbage,
    numbers_only,
    outcome,
    silent,
    slow,
    stores,
    take,
    until,
)


@pytest.fixture
def make(redis_for_answers: Any) -> Iterator[Callable[..., RedisStore]]:
    """Stores that share a server, each test with a prefix of its own."""
    yield from stores(redis_for_answers)


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Colour]:
    yield from caller(request.param, monkeypatch)


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", [None, 5, object(), b"redis://x"])
def test_a_server_is_a_url_or_a_client(server: Any) -> None:
    with pytest.raises(TypeError, match="a URL or a Redis client"):
        RedisStore(server)


def test_a_url_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="scheme"):
        RedisStore("http://localhost")


@pytest.mark.parametrize("prefix", ["", "a{b", "a}b", None, 5])
def test_a_prefix_is_a_string_without_braces(prefix: Any) -> None:
    with pytest.raises(ValueError, match="prefix must be"):
        RedisStore("redis://localhost", prefix=prefix)


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_all_kinds_of_policies_share_through_the_server(colour: Colour, make: Callable[..., RedisStore]) -> None:
    stores = [make(), make()]
    limiters = [RateLimiter(3, 60.0, name="x", store=store) for store in stores]
    outcomes = [outcome(lambda limiter=limiters[n % 2]: colour.call(limiter)) for n in range(4)]  # type: ignore[misc]
    assert outcomes == ["done", "done", "done", RateLimitExceededError]
    quota = colour.run(limiters[0].apeek()) if colour.is_async else limiters[0].peek()
    assert 10.0 < quota.retry_after <= 20.0
    bulkheads = [Bulkhead(1, name="x", store=store) for store in stores]
    with bulkheads[0].guard():
        assert outcome(lambda: colour.call(bulkheads[1])) is BulkheadFullError
    until(lambda: stores[0].ask(COUNT) == (0.0,))
    assert colour.call(bulkheads[1]) == "done"
    breakers = [CircuitBreaker("x", failure_threshold=1, store=store) for store in stores]

    def fail() -> None:
        raise OSError

    assert outcome(lambda: colour.call(breakers[0], fail)) is OSError
    until(lambda: outcome(lambda: colour.call(breakers[1])) is CircuitOpenError)
    budget = RetryBudget(0.0, 0.2, name="x", store=stores[0])
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]


def test_hostile_keys_neither_collide_nor_inject_and_all_keys_expire(
    colour: Colour, make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    store = make()
    keys: list[Any] = [
        "a b",
        "{a}",
        "}{",
        "a\r\nFLUSHALL\r\n",
        "",
        b"\0\xff",
        "é",
        "x" * 10_000,
        ("a", 1),
        "'])os.exit(",
    ]
    limiter = RateLimiter(1, 60.0, key=lambda: keys[0], name="{name}\r\n \0ü", store=store)
    for _ in range(len(keys)):
        assert colour.call(limiter) == "done"
        assert outcome(lambda: colour.call(limiter)) is RateLimitExceededError
        keys.append(keys.pop(0))
    client = redis_for_answers.client()
    found = list(client.scan_iter(f"{store._prefix}:*"))
    assert len(found) == len(keys)
    for name in found:
        assert name.count(b"{") == name.count(b"}") == 1
        assert len(name) < 250
        assert 0 < client.pttl(name) <= 62_000
    client.close()


def test_every_operation_of_a_policy_works_on_one_key() -> None:
    assert key_of("p", take("s-a")) == b"p:{limiter:x:s-a}"


def test_clients_of_both_colours_are_taken_with_their_settings(
    colour: Colour, make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    admin = redis_for_answers.client()
    plain = redis.Redis(port=redis_for_answers.port, db=3, decode_responses=True)
    tasks = redis.asyncio.Redis(port=redis_for_answers.port, db=3)
    for client in (plain, tasks):
        assert colour.ask(make(client), take())[0] == 1.0
    admin.select(3)
    assert redis.Redis(port=redis_for_answers.port, db=3).dbsize() >= 1
    admin.close()
    plain.close()


def test_a_user_with_a_password_and_few_rights_is_enough(
    colour: Colour, make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    if not redis_for_answers.faults:
        pytest.skip("fakeredis knows no users")
    admin = redis_for_answers.client()
    admin.acl_setuser(
        "app", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-@admin", "-@dangerous", "+script"]
    )
    url = f"redis://app:secret@127.0.0.1:{redis_for_answers.port}/0"
    assert colour.ask(make(url), take("acl"))[0] == 1.0
    wrong = make(f"redis://app:wrong@127.0.0.1:{redis_for_answers.port}/0", on_error="open")
    assert colour.call(RateLimiter(1, name="x", store=wrong)) == "done"
    assert not wrong.available
    admin.acl_deluser("app")
    admin.close()


def test_a_flushed_script_cache_is_filled_again(
    colour: Colour, make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    store, admin = make(), redis_for_answers.client()
    for _ in range(2):
        assert colour.ask(store, take(cost=0.0))[0] == 1.0
        admin.script_flush()
    assert colour.ask(store, take())[0] == 1.0
    assert store.available
    admin.close()


def test_decisions_of_one_turn_of_the_loop_are_sent_together(make: Callable[..., RedisStore]) -> None:
    async def main() -> None:
        async with make() as store:
            limiter = RateLimiter(50, 3600.0, name="x", store=store)
            sent = []
            original = store._aexecute

            async def noted(operations: list[Operation]) -> list[Any]:
                sent.append(len(operations))
                return await original(operations)

            store._aexecute = noted  # type: ignore[method-assign]
            quotas = await asyncio.gather(*(limiter.areserve() for _ in range(30)), limiter.apeek())
            assert len(quotas) == 31
            assert sent == [31]
            for _ in range(3):  # more batches than connections are kept
                await asyncio.gather(*(later(limiter, turns) for turns in range(12)))

    async def later(limiter: RateLimiter, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await limiter.apeek()

    asyncio.run(main())


def test_no_reply_is_matched_to_another_question_after_cancellations(make: Callable[..., RedisStore]) -> None:
    async def main() -> None:
        async with make() as store:
            for key in range(20):
                await store.aask(take(f"k{key}", float(key % 10)))

            async def look(key: int) -> None:
                reply = await store.aask(
                    Operation("limiter", "take", "x", f"k{key}", (0.0, 0.0, 1.0, 1.0, 1e6, 1e7, 1e7))
                )
                expected.append((key, reply))

            expected: list[Any] = []
            for round_ in range(20):
                tasks = [asyncio.create_task(look(key)) for key in range(20)]
                for _ in range(round_ % 5):
                    await asyncio.sleep(0)
                for task in tasks[:: 2 + round_ % 3]:
                    task.cancel()
                await asyncio.wait(tasks)
            alone = {key: await store.aask(take(f"k{key}", 100.0)) for key in range(20)}
            for key, reply in expected:
                assert reply[5] == alone[key][5] or key % 10 == 0
            assert len(expected) > 100

    asyncio.run(main())


def test_a_plain_caller_on_a_loop_is_warned(make: Callable[..., RedisStore]) -> None:
    limiter = RateLimiter(5, name="x", store=make())

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="blocks the event loop"):
            limiter(lambda: None)()

    asyncio.run(main())


# -- the protocol ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [5, None, [b"1"], b"1 x", {}])
def test_what_is_no_answer_is_an_error(reply: Any) -> None:
    with pytest.raises(ValueError):
        understood(reply)


def test_a_command_is_packed_with_the_length_of_every_word() -> None:
    command = packed("p", Operation("budget", "exchange", "x", "k", (1.5, "é")))
    assert command.startswith(b"*8\r\n$7\r\nEVALSHA\r\n$40\r\n")
    assert command.endswith(
        b"$1\r\n1\r\n$14\r\np:{budget:x:k}\r\n$2\r\n-1\r\n$8\r\nexchange\r\n$3\r\n1.5\r\n$2\r\n\xc3\xa9\r\n"
    )


def test_a_circuit_with_a_window_of_very_many_buckets_is_kept_whole(
    make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    """Lua passes no more than 8000 values to a command, and each bucket has six."""
    store, admin = make(), redis_for_answers.client()
    settings = (3600.0, 10_000.0, 0.5, 20.0, -1.0, 1.0, 5.0, 60.0, 3.0, 2.0, 30.0)
    report = Operation("breaker", "report", "x", "none", (1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, *settings))
    assert store.ask(report)[4] == 1.0
    key = key_of(store._prefix, report)
    (index,) = (int(name[1:]) for name in admin.hkeys(key) if re.fullmatch(rb"c\d+", name))
    old = {f"{kind}{index - ago}": int(kind == "c") for kind in "cfs" for ago in range(1, 1500)}
    admin.hset(key, mapping=old)
    for calls in (1501.0, 1502.0):
        assert store.ask(report)[4] == calls
    assert admin.hlen(key) > len(old)
    assert admin.pttl(key) > 0
    admin.close()


# -- clusters ----------------------------------------------------------------------------------------------------------


def test_a_script_touches_its_one_key_and_no_other() -> None:
    for script in map(bytes.decode, SCRIPTS.values()):
        assert script.count("KEYS") == script.count("local key = KEYS[1]") == 1
        calls = re.findall(r"redis\.call\('(\w+)'(?:, (\w+))?", script)
        assert calls
        assert {first for command, first in calls if command != "TIME"} == {"key"}


def test_the_braces_of_a_key_alone_decide_on_its_slot() -> None:
    key_slot: Any = importlib.import_module("redis.crc").key_slot
    for name in ("x", "a b", "}{", "{}", "", "\r\n", "ü", "x" * 10_000):
        key = key_of("p", Operation("limiter", "take", name, "s-" + "k" * 10, ()))
        tag = key[key.index(b"{") + 1 : key.index(b"}")]
        assert key_slot(key) == key_slot(tag)
        assert tag.startswith(b"limiter:")


def test_a_node_of_a_cluster_runs_every_operation(colour: Colour) -> None:
    server = servers.start("--cluster-enabled", "yes", "--cluster-port", str(servers.free_port()))
    if not server.faults:
        server.close()
        pytest.skip("fakeredis is no cluster")
    admin: Any = server.client()
    admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until(lambda: b"cluster_state:ok" in admin.execute_command("CLUSTER", "INFO"))
    store = RedisStore(server.url, store_timeout=5.0, on_error="closed")
    policies = (
        RateLimiter(10, 60.0, name="x", store=store),
        Bulkhead(10, name="x", store=store),
        CircuitBreaker("x", store=store),
    )
    assert [colour.call(policy) for policy in policies] == ["done"] * 3
    assert RetryBudget(name="x", store=store).withdraw()
    store.close()
    assert store.available
    assert admin.dbsize() >= 2
    admin.close()
    server.close()


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behave", [silent, garbage, numbers_only, closes, slow, None])
@pytest.mark.parametrize("on_error", ["local", "open", "closed"])
def test_whatever_a_bad_server_does_on_error_holds_in_time(
    colour: Colour, behave: Callable[[socket.socket], None] | None, on_error: str
) -> None:
    bad = None if behave is None else BadServer(behave)
    url = "redis://127.0.0.1:1/0" if bad is None else bad.url
    store = RedisStore(url, on_error=on_error, store_timeout=0.25)
    limiter = RateLimiter(2, 3600.0, name="x", store=store)
    expected: dict[str, list[Any]] = {"local": ["done", "done", RateLimitExceededError], "open": ["done"] * 3}
    with recorded_events(StoreUnavailable, StoreRecovered) as events:
        for number in range(3):
            began = SYSTEM.now()
            result = outcome(lambda: colour.call(limiter))
            assert SYSTEM.now() - began < 0.25 + 1.0  # and not the many seconds of a client's own patience
            assert result == expected.get(on_error, [RateLimitExceededError] * 3)[number]
    assert [type(event) for event in events] == [StoreUnavailable]
    if bad is not None:
        bad.close()


def test_with_the_server_paused_nobody_waits_longer_than_the_store_timeout_and_it_recovers_by_itself(
    colour: Colour, redis_server: Any
) -> None:
    store = RedisStore(redis_server.url, store_timeout=0.3)
    limiter = RateLimiter(10**6, name="x", store=store)
    colour.call(limiter)
    redis_server.pause()
    with recorded_events(StoreUnavailable, StoreRecovered) as events:
        waits = []
        for _ in range(50):
            began = SYSTEM.now()
            colour.call(limiter)
            waits.append(SYSTEM.now() - began)
        assert max(waits) < 0.3 + 10 * GRACE  # with a machine that is busy elsewhere
        assert sum(wait > 0.25 for wait in waits) <= 4  # then its own breaker is open
        # Whatever takes longer than it may does so each time; a busy machine spares one of the first three.
        assert min(waits[:3]) < 0.3 + GRACE
        redis_server.resume()
        until(lambda: colour.call(limiter) and store.available)
    assert [type(event) for event in events] == [StoreUnavailable, StoreRecovered]


def test_a_server_that_is_killed_and_comes_back_is_used_again(colour: Colour, redis_server: Any) -> None:
    store = RedisStore(redis_server.url, store_timeout=0.3)
    limiter = RateLimiter(3, 3600.0, name="x", store=store)
    assert colour.call(limiter) == "done"
    redis_server.kill()
    assert [outcome(lambda: colour.call(limiter)) for _ in range(4)] == ["done"] * 3 + [RateLimitExceededError]
    redis_server.start()
    until(lambda: outcome(lambda: colour.call(limiter)) == "done")
    assert store.available


def test_a_server_that_was_restarted_between_two_calls_is_no_trouble(colour: Colour, redis_server: Any) -> None:
    """The same as when it closes connections that were idle for long, or when something in between does."""
    store = RedisStore(redis_server.url, store_timeout=5.0)
    with recorded_events(StoreUnavailable) as events:
        colour.ask(store, take())
        redis_server.kill()
        redis_server.start()
        (link,) = age(store)
        if colour.is_async:  # a loop that turns hears of it
            until(lambda: colour.run(asyncio.sleep(0.0)) or link._reader.at_eof())
        assert colour.ask(store, take())[0] == 1.0
    assert events == []


def test_what_a_server_says_unasked_answers_no_later_question(colour: Colour) -> None:
    connections = itertools.count()

    def answers_twice(connection: socket.socket) -> None:
        number = next(connections)
        while connection.recv(4096):
            connection.sendall(b"$1\r\n%d\r\n" % number * 2)

    bad = BadServer(answers_twice)
    store = RedisStore(bad.url, store_timeout=5.0)
    for number in range(3):
        assert colour.ask(store, take()) == (float(number),)
        age(store)
    assert store.available
    bad.close()


def test_a_connection_that_cannot_be_looked_at_is_replaced(make: Callable[..., RedisStore]) -> None:
    class Broken:
        async def can_read(self) -> bool:
            raise OSError

    class Sound(Broken):
        async def can_read(self) -> bool:
            return False

    async def main() -> list[bool]:
        return [await _ended(Broken()), await _ended(Sound())]  # the second has no reader

    assert asyncio.run(main()) == [True, True]


def test_a_server_out_of_memory_is_trouble_that_passes(colour: Colour, redis_server: Any) -> None:
    store, admin = RedisStore(redis_server.url, on_error="open", store_timeout=5.0), redis_server.client()
    limiter = RateLimiter(1, 3600.0, name="x", store=store)
    admin.config_set("maxmemory", 1)
    for _ in range(2):
        assert colour.call(limiter) == "done"
    assert not store.available
    admin.config_set("maxmemory", 0)
    until(lambda: outcome(lambda: colour.call(limiter)) is RateLimitExceededError)
    assert store.available
    admin.close()


def test_a_replica_that_cannot_write_is_trouble(colour: Colour, redis_server: Any) -> None:
    store, admin = RedisStore(redis_server.url, on_error="closed", store_timeout=5.0), redis_server.client()
    limiter = RateLimiter(10, name="x", store=store)
    assert colour.call(limiter) == "done"
    admin.replicaof("127.0.0.1", 1)
    assert outcome(lambda: colour.call(limiter)) is RateLimitExceededError
    assert not store.available
    admin.replicaof("NO", "ONE")
    until(lambda: outcome(lambda: colour.call(limiter)) == "done")
    admin.close()


def test_a_wrong_type_under_our_key_is_trouble(
    colour: Colour, make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    store, admin = make(), redis_for_answers.client()
    admin.lpush(key_of(store._prefix, take()), "not ours")
    with pytest.raises(StoreUnavailableError):
        colour.ask(store, take())
    admin.close()


def test_leases_are_renewed_while_held_and_expire_when_their_holder_is_silent(redis_server: Any) -> None:
    held, other = (RedisStore(redis_server.url, lease_time=0.6, store_timeout=5.0) for _ in range(2))
    bulkhead, waiting = Bulkhead(1, name="x", store=held), Bulkhead(1, name="x", store=other)
    with recorded_events(LeaseLost) as events, bulkhead.guard() as guard:
        give_way(1.5)
        assert outcome(waiting.guard().__enter__) is BulkheadFullError
        fence = guard.permit.fence
        held._renewals.clear()  # as if it had died
        until(lambda: taken(waiting, fence))
    assert events == []
    held.close()
    other.close()


def age(store: RedisStore) -> list[Any]:
    """As if all idle connections had been so for a while; returns the library's part of them."""
    idle = [*store._threads._idle, *(connection for lines in store._loops.values() for connection in lines._idle)]
    assert idle
    for connection in idle:
        connection.used -= 10.0
    return [connection.link for connection in idle]


def taken(bulkhead: Bulkhead, fence: int) -> bool:
    try:
        with bulkhead.guard() as guard:
            assert guard.permit.fence > fence
            return True
    except BulkheadFullError:
        return False


# -- connections -------------------------------------------------------------------------------------------------------


def test_a_closed_store_may_be_used_again_and_a_forked_one_has_connections_of_its_own(
    make: Callable[..., RedisStore],
) -> None:
    store = make()
    store.ask(take())
    store.close()
    assert store.ask(take())[0] == 1.0
    parents = list(store._threads._idle)
    store._forked()
    assert store.ask(take())[0] == 1.0
    for connection in parents:
        connection.link.disconnect()


def test_more_threads_than_connections_wait_for_one_and_no_longer_than_the_timeout(
    make: Callable[..., RedisStore],
) -> None:
    store = make(store_timeout=0.2)
    lines: ThreadLines = store._threads
    while lines._room.acquire(blocking=False):
        pass
    with pytest.raises(StoreUnavailableError) as caught:
        store.ask(take())
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_a_loop_that_has_ended_leaves_no_connections_behind(make: Callable[..., RedisStore]) -> None:
    store = make()

    async def main() -> None:
        await store.aask(take())
        await store.aclose()
        assert store._loops == {}
        await store.aask(take())
        await store._loops[id(asyncio.get_running_loop())].close()

    asyncio.run(main())
    asyncio.run(main())
    assert len(store._loops) == 1
