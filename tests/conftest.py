"""Shared fixtures: virtual time, and one way to run a scenario in every colour of caller."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from resilience import Layer, events
from resilience.testing import ManualClock, VirtualLoop, use_clock

if TYPE_CHECKING:
    import trustme

    from .http_servers import Http, ScriptedServer

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("default")


class Colour:
    """Runs a scenario as plain calls or as coroutines in a virtual event loop, on the same manual clock."""

    def __init__(self, name: str, clock: ManualClock) -> None:
        self.name = name
        self.clock = clock
        self.is_async = name == "async"
        self._loop = VirtualLoop(clock) if self.is_async else None

    def guarded(self, layer: Layer, body: Callable[..., Any]) -> Callable[..., Any]:
        """`body`, a plain function, under `layer` in this colour, as something to call from the test."""
        return self.runner(layer(self.function(body)))

    def function(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """`body` as a function of this colour. It may call `colour.sleep(s)` and return what that returns."""
        if not self.is_async:
            return body

        @functools.wraps(body)
        async def coroutine_function(*args: Any, **kwargs: Any) -> Any:
            result = body(*args, **kwargs)
            return await result if asyncio.iscoroutine(result) else result

        return coroutine_function

    def runner(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` of this colour as a plain callable that returns its result or raises its error."""
        return (lambda *args, **kwargs: self.run(fn(*args, **kwargs))) if self.is_async else fn

    def run(self, result: Any) -> Any:
        """The outcome of a call of this colour."""
        if self._loop is None:
            return result
        return self._loop.run_until_complete(asyncio.ensure_future(result, loop=self._loop))

    def sleep(self, seconds: float, result: Any = None) -> Any:
        """Let `seconds` pass on the clock, then return `result`: for use as the last expression of a body."""
        if not self.is_async:
            self.clock.sleep(seconds)
            return result

        async def nap() -> Any:
            await self.clock.asleep(seconds)
            return result

        return nap()

    def enter(self, manager: Any) -> Any:
        """Enter a guard in this colour."""
        return self.run(manager.__aenter__()) if self.is_async else manager.__enter__()

    def exit(self, manager: Any, error: BaseException | None = None) -> Any:
        """Leave a guard in this colour, with `error` or without."""
        kind = None if error is None else type(error)
        return self.run(manager.__aexit__(kind, error, None)) if self.is_async else manager.__exit__(kind, error, None)

    def close(self) -> None:
        if self._loop is not None:
            tasks = asyncio.all_tasks(self._loop)  # what a store sends in the background
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    """A manual clock that stands behind every policy during the test. It starts at 1000 s."""
    manual = ManualClock(1000.0)
    with use_clock(manual):
        yield manual


@pytest.fixture(params=["sync", "async"])
def colour(request: pytest.FixtureRequest, clock: ManualClock) -> Iterator[Colour]:
    """Every scenario that is not about a colour runs in both."""
    colour = Colour(request.param, clock)
    yield colour
    colour.close()


@pytest.fixture(scope="session")
def redis_for_answers() -> Iterator[Any]:
    """A server that all tests share; each uses a prefix of its own."""
    from tests import redis_server as servers

    server = servers.start()
    yield server
    server.close()


@pytest.fixture
def redis_server() -> Iterator[Any]:
    """A real server of this test alone, to pause and to kill."""
    from tests import redis_server as servers

    server = servers.start()
    if not server.faults:
        server.close()
        pytest.skip("redis-server is not installed, and fakeredis cannot be paused or killed")
    yield server
    server.close()


@pytest.fixture(
    params=[(library, colour) for library in ("httpx", "httpx2") for colour in ("sync", "async")], ids="-".join
)
def http(request: pytest.FixtureRequest) -> Iterator[Http]:
    """Each client library, in each colour."""
    from .http_servers import LIBRARIES, Http  # not for every test of a bulkhead

    name, colour = request.param
    http = Http(next(library for library in LIBRARIES if library.name == name), colour)
    yield http
    http.end()


@pytest.fixture(scope="session")
def uvicorn() -> Iterator[str]:
    """The address of a real server."""
    from .http_servers import uvicorn_server

    with uvicorn_server() as url:
        yield url


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the certificates of the tests."""
    import trustme

    return trustme.CA()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server that counts its connections and answers with the path."""
    from .http_servers import ScriptedServer, keep_alive

    with ScriptedServer(keep_alive) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A test leaves no subscriber and no context variable behind."""
    before = _our_variables()
    yield
    assert events.SUBSCRIBERS == []
    assert _our_variables() == before


@pytest.fixture(autouse=True)
def taken_over() -> Iterator[list[str]]:
    """What was said of locks that were not given back; tests in which that is meant to happen clear the list.

    A policy takes such a lock over after some seconds, so a deadlock would else go by as a slow test.
    """
    said: list[str] = []
    watch = _Watch(said)
    logger = logging.getLogger("resilience")
    logger.addHandler(watch)
    yield said
    logger.removeHandler(watch)
    assert said == []


class _Watch(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        if "taken over" in record.msg:
            self._said.append(record.getMessage())


def _our_variables() -> dict[contextvars.ContextVar[Any], Any]:
    """Those that hold something; set back to None is as good as never set."""
    return {
        variable: value
        for variable, value in contextvars.copy_context().items()
        if variable.name.startswith("resilience_") and value is not None
    }


def pytest_collection_finish() -> None:
    """What is loaded by now stays: without having to look at all of it, the many collections in the tests are quick."""
    gc.collect()
    gc.freeze()
