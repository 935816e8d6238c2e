"""Constructor arguments of PooledTransport: a mistake is an error at once that names it."""

from __future__ import annotations

import asyncio
import importlib
import math
import ssl
import subprocess
import sys
from datetime import timedelta
from typing import Any

import httpx
import httpx2
import pytest
import resilience_httpx
import resilience_httpx2

from .http_servers import LIBRARIES, Library, ScriptedServer, keep_alive

MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_connections": 0}, ValueError, "max_connections must be a whole number of at least 1"),
    ({"max_connections": -1}, ValueError, "max_connections"),
    ({"max_connections": 2.0}, TypeError, "max_connections"),
    ({"max_connections": True}, TypeError, "max_connections"),
    ({"max_connections": 10**400}, ValueError, "max_connections"),
    ({"max_connections": math.nan}, TypeError, "max_connections"),
    ({"max_per_host": 0}, ValueError, "max_per_host"),
    ({"max_per_host": "2"}, TypeError, "max_per_host"),
    ({"max_queue": -1}, ValueError, "max_queue"),
    ({"max_queue": None}, TypeError, "max_queue"),
    ({"keepalive_expiry": -1}, ValueError, "keepalive_expiry"),
    ({"keepalive_expiry": math.nan}, ValueError, "keepalive_expiry"),
    ({"keepalive_expiry": math.inf}, ValueError, "keepalive_expiry"),
    ({"keepalive_expiry": 10**400}, ValueError, "keepalive_expiry"),
    ({"keepalive_expiry": "5"}, TypeError, "keepalive_expiry"),
    ({"limits": 5}, TypeError, r"limits must be a httpx\.Limits or None, not 5"),
    ({"limits": httpx2.Limits()}, TypeError, "limits"),
    ({"limits": httpx.Limits(), "max_connections": 5}, ValueError, "give the one or the other"),
    ({"limits": httpx.Limits(max_connections=0)}, ValueError, "max_connections"),
    ({"limits": httpx.Limits(max_keepalive_connections=-1)}, ValueError, r"limits\.max_keepalive_connections"),
    ({"verify": 1}, TypeError, "verify"),
    ({"verify": None}, TypeError, "verify"),
    ({"http1": 1}, TypeError, "http1"),
    ({"http2": "yes"}, TypeError, "http2"),
    ({"http1": False}, ValueError, "http1 and http2 must not both be False"),
    ({"trust_env": None}, TypeError, "trust_env"),
    ({"proxy": 5}, TypeError, "proxy must be a URL"),
    ({"proxy": "nonsense"}, ValueError, "nonsense"),
    ({"proxy": "ftp://localhost"}, ValueError, "ftp"),
    ({"local_address": ""}, ValueError, "local_address"),
    ({"local_address": 5}, TypeError, "local_address"),
    ({"uds": b"/tmp/x"}, TypeError, "uds"),
    ({"socket_options": 5}, TypeError, "socket_options"),
    ({"socket_options": "abc"}, TypeError, "socket_options"),
    ({"socket_options": [(1, 2)]}, TypeError, r"socket_options .* \(1, 2\) in it"),
    ({"socket_options": [5]}, TypeError, "socket_options"),
    ({"retries": -1}, ValueError, "retries"),
    ({"retries": None}, TypeError, "retries"),
    ({"clock": 5}, TypeError, "clock"),
]


@pytest.mark.parametrize("options, kind, message", MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_an_error_that_names_it(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        resilience_httpx.PooledTransport(**options)


def test_what_is_allowed_is_taken() -> None:
    context = ssl.create_default_context()
    transport = resilience_httpx2.PooledTransport(
        max_connections=None,
        max_per_host=1,
        keepalive_expiry=timedelta(seconds=3),
        verify=context,
        socket_options=[(1, 2, 3)],
    )
    options = transport._options
    assert (options.max_connections, options.keepalive_expiry) == (None, 3.0)
    assert options.context is context
    assert options.socket_options == ((1, 2, 3),)
    assert "in use, 0 idle" in repr(transport)


def test_limits_of_the_library_are_honoured() -> None:
    limits = httpx.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=2.0)
    options = resilience_httpx.PooledTransport(limits=limits)._options
    assert (options.max_connections, options.max_idle, options.keepalive_expiry) == (7, 3, 2.0)
    options = resilience_httpx.PooledTransport(limits=httpx.Limits())._options
    assert (options.max_connections, options.max_idle, options.keepalive_expiry) == (None, None, 5.0)


def test_it_is_a_transport_of_its_library_for_both_colours() -> None:
    transport = resilience_httpx.PooledTransport(verify=False)
    assert isinstance(transport, httpx.BaseTransport)
    assert isinstance(transport, httpx.AsyncBaseTransport)
    successor = resilience_httpx2.PooledTransport(verify=False)
    assert isinstance(successor, httpx2.BaseTransport)
    assert isinstance(successor, httpx2.AsyncBaseTransport)
    assert not isinstance(successor, httpx.BaseTransport)


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_without_its_library_a_package_says_what_to_install(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = importlib.import_module(f"resilience_{library}")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=rf"resilience-patterns\[{library}\]"):
        importlib.reload(bound)
    monkeypatch.undo()
    importlib.reload(bound)


def test_the_libraries_are_imported_by_their_bindings_only() -> None:
    script = (
        "import sys, resilience_http._pooled, resilience_http._binding\n"
        "assert not {'httpx', 'httpx2', 'httpcore', 'httpcore2', 'h2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("mine, other", [LIBRARIES, LIBRARIES[::-1]], ids=lambda library: library.name)
def test_a_client_of_the_other_library_is_refused_before_anything_is_sent(mine: Library, other: Library) -> None:
    """It was sent, and then the client tripped over the response: an AssertionError without a word."""
    refusal = rf"for clients of {mine.name}, not for a {other.name} request"
    with ScriptedServer(keep_alive) as server:
        for transport in (mine.bound.PooledTransport(), mine.bound.ResilientTransport()):
            with other.client.Client(transport=transport) as client, pytest.raises(TypeError, match=refusal):
                client.get(server.url)

            async def main(transport: Any = transport) -> None:
                async with other.client.AsyncClient(transport=transport) as client:
                    with pytest.raises(TypeError, match=refusal):
                        await client.get(server.url)

            asyncio.run(main())
        assert server.accepted == 0
