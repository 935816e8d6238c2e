"""RedisStore and what it is given: URLs and clients of every kind, settings, TLS, forks, threads and loops."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
import valkey
import valkey.asyncio
from resilience_redis import RedisStore
from resilience_redis._connections import Factory, key_of

from examples import redis_secured
from resilience import (
    Bulkhead,
    CircuitBreaker,
    RateLimiter,
    RateLimitExceededError,
    RetryBudget,
    StoreUnavailable,
)
from resilience._courier import Operation
from resilience.clock import SYSTEM
from resilience.testing import recorded_events

from . import redis_server as servers
from .redis_callers import Colour, caller, outcome, stores, take
from .test_processes import in_child, needs_fork

if TYPE_CHECKING:
    import trustme


@pytest.fixture
def make(redis_for_answers: Any) -> Iterator[Callable[..., RedisStore]]:
    """Stores that share a server, each test with a prefix of its own."""
    yield from stores(redis_for_answers)


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Colour]:
    yield from caller(request.param, monkeypatch)


# -- what is no server -------------------------------------------------------------------------------------------------


class Odd:
    connection_pool = 5


@pytest.mark.parametrize(
    "server",
    [
        redis.ConnectionPool(),
        redis.Redis,
        Odd(),
        redis.asyncio.RedisCluster(host="localhost"),
        redis.RedisCluster.__new__(redis.RedisCluster),
        valkey.ValkeyCluster.__new__(valkey.ValkeyCluster),
    ],
    ids=["pool", "class", "odd", "cluster for tasks", "cluster for threads", "Valkey cluster"],
)
def test_what_has_no_connections_of_one_server_is_refused(server: Any) -> None:
    with pytest.raises(TypeError, match="a URL or a Redis client with a connection pool"):
        RedisStore(server)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "redis://host:99999",
        "redis://host:port",
        "redis://[::1",
        "redis://host?nonsense=1",
        "redis://host?protocol=7",
        "redis://host?socket_timeout=soon",
    ],
)
def test_a_url_of_which_no_connection_can_be_made_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError):
        RedisStore(url)


def test_a_client_with_settings_that_no_connection_takes_is_refused_at_once() -> None:
    for client in (redis.Redis(connection_pool=redis.ConnectionPool(nonsense=1)), redis.asyncio.Redis()):
        client.connection_pool.connection_kwargs["nonsense"] = 1
        with pytest.raises(ValueError, match="server has settings of which no connection can be made"):
            RedisStore(client)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"prefix": "\ud800"}, ValueError),
        ({"name": ""}, (TypeError, ValueError)),
        ({"name": 5}, (TypeError, ValueError)),
        ({"store_timeout": 86_401}, ValueError),
        ({"store_timeout": 1e308}, ValueError),
        ({"lease_time": 0.009}, ValueError),
        ({"lease_time": 86_401}, ValueError),
        ({"local_share": 0.2}, ValueError),
        ({"local_share": float("nan")}, ValueError),
        ({"local_share": True}, TypeError),
        ({"on_error": b"open"}, ValueError),
        ({"clock": 5}, TypeError),
        ({"listeners": 5}, TypeError),
    ],
)
def test_a_setting_out_of_its_range_is_named(options: dict[str, Any], error: Any) -> None:
    with pytest.raises(error, match=next(iter(options))):
        RedisStore("redis://localhost", **options)


def test_a_store_is_neither_copied_nor_pickled() -> None:
    store = RedisStore("redis://localhost")
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            way(store)


# -- clients of every kind ---------------------------------------------------------------------------------------------


blocking_pool: Any = redis.BlockingConnectionPool  # whose constructor has no types


class PlainLink(redis.Connection):
    """A connection of somebody's own."""


class LabelledLink(redis.Connection):
    """One that takes a setting which the library's own do not."""

    def __init__(self, *, label: str, **options: Any) -> None:
        library: Any = super()
        library.__init__(**options)
        self.label = label


class TaskLink(redis.asyncio.Connection):
    """The same for tasks."""


@pytest.mark.parametrize(
    "client",
    [
        lambda port: redis.Redis(port=port, single_connection_client=False, protocol=2),
        lambda port: redis.Redis(port=port, protocol=3),
        lambda port: redis.Redis(connection_pool=blocking_pool(port=port, max_connections=1)),
        lambda port: redis.Redis(connection_pool=redis.ConnectionPool(PlainLink, port=port)),
        lambda port: redis.Redis(connection_pool=redis.ConnectionPool(LabelledLink, port=port, label="x")),
        lambda port: redis.asyncio.Redis(connection_pool=redis.asyncio.ConnectionPool(TaskLink, port=port)),
        lambda port: redis.asyncio.Redis(port=port, health_check_interval=1),
        lambda port: redis.Redis(port=port, socket_timeout=3600.0, decode_responses=True, encoding="utf-16"),
        lambda port: valkey.Valkey(port=port),
        lambda port: valkey.Valkey(port=port, protocol=3),
        lambda port: valkey.asyncio.Valkey(port=port),
    ],
    ids=[
        "RESP2",
        "RESP3",
        "blocking pool",
        "own class",
        "own settings",
        "own class for tasks",
        "health checks",
        "text",
        "Valkey",
        "Valkey RESP3",
        "Valkey for tasks",
    ],
)
def test_a_client_of_one_colour_serves_callers_of_both(
    colour: Colour, make: Callable[..., RedisStore], redis_for_answers: Any, client: Any
) -> None:
    store = make(client(redis_for_answers.port))
    gc.collect()
    assert [colour.ask(store, take(cost=5.0))[0] for _ in range(3)] == [1.0, 1.0, 0.0]
    assert store.available


@pytest.mark.parametrize("own", ["sync", "async"])
def test_a_sentinels_client_serves_its_own_colour_and_says_so_to_the_other(colour: Colour, own: str) -> None:
    library: Any = redis.sentinel if own == "sync" else redis.asyncio.sentinel
    store = RedisStore(library.Sentinel([("127.0.0.1", 1)]).master_for("main"), store_timeout=0.5, on_error="open")
    gc.collect()  # what its connections refer to is still there
    with recorded_events(StoreUnavailable) as events:
        assert colour.call(RateLimiter(1, name="x", store=store)) == "done"
    (event,) = events
    if colour.is_async == (own == "async"):
        assert not isinstance(event.error, (TypeError, ReferenceError))
    else:
        assert isinstance(event.error, TypeError)
        assert "have no counterpart" in str(event.error)


def test_connections_of_threads_have_the_socket_that_ends_in_time(
    make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    """Fails when the client library no longer asks its `_connect` for the socket."""
    link = Factory(redis_for_answers.client()).for_threads(SYSTEM, 5.0)
    link.connect()
    link.limits.end = SYSTEM.now() - 1.0
    with pytest.raises(redis.TimeoutError):
        link.send_command("PING")
    link.disconnect()


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def secure(authority: trustme.CA, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a server that speaks TLS to those who trust the authority, whose certificate is in the file."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(tmp_path / "chain.pem", append=True)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    port = servers.free_port()
    server = servers.start(
        *("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(tmp_path / "authority.pem")),
        *("--tls-cert-file", str(tmp_path / "chain.pem"), "--tls-key-file", str(tmp_path / "key.pem")),
    )
    if not server.faults:
        server.close()
        pytest.skip("fakeredis speaks no TLS")
    yield f"rediss://localhost:{port}/0", tmp_path / "authority.pem"
    server.close()


def test_a_server_with_tls_is_used_by_those_who_trust_it(colour: Colour, secure: tuple[str, Path]) -> None:
    url, trusted = secure
    store = RedisStore(f"{url}?ssl_ca_certs={trusted}", store_timeout=5.0, on_error="closed")
    limiter = RateLimiter(2, 3600.0, name="x", store=store)
    assert [outcome(lambda: colour.call(limiter)) for _ in range(3)] == ["done", "done", RateLimitExceededError]
    assert store.available
    with recorded_events(StoreUnavailable) as events:
        distrustful = RedisStore(url, store_timeout=5.0, on_error="open")
        assert colour.call(RateLimiter(1, name="x", store=distrustful)) == "done"
    (event,) = events  # some versions of the library say what was wrong in the context only
    assert any("certificate" in f"{error} {error!r}".lower() for error in (event.error, event.error.__context__))


def test_a_client_with_tls_serves_callers_of_both_colours(colour: Colour, secure: tuple[str, Path]) -> None:
    url, trusted = secure
    port = int(url.rpartition(":")[2].partition("/")[0])
    client = redis.Redis(host="localhost", port=port, ssl=True, ssl_ca_certs=str(trusted))
    store = RedisStore(client, store_timeout=5.0, on_error="closed")
    assert colour.call(RateLimiter(2, 3600.0, name="x", store=store)) == "done"
    assert store.available


def test_the_example_of_a_secured_server_runs_with_the_rights_it_names(
    secure: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    url, trusted = secure
    (rule,) = re.findall(r"ACL SETUSER (.+)", redis_secured.__doc__ or "")
    (documented,) = re.findall(r"ACL SETUSER (.+?)`", " ".join((RedisStore.__doc__ or "").split()))
    assert rule == documented
    admin: Any = redis.Redis.from_url(f"{url}?ssl_ca_certs={trusted}")
    admin.execute_command("ACL", "SETUSER", *rule.split())
    admin.execute_command("ACL", "SETUSER", "default", "resetpass", "off")
    admin.close()
    redis_secured.main(f"{url.replace('//', '//app:secret@')}?ssl_ca_certs={trusted}")
    assert capsys.readouterr().out.splitlines() == [
        "a report",
        "another report, from the same limit",
        "reports: refused, 0 left",
    ]


def test_what_is_asked_of_tls_is_an_error_where_it_cannot_be_had() -> None:
    """Connections of tasks have no such check; without it they would seem to be as safe as those of threads."""
    factory = Factory(redis.Redis(ssl=True, ssl_validate_ocsp=True))
    with pytest.raises(TypeError, match="ssl_validate_ocsp"):
        factory.for_tasks()


# -- users -------------------------------------------------------------------------------------------------------------


def test_a_user_needs_no_more_rights_than_the_docstring_says(
    colour: Colour, make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    if not redis_for_answers.faults:
        pytest.skip("fakeredis knows no users")
    (rule,) = re.findall(r"ACL SETUSER (.+?)`", " ".join((RedisStore.__doc__ or "").split()))
    admin = redis_for_answers.client()
    admin.execute_command("ACL", "SETUSER", *rule.split())
    admin.script_flush()
    url = f"redis://app:secret@127.0.0.1:{redis_for_answers.port}/0"
    store = make(url, prefix="resilience", on_error="closed")
    with recorded_events(StoreUnavailable) as events:
        breaker = CircuitBreaker("acl", failure_threshold=1, store=store)
        for policy in (RateLimiter(9, name="acl", store=store), Bulkhead(9, name="acl", store=store), breaker):
            assert colour.call(policy) == "done"
        assert RetryBudget(name="acl", store=store).withdraw()
        for verb in ("isolate", "reset"):
            colour.ask(store, Operation("breaker", verb, "acl", "none", ()))
        for operation in (
            Operation("limiter", "take", "acl", "s", (1.0, 1.0, 0.0, 1e300, *(1.0, 10.0, 10.0) * 2)),
            Operation("limiter", "reset", "acl", "s", ()),
            Operation("bulkhead", "renew", "acl", "none", (1.0, "nobody")),
        ):
            colour.ask(store, operation)
        store.close()
        colour.run(store.aclose())
    assert events == []
    admin.delete(*admin.scan_iter("resilience:{*:acl:*"))
    admin.acl_deluser("app")
    admin.close()


def test_a_user_who_may_not_run_scripts_or_touch_the_keys_is_trouble(
    colour: Colour, make: Callable[..., RedisStore], redis_for_answers: Any
) -> None:
    if not redis_for_answers.faults:
        pytest.skip("fakeredis knows no users")
    admin = redis_for_answers.client()
    admin.acl_setuser("mute", enabled=True, passwords=["+pass"], keys=["*"], commands=["+ping"])
    admin.acl_setuser("elsewhere", enabled=True, passwords=["+pass"], keys=["other:*"], commands=["+@all"])
    for user in ("mute:pass", "elsewhere:pass", "nobody:pass", "mute:wrong"):
        store = make(f"redis://{user}@127.0.0.1:{redis_for_answers.port}/0", on_error="open")
        assert colour.call(RateLimiter(1, name="x", store=store)) == "done"
        assert not store.available
    admin.acl_deluser("mute", "elsewhere")
    admin.close()


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_of_any_length_are_short_keys_that_do_not_collide() -> None:
    names = ["x" * 10_000, "x" * 10_001, "ü" * 100, "%", "%h-", "h-" + "0" * 64, "a b", "a}b{", "\ud800", "\r\n"]
    keys = [key_of("p", Operation("bulkhead", "count", name, "none", ())) for name in names]
    assert len(set(keys)) == len(names)
    for key in keys:
        assert len(key) < 200
        assert key.count(b"{") == key.count(b"}") == 1
        assert not set(key) & set(b" \r\n\0")


# -- close, fork, threads, loops ---------------------------------------------------------------------------------------


def test_a_store_that_was_closed_is_opened_by_the_next_call(colour: Colour, make: Callable[..., RedisStore]) -> None:
    store = make()
    for _ in range(3):
        assert colour.ask(store, take(cost=0.0))[0] == 1.0
        store.close()
        colour.run(store.aclose())
        assert not store._threads._idle
        assert store._loops == {}


@needs_fork
def test_a_child_shares_the_limit_but_no_connection_and_gives_back_no_slot_of_the_parent(
    make: Callable[..., RedisStore],
) -> None:
    store = make(on_error="closed")
    limiter = RateLimiter(3, 3600.0, name="x", store=store)(lambda: "done")
    bulkhead = Bulkhead(2, name="x", store=store)
    assert limiter() == "done"
    guard = bulkhead.guard()
    guard.__enter__()

    def work() -> None:
        assert limiter() == "done"
        assert bulkhead.call(lambda: 1) == 1
        guard.__exit__(None, None, None)
        store.close()  # so that its own slot is back before it ends

    in_child(work)
    assert [outcome(limiter) for _ in range(2)] == ["done", RateLimitExceededError]
    assert store.ask(Operation("bulkhead", "count", "x", "none", ())) == (1.0,)
    guard.__exit__(None, None, None)


def test_threads_and_loops_share_one_limit_of_one_store(make: Callable[..., RedisStore]) -> None:
    store = make(store_timeout=20.0, on_error="closed")
    limiter = RateLimiter(100, 3600.0, name="x", store=store)
    passed: list[int] = []

    def thread() -> None:
        call = limiter(lambda: passed.append(1))
        for _ in range(20):
            outcome(call)

    def loop() -> None:
        @limiter
        async def call() -> None:
            passed.append(1)

        async def main() -> None:
            await asyncio.gather(*(call() for _ in range(20)), return_exceptions=True)
            await store.aclose()

        asyncio.run(main())

    threads = [threading.Thread(target=target) for target in (thread, loop) * 4]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(passed) == 100
    assert store.available
